//! Local writes: each is one commit of the rows with their queued operations (I1).
//!
//! | the process dies, or the future is dropped … | what is left |
//! | --- | --- |
//! | before or during the commit | all rows with their operations, or nothing |
//! | after it | all rows with their operations |

use std::sync::Arc;

use crate::{
    client::acked::Queued,
    engine::{
        Engine,
        change::Change,
        committer::{Reads, Tx},
        table::Table,
    },
    error::{Error, SyncPhase},
    row::RowKey,
};

/// How a change is applied to its row.
pub(crate) type Apply = fn(&mut Tx<'_>, &Table, &RowKey, &Change) -> Result<Option<u64>, Error>;

/// Writes one row.
pub(crate) async fn one(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    (key, change): (RowKey, Change),
    apply: Apply,
) -> Result<Queued, Error> {
    let held = engine.committer.acks().hold();
    let (table, written) = (Arc::clone(table), key.clone());
    let plan = move |tx: &mut Tx<'_>| apply(tx, &table, &written, &change);
    let place = engine.committer.commit(Reads::row(key.clone()), plan).await;
    let place = place.map_err(|error| error.at(&key.table, &key.id).during(SyncPhase::Write))?;
    Ok(Queued::new(engine, key, place, &held))
}

/// Writes many rows of a table: all of them or none.
pub(crate) async fn all(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    changes: Vec<(RowKey, Change)>,
    apply: Apply,
) -> Result<Vec<Queued>, Error> {
    let held = engine.committer.acks().hold();
    let rows: Vec<RowKey> = changes.iter().map(|(key, _)| key.clone()).collect();
    let (table, name) = (Arc::clone(table), Arc::clone(&table.name));
    let plan = move |tx: &mut Tx<'_>| {
        let each = |(key, change): &(RowKey, Change)| apply(tx, &table, key, change);
        changes.iter().map(each).collect::<Result<Vec<_>, _>>()
    };
    let places = engine.committer.commit(Reads::rows(rows.clone()), plan).await;
    let places = places.map_err(|error| error.of(&name).during(SyncPhase::Write))?;
    Ok(rows.into_iter().zip(places).map(|(key, place)| Queued::new(engine, key, place, &held)).collect())
}
