//! Whatever the network or the service does: rows, queue and token are as before or as after, and the error says why.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use datasync_core::{
    client::{DatasyncClient, OfflineTable, PendingState, Tables},
    clock::{Clock, SystemClock},
    error::ErrorKind,
    events::{EventStream, SyncEvent},
    memory::MemoryStore,
    store::{DeltaToken, ScopeKey, Store},
};
use datasync_http::HttpTransport;
use datasync_redb::RedbStore;
use datasync_server::{
    Change, Changes, ChangesQuery, DatasyncServer, Effect, MemoryRepository, Repository, RepositoryError, Row,
    RowQuery, Selection, Stamping, WriteOutcome,
};
use datasync_testkit::{HostileProxy, Trouble};
use datasync_tests::{Note, Wire, local_rows, note_of, service, service_of, service_rows, stampings};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use uuid::Uuid;

/// A device with a file, a service on a socket, and a hostile proxy between them.
struct World {
    client: DatasyncClient,
    table: OfflineTable<Note>,
    store: RedbStore,
    proxy: HostileProxy,
    rows: MemoryRepository,
    _server: DatasyncServer,
    _folder: TempDir,
}

impl World {
    async fn new(wire: Wire) -> World {
        World::with(wire, Stamping::Own, SystemClock).await
    }

    async fn with(wire: Wire, stamping: Stamping, clock: impl Clock + Clone) -> World {
        let rows = MemoryRepository::new().stamping(stamping);
        let server = DatasyncServer::start("127.0.0.1:0".parse().unwrap(), service(&rows, 25, wire).into_router())
            .await
            .unwrap();
        let proxy = HostileProxy::start(server.address()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(folder.path().join("store.redb")).unwrap();
        let transport = HttpTransport::builder(&format!("http://{}", proxy.address()));
        let transport = transport.retries(0).max_body(100_000).timeout(Duration::from_secs(5)).clock(clock.clone());
        let builder = DatasyncClient::builder().store(store.clone()).transport(transport.build().unwrap());
        let client = builder.clock(clock).table::<Note>().build().await.unwrap();
        let table = client.offline_table::<Note>();
        World { client, table, store, proxy, rows, _server: server, _folder: folder }
    }

    async fn token(&self) -> Option<DeltaToken> {
        let scope = ScopeKey { account: "".into(), table: "note".into(), scope: "".into() };
        self.store.delta_token(&scope).await.unwrap()
    }

    /// Another device writes.
    async fn elsewhere(&self, id: &str, title: &str) {
        let transport = HttpTransport::new(&format!("http://{}", self.proxy.address())).unwrap();
        let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport).table::<Note>();
        let client = builder.build().await.unwrap();
        let table = client.offline_table::<Note>();
        table.pull_items(table.query()).await.unwrap();
        table.upsert(note_of(id, title)).await.unwrap();
        assert_eq!(table.push_items().await.unwrap().pushed, 1);
    }
}

fn raw(status: &str, headers: &str, body: &str) -> Trouble {
    let length = body.len();
    Trouble::Answer(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into_bytes())
}

fn html() -> Trouble {
    raw("200 OK", "content-type: text/html\r\n", "<html><body>Sign in to the airport's network</body></html>")
}

fn half() -> Trouble {
    raw("200 OK", "content-type: application/json\r\n", r#"{"items":[{"id":"a","title":"#)
}

fn empty() -> Trouble {
    raw("200 OK", "", "")
}

fn redirect() -> Trouble {
    raw("302 Found", "location: http://elsewhere.example/tables/note\r\n", "")
}

/// What happens, and the kind of the error with what it must say: what was wrong, and what to do.
type Case = (&'static str, fn() -> Trouble, ErrorKind, [&'static str; 2]);

const READS: &[Case] = &[
    ("HTML", html, ErrorKind::Service, ["is a web page", "whether the network wants a sign-in"]),
    ("half a JSON", half, ErrorKind::Service, ["was cut short", "try again"]),
    ("an empty body", empty, ErrorKind::Service, ["has no body", "check the address"]),
    ("an endless body", || Trouble::Endless, ErrorKind::Service, ["longer than allowed", "`max_body`"]),
    ("a redirect", redirect, ErrorKind::Service, ["302, a redirect", "check the address"]),
    ("no such table", || raw("404 Not Found", "", ""), ErrorKind::Service, ["404", "check the address"]),
    ("forbidden", || raw("403 Forbidden", "", ""), ErrorKind::Service, ["403", "signed in"]),
    ("a failure", || raw("500 Internal Server Error", "", ""), ErrorKind::Service, ["500", "try again later"]),
    (
        "a pause",
        || raw("503 Service Unavailable", "retry-after: 1\r\n", ""),
        ErrorKind::Service,
        ["503", "try again later"],
    ),
    ("a refused token", || raw("401 Unauthorized", "", ""), ErrorKind::Unauthenticated, ["401", "sign in again"]),
    ("a lost request", || Trouble::Lose, ErrorKind::Unreachable, ["connection broke", "try again"]),
    ("no answer at all", || Trouble::Cut(0), ErrorKind::Unreachable, ["connection broke", "try again"]),
    ("half a head", || Trouble::Cut(20), ErrorKind::Unreachable, ["connection broke", "try again"]),
    ("half a body", || Trouble::Cut(190), ErrorKind::Unreachable, ["connection broke", "try again"]),
    ("a garbled body", || Trouble::Garble, ErrorKind::Service, ["no JSON", "check the address"]),
];

async fn a_pull_in_trouble_changes_nothing(wire: Wire) {
    for stamping in stampings() {
        let world = World::with(wire, stamping, SystemClock).await;
        world.elsewhere("a", "one").await;
        world.table.pull_items(world.table.query()).await.unwrap();
        for (turn, (what, trouble, kind, words)) in READS.iter().enumerate() {
            world.elsewhere("a", &format!("changed {turn}")).await;
            let (rows, token, head) = (local_rows(&world.table).await, world.token().await, world.store.head().await);
            // A page that is too long is asked for with fewer rows, from a thousand down to one.
            for _ in 0..if *what == "an endless body" { 10 } else { 1 } {
                world.proxy.next(|head| head.starts_with("GET /tables/note?"), trouble());
            }
            let pulled = world.table.pull_items(world.table.query()).await;
            let error = pulled.expect_err(what);
            assert_eq!(error.kind(), *kind, "{what}: {error}");
            assert!(words.iter().all(|word| error.to_string().contains(word)), "{what}: {error}");
            assert!(!error.to_string().contains("airport"), "I21: {error}");
            assert_eq!(local_rows(&world.table).await, rows, "{what}");
            assert_eq!(world.token().await, token, "{what}");
            // A refused sign-in is remembered: nothing is sent with it by itself. A failure of the service is in the journal.
            let remembered = u64::from(matches!(kind, ErrorKind::Unauthenticated | ErrorKind::Service));
            let commits = world.store.head().await.unwrap().number - head.unwrap().number;
            assert_eq!(commits, remembered, "{what}: not one other commit");
            world.table.pull_items(world.table.query()).await.unwrap();
            assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "{what}: and then it goes on");
        }
    }
}

/// What happens; whether the change is parked, and else delayed; and a word of the reason.
type Answer = (&'static str, fn() -> Trouble, bool, &'static str);

/// Answers to a change that do not say whether it was made, and those that say that it was not.
const WRITES: &[Answer] = &[
    ("HTML", html, false, "is a web page"),
    ("half a JSON", half, false, "was cut short"),
    ("an empty body", empty, false, ""),
    ("a redirect", redirect, false, "302, a redirect"),
    ("a failure", || raw("500 Internal Server Error", "", ""), false, "try again later"),
    ("a lost request", || Trouble::Lose, false, "connection broke"),
    ("no answer at all", || Trouble::Cut(0), false, "connection broke"),
    ("half a body", || Trouble::Cut(200), false, "connection broke"),
    ("an endless body", || Trouble::Endless, false, "longer than allowed"),
    ("a garbled body", || Trouble::Garble, false, "no JSON"),
    ("no such table", || raw("404 Not Found", "", ""), true, "404"),
    ("refused", || raw("400 Bad Request", "", "\"the title is rude\""), true, "the title is rude"),
    ("forbidden", || raw("403 Forbidden", "", ""), true, "signed in"),
    ("too large", || raw("413 Payload Too Large", "", ""), true, "nothing of this size"),
];

/// Why operations were delayed or parked since the last time.
fn reasons(events: &mut EventStream) -> Vec<String> {
    let mut reasons = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        match event {
            SyncEvent::ItemDelayed { message, .. } | SyncEvent::ItemParked { message, .. } => reasons.push(message),
            _ => {}
        }
    }
    reasons
}

async fn a_push_in_trouble_loses_and_duplicates_nothing(wire: Wire) {
    let world = World::new(wire).await;
    let mut events = world.client.events();
    for (turn, (what, trouble, parks, word)) in WRITES.iter().enumerate() {
        let id = format!("row-{turn}");
        world.table.insert(note_of(&id, "one")).await.unwrap();
        let token = world.token().await;
        world.proxy.next(|head| head.starts_with("POST /tables/note"), trouble());
        let report = world.table.push_items().await.unwrap();
        let reasons = reasons(&mut events);
        // What an empty answer does not say is found out by reading the row, and sent again at once.
        let found_out = word.is_empty() && report.pushed == 1;
        assert!(found_out || reasons.iter().any(|reason| reason.contains(word)), "{what}: {reasons:?}");
        assert!(reasons.iter().all(|reason| !reason.contains("airport")), "I21: {reasons:?}");
        if *parks {
            assert_eq!((report.pushed, report.parked), (0, 1), "{what}");
            let pending = world.client.pending().await.unwrap();
            assert!(matches!(&pending[0].state, PendingState::Parked(reason) if reason.contains(word)), "{what}");
            assert_eq!(world.table.push_items().await.unwrap().pushed, 0, "{what}: it waits for somebody");
            world.client.retry("note", &id).await.unwrap();
        }
        assert_eq!(world.table.get(&id).await.unwrap().unwrap().title, "one", "{what}");
        assert_eq!(world.token().await, token, "{what}");
        for _ in 0..3 {
            world.client.push_tables(Tables::all()).await.unwrap();
        }
        assert!(world.client.pending().await.unwrap().is_empty(), "{what}");
        assert!(world.client.conflicts().await.unwrap().is_empty(), "{what}");
        assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "{what}");
        let row = world.rows.rows().into_iter().find(|row| *row.id == id).unwrap();
        assert_eq!(row.sequence, turn as u64 + 1, "{what}: written once");
    }
}

async fn i11_operations_wait_while_the_whole_table_answers_404(wire: Wire) {
    let world = World::new(wire).await;
    for id in ["replaced", "deleted"] {
        world.table.insert(note_of(id, "one")).await.unwrap();
    }
    world.table.push_items().await.unwrap();
    world.table.insert(note_of("inserted", "one")).await.unwrap();
    world.table.replace(note_of("replaced", "two")).await.unwrap();
    world.table.delete("deleted").await.unwrap();
    // A route that is gone for a while, whatever is asked.
    let gone = Arc::new(AtomicBool::new(true));
    for _ in 0..40 {
        let gone = Arc::clone(&gone);
        let page = raw("404 Not Found", "content-type: text/html\r\n", "<h1>404</h1>");
        world.proxy.next(move |_| gone.load(Ordering::SeqCst), page);
    }
    let report = world.table.push_items().await.unwrap();
    assert_eq!((report.pushed, report.parked, report.conflicts), (0, 0, 0));
    assert_eq!(world.client.pending().await.unwrap().len(), 3);
    assert_eq!(world.table.get("inserted").await.unwrap().unwrap().title, "one");
    world.table.push_items().await.unwrap();
    assert!((1..40).contains(&world.proxy.left()));
    gone.store(false, Ordering::SeqCst);
    world.table.push_items().await.unwrap();
    assert_eq!(world.client.pending().await.unwrap(), []);
    assert!(world.client.conflicts().await.unwrap().is_empty());
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

async fn a_refused_token_ends_the_push_and_keeps_the_queue(wire: Wire) {
    let world = World::new(wire).await;
    world.table.insert(note_of("a", "one")).await.unwrap();
    world.proxy.next(|head| head.starts_with("POST"), raw("401 Unauthorized", "", ""));
    let error = world.table.push_items().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    let pending = world.client.pending().await.unwrap();
    assert!(pending[0].state == PendingState::Paused && !pending[0].in_doubt);
    assert_eq!(world.table.push_items().await.unwrap().pushed, 1);
}

async fn i25_a_next_link_to_elsewhere_is_not_followed(wire: Wire) {
    let world = World::new(wire).await;
    let page = r#"{"items":[{"id":"a","title":"x","rank":1}],"nextLink":"http://127.0.0.1:9/tables/note?$skip=1"}"#;
    world.proxy.next(|head| head.starts_with("GET /tables/note"), raw("200 OK", "", page));
    let remote = world.client.remote_table::<Note>();
    let error = remote.query().to_vec().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Service);
    assert!(error.to_string().contains("another origin"), "{error}");
    assert_eq!(world.proxy.requests(), 1);
}

/// Fails for one id, for ever.
#[derive(Clone, Debug)]
struct Poisoned(MemoryRepository);

#[async_trait]
impl Repository for Poisoned {
    async fn epoch(&self) -> Result<Uuid, RepositoryError> {
        self.0.epoch().await
    }

    async fn read(&self, id: &str) -> Result<Option<Row>, RepositoryError> {
        self.0.read(id).await
    }

    async fn query(&self, query: RowQuery) -> Result<Selection, RepositoryError> {
        self.0.query(query).await
    }

    async fn changes(&self, query: ChangesQuery) -> Result<Changes, RepositoryError> {
        self.0.changes(query).await
    }

    async fn write(&self, change: Change) -> Result<WriteOutcome, RepositoryError> {
        match &*change.id {
            "bad" => Err(RepositoryError::new("this row is more than it can take")),
            _ => self.0.write(change).await,
        }
    }

    async fn effect(&self, caller: &str, key: Uuid) -> Result<Option<Effect>, RepositoryError> {
        self.0.effect(caller, key).await
    }
}

async fn i11_a_row_that_fails_for_ever_is_parked_and_holds_nobody_back(wire: Wire) {
    let rows = MemoryRepository::new();
    let router = service_of(Poisoned(rows.clone()), 25, wire, SystemClock);
    let server = DatasyncServer::start("127.0.0.1:0".parse().unwrap(), router.into_router()).await.unwrap();
    let transport = HttpTransport::builder(&format!("http://{}", server.address())).retries(0).build().unwrap();
    let store = MemoryStore::new();
    let builder = DatasyncClient::builder().store(store).transport(transport).table::<Note>();
    let client = builder.build().await.unwrap();
    let table = client.offline_table::<Note>();
    table.insert(note_of("bad", "x")).await.unwrap();
    for turn in 0..12 {
        table.insert(note_of(&format!("good-{turn}"), "x")).await.unwrap();
        table.push_items().await.unwrap();
        assert_eq!(rows.rows().len(), turn + 1, "the others go on");
    }
    let pending = client.pending().await.unwrap();
    assert_eq!(pending.len(), 1);
    assert!(matches!(&pending[0].state, PendingState::Parked(reason) if reason.contains("500")), "{pending:?}");
    assert!(table.get("bad").await.unwrap().is_some());
}

/// The system's clock, as much ahead as is set.
#[derive(Clone, Debug)]
struct Skewed(Arc<AtomicI64>);

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        SystemClock.now() + SignedDuration::from_hours(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(length)
    }

    fn random(&self) -> u64 {
        SystemClock.random()
    }
}

async fn i09_a_clock_that_is_a_day_off_holds_nothing_back(wire: Wire) {
    for hours in [24, -24] {
        let skew = Arc::new(AtomicI64::new(hours));
        let world = World::with(wire, Stamping::Own, Skewed(Arc::clone(&skew))).await;
        world.table.insert(note_of("a", "one")).await.unwrap();
        assert_eq!(world.table.push_items().await.unwrap().pushed, 1);
        world.elsewhere("b", "theirs").await;
        world.table.pull_items(world.table.query()).await.unwrap();
        assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
        // A wait that was set by the wrong clock ends when the clock is set right.
        world.table.replace(note_of("a", "two")).await.unwrap();
        world.proxy.next(|head| head.starts_with("PUT"), raw("503 Service Unavailable", "retry-after: 3000\r\n", ""));
        assert_eq!(world.table.push_items().await.unwrap().waiting, 1);
        assert_eq!(world.table.push_items().await.unwrap().pushed, 0, "the service asked for patience");
        skew.store(0, Ordering::SeqCst);
        world.elsewhere("c", "theirs").await;
        assert_eq!(world.table.push_items().await.unwrap().pushed, 1, "{hours}");
        world.table.pull_items(world.table.query()).await.unwrap();
        assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "{hours}");
    }
}

async fn i02_a_held_answer_holds_no_writer(wire: Wire) {
    let world = World::new(wire).await;
    world.table.insert(note_of("a", "one")).await.unwrap();
    let (release, gate) = std::sync::mpsc::channel();
    world.proxy.next(|head| head.starts_with("POST /tables/note"), Trouble::Hold(gate));
    let table = world.table.clone();
    let push = tokio::spawn(async move { table.push_items().await });
    while world.proxy.left() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let all: Vec<Note> = (0..1_000).map(|number| note_of(&format!("row-{number}"), "x")).collect();
    world.table.insert_all(all).await.unwrap();
    world.table.replace(note_of("a", "two")).await.unwrap();
    assert!(!push.is_finished());
    drop(release);
    let _ = push.await.unwrap().unwrap();
    let before = world.proxy.requests();
    world.client.push_tables(Tables::all()).await.unwrap();
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
    assert!(world.client.pending().await.unwrap().is_empty());
    if wire.extended() {
        assert!(world.proxy.requests() - before < 20, "batches");
    }
}

datasync_tests::on_both_wires! {
    a_pull_in_trouble_changes_nothing
    a_push_in_trouble_loses_and_duplicates_nothing
    i11_operations_wait_while_the_whole_table_answers_404
    a_refused_token_ends_the_push_and_keeps_the_queue
    i25_a_next_link_to_elsewhere_is_not_followed
    i11_a_row_that_fails_for_ever_is_parked_and_holds_nobody_back
    i09_a_clock_that_is_a_day_off_holds_nothing_back
    i02_a_held_answer_holds_no_writer
}
