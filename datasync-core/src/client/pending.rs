//! The operations queue as an app sees it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    client::DatasyncClient,
    engine::{
        committer::{Reads, Tx},
        unsent,
    },
    error::{Error, ErrorKind},
    row::{Hold, Operation, OperationKind, ParkReason, Row, RowKey, SettledLoser},
    store::{Clear, QueuedOperation},
};

/// A change that is queued and not known to be on the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingChange {
    /// The table.
    pub table: Arc<str>,
    /// The row.
    pub id: Arc<str>,
    /// What will be sent.
    pub kind: OperationKind,
    /// Why it is still here.
    pub state: PendingState,
    /// Whether an attempt was made whose outcome is not known.
    pub in_doubt: bool,
}

/// Why a change is still in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PendingState {
    /// The next push sends it.
    Ready,
    /// An attempt failed; it is sent again after this time, or at the next explicit push.
    Waiting(Timestamp),
    /// Both sides changed the row: see [`DatasyncClient::conflicts`].
    Conflict(String),
    /// The service refused it, or failed at it too often: edit the row, retry or discard.
    Parked(String),
    /// The service has refused the sign-in of the account: it is sent after the next
    /// [`sign_in`](DatasyncClient::sign_in), or by an explicit push.
    Paused,
    /// An unsent body that lost a conflict, kept as a settled loser.
    Loser,
}

impl PendingChange {
    pub(crate) fn of(key: &RowKey, operation: &Operation) -> PendingChange {
        let state = match &operation.hold {
            Hold::Ready => PendingState::Ready,
            Hold::Wait { since, length, .. } => {
                PendingState::Waiting(since.checked_add(*length).unwrap_or(Timestamp::MAX))
            }
            Hold::Parked(parked) if parked.reason == ParkReason::Conflict => {
                PendingState::Conflict(parked.message.clone())
            }
            Hold::Parked(parked) => PendingState::Parked(parked.message.clone()),
        };
        PendingChange {
            table: Arc::clone(&key.table),
            id: Arc::clone(&key.id),
            kind: operation.kind,
            state,
            in_doubt: operation.in_doubt(),
        }
    }

    pub(crate) fn of_loser(loser: &SettledLoser) -> PendingChange {
        PendingChange {
            table: Arc::clone(&loser.key.table),
            id: Arc::clone(&loser.key.id),
            kind: OperationKind::Replace,
            state: PendingState::Loser,
            in_doubt: false,
        }
    }

    /// As it is while the sign-in of its account is refused.
    fn paused(mut self) -> PendingChange {
        if matches!(self.state, PendingState::Ready | PendingState::Waiting(_)) {
            self.state = PendingState::Paused;
        }
        self
    }
}

impl DatasyncClient {
    /// Every change that is queued, in the order of its place.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn pending(&self) -> Result<Vec<PendingChange>, Error> {
        let account = self.engine.account();
        let paused = self.engine.paused(&account).await?.is_some();
        let queued = unsent::queue(&*self.engine.store, &Clear { account, table: None }).await?;
        let change = |queued: &QueuedOperation| PendingChange::of(&queued.key, &queued.operation);
        Ok(queued.iter().map(change).map(|change| if paused { change.paused() } else { change }).collect())
    }

    /// Makes the parked or waiting change of a row ready again; the next push sends it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if nothing is queued for the row; [`ErrorKind::ConflictChanged`] if it is a conflict:
    /// use [`resolve`](DatasyncClient::resolve).
    pub async fn retry(&self, table: &str, id: &str) -> Result<(), Error> {
        let key = self.pending_key(table, id)?;
        let reads = Reads::row(key.clone());
        let plan = move |tx: &mut Tx<'_>| {
            let mut row = queued_row(tx, &key)?;
            if matches!(&row.operations[0].hold, Hold::Parked(parked) if parked.reason == ParkReason::Conflict) {
                return Err(Error::conflict_changed(&format!("{key:?} is a conflict: resolve it"), None));
            }
            row.operations[0].hold = Hold::Ready;
            row.operations[0].attempts = 0;
            row.revision += 1;
            tx.put(&key, row);
            Ok(())
        };
        self.engine.committer.commit(reads, plan).await
    }

    pub(crate) fn pending_key(&self, table: &str, id: &str) -> Result<RowKey, Error> {
        Ok(self.engine.key(self.engine.tables.get(table)?, id))
    }
}

pub(crate) fn queued_row(tx: &Tx<'_>, key: &RowKey) -> Result<Row, Error> {
    match tx.row(key)? {
        Some(row) if row.quarantine.is_some() => Err(Error::quarantined(key)),
        Some(row) if !row.operations.is_empty() => Ok(row),
        _ => Err(Error::new(ErrorKind::NotFound, format!("nothing is queued for {key:?}"))),
    }
}
