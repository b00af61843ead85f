//! The opening of a store by a later release may be dropped at any await (I22).

use std::time::Duration;

use datasync_core::{
    client::{DatasyncClient, TableOptions},
    error::Error,
    memory::MemoryStore,
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_redb::RedbStore;
use datasync_testkit::{Fault as StoreFault, FaultStore, StoreCall};
use datasync_tests::{
    RouterExchange, Wire, folder,
    steps::{Steps, within},
};
use serde::{Deserialize, Serialize};

use crate::{
    kills::copy_of,
    world::{World, everything, rename, transport},
};

/// More steps than an opening has.
const MANY: usize = 500;

/// [`Later`](crate::world::Later), with one index more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "note")]
struct Indexed {
    id: String,
    #[sync(index)]
    name: String,
    #[sync(index)]
    rank: i64,
    #[sync(local)]
    #[serde(default)]
    scroll: Option<u32>,
}

/// Opens the store, each call of which takes a step more.
async fn open(store: impl Store, exchange: &RouterExchange) -> Result<DatasyncClient, Error> {
    let store = FaultStore::new(store, Steps);
    for _ in 0..MANY {
        for call in [StoreCall::Open, StoreCall::Read, StoreCall::Commit] {
            store.faults().next(call, StoreFault::Delay(Duration::ZERO));
        }
    }
    let builder = DatasyncClient::builder().store(store).transport(transport(exchange));
    builder.table_with(TableOptions::<Indexed>::new().migration(1, rename)).build().await
}

/// Each store that is made has the same of the first release.
async fn dropped_at_each_step<S: Store + Clone, Made: Future<Output = S>>(make: impl Fn(usize) -> Made) {
    let exchange = RouterExchange::new(Wire::Extended.lead_to(axum::Router::new()));
    let undisturbed = make(MANY).await;
    open(undisturbed.clone(), &exchange).await.unwrap();
    let expected = everything(&undisturbed).await;
    for polls in 0..MANY {
        let store = make(polls).await;
        if let Some(opened) = within(polls, open(store.clone(), &exchange)).await {
            opened.unwrap();
            assert!(polls > 10, "it has too few awaits to be dropped at: {polls}");
            return;
        }
        let client = open(store.clone(), &exchange).await.unwrap();
        assert!(everything(&store).await == expected, "dropped after {polls} polls");
        let table = client.offline_table::<Indexed>();
        let named = table.query().filter(|note| note.name.starts_with("a "));
        let way = named.clone().explain().unwrap().to_string();
        assert!(way.contains("name"), "by the index: {way}");
        assert_eq!(named.count().await.unwrap(), table.count().await.unwrap(), "dropped after {polls} polls");
        let row = Indexed { id: "after".to_owned(), name: "b".to_owned(), rank: 1, scroll: None };
        table.insert(row).await.unwrap();
    }
    panic!("an opening has more than {MANY} steps");
}

#[tokio::test]
async fn i22_an_opening_may_be_dropped_at_any_await_memory() {
    let world = World::new(Wire::Extended);
    let original = MemoryStore::new();
    world.fill(original.clone(), "a").await;
    let original = &original;
    dropped_at_each_step(|_| async move { copy_of(original).await }).await;
}

#[tokio::test]
async fn i22_an_opening_may_be_dropped_at_any_await_redb() {
    let world = World::new(Wire::Extended);
    let folder = folder();
    let path = folder.path().join("original.redb");
    world.fill(RedbStore::open(&path).unwrap(), "a").await.close().await.unwrap();
    dropped_at_each_step(|turn| {
        let copy = folder.path().join(format!("{turn}.redb"));
        std::fs::copy(&path, &copy).unwrap();
        async move { RedbStore::open(copy).unwrap() }
    })
    .await;
}
