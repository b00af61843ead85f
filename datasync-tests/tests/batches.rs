//! Many rows in one commit, and as many requests as they need.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use datasync_core::{client::Tables, clock::SystemClock, config::ConflictPolicy, error::ErrorKind, store::Store};
use datasync_http::{HttpRequest, Method};
use datasync_server::MemoryRepository;
use datasync_testkit::{FaultStore, StoreCall};
use datasync_tests::{
    Fault, MemoryStore, Note, RedbStore, RouterExchange, Wire, client, folder, local_rows, note_of, notes, service,
    service_rows,
};

datasync_tests::on_both_stores! {
    i03_a_batch_that_fails_changes_nothing
    where_no_connection_is_made_the_rest_is_not_tried
}

/// How many rows a batch has.
const ROWS: usize = 10_000;
/// How many operations a request of the extended wire holds: those of a wave.
const A_REQUEST: usize = 100;

async fn ten_thousand_rows_are_one_commit(store: impl Store + Clone, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 1_000, wire));
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    exchange.before(move |request| {
        counted.fetch_add(usize::from(request.method != Method::Get), Ordering::SeqCst);
    });
    let store = FaultStore::new(store, SystemClock);
    let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let commits = || store.faults().calls(StoreCall::Commit);
    let needed = if wire == Wire::Extended { ROWS / A_REQUEST } else { ROWS };

    let batch = |title: &'static str| (0..ROWS).map(move |rank| note_of(&format!("{rank:05}"), title));
    let before = commits();
    assert_eq!(table.insert_all(batch("inserted")).await.unwrap().len(), ROWS);
    assert_eq!(commits() - before, 1);
    assert_eq!(table.push_items().await.unwrap().pushed, ROWS as u64);
    assert_eq!(sent.load(Ordering::SeqCst), needed);
    assert_eq!(service_rows(&rows).len(), ROWS);
    if wire == Wire::Original {
        // A request for each row takes its time, and the rest is the same.
        return;
    }

    let before = commits();
    table.upsert_all(batch("upserted")).await.unwrap();
    table.delete_all((0..ROWS / 2).map(|rank| format!("{rank:05}"))).await.unwrap();
    assert_eq!(commits() - before, 2);
    assert_eq!(client.pending().await.unwrap().len(), ROWS, "the deletes took the place of the replaces");
    assert_eq!(table.push_items().await.unwrap().pushed, ROWS as u64);
    assert_eq!(sent.load(Ordering::SeqCst), 2 * needed);
    let left = service_rows(&rows);
    assert_eq!(left.len(), ROWS / 2);
    assert!(left.iter().all(|(_, title, _)| title == "upserted"));
    assert_eq!(local_rows(&table).await, left);
}

#[tokio::test]
async fn ten_thousand_rows_are_one_commit_and_a_request_each() {
    ten_thousand_rows_are_one_commit(MemoryStore::new(), Wire::Original).await;
}

#[tokio::test]
async fn ten_thousand_rows_are_one_commit_and_a_hundred_requests() {
    ten_thousand_rows_are_one_commit(MemoryStore::new(), Wire::Extended).await;
    let folder = folder();
    let redb = RedbStore::open(folder.path().join("store.redb")).unwrap();
    ten_thousand_rows_are_one_commit(redb, Wire::Extended).await;
}

async fn i03_a_batch_that_fails_changes_nothing(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.insert(note_of("a", "first")).await.unwrap();
    let batch = |ids: [&str; 3]| ids.map(|id| Note { rank: 7, ..note_of(id, "batch") });
    let kind = |error: datasync_core::error::Error| error.kind();
    assert_eq!(table.insert_all(batch(["b", "c", "a"])).await.map_err(kind), Err(ErrorKind::Exists));
    assert_eq!(table.insert_all(batch(["b", "c", "b"])).await.map_err(kind), Err(ErrorKind::Exists));
    assert_eq!(table.insert_all(batch(["b", "c", "-"])).await.map_err(kind), Err(ErrorKind::InvalidId));
    assert_eq!(table.upsert_all(batch(["b", "a", "-"])).await.map_err(kind), Err(ErrorKind::InvalidId));
    assert_eq!(table.delete_all(["a", "b"]).await.map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(table.delete_all(["a", "a"]).await.map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(local_rows(&table).await, [("a".to_owned(), "first".to_owned(), 0)]);
    assert_eq!(client.pending().await.unwrap().len(), 1);
    table.upsert_all([note_of("b", "one"), note_of("b", "two")]).await.unwrap();
    assert_eq!(table.get("b").await.unwrap().unwrap().title, "two");
    assert_eq!(table.delete_all(Vec::<String>::new()).await.unwrap(), []);
    assert_eq!(client.pending().await.unwrap().len(), 2);
}

async fn where_no_connection_is_made_the_rest_is_not_tried(store: impl Store, wire: Wire) {
    const FEW: u64 = 8;
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.insert_all((0..FEW).map(|number| note_of(&format!("{number}"), "mine"))).await.unwrap();
    let is_change = |request: &HttpRequest| request.method != Method::Get;
    // A batch that was lost is followed by smaller ones.
    (0..FEW).for_each(|_| exchange.fault(is_change, Fault::AnswerLost));
    assert_eq!(table.push_items().await.unwrap().waiting, FEW);
    exchange.clear_faults();

    (0..FEW).for_each(|_| exchange.fault(is_change, Fault::Refused));
    let sent = exchange.requests.load(Ordering::SeqCst);
    let error = client.push_tables(Tables::all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(exchange.requests.load(Ordering::SeqCst) - sent, 1);
    exchange.clear_faults();

    let sent = exchange.requests.load(Ordering::SeqCst);
    assert_eq!(client.push_tables(Tables::all()).await.unwrap().pushed, FEW);
    let sent = exchange.requests.load(Ordering::SeqCst) - sent;
    assert!(!wire.extended() || sent == 2, "a network that is away makes no batch smaller: {sent}");
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}
