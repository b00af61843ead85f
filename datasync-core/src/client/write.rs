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
        change::{Applied, Change},
        committer::{Reads, Tx},
        table::Table,
    },
    error::{Context, Error, SyncPhase},
    row::{Body, Record, RowKey},
};

/// How a change is applied to its row.
pub(crate) type Apply = fn(&mut Tx<'_>, &Table, &RowKey, &Change) -> Result<Applied, Error>;

/// A change that was queued, and the row as it is stored.
pub(crate) type Stored = (Queued, Option<Record>);

/// The error of a write that has not become a change.
pub(crate) fn refused(error: Error, table: &Table, change: fn(Body) -> Change) -> Error {
    let kind = change(Body::from(Vec::new())).kind();
    error.of(&table.name).doing(kind).during(SyncPhase::Write)
}

/// Writes one row.
pub(crate) async fn one(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    (key, change): (RowKey, Change),
    apply: Apply,
) -> Result<Stored, Error> {
    let (held, kind) = (engine.committer.acks().hold(), change.kind());
    let (table, written) = (Arc::clone(table), key.clone());
    let plan = move |tx: &mut Tx<'_>| apply(tx, &table, &written, &change);
    let applied = engine.committer.commit(Reads::row(key.clone()), plan).await;
    let applied = applied.map_err(|error| error.at(&key.table, &key.id).doing(kind).during(SyncPhase::Write))?;
    Ok((Queued::new(engine, key, applied.queued, &held), applied.record))
}

/// Writes many rows of a table: all of them or none.
pub(crate) async fn all(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    changes: Vec<(RowKey, Change)>,
    apply: Apply,
) -> Result<Vec<Stored>, Error> {
    let held = engine.committer.acks().hold();
    let kind = changes.first().map(|(_, change)| change.kind());
    let rows: Vec<RowKey> = changes.iter().map(|(key, _)| key.clone()).collect();
    let (table, name) = (Arc::clone(table), Arc::clone(&table.name));
    let plan = move |tx: &mut Tx<'_>| {
        let each = |(key, change): &(RowKey, Change)| apply(tx, &table, key, change);
        changes.iter().map(each).collect::<Result<Vec<_>, _>>()
    };
    let applied = engine.committer.commit(Reads::rows(rows.clone()), plan).await;
    let applied = applied.of(&name).during(SyncPhase::Write);
    let applied = applied.map_err(|error| kind.into_iter().fold(error, Error::doing))?;
    let stored = |(key, applied): (RowKey, Applied)| (Queued::new(engine, key, applied.queued, &held), applied.record);
    Ok(rows.into_iter().zip(applied).map(stored).collect())
}
