//! Conflicts as the configuration, the derive and code settle them.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use datasync_core::{
    client::{DatasyncClient, OfflineTable, Resolution, ResolverConflict, TableOptions},
    clock::Clock,
    config::{ConflictPolicy, SyncConfig},
    entity::SyncEntity as _,
    error::ErrorKind,
    events::SyncEvent,
    row::{OperationKind, RowKey, Side},
    store::Store,
    transport::{
        Capabilities, Page, PageRequest, PushOperation, PushOutcome, RowRequest, ServiceRow, Transport, TransportError,
    },
};
use datasync_derive::SyncEntity;
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::{DatasyncService, MemoryRepository, TableOptions as ServiceTable};
use datasync_tests::{Fault, MemoryStore, RouterExchange, StillClock, Wire, on_both_stores};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Card {
    id: String,
    title: String,
    place: String,
    #[sync(merge = max)]
    rating: i64,
    #[sync(merge = sum)]
    count: u32,
    #[sync(merge = union)]
    tags: Vec<String>,
    #[sync(merge_with = both)]
    text: String,
    #[sync(local)]
    #[serde(default)]
    open: bool,
}

fn both(base: Option<String>, local: String, service: String) -> String {
    let base = base.unwrap_or_default();
    let added = |text: &str| text.strip_prefix(&base).unwrap_or(text).to_owned();
    format!("{base}{}{}", added(&service), added(&local))
}

fn card(id: &str) -> Card {
    Card {
        id: id.to_owned(),
        title: "base".to_owned(),
        place: "base".to_owned(),
        text: "base".to_owned(),
        ..Card::default()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Dated {
    id: String,
    title: String,
    #[sync(edited_at)]
    #[serde(default)]
    changed: Timestamp,
}

fn dated(id: &str, title: &str) -> Dated {
    Dated { id: id.to_owned(), title: title.to_owned(), changed: Timestamp::UNIX_EPOCH }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Plain {
    id: String,
    title: String,
}

/// The same table as a later release knows it, and the service.
#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "plain")]
struct Later {
    id: String,
    title: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    later: Option<serde_json::Value>,
}

fn plain(id: &str, title: &str) -> Plain {
    Plain { id: id.to_owned(), title: title.to_owned() }
}

/// A service with a table of each, and the time that all go by.
struct World {
    cards: MemoryRepository,
    dated: MemoryRepository,
    plain: MemoryRepository,
    router: Router,
    clock: StillClock,
}

impl World {
    fn new(wire: Wire) -> World {
        let clock = StillClock::new(1);
        let rows = || MemoryRepository::with_clock(clock.clone());
        let (cards, dated, plain) = (rows(), rows(), rows());
        let router = DatasyncService::builder()
            .extensions(wire.extended())
            .clock(clock.clone())
            .table(ServiceTable::of::<Card>().soft_delete(true), cards.clone())
            .table(ServiceTable::of::<Dated>().soft_delete(true), dated.clone())
            .table(ServiceTable::of::<Later>().soft_delete(true), plain.clone())
            .build()
            .unwrap();
        World { cards, dated, plain, router: wire.lead_to(router), clock }
    }

    /// A device whose clock is ahead.
    async fn device(&self, store: impl Store, config: &str, ahead: SignedDuration) -> Device {
        self.device_with(store, config, ahead, TableOptions::new()).await
    }

    async fn device_with(
        &self,
        store: impl Store,
        config: &str,
        ahead: SignedDuration,
        options: TableOptions<Card>,
    ) -> Device {
        let clock = self.clock.ahead(ahead);
        let exchange = RouterExchange::new(self.router.clone());
        let transport = HttpTransport::builder("http://service").retries(0).clock(clock.clone());
        let builder = DatasyncClient::builder()
            .store(store)
            .transport(transport.exchange(exchange.clone()).build().unwrap())
            .clock(clock.clone())
            .config(SyncConfig::from_toml(config).unwrap());
        let client = builder.table_with(options).table::<Dated>().table::<Plain>().build().await.unwrap();
        Device { client, exchange, clock }
    }
}

struct Device {
    client: DatasyncClient,
    exchange: RouterExchange,
    clock: StillClock,
}

impl Device {
    fn cards(&self) -> OfflineTable<Card> {
        self.client.offline_table()
    }

    fn dated(&self) -> OfflineTable<Dated> {
        self.client.offline_table()
    }

    fn plain(&self) -> OfflineTable<Plain> {
        self.client.offline_table()
    }

    /// Pushes what is queued and pulls everything.
    async fn sync(&self) {
        self.client.push_tables(datasync_core::client::Tables::all()).await.unwrap();
        self.cards().pull_items(self.cards().query()).await.unwrap();
        self.dated().pull_items(self.dated().query()).await.unwrap();
        self.plain().pull_items(self.plain().query()).await.unwrap();
    }

    async fn losers(&self) -> Vec<(Side, String)> {
        let losers = self.client.settled_losers().await.unwrap();
        let title = |body: &[u8]| {
            serde_json::from_slice::<serde_json::Value>(body).unwrap()["title"].as_str().unwrap().to_owned()
        };
        losers.iter().map(|loser| (loser.side, title(loser.body.as_bytes()))).collect()
    }
}

const NO: SignedDuration = SignedDuration::ZERO;

fn of<E: serde::de::DeserializeOwned>(rows: &MemoryRepository, id: &str) -> E {
    let row = rows.rows().into_iter().find(|row| &*row.id == id && !row.record.deleted).unwrap();
    serde_json::from_slice(row.record.body.as_bytes()).unwrap()
}

/// Two devices that have the same card.
async fn two(world: &World, store: impl Store, config: &str) -> (Device, Device) {
    let here = world.device(store, config, NO).await;
    let there = world.device(MemoryStore::new(), config, NO).await;
    here.cards().insert(Card { rating: 5, count: 5, tags: vec!["a".to_owned()], ..card("1") }).await.unwrap();
    here.sync().await;
    there.sync().await;
    (here, there)
}

on_both_stores! {
    config_alone_switches_a_table_from_park_to_merge
    i17_a_merge_follows_the_rules_and_both_devices_agree
    i18_no_policy_sends_a_change_without_a_version
    a_merge_without_a_rule_falls_back_for_that_field_alone
    a_deletion_meets_a_change
    i28_what_a_merge_leaves_out_is_kept
    i10_a_sum_counts_each_change_once
    i10_a_lost_request_and_an_equal_change_are_two_changes
    sums_need_a_service_that_keeps_keys_and_say_so
    i16_resolutions_keep_fields_that_this_build_does_not_know
    what_a_write_returns_has_the_time_of_its_edit
    the_later_edit_wins_by_the_clock_of_the_service
    an_edit_is_stamped_offline_and_after_a_restart
    a_clock_that_is_ahead_gives_no_edit_an_advantage
    where_no_time_is_known_the_service_wins
    a_resolver_sees_both_sides_and_may_end_a_conflict_in_any_way
    i28_a_second_edit_never_overwrites_what_nobody_here_has_seen
    a_merge_that_cannot_be_read_is_parked
}

async fn config_alone_switches_a_table_from_park_to_merge(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[sync]\nconflict = 'park'").await;
    let merging = "[sync]\nconflict = 'park'\n[tables.card]\nconflict = 'merge'";
    let merging = world.device(MemoryStore::new(), merging, NO).await;
    merging.sync().await;
    there
        .cards()
        .replace(Card { place: "theirs".to_owned(), ..there.cards().get("1").await.unwrap().unwrap() })
        .await
        .unwrap();
    there.sync().await;
    for device in [&here, &merging] {
        let card = device.cards().get("1").await.unwrap().unwrap();
        device.cards().replace(Card { title: "ours".to_owned(), ..card }).await.unwrap();
        device.sync().await;
    }
    assert_eq!(here.client.conflicts().await.unwrap().len(), 1, "parked");
    assert!(merging.client.conflicts().await.unwrap().is_empty(), "merged");
    let merged = of::<Card>(&world.cards, "1");
    assert_eq!((merged.title.as_str(), merged.place.as_str()), ("ours", "theirs"));
}

#[test]
fn a_configuration_says_what_it_does_not_know() {
    let cases = [
        ("[sync]\nconflict = 'newest'", "park client-wins server-wins merge last-writer-wins"),
        ("[tables.card]\nconflict = 'clientwins'", "park client-wins server-wins merge last-writer-wins"),
        ("[tables.card]\nfallback = 'max'", "park client-wins server-wins merge last-writer-wins"),
        ("[tables.card]\nfallback = 'merge'", "fallback park client-wins server-wins last-writer-wins"),
        ("[tables.card.merge]\nrating = 'avg'", "client server max min sum union"),
        ("[tables.card.merge]\nratings = 'max'", "card.ratings title place rating count tags text"),
        ("[tables.card.merge]\nopen = 'client'", "card.open title place rating"),
        ("[tables.card.merge]\nversion = 'client'", "card.version title place rating"),
        ("[tables.card.merge]\ntitle = 'sum'", "card.title numbers text"),
        ("[tables.card.merge]\nrating = 'union'", "card.rating lists i64"),
        ("[tables.card.merge]\ntags = 'max'", "card.tags order json"),
        ("[tables.dated.merge]\nchanged = 'min'", "dated.changed later"),
        ("[tables.cards]\nconflict = 'merge'", "cards card, dated, plain"),
        ("[tables.card]\nconflicts = 'merge'", "conflicts conflict fallback merge"),
        ("[sync]\nloser_age = '1m'", "loser_age 3600"),
        ("[sync]\nloser_age = 'soon'", "soon 30s"),
    ];
    for (config, words) in cases {
        let built = SyncConfig::from_toml(config).map(|config| {
            let transport = HttpTransport::new("http://service").unwrap();
            let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport).config(config);
            let builder = builder.table::<Card>().table::<Dated>().table::<Plain>();
            futures::executor::block_on(builder.build()).map(drop)
        });
        let error = built.and_then(|built| built).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{config}");
        for word in words.split(' ') {
            assert!(error.to_string().contains(word), "{config}: {error}");
        }
    }
    assert_eq!(SyncConfig::from_toml("[sync]\nloser_age = '30d'").unwrap(), SyncConfig::default());
}

async fn i17_a_merge_follows_the_rules_and_both_devices_agree(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let config = "[tables.card]\nconflict = 'merge'\n[tables.card.merge]\ncount = 'max'\ntitle = 'client'";
    let (here, there) = two(&world, store, config).await;
    let (ours, theirs) =
        (here.cards().get("1").await.unwrap().unwrap(), there.cards().get("1").await.unwrap().unwrap());
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
    there
        .cards()
        .replace(Card {
            title: "theirs".to_owned(),
            place: "theirs".to_owned(),
            rating: 4,
            count: 9,
            tags: tags(&["a", "b"]),
            text: "base+theirs".to_owned(),
            ..theirs
        })
        .await
        .unwrap();
    there.sync().await;
    here.cards()
        .replace(Card {
            title: "ours".to_owned(),
            rating: 3,
            count: 7,
            tags: tags(&["c"]),
            text: "base+ours".to_owned(),
            open: true,
            ..ours
        })
        .await
        .unwrap();
    here.sync().await;
    there.sync().await;
    let expected = Card {
        title: "ours".to_owned(),
        place: "theirs".to_owned(),
        rating: 4,
        count: 9,
        tags: tags(&["b", "c"]),
        text: "base+theirs+ours".to_owned(),
        ..card("1")
    };
    assert_eq!(of::<Card>(&world.cards, "1"), expected, "the configuration's rules over those of the derive");
    assert_eq!(there.cards().get("1").await.unwrap().unwrap(), expected);
    assert_eq!(here.cards().get("1").await.unwrap().unwrap(), Card { open: true, ..expected });
    assert!(here.client.pending().await.unwrap().is_empty());
}

async fn i18_no_policy_sends_a_change_without_a_version(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.device(store, "[tables.plain]\nconflict = 'client-wins'", NO).await;
    let policies = ["merge", "last-writer-wins", "server-wins"];
    let there = world.device(MemoryStore::new(), "[sync]\nconflict = 'client-wins'", NO).await;
    let mut devices = vec![here];
    for policy in policies {
        let config = format!("[sync]\nconflict = '{policy}'\nfallback = 'client-wins'");
        devices.push(world.device(MemoryStore::new(), &config, NO).await);
    }
    there.plain().insert(plain("1", "base")).await.unwrap();
    there.plain().insert(plain("2", "base")).await.unwrap();
    there.sync().await;
    for (turn, device) in devices.iter().enumerate() {
        device.sync().await;
        there.sync().await;
        for id in ["1", "2"] {
            world.clock.advance(SignedDuration::from_secs(5));
            there.plain().replace(plain(id, "theirs")).await.unwrap();
            there.sync().await;
            there.plain().replace(plain(id, "base")).await.unwrap();
            there.sync().await;
        }
        world.clock.advance(SignedDuration::from_secs(5));
        device.plain().replace(plain("1", &format!("ours {turn}"))).await.unwrap();
        device.plain().delete("2").await.unwrap();
        let versions = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&versions);
        let check = move |request: &HttpRequest| {
            if matches!(request.method, Method::Put | Method::Delete) {
                assert!(request.headers.iter().any(|(name, _)| name == "if-match"), "never without a version");
                *seen.lock().unwrap() += 1;
            }
        };
        device.exchange.before(check);
        device.sync().await;
        assert!(wire.extended() || *versions.lock().unwrap() >= 2, "both were sent");
        assert!(device.client.pending().await.unwrap().is_empty());
        there.sync().await;
        there.plain().upsert(plain("2", "base")).await.unwrap();
        there.sync().await;
    }
}

async fn a_merge_without_a_rule_falls_back_for_that_field_alone(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let config = "[sync]\nconflict = 'merge'\nfallback = 'server-wins'";
    let (here, there) = two(&world, store, config).await;
    there
        .cards()
        .replace(Card { title: "theirs".to_owned(), ..there.cards().get("1").await.unwrap().unwrap() })
        .await
        .unwrap();
    there.sync().await;
    let ours = here.cards().get("1").await.unwrap().unwrap();
    here.cards().replace(Card { title: "ours".to_owned(), place: "ours".to_owned(), ..ours }).await.unwrap();
    here.sync().await;
    let merged = of::<Card>(&world.cards, "1");
    assert_eq!((merged.title.as_str(), merged.place.as_str()), ("theirs", "ours"));
    assert_eq!(here.losers().await, [(Side::Local, "ours".to_owned())]);

    let parks = world.device(MemoryStore::new(), "[sync]\nconflict = 'merge'", NO).await;
    parks.sync().await;
    there.sync().await;
    there.cards().replace(Card { title: "again".to_owned(), ..merged.clone() }).await.unwrap();
    there.sync().await;
    parks.cards().replace(Card { title: "mine".to_owned(), rating: 9, ..merged }).await.unwrap();
    parks.sync().await;
    let parked = parks.client.conflicts().await.unwrap().pop().unwrap();
    assert_eq!(parked.reason(), "both sides have changed `title`", "it says what somebody has to decide about");
    let error = parks.client.resolve::<Card>(&parked, Resolution::Merge).await.unwrap_err();
    assert_eq!((error.kind(), error.conflict()), (ErrorKind::Undecided, Some(&parked)));
    assert!(error.to_string().contains("`title`"));
    parks.client.resolve::<Card>(&parked, Resolution::LastWriterWins).await.unwrap();
    parks.sync().await;
    assert!(parks.client.conflicts().await.unwrap().is_empty());
}

async fn a_deletion_meets_a_change(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let config = "[tables.plain]\nconflict = 'merge'\nfallback = 'client-wins'";
    let here = world.device(store, config, NO).await;
    let there = world.device(MemoryStore::new(), config, NO).await;
    for id in ["1", "2", "3", "4"] {
        here.plain().insert(plain(id, "base")).await.unwrap();
    }
    here.sync().await;
    there.sync().await;
    there.plain().replace(plain("1", "theirs")).await.unwrap();
    there.plain().delete("2").await.unwrap();
    there.plain().delete("3").await.unwrap();
    for title in ["touched", "base"] {
        there.plain().replace(plain("4", title)).await.unwrap();
        there.sync().await;
    }
    here.plain().delete("1").await.unwrap();
    here.plain().replace(plain("2", "ours")).await.unwrap();
    for title in ["touched", "base"] {
        here.plain().replace(plain("3", title)).await.unwrap();
    }
    here.plain().delete("4").await.unwrap();
    here.sync().await;
    there.sync().await;
    let titles = |device: &Device| {
        let table = device.plain();
        async move { table.query().to_vec().await.unwrap().into_iter().map(|row| (row.id, row.title)).collect::<Vec<_>>() }
    };
    // 1 and 2: deleted here or there and changed on the other side, the fallback decides. 3 and 4: only one side has
    // changed anything, and it deleted the row.
    assert_eq!(titles(&here).await, [("2".to_owned(), "ours".to_owned())]);
    assert_eq!(titles(&there).await, titles(&here).await);
    assert_eq!(here.losers().await, [(Side::Service, "theirs".to_owned())]);
}

async fn i28_what_a_merge_leaves_out_is_kept(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'").await;
    let base = here.cards().get("1").await.unwrap().unwrap();
    // Ours is the greater rating, theirs loses; then the other way round; and a union loses nothing.
    for (turn, (ours, theirs, lost)) in
        [(9, 8, Some(Side::Service)), (10, 11, Some(Side::Local)), (11, 11, None)].into_iter().enumerate()
    {
        there.sync().await;
        let tags = |who: &str| vec!["a".to_owned(), format!("{who}{turn}")];
        there.cards().replace(Card { rating: theirs, tags: tags("theirs"), ..base.clone() }).await.unwrap();
        there.sync().await;
        here.cards().replace(Card { rating: ours, tags: tags("ours"), ..base.clone() }).await.unwrap();
        here.sync().await;
        let losers = here.client.settled_losers().await.unwrap();
        assert_eq!(losers.last().map(|loser| loser.side), lost, "{turn}");
        if let Some(loser) = losers.last() {
            assert_eq!(
                loser.entity::<Card>().unwrap().rating,
                ours.min(theirs),
                "the whole body, with the value that lost"
            );
            here.client.forget_losers([loser.id]).await.unwrap();
        }
        assert_eq!(of::<Card>(&world.cards, "1").rating, ours.max(theirs));
    }
}

async fn i10_a_sum_counts_each_change_once(store: impl Store, wire: Wire) {
    if !wire.extended() {
        return;
    }
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'").await;
    let faults = [Fault::AnswerLost, Fault::Lost, Fault::None, Fault::Status(503)];
    let mut expected = 5;
    for (turn, device) in [&here, &there, &here, &there, &there, &here, &here].into_iter().enumerate() {
        let other = if turn % 2 == 0 { &there } else { &here };
        for device in [device, other] {
            let card = device.cards().get("1").await.unwrap().unwrap();
            device.cards().replace(Card { count: card.count + 1, ..card }).await.unwrap();
            expected += 1;
            let changes = |request: &HttpRequest| request.method != Method::Get;
            device.exchange.fault(changes, faults[turn % faults.len()]);
            device.sync().await;
        }
    }
    for _ in 0..2 {
        here.sync().await;
        there.sync().await;
    }
    assert_eq!(of::<Card>(&world.cards, "1").count, expected);
    for device in [&here, &there] {
        assert_eq!(device.cards().get("1").await.unwrap().unwrap().count, expected);
        assert!(device.client.pending().await.unwrap().is_empty());
        assert!(device.client.settled_losers().await.unwrap().is_empty(), "a sum loses nothing");
    }
}

async fn i10_a_lost_request_and_an_equal_change_are_two_changes(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'").await;
    for (device, fault) in [(&here, Fault::Lost), (&there, Fault::None)] {
        let card = device.cards().get("1").await.unwrap().unwrap();
        device.cards().replace(Card { count: card.count + 1, ..card }).await.unwrap();
        device.exchange.fault(|request| request.method != Method::Get, fault);
        device.cards().push_items().await.unwrap();
    }
    assert!(here.client.pending().await.unwrap()[0].in_doubt);
    here.sync().await;
    // A service without keys cannot tell whose change it has: nothing is summed up there, and an equal copy counts as ours.
    let expected = if wire.extended() { 7 } else { 6 };
    assert_eq!(of::<Card>(&world.cards, "1").count, expected);
    assert_eq!(here.cards().get("1").await.unwrap().unwrap().count, expected);
    assert!(here.client.pending().await.unwrap().is_empty());
}

async fn sums_need_a_service_that_keeps_keys_and_say_so(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'").await;
    let events = here.client.events();
    for (device, count) in [(&there, 7), (&here, 6)] {
        let card = device.cards().get("1").await.unwrap().unwrap();
        device.cards().replace(Card { count, ..card }).await.unwrap();
        device.sync().await;
    }
    let parked = here.client.conflicts().await.unwrap();
    if wire.extended() {
        assert!(parked.is_empty());
        assert_eq!(of::<Card>(&world.cards, "1").count, 8);
        return;
    }
    assert!(
        parked[0].reason().contains("`count` cannot be summed up: the service keeps no keys"),
        "{}",
        parked[0].reason()
    );
    drop(events);
    // A client tells it once, at its first push.
    let fresh = world.device(MemoryStore::new(), "[tables.card]\nconflict = 'merge'", NO).await;
    let mut events = fresh.client.events();
    fresh.cards().insert(card("2")).await.unwrap();
    fresh.sync().await;
    fresh.cards().insert(card("3")).await.unwrap();
    fresh.sync().await;
    drop(fresh);
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        if let SyncEvent::CannotSum { table, fields } = event {
            told.push((table.to_string(), fields));
        }
    }
    assert_eq!(told, [("card".to_owned(), vec!["count".to_owned()])]);
}

async fn i16_resolutions_keep_fields_that_this_build_does_not_know(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.device(store, "", NO).await;
    let seed = |title: &str| {
        let row = serde_json::json!({ "id": "1", "title": title, "later": { "x": [1.5] } });
        world.plain.seed(serde_json::json!([row])).unwrap();
    };
    seed("base");
    here.sync().await;
    here.plain().replace(plain("1", "ours")).await.unwrap();
    seed("theirs");
    here.sync().await;
    let conflict = here.client.conflicts().await.unwrap().pop().unwrap();
    here.client.resolve(&conflict, Resolution::Merged(plain("1", "both"))).await.unwrap();
    here.sync().await;
    let there: serde_json::Value = of(&world.plain, "1");
    assert_eq!((&there["title"], &there["later"]), (&"both".into(), &serde_json::json!({ "x": [1.5] })));
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

async fn a_clock_that_is_ahead_gives_no_edit_an_advantage(store: impl Store, wire: Wire) {
    let config = "[sync]\nconflict = 'last-writer-wins'";
    let world = World::new(wire);
    // This device has never heard of the service's time when it edits.
    let here = world.device(store, config, SignedDuration::from_hours(24 * 365)).await;
    here.dated().insert(dated("1", "from the future")).await.unwrap();
    here.sync().await;
    let now = world.clock.now();
    assert!(of::<Dated>(&world.dated, "1").changed <= now + SignedDuration::from_secs(1), "cut to the service's time");
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
    let exchange = RouterExchange::new(world.router.clone());
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

async fn a_resolver_sees_both_sides_and_may_end_a_conflict_in_any_way(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let resolver = move |conflict: ResolverConflict<Card>| {
        let title = |card: &Option<Card>| card.as_ref().map(|card| card.title.clone());
        let sides = (title(&conflict.base), title(&conflict.local), title(&conflict.service));
        log.lock().unwrap().push((conflict.id.clone(), conflict.kind, conflict.service_kind, sides));
        Ok(match conflict.id.as_str() {
            "keep" => Resolution::Keep,
            "take" | "gone" | "made" => Resolution::Take,
            "merge" => Resolution::Merge,
            "later" => Resolution::LastWriterWins,
            "written" => Resolution::Merged(Card { title: "written".to_owned(), ..card("written") }),
            _ => Resolution::Park,
        })
    };
    let config = "[sync]\nconflict = 'server-wins'\n[tables.card]\nfallback = 'client-wins'";
    let here = world.device_with(store, config, NO, TableOptions::new().resolver(resolver)).await;
    let there = world.device(MemoryStore::new(), config, NO).await;
    let ids = ["keep", "take", "merge", "later", "written", "park", "gone"];
    for id in ids {
        here.cards().insert(card(id)).await.unwrap();
    }
    here.sync().await;
    there.sync().await;
    for id in ids {
        there
            .cards()
            .replace(Card { title: "theirs".to_owned(), place: "theirs".to_owned(), ..card(id) })
            .await
            .unwrap();
    }
    there.cards().delete("gone").await.unwrap();
    there.cards().insert(Card { title: "theirs".to_owned(), ..card("made") }).await.unwrap();
    there.sync().await;
    world.clock.advance(SignedDuration::from_secs(60));
    for id in ids {
        here.cards().replace(Card { title: "ours".to_owned(), rating: 7, ..card(id) }).await.unwrap();
    }
    here.cards().insert(Card { title: "ours".to_owned(), ..card("made") }).await.unwrap();
    here.sync().await;
    let after = |id: &str| {
        let card = of::<Card>(&world.cards, id);
        (card.title, card.place, card.rating)
    };
    let expect = |title: &str, place: &str, rating: i64| (title.to_owned(), place.to_owned(), rating);
    assert_eq!(after("keep"), expect("ours", "base", 7));
    assert_eq!(after("take"), expect("theirs", "theirs", 0));
    assert_eq!(after("merge"), expect("ours", "theirs", 7), "by field, with the table's fallback");
    assert_eq!(after("later"), expect("ours", "base", 7));
    assert_eq!(after("written"), expect("written", "base", 0));
    assert_eq!(after("park"), expect("theirs", "theirs", 0));
    assert_eq!(after("made"), expect("theirs", "base", 0));
    assert!(here.cards().get("gone").await.unwrap().is_none());
    let parked = here.client.conflicts().await.unwrap();
    assert_eq!(parked.iter().map(|conflict| conflict.id()).collect::<Vec<_>>(), ["park"]);
    assert_eq!((parked[0].kind(), parked[0].service_kind()), (OperationKind::Replace, OperationKind::Replace));

    let seen = seen.lock().unwrap().clone();
    let of = |id: &str| seen.iter().find(|(seen, ..)| seen == id).cloned().unwrap();
    let some = |text: &str| Some(text.to_owned());
    let (replace, delete, insert) = (OperationKind::Replace, OperationKind::Delete, OperationKind::Insert);
    assert_eq!(of("keep"), ("keep".to_owned(), replace, replace, (some("base"), some("ours"), some("theirs"))));
    assert_eq!(of("gone"), ("gone".to_owned(), replace, delete, (some("base"), some("ours"), None)));
    assert_eq!(of("made"), ("made".to_owned(), insert, insert, (None, some("ours"), some("theirs"))));
}

async fn i28_a_second_edit_never_overwrites_what_nobody_here_has_seen(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.device(store, "", NO).await;
    let there = world.device(MemoryStore::new(), "", NO).await;
    for id in ["1", "2"] {
        here.plain().insert(plain(id, "base")).await.unwrap();
    }
    here.sync().await;
    for id in ["1", "2"] {
        here.plain().replace(plain(id, "sent")).await.unwrap();
    }
    // The change is made, its answer is lost; then somebody who has seen it goes on, and so does the user here.
    let changes = |request: &HttpRequest| request.method != Method::Get;
    here.exchange.fault(changes, Fault::AnswerLost);
    if !wire.extended() {
        here.exchange.fault(changes, Fault::AnswerLost);
    }
    here.plain().push_items().await.unwrap();
    there.sync().await;
    for id in ["1", "2"] {
        there.plain().replace(plain(id, "theirs")).await.unwrap();
    }
    there.sync().await;
    here.plain().replace(plain("1", "second")).await.unwrap();
    here.plain().delete("2").await.unwrap();
    here.plain().pull_items(datasync_core::client::PullOptions::default().no_push()).await.unwrap();
    here.sync().await;
    assert_eq!(of::<Plain>(&world.plain, "1").title, "theirs");
    assert_eq!(of::<Plain>(&world.plain, "2").title, "theirs");
    let conflicts = here.client.conflicts().await.unwrap();
    assert_eq!(conflicts.len(), 2, "each waits with what the other side has");
    let titles = |conflict: &datasync_core::client::Conflict| {
        let (local, service) = (conflict.local::<Plain>().unwrap(), conflict.service::<Plain>().unwrap());
        (local.map(|row| row.title), service.map(|row| row.title))
    };
    assert_eq!(titles(&conflicts[0]), (Some("second".to_owned()), Some("theirs".to_owned())));
    assert_eq!(titles(&conflicts[1]), (None, Some("theirs".to_owned())));
    here.client.resolve::<Plain>(&conflicts[0], Resolution::Keep).await.unwrap();
    here.client.resolve::<Plain>(&conflicts[1], Resolution::Keep).await.unwrap();
    here.sync().await;
    assert_eq!(of::<Plain>(&world.plain, "1").title, "second");
    assert_eq!(here.losers().await.len(), 2, "what was overwritten knowingly is kept all the same");
}

async fn a_merge_that_cannot_be_read_is_parked(store: impl Store, wire: Wire) {
    if !wire.extended() {
        return;
    }
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'\nfallback = 'server-wins'").await;
    // 5 less 4 less 3 is no `u32`.
    for (device, count) in [(&there, 1), (&here, 2)] {
        let card = device.cards().get("1").await.unwrap().unwrap();
        device.cards().replace(Card { count, ..card }).await.unwrap();
        device.sync().await;
    }
    let parked = here.client.conflicts().await.unwrap();
    assert!(parked[0].reason().contains("cannot be read"), "{}", parked[0].reason());
    assert_eq!(here.cards().get("1").await.unwrap().unwrap().count, 2, "the row can still be read");
}

#[test]
fn the_entities_are_what_the_tests_take_them_for() {
    assert_eq!(Dated::SCHEMA.edited_field(), Some("changed"));
    assert_eq!(Card::SCHEMA.local_fields().collect::<Vec<_>>(), ["open"]);
}
