//! The one writer: what waits is committed together.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, PoisonError},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use datasync_core::row::Record;
use futures::channel::oneshot;
use jiff::Timestamp;
use redb::{Database, ReadableDatabase, ReadableTable, Table, WriteTransaction};

use super::{Names, SERVICE, Shared, bytes, marks::Marks, rows};
use crate::{
    departures::Departure,
    repository::{
        Change, Effect, FORGOTTEN, Forget, Idempotency, Judged, KEYS_KEPT, Place, RepositoryError, Row, WriteOutcome,
        judge, monotone,
    },
};

/// How many changes share a commit, at most.
const MOST: usize = 1_000;

type Answer = Result<WriteOutcome, Arc<RepositoryError>>;
type BytesTable<'t> = Table<'t, &'static [u8], &'static [u8]>;

struct Job {
    names: Arc<Names>,
    change: Change,
    answer: oneshot::Sender<Answer>,
}

/// The changes that wait for the writer.
#[derive(Default)]
pub(super) struct Queue {
    jobs: Vec<Job>,
    /// Whether a thread is at work, which takes what is here before it ends.
    running: bool,
}

impl Queue {
    pub(super) fn push(shared: &Arc<Shared>, names: Arc<Names>, change: Change, answer: oneshot::Sender<Answer>) {
        let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.jobs.push(Job { names, change, answer });
        if !std::mem::replace(&mut queue.running, true) {
            let shared = Arc::clone(shared);
            blocking::unblock(move || drain(&shared)).detach();
        }
    }
}

/// Leaves the queue usable if the writer panics: what waits gets an error, and the next change starts another writer.
struct Running<'s>(&'s Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.jobs.clear();
            queue.running = false;
        }
    }
}

fn drain(shared: &Shared) {
    let _running = Running(shared);
    loop {
        let jobs: Vec<Job> = {
            let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.jobs.is_empty() {
                queue.running = false;
                return;
            }
            let most = queue.jobs.len().min(MOST);
            queue.jobs.drain(..most).collect()
        };
        // A request that was given up while it waited is not done behind its client's back.
        let wanted: Vec<&Job> = jobs.iter().filter(|job| !job.answer.is_canceled()).collect();
        let outcomes = shared.with(|database| commit(shared, database, &wanted));
        match outcomes {
            Ok(outcomes) => {
                let mut outcomes = outcomes.into_iter();
                for job in jobs {
                    if !job.answer.is_canceled()
                        && let Some(outcome) = outcomes.next()
                    {
                        // Nobody is waiting any more if the request was dropped.
                        let _ = job.answer.send(Ok(outcome));
                    }
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for job in jobs {
                    let _ = job.answer.send(Err(Arc::clone(&error)));
                }
            }
        }
    }
}

fn commit(shared: &Shared, database: &Database, jobs: &[&Job]) -> Result<Vec<WriteOutcome>, redb::Error> {
    let write = database.begin_write()?;
    let mut outcomes = Vec::with_capacity(jobs.len());
    {
        let mut service = write.open_table(SERVICE)?;
        let mut tables: BTreeMap<&str, Tables<'_>> = BTreeMap::new();
        for job in jobs {
            let names = &*job.names;
            if !tables.contains_key(names.rows.as_str()) {
                tables.insert(&names.rows, Tables::open(&write, &service, names)?);
            }
            if let Some(tables) = tables.get_mut(names.rows.as_str()) {
                outcomes.push(tables.apply(shared, &job.change)?);
            }
        }
        for tables in tables.values() {
            tables.marks.store(&tables.marks_before, &mut service, tables.names)?;
        }
    }
    write.commit()?;
    Ok(outcomes)
}

/// Has changes of these fields leave departures from here on.
pub(super) fn track(database: &Database, names: &Names, fields: &BTreeSet<String>) -> Result<(), redb::Error> {
    let known = Marks::read(&database.begin_read()?.open_table(SERVICE)?, names)?;
    if fields.is_subset(&known.tracked) {
        return Ok(());
    }
    let write = database.begin_write()?;
    {
        let mut service = write.open_table(SERVICE)?;
        let before = Marks::read(&service, names)?;
        let mut marks = before.clone();
        marks.tracked.extend(fields.iter().cloned());
        marks.store(&before, &mut service, names)?;
    }
    write.commit()?;
    Ok(())
}

/// The redb tables of a table while a commit is made.
struct Tables<'t> {
    names: &'t Names,
    rows: BytesTable<'t>,
    stamps: BytesTable<'t>,
    departures: BytesTable<'t>,
    keys: BytesTable<'t>,
    ages: BytesTable<'t>,
    marks: Marks,
    marks_before: Marks,
}

impl<'t> Tables<'t> {
    fn open(write: &'t WriteTransaction, service: &BytesTable<'t>, names: &'t Names) -> Result<Self, redb::Error> {
        let marks = Marks::read(service, names)?;
        Ok(Tables {
            names,
            rows: write.open_table(bytes(&names.rows))?,
            stamps: write.open_table(bytes(&names.stamps))?,
            departures: write.open_table(bytes(&names.departures))?,
            keys: write.open_table(bytes(&names.keys))?,
            ages: write.open_table(bytes(&names.ages))?,
            marks_before: marks.clone(),
            marks,
        })
    }

    fn apply(&mut self, shared: &Shared, change: &Change) -> Result<WriteOutcome, redb::Error> {
        if let Some(key) = &change.key
            && let Some(effect) = self.keys.get(&rows::key_bytes(&key.caller, key.key)[..])?
        {
            return Ok(WriteOutcome::Replayed(rows::effect(effect.value())?));
        }
        let there = match self.rows.get(change.id.as_bytes())? {
            Some(there) => Some(rows::row(&change.id, there.value())?),
            None => None,
        };
        let before = there.clone();
        let row = match judge(there, change) {
            Judged::Answer(outcome) => return Ok(outcome),
            Judged::Put(record) => {
                let row = self.put(shared, &change.id, record, change.now)?;
                self.depart(before.as_ref(), Some(&row.record))?;
                row
            }
            Judged::Remove(gone) => {
                self.rows.remove(change.id.as_bytes())?;
                self.next_place(change.now);
                self.depart(before.as_ref(), None)?;
                gone
            }
        };
        if let Some(key) = &change.key {
            self.remember(key, &row, change.now)?;
        }
        if let Some(forget) = &change.forget {
            self.forget(forget)?;
        }
        Ok(WriteOutcome::Done(row))
    }

    /// The place of the next change.
    fn next_place(&mut self, now: Timestamp) -> Place {
        let last = self.marks.last;
        let updated_at = monotone(now, last.map(|last| last.updated_at));
        let place = Place { updated_at, sequence: last.map_or(0, |last| last.sequence) + 1 };
        self.marks.last = Some(place);
        place
    }

    /// Takes the row out of the place that it had, and leaves its departure from there at the place of the change.
    fn depart(&mut self, before: Option<&Row>, after: Option<&Record>) -> Result<(), redb::Error> {
        let Some(before) = before else { return Ok(()) };
        if let Some(place) = place(before) {
            self.stamps.remove(&rows::stamp_bytes(place)[..])?;
        }
        if let (Some(departure), Some(place)) = (Departure::of(&self.marks.tracked, before, after), self.marks.last) {
            self.departures.insert(&rows::stamp_bytes(place)[..], &rows::departure_bytes(departure)[..])?;
        }
        Ok(())
    }

    /// Forgets the oldest tombstones and departures. Rows that are no tombstones are passed once after each change of
    /// theirs, so that fewer entries come in than are looked at.
    fn forget(&mut self, forget: &Forget) -> Result<(), redb::Error> {
        let old = |key: &[u8]| Ok::<_, redb::Error>(Some(rows::stamp(key)?).filter(|at| at.updated_at < forget.before));
        let sweeps = if forget.tombstones { FORGOTTEN } else { 0 };
        for _ in 0..sweeps {
            let from = self.marks.swept.map(rows::stamp_bytes);
            let from = from.as_ref().map_or(Bound::Unbounded, |from| Bound::Excluded(&from[..]));
            let next = self.stamps.range::<&[u8]>((from, Bound::Unbounded))?.next().transpose()?;
            let Some((key, id)) = next.map(|(key, id)| (key.value().to_vec(), id.value().to_vec())) else { break };
            let Some(place) = old(&key)? else { break };
            self.marks.swept = Some(place);
            let row = self.rows.get(&id[..])?.map(|row| rows::row(&rows::id(&id)?, row.value())).transpose()?;
            if row.is_some_and(|row| row.record.deleted) {
                self.rows.remove(&id[..])?;
                self.stamps.remove(&key[..])?;
                self.marks.forgotten = self.marks.forgotten.max(place.sequence);
            }
        }
        for _ in 0..FORGOTTEN {
            let Some(key) = self.departures.first()?.map(|(key, _)| key.value().to_vec()) else { break };
            let Some(place) = old(&key)? else { break };
            self.departures.remove(&key[..])?;
            self.marks.forgotten = self.marks.forgotten.max(place.sequence);
        }
        Ok(())
    }

    /// Stores a record with a new version, sequence and time.
    fn put(&mut self, shared: &Shared, id: &Arc<str>, record: Record, now: Timestamp) -> Result<Row, redb::Error> {
        let place = self.next_place(now);
        let random = [shared.clock.random().to_be_bytes(), shared.clock.random().to_be_bytes()].concat();
        let version = Some(BASE64_STANDARD.encode(random));
        let record = Record { version, updated_at: Some(place.updated_at), ..record };
        let row = Row { id: Arc::clone(id), record, sequence: place.sequence };
        self.rows.insert(id.as_bytes(), &rows::row_bytes(&row)[..])?;
        self.stamps.insert(&rows::stamp_bytes(place)[..], id.as_bytes())?;
        Ok(row)
    }

    fn remember(&mut self, key: &Idempotency, row: &Row, now: Timestamp) -> Result<(), redb::Error> {
        let oldest = rows::millis(now.checked_sub(KEYS_KEPT).unwrap_or(Timestamp::MIN)).max(0).to_be_bytes();
        for _ in 0..FORGOTTEN {
            let Some(old) = self.ages.first()?.map(|(age, _)| age.value().to_vec()) else { break };
            let Some((age, name)) = old.split_at_checked(8) else { break };
            if age >= &oldest[..] {
                break;
            }
            self.keys.remove(name)?;
            self.ages.remove(&old[..])?;
        }
        let name = rows::key_bytes(&key.caller, key.key);
        let effect = Effect { request: key.request, status: key.status, row: row.clone(), at: now };
        let age = [&rows::millis(now).max(0).to_be_bytes()[..], &name].concat();
        self.keys.insert(&name[..], &rows::effect_bytes(&effect)[..])?;
        self.ages.insert(&age[..], &[][..])?;
        Ok(())
    }
}

fn place(row: &Row) -> Option<Place> {
    Some(Place { updated_at: row.record.updated_at?, sequence: row.sequence })
}
