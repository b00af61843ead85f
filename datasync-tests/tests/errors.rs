//! What an error says to a program: where, what was tried, and what to do.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PurgeOptions, Tables},
    clock::SystemClock,
    error::{Error, ErrorKind, SyncPhase},
    row::OperationKind,
    store::Store,
};
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault as CallFault, FaultStore, FaultTransport, StoreCall, TransportCall};
use datasync_tests::{Fault, Note, RouterExchange, Wire, note_of, notes, service};

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
    assert_eq!(said(&error), (ErrorKind::Store, note, Some("c"), None, write, None));
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

datasync_tests::on_both_stores! {
    local_errors_name_their_row
    errors_of_the_wire_say_what_was_tried
}
