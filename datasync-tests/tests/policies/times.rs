//! The time of an edit, and the last writer who wins by it.

use async_trait::async_trait;
use datasync_core::{
    client::DatasyncClient,
    clock::Clock,
    config::{ConflictPolicy, SyncConfig},
    row::RowKey,
    store::Store,
    transport::{
        Capabilities, Page, PageRequest, PushOperation, PushOutcome, RowRequest, ServiceRow, Transport, TransportError,
    },
};
use datasync_http::HttpTransport;
use datasync_tests::{MemoryStore, RouterExchange, Wire, on_both_stores};
use jiff::SignedDuration;

use crate::world::{Dated, Device, NO, Plain, World, dated, of, plain};

on_both_stores! {
    what_a_write_returns_has_the_time_of_its_edit
    the_later_edit_wins_by_the_clock_of_the_service
    an_edit_is_stamped_offline_and_after_a_restart
    a_write_that_changes_nothing_makes_no_edit_younger
    a_clock_that_is_ahead_gives_no_edit_an_advantage
    where_no_time_is_known_the_service_wins
}

async fn what_a_write_returns_has_the_time_of_its_edit(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.device(store, "", NO).await;
    let table = here.dated();
    let now = || datasync_core::clock::Clock::now(&world.clock);
    let first = now();
    assert_eq!(table.insert(dated("1", "one")).await.unwrap().changed, first);
    world.clock.advance(SignedDuration::from_secs(5));
    assert_eq!(table.replace(dated("1", "one")).await.unwrap().changed, first, "nothing was changed");
    assert_eq!(table.upsert(dated("1", "two")).await.unwrap().changed, now());
    let all = table.upsert_all([dated("1", "three"), dated("2", "new")]).await.unwrap();
    assert!(all.iter().all(|written| written.changed == now()));
    assert_eq!(*all[1], table.get("2").await.unwrap().unwrap());
    let plain = here.client.offline_table_dyn("dated").unwrap();
    let row = plain.get("2").await.unwrap().unwrap();
    world.clock.advance(SignedDuration::from_secs(5));
    let mut edited = row.clone();
    edited["title"] = "tool".into();
    let written = plain.replace(edited).await.unwrap();
    assert_ne!(written["changed"], row["changed"]);
    assert_eq!(*written, plain.get("2").await.unwrap().unwrap());
}

/// Two devices edit a row one after the other, the second one is sent first.
async fn edits(world: &World, here: &Device, there: &Device) -> (String, String) {
    let (id, seconds) = ("1", SignedDuration::from_secs(60));
    here.dated().upsert(dated(id, "base")).await.unwrap();
    here.plain().upsert(plain(id, "base")).await.unwrap();
    here.sync().await;
    there.sync().await;
    world.clock.advance(seconds);
    here.dated().replace(dated(id, "earlier")).await.unwrap();
    here.plain().replace(plain(id, "earlier")).await.unwrap();
    world.clock.advance(seconds);
    there.dated().replace(dated(id, "later")).await.unwrap();
    there.plain().replace(plain(id, "later")).await.unwrap();
    world.clock.advance(seconds);
    here.sync().await;
    world.clock.advance(seconds);
    there.sync().await;
    here.sync().await;
    (of::<Dated>(&world.dated, id).title, of::<Plain>(&world.plain, id).title)
}

async fn the_later_edit_wins_by_the_clock_of_the_service(store: impl Store, wire: Wire) {
    let config = "[sync]\nconflict = 'last-writer-wins'";
    let world = World::new(wire);
    // The clock of the one is two hours slow, that of the other three hours fast.
    let here = world.device(store, config, SignedDuration::from_hours(3)).await;
    let there = world.device(MemoryStore::new(), config, SignedDuration::from_hours(-2)).await;
    here.sync().await;
    there.sync().await;
    let (dated_title, plain_title) = edits(&world, &here, &there).await;
    assert_eq!(dated_title, "later", "by the time of the edit, although the earlier edit arrived before it");
    assert_eq!(plain_title, "earlier", "without a field for it the other edit counts from its arrival");
    // The other way round: the later edit arrives first, and the earlier one meets it.
    let (dated_title, plain_title) = edits(&world, &there, &here).await;
    assert_eq!((dated_title.as_str(), plain_title.as_str()), ("later", "earlier"));
    for device in [&here, &there] {
        assert_eq!(device.dated().get("1").await.unwrap().unwrap().title, "later");
        assert_eq!(device.plain().get("1").await.unwrap().unwrap().title, "earlier");
        assert!(device.client.pending().await.unwrap().is_empty());
    }
    // Each device keeps what lost when it settled the conflict.
    let losers: Vec<_> = [here.losers().await, there.losers().await].concat();
    assert_eq!(losers.iter().filter(|(_, title)| title == "earlier").count(), 2);
    assert_eq!(losers.iter().filter(|(_, title)| title == "later").count(), 2);

    // Within a second nobody knows who was later: the service wins.
    there.sync().await;
    here.sync().await;
    there.dated().replace(dated("1", "first")).await.unwrap();
    world.clock.advance(SignedDuration::from_millis(900));
    here.dated().replace(dated("1", "second")).await.unwrap();
    world.clock.advance(SignedDuration::from_secs(60));
    there.sync().await;
    here.sync().await;
    assert_eq!(of::<Dated>(&world.dated, "1").title, "first");
}

async fn an_edit_is_stamped_offline_and_after_a_restart(store: impl Store + Clone, wire: Wire) {
    let config = "[sync]\nconflict = 'last-writer-wins'";
    let world = World::new(wire);
    let ahead = SignedDuration::from_hours(5);
    let here = world.device(store.clone(), config, ahead).await;
    here.dated().insert(dated("1", "base")).await.unwrap();
    here.sync().await;
    drop(here);
    // The next start has no network.
    let again = world.device(store.clone(), config, ahead).await;
    world.clock.advance(SignedDuration::from_secs(60));
    let before = again.exchange.requests.load(std::sync::atomic::Ordering::SeqCst);
    again.dated().replace(dated("1", "offline")).await.unwrap();
    again.dated().insert(dated("2", "offline")).await.unwrap();
    assert_eq!(again.exchange.requests.load(std::sync::atomic::Ordering::SeqCst), before);
    let rows = store.get(&[RowKey::new("dated", "1"), RowKey::new("dated", "2")]).await.unwrap();
    for row in rows {
        let edited = row.unwrap().operations[0].edited.unwrap();
        let off = edited.duration_since(world.clock.now()).abs();
        assert!(off < SignedDuration::from_secs(1), "by the service's clock: {off}");
    }
    let stamped = again.dated().get("2").await.unwrap().unwrap().changed;
    assert!(stamped.duration_since(world.clock.now()).abs() < SignedDuration::from_secs(1));
    assert!(again.clock.now() > stamped + SignedDuration::from_hours(4));
    // A write that changes nothing is no edit.
    world.clock.advance(SignedDuration::from_secs(60));
    again.dated().replace(dated("2", "offline")).await.unwrap();
    assert_eq!(again.dated().get("2").await.unwrap().unwrap().changed, stamped);
}

async fn a_write_that_changes_nothing_makes_no_edit_younger(store: impl Store, wire: Wire) {
    let config = "[sync]\nconflict = 'last-writer-wins'";
    let world = World::new(wire);
    let here = world.device(store, config, NO).await;
    let there = world.device(MemoryStore::new(), config, NO).await;
    let minute = SignedDuration::from_secs(60);
    here.dated().insert(dated("1", "base")).await.unwrap();
    here.plain().insert(plain("1", "base")).await.unwrap();
    here.sync().await;
    there.sync().await;
    here.dated().replace(dated("1", "earlier")).await.unwrap();
    here.plain().replace(plain("1", "earlier")).await.unwrap();
    world.clock.advance(minute);
    there.dated().replace(dated("1", "later")).await.unwrap();
    there.plain().replace(plain("1", "later")).await.unwrap();
    there.sync().await;
    world.clock.advance(minute);
    here.dated().replace(dated("1", "earlier")).await.unwrap();
    here.plain().replace(plain("1", "earlier")).await.unwrap();
    here.sync().await;
    assert_eq!(of::<Dated>(&world.dated, "1").title, "later");
    assert_eq!(of::<Plain>(&world.plain, "1").title, "later");
    assert_eq!(here.dated().get("1").await.unwrap().unwrap().title, "later");
}

async fn a_clock_that_is_ahead_gives_no_edit_an_advantage(store: impl Store, wire: Wire) {
    let config = "[sync]\nconflict = 'last-writer-wins'";
    let world = World::new(wire);
    // This device has never heard of the service's time when it edits.
    let here = world.device(store, config, SignedDuration::from_hours(24 * 365)).await;
    here.dated().insert(dated("1", "from the future")).await.unwrap();
    here.sync().await;
    let now = world.clock.now();
    assert!(
        of::<Dated>(&world.dated, "1").changed <= now + SignedDuration::from_secs(1),
        "{wire:?}: cut to the service's time: {} {now}",
        of::<Dated>(&world.dated, "1").changed
    );
    // It is set right, and then ahead again while there is no network: the offset it knows is wrong.
    here.clock.set_ahead(NO);
    here.sync().await;
    let there = world.device(MemoryStore::new(), config, NO).await;
    there.sync().await;
    here.clock.set_ahead(SignedDuration::from_hours(24));
    here.dated().replace(dated("1", "from tomorrow")).await.unwrap();
    world.clock.advance(SignedDuration::from_secs(60));
    there.dated().replace(dated("1", "today")).await.unwrap();
    there.sync().await;
    world.clock.advance(SignedDuration::from_secs(60));
    here.sync().await;
    let changed = of::<Dated>(&world.dated, "1").changed;
    assert!(changed <= world.clock.now() + SignedDuration::from_secs(1), "never later than the service's time");
    world.clock.advance(SignedDuration::from_secs(60));
    there.sync().await;
    there.dated().replace(dated("1", "after it")).await.unwrap();
    there.sync().await;
    assert_eq!(of::<Dated>(&world.dated, "1").title, "after it");
}

/// A transport that knows no time.
#[derive(Debug)]
struct Timeless(HttpTransport);

#[async_trait]
impl Transport for Timeless {
    async fn capabilities(&self) -> Result<Capabilities, TransportError> {
        self.0.capabilities().await
    }

    async fn fetch_page(&self, request: &PageRequest) -> Result<Page, TransportError> {
        self.0.fetch_page(request).await
    }

    async fn fetch(&self, request: &RowRequest) -> Result<Option<ServiceRow>, TransportError> {
        self.0.fetch(request).await
    }

    async fn push(&self, operations: &[PushOperation]) -> Vec<PushOutcome> {
        self.0.push(operations).await
    }
}

async fn where_no_time_is_known_the_service_wins(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let exchange = RouterExchange::new(world.way.clone());
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange).build().unwrap();
    let mut config = SyncConfig::default();
    config.sync.conflict = ConflictPolicy::LastWriterWins;
    let builder = DatasyncClient::builder().store(store).transport(Timeless(transport)).config(config);
    let client = builder.clock(world.clock.clone()).table::<Plain>().build().await.unwrap();
    let table = client.offline_table::<Plain>();
    let there = world.device(MemoryStore::new(), "", NO).await;
    there.plain().insert(plain("1", "base")).await.unwrap();
    there.sync().await;
    table.pull_items(table.query()).await.unwrap();
    there.plain().replace(plain("1", "theirs")).await.unwrap();
    there.sync().await;
    world.clock.advance(SignedDuration::from_secs(60));
    table.replace(plain("1", "ours")).await.unwrap();
    table.push_items().await.unwrap();
    assert_eq!(of::<Plain>(&world.plain, "1").title, "theirs");
    assert_eq!(client.settled_losers().await.unwrap().len(), 1);
}
