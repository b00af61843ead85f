//! Where a table's rows are kept.

use std::{collections::BTreeSet, fmt, sync::Arc};

use async_trait::async_trait;
use datasync_core::{
    query::{Evaluator, QueryDescription},
    row::Record,
};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// How long an idempotency key is remembered, at least.
pub const KEYS_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How many entries of the past a change looks at that may be forgotten. More than the one that it adds, so that what is
/// old never gathers.
pub(crate) const FORGOTTEN: usize = 4;

/// How long the bodies of a page's rows are together, at most, in bytes; a longer row is a page of its own.
const BYTES_A_PAGE: usize = 8 * 1024 * 1024;

/// The rows of a page while they are gathered.
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    limit: usize,
    bytes: usize,
}

impl Page {
    pub(crate) fn new(limit: usize) -> Page {
        Page { rows: Vec::new(), limit, bytes: 0 }
    }

    /// Takes one more row, if there is room for it.
    pub(crate) fn take(&mut self, row: Row) -> bool {
        let length = row.record.body.as_bytes().len();
        let fits = self.rows.is_empty() || self.bytes + length <= BYTES_A_PAGE;
        if self.rows.len() == self.limit || !fits {
            return false;
        }
        self.bytes += length;
        self.rows.push(row);
        true
    }
}

/// A row of a table. The record's body holds the data fields only; version, time and mark stand beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The id.
    pub id: Arc<str>,
    /// Its state. The version is never empty.
    pub record: Record,
    /// Its place in the order of the table's commits: unique, and greater with each change.
    pub sequence: u64,
}

/// The trace of a change that was made under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// What the key was used for: verb, id, precondition and body, as one hash.
    pub request: u128,
    /// The status that was answered.
    pub status: u16,
    /// The row as it was then made, or as it was when it was removed.
    pub row: Row,
    /// When.
    pub at: Timestamp,
}

/// The key under which a change is made, and what is remembered with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Whose key it is.
    pub caller: Arc<str>,
    /// The key.
    pub key: Uuid,
    /// What it is used for, as in [`Effect::request`].
    pub request: u128,
    /// The status that will be answered.
    pub status: u16,
}

/// What a change does to its row. The record's version and time are given by the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds it; a row of the same id is a conflict.
    Create(Record),
    /// Replaces it.
    Replace(Record),
    /// Removes it for good.
    Remove,
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The row's id.
    pub id: Arc<str>,
    /// What is done.
    pub action: Action,
    /// The version that must be there; `None` for any.
    pub expected: Option<String>,
    /// The time of the request.
    pub now: Timestamp,
    /// The key, if the request has one.
    pub key: Option<Idempotency>,
    /// What may be forgotten in the same commit; nothing if it is `None`.
    pub forget: Option<Forget>,
}

/// What of the past may be forgotten. A change forgets a few things, so that it costs bounded work and the past does not
/// grow for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// What lies before this.
    pub before: Timestamp,
    /// Whether rows that are marked as deleted are removed then; departures always are.
    pub tombstones: bool,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was done; the row as it is, or as it was when it was removed.
    Done(Row),
    /// The row there has another version, or is there already.
    Conflict(Row),
    /// There is no such row.
    Missing,
    /// The key has been used before; nothing was done.
    Replayed(Effect),
}

/// Which rows are wanted: those that match `description`, in its order, from its `skip` on.
#[derive(Clone, Debug)]
pub struct RowQuery {
    /// The query; its `skip` and `count` are looked at, its `top` is not.
    pub description: QueryDescription,
    /// The query, made ready.
    pub evaluator: Evaluator,
    /// Whether rows that are marked as deleted are wanted.
    pub include_deleted: bool,
    /// How many rows, at most.
    pub limit: usize,
}

/// The rows that a query found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether further rows match.
    pub more: bool,
    /// How many rows match in all; only if the query asks for the count.
    pub total: Option<u64>,
}

/// A place in the order of a table's commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The time of the row that was changed there.
    pub updated_at: Timestamp,
    /// Its sequence.
    pub sequence: u64,
}

/// The rows that a caller sees.
#[derive(Clone, Debug)]
pub struct View {
    /// The condition, made ready.
    pub evaluator: Evaluator,
    /// The fields that it looks at, as they are spelled in a stored row.
    pub fields: BTreeSet<String>,
}

/// Which changes are wanted.
#[derive(Clone, Debug)]
pub struct ChangesQuery {
    /// The place that they lie behind; `None` for all.
    pub since: Option<Place>,
    /// The sequence up to which no row is let go: the caller held nothing then.
    pub begun: u64,
    /// The filter, within the view.
    pub evaluator: Evaluator,
    /// The view; `None` if the caller sees everything.
    pub view: Option<View>,
    /// How many rows, at most.
    pub limit: usize,
}

/// A row that has changed and is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The row.
    pub id: Arc<str>,
    /// Its version, if the caller sees it.
    pub version: Option<String>,
    /// Whether it is marked as deleted, or was removed.
    pub deleted: bool,
}

/// The rows that were changed behind a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The rows that match, in the order of their sequence, deleted ones included.
    pub rows: Vec<Row>,
    /// Rows that were perhaps wanted before and are not now. None of them was never in the caller's view.
    pub left: Vec<Left>,
    /// Up to where the table was looked at; `None` if it has never had a row.
    pub place: Option<Place>,
    /// Whether there may be more before the safe horizon.
    pub more: bool,
    /// The greatest sequence given when the page was read.
    pub horizon: u64,
    /// The greatest sequence of what was forgotten; 0 if nothing was.
    pub forgotten: u64,
}

/// A repository failed. What is inside is for the operator, and never sent to a client.
#[derive(Debug)]
pub struct RepositoryError(Box<dyn std::error::Error + Send + Sync>);

impl RepositoryError {
    /// An error with its cause.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RepositoryError {
        RepositoryError(cause.into())
    }
}

impl fmt::Display for RepositoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the repository failed: {}", self.0)
    }
}

impl std::error::Error for RepositoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// The rows of one table.
///
/// # Behavior
///
/// - A change gives its row a new version, a sequence greater than every one given before, and a time: the later of
///   `now` cut to milliseconds and the greatest time given so far.
/// - A change is one commit with the trace of its idempotency key, which is kept for [`KEYS_KEPT`] or longer. A key of the
///   same caller that is there already wins over everything else: nothing is done.
/// - A removal takes a sequence too. It leaves a *departure*, and so does a change of a field that is tracked: what the
///   row was before, as far as tracked fields tell. A departure is in the commit of its change.
/// - Rows that are marked as deleted, and departures, are forgotten by changes that say so, the oldest first.
/// - What a write has answered survives a crash, if the repository is durable at all.
/// - A page may hold fewer rows than wanted, at least one if there is one; `more` then says so. The repositories of this
///   crate end one at 8 MiB of bodies, so that neither side needs memory without bound.
#[async_trait]
pub trait Repository: fmt::Debug + Send + Sync + 'static {
    /// A random number that changes when the rows may have gone back in time, as by the restore of a backup.
    async fn epoch(&self) -> Result<Uuid, RepositoryError>;

    /// One row, deleted ones included.
    async fn read(&self, id: &str) -> Result<Option<Row>, RepositoryError>;

    /// The rows that match, in the order of the query: as many as are wanted, or fewer if they would be long together.
    async fn query(&self, query: RowQuery) -> Result<Selection, RepositoryError>;

    /// Rows that were changed behind a place, none beyond the safe horizon: as many as are wanted, or fewer if they would be
    /// long together. The fields of the view are tracked from before the rows are read on, for good.
    async fn changes(&self, query: ChangesQuery) -> Result<Changes, RepositoryError>;

    /// Makes a change.
    async fn write(&self, change: Change) -> Result<WriteOutcome, RepositoryError>;

    /// What a caller did under a key.
    async fn effect(&self, caller: &str, key: Uuid) -> Result<Option<Effect>, RepositoryError>;
}

/// The time of a change: never before the times given so far.
pub(crate) fn monotone(now: Timestamp, latest: Option<Timestamp>) -> Timestamp {
    let cut = Timestamp::from_millisecond(now.as_nanosecond().div_euclid(1_000_000) as i64).unwrap_or(now);
    latest.map_or(cut, |latest| latest.max(cut))
}

/// What a change comes to, given the row that is there.
pub(crate) enum Judged {
    /// The row is stored with this record.
    Put(Record),
    /// The row is removed.
    Remove(Row),
    /// Nothing is done.
    Answer(WriteOutcome),
}

pub(crate) fn judge(there: Option<Row>, change: &Change) -> Judged {
    match (&change.action, there) {
        (Action::Create(_), Some(there)) => Judged::Answer(WriteOutcome::Conflict(there)),
        (Action::Create(record), None) => Judged::Put(record.clone()),
        (_, None) => Judged::Answer(WriteOutcome::Missing),
        (_, Some(there)) if change.expected.is_some() && there.record.version != change.expected => {
            Judged::Answer(WriteOutcome::Conflict(there))
        }
        (Action::Replace(record), Some(_)) => Judged::Put(record.clone()),
        (Action::Remove, Some(there)) => Judged::Remove(there),
    }
}
