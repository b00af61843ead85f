//! Where a table's rows are kept.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use datasync_core::{
    query::{Evaluator, QueryError, SortKey},
    row::Record,
};
use jiff::Timestamp;
use uuid::Uuid;

/// A row of a table. The record's body holds the data fields only; version, time and mark stand beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The id.
    pub id: Arc<str>,
    /// Its state. The version is never empty.
    pub record: Record,
}

/// The trace of a change that was made under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// What the key was used for: verb, id, precondition and body, as one hash.
    pub request: u128,
    /// The status that was answered.
    pub status: u16,
    /// The row as it was then made; `None` for a deletion.
    pub row: Option<Row>,
    /// When.
    pub at: Timestamp,
}

/// The key under which a change is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The key.
    pub key: Uuid,
    /// What is remembered if the change is made; its row is filled in by the repository.
    pub effect: Effect,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was done.
    Done(Row),
    /// The row there has another version, or is there already.
    Conflict(Row),
    /// There is no such row.
    Missing,
}

/// A repository failed.
#[derive(Debug)]
pub struct RepositoryError(pub Box<dyn std::error::Error + Send + Sync>);

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
/// - A write gives the row a new version and time: the later of `now` cut to milliseconds and the greatest time given
///   so far. It is atomic with its idempotency record, which is kept for at least 30 days.
/// - `expected` is the version that must be there; `None` for any.
#[async_trait]
pub trait Repository: fmt::Debug + Send + Sync + 'static {
    /// One row, deleted ones included.
    async fn read(&self, id: &str) -> Result<Option<Row>, RepositoryError>;

    /// The rows that match, in the evaluator's order, deleted ones only if `include_deleted`.
    ///
    /// # Errors
    ///
    /// The inner error is the query's fault, the outer one the repository's.
    async fn query(
        &self,
        evaluator: &Evaluator,
        include_deleted: bool,
    ) -> Result<Result<Vec<Row>, QueryError>, RepositoryError>;

    /// Adds a row.
    async fn create(&self, row: Row, now: Timestamp, key: Option<Idempotency>)
    -> Result<WriteOutcome, RepositoryError>;

    /// Replaces a row.
    async fn replace(
        &self,
        row: Row,
        expected: Option<&str>,
        now: Timestamp,
        key: Option<Idempotency>,
    ) -> Result<WriteOutcome, RepositoryError>;

    /// Removes a row for good.
    async fn delete(
        &self,
        id: &str,
        expected: Option<&str>,
        now: Timestamp,
        key: Option<Idempotency>,
    ) -> Result<WriteOutcome, RepositoryError>;

    /// What was done under a key.
    async fn effect(&self, key: Uuid) -> Result<Option<Effect>, RepositoryError>;
}

/// Orders the rows that match.
pub(crate) fn select<'r>(rows: impl Iterator<Item = &'r Row>, evaluator: &Evaluator) -> Result<Vec<Row>, QueryError> {
    let mut found: Vec<(SortKey, &Row)> = Vec::new();
    for row in rows {
        if let Some(key) = evaluator.evaluate(&row.id, &row.record)? {
            found.push((key, row));
        }
    }
    found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(found.into_iter().map(|(_, row)| row.clone()).collect())
}
