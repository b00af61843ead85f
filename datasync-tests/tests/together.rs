//! Pushes that callers share, requests that are on their way at once, and answers that share a commit (DESIGN.md section 6).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datasync_core::{
    client::{DatasyncClient, OfflineTable, Tables},
    config::SyncConfig,
    error::Error,
    report::PushReport,
};
use datasync_derive::SyncEntity;
use datasync_http::{Exchange, ExchangeError, HttpRequest, HttpResponse, HttpStream, HttpTransport, Method};
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{MemoryStore, RouterExchange, StillClock, Wire};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, yield_now},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct List {
    id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Item {
    id: String,
    #[sync(parent = List)]
    list: Option<String>,
}

fn list(id: &str) -> List {
    List { id: id.to_owned() }
}

fn item(id: &str, list: Option<&str>) -> Item {
    Item { id: id.to_owned(), list: list.map(str::to_owned) }
}

/// Holds the answer of each change until a test lets it go.
#[derive(Clone, Debug)]
struct Held {
    inner: RouterExchange,
    gate: Arc<Semaphore>,
    log: Arc<Mutex<Log>>,
}

/// The ids of new rows that were sent.
#[derive(Debug, Default)]
struct Log {
    all: Vec<String>,
    under_way: Vec<String>,
}

#[async_trait]
impl Exchange for Held {
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError> {
        if request.method == Method::Get {
            return self.inner.send(request, max_body).await;
        }
        let ids = ids(&request);
        {
            let mut log = self.log.lock().unwrap();
            log.all.extend(ids.iter().cloned());
            log.under_way.extend(ids.iter().cloned());
        }
        let answer = self.inner.send(request, max_body).await;
        self.gate.acquire().await.unwrap().forget();
        self.log.lock().unwrap().under_way.retain(|id| !ids.contains(id));
        answer
    }

    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError> {
        self.inner.stream(request).await
    }
}

/// The ids of the rows that a request inserts, alone or in a batch.
fn ids(request: &HttpRequest) -> Vec<String> {
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    let id = |body: &serde_json::Value| body["id"].as_str().unwrap().to_owned();
    match body["operations"].as_array() {
        None => vec![id(&body)],
        Some(operations) => operations.iter().map(|operation| id(&operation["body"])).collect(),
    }
}

struct World {
    client: DatasyncClient,
    lists: OfflineTable<List>,
    items: OfflineTable<Item>,
    clock: StillClock,
    held: Held,
    rows: [MemoryRepository; 2],
}

impl World {
    async fn new(wire: Wire, parallel: Option<usize>) -> World {
        let rows = [MemoryRepository::new(), MemoryRepository::new()];
        let service = DatasyncService::builder()
            .extensions(wire.extended())
            .table(TableOptions::of::<List>().soft_delete(true), rows[0].clone())
            .table(TableOptions::of::<Item>().soft_delete(true), rows[1].clone());
        let inner = RouterExchange::new(wire.lead_to(service.build().unwrap()));
        let held = Held { inner, gate: Arc::new(Semaphore::new(0)), log: Arc::default() };
        let clock = StillClock::new(3);
        let transport = HttpTransport::builder("http://service").retries(0).clock(clock.clone());
        let mut config = SyncConfig::default();
        if let Some(parallel) = parallel {
            config.sync.parallel_operations = parallel;
        }
        let client = DatasyncClient::builder()
            .store(MemoryStore::new())
            .transport(transport.exchange(held.clone()).build().unwrap())
            .config(config)
            .clock(clock.clone())
            .table::<List>()
            .table::<Item>()
            .build()
            .await
            .unwrap();
        let (lists, items) = (client.offline_table(), client.offline_table());
        World { client, lists, items, clock, held, rows }
    }

    /// Begins a push of these tables, as far as it goes by itself.
    async fn push(&self, tables: &'static [&'static str]) -> JoinHandle<Result<PushReport, Error>> {
        let client = self.client.clone();
        let push = tokio::spawn(async move { client.push_tables(tables.to_vec()).await });
        self.until_nothing_goes_on().await;
        push
    }

    /// Everything here is in one thread, which comes by each task when the others wait.
    async fn until_nothing_goes_on(&self) {
        for _ in 0..200 {
            yield_now().await;
        }
    }

    /// Lets so many answers go.
    async fn answer(&self, answers: usize) {
        self.held.gate.add_permits(answers);
        self.until_nothing_goes_on().await;
    }

    fn sent(&self) -> Vec<String> {
        self.held.log.lock().unwrap().all.clone()
    }

    fn under_way(&self) -> Vec<String> {
        self.held.log.lock().unwrap().under_way.clone()
    }

    /// What waits here: the id, and whether it is in doubt.
    async fn queued(&self) -> Vec<(String, bool)> {
        let pending = self.client.pending().await.unwrap();
        pending.into_iter().map(|change| (change.id.to_string(), change.in_doubt)).collect()
    }
}

datasync_tests::on_both_wires! {
    a_second_call_adds_its_tables_to_the_push_under_way
    a_push_goes_on_while_one_of_its_callers_is_left
    what_is_queued_after_the_last_call_is_not_waited_for
}

async fn a_second_call_adds_its_tables_to_the_push_under_way(wire: Wire) {
    let world = World::new(wire, None).await;
    world.lists.insert(list("list")).await.unwrap();
    world.items.insert(item("item", None)).await.unwrap();
    let first = world.push(&["list"]).await;
    assert_eq!(world.sent(), ["list"]);
    let (again, second) = (world.push(&["list"]).await, world.push(&["item"]).await);
    assert_eq!(world.sent(), ["list"], "one push runs at a time, and a row is sent once at a time");
    world.answer(1).await;
    assert_eq!(world.sent(), ["list", "item"]);
    assert!(!first.is_finished() && !second.is_finished(), "it returns when all that was asked for is gone");
    world.answer(1).await;
    for push in [first, again, second] {
        assert_eq!(push.await.unwrap().unwrap().pushed, 2, "all have the report of the push that they shared");
    }
    assert!(world.queued().await.is_empty());
    assert_eq!(world.rows.each_ref().map(|rows| rows.rows().len()), [1, 1]);
}

async fn a_push_goes_on_while_one_of_its_callers_is_left(wire: Wire) {
    let world = World::new(wire, None).await;
    world.lists.insert(list("list")).await.unwrap();
    world.items.insert(item("item", None)).await.unwrap();
    let first = world.push(&["list"]).await;
    let second = world.push(&["item"]).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    world.answer(2).await;
    assert_eq!(second.await.unwrap().unwrap().pushed, 2);
    assert_eq!(world.sent(), ["list", "item"], "what the first caller had sent was not sent again");

    // With its last caller it ends: what was sent is in doubt, and the next push sends it again.
    world.lists.insert(list("other")).await.unwrap();
    let (first, second) = (world.push(&["list"]).await, world.push(&["list"]).await);
    first.abort();
    second.abort();
    world.until_nothing_goes_on().await;
    assert_eq!(world.queued().await, [("other".to_owned(), true)]);
    world.answer(1).await;
    assert_eq!(world.client.push_tables(Tables::all()).await.unwrap().pushed, 1);
    assert_eq!(world.sent()[2..], ["other", "other"]);
}

async fn what_is_queued_after_the_last_call_is_not_waited_for(wire: Wire) {
    let world = World::new(wire, None).await;
    world.lists.insert(list("list")).await.unwrap();
    world.items.insert(item("before", None)).await.unwrap();
    let first = world.push(&["list"]).await;
    let second = world.push(&["item"]).await;
    world.lists.insert(list("later")).await.unwrap();
    world.items.insert(item("after", None)).await.unwrap();
    world.answer(2).await;
    assert_eq!(first.await.unwrap().unwrap().pushed, 2);
    assert_eq!(second.await.unwrap().unwrap().pushed, 2);
    assert_eq!(world.queued().await, [("later".to_owned(), false), ("after".to_owned(), false)]);
    assert_eq!(world.sent(), ["list", "before"]);
}

/// Without the extensions each change is a request.
#[tokio::test]
async fn as_many_requests_are_on_their_way_as_are_allowed() {
    for (parallel, expected) in [(None, 1), (Some(1), 1), (Some(4), 4), (Some(64), 10)] {
        let world = World::new(Wire::Original, parallel).await;
        for number in 0..10 {
            world.lists.insert(list(&format!("{number}"))).await.unwrap();
        }
        let push = world.push(&["list"]).await;
        for answered in 0..10 {
            assert_eq!(world.under_way().len(), expected.min(10 - answered), "{parallel:?}, {answered} answered");
            world.answer(1).await;
        }
        assert_eq!(push.await.unwrap().unwrap().pushed, 10);
    }
}

#[tokio::test]
async fn a_child_is_never_on_its_way_with_its_parent() {
    let world = World::new(Wire::Original, Some(8)).await;
    for number in 0..4 {
        world.items.insert(item(&format!("of-{number}"), Some(&format!("{number}")))).await.unwrap();
    }
    for number in 0..4 {
        world.lists.insert(list(&format!("{number}"))).await.unwrap();
    }
    world.items.insert(item("alone", None)).await.unwrap();
    let push = world.push(&["list", "item"]).await;
    let mut at_once = 0;
    while !push.is_finished() {
        let under_way = world.under_way();
        at_once = at_once.max(under_way.len());
        let alone = |id: &String| !under_way.contains(&format!("of-{id}"));
        assert!(under_way.iter().all(alone), "{under_way:?}");
        world.answer(1).await;
    }
    assert_eq!(push.await.unwrap().unwrap().pushed, 9);
    assert_eq!(at_once, 5, "the lists and what belongs to none");
}

/// A wave of which one answer has come and the other is held.
#[tokio::test]
async fn an_answer_is_stored_a_tenth_of_a_second_after_it_came() {
    let world = World::new(Wire::Original, Some(1)).await;
    world.lists.insert(list("first")).await.unwrap();
    world.lists.insert(list("second")).await.unwrap();
    let push = world.push(&["list"]).await;
    world.answer(1).await;
    assert_eq!(world.sent(), ["first", "second"]);
    let both = [("first".to_owned(), true), ("second".to_owned(), true)];
    assert_eq!(world.queued().await, both, "it waits for others, to share their commit");
    world.clock.advance(SignedDuration::from_millis(99));
    world.until_nothing_goes_on().await;
    assert_eq!(world.queued().await, both);
    world.clock.advance(SignedDuration::from_millis(1));
    world.until_nothing_goes_on().await;
    assert_eq!(world.queued().await, both[1..]);
    push.abort();
    assert!(push.await.unwrap_err().is_cancelled());
    assert_eq!(world.queued().await, both[1..], "only what was not answered is in doubt");
    world.answer(1).await;
    assert_eq!(world.client.push_tables(Tables::all()).await.unwrap().pushed, 1);
    assert_eq!(world.sent(), ["first", "second", "second"]);
}
