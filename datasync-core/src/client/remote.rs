//! The remote table: straight to the service.

use std::{fmt, marker::PhantomData, ops::Deref, sync::Arc};

use futures::stream::BoxStream;
use serde::de::DeserializeOwned;

use crate::{
    body,
    client::{
        IntoQuery, codec, invalid_query,
        part::{Reader, Wanted},
        row_type::give_id,
        search::Rows,
        stream::{self, Pages},
    },
    clock::random_key,
    engine::Engine,
    entity::{RowId, SyncEntity, check_id},
    error::{Context, Error, ErrorKind, SyncPhase},
    query::{Condition, Order, Query},
    row::{Body, OperationKind, Record},
    schema::ID,
    transport::{PageRequest, Purpose, PushOperation, PushOutcome, RowRequest, ServiceRow},
};

/// How many rows a page of a remote query holds at most.
const PAGE_SIZE: u32 = 1_000;

/// An entity as the service has it, with the version that guards its next change, and with the fields that the entity does
/// not have. It derefs to the entity.
#[derive(Clone, PartialEq, Eq)]
pub struct Remote<E> {
    entity: E,
    record: Record,
}

impl<E> Remote<E> {
    /// The service's version.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.record.version.as_deref()
    }

    /// Whether the service has soft-deleted the row.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.record.deleted
    }

    /// The entity itself.
    pub fn into_inner(self) -> E {
        self.entity
    }

    /// The same version with a changed entity, for [`RemoteTable::replace`].
    #[must_use]
    pub fn map(self, change: impl FnOnce(E) -> E) -> Remote<E> {
        Remote { entity: change(self.entity), ..self }
    }
}

impl<E> Deref for Remote<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.entity
    }
}

impl<E: SyncEntity> fmt::Debug for Remote<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("table", &E::SCHEMA.name).field("id", &self.entity.id()).finish_non_exhaustive()
    }
}

/// The table of an entity on the service, as in Datasync's `IRemoteTable<T>`: every call is a request, and fails
/// without a network.
pub struct RemoteTable<E> {
    engine: Arc<Engine>,
    name: Arc<str>,
    marker: PhantomData<fn() -> E>,
}

impl<E> Clone for RemoteTable<E> {
    fn clone(&self) -> Self {
        RemoteTable { engine: Arc::clone(&self.engine), name: Arc::clone(&self.name), marker: PhantomData }
    }
}

impl<E> fmt::Debug for RemoteTable<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteTable").field(&self.name).finish()
    }
}

impl<E: SyncEntity> RemoteTable<E> {
    pub(crate) fn new(engine: Arc<Engine>) -> RemoteTable<E> {
        RemoteTable { engine, name: E::SCHEMA.name.as_ref().into(), marker: PhantomData }
    }

    fn remote(row: ServiceRow) -> Result<Remote<E>, Error> {
        Self::read(&row.id, &row.record)
    }

    fn read(id: &str, record: &Record) -> Result<Remote<E>, Error> {
        Ok(Remote { entity: codec::decode(id, record)?, record: record.clone() })
    }

    /// The row of that id; `None` if the service does not have it, or has deleted it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidId`], [`ErrorKind::Unreachable`], [`ErrorKind::Unauthenticated`], [`ErrorKind::Service`],
    /// [`ErrorKind::InvalidEntity`] if the answer cannot be read as `E`.
    pub async fn get(&self, id: &(impl RowId + ?Sized)) -> Result<Option<Remote<E>>, Error> {
        let id = &*id.as_text();
        let found = async {
            check_id(id)?;
            let (account, table) = (self.engine.account(), Arc::clone(&self.name));
            let request = RowRequest { account, table, id: id.into(), include_deleted: false };
            let row = traced!(self.engine.transport.fetch(&request), "remote", table = self.name)
                .await
                .map_err(|error| self.about(id, error.into()))?;
            row.map(Self::remote).transpose()
        };
        found.await.at(&self.name, id).during(SyncPhase::Remote)
    }

    /// Creates a row. An empty id becomes a UUIDv7.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] if the id exists, else as [`get`](RemoteTable::get).
    pub async fn insert(&self, mut entity: E) -> Result<Remote<E>, Error> {
        let kind = OperationKind::Insert;
        give_id(&mut entity, &*self.engine.clock).map_err(|error| self.failed(kind, &entity.id(), error))?;
        self.sent(kind, &entity, None).await
    }

    /// Replaces a row, if the service still has the version that was read. Fields that the entity does not have stay as they
    /// were read.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] if it has another one, [`ErrorKind::NotFound`] if the row is gone, else as
    /// [`get`](RemoteTable::get).
    pub async fn replace(&self, row: &Remote<E>) -> Result<Remote<E>, Error> {
        self.sent(OperationKind::Replace, &row.entity, Some(&row.record)).await
    }

    /// Deletes a row, if the service still has the version that was read. A row that is gone is no error.
    ///
    /// # Errors
    ///
    /// As [`replace`](RemoteTable::replace), but for `NotFound`.
    pub async fn delete(&self, row: &Remote<E>) -> Result<(), Error> {
        let (kind, id) = (OperationKind::Delete, &*row.entity.id());
        let pushed = self.push(kind, id, row.record.version.clone(), None, None).await;
        match pushed.map_err(|error| self.failed(kind, id, error))? {
            PushOutcome::Applied(_) | PushOutcome::NotFound | PushOutcome::Gone => Ok(()),
            outcome => Err(self.refused(kind, id, outcome)),
        }
    }

    async fn sent(&self, kind: OperationKind, entity: &E, read: Option<&Record>) -> Result<Remote<E>, Error> {
        self.send(kind, entity, read).await.map_err(|error| self.failed(kind, &entity.id(), error))
    }

    fn failed(&self, kind: OperationKind, id: &str, error: Error) -> Error {
        error.at(&self.name, id).doing(kind).during(SyncPhase::Remote)
    }

    async fn send(&self, kind: OperationKind, entity: &E, read: Option<&Record>) -> Result<Remote<E>, Error> {
        let id = &*entity.id();
        let invalid = |error: serde_json::Error| Error::caused(ErrorKind::InvalidEntity, error.to_string(), error);
        let now = self.engine.clock.now();
        let edited = self.engine.service.time(now).unwrap_or(now);
        let body = body::compose(&E::SCHEMA, &codec::encode(entity)?, read.map(|read| &read.body));
        let body = body.and_then(|body| body::set_edited(&E::SCHEMA, &body, edited));
        let body = body.and_then(|body| body::sendable(&E::SCHEMA, &body, false, None)).map_err(invalid)?;
        let version = read.and_then(|read| read.version.clone());
        let base = read.map(|read| body::started_from(&E::SCHEMA, &read.body, &body)).transpose().map_err(invalid)?;
        match self.push(kind, id, version, Some(body), base).await? {
            PushOutcome::Applied(Some(row)) => Self::remote(row),
            PushOutcome::Applied(None) => {
                let missing = || Error::new(ErrorKind::NotFound, format!("{id} was written, but is gone since"));
                self.get(id).await?.ok_or_else(missing)
            }
            outcome => Err(self.refused(kind, id, outcome)),
        }
    }

    async fn push(
        &self,
        kind: OperationKind,
        id: &str,
        version: Option<String>,
        body: Option<Body>,
        base: Option<Body>,
    ) -> Result<PushOutcome, Error> {
        check_id(id)?;
        let key = random_key(&*self.engine.clock);
        let (account, table, id) = (self.engine.account(), Arc::clone(&self.name), id.into());
        let operations = [PushOperation { account, table, id, kind, key, version, body, base }];
        let pushed = self.engine.transport.push(&operations);
        let mut outcomes = traced!(pushed, "remote", table = self.name).await;
        outcomes.pop().ok_or_else(|| Error::new(ErrorKind::Service, "the transport gave no outcome"))
    }

    fn about(&self, id: &str, error: Error) -> Error {
        let tried = || format!("asking the service for {}/{id}", self.name);
        error.at(&self.name, id).during(SyncPhase::Remote).trying(tried)
    }

    fn refused(&self, kind: OperationKind, id: &str, outcome: PushOutcome) -> Error {
        let error = match outcome {
            PushOutcome::Failed(error) => error.into(),
            PushOutcome::Conflict(_) => {
                Error::new(ErrorKind::Conflict, format!("the service has another version of {id}: read it again"))
            }
            _ => Error::new(ErrorKind::NotFound, format!("the service does not have {id}")),
        };
        self.about(id, error.doing(kind).trying(|| format!("sending the {kind} of {}/{id}", self.name)))
    }

    /// Begins a query of this table.
    pub fn query(&self) -> RemoteQuery<E> {
        let reader = Reader::new(Wanted::All, |_, id, record| Self::read(id, record));
        RemoteQuery { table: self.clone(), query: Query::new(), reader }
    }

    /// How many rows the service has, deleted ones left out.
    ///
    /// # Errors
    ///
    /// As [`get`](RemoteTable::get).
    pub async fn count(&self) -> Result<u64, Error> {
        self.query().count().await
    }
}

/// A query of a remote table.
#[must_use]
pub struct RemoteQuery<E, P = Remote<E>> {
    table: RemoteTable<E>,
    query: Query<E>,
    reader: Reader<P>,
}

impl<E, P> fmt::Debug for RemoteQuery<E, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.query.fmt(f)
    }
}

impl<E: SyncEntity, P: 'static> RemoteQuery<E, P> {
    /// This query in place of what was said so far.
    pub fn with(mut self, query: impl IntoQuery<E>) -> Self {
        self.query = query.into_query();
        self
    }

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

    /// Asks for rows that the service has soft-deleted, too.
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

    /// Adds a parameter of the app's own to the requests, as in Datasync's `WithParameter`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidQuery`] for a name or a value that is blank, or a name that begins with `$` or `__`.
    pub fn with_parameter(mut self, name: &str, value: &str) -> Result<Self, Error> {
        self.query = self.query.with_parameter(name, value).map_err(invalid_query)?;
        Ok(self)
    }

    /// Reads the rows into a struct that has some of the entity's fields, by their names in JSON, and asks the service for
    /// these fields only: see [`OfflineQuery::select`](crate::client::OfflineQuery::select). The id is asked for in any case.
    pub fn select<Q: DeserializeOwned + 'static>(self) -> RemoteQuery<E, Q> {
        let reader = Reader::part(&self.table.name);
        RemoteQuery { table: self.table, query: self.query, reader }
    }

    /// The rows, page after page.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Service`] if the service refuses the query, else as [`RemoteTable::get`].
    pub async fn to_vec(self) -> Result<Vec<P>, Error> {
        Ok(self.rows().await?.rows)
    }

    /// The rows, and how many there are before `skip` and `top`.
    ///
    /// # Errors
    ///
    /// As [`to_vec`](RemoteQuery::to_vec).
    pub async fn to_rows(mut self) -> Result<Rows<P>, Error> {
        self.query = self.query.count();
        self.rows().await
    }

    /// How many rows match, before `skip` and `top`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Service`] if the service does not say, else as [`to_vec`](RemoteQuery::to_vec).
    pub async fn count(self) -> Result<u64, Error> {
        let total = self.top(0).to_rows().await?.total;
        let unsaid = || Error::new(ErrorKind::Service, "the service does not say how many rows there are");
        total.ok_or_else(unsaid).of(E::TABLE).during(SyncPhase::Remote)
    }

    /// The rows one by one, with one page of them in memory, however many there are.
    ///
    /// A page is asked for when the one before it is used up. Services page by counting rows, so that a row that is added or
    /// removed meanwhile may make another one come twice or not at all. An item is an error as for
    /// [`to_vec`](RemoteQuery::to_vec): after a row that cannot be read the stream goes on, after any other error it ends.
    pub fn stream(self) -> BoxStream<'static, Result<P, Error>> {
        stream::remote(E::TABLE, self.pages())
    }

    fn pages(mut self) -> Result<(Pages, Reader<P>), Error> {
        let mut query = self.reader.prepare(self.query.into_description(), &E::SCHEMA, true)?;
        if !query.select.is_empty() && !query.select.iter().any(|name| name == ID) {
            query.select.push(ID.to_owned());
        }
        let request = PageRequest {
            account: self.table.engine.account(),
            table: Arc::clone(&self.table.name),
            purpose: Purpose::Query,
            query,
            token: None,
            first: true,
            page_size: PAGE_SIZE,
            overlap: std::time::Duration::ZERO,
            include_deleted: false,
        };
        Ok((Pages::new(self.table.engine, request), self.reader))
    }

    async fn rows(self) -> Result<Rows<P>, Error> {
        let found = async {
            let (mut pages, reader) = self.pages()?;
            let mut found = Rows { rows: Vec::new(), total: None };
            while let Some(page) = pages.next().await? {
                found.total = found.total.or(page.total);
                for row in page.rows {
                    found.rows.push(reader.read(&row.id, &row.record)?);
                }
            }
            Ok::<_, Error>(found)
        };
        found.await.of(E::TABLE).during(SyncPhase::Remote)
    }
}
