//! Rows in memory.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use datasync_core::{
    clock::{Clock, SystemClock, random_key},
    query::{QueryDescription, QueryError, SortKey},
    row::{Body, Record},
    schema::UPDATED_AT,
};
use jiff::{SignedDuration, Timestamp, TimestampRound, Unit};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    departures::{Departure, Walk},
    repository::{
        Change, Changes, ChangesQuery, Effect, FORGOTTEN, Forget, Idempotency, Judged, KEYS_KEPT, Page, Place,
        Repository, RepositoryError, Row, RowQuery, Selection, WriteOutcome, judge, monotone,
    },
};

/// Which times a [`MemoryRepository`] gives its rows, so that a client can be tested against services that do it worse.
#[derive(Clone, Debug, Default)]
pub enum Stamping {
    /// As [`Repository`] demands.
    #[default]
    Own,
    /// Whatever this says of an id and the time of the request.
    Given(fn(&str, Timestamp) -> Timestamp),
    /// To 100 ns; shown, as by the originals, with the milliseconds cut off.
    Cut,
    /// To 100 ns; shown rounded to milliseconds.
    Rounded,
    /// Up to this much before the change can be seen, as a service does that stamps a row before its commit.
    BeforeCommit(SignedDuration),
}

/// The rows of a table in memory. Clones are handles of the same rows.
#[derive(Clone)]
pub struct MemoryRepository {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    stamping: Stamping,
}

#[derive(Clone, Default)]
struct State {
    epoch: Uuid,
    rows: BTreeMap<Arc<str>, Row>,
    by_sequence: BTreeMap<u64, (Timestamp, Arc<str>)>,
    departures: BTreeMap<u64, (Timestamp, Departure)>,
    /// The fields whose changes leave departures.
    tracked: BTreeSet<String>,
    sequence: u64,
    latest: Option<Timestamp>,
    /// Up to where rows that are marked as deleted were forgotten.
    swept: u64,
    /// The greatest sequence of what was forgotten.
    forgotten: u64,
    effects: BTreeMap<(Arc<str>, Uuid), Effect>,
    by_age: BTreeMap<(Timestamp, Uuid), Arc<str>>,
}

/// The rows of a [`MemoryRepository`] at some time, as a backup holds them.
#[derive(Clone)]
pub struct MemorySnapshot(State);

impl fmt::Debug for MemorySnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySnapshot").field("rows", &self.0.rows.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for MemoryRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRepository").field("rows", &self.state().rows.len()).finish_non_exhaustive()
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
        let state = State { epoch: random_key(&clock), ..State::default() };
        MemoryRepository { state: Arc::new(Mutex::new(state)), clock: Arc::new(clock), stamping: Stamping::Own }
    }

    /// Gives rows these times, for tests.
    #[must_use]
    pub fn stamping(mut self, stamping: Stamping) -> MemoryRepository {
        self.stamping = stamping;
        self
    }

    /// Adds the objects of a JSON array; one without an `id` gets one, and one with `"deleted": true` is marked so.
    /// Existing rows of the same ids are replaced. Their times lie one millisecond apart and end now, as if they had been
    /// written one after the other, so that pages of them never split a millisecond. Returns how many there were.
    ///
    /// # Errors
    ///
    /// A value that is not an array of objects.
    pub fn seed(&self, rows: Value) -> Result<usize, RepositoryError> {
        let wrong = || RepositoryError::new("the data must be a JSON array of objects");
        let Value::Array(items) = rows else { return Err(wrong()) };
        let count = items.len();
        let now = self.clock.now();
        for (place, item) in items.into_iter().enumerate() {
            let before = i64::try_from(count - place).map_or(SignedDuration::ZERO, SignedDuration::from_millis);
            let Value::Object(mut object) = item else { return Err(wrong()) };
            let id = match object.get("id").and_then(Value::as_str) {
                Some(id) if !id.is_empty() => id.to_owned(),
                _ => random_key(&*self.clock).simple().to_string(),
            };
            object.insert("id".to_owned(), id.as_str().into());
            let deleted = object.remove("deleted") == Some(Value::Bool(true));
            let body = serde_json::to_vec(&object).map_err(RepositoryError::new)?;
            let record = Record { body: Body::from(body), version: None, updated_at: None, deleted };
            self.put(&mut self.state(), &id.into(), record, now.checked_sub(before).unwrap_or(now));
        }
        Ok(count)
    }

    /// All rows, deleted ones included, in the order of their ids.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.state().rows.values().map(|row| self.shown(row)).collect()
    }

    /// Removes every row and what is known of them.
    pub fn clear(&self) {
        let mut state = self.state();
        let (epoch, tracked) = (state.epoch, std::mem::take(&mut state.tracked));
        *state = State { epoch, tracked, sequence: state.sequence, latest: state.latest, ..State::default() };
    }

    /// Removes a row without a trace, as who deletes in a database behind the service's back. For tests.
    pub fn lose(&self, id: &str) {
        let mut state = self.state();
        if let Some(row) = state.rows.remove(id) {
            state.by_sequence.remove(&row.sequence);
        }
    }

    /// Everything as it is now. For tests.
    #[must_use]
    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.state().clone())
    }

    /// Goes back to a snapshot, as a service that is restored from a backup: rows, versions and keys that came later are
    /// lost, and there is another epoch. For tests.
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        *self.state() = State { epoch: random_key(&*self.clock), ..snapshot.0.clone() };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a record with a new version, sequence and time.
    fn put(&self, state: &mut State, id: &Arc<str>, mut record: Record, now: Timestamp) -> Row {
        let time = match &self.stamping {
            Stamping::Own => monotone(now, state.latest),
            Stamping::Given(given) => given(id, now),
            Stamping::Cut | Stamping::Rounded => {
                Timestamp::from_nanosecond(now.as_nanosecond().div_euclid(100) * 100).unwrap_or(now)
            }
            Stamping::BeforeCommit(by) => {
                let most = by.as_millis().unsigned_abs() as u64 + 1;
                let before = i64::try_from(self.clock.random() % most).unwrap_or(0);
                now.checked_sub(SignedDuration::from_millis(before)).unwrap_or(now)
            }
        };
        let bytes = [self.clock.random().to_be_bytes(), self.clock.random().to_be_bytes()].concat();
        record.version = Some(BASE64_STANDARD.encode(bytes));
        record.updated_at = Some(time);
        state.latest = state.latest.max(Some(time));
        state.sequence += 1;
        let row = Row { id: Arc::clone(id), record, sequence: state.sequence };
        if let Some(before) = state.rows.insert(Arc::clone(id), row.clone()) {
            state.by_sequence.remove(&before.sequence);
            let departure = Departure::of(&state.tracked, &before, Some(&row.record));
            state.departures.extend(departure.map(|departure| (row.sequence, (time, departure))));
        }
        state.by_sequence.insert(row.sequence, (time, Arc::clone(id)));
        row
    }

    /// The row as it leaves the service.
    fn shown(&self, row: &Row) -> Row {
        let mut row = row.clone();
        if let (Stamping::Rounded, Some(time)) = (&self.stamping, row.record.updated_at) {
            row.record.updated_at = time.round(TimestampRound::new().smallest(Unit::Millisecond)).ok();
        }
        row
    }

    /// The order of the rows; where times are kept more exactly than they are shown, they count as they are kept.
    fn order(&self, query: &QueryDescription, one: &(SortKey, &Row), other: &(SortKey, &Row)) -> Ordering {
        let by_time = query.order.first().filter(|key| key.field.eq_ignore_ascii_case(UPDATED_AT));
        let exact = one.1.record.updated_at.cmp(&other.1.record.updated_at);
        let first = match by_time {
            None => Ordering::Equal,
            Some(key) if key.descending => exact.reverse(),
            Some(_) => exact,
        };
        first.then_with(|| one.0.cmp(&other.0))
    }
}

impl State {
    fn remove(&mut self, row: &Row, now: Timestamp) {
        self.rows.remove(&row.id);
        self.by_sequence.remove(&row.sequence);
        let time = monotone(now, self.latest);
        self.latest = Some(time);
        self.sequence += 1;
        let departure = Departure::of(&self.tracked, row, None);
        self.departures.extend(departure.map(|departure| (self.sequence, (time, departure))));
    }

    fn forget(&mut self, forget: &Forget) {
        if forget.tombstones {
            let behind = (Bound::Excluded(self.swept), Bound::Unbounded);
            let next: Vec<(u64, Timestamp, Arc<str>)> = self
                .by_sequence
                .range(behind)
                .take(FORGOTTEN)
                .map(|(at, (time, id))| (*at, *time, id.clone()))
                .collect();
            for (sequence, _, id) in next.into_iter().take_while(|(_, time, _)| *time < forget.before) {
                self.swept = sequence;
                if self.rows.get(&id).is_some_and(|row| row.record.deleted) {
                    self.rows.remove(&id);
                    self.by_sequence.remove(&sequence);
                    self.forgotten = self.forgotten.max(sequence);
                }
            }
        }
        for _ in 0..FORGOTTEN {
            match self.departures.first_entry() {
                Some(oldest) if oldest.get().0 < forget.before => {
                    self.forgotten = self.forgotten.max(*oldest.key());
                    oldest.remove();
                }
                _ => break,
            }
        }
    }

    /// The next sequence behind one at which something happened.
    fn next(&self, behind: u64) -> Option<Place> {
        let range = (Bound::Excluded(behind), Bound::Unbounded);
        let changed = self.by_sequence.range(range).next().map(|(sequence, (time, _))| (*sequence, *time));
        let departed = self.departures.range(range).next().map(|(sequence, (time, _))| (*sequence, *time));
        let (sequence, updated_at) = match (changed, departed) {
            (Some(changed), Some(departed)) => changed.min(departed),
            (changed, departed) => changed.or(departed)?,
        };
        Some(Place { updated_at, sequence })
    }

    fn page(&self, query: &ChangesQuery, shown: impl Fn(&Row) -> Row) -> Result<Changes, QueryError> {
        let mut walk = Walk::new(query, self.sequence, self.forgotten);
        let mut behind = query.since.map_or(0, |place| place.sequence);
        while let Some(place) = self.next(behind)
            && !walk.ends()
        {
            walk.to(place);
            behind = place.sequence;
            let changed = self.by_sequence.get(&behind).and_then(|(_, id)| self.rows.get(id));
            if let Some(row) = changed
                && !walk.changed(shown(row))?
            {
                break;
            }
            if let Some((_, departure)) = self.departures.get(&behind)
                && walk.concerns(departure)?
            {
                walk.departed(departure.clone(), self.rows.get(&departure.id))?;
            }
        }
        Ok(walk.page())
    }

    fn remember(&mut self, key: Option<Idempotency>, row: &Row, now: Timestamp) {
        let Some(Idempotency { caller, key, request, status }) = key else { return };
        let oldest = now.checked_sub(KEYS_KEPT).unwrap_or(Timestamp::MIN);
        while let Some(((at, old), caller)) = self.by_age.pop_first() {
            if at >= oldest {
                self.by_age.insert((at, old), caller);
                break;
            }
            self.effects.remove(&(caller, old));
        }
        self.by_age.insert((now, key), Arc::clone(&caller));
        self.effects.insert((caller, key), Effect { request, status, row: row.clone(), at: now });
    }
}

#[async_trait]
impl Repository for MemoryRepository {
    async fn epoch(&self) -> Result<Uuid, RepositoryError> {
        Ok(self.state().epoch)
    }

    async fn read(&self, id: &str) -> Result<Option<Row>, RepositoryError> {
        Ok(self.state().rows.get(id).map(|row| self.shown(row)))
    }

    async fn query(&self, query: RowQuery) -> Result<Selection, RepositoryError> {
        let state = self.state();
        let mut found: Vec<(SortKey, &Row)> = Vec::new();
        for row in state.rows.values().filter(|row| query.include_deleted || !row.record.deleted) {
            let key = query.evaluator.evaluate(&row.id, &row.record).map_err(RepositoryError::new)?;
            found.extend(key.map(|key| (key, row)));
        }
        found.sort_unstable_by(|one, other| self.order(&query.description, one, other));
        let skip = usize::try_from(query.description.skip).unwrap_or(usize::MAX);
        let total = query.description.count.then_some(found.len() as u64);
        let wanted = found.get(skip..).unwrap_or_default();
        let mut page = Page::new(query.limit);
        let more = !wanted.iter().all(|(_, row)| page.take(self.shown(row)));
        Ok(Selection { rows: page.rows, more, total })
    }

    async fn changes(&self, query: ChangesQuery) -> Result<Changes, RepositoryError> {
        let mut state = self.state();
        state.tracked.extend(query.view.iter().flat_map(|view| view.fields.iter().cloned()));
        state.page(&query, |row| self.shown(row)).map_err(RepositoryError::new)
    }

    async fn write(&self, change: Change) -> Result<WriteOutcome, RepositoryError> {
        let mut state = self.state();
        if let Some(key) = &change.key
            && let Some(effect) = state.effects.get(&(Arc::clone(&key.caller), key.key))
        {
            return Ok(WriteOutcome::Replayed(effect.clone()));
        }
        let there = state.rows.get(&change.id).map(|row| self.shown(row));
        let row = match judge(there, &change) {
            Judged::Answer(outcome) => return Ok(outcome),
            Judged::Put(record) => {
                let row = self.put(&mut state, &change.id, record, change.now);
                self.shown(&row)
            }
            Judged::Remove(gone) => {
                state.remove(&gone, change.now);
                gone
            }
        };
        state.remember(change.key, &row, change.now);
        if let Some(forget) = &change.forget {
            state.forget(forget);
        }
        Ok(WriteOutcome::Done(row))
    }

    async fn effect(&self, caller: &str, key: Uuid) -> Result<Option<Effect>, RepositoryError> {
        Ok(self.state().effects.get(&(caller.into(), key)).cloned())
    }
}
