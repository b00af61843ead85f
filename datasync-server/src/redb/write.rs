//! The one writer: what waits is committed together.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use datasync_core::row::Record;
use futures::channel::oneshot;
use jiff::Timestamp;
use redb::{Database, ReadableTable, Table, WriteTransaction};

use super::{Names, SERVICE, Shared, bytes, rows};
use crate::repository::{
    Change, Effect, Idempotency, Judged, KEYS_KEPT, Place, RepositoryError, Row, WriteOutcome, judge, monotone,
};

/// How many changes share a commit, at most.
const MOST: usize = 1_000;
/// How many old keys a change that brings one takes away, at most.
const FORGOTTEN: usize = 2;

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
            tables.store_last(&mut service)?;
        }
    }
    write.commit()?;
    Ok(outcomes)
}

/// The redb tables of a table while a commit is made.
struct Tables<'t> {
    names: &'t Names,
    rows: BytesTable<'t>,
    stamps: BytesTable<'t>,
    keys: BytesTable<'t>,
    ages: BytesTable<'t>,
    /// The last stamp and sequence given.
    last: Option<Place>,
}

impl<'t> Tables<'t> {
    fn open(write: &'t WriteTransaction, service: &BytesTable<'t>, names: &'t Names) -> Result<Self, redb::Error> {
        let last = service.get(names.last.as_bytes())?.map(|last| rows::stamp(last.value())).transpose()?;
        Ok(Tables {
            names,
            rows: write.open_table(bytes(&names.rows))?,
            stamps: write.open_table(bytes(&names.stamps))?,
            keys: write.open_table(bytes(&names.keys))?,
            ages: write.open_table(bytes(&names.ages))?,
            last,
        })
    }

    fn store_last(&self, service: &mut BytesTable<'t>) -> Result<(), redb::Error> {
        if let Some(last) = self.last {
            service.insert(self.names.last.as_bytes(), &rows::stamp_bytes(last)[..])?;
        }
        Ok(())
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
        let before = there.as_ref().and_then(place);
        let row = match judge(there, change) {
            Judged::Answer(outcome) => return Ok(outcome),
            Judged::Put(record) => self.put(shared, &change.id, record, change.now)?,
            Judged::Remove(gone) => {
                self.rows.remove(change.id.as_bytes())?;
                gone
            }
        };
        if let Some(before) = before {
            self.stamps.remove(&rows::stamp_bytes(before)[..])?;
        }
        if let Some(key) = &change.key {
            self.remember(key, &row, change.now)?;
        }
        Ok(WriteOutcome::Done(row))
    }

    /// Stores a record with a new version, sequence and time.
    fn put(&mut self, shared: &Shared, id: &Arc<str>, record: Record, now: Timestamp) -> Result<Row, redb::Error> {
        let updated_at = monotone(now, self.last.map(|last| last.updated_at));
        let sequence = self.last.map_or(0, |last| last.sequence) + 1;
        let random = [shared.clock.random().to_be_bytes(), shared.clock.random().to_be_bytes()].concat();
        let version = Some(BASE64_STANDARD.encode(random));
        let record = Record { version, updated_at: Some(updated_at), ..record };
        let row = Row { id: Arc::clone(id), record, sequence };
        let place = Place { updated_at, sequence };
        self.rows.insert(id.as_bytes(), &rows::row_bytes(&row)[..])?;
        self.stamps.insert(&rows::stamp_bytes(place)[..], id.as_bytes())?;
        self.last = Some(place);
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
