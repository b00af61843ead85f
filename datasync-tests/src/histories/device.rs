//! The real thing: a client over the codec and the router, one row, and somebody else who writes to the same service.

use std::sync::{Arc, Mutex, PoisonError};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, Tables},
    clock::Clock,
    config::SyncConfig,
    error::ErrorKind,
    memory::MemoryStore,
    row::{Body, Record},
};
use datasync_http::{HttpTransport, Method};
use datasync_server::{Action, Change, MemoryRepository, Repository};
use futures::{FutureExt, executor::block_on, future::BoxFuture};
use jiff::Timestamp;

use super::{Event, Outcome, Policy, Value, model::APART};
use crate::{Fault, Note, RouterExchange, Wire, client_over, note_of, notes, service_at};

const ID: &str = "row";
/// When histories begin, in seconds since the epoch.
const BEGIN: i64 = 1_700_000_000;

/// A clock of which a history owns the time.
#[derive(Clone, Debug)]
struct Owned(Arc<Mutex<(i64, u64)>>);

impl Owned {
    fn state(&self) -> std::sync::MutexGuard<'_, (i64, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for Owned {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.state().0).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn sleep(&self, _: std::time::Duration) -> BoxFuture<'static, ()> {
        futures::future::pending().boxed()
    }

    fn random(&self) -> u64 {
        let state = &mut self.state().1;
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }
}

struct World {
    policy: Policy,
    clock: Owned,
    rows: MemoryRepository,
    store: MemoryStore,
    exchange: RouterExchange,
    client: DatasyncClient,
    notes: OfflineTable<Note>,
    refused: Vec<bool>,
}

fn title(here: usize) -> String {
    format!("{here}")
}

fn value(note: &Note) -> Value {
    let here = note.title.parse().expect("a title is a number");
    Value { here, there: usize::try_from(note.rank).expect("a rank is no less than 0") }
}

fn change_is_sent(request: &datasync_http::HttpRequest) -> bool {
    request.method != Method::Get
}

/// Runs a history on a real client and settles it.
///
/// # Panics
///
/// If something fails that must not.
#[must_use]
pub fn run(policy: Policy, wire: Wire, history: &[Event]) -> Outcome {
    block_on(async {
        let mut world = World::new(policy, wire).await;
        for (place, event) in history.iter().enumerate() {
            world.happens(*event, place + 1).await;
        }
        world.settle(history.len()).await
    })
}

impl World {
    async fn new(policy: Policy, wire: Wire) -> World {
        let clock = Owned(Arc::new(Mutex::new((BEGIN, 0x9e37_79b9_7f4a_7c15))));
        let rows = MemoryRepository::with_clock(clock.clone());
        let exchange = RouterExchange::new(service_at(&rows, 100, wire, clock.clone()));
        let store = MemoryStore::new();
        let (client, notes) = start(policy, &store, &exchange, &clock).await;
        World { policy, clock, rows, store, exchange, client, notes, refused: Vec::new() }
    }

    async fn happens(&mut self, event: Event, mark: usize) {
        self.clock.state().0 += APART;
        match event {
            Event::Insert => {
                let written = self.notes.insert(note_of(ID, &title(mark))).await;
                self.wrote(written.map(drop), ErrorKind::Exists);
            }
            Event::Replace => {
                let before = self.notes.get(ID).await.expect("the store can be read");
                let note = before.map_or(note_of(ID, ""), |note| note);
                let written = self.notes.replace(Note { title: title(mark), ..note }).await;
                self.wrote(written.map(drop), ErrorKind::NotFound);
            }
            Event::Delete => {
                let deleted = self.notes.delete(ID).await;
                self.wrote(deleted.map(drop), ErrorKind::NotFound);
            }
            Event::TheirInsert => {
                if self.theirs().await.is_none_or(|record| record.deleted) {
                    self.write_there(Note { rank: mark as i64, ..note_of(ID, &title(0)) }, false).await;
                }
            }
            Event::TheirReplace | Event::TheirDelete => {
                if let Some(record) = self.theirs().await.filter(|record| !record.deleted) {
                    let note = read(&record);
                    let rank = if event == Event::TheirReplace { mark as i64 } else { note.rank };
                    self.write_there(Note { rank, ..note }, event == Event::TheirDelete).await;
                }
            }
            Event::Push => _ = self.client.push_tables(Tables::all()).await.expect("the service can be reached"),
            Event::Pull => _ = self.notes.pull_items(self.notes.query()).await.expect("the service can be reached"),
            Event::Crash => {
                (self.client, self.notes) = start(self.policy, &self.store, &self.exchange, &self.clock).await
            }
            Event::LoseAnswer if self.exchange.faults_left() == 0 => {
                self.exchange.fault(change_is_sent, Fault::AnswerLost);
            }
            Event::LoseAnswer => {}
        }
    }

    fn wrote(&mut self, written: Result<(), datasync_core::error::Error>, expected: ErrorKind) {
        if let Err(error) = &written {
            assert_eq!(error.kind(), expected, "{error}");
        }
        self.refused.push(written.is_err());
    }

    async fn theirs(&self) -> Option<Record> {
        self.rows.read(ID).await.expect("a memory repository does not fail").map(|row| row.record)
    }

    async fn write_there(&self, note: Note, deleted: bool) {
        let body = Body::from(serde_json::to_vec(&note).expect("a note is JSON"));
        let record = Record { body, version: None, updated_at: None, deleted };
        let action = if self.theirs().await.is_some() { Action::Replace(record) } else { Action::Create(record) };
        let change = Change { id: ID.into(), action, expected: None, now: self.clock.now(), key: None, forget: None };
        self.rows.write(change).await.expect("a memory repository does not fail");
    }

    async fn settle(mut self, events: usize) -> Outcome {
        for turn in 0..2 {
            self.happens(Event::Push, events + 2 * turn + 1).await;
            self.happens(Event::Pull, events + 2 * turn + 2).await;
        }
        let service = self.theirs().await.filter(|record| !record.deleted);
        let device = self.notes.get(ID).await.expect("the store can be read");
        let losers = self.client.settled_losers().await.expect("the store can be read");
        let mut losers: Vec<Value> =
            losers.iter().map(|loser| value(&loser.entity::<Note>().expect("a loser is a note"))).collect();
        losers.sort_unstable();
        let conflicts = self.client.conflicts().await.expect("the store can be read");
        let waiting = self.client.pending().await.expect("the store can be read").len();
        assert_eq!(waiting, conflicts.len(), "the queue drains or parks (I24)");
        Outcome {
            service: service.map(|record| value(&read(&record))),
            device: device.as_ref().map(value),
            parked: !conflicts.is_empty(),
            losers,
            refused: self.refused,
        }
    }
}

fn read(record: &Record) -> Note {
    serde_json::from_slice(record.body.as_bytes()).expect("the service holds notes")
}

async fn start(
    policy: Policy,
    store: &MemoryStore,
    exchange: &RouterExchange,
    clock: &Owned,
) -> (DatasyncClient, OfflineTable<Note>) {
    let config = format!("[sync]\nconflict = '{}'", policy.name());
    let config = SyncConfig::from_toml(&config).expect("the policy is known");
    let transport = HttpTransport::builder("http://service").retries(0).clock(clock.clone()).exchange(exchange.clone());
    let transport = transport.build().expect("the address is right");
    let builder = client_over(store.clone(), exchange.clone()).transport(transport).config(config).clock(clock.clone());
    let client = builder.build().await.expect("the client is well configured");
    let table = notes(&client);
    (client, table)
}
