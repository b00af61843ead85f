//! Indexes that an app has added, changed or dropped since its last release: the rows of the table are written again when the
//! store opens, page by page in the order of accounts and ids; those without a record too, which have entries of their own.
//!
//! | the process dies, or the future is dropped … | what is left |
//! | --- | --- |
//! | before the commit of a page | the rows up to the last page carry the keys; the next start goes on behind them |
//! | after the last one | the table is done, and nothing is left of dropped indexes |
//! | and the next start wants other indexes | what is done says nothing of those: it begins again |
//!
//! Nobody else writes meanwhile: the client is not made yet.

use std::{ops::Bound, sync::Arc};

use crate::{
    client::progress::{OpeningWork, Told},
    engine::{
        account,
        committer::{Committer, Reads, Tx},
    },
    error::Error,
    row::RowKey,
    store::{Direction, Indexed, KeysRequest, Outdated, ScanRequest, Store, TableSpec},
};

/// How many rows one commit indexes again.
const PAGE: usize = 1_000;

pub(super) async fn reindex(
    store: &dyn Store,
    committer: &Committer,
    outdated: &Outdated,
    spec: &TableSpec,
    told: &Told,
) -> Result<(), Error> {
    let of = |account: &Arc<str>| ScanRequest {
        account: Arc::clone(account),
        table: Arc::clone(&spec.table),
        index: None,
        ranges: vec![(Bound::Unbounded, Bound::Unbounded)],
        direction: Direction::Forward,
        after: None,
        limit: PAGE,
        filter: None,
    };
    let accounts = account::all(store).await?;
    let mut total = 0;
    for account in &accounts {
        total += store.count(&of(account)).await?;
    }
    // How far it is is noted in the last account only: those before it are done.
    let last = accounts.last().cloned().unwrap_or_default();
    let (mut done, mut after) = (0, None);
    if let Some(id) = &outdated.done {
        let ranges = vec![(Bound::Excluded(id.as_bytes().to_vec()), Bound::Unbounded)];
        done = total - store.count(&ScanRequest { ranges, ..of(&last) }).await?.min(total);
        after = Some(RowKey { account: Arc::clone(&last), table: Arc::clone(&spec.table), id: Arc::clone(id) });
    }
    let tell = |done| told.tell(OpeningWork::Indexes, &spec.table, done, total);
    tell(done);
    let mut request = KeysRequest { table: Arc::clone(&spec.table), after, limit: PAGE };
    loop {
        let rows = store.keys(&request).await?;
        let whole = rows.len() < PAGE;
        let up_to = rows.last().filter(|key| key.account == last).map(|key| Arc::clone(&key.id));
        let noted = whole || up_to.is_some();
        let indexed = noted.then(|| Indexed { spec: spec.clone(), done: up_to.filter(|_| !whole) });
        request.after = rows.last().cloned();
        let keys = rows.clone();
        let plan = move |tx: &mut Tx<'_>| {
            let mut records = 0;
            for key in &keys {
                if let Some(row) = tx.row(key)? {
                    records += u64::from(row.record.is_some());
                    tx.put(key, row);
                }
            }
            if let Some(indexed) = &indexed {
                tx.indexed(indexed.clone());
            }
            Ok(records)
        };
        done += committer.commit(Reads::rows(rows), plan).await?;
        tell(done);
        if whole {
            return Ok(());
        }
    }
}
