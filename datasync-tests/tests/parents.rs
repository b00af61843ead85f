//! Rows that belong to other rows (I7, I8).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PendingState, PullOptions, PurgeOptions, ResetOptions, Tables},
    clock::{Clock as _, SystemClock},
    config::SyncConfig,
    error::ErrorKind,
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::{HttpTransport, Method};
use datasync_server::{Action, Change, DatasyncService, MemoryRepository, Repository, TableOptions};
use datasync_testkit::{Fault as CallFault, FaultTransport, Gate, TransportCall};
use datasync_tests::{Fault, MemoryStore, RouterExchange, Wire};
use futures::{FutureExt, executor::block_on};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct List {
    id: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[serde(rename_all = "camelCase")]
#[sync(crate = "datasync_core")]
struct Item {
    id: String,
    title: String,
    #[sync(parent = List)]
    list_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Folder {
    id: String,
    #[sync(parent = Folder)]
    within: Option<String>,
}

fn list(id: &str) -> List {
    List { id: id.to_owned(), name: "a list".to_owned() }
}

fn item(id: &str, list: &str) -> Item {
    Item { id: id.to_owned(), title: "an item".to_owned(), list_id: Some(list.to_owned()) }
}

fn folder(id: &str, within: &str) -> Folder {
    Folder { id: id.to_owned(), within: (!within.is_empty()).then(|| within.to_owned()) }
}

/// A service that refuses rows without their parent, a device, and the changes in the order in which they were made.
struct World {
    client: DatasyncClient,
    lists: OfflineTable<List>,
    items: OfflineTable<Item>,
    folders: OfflineTable<Folder>,
    exchange: RouterExchange,
    transport: FaultTransport<HttpTransport>,
    rows: [MemoryRepository; 3],
    log: Arc<Mutex<Vec<String>>>,
}

impl World {
    async fn new(store: impl Store, wire: Wire) -> World {
        World::with(store, wire, SyncConfig::default()).await
    }

    async fn with(store: impl Store, wire: Wire, config: SyncConfig) -> World {
        let rows = [MemoryRepository::new(), MemoryRepository::new(), MemoryRepository::new()];
        let service = DatasyncService::builder()
            .extensions(wire.extended())
            .table(TableOptions::of::<List>().soft_delete(true), rows[0].clone())
            .table(TableOptions::of::<Item>().soft_delete(true), rows[1].clone())
            .table(TableOptions::of::<Folder>().soft_delete(true), rows[2].clone())
            .build()
            .unwrap();
        let exchange = RouterExchange::new(wire.lead_to(service));
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        exchange.before(move |request| note_changes(request, &mut written.lock().unwrap()));
        let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
        let transport = FaultTransport::new(transport, SystemClock);
        let client = DatasyncClient::builder()
            .store(store)
            .transport(transport.clone())
            .config(config)
            .table::<List>()
            .table::<Item>()
            .table::<Folder>()
            .build()
            .await
            .unwrap();
        let (lists, items, folders) = (client.offline_table(), client.offline_table(), client.offline_table());
        World { client, lists, items, folders, exchange, transport, rows, log }
    }

    async fn push(&self) -> datasync_core::report::PushReport {
        self.client.push_tables(Tables::all()).await.unwrap()
    }

    /// Where a change stands among those that the service was sent.
    fn place(&self, change: &str) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().position(|made| made == change).unwrap_or_else(|| panic!("{change} is not in {log:?}"))
    }

    async fn parked(&self) -> Vec<(String, String)> {
        let pending = self.client.pending().await.unwrap();
        let parked = pending.into_iter().filter_map(|change| match change.state {
            PendingState::Parked(reason) => Some((change.id.to_string(), reason)),
            _ => None,
        });
        parked.collect()
    }
}

/// One line for each change: verb and id, alone or in a batch.
fn note_changes(request: &datasync_http::HttpRequest, log: &mut Vec<String>) {
    if request.method == Method::Get {
        return;
    }
    let id = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let body = serde_json::from_slice::<serde_json::Value>(&request.body).unwrap_or_default();
    let one = |method: &str, path: &str, body: &serde_json::Value| match method {
        "POST" => format!("POST {}", body["id"].as_str().unwrap_or_default()),
        method => format!("{method} {}", id(path)),
    };
    match body["operations"].as_array() {
        None => log.push(one(request.method.as_str(), request.url.path(), &body)),
        Some(operations) => log.extend(operations.iter().map(|operation| {
            one(operation["method"].as_str().unwrap(), operation["path"].as_str().unwrap(), &operation["body"])
        })),
    }
}

datasync_tests::on_both_stores! {
    i07_a_child_goes_after_its_parent
    i07_a_parent_is_deleted_after_its_children
    i07_a_row_that_moves_counts_for_both_parents
    i07_a_tree_of_one_table_goes_from_its_root
    i07_a_delete_in_doubt_waits_for_no_child_of_the_row_made_again
    i07_what_is_sent_is_what_the_order_was_judged_on
    i07_rows_in_a_circle_are_parked
    i07_a_circle_behind_many_that_wait_is_found
    i07_many_children_go_in_few_waves
    i08_a_parked_parent_holds_back_its_children_and_nobody_else
    i08_children_of_a_parent_that_was_cancelled_wait_for_somebody
    i08_children_of_a_parent_that_the_service_deleted_wait_for_somebody
    i08_a_child_stays_parked_until_somebody_decides
    i08_a_discard_can_take_the_children_along
    i08_a_forced_purge_of_new_parents_parks_their_children
}

async fn i07_a_child_goes_after_its_parent(store: impl Store, wire: Wire) {
    let mut config = SyncConfig::default();
    config.sync.parallel_operations = 8;
    let world = World::with(store, wire, config).await;
    for number in 0..5 {
        world.items.insert(item(&format!("i{number}"), &format!("l{number}"))).await.unwrap();
    }
    for number in 0..5 {
        world.lists.insert(list(&format!("l{number}"))).await.unwrap();
    }
    assert_eq!(world.push().await.pushed, 10);
    for number in 0..5 {
        assert!(world.place(&format!("POST l{number}")) < world.place(&format!("POST i{number}")));
    }
    assert!(world.client.pending().await.unwrap().is_empty());
}

async fn i07_a_parent_is_deleted_after_its_children(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    world.lists.insert(list("l")).await.unwrap();
    world.items.insert_all((0..3).map(|number| item(&format!("i{number}"), "l"))).await.unwrap();
    world.push().await;
    world.lists.delete("l").await.unwrap();
    for number in 0..3 {
        world.items.delete(&format!("i{number}")).await.unwrap();
    }
    assert_eq!(world.push().await.pushed, 4);
    for number in 0..3 {
        assert!(world.place(&format!("DELETE i{number}")) < world.place("DELETE l"));
    }
}

async fn i07_a_delete_in_doubt_waits_for_no_child_of_the_row_made_again(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    for (lost, id) in [(Fault::AnswerLost, "done"), (Fault::Lost, "undone")] {
        world.lists.insert(list(id)).await.unwrap();
        world.push().await;
        world.exchange.fault(|request| request.method != Method::Get, lost);
        world.lists.delete(id).await.unwrap();
        assert_eq!(world.push().await.waiting, 1);
        world.lists.insert(list(id)).await.unwrap();
        world.items.insert(item(&format!("child-of-{id}"), id)).await.unwrap();
        world.push().await;
        assert_eq!(world.client.pending().await.unwrap(), [], "{lost:?}");
        assert!(world.lists.get(id).await.unwrap().is_some());
    }
    assert_eq!(world.rows[1].rows().len(), 2);
}

async fn i07_what_is_sent_is_what_the_order_was_judged_on(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    for id in ["first", "second"] {
        world.lists.insert(list(id)).await.unwrap();
    }
    world.items.insert_all([item("moved", "first"), item("deleted", "second")]).await.unwrap();
    world.push().await;
    world.items.replace(Item { title: "edited".to_owned(), ..item("moved", "first") }).await.unwrap();
    world.lists.replace(List { name: "edited".to_owned(), ..list("second") }).await.unwrap();
    // The operations are chosen, and the service is asked what it can do; the user goes on.
    let (gate, open) = Gate::new();
    world.transport.faults().next(TransportCall::Capabilities, CallFault::Late(gate));
    let before = world.transport.faults().calls(TransportCall::Capabilities);
    let mut push = Box::pin(world.client.push_tables(Tables::all()));
    while world.transport.faults().calls(TransportCall::Capabilities) == before {
        assert!((&mut push).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    world.lists.insert(list("new")).await.unwrap();
    world.items.replace(item("moved", "new")).await.unwrap();
    world.items.delete("deleted").await.unwrap();
    world.lists.delete("second").await.unwrap();
    drop(open);
    push.await.unwrap();
    world.push().await;
    assert_eq!(world.client.pending().await.unwrap(), []);
    assert!(world.place("POST new") < world.place("PUT moved"));
    assert!(world.place("DELETE deleted") < world.place("DELETE second"));
}

async fn i07_a_row_that_moves_counts_for_both_parents(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    world.lists.insert(list("old")).await.unwrap();
    world.items.insert(item("i", "old")).await.unwrap();
    world.push().await;
    world.lists.delete("old").await.unwrap();
    world.items.replace(item("i", "new")).await.unwrap();
    world.lists.insert(list("new")).await.unwrap();
    assert_eq!(world.push().await.pushed, 3);
    assert!(world.place("POST new") < world.place("PUT i"));
    assert!(world.place("PUT i") < world.place("DELETE old"));
}

async fn i07_a_tree_of_one_table_goes_from_its_root(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    for depth in (1..6).rev() {
        world.folders.insert(folder(&format!("f{depth}"), &format!("f{}", depth - 1))).await.unwrap();
    }
    world.folders.insert(folder("f0", "")).await.unwrap();
    world.folders.insert(folder("own", "own")).await.unwrap();
    assert_eq!(world.push().await.pushed, 7, "a row that belongs to itself waits for nobody");
    for depth in 1..6 {
        assert!(world.place(&format!("POST f{}", depth - 1)) < world.place(&format!("POST f{depth}")));
    }
    for depth in 0..6 {
        world.folders.delete(&format!("f{depth}")).await.unwrap();
    }
    assert_eq!(world.push().await.pushed, 6);
    for depth in 1..6 {
        assert!(world.place(&format!("DELETE f{depth}")) < world.place(&format!("DELETE f{}", depth - 1)));
    }
}

async fn i07_rows_in_a_circle_are_parked(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    for (id, within) in [("a", "b"), ("b", "c"), ("c", "a"), ("leaf", "a"), ("other", "")] {
        world.folders.insert(folder(id, within)).await.unwrap();
    }
    let report = world.push().await;
    assert_eq!((report.pushed, report.parked, report.blocked), (1, 3, 1));
    let parked = world.parked().await;
    assert_eq!(parked.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(parked[0].1.contains("in a circle"), "{parked:?}");
    world.folders.replace(folder("b", "other")).await.unwrap();
    for id in ["a", "c"] {
        world.client.retry("folder", id).await.unwrap();
    }
    assert_eq!(world.push().await.pushed, 4);
    assert!(world.client.pending().await.unwrap().is_empty());
}

async fn i07_a_circle_behind_many_that_wait_is_found(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    world.lists.insert(list("a")).await.unwrap();
    world.exchange.fault(|request| request.method != Method::Get, Fault::Status(422));
    world.push().await;
    assert_eq!(world.parked().await.len(), 1);
    world.items.insert_all((0..1_100).map(|number| item(&format!("{number}"), "a"))).await.unwrap();
    world.folders.insert(folder("one", "two")).await.unwrap();
    world.folders.insert(folder("two", "one")).await.unwrap();
    let report = world.push().await;
    assert_eq!((report.parked, report.blocked), (2, 1_100), "{report:?}");
    let mut parked: Vec<String> = world.parked().await.into_iter().map(|(id, _)| id).collect();
    parked.sort_unstable();
    assert_eq!(parked, ["a", "one", "two"]);
}

async fn i07_many_children_go_in_few_waves(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    world.items.insert_all((0..450).map(|number| item(&format!("i{number:03}"), "l"))).await.unwrap();
    world.lists.insert(list("l")).await.unwrap();
    assert_eq!(world.push().await.pushed, 451);
    assert_eq!(world.place("POST l"), 0);
    let requests = world.exchange.requests.load(std::sync::atomic::Ordering::SeqCst);
    match wire.extended() {
        false => assert_eq!(requests, 452),
        true => assert!(requests <= 12, "{requests}"),
    }
}

async fn i08_a_parked_parent_holds_back_its_children_and_nobody_else(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    world.lists.insert(list("l")).await.unwrap();
    world.items.insert(item("i", "l")).await.unwrap();
    world.lists.insert(list("other")).await.unwrap();
    world.items.insert(item("j", "other")).await.unwrap();
    world.exchange.fault(|request| request.method == Method::Post, Fault::Status(422));
    if wire.extended() {
        // A batch that is refused is sent again one by one: the first single one meets this.
        world.exchange.fault(|request| request.url.path().ends_with("/list"), Fault::Status(422));
    }
    let report = world.push().await;
    assert_eq!((report.parked, report.blocked, report.pushed), (1, 1, 2), "{:?}", world.client.pending().await);
    let again = world.push().await;
    assert_eq!((again.pushed, again.blocked), (0, 1), "it waits for its parent");
    world.client.retry("list", "l").await.unwrap();
    assert_eq!(world.push().await.pushed, 2);
}

async fn i08_children_of_a_parent_that_was_cancelled_wait_for_somebody(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    world.lists.insert(list("l")).await.unwrap();
    world.items.insert(item("i", "l")).await.unwrap();
    world.lists.insert(list("kept")).await.unwrap();
    world.lists.delete("l").await.unwrap();
    let parked = world.parked().await;
    assert_eq!(parked.len(), 1);
    assert!(parked[0].1.contains("list/l that it belongs to is gone"), "{parked:?}");
    assert_eq!(world.push().await.pushed, 1);
    world.items.replace(item("i", "kept")).await.unwrap();
    assert_eq!(world.push().await.pushed, 1, "an edit makes it ready again");

    world.lists.insert(list("m")).await.unwrap();
    world.items.insert(item("n", "m")).await.unwrap();
    world.client.discard("list", "m").await.unwrap();
    assert_eq!(world.parked().await.len(), 1, "and so after a discard");
    assert!(world.items.get("n").await.unwrap().is_some(), "nothing is lost");
    world.client.retry("item", "n").await.unwrap();
    assert_eq!(world.push().await.pushed, 1, "what somebody wants sent is sent");
}

async fn i08_children_of_a_parent_that_the_service_deleted_wait_for_somebody(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    world.lists.insert(list("l")).await.unwrap();
    world.items.insert(item("i", "l")).await.unwrap();
    world.push().await;
    world.lists.pull_items(world.lists.query()).await.unwrap();
    world.items.insert(item("j", "l")).await.unwrap();
    world.items.replace(Item { title: "edited".to_owned(), ..item("i", "l") }).await.unwrap();
    let mut gone = world.rows[0].read("l").await.unwrap().unwrap();
    gone.record.deleted = true;
    let action = Action::Replace(gone.record);
    let change = Change { id: "l".into(), action, expected: None, now: SystemClock.now(), key: None, forget: None };
    world.rows[0].write(change).await.unwrap();
    world.lists.pull_items(world.lists.query()).await.unwrap();
    assert!(world.lists.get("l").await.unwrap().is_none());
    let parked: Vec<String> = world.parked().await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(parked, ["j", "i"]);
    assert_eq!(world.items.count().await.unwrap(), 2, "pull goes on around them and nothing is lost");
    world.items.pull_items(world.items.query()).await.unwrap();
    assert_eq!(world.items.get("i").await.unwrap().unwrap().title, "edited");
}

async fn i08_a_child_stays_parked_until_somebody_decides(store: impl Store, wire: Wire) {
    let config = SyncConfig::from_toml("[sync]\nconflict = 'client-wins'").unwrap();
    let world = World::with(store, wire, config).await;
    world.lists.insert(list("a")).await.unwrap();
    world.items.insert(item("1", "a")).await.unwrap();
    world.items.insert(item("2", "a")).await.unwrap();
    world.push().await;
    world.items.pull_items(world.items.query()).await.unwrap();
    // Its parent is cancelled while another change of it is on its way, and that one is refused.
    let (items, lists) = (world.items.clone(), world.lists.clone());
    let mut once = Some(());
    world.exchange.before(move |request| {
        if request.method != Method::Get && once.take().is_some() {
            block_on(async {
                lists.insert(list("b")).await.unwrap();
                items.replace(item("1", "b")).await.unwrap();
                lists.delete("b").await.unwrap();
            });
        }
    });
    world.items.replace(Item { title: "sent".to_owned(), ..item("1", "a") }).await.unwrap();
    world.exchange.fault(|request| request.method != Method::Get, Fault::Status(422));
    world.push().await;
    let gone = |parked: Vec<(String, String)>| {
        assert!(parked.iter().all(|(_, reason)| reason.contains("gone")), "{parked:?}");
        parked.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(gone(world.parked().await), ["1"]);
    // Somebody else changes the row, and this side would win.
    let theirs = item("1", "a");
    let theirs = serde_json::json!([{ "id": theirs.id, "title": "theirs", "listId": theirs.list_id }]);
    world.rows[1].seed(theirs).unwrap();
    world.items.pull_items(PullOptions::default().no_push()).await.unwrap();
    world.push().await;
    assert_eq!(gone(world.parked().await), ["1"]);
    world.items.replace(item("1", "a")).await.unwrap();
    assert_eq!(world.push().await.pushed, 1);
}

async fn i08_a_discard_can_take_the_children_along(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    world.lists.insert(list("kept")).await.unwrap();
    world.items.insert(item("old", "kept")).await.unwrap();
    world.push().await;
    world.lists.insert(list("l")).await.unwrap();
    world.items.insert(item("i", "l")).await.unwrap();
    world.items.replace(item("old", "l")).await.unwrap();
    world.items.insert(item("other", "kept")).await.unwrap();
    assert_eq!(world.client.discard_with_children("list", "l").await.unwrap(), 3);
    assert!(world.items.get("i").await.unwrap().is_none());
    assert_eq!(world.items.get("old").await.unwrap().unwrap().list_id.as_deref(), Some("kept"));
    let pending = world.client.pending().await.unwrap();
    assert_eq!(pending.iter().map(|change| &*change.id).collect::<Vec<_>>(), ["other"]);
    assert_eq!(world.client.discard("list", "l").await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn i08_a_forced_purge_of_new_parents_parks_their_children(store: impl Store, wire: Wire) {
    let world = World::new(store, wire).await;
    world.lists.insert(list("old")).await.unwrap();
    world.push().await;
    for id in ["a", "b"] {
        world.lists.insert(list(id)).await.unwrap();
        world.items.insert(item(&format!("of-{id}"), id)).await.unwrap();
    }
    world.items.insert(item("of-old", "old")).await.unwrap();
    let one = world.lists.query().filter(|list| list.id.eq("a"));
    world.lists.purge_items(PurgeOptions::default().query(one).force()).await.unwrap();
    let ids = async || world.parked().await.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids().await, ["of-a"]);
    world.client.reset(ResetOptions::tables(["list"]).force()).await.unwrap();
    assert_eq!(ids().await, ["of-a", "of-b"], "a list that the service has is not gone from there");
    assert_eq!(world.push().await.pushed, 1);
}

#[tokio::test]
async fn i07_a_parent_that_the_client_does_not_have_is_an_error() {
    let exchange = RouterExchange::new(datasync_tests::service(&MemoryRepository::new(), 10, Wire::Extended));
    let transport = HttpTransport::builder("http://service").exchange(exchange).build().unwrap();
    let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport).table::<Item>();
    let error = builder.build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("`item.listId` belongs to the table `list`"), "{error}");
}
