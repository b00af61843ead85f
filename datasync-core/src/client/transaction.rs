//! Transactions: rows of several tables, read as of one moment and written in one commit.
//!
//! A transaction locks nothing. It remembers what it has read, and its commit is made only if all of that is still so.
//!
//! | while the closure runs … | what comes of it |
//! | --- | --- |
//! | a commit changes a row that was read, or the result of a query | the closure runs again, whatever it returns |
//! | the same, and the closure reads on | the read fails, so that it never sees two moments; it runs again |
//! | the closure fails | nothing is changed |
//! | the process dies, or the future is dropped | nothing, or the whole commit |

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::lock::Mutex;

use crate::{
    client::{DatasyncClient, codec, invalid_query, offline::IntoQuery, row_type::give_id, search},
    engine::{
        Engine,
        change::{self, Change},
        committer::{self, Reads, draft::Draft},
        table::Table,
        watch::Watcher,
    },
    entity::{RowId, SyncEntity},
    error::{Error, ErrorKind},
    query::{Evaluator, QueryDescription},
    row::{Body, Record, Row, RowKey},
};

/// How often the closure of a transaction runs again.
const AGAIN: u32 = 8;
/// How often one read is tried while others commit.
const READS: usize = 4;

/// A transaction under way: what [`DatasyncClient::transaction`] gives to its closure. Clones are handles of the same one.
///
/// It sees the rows as they were at one moment, with its own writes. A write changes nothing outside before the closure has
/// returned.
#[derive(Clone)]
pub struct Tx {
    engine: Arc<Engine>,
    account: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// The number of the commit as of which everything was read, if there was no other one since.
    number: Option<u64>,
    draft: Draft,
    /// The results of queries, as far as they may change.
    queried: Vec<Arc<Watcher>>,
    changes: Vec<(Arc<Table>, RowKey, Change)>,
    /// Whether what was read is not as of one moment.
    torn: bool,
    ended: bool,
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl Tx {
    fn new(engine: &Arc<Engine>) -> Tx {
        let account = engine.account();
        let draft = Draft::new(Arc::clone(&account));
        let (number, queried, changes) = Default::default();
        let state = State { number, draft, queried, changes, torn: false, ended: false };
        Tx { engine: Arc::clone(engine), account, state: Arc::new(Mutex::new(state)) }
    }

    /// The row of that id; `None` if there is none here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownTable`]; [`ErrorKind::InvalidEntity`] if what is stored cannot be read as `E`;
    /// [`ErrorKind::Contended`] if the rows that were read before have changed: then the closure runs again, whatever it
    /// returns; [`ErrorKind::Ended`] after the closure has returned; [`ErrorKind::Store`].
    pub async fn get<E: SyncEntity>(&self, id: &(impl RowId + ?Sized)) -> Result<Option<E>, Error> {
        let id = &*id.as_text();
        let (_, key) = self.key::<E>(id)?;
        let mut state = self.state.lock().await;
        self.load(&mut state, vec![key.clone()]).await?;
        state.draft.record(&key).map(|record| codec::decode(id, record)).transpose()
    }

    /// The rows of a query, in its order. It holds for rows that are not there yet, too: if another commit puts a row into
    /// the result, the closure runs again.
    ///
    /// ```
    /// # use datasync_core::{client::{OfflineTable, Tx}, entity::SyncEntity, error::Error, query::Query};
    /// # async fn example<E: SyncEntity>(tx: &Tx, todos: &OfflineTable<E>) -> Result<(), Error> {
    /// let all: Vec<E> = tx.query(todos.query()).await?;
    /// let first: Vec<E> = tx.query(Query::new().top(1)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidQuery`], else as [`get`](Tx::get).
    pub async fn query<E: SyncEntity>(&self, query: impl IntoQuery<E>) -> Result<Vec<E>, Error> {
        let table = self.table::<E>()?;
        let query = query.into_query().into_description();
        let mut state = self.state.lock().await;
        let written = state.draft.written(&table.name);
        let found = self.search(&mut state, &table, &query, !written.is_empty()).await?;
        let found = match written.is_empty() {
            true => found,
            false => overlay(found, written, &table, &query)?,
        };
        found.iter().map(|(id, record)| codec::decode(id, record)).collect()
    }

    /// Adds a row. An empty id becomes a UUIDv7. Returns the entity with its id; a field that has the time of the edit
    /// (`#[sync(edited_at)]`) gets that of the commit, and has not got it here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exists`], [`ErrorKind::InvalidId`], else as [`get`](Tx::get); the transaction goes on without the
    /// write.
    pub async fn insert<E: SyncEntity>(&self, entity: E) -> Result<E, Error> {
        self.write(entity, Change::Insert).await
    }

    /// Replaces the row of the entity's id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], else as [`insert`](Tx::insert).
    pub async fn replace<E: SyncEntity>(&self, entity: E) -> Result<E, Error> {
        self.write(entity, Change::Replace).await
    }

    /// Adds the row, or replaces the one of its id.
    ///
    /// # Errors
    ///
    /// As [`insert`](Tx::insert), but for `Exists`.
    pub async fn upsert<E: SyncEntity>(&self, entity: E) -> Result<E, Error> {
        self.write(entity, Change::Upsert).await
    }

    /// Deletes the row of that id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], else as [`get`](Tx::get).
    pub async fn delete<E: SyncEntity>(&self, id: &(impl RowId + ?Sized)) -> Result<(), Error> {
        let (table, key) = self.key::<E>(&id.as_text())?;
        self.change(table, key, Change::Delete).await
    }

    async fn write<E: SyncEntity>(&self, mut entity: E, change: fn(Body) -> Change) -> Result<E, Error> {
        let id = give_id(&mut entity, &*self.engine.clock)?;
        let (table, key) = self.key::<E>(&id)?;
        self.change(table, key, change(codec::encode(&entity)?)).await?;
        Ok(entity)
    }

    async fn change(&self, table: Arc<Table>, key: RowKey, change: Change) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        self.load(&mut state, vec![key.clone()]).await?;
        let apply = |tx: &mut committer::Tx<'_>| change::apply(tx, &table, &key, &change);
        state.draft.plan(&self.engine.committer, apply)?;
        state.changes.push((table, key, change));
        Ok(())
    }

    fn table<E: SyncEntity>(&self) -> Result<Arc<Table>, Error> {
        self.engine.tables.get(&E::SCHEMA.name).cloned()
    }

    fn key<E: SyncEntity>(&self, id: &str) -> Result<(Arc<Table>, RowKey), Error> {
        let table = self.table::<E>()?;
        let key = RowKey { account: Arc::clone(&self.account), table: Arc::clone(&table.name), id: id.into() };
        Ok((table, key))
    }

    /// Reads rows as of the transaction's moment.
    async fn load(&self, state: &mut State, mut keys: Vec<RowKey>) -> Result<(), Error> {
        state.check()?;
        keys.retain(|key| !state.draft.has_read(key));
        if keys.is_empty() {
            return Ok(());
        }
        let number = self.number(state).await?;
        let mut rows = self.engine.store.get(&keys).await?;
        if self.engine.store.head().await?.number != number {
            rows = self.look_again(state, &keys).await?;
        }
        keys.into_iter().zip(rows).for_each(|(key, row)| state.draft.read(key, row));
        Ok(())
    }

    /// Runs a query as of the transaction's moment; without `skip` and `top` if it is `whole`.
    async fn search(
        &self,
        state: &mut State,
        table: &Arc<Table>,
        query: &QueryDescription,
        whole: bool,
    ) -> Result<Vec<(Arc<str>, Record)>, Error> {
        state.check()?;
        let mut wanted = query.clone();
        if whole {
            (wanted.skip, wanted.top) = (0, None);
        }
        for _ in 0..READS {
            let evaluator = Evaluator::new(&wanted, &table.schema).map_err(invalid_query)?;
            // From before the look on, so that no change is between them.
            let queried = self.engine.committer.watchers().add(Arc::clone(&table.name), evaluator);
            let number = self.number(state).await?;
            let found = search::search(&self.engine, table, &wanted).await?.rows;
            self.engine.check_present(&self.account)?;
            if self.engine.store.head().await?.number == number {
                state.queried.push(queried);
                return Ok(found);
            }
            self.look_again(state, &[]).await?;
        }
        state.torn = true;
        Err(contended())
    }

    async fn number(&self, state: &mut State) -> Result<u64, Error> {
        Ok(match state.number {
            Some(number) => number,
            None => *state.number.insert(self.engine.store.head().await?.number),
        })
    }

    /// There were other commits. If what was read is still so, these rows are read as of the same, later moment.
    async fn look_again(&self, state: &mut State, keys: &[RowKey]) -> Result<Vec<Option<Row>>, Error> {
        let seen = state.seen();
        let rows = seen.keys().chain(keys).cloned().collect();
        let keys = keys.to_vec();
        let plan = move |tx: &mut committer::Tx<'_>| {
            if !seen.holds(tx)? {
                return Ok(None);
            }
            let rows = keys.iter().map(|key| tx.row(key)).collect::<Result<Vec<_>, _>>()?;
            Ok(Some((tx.number(), rows)))
        };
        match self.engine.committer.commit(Reads::rows(rows), plan).await? {
            Some((number, rows)) => {
                state.number = Some(number);
                Ok(rows)
            }
            None => {
                state.torn = true;
                Err(contended())
            }
        }
    }

    /// Commits what was written, if what was read is still so.
    async fn finish(self, succeeded: bool) -> Result<Finished, Error> {
        let mut state = self.state.lock().await;
        state.ended = true;
        if state.torn {
            return Ok(Finished::Torn);
        }
        // What was only read is as of one moment.
        if !succeeded || state.changes.is_empty() {
            return Ok(Finished::Done);
        }
        let (seen, changes) = (state.seen(), std::mem::take(&mut state.changes));
        let rows = seen.keys().cloned().collect();
        let plan = move |tx: &mut committer::Tx<'_>| {
            if !seen.holds(tx)? {
                return Ok(Finished::Torn);
            }
            for (table, key, change) in &changes {
                change::apply(tx, table, key, change)?;
            }
            Ok(Finished::Done)
        };
        self.engine.committer.commit(Reads::rows(rows), plan).await
    }
}

enum Finished {
    Done,
    /// What was read is no longer so.
    Torn,
}

impl State {
    fn check(&self) -> Result<(), Error> {
        if self.ended {
            let message = "the transaction has ended: its handle must not be kept longer than its closure runs";
            return Err(Error::new(ErrorKind::Ended, message));
        }
        if self.torn { Err(contended()) } else { Ok(()) }
    }

    fn seen(&self) -> Seen {
        let rows = self.draft.seen().map(|(key, record)| (key.clone(), record.cloned())).collect();
        Seen { rows, queried: self.queried.clone() }
    }
}

/// What a transaction has read.
struct Seen {
    rows: Vec<(RowKey, Option<Record>)>,
    queried: Vec<Arc<Watcher>>,
}

impl Seen {
    fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.rows.iter().map(|(key, _)| key)
    }

    /// Whether it is all still so.
    fn holds(&self, tx: &committer::Tx<'_>) -> Result<bool, Error> {
        for (key, record) in &self.rows {
            if tx.row(key)?.and_then(|row| row.record) != *record {
                return Ok(false);
            }
        }
        Ok(!self.queried.iter().any(|queried| tx.concerns(queried)))
    }
}

fn contended() -> Error {
    let message = "others changed what the transaction has read, each time that it ran: try again later";
    Error::new(ErrorKind::Contended, message)
}

/// The result of a query with rows written since in it.
fn overlay(
    found: Vec<(Arc<str>, Record)>,
    mut written: BTreeMap<Arc<str>, Option<Record>>,
    table: &Table,
    query: &QueryDescription,
) -> Result<Vec<(Arc<str>, Record)>, Error> {
    let evaluator = Evaluator::new(query, &table.schema).map_err(invalid_query)?;
    let unchanged = found.into_iter().filter(|(id, _)| !written.contains_key(id)).collect::<Vec<_>>();
    let written = std::mem::take(&mut written).into_iter().filter_map(|(id, record)| Some((id, record?)));
    let mut rows = Vec::new();
    for (id, record) in unchanged.into_iter().chain(written) {
        if let Some(key) = evaluator.evaluate(&id, &record).map_err(invalid_query)? {
            rows.push((key, id, record));
        }
    }
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    let skip = usize::try_from(query.skip).unwrap_or(usize::MAX);
    let top = query.top.map_or(usize::MAX, |top| usize::try_from(top).unwrap_or(usize::MAX));
    Ok(rows.into_iter().skip(skip).take(top).map(|(_, id, record)| (id, record)).collect())
}

impl DatasyncClient {
    /// Reads and writes several rows, of any tables, as one: the closure sees them as of one moment, and what it writes is
    /// one commit, with the operations that it queues. They collapse as those of single writes do, and are pushed one by
    /// one: a transaction is whole on this device, not on the service.
    ///
    /// If another commit changes what the closure has read (a row, the absence of one, the result of a query), it
    /// runs again, at most eight times; so it must do nothing else than read and write by its handle. An error that
    /// it returns ends the transaction, and nothing is changed. Dropping the future leaves all or nothing.
    ///
    /// ```
    /// # use datasync_core::{client::DatasyncClient, entity::SyncEntity, error::Error};
    /// # async fn example<List: SyncEntity, Item: SyncEntity>(client: &DatasyncClient, item: Item) -> Result<(), Error> {
    /// client
    ///     .transaction(|tx| {
    ///         let item = item.clone();
    ///         async move {
    ///             if let Some(list) = tx.get::<List>("groceries").await? {
    ///                 tx.insert(item).await?;
    ///                 tx.replace(list).await?;
    ///             }
    ///             Ok::<_, Error>(())
    ///         }
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// What the closure returns; [`ErrorKind::Contended`] if others were faster each time;
    /// [`ErrorKind::OtherAccount`] if another account has signed in meanwhile; [`ErrorKind::Store`]. Nothing is changed.
    pub async fn transaction<T, E, Fut>(&self, mut work: impl FnMut(Tx) -> Fut) -> Result<T, E>
    where
        E: From<Error>,
        Fut: Future<Output = Result<T, E>>,
    {
        for again in 0..=AGAIN {
            if again > 0 {
                // Those who were in each other's way do not meet again at once.
                let most = 1_u64 << again;
                self.engine.clock.sleep(Duration::from_millis(self.engine.clock.random() % most)).await;
            }
            let tx = Tx::new(&self.engine);
            let outcome = work(tx.clone()).await;
            if let Finished::Done = tx.finish(outcome.is_ok()).await? {
                return outcome;
            }
        }
        Err(contended().into())
    }
}
