//! What the tests across crates share: an entity, a service, and a way to it that loses answers.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
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
use datasync_http::{Exchange, ExchangeError, ExchangeErrorKind, HttpRequest, HttpResponse, HttpTransport};
pub use datasync_redb::RedbStore;
use datasync_server::{DatasyncService, MemoryRepository, Repository, Stamping, TableOptions};
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

/// What the service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The protocol of the originals and nothing more.
    Original,
    /// With the extensions of `docs/wire-extensions.md`.
    Extended,
}

impl Wire {
    /// Both.
    pub const ALL: [Wire; 2] = [Wire::Original, Wire::Extended];
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
/// a service with the extensions and against one without.
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
    let builder = DatasyncService::builder().extensions(wire == Wire::Extended).clock(clock);
    let again = notes.clone().path("tables/notes");
    builder.table(notes, rows.clone()).table(again, rows).build().expect("the service is well configured")
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
}

/// Something that is done before a request reaches the service.
pub type Hook = Box<dyn FnMut(&HttpRequest) + Send>;

impl std::fmt::Debug for RouterExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RouterExchange")
    }
}

impl RouterExchange {
    /// A way without faults.
    #[must_use]
    pub fn new(router: Router) -> RouterExchange {
        let (script, requests, before) = Default::default();
        RouterExchange { router, script, requests, before }
    }

    /// The next request that is meant meets the fault.
    pub fn fault(&self, wanted: Wanted, fault: Fault) {
        self.script.lock().expect("no test panicked").push_back((wanted, fault));
    }

    /// Runs before each request reaches the service.
    pub fn before(&self, hook: impl FnMut(&HttpRequest) + Send + 'static) {
        *self.before.lock().expect("no test panicked") = Some(Box::new(hook));
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

#[async_trait]
impl Exchange for RouterExchange {
    async fn send(&self, request: HttpRequest, _max_body: usize) -> Result<HttpResponse, ExchangeError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(hook) = &mut *self.before.lock().expect("no test panicked") {
            hook(&request);
        }
        let fault = self.next_fault(&request);
        match fault {
            Fault::Lost => return Err(ExchangeError::new(ExchangeErrorKind::Interrupted)),
            Fault::Refused => return Err(ExchangeError::new(ExchangeErrorKind::Connect)),
            Fault::Status(status) => return Ok(HttpResponse { status, headers: Vec::new(), body: Vec::new() }),
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
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a router's body is whole");
        if fault == Fault::AnswerLost {
            return Err(ExchangeError::new(ExchangeErrorKind::Interrupted));
        }
        Ok(HttpResponse { status, headers, body: body.to_vec() })
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
