//! What an error says to a program: where, what was tried, and what to do.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{future::Future, time::Duration};

use datasync_core::{
    client::{
        DatasyncClient, OfflineTable, Pending, PendingRequest, PullOptions, PurgeOptions, ResetOptions, Resolution,
        Tables,
    },
    clock::SystemClock,
    config::SyncConfig,
    error::{Error, ErrorKind, SyncPhase},
    row::OperationKind,
    store::{Store, StoreErrorKind},
};
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault as CallFault, FaultStore, FaultTransport, StoreCall, TransportCall};
use datasync_tests::{Fault, MemoryStore, Note, RouterExchange, Wire, note_of, notes, service};
use futures::{FutureExt, Stream, StreamExt, future::LocalBoxFuture};
use serde::Deserialize;

struct World {
    client: DatasyncClient,
    table: OfflineTable<Note>,
    transport: FaultTransport<HttpTransport>,
    exchange: RouterExchange,
}

async fn world(store: impl Store, wire: Wire) -> World {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
    let transport = FaultTransport::new(transport, SystemClock);
    let builder = DatasyncClient::builder().store(store).transport(transport.clone());
    let client = builder.table::<Note>().build().await.unwrap();
    World { table: notes(&client), client, transport, exchange }
}

/// Kind, row, operation, phase and status of an error, which must also say what to do.
type Said<'e> = (ErrorKind, Option<&'e str>, Option<&'e str>, Option<OperationKind>, Option<SyncPhase>, Option<u16>);

fn said(error: &Error) -> Said<'_> {
    assert!(!error.advice().is_empty());
    if let Some(tried) = error.tried() {
        assert!(error.to_string().contains(tried), "the text says it too: {error}");
    }
    (error.kind(), error.table(), error.id(), error.operation(), error.phase(), error.status())
}

fn is_change(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

fn is_page(request: &HttpRequest) -> bool {
    request.method == Method::Get && request.url.path().contains("/note")
}

async fn local_errors_name_their_row(store: impl Store, wire: Wire) {
    let store = FaultStore::new(store, SystemClock);
    let faults = store.faults().clone();
    let world = world(store, wire).await;
    let (write, note) = (Some(SyncPhase::Write), Some("note"));
    world.table.insert(note_of("a", "x")).await.unwrap();
    let error = world.table.insert(note_of("a", "x")).await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Exists, note, Some("a"), Some(OperationKind::Insert), write, None));
    let error = world.table.replace(note_of("b", "x")).await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::NotFound, note, Some("b"), Some(OperationKind::Replace), write, None));
    let error = world.table.delete("b").await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::NotFound, note, Some("b"), Some(OperationKind::Delete), write, None));
    faults.next(StoreCall::Commit, CallFault::Refuse);
    let error = world.table.insert(note_of("c", "x")).await.unwrap_err();
    let insert = Some(OperationKind::Insert);
    assert_eq!(said(&error), (ErrorKind::Store, note, Some("c"), insert, write, None));
    let error = world.table.purge_items(PurgeOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.table(), error.phase()), (ErrorKind::Pending, note, Some(SyncPhase::Leave)));
    let error = world.client.retry("note", "none").await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::NotFound, note, Some("none"), None, Some(SyncPhase::Decide), None));
}

async fn errors_of_the_wire_say_what_was_tried(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    let note = Some("note");
    world.table.pull_items(world.table.query()).await.unwrap();
    world.table.insert(note_of("a", "x")).await.unwrap();
    world.exchange.fault(is_change, Fault::Refused);
    let error = world.table.push_items().await.unwrap_err();
    let (insert, push) = (Some(OperationKind::Insert), Some(SyncPhase::Push));
    assert_eq!(said(&error), (ErrorKind::Unreachable, note, Some("a"), insert, push, None));
    assert_eq!(error.tried(), Some("sending the insert of note/a"));
    world.exchange.fault(is_change, Fault::Status(401));
    let error = world.client.push_tables(Tables::all()).await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Unauthenticated, note, Some("a"), insert, push, Some(401)));

    world.exchange.fault(is_change, Fault::Status(422));
    world.table.push_items().await.unwrap();
    let written = world.table.upsert(note_of("b", "x")).await.unwrap();
    world.exchange.fault(is_change, Fault::Status(422));
    world.table.push_items().await.unwrap();
    let error = written.acked().await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Parked, note, Some("b"), insert, push, Some(422)));
    assert_eq!(error.tried(), Some("sending the insert of note/b"));
    world.client.discard("note", "b").await.unwrap();
    let error = written.acked().await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Dropped, note, Some("b"), insert, push, None));
    assert_eq!(error.tried(), Some("sending the insert of note/b"));

    world.exchange.fault(is_page, Fault::Status(403));
    let error = world.table.pull_items(world.table.query()).await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Service, note, None, None, Some(SyncPhase::Pull), Some(403)));
    assert_eq!(error.tried(), Some("fetching page 1 of `note`"));
    world.exchange.fault(is_page, Fault::Refused);
    let error = world.table.verify_items(world.table.query()).await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Unreachable, note, None, None, Some(SyncPhase::Verify), None));

    let remote = world.client.remote_table::<Note>();
    let phase = Some(SyncPhase::Remote);
    world.exchange.fault(is_page, Fault::Status(400));
    let error = remote.get("a").await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Service, note, Some("a"), None, phase, Some(400)));
    remote.insert(note_of("there", "x")).await.unwrap();
    let error = remote.insert(note_of("there", "x")).await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Conflict, note, Some("there"), insert, phase, None));

    world.table.insert(note_of("doubtful", "x")).await.unwrap();
    world.exchange.fault(is_change, Fault::AnswerLost);
    world.table.push_items().await.unwrap();
    world.transport.faults().next(TransportCall::Fetch, CallFault::Refuse);
    let error = world.client.discard("note", "doubtful").await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Unreachable, note, Some("doubtful"), insert, Some(SyncPhase::Decide), None));
    assert_eq!(error.tried(), Some("asking what became of the insert of note/doubtful"));
}

/// A call that fails, with the phase, table, row and operation that its error must name.
type Call<'c> = (
    &'static str,
    LocalBoxFuture<'c, Error>,
    SyncPhase,
    Option<&'static str>,
    Option<&'static str>,
    Option<OperationKind>,
);

fn fails<'c, T>(call: impl Future<Output = Result<T, Error>> + 'c) -> LocalBoxFuture<'c, Error> {
    call.map(|result| result.err().expect("it must fail")).boxed_local()
}

/// The first item of a stream.
fn fails_at_once<'c, T: 'c>(stream: impl Stream<Item = Result<T, Error>> + Unpin + 'c) -> LocalBoxFuture<'c, Error> {
    fails(stream.into_future().map(|(first, _)| first.unwrap()))
}

async fn check(calls: Vec<Call<'_>>, kind: Option<ErrorKind>) {
    for (call, error, phase, table, id, operation) in calls {
        let error = error.await;
        let (found, of, at, doing, during, _) = said(&error);
        assert_eq!((of, at, doing, during), (table, id, operation, Some(phase)), "{call}: {error:?}");
        assert!(kind.is_none_or(|kind| kind == found), "{call}: {error:?}");
    }
}

/// Refused by every table that has no field of this name.
#[derive(Debug, Deserialize)]
struct Other {
    #[expect(dead_code, reason = "the name alone is asked for")]
    nobody_has_this: i64,
}

async fn a_failure_of_the_store_says_what_was_under_way(store: impl Store, wire: Wire) {
    use OperationKind::{Delete, Insert, Replace};
    use SyncPhase::{Decide, Leave, Pull, Push, Read, Verify, Write};
    let world = world(store, wire).await;
    let (table, client) = (&world.table, &world.client);
    client.remote_table::<Note>().insert(note_of("c", "there")).await.unwrap();
    let written = table.insert(note_of("c", "here")).await.unwrap();
    table.push_items().await.unwrap();
    let conflict = client.conflicts().await.unwrap().pop().unwrap();
    client.close().await.unwrap();

    let (a, note, loser) = (Some("a"), Some("note"), uuid::Uuid::from_u128(7));
    let new = || note_of("a", "x");
    let take = Resolution::<Note>::Take;
    let query = || table.query();
    check(
        vec![
            ("get", fails(table.get("a")), Read, note, a, None),
            ("count", fails(table.count()), Read, note, None, None),
            ("to_vec", fails(query().to_vec()), Read, note, None, None),
            ("to_rows", fails(query().to_rows()), Read, note, None, None),
            ("first", fails(query().first()), Read, note, None, None),
            ("count of a query", fails(query().count()), Read, note, None, None),
            ("watch", fails_at_once(query().watch()), Read, note, None, None),
            ("stream", fails_at_once(query().stream()), Read, note, None, None),
            ("pending", fails(client.pending()), Read, None, None, None),
            ("pending_page", fails(client.pending_page(PendingRequest::new())), Read, None, None, None),
            ("conflicts", fails(client.conflicts()), Read, None, None, None),
            ("conflicts_after", fails(client.conflicts_after(None, 1)), Read, None, None, None),
            ("conflict_stream", fails_at_once(client.conflict_stream()), Read, None, None, None),
            ("settled_losers", fails(client.settled_losers()), Read, None, None, None),
            ("quarantined", fails(client.quarantined()), Read, None, None, None),
            ("accounts", fails(client.accounts()), Read, None, None, None),
            ("journal", fails(client.journal(None, 1)), Read, None, None, None),
            ("export", fails(client.export("note", "a")), Read, note, a, None),
            ("export_parked", fails(client.export_parked()), Read, None, None, None),
            ("insert", fails(table.insert(new())), Write, note, a, Some(Insert)),
            ("replace", fails(table.replace(new())), Write, note, a, Some(Replace)),
            ("upsert", fails(table.upsert(new())), Write, note, a, Some(Replace)),
            ("delete", fails(table.delete("a")), Write, note, a, Some(Delete)),
            ("insert_all", fails(table.insert_all([new()])), Write, note, None, Some(Insert)),
            ("upsert_all", fails(table.upsert_all([new()])), Write, note, None, Some(Replace)),
            ("delete_all", fails(table.delete_all(["a"])), Write, note, None, Some(Delete)),
            ("retry", fails(client.retry("note", "a")), Decide, note, a, None),
            ("retry_all", fails(client.retry_all(Tables::all())), Decide, None, None, None),
            ("discard", fails(client.discard("note", "a")), Decide, note, a, None),
            ("with children", fails(client.discard_with_children("note", "a")), Decide, note, a, None),
            ("resolve", fails(client.resolve(&conflict, take)), Decide, note, Some("c"), None),
            ("restore_loser", fails(client.restore_loser(loser)), Decide, None, None, None),
            ("forget_losers", fails(client.forget_losers([loser])), Decide, None, None, None),
            ("discard_quarantined", fails(client.discard_quarantined("note", "a")), Decide, note, a, None),
            ("sign_in", fails(client.sign_in("alice")), Decide, None, None, None),
            ("push_items", fails(table.push_items()), Push, None, None, None),
            ("push_tables", fails(client.push_tables(Tables::all())), Push, None, None, None),
            ("pull_items", fails(table.pull_items(query())), Pull, note, None, None),
            ("pull_tables", fails(client.pull_tables(Tables::all())), Pull, None, None, None),
            ("verify_items", fails(table.verify_items(query())), Verify, note, None, None),
            ("purge_items", fails(table.purge_items(PurgeOptions::default())), Leave, note, None, None),
            (
                "purge of a query",
                fails(table.purge_items(PurgeOptions::default().query(query().top(1)))),
                Leave,
                note,
                None,
                None,
            ),
            ("reset", fails(client.reset(ResetOptions::everything())), Leave, None, None, None),
            ("sign_out", fails(client.sign_out(Pending::Discard)), Leave, None, None, None),
            (
                "sign_out that pushes",
                fails(client.sign_out(Pending::Push(Duration::from_secs(1)))),
                Leave,
                None,
                None,
                None,
            ),
        ],
        Some(ErrorKind::Store),
    )
    .await;
    let error = table.get("a").await.unwrap_err();
    assert_eq!(error.store_kind(), Some(StoreErrorKind::Closed));
    assert!(error.advice().contains("build a client"), "{}", error.advice());
    drop(world);
    let error = written.acked().await.unwrap_err();
    assert_eq!((error.kind(), error.store_kind()), (ErrorKind::Store, Some(StoreErrorKind::Closed)));
    assert!(error.advice().contains("build a client"), "{}", error.advice());
}

async fn what_is_refused_says_what_was_under_way(store: impl Store, wire: Wire) {
    use OperationKind::{Insert, Replace};
    use SyncPhase::{Decide, Leave, Pull, Push, Read, Remote, Verify, Write};
    let world = world(store, wire).await;
    let (table, client) = (&world.table, &world.client);
    let remote = client.remote_table::<Note>();
    let (bad, note, none, x) = (Some("a b"), Some("note"), Some("none"), Some("x"));
    let new = || note_of("a b", "x");
    check(
        vec![
            ("insert", fails(table.insert(new())), Write, note, bad, Some(Insert)),
            ("insert_all", fails(table.insert_all([note_of("a", "x"), new()])), Write, note, bad, Some(Insert)),
            ("upsert", fails(table.upsert(new())), Write, note, bad, Some(Replace)),
            ("remote get", fails(remote.get("a b")), Remote, note, bad, None),
            ("remote insert", fails(remote.insert(new())), Remote, note, bad, Some(Insert)),
        ],
        Some(ErrorKind::InvalidId),
    )
    .await;
    let other = || table.query().select::<Other>();
    let page = || PullOptions::default().page_size(0);
    check(
        vec![
            ("to_vec", fails(other().to_vec()), Read, note, None, None),
            ("watch", fails_at_once(other().watch()), Read, note, None, None),
            ("stream", fails_at_once(other().stream()), Read, note, None, None),
            ("remote to_vec", fails(remote.query().select::<Other>().to_vec()), Remote, note, None, None),
            ("remote stream", fails_at_once(remote.query().select::<Other>().stream()), Remote, note, None, None),
            ("pull_items", fails(table.pull_items(page())), Pull, note, None, None),
            ("verify_items", fails(table.verify_items(page())), Verify, note, None, None),
        ],
        Some(ErrorKind::InvalidQuery),
    )
    .await;
    check(
        vec![
            (
                "pending_page",
                fails(client.pending_page(PendingRequest::new().tables(["none"]))),
                Read,
                none,
                None,
                None,
            ),
            ("export", fails(client.export("none", "x")), Read, none, x, None),
            ("retry", fails(client.retry("none", "x")), Decide, none, x, None),
            ("retry_all", fails(client.retry_all(["none"])), Decide, none, None, None),
            ("discard", fails(client.discard("none", "x")), Decide, none, x, None),
            ("discard_quarantined", fails(client.discard_quarantined("none", "x")), Decide, none, x, None),
            ("push_tables", fails(client.push_tables(["none"])), Push, none, None, None),
            ("pull_tables", fails(client.pull_tables(["none"])), Pull, none, None, None),
            ("reset", fails(client.reset(ResetOptions::tables(["none"]))), Leave, none, None, None),
        ],
        Some(ErrorKind::UnknownTable),
    )
    .await;
    let missing = vec![
        ("retry", fails(client.retry("note", "x")), Decide, note, x, None),
        ("discard", fails(client.discard("note", "x")), Decide, note, x, None),
        ("discard_quarantined", fails(client.discard_quarantined("note", "x")), Decide, note, x, None),
        ("restore_loser", fails(client.restore_loser(uuid::Uuid::from_u128(7))), Decide, None, None, None),
        ("export", fails(client.export("note", "x")), Read, note, x, None),
    ];
    for (call, error, phase, table, id, operation) in missing {
        let error = error.await;
        assert_eq!(said(&error), (ErrorKind::NotFound, table, id, operation, Some(phase), None), "{call}");
        assert!(!error.advice().contains("insert"), "{call}: {}", error.advice());
    }
    let nobody = vec![
        ("sign_in", fails(client.sign_in("")), Decide, None, None, None),
        ("adopt", fails(client.adopt()), Decide, None, None, None),
    ];
    check(nobody, Some(ErrorKind::InvalidAccount)).await;
}

async fn a_retry_of_a_conflict_shows_the_conflict(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    world.client.remote_table::<Note>().insert(note_of("c", "there")).await.unwrap();
    world.table.insert(note_of("c", "here")).await.unwrap();
    world.table.push_items().await.unwrap();
    let error = world.client.retry("note", "c").await.unwrap_err();
    let decide = Some(SyncPhase::Decide);
    assert_eq!(said(&error), (ErrorKind::Conflict, Some("note"), Some("c"), None, decide, None));
    assert_eq!(error.conflict(), world.client.conflicts().await.unwrap().first());
    assert!(error.advice().contains("`resolve`"), "{}", error.advice());
}

async fn an_opening_that_fails_says_so(store: impl Store, wire: Wire) {
    let store = FaultStore::new(store, SystemClock);
    store.faults().next(StoreCall::Open, CallFault::Refuse);
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let error = datasync_tests::client_over(store, exchange).build().await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Store, None, None, None, Some(SyncPhase::Open), None));
    let error = DatasyncClient::builder().build().await.unwrap_err();
    assert_eq!((error.kind(), error.phase()), (ErrorKind::InvalidConfig, Some(SyncPhase::Open)));
}

async fn values_out_of_range_are_refused_as_they_are_written(wire: Wire) {
    let refused = [
        ("pull_overlap = '24h 1ms'", "`sync.pull_overlap` is 1d 1ms, but must be 0s to 1d"),
        ("loser_age = '59m 59s 999ms'", "`sync.loser_age` is 59m 59s 999ms, but must be 1h to 36525d"),
        ("full_resync_after = '59s 500ms'", "`sync.full_resync_after` is 59s 500ms, but must be at least 1m"),
        ("max_pages = 0", "`sync.max_pages` is 0, but must be at least 1"),
        ("wave_size = 10001", "`sync.wave_size` is 10001, but must be 1 to 10000"),
    ];
    for (line, message) in refused {
        let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
        let config = SyncConfig::from_toml(&format!("[sync]\n{line}")).unwrap();
        let built = datasync_tests::client_over(MemoryStore::new(), exchange).config(config).build().await;
        let error = built.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().ends_with(message), "{error}");
    }
    assert!(HttpTransport::builder("http://service").max_body(0).build().is_err());
}

datasync_tests::on_both_wires! {
    values_out_of_range_are_refused_as_they_are_written
}

datasync_tests::on_both_stores! {
    local_errors_name_their_row
    a_failure_of_the_store_says_what_was_under_way
    what_is_refused_says_what_was_under_way
    a_retry_of_a_conflict_shows_the_conflict
    an_opening_that_fails_says_so
    errors_of_the_wire_say_what_was_tried
}
