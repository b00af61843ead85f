//! What a store holds that is nowhere else: queued operations and settled losers (I20). A plan that removes much reads
//! them as of its commit, so that nothing can slip in between a look and the removal.

use std::sync::Arc;

use crate::{
    row::SettledLoser,
    store::{Clear, OperationsRequest, QueuedOperation, Store, StoreError},
};

/// How many one read of the store brings.
const CHUNK: usize = 1_000;

/// Every queued operation of an account or of one of its tables, in the order of their places.
pub(crate) async fn queue(store: &dyn Store, what: &Clear) -> Result<Vec<QueuedOperation>, StoreError> {
    let tables = what.table.as_ref().map(|table| vec![Arc::clone(table)]);
    let mut request = OperationsRequest { account: Arc::clone(&what.account), tables, after: 0, limit: CHUNK };
    let mut all = Vec::new();
    loop {
        let page = store.operations(&request).await?;
        let Some(last) = page.last() else { return Ok(all) };
        request.after = last.operation.place;
        all.extend(page);
    }
}

/// Every settled loser of an account, oldest first.
pub(crate) async fn losers(store: &dyn Store, account: &str) -> Result<Vec<SettledLoser>, StoreError> {
    let mut all: Vec<SettledLoser> = Vec::new();
    loop {
        let page = store.losers(account, all.last().map(|loser| loser.id), CHUNK).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}
