//! Operations that wait for somebody: listed, retried, edited, discarded and exported (I5, I8, I9).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PendingRequest, PendingState, Tables},
    clock::SystemClock,
    config::{ConflictPolicy, SyncConfig},
    error::{Error, ErrorKind},
    row::{OperationKind, ParkReason},
    store::Store,
};
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::{Action, Change, MemoryRepository, Repository};
use datasync_testkit::{Fault as CallFault, FaultTransport, Gate, TransportCall};
use datasync_tests::{
    Fault, MemoryStore, Note, RouterExchange, Wire, client, local_rows, note_of, notes, service, service_rows,
};
use futures::FutureExt;
use serde_json::Value;

/// Verb, path and body of a request.
type Sent = (Method, String, Vec<u8>);

struct World {
    client: DatasyncClient,
    table: OfflineTable<Note>,
    transport: FaultTransport<HttpTransport>,
    exchange: RouterExchange,
    rows: MemoryRepository,
    /// Verb, key and body of each request.
    log: Arc<Mutex<Vec<Sent>>>,
}

async fn world(store: impl Store, wire: Wire) -> World {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let log = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&log);
    exchange.before(move |request| {
        let key = request.headers.iter().find(|(name, _)| name == "idempotency-key");
        let key = key.map(|(_, value)| value.clone()).unwrap_or_default();
        written.lock().unwrap().push((request.method, key, request.body.clone()));
    });
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
    let transport = FaultTransport::new(transport, SystemClock);
    let builder = DatasyncClient::builder().store(store).transport(transport.clone());
    let client = builder.config(SyncConfig::default()).table::<Note>().build().await.unwrap();
    World { table: notes(&client), client, transport, exchange, rows, log }
}

fn changes(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

fn kind(error: Error) -> ErrorKind {
    error.kind()
}

const KINDS: [OperationKind; 3] = [OperationKind::Insert, OperationKind::Replace, OperationKind::Delete];

impl World {
    async fn queue(&self, kind: OperationKind, id: &str) {
        if kind != OperationKind::Insert {
            self.table.insert(note_of(id, "base")).await.unwrap();
            self.table.push_items().await.unwrap();
        }
        match kind {
            OperationKind::Insert => drop(self.table.insert(note_of(id, "mine")).await.unwrap()),
            OperationKind::Delete => drop(self.table.delete(id).await.unwrap()),
            _ => drop(self.table.replace(note_of(id, "mine")).await.unwrap()),
        }
    }

    /// An operation that parks while its outcome is not known: the first attempt is lost, before or after it was carried
    /// out, and the second one refused.
    async fn parked_in_doubt(&self, kind: OperationKind, id: &str, lost: Fault) {
        self.queue(kind, id).await;
        self.exchange.fault(changes, lost);
        self.exchange.fault(changes, Fault::Status(400));
        self.table.push_items().await.unwrap();
        self.table.push_items().await.unwrap();
        let pending = self.client.pending().await.unwrap();
        let [change] = pending.as_slice() else { panic!("{pending:?}") };
        assert!(matches!(change.state, PendingState::Parked(_)) && change.in_doubt, "{change:?}");
        assert_eq!((change.reason, change.status), (Some(ParkReason::Refused), Some(400)));
    }

    async fn elsewhere(&self, id: &str) {
        let body = format!(r#"{{"id":"{id}","title":"theirs","rank":0}}"#);
        let body = body.into_bytes().into();
        let record = datasync_core::row::Record { body, version: None, updated_at: None, deleted: false };
        let there = self.rows.read(id).await.unwrap().is_some();
        let action = if there { Action::Replace(record) } else { Action::Create(record) };
        let now = jiff::Timestamp::UNIX_EPOCH;
        self.rows.write(Change { id: id.into(), action, expected: None, now, key: None, forget: None }).await.unwrap();
    }

    fn sent(&self) -> Vec<(Method, String, Vec<u8>)> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    async fn title(&self, id: &str) -> Option<String> {
        self.table.get(id).await.unwrap().map(|note| note.title)
    }
}

async fn i05_a_retry_of_what_parked_in_doubt_sends_the_same(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    for (place, kind) in KINDS.into_iter().enumerate() {
        let id = format!("row-{place}");
        world.parked_in_doubt(kind, &id, Fault::AnswerLost).await;
        let before = world.sent().into_iter().rfind(|(method, ..)| *method != Method::Get).unwrap();
        world.client.retry("note", &id).await.unwrap();
        assert!(world.client.pending().await.unwrap()[0].in_doubt, "it stays in doubt");
        world.table.push_items().await.unwrap();
        let again = world.sent().into_iter().find(|(method, ..)| *method != Method::Get).unwrap();
        assert_eq!(again, before, "{kind}: the same key and bytes");
        assert!(world.client.pending().await.unwrap().is_empty());
    }
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

async fn i05_an_edit_of_what_parked_in_doubt_queues_behind_it(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    for (place, kind) in [OperationKind::Insert, OperationKind::Replace].into_iter().enumerate() {
        let id = format!("row-{place}");
        world.parked_in_doubt(kind, &id, Fault::AnswerLost).await;
        world.table.replace(note_of(&id, "edited")).await.unwrap();
        let pending = world.client.pending().await.unwrap();
        assert_eq!(pending.len(), 2, "one in doubt, one new");
        assert!(matches!(pending[0].state, PendingState::Parked(_)) && pending[0].in_doubt);
        let blocked = PendingState::Blocked { table: "note".into(), id: id.as_str().into() };
        assert_eq!((&pending[1].state, pending[1].in_doubt), (&blocked, false));
        world.table.push_items().await.unwrap();
        assert_eq!(world.client.pending().await.unwrap(), pending, "what is parked is not sent, nor what is behind it");
        world.client.retry("note", &id).await.unwrap();
        world.table.push_items().await.unwrap();
        assert!(world.client.pending().await.unwrap().is_empty());
        assert_eq!(world.title(&id).await.as_deref(), Some("edited"));
    }
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

/// "Before discard the row is fetched by id: a copy equal to what was sent is the success …"
async fn i05_a_discard_finds_a_success(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    for (place, kind) in KINDS.into_iter().enumerate() {
        let id = format!("row-{place}");
        world.parked_in_doubt(kind, &id, Fault::AnswerLost).await;
        world.sent();
        world.client.discard("note", &id).await.unwrap();
        let sent = world.sent();
        assert_eq!(sent.iter().map(|(method, ..)| *method).collect::<Vec<_>>(), [Method::Get], "{kind}: one look");
        assert!(world.client.pending().await.unwrap().is_empty());
        assert_eq!(world.title(&id).await.as_deref(), (kind != OperationKind::Delete).then_some("mine"));
        assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "{kind} had happened");
    }
    world.table.pull_items(world.table.query()).await.unwrap();
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

/// "… the base's version (for an insert: no row) makes it refused …"
async fn i05_a_discard_finds_that_nothing_happened(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    for (place, kind) in KINDS.into_iter().enumerate() {
        let id = format!("row-{place}");
        world.parked_in_doubt(kind, &id, Fault::Lost).await;
        world.client.discard("note", &id).await.unwrap();
        assert!(world.client.pending().await.unwrap().is_empty());
        assert_eq!(world.title(&id).await.as_deref(), (kind != OperationKind::Insert).then_some("base"), "{kind}");
        assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "{kind}");
    }
    // With an edit behind it both go.
    world.parked_in_doubt(OperationKind::Replace, "edited", Fault::Lost).await;
    world.table.replace(note_of("edited", "again")).await.unwrap();
    world.client.discard("note", "edited").await.unwrap();
    assert_eq!(world.title("edited").await.as_deref(), Some("base"));
    world.parked_in_doubt(OperationKind::Insert, "gone", Fault::Lost).await;
    world.table.delete("gone").await.unwrap();
    world.client.discard("note", "gone").await.unwrap();
    assert!(world.client.pending().await.unwrap().is_empty());
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

/// "… anything else is a conflict."
async fn i05_a_discard_finds_a_conflict(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    for lost in [Fault::Lost, Fault::AnswerLost] {
        for (place, kind) in KINDS.into_iter().enumerate() {
            let id = format!("{lost:?}-{place}").to_lowercase();
            world.parked_in_doubt(kind, &id, lost).await;
            world.elsewhere(&id).await;
            world.client.discard("note", &id).await.unwrap();
            assert!(world.client.pending().await.unwrap().is_empty());
            assert_eq!(world.title(&id).await.as_deref(), Some("theirs"), "{kind}: the other side is what is left");
        }
    }
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

async fn i05_a_discard_without_a_network_changes_nothing(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    world.parked_in_doubt(OperationKind::Replace, "parked", Fault::AnswerLost).await;
    world.queue(OperationKind::Insert, "waiting").await;
    world.exchange.fault(changes, Fault::AnswerLost);
    world.table.push_items().await.unwrap();
    let before = world.client.pending().await.unwrap();
    assert!(matches!(before[1].state, PendingState::Waiting(_)) && before[1].in_doubt);
    for id in ["parked", "waiting"] {
        world.transport.faults().next(TransportCall::Fetch, CallFault::Refuse);
        assert_eq!(world.client.discard("note", id).await.map_err(kind), Err(ErrorKind::Unreachable));
        assert_eq!(world.client.pending().await.unwrap(), before);
    }
    world.client.discard("note", "waiting").await.unwrap();
    assert_eq!(world.title("waiting").await.as_deref(), Some("mine"), "it had happened");
}

async fn i05_a_discard_waits_for_the_push_that_sends_the_row(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    world.queue(OperationKind::Replace, "a").await;
    let (gate, open) = Gate::new();
    world.transport.faults().next(TransportCall::Push, CallFault::Hold(gate));
    let before = world.transport.faults().calls(TransportCall::Push);
    let mut push = Box::pin(world.table.push_items());
    while world.transport.faults().calls(TransportCall::Push) == before {
        assert!((&mut push).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let mut discard = Box::pin(world.client.discard("note", "a"));
    for _ in 0..20 {
        assert!((&mut discard).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert_eq!(world.transport.faults().calls(TransportCall::Fetch), 0, "the row is not looked at before the answer");
    drop(open);
    let (pushed, discarded) = futures::join!(push, discard);
    assert_eq!(pushed.unwrap().pushed, 1);
    discarded.unwrap();
    assert_eq!(world.title("a").await.as_deref(), Some("mine"), "it was sent, so that there was nothing to discard");
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

async fn i05_a_second_discard_waits_for_that_push_too(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    world.queue(OperationKind::Insert, "a").await;
    let (gate, open) = Gate::new();
    world.transport.faults().next(TransportCall::Push, CallFault::Late(gate));
    let mut push = Box::pin(world.table.push_items());
    while world.transport.faults().calls(TransportCall::Push) == 0 {
        assert!((&mut push).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let stopped = async |discard: &mut futures::future::BoxFuture<'_, Result<(), Error>>| {
        for _ in 0..20 {
            assert!(discard.now_or_never().is_none());
            tokio::task::yield_now().await;
        }
    };
    let mut first = world.client.discard("note", "a").boxed();
    stopped(&mut first).await;
    drop(first);
    let mut second = world.client.discard("note", "a").boxed();
    stopped(&mut second).await;
    drop(open);
    let (pushed, discarded) = futures::join!(push, second);
    assert_eq!((pushed.unwrap().pushed, discarded.is_ok()), (1, true));
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "it was sent: there was nothing to discard");
}

async fn i05_a_discard_believes_no_look_that_another_attempt_overtook(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    let faults = world.transport.faults();
    world.queue(OperationKind::Insert, "a").await;
    let (answer, open_answer) = Gate::new();
    faults.next(TransportCall::Push, CallFault::Late(answer));
    world.exchange.fault(changes, Fault::Status(503));
    let mut push = Box::pin(world.table.push_items());
    while faults.calls(TransportCall::Push) == 0 {
        assert!((&mut push).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let (look, open_look) = Gate::new();
    faults.next(TransportCall::Fetch, CallFault::Hold(look));
    let mut discard = Box::pin(world.client.discard("note", "a"));
    for _ in 0..20 {
        assert!((&mut discard).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(open_answer);
    assert_eq!(push.await.unwrap().waiting, 1);
    while faults.calls(TransportCall::Fetch) == 0 {
        assert!((&mut discard).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    // The look has found nothing, and is still on its way when the next attempt is.
    let (attempt, open_attempt) = Gate::new();
    faults.next(TransportCall::Push, CallFault::Late(attempt));
    let mut push = Box::pin(world.client.push_tables(Tables::all()));
    while faults.calls(TransportCall::Push) < 2 {
        assert!((&mut push).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(open_look);
    for _ in 0..20 {
        assert!((&mut discard).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(open_attempt);
    let (pushed, discarded) = futures::join!(push, discard);
    assert_eq!(pushed.unwrap().pushed, 1);
    discarded.unwrap();
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "what was sent is not dropped here");
}

async fn i09_every_change_says_what_it_waits_for(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    // Refused, in conflict, waiting, ready.
    world.queue(OperationKind::Insert, "refused").await;
    world.exchange.fault(changes, Fault::Status(422));
    world.table.push_items().await.unwrap();
    world.queue(OperationKind::Replace, "conflict").await;
    world.elsewhere("conflict").await;
    world.table.push_items().await.unwrap();
    world.queue(OperationKind::Insert, "waiting").await;
    world.exchange.fault(changes, Fault::Status(503));
    world.table.push_items().await.unwrap();
    world.table.insert_all((0..250).map(|number| note_of(&format!("ready-{number:03}"), "x"))).await.unwrap();

    let all = world.client.pending().await.unwrap();
    assert_eq!(all.len(), 253);
    let [refused, conflict, waiting, ready] = &all[..4] else { panic!("{all:?}") };
    assert_eq!((refused.reason, refused.status), (Some(ParkReason::Refused), Some(422)));
    assert_eq!(conflict.reason, Some(ParkReason::Conflict));
    assert!(matches!(conflict.state, PendingState::Conflict(_)));
    assert!(matches!(waiting.state, PendingState::Waiting(_)) && waiting.attempts == 1 && waiting.in_doubt);
    assert_eq!((&ready.state, ready.attempts, ready.in_doubt), (&PendingState::Ready, 0, false));

    let mut request = PendingRequest::new().limit(100);
    let mut paged = Vec::new();
    let mut pages = 0;
    loop {
        let page = world.client.pending_page(request.clone()).await.unwrap();
        paged.extend(page.changes);
        pages += 1;
        match page.next {
            Some(next) => request = request.after(next),
            None => break,
        }
    }
    assert_eq!((pages, paged), (3, all.clone()));
    let parked = world.client.pending_page(PendingRequest::new().parked().limit(1)).await.unwrap();
    assert_eq!((parked.changes.as_slice(), parked.next), (&all[..1], Some(all[0].place)));
    let parked = PendingRequest::new().parked().tables(["note"]).limit(1).after(all[0].place);
    let parked = world.client.pending_page(parked).await.unwrap();
    assert_eq!((parked.changes.as_slice(), parked.next), (&all[1..2], None));
    let unknown = world.client.pending_page(PendingRequest::new().tables(["none"])).await;
    assert_eq!(unknown.map_err(kind), Err(ErrorKind::UnknownTable));

    assert_eq!(world.client.retry("note", "conflict").await.map_err(kind), Err(ErrorKind::Conflict));
    assert_eq!(world.client.retry_all(Tables::all()).await.unwrap(), 2, "a conflict is resolved and not retried");
    assert_eq!(world.client.retry_all(["note"]).await.unwrap(), 0);
    let state = async |id: &str| {
        let pending = world.client.pending().await.unwrap();
        pending.into_iter().find(|change| &*change.id == id).map(|change| change.state)
    };
    assert_eq!(
        (state("refused").await, state("waiting").await),
        (Some(PendingState::Ready), Some(PendingState::Ready))
    );
    world.client.push_tables(Tables::all()).await.unwrap();
    assert_eq!(world.client.pending().await.unwrap().len(), 1);
}

async fn i08_an_export_has_all_that_support_needs(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    assert_eq!(world.client.export("note", "none").await.map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(world.client.export_parked().await.unwrap(), "");
    world.parked_in_doubt(OperationKind::Replace, "a", Fault::Lost).await;
    world.queue(OperationKind::Replace, "b").await;
    world.elsewhere("b").await;
    world.table.push_items().await.unwrap();
    world.table.insert(note_of("ready", "x")).await.unwrap();

    let lines = |text: String| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let one = lines(world.client.export("note", "a").await.unwrap());
    let (row, operation) = (&one[0], &one[1]);
    assert_eq!((&row["table"], &row["id"], &row["account"]), (&"note".into(), &"a".into(), &"".into()));
    assert_eq!((&row["record"]["body"]["title"], &row["base"]["body"]["title"]), (&"mine".into(), &"base".into()));
    assert_eq!((&operation["operation"], &operation["phase"]), (&"replace".into(), &"in-doubt".into()));
    assert_eq!(operation["frozen"]["title"], "mine");
    assert_eq!((&operation["hold"]["reason"], &operation["hold"]["status"]), (&"refused".into(), &400.into()));

    let all = lines(world.client.export_parked().await.unwrap());
    assert_eq!(all.iter().map(|row| row["id"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "a", "b", "b"]);
    assert_eq!(all[..2], one);
    assert!(all[3]["hold"]["conflict"].to_string().contains("theirs"));
}

datasync_tests::on_both_stores! {
    i05_a_retry_of_what_parked_in_doubt_sends_the_same
    i05_an_edit_of_what_parked_in_doubt_queues_behind_it
    i05_a_discard_finds_a_success
    i05_a_discard_finds_that_nothing_happened
    i05_a_discard_finds_a_conflict
    i05_a_discard_without_a_network_changes_nothing
    i05_a_discard_waits_for_the_push_that_sends_the_row
    i05_a_second_discard_waits_for_that_push_too
    i05_a_discard_believes_no_look_that_another_attempt_overtook
    i09_every_change_says_what_it_waits_for
    i08_an_export_has_all_that_support_needs
}

#[tokio::test]
async fn i05_a_discard_with_a_policy_settles_as_the_policy_says_and_then_goes() {
    for policy in [ConflictPolicy::ClientWins, ConflictPolicy::ServerWins] {
        let rows = MemoryRepository::new();
        let exchange = RouterExchange::new(service(&rows, 100, Wire::Extended));
        let one = client(MemoryStore::new(), &exchange, policy).await;
        let other = client(MemoryStore::new(), &exchange, policy).await;
        let (here, there) = (notes(&one), notes(&other));
        here.insert(note_of("a", "base")).await.unwrap();
        here.push_items().await.unwrap();
        here.replace(note_of("a", "mine")).await.unwrap();
        exchange.fault(changes, Fault::Lost);
        here.push_items().await.unwrap();
        there.pull_items(there.query()).await.unwrap();
        there.replace(note_of("a", "theirs")).await.unwrap();
        there.push_items().await.unwrap();
        one.discard("note", "a").await.unwrap();
        assert!(one.pending().await.unwrap().is_empty());
        assert_eq!(local_rows(&here).await, service_rows(&rows));
    }
}
