//! Rows in memory.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use datasync_core::{
    clock::{Clock, SystemClock},
    query::{Evaluator, QueryError},
    row::{Body, Record},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use crate::repository::{Effect, Idempotency, Repository, RepositoryError, Row, WriteOutcome, select};

/// How long an idempotency key is kept.
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The rows of a table in memory. Clones are handles of the same rows.
#[derive(Clone)]
pub struct MemoryRepository {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<Arc<str>, Row>,
    effects: BTreeMap<Uuid, Effect>,
    by_age: BTreeMap<(Timestamp, Uuid), ()>,
    latest: Option<Timestamp>,
}

impl fmt::Debug for MemoryRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRepository").field("rows", &self.state().rows.len()).finish()
    }
}

impl Default for MemoryRepository {
    fn default() -> Self {
        MemoryRepository::new()
    }
}

impl MemoryRepository {
    /// No rows.
    #[must_use]
    pub fn new() -> MemoryRepository {
        MemoryRepository::with_clock(SystemClock)
    }

    /// No rows, and versions from this clock's randomness.
    #[must_use]
    pub fn with_clock(clock: impl Clock) -> MemoryRepository {
        MemoryRepository { state: Arc::default(), clock: Arc::new(clock) }
    }

    /// Adds the objects of a JSON array; one without an `id` gets one. Existing rows of the same ids are replaced. Their
    /// times lie one millisecond apart and end now, as if they had been written one after the other, so that pages of
    /// them never split a millisecond. Returns how many there were.
    ///
    /// # Errors
    ///
    /// A value that is not an array of objects.
    pub fn seed(&self, rows: Value) -> Result<usize, RepositoryError> {
        let wrong = || RepositoryError("the data must be a JSON array of objects".into());
        let Value::Array(items) = rows else { return Err(wrong()) };
        let count = items.len();
        let now = self.clock.now();
        for (place, item) in items.into_iter().enumerate() {
            let before = i64::try_from(count - place).map_or(SignedDuration::ZERO, SignedDuration::from_millis);
            let Value::Object(mut object) = item else { return Err(wrong()) };
            let id = match object.get("id").and_then(Value::as_str) {
                Some(id) if !id.is_empty() => id.to_owned(),
                _ => datasync_core::clock::random_key(&*self.clock).simple().to_string(),
            };
            object.insert("id".to_owned(), id.as_str().into());
            let body = serde_json::to_vec(&object).map_err(|error| RepositoryError(error.into()))?;
            let record = Record { body: Body::from(body), version: None, updated_at: None, deleted: false };
            let row = Row { id: id.into(), record };
            let mut state = self.state();
            let row = self.stamp(&mut state, row, now.checked_sub(before).unwrap_or(now));
            state.rows.insert(Arc::clone(&row.id), row);
        }
        Ok(count)
    }

    /// All rows, deleted ones included, in the order of their ids.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.state().rows.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the row a new version, and a time that never goes back.
    fn stamp(&self, state: &mut State, mut row: Row, now: Timestamp) -> Row {
        let cut = Timestamp::from_millisecond(now.as_nanosecond().div_euclid(1_000_000) as i64).unwrap_or(now);
        let time = state.latest.map_or(cut, |latest| latest.max(cut));
        state.latest = Some(time);
        let bytes = [self.clock.random().to_be_bytes(), self.clock.random().to_be_bytes()].concat();
        row.record.version = Some(BASE64_STANDARD.encode(bytes));
        row.record.updated_at = Some(time);
        row
    }
}

impl State {
    fn remember(&mut self, key: Option<Idempotency>, row: Option<Row>, now: Timestamp) {
        let Some(Idempotency { key, effect }) = key else { return };
        let oldest = now.checked_sub(KEPT).unwrap_or(Timestamp::MIN);
        while let Some(((at, old), ())) = self.by_age.first_key_value().filter(|((at, _), ())| *at < oldest) {
            let (at, old) = (*at, *old);
            self.by_age.remove(&(at, old));
            self.effects.remove(&old);
        }
        self.by_age.insert((now, key), ());
        self.effects.insert(key, Effect { row, at: now, ..effect });
    }
}

#[async_trait]
impl Repository for MemoryRepository {
    async fn read(&self, id: &str) -> Result<Option<Row>, RepositoryError> {
        Ok(self.state().rows.get(id).cloned())
    }

    async fn query(
        &self,
        evaluator: &Evaluator,
        include_deleted: bool,
    ) -> Result<Result<Vec<Row>, QueryError>, RepositoryError> {
        let state = self.state();
        Ok(select(state.rows.values().filter(|row| include_deleted || !row.record.deleted), evaluator))
    }

    async fn create(
        &self,
        row: Row,
        now: Timestamp,
        key: Option<Idempotency>,
    ) -> Result<WriteOutcome, RepositoryError> {
        let mut state = self.state();
        if let Some(there) = state.rows.get(&row.id) {
            return Ok(WriteOutcome::Conflict(there.clone()));
        }
        let row = self.stamp(&mut state, row, now);
        state.rows.insert(Arc::clone(&row.id), row.clone());
        state.remember(key, Some(row.clone()), now);
        Ok(WriteOutcome::Done(row))
    }

    async fn replace(
        &self,
        row: Row,
        expected: Option<&str>,
        now: Timestamp,
        key: Option<Idempotency>,
    ) -> Result<WriteOutcome, RepositoryError> {
        let mut state = self.state();
        let Some(there) = state.rows.get(&row.id) else { return Ok(WriteOutcome::Missing) };
        if expected.is_some() && there.record.version.as_deref() != expected {
            return Ok(WriteOutcome::Conflict(there.clone()));
        }
        let row = self.stamp(&mut state, row, now);
        state.rows.insert(Arc::clone(&row.id), row.clone());
        state.remember(key, Some(row.clone()), now);
        Ok(WriteOutcome::Done(row))
    }

    async fn delete(
        &self,
        id: &str,
        expected: Option<&str>,
        now: Timestamp,
        key: Option<Idempotency>,
    ) -> Result<WriteOutcome, RepositoryError> {
        let mut state = self.state();
        let Some(there) = state.rows.get(id) else { return Ok(WriteOutcome::Missing) };
        if expected.is_some() && there.record.version.as_deref() != expected {
            return Ok(WriteOutcome::Conflict(there.clone()));
        }
        let gone = there.clone();
        state.rows.remove(id);
        state.remember(key, None, now);
        Ok(WriteOutcome::Done(gone))
    }

    async fn effect(&self, key: Uuid) -> Result<Option<Effect>, RepositoryError> {
        Ok(self.state().effects.get(&key).cloned())
    }
}
