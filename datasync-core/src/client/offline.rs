//! The offline table: reads and writes of the local store, and the synchronization of one table.

use std::{fmt, marker::PhantomData, sync::Arc};

use futures::stream::BoxStream;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    client::{
        acked::Written,
        part::{Reader, Wanted},
        purge::{self, PurgeOptions},
        row_type::{RowType, apply, give_id},
        search::{self, Rows},
        stream, watch, write,
    },
    engine::{
        Engine,
        change::Change,
        push::{self, Tries},
        table::Table,
    },
    entity::{RowId, SyncEntity},
    error::{Context, Error, SyncPhase},
    query::{Access, Condition, Order, Query, QueryDescription},
    report::{PurgeReport, PushReport},
    row::{Body, Record, RowKey},
    schema::TableSchema,
};

/// The table of an entity in the local store, as in Datasync's `IOfflineTable<T>`.
///
/// Reads and writes need no network. A write that returned `Ok` is durable, and its change is queued in the same
/// commit; [`push_items`](OfflineTable::push_items) sends it.
///
/// [`DynTable`] is the same for rows that are JSON.
pub struct OfflineTable<E> {
    pub(crate) engine: Arc<Engine>,
    pub(crate) table: Arc<Table>,
    marker: PhantomData<fn() -> E>,
}

impl<E> Clone for OfflineTable<E> {
    fn clone(&self) -> Self {
        OfflineTable { engine: Arc::clone(&self.engine), table: Arc::clone(&self.table), marker: PhantomData }
    }
}

impl<E> fmt::Debug for OfflineTable<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OfflineTable").field(&self.table.name).finish()
    }
}

/// A table of the local store whose rows are JSON objects: see [`RowType`].
///
/// ```
/// # use datasync_core::{client::{DatasyncClient, PullOptions}, query::Query};
/// # use serde_json::{Value, json};
/// # async fn example(client: &DatasyncClient) -> Result<(), Box<dyn std::error::Error>> {
/// let films = client.offline_table_dyn("films")?;
/// films.upsert(json!({ "id": "a", "title": "A", "year": 1994 })).await?;
/// let new: Query<Value> = "$filter=year gt 1990&$select=id,year".parse()?;
/// assert_eq!(films.query().with(new.clone()).to_vec().await?, [json!({ "id": "a", "year": 1994 })]);
/// films.pull_items(PullOptions::default().query(new).query_id("new")).await?;
/// # Ok(())
/// # }
/// ```
pub type DynTable = OfflineTable<Value>;

impl<E: RowType> OfflineTable<E> {
    pub(crate) fn new(engine: Arc<Engine>, table: Arc<Table>) -> OfflineTable<E> {
        OfflineTable { engine, table, marker: PhantomData }
    }

    fn key(&self, id: &str) -> RowKey {
        self.engine.key(&self.table, id)
    }

    /// The table's fields and indexes.
    #[must_use]
    pub fn schema(&self) -> &TableSchema {
        &self.table.schema
    }

    /// Adds a row. An id that is empty or missing becomes a UUIDv7.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exists`](crate::error::ErrorKind::Exists), [`ErrorKind::InvalidId`](crate::error::ErrorKind::InvalidId), [`ErrorKind::InvalidEntity`](crate::error::ErrorKind::InvalidEntity), [`ErrorKind::Store`](crate::error::ErrorKind::Store); nothing is
    /// changed then.
    pub async fn insert(&self, entity: E) -> Result<Written<E>, Error> {
        self.write(entity, Change::Insert).await
    }

    /// Replaces the row of the entity's id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::error::ErrorKind::NotFound), else as [`insert`](OfflineTable::insert).
    pub async fn replace(&self, entity: E) -> Result<Written<E>, Error> {
        self.write(entity, Change::Replace).await
    }

    /// Adds the row, or replaces the one of its id.
    ///
    /// # Errors
    ///
    /// As [`insert`](OfflineTable::insert), but for `Exists`.
    pub async fn upsert(&self, entity: E) -> Result<Written<E>, Error> {
        self.write(entity, Change::Upsert).await
    }

    /// Deletes the row of that id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::error::ErrorKind::NotFound), [`ErrorKind::Store`](crate::error::ErrorKind::Store);
    /// nothing is changed then.
    pub async fn delete(&self, id: &(impl RowId + ?Sized)) -> Result<Written<()>, Error> {
        let change = (self.key(&id.as_text()), Change::Delete);
        let (queued, _) = write::one(&self.engine, &self.table, change, apply::<E>).await?;
        Ok(Written::new((), queued))
    }

    /// Adds many rows in one commit: all of them or none.
    ///
    /// # Errors
    ///
    /// As [`insert`](OfflineTable::insert) for the first row that fails.
    pub async fn insert_all(&self, entities: impl IntoIterator<Item = E>) -> Result<Vec<Written<E>>, Error> {
        self.write_all(entities, Change::Insert).await
    }

    /// Adds or replaces many rows in one commit: all of them or none. Of two with one id the later one counts.
    ///
    /// # Errors
    ///
    /// As [`upsert`](OfflineTable::upsert) for the first row that fails.
    pub async fn upsert_all(&self, entities: impl IntoIterator<Item = E>) -> Result<Vec<Written<E>>, Error> {
        self.write_all(entities, Change::Upsert).await
    }

    /// Deletes many rows in one commit: all of them or none.
    ///
    /// # Errors
    ///
    /// As [`delete`](OfflineTable::delete) for the first row that fails; one that is named twice is not found the second
    /// time.
    pub async fn delete_all<I: RowId>(&self, ids: impl IntoIterator<Item = I>) -> Result<Vec<Written<()>>, Error> {
        let changes = ids.into_iter().map(|id| (self.key(&id.as_text()), Change::Delete)).collect();
        let queued = write::all(&self.engine, &self.table, changes, apply::<E>).await?;
        Ok(queued.into_iter().map(|(queued, _)| Written::new((), queued)).collect())
    }

    async fn write(&self, mut entity: E, change: fn(Body) -> Change) -> Result<Written<E>, Error> {
        let change = self.prepare(&mut entity, change).map_err(|error| write::refused(error, &self.table, change))?;
        Ok(self.as_stored(entity, write::one(&self.engine, &self.table, change, apply::<E>).await?))
    }

    async fn write_all(
        &self,
        entities: impl IntoIterator<Item = E>,
        change: fn(Body) -> Change,
    ) -> Result<Vec<Written<E>>, Error> {
        let mut entities: Vec<E> = entities.into_iter().collect();
        let changes = entities.iter_mut().map(|entity| self.prepare(entity, change)).collect::<Result<_, _>>();
        let changes = changes.map_err(|error| write::refused(error, &self.table, change))?;
        let stored = write::all(&self.engine, &self.table, changes, apply::<E>).await?;
        Ok(entities.into_iter().zip(stored).map(|(entity, stored)| self.as_stored(entity, stored)).collect())
    }

    /// The entity with the time of its edit, where its table has a field for that.
    fn as_stored(&self, entity: E, (queued, record): write::Stored) -> Written<E> {
        let entity = match record {
            Some(record) => entity.with_edit(&self.table.schema, &record),
            None => entity,
        };
        Written::new(entity, queued)
    }

    /// Gives the entity an id if it has none, and makes it a change of its row.
    fn prepare(&self, entity: &mut E, change: fn(Body) -> Change) -> Result<(RowKey, Change), Error> {
        let name = &self.table.name;
        let id = give_id(entity, &*self.engine.clock)
            .map_err(|error| entity.row_id().into_iter().fold(error, |error, id| error.at(name, &id)))?;
        let body = entity.to_body(&self.table.schema, self.table.rules.readable).at(name, &id)?;
        Ok((self.key(&id), change(body)))
    }

    /// The row of that id; `None` if there is none here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::error::ErrorKind::Store), [`ErrorKind::InvalidEntity`](crate::error::ErrorKind::InvalidEntity) if what is stored cannot be read as `E`.
    pub async fn get(&self, id: &(impl RowId + ?Sized)) -> Result<Option<E>, Error> {
        let id = &id.as_text();
        let rows = self.engine.store.get(&[self.key(id)]).await.at(&self.table.name, id).during(SyncPhase::Read)?;
        let record = rows.into_iter().flatten().find_map(|row| row.record);
        let entity = record.map(|record| E::of_record(Some(&self.table.schema), &[], id, &record)).transpose();
        entity.at(&self.table.name, id).during(SyncPhase::Read)
    }

    /// Begins a query of this table.
    pub fn query(&self) -> OfflineQuery<E> {
        let table = Arc::clone(&self.table);
        let read =
            move |select: &[String], id: &str, record: &Record| E::of_record(Some(&table.schema), select, id, record);
        let reader = Reader::new(if E::SCHEMA.is_some() { Wanted::All } else { Wanted::Selected }, read);
        OfflineQuery { table: self.clone(), query: Query::default(), reader }
    }

    /// How many rows there are here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::error::ErrorKind::Store).
    pub async fn count(&self) -> Result<u64, Error> {
        let count = search::count(&self.engine, &self.table, &QueryDescription::default()).await;
        count.of(&self.table.name).during(SyncPhase::Read)
    }

    /// Pushes what is queued in this table: see [`DatasyncClient::push_tables`](super::DatasyncClient::push_tables).
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn push_items(&self) -> Result<PushReport, Error> {
        let tables = Some(vec![Arc::clone(&self.table.name)]);
        push::push(&self.engine, self.engine.account(), tables, Tries::Waiting).await
    }

    /// Removes rows from this device only, with the delta tokens of the scopes that held them: a later pull gets them
    /// back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pending`](crate::error::ErrorKind::Pending) if unsent changes would be dropped and the purge is not forced: nothing is changed, and
    /// [`Error::pending`] lists them.
    pub async fn purge_items(&self, options: PurgeOptions<E>) -> Result<PurgeReport, Error> {
        let purged = purge::purge(&self.engine, &self.table, options.query.into_description(), options.force).await;
        purged.of(&self.table.name).during(SyncPhase::Leave)
    }
}

/// A query, with or without its table.
pub trait IntoQuery<E> {
    /// The query alone.
    fn into_query(self) -> Query<E>;
}

impl<E> IntoQuery<E> for Query<E> {
    fn into_query(self) -> Query<E> {
        self
    }
}

impl<E> IntoQuery<E> for OfflineQuery<E> {
    fn into_query(self) -> Query<E> {
        self.query
    }
}

/// A query of an offline table.
#[must_use]
pub struct OfflineQuery<E, P = E> {
    table: OfflineTable<E>,
    query: Query<E>,
    reader: Reader<P>,
}

impl<E, P> Clone for OfflineQuery<E, P> {
    fn clone(&self) -> Self {
        OfflineQuery { table: self.table.clone(), query: self.query.clone(), reader: self.reader.clone() }
    }
}

impl<E, P> fmt::Debug for OfflineQuery<E, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.query.fmt(f)
    }
}

impl<E: SyncEntity, P: 'static> OfflineQuery<E, P> {
    /// Only the rows that match the condition made from the fields, and every earlier condition.
    pub fn filter<C: Condition<E>>(mut self, condition: impl FnOnce(E::Fields) -> C) -> Self {
        self.query = self.query.filter(condition);
        self
    }

    /// Orders by this key before all keys given so far: they order the rows that agree in it.
    pub fn order_by(mut self, key: impl FnOnce(E::Fields) -> Order<E>) -> Self {
        self.query = self.query.order_by(key);
        self
    }

    /// Orders the rows that agree in all keys given so far by this key.
    pub fn then_by(mut self, key: impl FnOnce(E::Fields) -> Order<E>) -> Self {
        self.query = self.query.then_by(key);
        self
    }
}

impl<E: RowType, P: 'static> OfflineQuery<E, P> {
    /// This query in place of what was said so far: one that was read from text, or is used for several tables.
    ///
    /// ```
    /// # use datasync_core::{client::OfflineTable, entity::SyncEntity, error::Error, query::{Query, QueryError}};
    /// # fn example<E: SyncEntity>(films: &OfflineTable<E>) -> Result<(), QueryError> {
    /// let long: Query<E> = "$filter=minutes gt 180&$orderby=year".parse()?;
    /// let rows = films.query().with(long).to_vec();
    /// # drop(rows);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with(mut self, query: impl IntoQuery<E>) -> Self {
        self.query = query.into_query();
        self
    }

    /// Shows rows that the service has soft-deleted, too.
    pub fn include_deleted(mut self) -> Self {
        self.query = self.query.include_deleted();
        self
    }

    /// Leaves out the first `rows` rows.
    pub fn skip(mut self, rows: u64) -> Self {
        self.query = self.query.skip(rows);
        self
    }

    /// At most `rows` rows.
    pub fn top(mut self, rows: u64) -> Self {
        self.query = self.query.top(rows);
        self
    }

    /// Reads the rows into a struct that has some of the entity's fields, by their names in JSON; nothing else of a row is
    /// decoded. Several calls: the last one holds.
    ///
    /// A name that the table does not have, or a type that is no struct with named fields, is an
    /// [`InvalidQuery`](crate::error::ErrorKind::InvalidQuery) when the query runs; serde's aliases count as names.
    ///
    /// ```
    /// # use datasync_core::{client::OfflineTable, entity::SyncEntity, error::Error};
    /// # use datasync_derive::SyncEntity;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    /// # #[sync(crate = "datasync_core")]
    /// # struct Film { id: String, title: String, year: i32, plot: String }
    /// #[derive(Deserialize)]
    /// struct Title {
    ///     id: String,
    ///     title: String,
    /// }
    ///
    /// # async fn example(films: &OfflineTable<Film>) -> Result<(), Error> {
    /// let titles: Vec<Title> = films.query().filter(|film| film.year.lt(1950)).select().to_vec().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn select<Q: DeserializeOwned + 'static>(self) -> OfflineQuery<E, Q> {
        let reader = Reader::part(&self.table.table.name);
        OfflineQuery { table: self.table, query: self.query, reader }
    }

    /// The rows.
    ///
    /// Up to 10,000 rows that are looked at are read as of one moment. More are read in parts, and a commit may come between
    /// two of them; in a [`transaction`](super::DatasyncClient::transaction) all of them are as of one moment.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidQuery`](crate::error::ErrorKind::InvalidQuery), [`ErrorKind::InvalidEntity`](crate::error::ErrorKind::InvalidEntity), [`ErrorKind::Store`](crate::error::ErrorKind::Store).
    pub async fn to_vec(self) -> Result<Vec<P>, Error> {
        Ok(self.rows().await?.rows)
    }

    /// The rows, and how many there are before `skip` and `top`. With a `top` they are counted first, and then read; a commit may
    /// come between.
    ///
    /// # Errors
    ///
    /// As [`to_vec`](OfflineQuery::to_vec).
    pub async fn to_rows(mut self) -> Result<Rows<P>, Error> {
        self.query = self.query.count();
        self.rows().await
    }

    /// The first row.
    ///
    /// # Errors
    ///
    /// As [`to_vec`](OfflineQuery::to_vec).
    pub async fn first(self) -> Result<Option<P>, Error> {
        Ok(self.top(1).to_vec().await?.pop())
    }

    /// How many rows match, before `skip` and `top`.
    ///
    /// # Errors
    ///
    /// As [`to_vec`](OfflineQuery::to_vec).
    pub async fn count(self) -> Result<u64, Error> {
        let OfflineTable { engine, table, .. } = &self.table;
        let count = search::count(engine, table, self.query.description()).await;
        count.of(&table.name).during(SyncPhase::Read)
    }

    /// Which way the query takes to its rows: an index or all of them, and whether they must be filtered and sorted. Its
    /// `Display` says it in words.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidQuery`](crate::error::ErrorKind::InvalidQuery).
    pub fn explain(&self) -> Result<Access, Error> {
        let table = &self.table.table;
        search::explain(table, self.query.description()).of(&table.name).during(SyncPhase::Read)
    }

    /// A stream of results: the rows now, then again after each commit that changes them, whoever made it: a local write, a
    /// push or a pull. A commit that does not concern the query wakes nobody, and of several commits in a row only the last
    /// result may be seen. The stream does not end, unless the query does not fit the table;
    /// dropping it is all there is to do.
    ///
    /// An item is an error as for [`to_vec`](OfflineQuery::to_vec); the next commit that concerns the query tries again.
    ///
    /// ```
    /// # use datasync_core::{client::OfflineTable, entity::SyncEntity};
    /// # use futures::StreamExt;
    /// # async fn example<E: SyncEntity>(todos: &OfflineTable<E>) {
    /// let mut results = todos.query().top(20).watch();
    /// while let Some(Ok(rows)) = results.next().await {
    ///     println!("{} rows", rows.len());
    /// }
    /// # }
    /// ```
    pub fn watch(self) -> BoxStream<'static, Result<Vec<P>, Error>> {
        watch::watch(self.table.engine, self.table.table, self.query.into_description(), self.reader)
    }

    /// The rows one by one, with at most 1,000 of them in memory, however many there are. If no index gives the order of the
    /// query, or one serves the filter better, the ids of the rows and the values that they are ordered by are held too;
    /// [`explain`](OfflineQuery::explain) of the same query with a `top` tells whether rows are sorted.
    ///
    /// A row is shown as it is when the page that it is part of is read; one that is changed or added meanwhile is shown or
    /// not, and none is shown twice unless its place in the order has moved. An item is an error as for
    /// [`to_vec`](OfflineQuery::to_vec): after a row that cannot be read the stream goes on, after any other error it ends.
    ///
    /// ```
    /// # use datasync_core::{client::OfflineTable, entity::SyncEntity, error::Error};
    /// # use futures::TryStreamExt;
    /// # async fn example<E: SyncEntity>(films: &OfflineTable<E>) -> Result<(), Error> {
    /// let mut rows = films.query().stream();
    /// while let Some(film) = rows.try_next().await? {
    ///     println!("{}", film.id());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(self) -> BoxStream<'static, Result<P, Error>> {
        stream::local(self.table.engine, self.table.table, self.query.into_description(), self.reader)
    }

    async fn rows(mut self) -> Result<Rows<P>, Error> {
        let OfflineTable { engine, table, .. } = self.table;
        let found = async {
            let query = self.reader.prepare(self.query.into_description(), &table.schema, false)?;
            let found = search::search(&engine, &table, &query).await?;
            let read = |(id, record): (Arc<str>, Record)| self.reader.read(&id, &record);
            let rows = found.rows.into_iter().map(read).collect::<Result<_, _>>()?;
            Ok::<_, Error>(Rows { rows, total: found.total })
        };
        found.await.of(&table.name).during(SyncPhase::Read)
    }
}
