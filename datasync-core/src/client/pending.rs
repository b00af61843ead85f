//! The operations queue as an app sees it.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use crate::{
    client::{Conflict, DatasyncClient, Tables},
    engine::{
        self, Engine,
        committer::{Reads, Tx},
        journal::{self, JournalStep},
        links,
    },
    error::{Context, Error, ErrorKind, SyncPhase},
    row::{Hold, Operation, OperationKind, ParkReason, Row, RowKey, SettledLoser},
    store::{OperationsRequest, QueuedOperation},
};

/// How many operations one read of the store brings, and one commit changes.
const CHUNK: usize = 1_000;

/// A change that is queued and not known to be on the service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
    /// Its place in the queue: smaller is earlier. 0 for a settled loser.
    pub place: u64,
    /// How many attempts have ended without a final answer.
    pub attempts: u32,
    /// The class of the reason, if it waits for somebody.
    pub reason: Option<ParkReason>,
    /// The status of the service's answer, if it waits for somebody because of one.
    pub status: Option<u16>,
    /// When the app last changed it, in the service's time as far as it was known.
    pub edited: Option<Timestamp>,
}

/// Why a change is still in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PendingState {
    /// The next push sends it.
    Ready,
    /// An attempt failed; it is sent again after this time, or at the next explicit push.
    Waiting(Timestamp),
    /// The service has asked not to be sent it before this time (`Retry-After`): an explicit push does not either.
    Throttled(Timestamp),
    /// It goes after the change that this row has queued: a row that it belongs to or that belongs to it, or an earlier
    /// change of the row itself.
    Blocked {
        /// The table of that row.
        table: Arc<str>,
        /// Its id.
        id: Arc<str>,
    },
    /// Both sides changed the row: see [`DatasyncClient::conflicts`].
    Conflict(String),
    /// The service refused it, or failed at it too often: edit the row, retry or discard.
    Parked(String),
    /// The service has refused the sign-in of the account: it is sent after the next
    /// [`sign_in`](DatasyncClient::sign_in), or by an explicit push.
    Paused,
    /// This release of the app has no such table: it is sent when one that has it opens the store, unless it is discarded.
    /// [`export`](DatasyncClient::export) shows it.
    UnknownTable,
    /// An unsent body that lost a conflict, kept as a settled loser.
    Loser,
}

impl PendingChange {
    pub(crate) fn of(key: &RowKey, operation: &Operation) -> PendingChange {
        let parked = match &operation.hold {
            Hold::Parked(parked) => Some(parked),
            _ => None,
        };
        let state = match &operation.hold {
            Hold::Ready => PendingState::Ready,
            Hold::Wait { since, length, demanded } => {
                let until = since.checked_add(*length).unwrap_or(Timestamp::MAX);
                if *demanded { PendingState::Throttled(until) } else { PendingState::Waiting(until) }
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
            place: operation.place,
            attempts: operation.attempts,
            reason: parked.map(|parked| parked.reason),
            status: parked.and_then(|parked| parked.status),
            edited: operation.edited,
        }
    }

    pub(crate) fn of_loser(loser: &SettledLoser) -> PendingChange {
        PendingChange {
            table: Arc::clone(&loser.key.table),
            id: Arc::clone(&loser.key.id),
            kind: OperationKind::Replace,
            state: PendingState::Loser,
            in_doubt: false,
            place: 0,
            attempts: 0,
            reason: None,
            status: None,
            edited: None,
        }
    }

    fn moves_by_itself(&self) -> bool {
        matches!(self.state, PendingState::Ready | PendingState::Waiting(_) | PendingState::Throttled(_))
    }
}

/// Which part of the queue to list; all of it by default.
#[derive(Clone, Debug)]
#[must_use]
pub struct PendingRequest {
    tables: Tables,
    parked: bool,
    after: u64,
    limit: usize,
}

impl Default for PendingRequest {
    fn default() -> Self {
        PendingRequest { tables: Tables::all(), parked: false, after: 0, limit: 100 }
    }
}

impl PendingRequest {
    /// Every queued change.
    pub fn new() -> PendingRequest {
        PendingRequest::default()
    }

    /// Only the changes that wait for somebody: conflicts, and what was refused, given up, or has lost its parent or its table.
    pub fn parked(mut self) -> PendingRequest {
        self.parked = true;
        self
    }

    /// Only those of these tables.
    pub fn tables(mut self, tables: impl Into<Tables>) -> PendingRequest {
        self.tables = tables.into();
        self
    }

    /// Only those behind this place: [`PendingPage::next`] of the page before.
    pub fn after(mut self, place: u64) -> PendingRequest {
        self.after = place;
        self
    }

    /// At most so many; 100 by default, at least 1.
    pub fn limit(mut self, changes: usize) -> PendingRequest {
        self.limit = changes.max(1);
        self
    }
}

/// A part of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingPage {
    /// The changes, in the order of their places.
    pub changes: Vec<PendingChange>,
    /// Where the next page goes on; `None` if this is the last one.
    pub next: Option<u64>,
}

fn is_parked(tables: &engine::table::Tables, queued: &QueuedOperation) -> bool {
    matches!(queued.operation.hold, Hold::Parked(_)) || !tables.has(&queued.key)
}

impl DatasyncClient {
    /// Every change that is queued, in the order of its place. A long queue is better read in pages, with
    /// [`pending_page`](DatasyncClient::pending_page).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn pending(&self) -> Result<Vec<PendingChange>, Error> {
        let mut all = Vec::new();
        let mut request = PendingRequest::new().limit(CHUNK);
        loop {
            let page = self.pending_page(request.clone()).await?;
            all.extend(page.changes);
            match page.next {
                Some(next) => request = request.after(next),
                None => return Ok(all),
            }
        }
    }

    /// A part of what is queued.
    ///
    /// ```
    /// # use datasync_core::{client::{DatasyncClient, PendingRequest}, error::Error};
    /// # async fn example(client: DatasyncClient) -> Result<(), Error> {
    /// let page = client.pending_page(PendingRequest::new().parked().limit(20)).await?;
    /// for change in page.changes {
    ///     println!("{} {}/{}: {:?}", change.kind, change.table, change.id, change.state);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownTable`], [`ErrorKind::Store`].
    pub async fn pending_page(&self, request: PendingRequest) -> Result<PendingPage, Error> {
        self.page_of(request).await.during(SyncPhase::Read)
    }

    async fn page_of(&self, request: PendingRequest) -> Result<PendingPage, Error> {
        let account = self.engine.account();
        let paused = self.engine.paused(&account).await?.is_some();
        let PendingRequest { tables, parked, after, limit } = request;
        let mut operations = OperationsRequest { account, tables: self.known(tables)?, after, limit: limit.max(CHUNK) };
        let mut found: Vec<QueuedOperation> = Vec::new();
        let next = loop {
            let mut read = self.engine.store.operations(&operations).await?;
            let Some(last) = read.last().map(|last| last.operation.place) else { break None };
            operations.after = last;
            if parked {
                read.retain(|queued| is_parked(&self.engine.tables, queued));
            }
            found.extend(read);
            if found.len() > limit {
                found.truncate(limit);
                break found.last().map(|last| last.operation.place);
            }
        };
        let mut changes = states(&self.engine, &found).await?;
        if paused {
            pause(&mut changes);
        }
        Ok(PendingPage { changes, next })
    }

    /// Makes the parked or waiting change of a row ready again; the next push sends it. One whose outcome is not known is
    /// sent with the same key and content as before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if nothing is queued for the row, [`ErrorKind::UnknownTable`]; [`ErrorKind::Conflict`] if it waits
    /// in a conflict, which [`Error::conflict`] has: use [`resolve`](DatasyncClient::resolve); [`ErrorKind::Quarantined`],
    /// [`ErrorKind::Store`].
    pub async fn retry(&self, table: &str, id: &str) -> Result<(), Error> {
        let key = self.pending_key(table, id).at(table, id).during(SyncPhase::Decide)?;
        let (reads, tables) = (Reads::row(key.clone()), Arc::clone(&self.engine.tables));
        let plan = move |tx: &mut Tx<'_>| {
            let mut row = queued_row(tx, &key)?;
            if let Some(conflict) = Conflict::of(&tables, &key, &row) {
                let message = format!("the change of {key:?} waits in a conflict: resolve it");
                return Err(Error::with_conflict(ErrorKind::Conflict, message, Some(conflict)));
            }
            make_ready(&mut row);
            tx.put(&key, row);
            journal::note_rows(tx, [(&key, JournalStep::Retried, None)]);
            Ok(())
        };
        self.engine.committer.commit(reads, plan).await.at(table, id).during(SyncPhase::Decide)
    }

    /// Makes every parked or waiting change of these tables ready again, but for conflicts and what could not be migrated; of
    /// all tables: of those that this release has.
    /// Returns how many there were; if the future is dropped some of them are ready and the others as before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownTable`], [`ErrorKind::Store`].
    pub async fn retry_all(&self, tables: impl Into<Tables>) -> Result<u64, Error> {
        self.retry_queue(tables.into()).await.during(SyncPhase::Decide)
    }

    async fn retry_queue(&self, tables: Tables) -> Result<u64, Error> {
        let (account, tables) = (self.engine.account(), self.known(tables)?);
        let mut request = OperationsRequest { account, tables, after: 0, limit: CHUNK };
        let mut retried = 0;
        loop {
            let queued = self.engine.store.operations(&request).await?;
            let Some(last) = queued.last() else { return Ok(retried) };
            request.after = last.operation.place;
            let known = |queued: &QueuedOperation| self.engine.tables.has(&queued.key);
            let held = queued.into_iter().filter(|queued| known(queued) && may_retry(&queued.operation));
            let keys: Vec<RowKey> = held.map(|queued| queued.key).collect();
            if keys.is_empty() {
                continue;
            }
            let reads = Reads::rows(keys.clone());
            let plan = move |tx: &mut Tx<'_>| {
                let mut retried = Vec::new();
                for key in &keys {
                    let Some(mut row) = tx.row(key)? else { continue };
                    if row.operations.first().is_some_and(may_retry) {
                        make_ready(&mut row);
                        tx.put(key, row);
                        retried.push((key, JournalStep::Retried, None));
                    }
                }
                let count = retried.len() as u64;
                journal::note_rows(tx, retried);
                Ok(count)
            };
            retried += self.engine.committer.commit(reads, plan).await?;
        }
    }

    pub(crate) fn pending_key(&self, table: &str, id: &str) -> Result<RowKey, Error> {
        Ok(self.engine.key(self.engine.tables.get(table)?, id))
    }

    /// The row of a table that this release may no longer have.
    pub(crate) fn kept_key(&self, table: &str, id: &str) -> RowKey {
        RowKey { account: self.engine.account(), table: table.into(), id: id.into() }
    }

    fn known(&self, Tables(names): Tables) -> Result<Option<Vec<Arc<str>>>, Error> {
        let of = |name: Arc<str>| self.engine.tables.get(&name).map(|table| Arc::clone(&table.name));
        names.map(|names| names.into_iter().map(of).collect()).transpose()
    }
}

fn may_retry(operation: &Operation) -> bool {
    match &operation.hold {
        Hold::Ready => false,
        Hold::Wait { .. } => true,
        Hold::Parked(parked) => !matches!(parked.reason, ParkReason::Conflict | ParkReason::Quarantined),
    }
}

fn make_ready(row: &mut Row) {
    row.operations[0].hold = Hold::Ready;
    row.operations[0].attempts = 0;
    row.revision += 1;
}

/// The states of those whose tables this release does not have.
pub(super) fn strand(changes: &mut [PendingChange], tables: &engine::table::Tables) {
    for change in changes.iter_mut().filter(|change| !tables.0.contains_key(&change.table)) {
        change.state = PendingState::UnknownTable;
    }
}

/// Their states while the sign-in of their account is refused.
pub(crate) fn pause(changes: &mut [PendingChange]) {
    for change in changes.iter_mut().filter(|change| change.moves_by_itself()) {
        change.state = PendingState::Paused;
    }
}

/// The changes with their states; one that could be sent and must go after another is blocked by it.
pub(crate) async fn states(engine: &Engine, queued: &[QueuedOperation]) -> Result<Vec<PendingChange>, Error> {
    let mut changes: Vec<PendingChange> =
        queued.iter().map(|queued| PendingChange::of(&queued.key, &queued.operation)).collect();
    let keys: BTreeSet<&RowKey> = queued.iter().map(|queued| &queued.key).collect();
    let keys: Vec<RowKey> = keys.into_iter().cloned().collect();
    for part in keys.chunks(CHUNK) {
        for (key, row) in part.iter().zip(engine.store.get(part).await?) {
            let Some([first, second]) = row.as_ref().and_then(|row| row.operations.first_chunk()) else { continue };
            let behind = |change: &&mut PendingChange| change.place == second.place && first.place != second.place;
            if let Some(change) = changes.iter_mut().find(behind) {
                change.state = PendingState::Blocked { table: Arc::clone(&key.table), id: Arc::clone(&key.id) };
            }
        }
    }
    let operations: Vec<(RowKey, Operation)> =
        queued.iter().map(|queued| (queued.key.clone(), queued.operation.clone())).collect();
    let judged = links::judge(engine, &operations).await?;
    let blockers = judged.into_iter().map(|judged| judged.blocker);
    for (change, blocker) in changes.iter_mut().zip(blockers) {
        if let (Some(RowKey { table, id, .. }), true) = (blocker, change.moves_by_itself()) {
            change.state = PendingState::Blocked { table, id };
        }
    }
    strand(&mut changes, &engine.tables);
    Ok(changes)
}

pub(crate) fn queued_row(tx: &Tx<'_>, key: &RowKey) -> Result<Row, Error> {
    let error = match tx.row(key)? {
        Some(row) if row.quarantine.is_some() => Error::quarantined(key),
        Some(row) if !row.operations.is_empty() => return Ok(row),
        _ => Error::new(ErrorKind::NotFound, format!("nothing is queued for {key:?}")),
    };
    Err(error.at(&key.table, &key.id).during(SyncPhase::Decide))
}
