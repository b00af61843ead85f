//! Indexes that an app has added, changed or dropped since its last release: the rows of the table are written again when the
//! store opens, page by page in the order of their ids.
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
    store::{Direction, Indexed, OperationsRequest, Outdated, ScanRequest, Store, TableSpec},
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
    let mut requests: Vec<ScanRequest> = account::all(store).await?.iter().map(of).collect();
    let mut total = 0;
    for request in &requests {
        total += store.count(request).await?;
    }
    if let (Some(done), Some(last)) = (&outdated.done, requests.last_mut()) {
        // Where it goes on is noted in the last account only: those before it are done.
        last.ranges = vec![(Bound::Excluded(done.as_bytes().to_vec()), Bound::Unbounded)];
        requests.drain(..requests.len() - 1);
    }
    let mut left = 0;
    for request in &requests {
        left += store.count(request).await?;
    }
    let mut done = total - left.min(total);
    let tell = |done| told.tell(OpeningWork::Indexes, &spec.table, done, total);
    tell(done);
    let accounts = requests.len();
    for (place, mut request) in requests.into_iter().enumerate() {
        let last = place + 1 == accounts;
        queued(store, committer, spec, &request.account).await?;
        loop {
            let page = store.scan(&request).await?;
            done += page.records.len() as u64;
            let key = |id| RowKey { account: Arc::clone(&request.account), table: Arc::clone(&spec.table), id };
            let rows: Vec<RowKey> = page.records.into_iter().map(|(id, _)| key(id)).collect();
            let up_to = page.next.as_ref().map(|next| Arc::clone(&next.id));
            let (keys, indexed) = (rows.clone(), last.then(|| Indexed { spec: spec.clone(), done: up_to }));
            let plan = move |tx: &mut Tx<'_>| {
                for key in &keys {
                    if let Some(row) = tx.row(key)? {
                        tx.put(key, row);
                    }
                }
                if let Some(indexed) = &indexed {
                    tx.indexed(indexed.clone());
                }
                Ok(())
            };
            committer.commit(Reads::rows(rows), plan).await?;
            tell(done);
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
    }
    Ok(())
}

/// Rows whose deletion is queued have no record, and so no scan shows them; their parents must find them all the same.
async fn queued(store: &dyn Store, committer: &Committer, spec: &TableSpec, account: &Arc<str>) -> Result<(), Error> {
    let (account, tables) = (Arc::clone(account), Some(vec![Arc::clone(&spec.table)]));
    let mut request = OperationsRequest { account, tables, after: 0, limit: PAGE };
    loop {
        let page = store.operations(&request).await?;
        let Some(last) = page.last() else { return Ok(()) };
        request.after = last.operation.place;
        let rows: Vec<RowKey> = page.into_iter().map(|queued| queued.key).collect();
        let keys = rows.clone();
        let plan = move |tx: &mut Tx<'_>| {
            for key in &keys {
                if let Some(row) = tx.row(key)? {
                    tx.put(key, row);
                }
            }
            Ok(())
        };
        committer.commit(Reads::rows(rows), plan).await?;
    }
}
