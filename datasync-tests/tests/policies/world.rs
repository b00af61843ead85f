//! Entities with rules of merging, and devices that share a service of them.

use datasync_core::{
    client::{DatasyncClient, OfflineTable, TableOptions},
    config::SyncConfig,
    row::Side,
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::HttpTransport;
use datasync_server::{DatasyncService, MemoryRepository, TableOptions as ServiceTable};
use datasync_tests::{MemoryStore, RouterExchange, StillClock, Way, Wire};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
pub(crate) struct Card {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) place: String,
    #[sync(merge = max)]
    pub(crate) rating: i64,
    #[sync(merge = sum)]
    pub(crate) count: u32,
    #[sync(merge = union)]
    pub(crate) tags: Vec<String>,
    #[sync(merge_with = both)]
    pub(crate) text: String,
    #[sync(local)]
    #[serde(default)]
    pub(crate) open: bool,
}

pub(crate) fn both(base: Option<String>, local: String, service: String) -> String {
    let base = base.unwrap_or_default();
    let added = |text: &str| text.strip_prefix(&base).unwrap_or(text).to_owned();
    format!("{base}{}{}", added(&service), added(&local))
}

pub(crate) fn card(id: &str) -> Card {
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
pub(crate) struct Dated {
    pub(crate) id: String,
    pub(crate) title: String,
    #[sync(edited_at)]
    #[serde(default)]
    pub(crate) changed: Timestamp,
}

pub(crate) fn dated(id: &str, title: &str) -> Dated {
    Dated { id: id.to_owned(), title: title.to_owned(), changed: Timestamp::UNIX_EPOCH }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
pub(crate) struct Plain {
    pub(crate) id: String,
    pub(crate) title: String,
}

/// The same table as a later release knows it, and the service.
#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "plain")]
pub(crate) struct Later {
    pub(crate) id: String,
    pub(crate) title: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) later: Option<serde_json::Value>,
}

pub(crate) fn plain(id: &str, title: &str) -> Plain {
    Plain { id: id.to_owned(), title: title.to_owned() }
}

/// A service with a table of each, and the time that all go by.
pub(crate) struct World {
    pub(crate) cards: MemoryRepository,
    pub(crate) dated: MemoryRepository,
    pub(crate) plain: MemoryRepository,
    pub(crate) way: Way,
    pub(crate) clock: StillClock,
}

impl World {
    pub(crate) fn new(wire: Wire) -> World {
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
        World { cards, dated, plain, way: wire.lead_to(router), clock }
    }

    /// A device whose clock is ahead.
    pub(crate) async fn device(&self, store: impl Store, config: &str, ahead: SignedDuration) -> Device {
        self.device_with(store, config, ahead, TableOptions::new()).await
    }

    pub(crate) async fn device_with(
        &self,
        store: impl Store,
        config: &str,
        ahead: SignedDuration,
        options: TableOptions<Card>,
    ) -> Device {
        let clock = self.clock.ahead(ahead);
        let exchange = RouterExchange::new(self.way.clone());
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

pub(crate) struct Device {
    pub(crate) client: DatasyncClient,
    pub(crate) exchange: RouterExchange,
    pub(crate) clock: StillClock,
}

impl Device {
    pub(crate) fn cards(&self) -> OfflineTable<Card> {
        self.client.offline_table()
    }

    pub(crate) fn dated(&self) -> OfflineTable<Dated> {
        self.client.offline_table()
    }

    pub(crate) fn plain(&self) -> OfflineTable<Plain> {
        self.client.offline_table()
    }

    /// Pushes what is queued and pulls everything.
    pub(crate) async fn sync(&self) {
        self.client.push_tables(datasync_core::client::Tables::all()).await.unwrap();
        self.cards().pull_items(self.cards().query()).await.unwrap();
        self.dated().pull_items(self.dated().query()).await.unwrap();
        self.plain().pull_items(self.plain().query()).await.unwrap();
    }

    pub(crate) async fn losers(&self) -> Vec<(Side, String)> {
        let losers = self.client.settled_losers().await.unwrap();
        let title = |body: &[u8]| {
            serde_json::from_slice::<serde_json::Value>(body).unwrap()["title"].as_str().unwrap().to_owned()
        };
        losers.iter().map(|loser| (loser.side, title(loser.body.as_bytes()))).collect()
    }
}

pub(crate) const NO: SignedDuration = SignedDuration::ZERO;

pub(crate) fn of<E: serde::de::DeserializeOwned>(rows: &MemoryRepository, id: &str) -> E {
    let row = rows.rows().into_iter().find(|row| &*row.id == id && !row.record.deleted).unwrap();
    serde_json::from_slice(row.record.body.as_bytes()).unwrap()
}

/// Two devices that have the same card.
pub(crate) async fn two(world: &World, store: impl Store, config: &str) -> (Device, Device) {
    let here = world.device(store, config, NO).await;
    let there = world.device(MemoryStore::new(), config, NO).await;
    here.cards().insert(Card { rating: 5, count: 5, tags: vec!["a".to_owned()], ..card("1") }).await.unwrap();
    here.sync().await;
    there.sync().await;
    (here, there)
}
