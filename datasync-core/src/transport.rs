//! The contract between the engine and a service.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use jiff::SignedDuration;
use uuid::Uuid;

pub use crate::secrets::Secrets;
use crate::{
    query::QueryDescription,
    row::{Body, DEFAULT_ACCOUNT, OperationKind, Record},
    store::DeltaToken,
};

/// A way to a service.
///
/// # Behavior
///
/// - Pages of one pull, taken together, hold every row that matches the query and was changed since the token of the
///   first request was made; a row may come more than once, and deleted rows come with `deleted: true`.
/// - A token is good for the table and query it was handed out for. It never covers a row that was not in a page that
///   came with it or before it.
/// - [`push`](Transport::push) sends each operation at most once, unless an attempt certainly did not reach the
///   service: the engine decides about a second attempt.
/// - Dropping a future leaves the outcome of what it sent unknown, and never changes the answer of a later call.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// One page of a pull or of a query.
    ///
    /// # Errors
    ///
    /// See [`TransportErrorKind`]. A page is whole or an error.
    async fn fetch_page(&self, request: &PageRequest) -> Result<Page, TransportError>;

    /// One row by its id; `None` if the service does not have it, or has deleted it and deleted rows are not wanted.
    ///
    /// # Errors
    ///
    /// See [`TransportErrorKind`].
    async fn fetch(&self, request: &RowRequest) -> Result<Option<ServiceRow>, TransportError>;

    /// What the service can do. Asked for at each push, so the answer should be remembered.
    ///
    /// # Errors
    ///
    /// See [`TransportErrorKind`]; a push then sends one operation at a time.
    async fn capabilities(&self) -> Result<Capabilities, TransportError> {
        Ok(Capabilities::default())
    }

    /// Sends operations, at most [`Capabilities::batch`] of them; the outcomes are in the order of the operations, one
    /// for each. Each has its own outcome, and one that is missing at the end is in doubt.
    async fn push(&self, operations: &[PushOperation]) -> Vec<PushOutcome>;

    /// The name of the account that a request for `wanted` would be signed in as; `None` if nobody is signed in, or
    /// whoever is has no name. A transport that remembers a sign-in looks for a newer one before it names another
    /// account than the one wanted.
    ///
    /// A request carries the account that it belongs to, and one that would go out with the credentials of another is
    /// an error of the kind [`OtherAccount`](TransportErrorKind::OtherAccount): it is not sent (I26).
    ///
    /// # Errors
    ///
    /// See [`TransportErrorKind`].
    async fn account(&self, wanted: &str) -> Result<Option<Arc<str>>, TransportError> {
        let _ = wanted;
        Ok(None)
    }

    /// How far the service's clock is ahead of this device's, by its latest answer; `None` if that is not known.
    fn clock_offset(&self) -> Option<SignedDuration> {
        None
    }

    /// The tables of each change that the service tells of, while the stream is read. A stream that ends, or an item that
    /// is an error, may be asked for again. Only called if [`Capabilities::notifications`] is true.
    fn changes(&self, account: Arc<str>) -> BoxStream<'static, Result<ChangeNotice, TransportError>> {
        let _ = account;
        futures::stream::empty().boxed()
    }
}

/// What a service tells of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeNotice {
    /// The service is listening: changes from here on will be told.
    Connected,
    /// Rows of this table have changed.
    Changed(Arc<str>),
}

/// Which row to fetch.
#[derive(Clone, Debug)]
pub struct RowRequest {
    /// The account that asks.
    pub account: Arc<str>,
    /// The table.
    pub table: Arc<str>,
    /// The row.
    pub id: Arc<str>,
    /// Whether a deleted row is wanted too.
    pub include_deleted: bool,
}

impl RowRequest {
    /// The row `id` of `table` in the default account, unless it is deleted.
    #[must_use]
    pub fn new(table: impl Into<Arc<str>>, id: impl Into<Arc<str>>) -> RowRequest {
        RowRequest { account: DEFAULT_ACCOUNT.into(), table: table.into(), id: id.into(), include_deleted: false }
    }
}

/// What a service can do, and its transport with it. The engine never asks for what is not declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// How many operations one call of [`Transport::push`] may hold, at least 1.
    pub batch: usize,
    /// Whether the service keeps idempotency keys: then an operation that is sent again has its effect once.
    pub keys: bool,
    /// Whether a replace may be sent as the fields that differ from [`PushOperation::base`].
    pub patch: bool,
    /// Whether the service tells of changes: see [`Transport::changes`].
    pub notifications: bool,
    /// For how long the service remembers what was deleted; `None` if it does not say.
    pub tombstones: Option<Duration>,
}

impl Default for Capabilities {
    /// One operation at a time, and nothing else.
    fn default() -> Self {
        Capabilities { batch: 1, keys: false, patch: false, notifications: false, tombstones: None }
    }
}

impl Capabilities {
    /// With this many operations in one call of [`Transport::push`]; 0 counts as 1.
    #[must_use]
    pub fn with_batch(mut self, operations: usize) -> Capabilities {
        self.batch = operations.max(1);
        self
    }

    /// Whether the service keeps idempotency keys.
    #[must_use]
    pub fn with_keys(mut self, keys: bool) -> Capabilities {
        self.keys = keys;
        self
    }

    /// Whether a replace may be sent as the fields that differ.
    #[must_use]
    pub fn with_patch(mut self, patch: bool) -> Capabilities {
        self.patch = patch;
        self
    }

    /// For how long the service remembers what was deleted.
    #[must_use]
    pub fn with_tombstones(mut self, period: Duration) -> Capabilities {
        self.tombstones = Some(period);
        self
    }

    /// Whether the service tells of changes.
    #[must_use]
    pub fn with_notifications(mut self, notifications: bool) -> Capabilities {
        self.notifications = notifications;
        self
    }
}

/// A row as the service has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// The id.
    pub id: Arc<str>,
    /// The state: body, version, time and mark of deletion.
    pub record: Record,
}

/// What the pages are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The changes of a query since a token: the transport decides about order and paging, deleted rows are wanted,
    /// and `order`, `skip`, `top` and `count` of the query are not looked at.
    Pull,
    /// The rows of a query, in its order; `token` continues a page's token.
    Query,
}

/// Which page to fetch.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// The account that asks.
    pub account: Arc<str>,
    /// The table.
    pub table: Arc<str>,
    /// Whether this is a pull or a query.
    pub purpose: Purpose,
    /// The query.
    pub query: QueryDescription,
    /// Where to go on: the token of the page before, or the stored one of the scope.
    pub token: Option<DeltaToken>,
    /// Whether this is the first page of a pull or query: then [`Page::total`] is wanted.
    pub first: bool,
    /// How many rows at most, at least 1.
    pub page_size: u32,
    /// How long after its stamp a row may still appear; zero for a query. For services without a safe horizon.
    pub overlap: Duration,
    /// Whether deleted rows are wanted; always true for a pull.
    pub include_deleted: bool,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    /// The rows.
    pub rows: Vec<ServiceRow>,
    /// Rows that have changed and no longer match the query of a pull.
    pub stubs: Vec<Stub>,
    /// Why this is the first page although the request had a token; `None` if it is not so.
    pub restart: Option<Restart>,
    /// The token to store with these rows, and to fetch the next page with; `None` keeps the one there is.
    pub token: Option<DeltaToken>,
    /// Whether there is, or may be, a further page.
    pub more: bool,
    /// How many rows there are in all, if the service said so.
    pub total: Option<u64>,
}

/// A row that has left the filter of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// The row.
    pub id: Arc<str>,
    /// Its version, with which it no longer matches; `None` if the caller no longer sees it.
    pub version: Option<String>,
    /// Whether the service does not have the row any more: it is gone for every query.
    pub removed: bool,
}

/// Why a service begins a pull again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Restart {
    /// The service was restored from a backup: it may have lost rows and versions.
    Restored,
    /// It no longer knows what was deleted, or has left the query, since the token was made.
    Expired,
}

/// An operation as it is sent.
#[derive(Clone, Debug)]
pub struct PushOperation {
    /// The account whose change it is.
    pub account: Arc<str>,
    /// The table.
    pub table: Arc<str>,
    /// The row's id.
    pub id: Arc<str>,
    /// What to do.
    pub kind: OperationKind,
    /// The idempotency key.
    pub key: Uuid,
    /// The version that the service must have; `None` for an insert.
    pub version: Option<String>,
    /// The entity; `None` for a delete.
    pub body: Option<Body>,
    /// What a replace started from, as it would be sent; `None` where that is not known, or nobody asked for patches. What
    /// means the same is spelled as in the body. It is part of what is frozen, as the body is: each attempt comes with the
    /// same, because a patch is made of both.
    pub base: Option<Body>,
}

/// What became of an operation.
#[derive(Debug)]
pub enum PushOutcome {
    /// The service did it; with its copy, if the answer had a readable one.
    Applied(Option<ServiceRow>),
    /// The service has another version, or already has the row; with its copy, if the answer had a readable one.
    Conflict(Option<ServiceRow>),
    /// The service does not have the row at that address: it never did, or it was removed (404).
    NotFound,
    /// The service has soft-deleted the row (410).
    Gone,
    /// Anything else.
    Failed(TransportError),
}

/// What went wrong on the way, classed by what the engine does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// No connection was made: nothing was sent. The push or pull ends, and the operations wait.
    Connect,
    /// The connection broke: the outcome is unknown. Sent again later.
    Interrupted,
    /// The deadline passed: the outcome is unknown. Sent again later.
    Timeout,
    /// The service asked for patience (408, 425, 429). Sent again later.
    Throttled,
    /// The service failed (5xx): the outcome is unknown. Sent again later.
    Server,
    /// The service does not know who asks (401). The push or pull ends until there is a new sign-in.
    Unauthenticated,
    /// The service refuses this caller (403). Parked.
    Forbidden,
    /// The service refuses the request (other 4xx). Parked.
    Rejected,
    /// The request belongs to another account than the one that is signed in: nothing was sent.
    OtherAccount,
    /// The answer does not follow the protocol: the outcome is unknown. Sent again later.
    Protocol,
}

impl TransportErrorKind {
    /// Whether the request may have had an effect although it failed.
    #[must_use]
    pub fn in_doubt(self) -> bool {
        use TransportErrorKind::*;
        matches!(self, Interrupted | Timeout | Server | Protocol)
    }
}

/// An error of a transport. It can be cloned, because one request may have several callers.
#[derive(Clone, Debug)]
pub struct TransportError {
    kind: TransportErrorKind,
    message: String,
    status: Option<u16>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl TransportError {
    /// An error of this kind; `message` holds no body, token or credential: [`Secrets`] takes out what a service repeats.
    pub fn new(kind: TransportErrorKind, message: impl Into<String>) -> TransportError {
        TransportError { kind, message: message.into(), status: None, retry_after: None, source: None }
    }

    /// Adds the status of the answer.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> TransportError {
        self.status = Some(status);
        self
    }

    /// Adds how long the service asked to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Option<Duration>) -> TransportError {
        self.retry_after = wait;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> TransportError {
        self.source = Some(source.into().into());
        self
    }

    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> TransportErrorKind {
        self.kind
    }

    /// The status of the answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// How long the service asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for TransportError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
