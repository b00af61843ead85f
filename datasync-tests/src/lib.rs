//! What the tests across crates share: an entity, a service, and a way to it that loses answers.

pub mod histories;
mod socket;

pub mod queries;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use axum::{Router, body::Body, http::Request};
pub use datasync_core::memory::MemoryStore;
use datasync_core::{
    client::{ClientBuilder, DatasyncClient, OfflineTable},
    clock::{Clock, SystemClock},
    config::{ConflictPolicy, SyncConfig},
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::{Exchange, ExchangeError, ExchangeErrorKind, HttpRequest, HttpResponse, HttpStream, HttpTransport};
pub use datasync_redb::RedbStore;
use datasync_server::{DatasyncService, MemoryRepository, Repository, Stamping, TableOptions};
use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

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

    /// The way to a service: as it is, or over a socket of its own.
    pub fn lead_to(self, service: Router) -> Router {
        match self {
            Wire::Original | Wire::Extended => service,
            Wire::OriginalOnSocket | Wire::ExtendedOnSocket => socket::over(service),
        }
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
    ($($name:ident)*) => {$(
        mod $name {
            #[tokio::test]
            async fn memory() {
                for wire in $crate::Wire::ALL {
                    super::$name($crate::MemoryStore::new(), wire).await;
                }
            }

            #[tokio::test]
            async fn redb() {
                for wire in $crate::Wire::ALL {
                    let folder = $crate::folder();
                    let store = $crate::RedbStore::open(folder.path().join("store.redb"));
                    super::$name(store.expect("a new file can be opened"), wire).await;
                }
            }
        }
    )*};
}

/// A folder that is removed when it is dropped.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a folder")
}

/// A service with one table of notes.
pub fn service(rows: &MemoryRepository, page_size: u64, wire: Wire) -> Router {
    service_at(rows, page_size, wire, SystemClock)
}

/// [`service`], with the time of this clock.
pub fn service_at(rows: &MemoryRepository, page_size: u64, wire: Wire, clock: impl Clock) -> Router {
    service_of(rows.clone(), page_size, wire, clock)
}

/// A service with one table over these rows; it is found as `note` and as `notes`.
pub fn service_of(rows: impl Repository + Clone, page_size: u64, wire: Wire, clock: impl Clock) -> Router {
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
pub fn open_service(rows: &MemoryRepository, wire: Wire) -> Router {
    let notes = TableOptions::of::<AnyNote>().soft_delete(true).schemaless(true);
    let builder = DatasyncService::builder().extensions(wire.extended());
    wire.lead_to(builder.table(notes, rows.clone()).build().expect("the service is well configured"))
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It goes well.
    None,
    /// It does not reach the service.
    Lost,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// No connection is made.
    Refused,
    /// The service answers with this status.
    Status(u16),
}

/// Whether a request is meant.
pub type Wanted = fn(&HttpRequest) -> bool;

/// Drives a router with the real codec and no socket, under a script of faults.
#[derive(Clone)]
pub struct RouterExchange {
    router: Router,
    script: Arc<Mutex<VecDeque<(Wanted, Fault)>>>,
    /// How many requests were made.
    pub requests: Arc<AtomicUsize>,
    before: Arc<Mutex<Option<Hook>>>,
    after: Arc<Mutex<Option<AnswerHook>>>,
}

/// Something that is done before a request reaches the service.
pub type Hook = Box<dyn FnMut(&HttpRequest) + Send>;

/// Something that is done to an answer before it reaches the client.
pub type AnswerHook = Box<dyn FnMut(&mut HttpResponse) + Send>;

impl std::fmt::Debug for RouterExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RouterExchange")
    }
}

impl RouterExchange {
    /// A way without faults.
    #[must_use]
    pub fn new(router: Router) -> RouterExchange {
        let (script, requests, before, after) = Default::default();
        RouterExchange { router, script, requests, before, after }
    }

    /// The next request that is meant meets the fault.
    pub fn fault(&self, wanted: Wanted, fault: Fault) {
        self.script.lock().expect("no test panicked").push_back((wanted, fault));
    }

    /// Runs before each request reaches the service.
    pub fn before(&self, hook: impl FnMut(&HttpRequest) + Send + 'static) {
        *self.before.lock().expect("no test panicked") = Some(Box::new(hook));
    }

    /// Runs on each whole answer of the service, which it may change.
    pub fn after(&self, hook: impl FnMut(&mut HttpResponse) + Send + 'static) {
        *self.after.lock().expect("no test panicked") = Some(Box::new(hook));
    }

    /// Forgets the rest of the script.
    pub fn clear_faults(&self) {
        self.script.lock().expect("no test panicked").clear();
    }

    /// How many faults of the script have not happened yet.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.script.lock().expect("no test panicked").len()
    }

    fn next_fault(&self, request: &HttpRequest) -> Fault {
        let mut script = self.script.lock().expect("no test panicked");
        match script.front() {
            Some((wanted, _)) if wanted(request) => script.pop_front().map_or(Fault::None, |(_, fault)| fault),
            _ => Fault::None,
        }
    }
}

impl RouterExchange {
    /// The head of the answer, its body, and whether the script loses it.
    async fn begin(&self, request: HttpRequest) -> Result<(HttpResponse, Body, Fault), ExchangeError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(hook) = &mut *self.before.lock().expect("no test panicked") {
            hook(&request);
        }
        let fault = self.next_fault(&request);
        match fault {
            Fault::Lost => return Err(ExchangeError::new(ExchangeErrorKind::Interrupted)),
            Fault::Refused => return Err(ExchangeError::new(ExchangeErrorKind::Connect)),
            Fault::Status(status) => {
                return Ok((HttpResponse { status, headers: Vec::new(), body: Vec::new() }, Body::empty(), fault));
            }
            Fault::None | Fault::AnswerLost => {}
        }
        let path = &request.url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut outgoing = Request::builder().method(request.method.as_str()).uri(path);
        for (name, value) in &request.headers {
            outgoing = outgoing.header(name.as_ref(), value);
        }
        let outgoing = outgoing.body(Body::from(request.body)).expect("the codec makes requests");
        let response = self.router.clone().oneshot(outgoing).await.expect("a router answers");
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
        Ok((HttpResponse { status, headers, body: Vec::new() }, response.into_body(), fault))
    }
}

#[async_trait]
impl Exchange for RouterExchange {
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError> {
        let (mut response, body, fault) = self.begin(request).await?;
        response.body = axum::body::to_bytes(body, usize::MAX).await.expect("a router's body is whole").to_vec();
        if let Some(hook) = &mut *self.after.lock().expect("no test panicked") {
            hook(&mut response);
        }
        match fault {
            _ if response.body.len() > max_body => Err(ExchangeError::new(ExchangeErrorKind::TooLarge)),
            Fault::AnswerLost => Err(ExchangeError::new(ExchangeErrorKind::Interrupted)),
            _ => Ok(response),
        }
    }

    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError> {
        let (head, body, fault) = self.begin(request).await?;
        let lost = |_| ExchangeError::new(ExchangeErrorKind::Interrupted);
        match fault {
            Fault::AnswerLost => Err(lost(())),
            _ => {
                let pieces = body.into_data_stream().map_ok(Into::into).map_err(move |_| lost(()));
                Ok(HttpStream { head, body: pieces.boxed() })
            }
        }
    }
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

/// A clock that stands still until a test moves it, and whose randomness is the same in each run. Clones show one time.
#[derive(Clone, Debug)]
pub struct StillClock {
    millis: Arc<AtomicI64>,
    ahead: Arc<AtomicI64>,
    random: Arc<AtomicU64>,
}

impl StillClock {
    /// In the middle of 2024.
    #[must_use]
    pub fn new(seed: u64) -> StillClock {
        let millis = Arc::new(AtomicI64::new(1_718_000_000_000));
        StillClock { millis, ahead: Arc::default(), random: Arc::new(AtomicU64::new(seed)) }
    }

    /// Another clock that goes with this one, but shows as much more.
    #[must_use]
    pub fn ahead(&self, by: SignedDuration) -> StillClock {
        let seed = self.random();
        let clock = StillClock { millis: Arc::clone(&self.millis), ahead: Arc::default(), random: Arc::default() };
        clock.random.store(seed, Ordering::SeqCst);
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
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        let millis = self.millis.load(Ordering::SeqCst) + self.ahead.load(Ordering::SeqCst);
        Timestamp::from_millisecond(millis).expect("no test moves the clock out of range")
    }

    fn sleep(&self, _: std::time::Duration) -> futures::future::BoxFuture<'static, ()> {
        Box::pin(futures::future::pending())
    }

    fn random(&self) -> u64 {
        // SplitMix64: any seed will do.
        let mut bits = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}
