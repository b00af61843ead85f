//! Conflicts that wait for a person: a durable inbox.

use std::{collections::VecDeque, fmt, sync::Arc};

use futures::{
    StreamExt,
    stream::{BoxStream, unfold},
};

use crate::{
    client::{
        DatasyncClient,
        resolver::{Resolution, outcome, service_kind},
        row_type::{MergedWith, RowType},
    },
    engine::{
        Engine, account,
        committer::{Reads, Tx},
        conflict::{Settled, finish},
        journal::{self, JournalStep},
        links,
        table::Tables,
        watch::Inbox,
    },
    error::{Context, Error, ErrorKind, SyncPhase},
    row::{Hold, OperationKind, ParkReason, Record, Row, RowKey, ServiceCopy},
    schema::TableSchema,
    store::OperationsRequest,
};

/// How many conflicts, or queued operations, are read at once.
const AT_ONCE: usize = 1_000;

/// A conflict that waits for somebody: all sides of it, as entities or as JSON.
///
/// ```
/// # use datasync_core::{client::Conflict, error::Error};
/// # use serde_json::Value;
/// # fn example(conflict: &Conflict) -> Result<(), Error> {
/// let (ours, theirs) = (conflict.local::<Value>()?, conflict.service::<Value>()?);
/// # drop((ours, theirs));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Conflict {
    key: RowKey,
    kind: OperationKind,
    message: String,
    place: u64,
    revision: u64,
    base: Option<Record>,
    local: Option<Record>,
    service: ServiceCopy,
    /// `None` if this release does not have the table.
    schema: Option<Arc<TableSchema>>,
}

impl fmt::Debug for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conflict").field("row", &self.key).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Conflict {
    pub(super) fn of(tables: &Tables, key: &RowKey, row: &Row) -> Option<Conflict> {
        let operation = row.operations.first()?;
        let Hold::Parked(parked) = &operation.hold else { return None };
        let service = row.conflict()?.clone();
        Some(Conflict {
            key: key.clone(),
            kind: operation.kind,
            message: parked.message.clone(),
            place: operation.place,
            revision: row.revision,
            base: row.base.clone(),
            local: row.record.clone(),
            service,
            schema: tables.0.get(&key.table).map(|table| Arc::clone(&table.schema)),
        })
    }

    fn read<E: RowType>(&self, record: Option<&Record>) -> Result<Option<E>, Error> {
        record.map(|record| E::of_record(self.schema.as_deref(), &[], &self.key.id, record)).transpose()
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.key.table
    }

    /// The row.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.key.id
    }

    /// What this device wants to send.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        self.kind
    }

    /// What was done on the service since: the row was made there, changed, deleted, or brought back.
    #[must_use]
    pub fn service_kind(&self) -> OperationKind {
        service_kind(self.base.as_ref(), &self.service)
    }

    /// Why it waits.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.message
    }

    /// The service's copy that this device's change started from; `None` for an insert.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEntity`] if it cannot be read as `E`.
    pub fn base<E: RowType>(&self) -> Result<Option<E>, Error> {
        self.read(self.base.as_ref().filter(|base| !base.deleted))
    }

    /// This device's side; `None` if it deleted the row.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEntity`] if it cannot be read as `E`.
    pub fn local<E: RowType>(&self) -> Result<Option<E>, Error> {
        self.read(self.local.as_ref())
    }

    /// The service's side; `None` if it deleted the row, or does not have it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEntity`] if it cannot be read as `E`.
    pub fn service<E: RowType>(&self) -> Result<Option<E>, Error> {
        self.read(self.service.live())
    }
}

impl DatasyncClient {
    /// The conflicts that wait for somebody, in the order of their operations. Where there may be very many, read them
    /// with [`conflicts_after`](DatasyncClient::conflicts_after).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, Error> {
        let account = self.engine.account();
        let mut all: Vec<Conflict> = Vec::new();
        loop {
            let behind = all.last().map_or(0, |last| last.place);
            let page = list(&self.engine, &account, behind, AT_ONCE).await.during(SyncPhase::Read)?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// At most `limit` of the conflicts that wait, behind one of them or from the first on; none if there are no more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn conflicts_after(&self, after: Option<&Conflict>, limit: usize) -> Result<Vec<Conflict>, Error> {
        let behind = after.map_or(0, |conflict| conflict.place);
        list(&self.engine, &self.engine.account(), behind, limit).await.during(SyncPhase::Read)
    }

    /// The conflicts that wait, and then each further one when it is found, also by another handle of this client.
    ///
    /// A conflict comes again when a side of it has changed, and may do so without reason: an earlier look at it is then
    /// stale, and [`resolve`](DatasyncClient::resolve) says so. Dropping the stream loses nothing: a later one begins with all
    /// that wait.
    #[must_use]
    pub fn conflict_stream(&self) -> BoxStream<'static, Result<Conflict, Error>> {
        let engine = Arc::clone(&self.engine);
        // From before the first look on, so that no conflict is found between the two.
        let inbox = engine.committer.watchers().add_inbox();
        let live = Live { engine, inbox, listed: Some(0), found: VecDeque::new() };
        unfold(live, |mut live| async { Some((live.next().await.during(SyncPhase::Read), live)) }).boxed()
    }

    /// Settles a conflict that [`conflicts`](DatasyncClient::conflicts) has shown. What is to be sent is sent by the next
    /// push. `E` is the entity of its table, or [`serde_json::Value`] for a conflict of any table:
    ///
    /// ```
    /// # use datasync_core::{client::{Conflict, DatasyncClient, Resolution}, error::Error};
    /// # async fn example(client: &DatasyncClient, ours: bool) -> Result<(), Error> {
    /// for conflict in client.conflicts().await? {
    ///     let resolution: Resolution = if ours { Resolution::Keep } else { Resolution::Take };
    ///     client.resolve(&conflict, resolution).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ConflictChanged`] if the row or the service's copy has changed since it was shown;
    /// [`ErrorKind::Undecided`] if a merge by field meets fields without a rule, and the table has no fallback but `park`.
    /// Nothing is done then, and [`Error::conflict`] has the conflict as it is. [`ErrorKind::UnknownTable`] if the conflict
    /// is not one of `E`'s table; [`ErrorKind::InvalidEntity`] if merged JSON does not fit the table; [`ErrorKind::Store`].
    pub async fn resolve<E: RowType>(&self, conflict: &Conflict, resolution: Resolution<E>) -> Result<(), Error> {
        let RowKey { table: name, id, .. } = &conflict.key;
        let decided = |error: Error| error.at(name, id).during(SyncPhase::Decide);
        let table = Arc::clone(self.engine.tables.get(name).map_err(decided)?);
        if let Some(schema) = E::SCHEMA
            && schema.name != *table.name
        {
            let message = format!("the conflict is of `{}`, but the entity of `{}`", table.name, schema.name);
            return Err(decided(Error::new(ErrorKind::UnknownTable, message)));
        }
        if matches!(resolution, Resolution::Park) {
            return Ok(());
        }
        let ours = conflict.local.as_ref().or(conflict.base.as_ref());
        let merged_with = MergedWith::of(id, ours, &conflict.service);
        let outcome = outcome(&table, merged_with, resolution).map_err(decided)?;
        let (shown, tables) = (conflict.clone(), Arc::clone(&self.engine.tables));
        let plan = move |tx: &mut Tx<'_>| {
            account::check(tx, &shown.key)?;
            let row = tx.row(&shown.key)?;
            let now = row.as_ref().and_then(|row| Conflict::of(&tables, &shown.key, row));
            let (Some(before), Some(now)) = (row, now) else {
                return Err(Error::conflict_changed(&format!("{:?} is no longer a conflict", shown.key), None));
            };
            if now.revision != shown.revision || now.service.version() != shown.service.version() {
                let message = format!("{:?} has changed since the conflict was shown: look again", shown.key);
                return Err(Error::conflict_changed(&message, Some(now)));
            }
            let mut row = before.clone();
            // A decision of a person is a new beginning.
            row.operations[0].rounds = 0;
            let settled = finish(tx, &table, &shown.key, &mut row, now.service.clone(), outcome.clone());
            if let (Settled::Parked, Some(undecided)) = (settled, Conflict::of(&tables, &shown.key, &row)) {
                return Err(Error::with_conflict(ErrorKind::Undecided, undecided.message, Some(now)));
            }
            row.revision += 1;
            links::settle(tx, &table, &shown.key, Some(&before), &row)?;
            tx.put(&shown.key, row);
            journal::note_rows(tx, [(&shown.key, JournalStep::Resolved, None)]);
            Ok(())
        };
        self.engine.committer.commit(Reads::row(conflict.key.clone()), plan).await.map_err(decided)
    }
}

/// At most `limit` conflicts whose operations lie behind a place.
async fn list(engine: &Engine, account: &Arc<str>, after: u64, limit: usize) -> Result<Vec<Conflict>, Error> {
    let mut request = OperationsRequest { account: Arc::clone(account), tables: None, after, limit: AT_ONCE };
    let mut conflicts = Vec::new();
    while conflicts.len() < limit {
        let queued = engine.store.operations(&request).await?;
        let Some(last) = queued.last() else { break };
        request.after = last.operation.place;
        let parked = |hold: &Hold| matches!(hold, Hold::Parked(parked) if parked.reason == ParkReason::Conflict);
        let keys = queued.into_iter().filter(|queued| parked(&queued.operation.hold)).map(|queued| queued.key);
        let keys: Vec<RowKey> = keys.take(limit - conflicts.len()).collect();
        conflicts.extend(read(engine, &keys).await?);
    }
    Ok(conflicts)
}

/// The conflicts of these rows, where there are any.
async fn read(engine: &Engine, keys: &[RowKey]) -> Result<Vec<Conflict>, Error> {
    let rows = engine.store.get(keys).await?;
    Ok(keys.iter().zip(rows).filter_map(|(key, row)| Conflict::of(&engine.tables, key, &row?)).collect())
}

/// A stream of conflicts.
struct Live {
    engine: Arc<Engine>,
    inbox: Arc<Inbox>,
    /// Behind which place the list goes on; `None` when it has been read to its end.
    listed: Option<u64>,
    found: VecDeque<Conflict>,
}

impl Live {
    async fn next(&mut self) -> Result<Conflict, Error> {
        loop {
            if let Some(conflict) = self.found.pop_front() {
                return Ok(conflict);
            }
            if let Some(after) = self.listed {
                self.found = list(&self.engine, &self.engine.account(), after, AT_ONCE).await?.into();
                self.listed = self.found.back().map(|last| last.place);
                continue;
            }
            match self.inbox.changed().await {
                None => self.listed = Some(0),
                Some(keys) => {
                    let account = self.engine.account();
                    let keys: Vec<RowKey> = keys.into_iter().filter(|key| key.account == account).collect();
                    match read(&self.engine, &keys).await {
                        Ok(found) => self.found = found.into(),
                        Err(error) => {
                            // What was told is not told again.
                            self.listed = Some(0);
                            return Err(error);
                        }
                    }
                }
            }
        }
    }
}
