//! Requests of pulls that are on their way at once, and pages that are asked for ahead (DESIGN.md section 8).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use datasync_core::{
    client::{DatasyncClient, ResetOptions, Tables},
    clock::SystemClock,
    config::SyncConfig,
    entity::SyncEntity as _,
    error::Error,
    events::SyncEvent,
    schema::TableSchema,
    store::Store,
};
use datasync_http::{Exchange, ExchangeError, HttpRequest, HttpResponse, HttpStream, HttpTransport};
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_testkit::{Fault, FaultStore, Gate, StoreCall};
use datasync_tests::{Note, RouterExchange, Wire};
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, yield_now},
};

datasync_tests::on_both_stores! {
    as_many_tables_are_pulled_at_once_as_are_allowed
    the_next_page_is_asked_for_while_one_is_stored
    a_page_is_stored_while_the_next_one_is_on_its_way
}

const TABLES: [&str; 5] = ["a", "b", "c", "d", "e"];
const ROWS: u64 = 5;

/// Holds each request for a page until a test lets it go.
#[derive(Clone, Debug)]
struct Held {
    inner: RouterExchange,
    gate: Arc<Semaphore>,
    log: Arc<Mutex<Log>>,
}

/// The tables of which pages were asked for.
#[derive(Debug, Default)]
struct Log {
    all: Vec<String>,
    under_way: Vec<String>,
    most: usize,
}

#[async_trait]
impl Exchange for Held {
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError> {
        let Some(table) = request.url.path().strip_prefix("/tables/").map(str::to_owned) else {
            return self.inner.send(request, max_body).await;
        };
        {
            let mut log = self.log.lock().unwrap();
            log.all.push(table.clone());
            log.under_way.push(table.clone());
            log.most = log.most.max(log.under_way.len());
        }
        self.gate.acquire().await.unwrap().forget();
        let answer = self.inner.send(request, max_body).await;
        let mut log = self.log.lock().unwrap();
        let place = log.under_way.iter().position(|under_way| *under_way == table).unwrap();
        log.under_way.remove(place);
        answer
    }

    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError> {
        self.inner.stream(request).await
    }
}

/// A service with the same rows in each table.
struct World {
    held: Held,
}

impl World {
    fn new(wire: Wire) -> World {
        let rows = MemoryRepository::new();
        let all: Vec<_> = (0..ROWS).map(|rank| json!({ "id": rank.to_string(), "title": "x", "rank": rank })).collect();
        rows.seed(json!(all)).unwrap();
        let mut service = DatasyncService::builder().extensions(wire.extended());
        for table in TABLES {
            let options = TableOptions::of::<Note>().soft_delete(true).path(format!("tables/{table}"));
            service = service.table(options, rows.clone());
        }
        let inner = RouterExchange::new(wire.lead_to(service.build().unwrap()));
        World { held: Held { inner, gate: Arc::new(Semaphore::new(0)), log: Arc::default() } }
    }

    async fn client(&self, store: impl Store, config: &str) -> DatasyncClient {
        let transport = HttpTransport::builder("http://service").retries(0).exchange(self.held.clone());
        let config = SyncConfig::from_toml(&format!("[sync]\npage_size = 2\n{config}")).unwrap();
        let mut builder = DatasyncClient::builder().store(store).transport(transport.build().unwrap()).config(config);
        for table in TABLES {
            builder = builder.table_dyn(TableSchema::of(table, Note::SCHEMA.fields, Note::SCHEMA.indexes));
        }
        builder.build().await.unwrap()
    }

    fn under_way(&self) -> Vec<String> {
        self.held.log.lock().unwrap().under_way.clone()
    }

    fn asked(&self) -> Vec<String> {
        self.held.log.lock().unwrap().all.clone()
    }

    fn let_go(&self, requests: usize) {
        self.held.gate.add_permits(requests);
    }
}

/// Begins a pull of these tables.
fn pull(client: &DatasyncClient, tables: impl Into<Tables>) -> JoinHandle<Result<(), Error>> {
    let (client, tables) = (client.clone(), tables.into());
    tokio::spawn(async move { client.pull_tables(tables).await.map(drop) })
}

/// Waits for what another task does, and for whatever else it would do then.
async fn until(mut what: impl FnMut() -> bool) {
    let waiting = async {
        while !what() {
            yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it comes in time");
    for _ in 0..200 {
        yield_now().await;
    }
}

async fn held_here(client: &DatasyncClient, table: &str) -> u64 {
    client.offline_table_dyn(table).unwrap().count().await.unwrap()
}

async fn as_many_tables_are_pulled_at_once_as_are_allowed(store: impl Store + Clone, wire: Wire) {
    for (config, allowed) in [("", 4), ("parallel_pulls = 1", 1), ("parallel_pulls = 2", 2), ("parallel_pulls = 64", 5)]
    {
        let world = World::new(wire);
        let client = world.client(store.clone(), config).await;
        let pulled = pull(&client, Tables::all());
        until(|| world.under_way().len() >= allowed).await;
        let mut under_way = world.under_way();
        under_way.sort_unstable();
        assert_eq!(under_way, TABLES[..allowed], "{config}: each has one request on its way");
        world.let_go(1_000);
        pulled.await.unwrap().unwrap();
        assert_eq!(world.held.log.lock().unwrap().most, allowed, "{config}");
        for table in TABLES {
            assert_eq!(held_here(&client, table).await, ROWS);
        }
        let mut order = world.asked();
        order.dedup();
        assert!(allowed > 1 || order == TABLES, "one after the other: {order:?}");
        client.reset(ResetOptions::everything()).await.unwrap();
    }
}

async fn the_next_page_is_asked_for_while_one_is_stored(store: impl Store + Clone, wire: Wire) {
    let world = World::new(wire);
    let store = FaultStore::new(store, SystemClock);
    let client = world.client(store.clone(), "").await;
    world.let_go(1_000);
    // What is remembered of the service is stored with the first pull.
    client.pull_tables(["b"]).await.unwrap();
    let before = world.asked().len();
    let gates = [Gate::new(), Gate::new()].map(|(gate, release)| {
        store.faults().next(StoreCall::Commit, Fault::Late(gate));
        release
    });
    let pulled = pull(&client, ["a"]);
    for (page, release) in (1..).zip(gates) {
        until(|| store.faults().left() == 2 - page && world.asked().len() > before + page).await;
        assert_eq!(world.asked().len(), before + page + 1, "one page ahead, and no more");
        // Where rows may have no stamp, these have a page of their own, and it comes first.
        let stored = 2 * (page as u64 - 1) * u64::from(wire.extended());
        assert_eq!(held_here(&client, "a").await, stored, "page {page} is not stored yet");
        drop(release);
    }
    pulled.await.unwrap().unwrap();
    assert_eq!(held_here(&client, "a").await, ROWS);
}

async fn a_page_is_stored_while_the_next_one_is_on_its_way(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let client = world.client(store, "").await;
    let mut events = client.events();
    let pulled = pull(&client, ["a"]);
    let mut stored = 0;
    for page in 0..3 {
        until(|| {
            while let Some(Some(event)) = events.next().now_or_never() {
                stored += usize::from(matches!(event, SyncEvent::PageCommitted { .. }));
            }
            stored == page && world.under_way().len() == 1
        })
        .await;
        assert_eq!(world.asked().len(), page + 1);
        world.let_go(1);
    }
    world.let_go(1_000);
    pulled.await.unwrap().unwrap();
    assert_eq!(held_here(&client, "a").await, ROWS);
}
