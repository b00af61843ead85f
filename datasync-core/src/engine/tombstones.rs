//! Own tombstones: what is left of rows whose deletion this device has pushed. An insert that meets the deletion at the service
//! is then an undelete and no conflict. A page that shows the deletion removes them, or the end of the service's tombstone
//! period: from then on the service has no trace of the row either.
//!
//! Each has an entry in an index by the time of the deletion, so that the old ones are found without a look at the others.

use std::{ops::Bound, sync::Arc};

use jiff::Timestamp;

use crate::{
    engine::{
        Engine,
        committer::{Reads, Tx},
    },
    error::Error,
    row::{Row, RowKey},
    store::{Cursor, Direction, KeyBytes, ScanRequest},
};

/// The index; the text of one that an app declares has brackets.
pub(crate) const INDEX: &str = "tombstones";
/// How many are removed in one commit.
const PAGE: usize = 1_000;

/// The entry of a row that is one.
pub(crate) fn index_key(row: &Row) -> Option<(Arc<str>, KeyBytes)> {
    row.tombstone.as_ref().map(|tombstone| (INDEX.into(), ordered(tombstone.since)))
}

/// Bytes in the order of time.
fn ordered(time: Timestamp) -> KeyBytes {
    (time.as_millisecond() ^ i64::MIN).to_be_bytes().to_vec()
}

/// Removes those of a table that are as old as the service's tombstone period. Each commit leaves fewer of them, so that one
/// that is cut goes on with the next.
pub(crate) async fn expire(engine: &Engine, account: &Arc<str>, table: &Arc<str>) -> Result<(), Error> {
    let Ok(limit) = engine.clock.now().checked_sub(engine.service.tombstone_period()) else { return Ok(()) };
    let last = ordered(limit);
    let old = ScanRequest {
        account: Arc::clone(account),
        table: Arc::clone(table),
        index: Some(INDEX.into()),
        ranges: vec![(Bound::Unbounded, Bound::Included(last.clone()))],
        direction: Direction::Forward,
        after: None,
        limit: PAGE,
        filter: None,
    };
    loop {
        let entries = engine.store.entries(&old).await?;
        if entries.is_empty() {
            return Ok(());
        }
        let key = |entry: Cursor| RowKey { account: Arc::clone(account), table: Arc::clone(table), id: entry.id };
        let rows: Vec<RowKey> = entries.into_iter().map(key).collect();
        let (keys, last) = (rows.clone(), last.clone());
        let plan = move |tx: &mut Tx<'_>| {
            for key in &keys {
                let Some(mut row) = tx.row(key)? else { continue };
                if row.tombstone.take_if(|tombstone| ordered(tombstone.since) <= last).is_some() {
                    row.revision += 1;
                    tx.put(key, row);
                }
            }
            Ok(())
        };
        engine.committer.commit(Reads::rows(rows), plan).await?;
    }
}
