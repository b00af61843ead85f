//! What the tests across crates share: an entity, a service, and a way to it that loses answers.

pub mod histories;
pub mod queries;
pub mod steps;

mod faults;
mod pair;
mod way;

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

pub use datasync_core::memory::MemoryStore;
use datasync_core::{
    client::{ClientBuilder, DatasyncClient, OfflineTable},
    clock::{Clock, SystemClock},
    config::{ConflictPolicy, SyncConfig},
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::HttpTransport;
pub use datasync_redb::RedbStore;
use datasync_server::{DatasyncService, MemoryRepository, Repository, Stamping, TableOptions};
pub use faults::{AnswerHook, Fault, Hook, RouterExchange, Wanted};
use jiff::{SignedDuration, Timestamp};
pub use pair::Pair;
use serde::{Deserialize, Serialize};
pub use way::Way;

/// The entity of the tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
pub struct Note {
    /// The id.
    pub id: String,
    /// The text.
    pub title: String,
    /// A number.
    #[sync(index)]
    pub rank: i64,
    /// Stays here.
    #[sync(local)]
    #[serde(default)]
    pub scroll: Option<u32>,
}

/// A note without an id.
#[must_use]
pub fn note(title: &str) -> Note {
    Note { id: String::new(), title: title.to_owned(), rank: 0, scroll: None }
}

/// A note with an id.
#[must_use]
pub fn note_of(id: &str, title: &str) -> Note {
    Note { id: id.to_owned(), ..note(title) }
}

/// What the service speaks, and what is between it and the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The protocol of the originals and nothing more, in process.
    Original,
    /// With the extensions of `docs/wire-extensions.md`, in process.
    Extended,
    /// As [`Original`](Wire::Original), over a real socket.
    OriginalOnSocket,
    /// As [`Extended`](Wire::Extended), over a real socket.
    ExtendedOnSocket,
}

impl Wire {
    /// All of them.
    pub const ALL: [Wire; 4] = [Wire::Original, Wire::Extended, Wire::OriginalOnSocket, Wire::ExtendedOnSocket];

    /// Whether the service has the extensions.
    #[must_use]
    pub fn extended(self) -> bool {
        matches!(self, Wire::Extended | Wire::ExtendedOnSocket)
    }
}

/// The times that services give, each of which a pull must cope with.
#[must_use]
pub fn stampings() -> [Stamping; 5] {
    let given: fn(&str, Timestamp) -> Timestamp = |_, now| now;
    let lag = SignedDuration::from_secs(20);
    [Stamping::Own, Stamping::Given(given), Stamping::Cut, Stamping::Rounded, Stamping::BeforeCommit(lag)]
}

/// Makes two tests of each function: against a service with the extensions, and against one without.
#[macro_export]
macro_rules! on_both_wires {
    ($($name:ident)*) => {$(
        mod $name {
            #[tokio::test]
            async fn original() {
                super::$name($crate::Wire::Original).await;
            }

            #[tokio::test]
            async fn extended() {
                super::$name($crate::Wire::Extended).await;
            }
        }
    )*};
}

/// Makes tests of each function, which takes a store and a [`Wire`]: over a memory store and over a redb file, each against
/// a service with the extensions and against one without, in process and over a socket.
#[macro_export]
macro_rules! on_both_stores {
    ($($name:ident)*) => { $($crate::on_both_stores_over! { $crate::Wire::ALL, $name })* };
}

/// As [`on_both_stores`], of what there is with the extensions alone.
#[macro_export]
macro_rules! on_both_stores_extended {
    ($($name:ident)*) => {
        $($crate::on_both_stores_over! { [$crate::Wire::Extended, $crate::Wire::ExtendedOnSocket], $name })*
    };
}

/// Makes two tests of a function, one of each store, over all of these wires.
#[doc(hidden)]
#[macro_export]
macro_rules! on_both_stores_over {
    ($wires:expr, $name:ident) => {
        mod $name {
            #[tokio::test]
            async fn memory() {
                for wire in $wires {
                    super::$name($crate::MemoryStore::new(), wire).await;
                }
            }

            #[tokio::test]
            async fn redb() {
                for wire in $wires {
                    let folder = $crate::folder();
                    let store = $crate::RedbStore::open(folder.path().join("store.redb"));
                    super::$name(store.expect("a new file can be opened"), wire).await;
                }
            }
        }
    };
}

/// A folder that is removed when it is dropped.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a folder")
}

/// A service with one table of notes.
pub fn service(rows: &MemoryRepository, page_size: u64, wire: Wire) -> Way {
    service_at(rows, page_size, wire, SystemClock)
}

/// [`service`], with the time of this clock.
pub fn service_at(rows: &MemoryRepository, page_size: u64, wire: Wire, clock: impl Clock) -> Way {
    service_of(rows.clone(), page_size, wire, clock)
}

/// A service with one table over these rows; it is found as `note` and as `notes`.
pub fn service_of(rows: impl Repository + Clone, page_size: u64, wire: Wire, clock: impl Clock) -> Way {
    let notes = TableOptions::of::<Note>().soft_delete(true).page_size(page_size);
    let builder = DatasyncService::builder().extensions(wire.extended()).clock(clock);
    let again = notes.clone().path("tables/notes");
    let service = builder.table(notes, rows.clone()).table(again, rows).build();
    wire.lead_to(service.expect("the service is well configured"))
}

/// What every service of notes knows of a note.
#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "note")]
struct AnyNote {
    id: String,
    rank: i64,
}

/// A service with a table of notes that keeps whatever fields they have.
pub fn open_service(rows: &MemoryRepository, wire: Wire) -> Way {
    let notes = TableOptions::of::<AnyNote>().soft_delete(true).schemaless(true);
    let builder = DatasyncService::builder().extensions(wire.extended());
    wire.lead_to(builder.table(notes, rows.clone()).build().expect("the service is well configured"))
}

/// Begins a client of the notes over an exchange, which does not wait between attempts.
pub fn client_over(store: impl Store, exchange: RouterExchange) -> ClientBuilder {
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange).build();
    DatasyncClient::builder().store(store).transport(transport.expect("the address is right")).table::<Note>()
}

/// A client with a conflict policy.
pub async fn client(store: impl Store, exchange: &RouterExchange, policy: ConflictPolicy) -> DatasyncClient {
    let mut config = SyncConfig::default();
    config.sync.conflict = policy;
    client_over(store, exchange.clone()).config(config).build().await.expect("the client is well configured")
}

/// The notes of a client.
#[must_use]
pub fn notes(client: &DatasyncClient) -> OfflineTable<Note> {
    client.offline_table()
}

/// All rows of the service that are not deleted, as (id, title, rank), in the order of their ids.
#[must_use]
pub fn service_rows(rows: &MemoryRepository) -> Vec<(String, String, i64)> {
    let live = rows.rows().into_iter().filter(|row| !row.record.deleted);
    live.map(|row| {
        let note: Note = serde_json::from_slice(row.record.body.as_bytes()).expect("the service holds notes");
        (note.id.clone(), note.title, note.rank)
    })
    .collect()
}

/// All rows of a client, as [`service_rows`].
pub async fn local_rows(table: &OfflineTable<Note>) -> Vec<(String, String, i64)> {
    let all = table.query().to_vec().await.expect("the store can be read");
    all.into_iter().map(|note| (note.id, note.title, note.rank)).collect()
}

/// The system's clock, set forward by a test.
#[derive(Clone, Debug, Default)]
pub struct MovedClock(Arc<Mutex<std::time::Duration>>);

impl MovedClock {
    /// Sets it forward.
    pub fn advance(&self, by: std::time::Duration) {
        *self.0.lock().expect("no test panicked") += by;
    }
}

impl Clock for MovedClock {
    fn now(&self) -> jiff::Timestamp {
        let by = *self.0.lock().expect("no test panicked");
        SystemClock.now().checked_add(by).expect("no test moves the clock out of range")
    }

    fn sleep(&self, length: std::time::Duration) -> futures::future::BoxFuture<'static, ()> {
        SystemClock.sleep(length)
    }

    fn random(&self) -> u64 {
        SystemClock.random()
    }
}

/// A clock that stands still until a test moves it, which ends the sleeps whose time has come, and whose randomness is the
/// same in each run. Clones show one time.
#[derive(Clone, Debug)]
pub struct StillClock {
    millis: Arc<AtomicI64>,
    sleepers: Arc<Mutex<Vec<Waker>>>,
    ahead: Arc<AtomicI64>,
    random: Arc<AtomicU64>,
}

impl StillClock {
    /// In the middle of 2024.
    #[must_use]
    pub fn new(seed: u64) -> StillClock {
        let millis = Arc::new(AtomicI64::new(1_718_000_000_000));
        let (sleepers, ahead) = Default::default();
        StillClock { millis, sleepers, ahead, random: Arc::new(AtomicU64::new(seed)) }
    }

    /// Another clock that goes with this one, but shows as much more.
    #[must_use]
    pub fn ahead(&self, by: SignedDuration) -> StillClock {
        let seed = self.random();
        let clock = StillClock { ahead: Arc::default(), random: Arc::new(AtomicU64::new(seed)), ..self.clone() };
        clock.set_ahead(by);
        clock
    }

    /// Sets how much more it shows.
    pub fn set_ahead(&self, by: SignedDuration) {
        self.ahead.store(i64::try_from(by.as_millis()).expect("no test goes so far"), Ordering::SeqCst);
    }

    /// Moves it, and all that go with it.
    pub fn advance(&self, by: SignedDuration) {
        self.millis.fetch_add(i64::try_from(by.as_millis()).expect("no test goes so far"), Ordering::SeqCst);
        self.sleepers.lock().expect("no test panicked").drain(..).for_each(Waker::wake);
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        let millis = self.millis.load(Ordering::SeqCst) + self.ahead.load(Ordering::SeqCst);
        Timestamp::from_millisecond(millis).expect("no test moves the clock out of range")
    }

    fn sleep(&self, length: std::time::Duration) -> futures::future::BoxFuture<'static, ()> {
        let (millis, sleepers) = (Arc::clone(&self.millis), Arc::clone(&self.sleepers));
        let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        let end = millis.load(Ordering::SeqCst).saturating_add(length);
        Box::pin(poll_fn(move |context| {
            // Registered first: a test may move the clock from another thread.
            sleepers.lock().expect("no test panicked").push(context.waker().clone());
            if millis.load(Ordering::SeqCst) >= end { Poll::Ready(()) } else { Poll::Pending }
        }))
    }

    fn random(&self) -> u64 {
        // SplitMix64: any seed will do.
        let mut bits = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}
