//! The known gaps of the originals' pull (`gap_01` to `gap_08`), and the windows in which they lose or duplicate data
//! (`window_01` to `window_19`), each with what happens here. The numbers are those of the list of the reference's behaviour.
//!
//! | number | where else it is, or why it has no test |
//! | --- | --- |
//! | window 17 | it stands for the gaps |
//! | window 16, in several tables | `i07_a_child_goes_after_its_parent`, with eight operations at once |
//! | window 19 | no lock is held over an await: the lint `await_holding_lock` sees to it, and `i02_…` writes while an answer is held |
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod gaps;

use std::sync::{Arc, Mutex};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PullOptions, Resolution, Tables},
    clock::{Clock as _, SystemClock},
    config::{CLIENT_WINS_ROUNDS, ConflictPolicy},
    error::ErrorKind,
    query::Query,
    store::Store,
};
use datasync_http::{HttpRequest, Method};
use datasync_server::{Action, Change, MemoryRepository, Repository};
use datasync_testkit::{Fault as StoreFault, FaultStore, StoreCall};
use datasync_tests::{
    Fault, MemoryStore, Note, RouterExchange, Wire, client, local_rows, note_of, notes, service, service_rows,
};
use jiff::Timestamp;
use serde_json::{Value, json};

datasync_tests::on_both_stores! {
    window_01_a_row_and_its_operation_are_one_commit
    window_02_an_update_that_becomes_a_deletion_is_one_commit
    window_03_an_insert_that_is_deleted_is_one_commit
    window_04_an_answer_that_was_not_stored_is_asked_for_again
    window_05_an_answer_and_the_end_of_its_operation_are_one_commit
    window_06_a_page_and_its_token_are_one_commit
    window_07_a_settled_conflict_leaves_nothing_behind
    window_08_a_lost_connection_keeps_the_answers_before_it
    window_09_a_push_that_is_dropped_is_taken_up
    window_10_a_doubtful_insert_that_is_deleted_is_deleted_there
    window_11_a_client_that_wins_names_a_version_each_time
    window_12_a_deletion_that_loses_shows_the_row_at_once
    window_13_a_page_is_whole_or_an_error
    window_14_the_first_token_comes_with_its_page
    window_15_a_deletion_is_seen_by_whichever_query_meets_it
    window_16_operations_go_in_the_order_of_their_writing
    window_18_the_own_row_in_a_409_is_recognized
}

/// A device with ten rows that the service has too.
struct World<S> {
    store: S,
    rows: MemoryRepository,
    exchange: RouterExchange,
    client: DatasyncClient,
    table: OfflineTable<Note>,
}

impl<S: Store + Clone> World<S> {
    async fn new(store: S, wire: Wire) -> World<S> {
        let rows = MemoryRepository::new();
        let exchange = RouterExchange::new(service(&rows, 4, wire));
        let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
        let table = notes(&client);
        let all = (0..10).map(|rank| Note { rank, ..note_of(&format!("{rank}"), "first") });
        table.insert_all(all).await.unwrap();
        table.push_items().await.unwrap();
        table.pull_items(table.query()).await.unwrap();
        World { store, rows, exchange, client, table }
    }

    /// The app is started again, over a store of which some commits fail.
    async fn with_faults(&self) -> (FaultStore<S>, DatasyncClient, OfflineTable<Note>) {
        let store = FaultStore::new(self.store.clone(), SystemClock);
        let client = client(store.clone(), &self.exchange, ConflictPolicy::Park).await;
        let table = notes(&client);
        (store, client, table)
    }

    async fn other(&self) -> OfflineTable<Note> {
        let other = client(MemoryStore::new(), &self.exchange, ConflictPolicy::ClientWins).await;
        notes(&other).pull_items(notes(&other).query()).await.unwrap();
        notes(&other)
    }

    /// Everything is sent and fetched, and both sides have the same.
    async fn agrees(&self) {
        let client = client(self.store.clone(), &self.exchange, ConflictPolicy::Park).await;
        client.push_tables(Tables::all()).await.unwrap();
        client.push_tables(Tables::all()).await.unwrap();
        notes(&client).pull_items(notes(&client).query()).await.unwrap();
        assert!(client.pending().await.unwrap().is_empty(), "{:?}", client.pending().await);
        assert_eq!(local_rows(&notes(&client)).await, service_rows(&self.rows));
    }
}

fn is_change(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

/// Whether it asks for a page.
fn is_page(request: &HttpRequest) -> bool {
    request.method == Method::Get && request.url.query().is_some()
}

fn change(id: &str, action: Action, now: Timestamp) -> Change {
    Change { id: id.into(), action, expected: None, now, key: None, forget: None }
}

async fn written(rows: &MemoryRepository, id: &str, now: Timestamp) {
    let body = serde_json::to_vec(&note_of(id, "theirs")).unwrap();
    let record = datasync_core::row::Record {
        body: datasync_core::row::Body::from(body),
        version: None,
        updated_at: None,
        deleted: false,
    };
    let there = rows.read(id).await.unwrap().is_some();
    let action = if there { Action::Replace(record) } else { Action::Create(record) };
    rows.write(change(id, action, now)).await.unwrap();
}

/// Does a local write over a store that dies before its `dies`th commit, and returns the row's title and its operations.
async fn cut<S: Store + Clone>(
    world: &World<S>,
    dies: usize,
    write: impl AsyncFnOnce(&OfflineTable<Note>),
) -> (Option<String>, usize) {
    let (store, _client, table) = world.with_faults().await;
    for _ in 0..dies {
        store.faults().next(StoreCall::Commit, StoreFault::Pass);
    }
    store.faults().next(StoreCall::Commit, StoreFault::Refuse);
    write(&table).await;
    let again = client(world.store.clone(), &world.exchange, ConflictPolicy::Park).await;
    let title = notes(&again).get("5").await.unwrap().map(|note| note.title);
    let queued = again.pending().await.unwrap().into_iter().filter(|change| &*change.id == "5").count();
    (title, queued)
}

async fn window_01_a_row_and_its_operation_are_one_commit(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let write = async |table: &OfflineTable<Note>| drop(table.replace(note_of("5", "mine")).await);
    assert_eq!(cut(&world, 0, write).await, (Some("first".to_owned()), 0));
    let write = async |table: &OfflineTable<Note>| drop(table.replace(note_of("5", "mine")).await);
    assert_eq!(cut(&world, 1, write).await, (Some("mine".to_owned()), 1), "one commit was all it took");
    world.agrees().await;
}

async fn window_02_an_update_that_becomes_a_deletion_is_one_commit(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.replace(note_of("5", "mine")).await.unwrap();
    let write = async |table: &OfflineTable<Note>| drop(table.delete("5").await);
    assert_eq!(cut(&world, 0, write).await, (Some("mine".to_owned()), 1));
    let write = async |table: &OfflineTable<Note>| drop(table.delete("5").await);
    assert_eq!(cut(&world, 1, write).await, (None, 1));
    world.agrees().await;
    assert_eq!(service_rows(&world.rows).len(), 9);
}

async fn window_03_an_insert_that_is_deleted_is_one_commit(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.delete("5").await.unwrap();
    world.table.push_items().await.unwrap();
    world.table.pull_items(world.table.query()).await.unwrap();
    world.table.insert(note_of("5", "mine")).await.unwrap();
    let write = async |table: &OfflineTable<Note>| drop(table.delete("5").await);
    assert_eq!(cut(&world, 0, write).await, (Some("mine".to_owned()), 1));
    let write = async |table: &OfflineTable<Note>| drop(table.delete("5").await);
    assert_eq!(cut(&world, 1, write).await, (None, 0));
    world.agrees().await;
}

async fn window_04_an_answer_that_was_not_stored_is_asked_for_again(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.insert(note_of("new", "mine")).await.unwrap();
    world.table.replace(note_of("5", "mine")).await.unwrap();
    world.table.delete("6").await.unwrap();
    // The freezing commit passes, the one with the answers does not: the process died in between.
    let (store, client, _table) = world.with_faults().await;
    store.faults().next(StoreCall::Commit, StoreFault::Pass);
    store.faults().next(StoreCall::Commit, StoreFault::Refuse);
    assert_eq!(client.push_tables(Tables::all()).await.unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(service_rows(&world.rows).len(), 10, "the service has done it");
    world.agrees().await;
    assert!(world.client.conflicts().await.unwrap().is_empty(), "and is not asked to do it twice");
}

async fn window_05_an_answer_and_the_end_of_its_operation_are_one_commit(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.replace(note_of("5", "mine")).await.unwrap();
    let (store, client, _table) = world.with_faults().await;
    store.faults().next(StoreCall::Commit, StoreFault::Pass);
    store.faults().next(StoreCall::Commit, StoreFault::FailAfter);
    let report = client.push_tables(Tables::all()).await.unwrap();
    assert_eq!(report.pushed, 1, "a lost outcome is looked up");
    assert!(client.pending().await.unwrap().is_empty());
    world.agrees().await;
}

async fn window_06_a_page_and_its_token_are_one_commit(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let other = world.other().await;
    for number in 0..10 {
        other.replace(note_of(&format!("{number}"), "theirs")).await.unwrap();
    }
    other.push_items().await.unwrap();
    for dies in 0..4 {
        let (store, _client, table) = world.with_faults().await;
        for _ in 0..dies {
            store.faults().next(StoreCall::Commit, StoreFault::Pass);
        }
        store.faults().next(StoreCall::Commit, StoreFault::Refuse);
        let options = PullOptions::default().page_size(3);
        if table.pull_items(options).await.is_ok() {
            break;
        }
    }
    world.agrees().await;
}

async fn window_07_a_settled_conflict_leaves_nothing_behind(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let other = world.other().await;
    other.replace(note_of("5", "theirs")).await.unwrap();
    other.push_items().await.unwrap();
    world.table.replace(note_of("5", "mine")).await.unwrap();
    assert_eq!(world.table.push_items().await.unwrap().conflicts, 1);
    let conflict = world.client.conflicts().await.unwrap().remove(0);
    world.client.resolve::<Note>(&conflict, Resolution::Keep).await.unwrap();
    for expected in [1, 0, 0] {
        let report = world.table.push_items().await.unwrap();
        assert_eq!((report.pushed, report.conflicts, report.parked), (expected, 0, 0));
    }
    world.agrees().await;
}

async fn window_08_a_lost_connection_keeps_the_answers_before_it(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    for number in 0..6 {
        world.table.insert(note_of(&format!("new-{number}"), "mine")).await.unwrap();
    }
    world.exchange.fault(|request| String::from_utf8_lossy(&request.body).contains("new-3"), Fault::AnswerLost);
    world.client.push_tables(Tables::all()).await.unwrap();
    let pending = world.client.pending().await.unwrap();
    assert!(pending.iter().all(|change| change.in_doubt), "{pending:?}");
    assert_eq!(pending.len(), if wire.extended() { 6 } else { 1 }, "a batch is one request");
    world.agrees().await;
    assert_eq!(service_rows(&world.rows).len(), 16);
}

async fn window_09_a_push_that_is_dropped_is_taken_up(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    for number in 0..4 {
        world.table.insert(note_of(&format!("new-{number}"), "mine")).await.unwrap();
    }
    for polls in 0..12 {
        let push = world.client.push_tables(Tables::all());
        let mut push = std::pin::pin!(push);
        for _ in 0..polls {
            if futures::future::poll_immediate(push.as_mut()).await.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    world.agrees().await;
    assert_eq!(service_rows(&world.rows).len(), 14);
}

async fn window_10_a_doubtful_insert_that_is_deleted_is_deleted_there(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.insert(note_of("new", "mine")).await.unwrap();
    world.exchange.fault(is_change, Fault::AnswerLost);
    world.table.push_items().await.unwrap();
    world.table.delete("new").await.unwrap();
    assert_eq!(world.client.pending().await.unwrap().len(), 2);
    world.agrees().await;
    assert_eq!(service_rows(&world.rows).len(), 10, "no orphan stays there");
}

async fn window_11_a_client_that_wins_names_a_version_each_time(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let other = world.other().await;
    let client = client(world.store.clone(), &world.exchange, ConflictPolicy::ClientWins).await;
    let table = notes(&client);
    table.replace(note_of("5", "mine")).await.unwrap();
    other.replace(note_of("5", "theirs")).await.unwrap();
    other.push_items().await.unwrap();
    // Somebody writes before each attempt, so that each of them fails.
    let (rows, versions) = (world.rows.clone(), Arc::new(Mutex::new(Vec::new())));
    let sent = Arc::clone(&versions);
    world.exchange.before(move |request| {
        if is_change(request) {
            let version = request.headers.iter().find(|(name, _)| name == "if-match");
            sent.lock().unwrap().push(version.expect("never without a version").1.clone());
            futures::executor::block_on(written(&rows, "5", SystemClock.now()));
        }
    });
    let attempts = 1 + CLIENT_WINS_ROUNDS as usize;
    assert_eq!(table.push_items().await.unwrap().conflicts, 1);
    assert_eq!(versions.lock().unwrap().len(), attempts);
    // The push behind the last failure, too, is over a version that somebody has seen.
    for pushes in 1..=2 {
        let conflict = client.conflicts().await.unwrap().remove(0);
        client.resolve::<Note>(&conflict, Resolution::Keep).await.unwrap();
        if pushes == 2 {
            world.exchange.before(|_| {});
        }
        let report = table.push_items().await.unwrap();
        assert_eq!(report.conflicts, 2 - pushes);
    }
    let mut versions = versions.lock().unwrap().clone();
    let sent = versions.len();
    versions.dedup();
    assert_eq!(versions.len(), sent, "each attempt names what it has learnt from the one before");
    assert_eq!(table.get("5").await.unwrap().unwrap().title, "mine");
    world.agrees().await;
    let losers = client.settled_losers().await.unwrap();
    assert!(!losers.is_empty(), "what was overwritten is kept");
}

async fn window_12_a_deletion_that_loses_shows_the_row_at_once(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let other = world.other().await;
    other.replace(note_of("5", "theirs")).await.unwrap();
    other.push_items().await.unwrap();
    let client = client(world.store.clone(), &world.exchange, ConflictPolicy::ServerWins).await;
    notes(&client).delete("5").await.unwrap();
    client.push_tables(Tables::all()).await.unwrap();
    assert_eq!(notes(&client).get("5").await.unwrap().unwrap().title, "theirs");
    world.agrees().await;
}

async fn window_13_a_page_is_whole_or_an_error(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let other = world.other().await;
    for number in 0..10 {
        other.replace(note_of(&format!("{number}"), "theirs")).await.unwrap();
    }
    other.push_items().await.unwrap();
    for status in [500, 200, 404] {
        world.exchange.fault(|request| request.method == Method::Get, Fault::Status(status));
        world.table.pull_items(world.table.query()).await.unwrap_err();
    }
    for broken in [Value::Null, Value::from("5"), json!({ "title": "theirs" }), json!({ "id": "", "title": "theirs" })]
    {
        one_bad_item(&world, wire, broken).await;
    }
    world.agrees().await;
}

/// One item of the second of three pages is not as it should be, and the page behind it is good.
async fn one_bad_item(world: &World<impl Store + Clone>, wire: Wire, broken: Value) {
    let device = client(MemoryStore::new(), &world.exchange, ConflictPolicy::Park).await;
    let device = notes(&device);
    let in_page = |page: &Value| page["items"].as_array().is_some_and(|items| items.len() == 4);
    let mut pages = 0;
    let item = broken.clone();
    world.exchange.after(move |response| {
        let Ok(mut page) = serde_json::from_slice::<Value>(&response.body) else { return };
        pages += usize::from(in_page(&page));
        if pages == 2 {
            page["items"][1] = item.clone();
            response.body = serde_json::to_vec(&page).unwrap();
        }
    });
    let options = || PullOptions::default().page_size(4);
    let error = device.pull_items(options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Service, "{broken} {wire:?}: {error}");
    let held = device.count().await.unwrap();
    assert_eq!(held, 4, "{broken} {wire:?}: the page before it, and nothing of this one or those behind it");
    world.exchange.after(|_| {});
    device.pull_items(options()).await.unwrap();
    assert_eq!(local_rows(&device).await, service_rows(&world.rows), "{broken} {wire:?}");
}

async fn window_14_the_first_token_comes_with_its_page(store: impl Store + Clone, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 4, wire));
    for number in 0..10 {
        written(&rows, &format!("{number}"), SystemClock.now()).await;
    }
    let faulty = FaultStore::new(store.clone(), SystemClock);
    let device = client(faulty.clone(), &exchange, ConflictPolicy::Park).await;
    faulty.faults().next(StoreCall::Commit, StoreFault::Refuse);
    notes(&device).pull_items(PullOptions::default().page_size(4)).await.unwrap_err();
    assert_eq!(notes(&device).count().await.unwrap(), 0);
    assert!(store.scopes("", "note").await.unwrap().is_empty(), "no page, no token");
    notes(&device).pull_items(PullOptions::default().page_size(4)).await.unwrap();
    assert_eq!(local_rows(&notes(&device)).await, service_rows(&rows));
}

async fn window_15_a_deletion_is_seen_by_whichever_query_meets_it(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let low = || PullOptions::default().query(Query::<Note>::new().filter(|note| note.rank.lt(5)));
    world.table.pull_items(low()).await.unwrap();
    let other = world.other().await;
    other.delete("2").await.unwrap();
    other.push_items().await.unwrap();
    world.table.pull_items(low()).await.unwrap();
    assert!(world.table.get("2").await.unwrap().is_none());
    world.table.pull_items(world.table.query()).await.unwrap();
    world.agrees().await;
}

async fn window_16_operations_go_in_the_order_of_their_writing(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let sent = Arc::new(Mutex::new(String::new()));
    let log = Arc::clone(&sent);
    world.exchange.before(move |request| log.lock().unwrap().push_str(&String::from_utf8_lossy(&request.body)));
    for id in ["z", "m", "a", "k"] {
        world.table.insert(note_of(&format!("new-{id}"), "mine")).await.unwrap();
    }
    world.table.push_items().await.unwrap();
    let sent = sent.lock().unwrap().clone();
    let places: Vec<usize> = ["z", "m", "a", "k"].iter().map(|id| sent.find(&format!("new-{id}")).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
}

async fn window_18_the_own_row_in_a_409_is_recognized(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.insert(note_of("new", "mine")).await.unwrap();
    world.exchange.fault(is_change, Fault::AnswerLost);
    world.table.push_items().await.unwrap();
    let report = world.table.push_items().await.unwrap();
    assert_eq!((report.pushed, report.conflicts), (1, 0), "also by a service that keeps no keys");
    world.agrees().await;
}
