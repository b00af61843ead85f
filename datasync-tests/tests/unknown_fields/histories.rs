//! Histories whose steps are drawn: both kinds of fields survive each of them (I16).

use std::collections::BTreeMap;

use datasync_core::{
    client::{DatasyncClient, OfflineTable, Resolution, Tables},
    clock::Clock,
    config::SyncConfig,
    row::OperationKind,
    store::Store,
};
use datasync_http::HttpTransport;
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{Fault, MemoryStore, Note, RedbStore, RouterExchange, StillClock, Wire, note_of};
use serde_json::{Value, json};

use crate::{changes, later};

const POLICIES: &[&str] = &[
    "[sync]\nconflict = 'park'",
    "[sync]\nconflict = 'client-wins'",
    "[sync]\nconflict = 'server-wins'",
    "[sync]\nconflict = 'last-writer-wins'",
    "[sync]\nconflict = 'merge'\nfallback = 'client-wins'",
    "[sync]\nconflict = 'merge'\nfallback = 'server-wins'",
];

/// A device, and a newer release of the app elsewhere; steps are drawn from a seed.
struct History<S> {
    rows: MemoryRepository,
    exchange: RouterExchange,
    clock: StillClock,
    store: S,
    config: &'static str,
    client: DatasyncClient,
    /// What was last written to `later` of each row.
    later: BTreeMap<String, u64>,
    /// What the device last set `scroll` to, of the rows that it has not let go.
    scroll: BTreeMap<String, u32>,
    count: u32,
    /// Which changes of the device a test is to look at: that something was tested.
    reached: BTreeMap<&'static str, u64>,
    log: Vec<String>,
}

impl<S: Store + Clone> History<S> {
    async fn new(store: S, wire: Wire, config: &'static str, seed: u64) -> History<S> {
        let clock = StillClock::new(seed);
        let rows = MemoryRepository::with_clock(clock.clone());
        let table = TableOptions::of::<Note>().soft_delete(true).schemaless(true);
        let service = DatasyncService::builder().extensions(wire.extended()).clock(clock.clone());
        let service = service.table(table, rows.clone()).build().unwrap();
        let exchange = RouterExchange::new(wire.lead_to(service));
        let client = History::client(&store, &exchange, &clock, config).await;
        let (later, scroll, reached, log) = Default::default();
        let log: Vec<String> = log;
        History { rows, exchange, clock, store, config, client, later, scroll, count: 0, reached, log }
    }

    async fn client(store: &S, exchange: &RouterExchange, clock: &StillClock, config: &str) -> DatasyncClient {
        let transport = HttpTransport::builder("http://service").retries(0).clock(clock.clone());
        let builder = DatasyncClient::builder()
            .store(store.clone())
            .transport(transport.exchange(exchange.clone()).build().unwrap())
            .clock(clock.clone())
            .config(SyncConfig::from_toml(config).unwrap());
        builder.table::<Note>().build().await.unwrap()
    }

    fn draw(&self, most: u64) -> u64 {
        self.clock.random() % most
    }

    fn table(&self) -> OfflineTable<Note> {
        self.client.offline_table()
    }

    fn next(&mut self) -> u32 {
        self.count += 1;
        self.count
    }

    fn mark(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
        self.log.push(what.to_owned());
    }

    async fn step(&mut self) {
        let id = ["x", "y"][self.draw(2) as usize].to_owned();
        self.log.push(format!("row {id}"));
        match self.draw(20) {
            0..=4 => self.edit(id).await,
            5..=8 => self.elsewhere(id),
            9..=12 => {
                let faults = [Fault::None, Fault::None, Fault::AnswerLost, Fault::Lost, Fault::Refused];
                let fault = faults[self.draw(5) as usize];
                self.exchange.fault(changes, fault);
                self.mark("push");
                self.log.push(format!("  {fault:?}"));
                drop(self.client.push_tables(Tables::all()).await);
                self.exchange.clear_faults();
            }
            13 => {
                self.mark("pull");
                let table = self.table();
                let pulled = datasync_core::client::PullOptions::default().no_push();
                table.pull_items(pulled).await.unwrap();
            }
            14 => {
                if self.client.discard("note", &id).await.is_ok() {
                    self.mark("discard");
                }
            }
            15..=16 => self.resolve().await,
            17 => {
                // A body comes back as it was where its row is gone.
                if let Some(loser) = self.client.settled_losers().await.unwrap().pop()
                    && self.table().get(&*loser.key.id).await.unwrap().is_some()
                {
                    self.mark("restore");
                    self.client.restore_loser(loser.id).await.unwrap();
                }
            }
            18 => self.straight(id).await,
            _ => {
                self.clock.advance(jiff::SignedDuration::from_millis(1_500));
                self.client = History::client(&self.store, &self.exchange, &self.clock, self.config).await;
                self.mark("restart");
            }
        }
        self.clock.advance(jiff::SignedDuration::from_millis(10));
    }

    async fn edit(&mut self, id: String) {
        let (table, number) = (self.table(), self.next());
        let note = Note { scroll: Some(number), ..note_of(&id, &format!("here {number}")) };
        match table.get(&id).await.unwrap() {
            None => {
                self.mark("insert");
                table.insert(note).await.unwrap();
            }
            Some(_) if self.draw(3) == 0 => {
                self.mark("delete");
                let pending = self.client.pending().await.unwrap();
                if pending.iter().any(|change| *change.id == *id && change.kind == OperationKind::Insert) {
                    // Nothing is left of a row that the service has perhaps never had.
                    self.scroll.remove(&id);
                }
                table.delete(&id).await.unwrap();
                return;
            }
            Some(known) if self.draw(3) == 0 => {
                self.mark("scroll");
                table.replace(Note { scroll: Some(number), ..known }).await.unwrap();
            }
            Some(_) => {
                self.mark("replace");
                table.replace(note).await.unwrap();
            }
        }
        self.scroll.insert(id, number);
    }

    fn elsewhere(&mut self, id: String) {
        let number = self.next();
        let known = self.rows.rows().into_iter().find(|row| *row.id == *id);
        let mut body = known.map_or(json!({ "id": id, "title": "new", "rank": 0 }), |row| {
            serde_json::from_slice(row.record.body.as_bytes()).unwrap()
        });
        body["later"] = json!([number, 1.5]);
        match self.draw(4) {
            0 => {}
            1 => body["deleted"] = json!(true),
            _ => body["title"] = json!(format!("there {number}")),
        }
        self.mark("elsewhere");
        self.log.push(format!("  {body}"));
        self.rows.seed(json!([body])).unwrap();
        self.later.insert(id, u64::from(number));
    }

    async fn resolve(&mut self) {
        let Some(conflict) = self.client.conflicts().await.unwrap().pop() else { return };
        let number = self.next();
        let resolution = match self.draw(4) {
            0 => Resolution::Take,
            1 => Resolution::Merged(note_of(conflict.id(), &format!("both {number}"))),
            _ => Resolution::Keep,
        };
        self.log.push(format!("{resolution:?} {}", conflict.id()));
        self.mark("resolve");
        self.client.resolve(&conflict, resolution).await.unwrap();
    }

    /// An edit of the row on the service itself.
    async fn straight(&mut self, id: String) {
        let number = self.next();
        let remote = self.client.remote_table::<Note>();
        if let Some(row) = remote.get(&id).await.unwrap() {
            self.mark("straight");
            remote.replace(&row.map(|note| Note { title: format!("straight {number}"), ..note })).await.unwrap();
        }
    }

    async fn check(&mut self) {
        for row in self.rows.rows() {
            let body: Value = serde_json::from_slice(row.record.body.as_bytes()).unwrap();
            let newest = self.later.get(&*row.id).copied();
            assert_eq!(later(&body), newest, "the service has {body}\n{}", self.log.join("\n"));
            assert!(body.get("scroll").is_none(), "{body}");
        }
        let pending = self.client.pending().await.unwrap();
        for id in ["x", "y"] {
            match self.table().get(id).await.unwrap() {
                Some(note) => {
                    if let Some(set) = self.scroll.get(id) {
                        assert_eq!(note.scroll, Some(*set), "{note:?}\n{}", self.log.join("\n"));
                    }
                }
                None if pending.iter().any(|change| &*change.id == id) => {}
                None => drop(self.scroll.remove(id)),
            }
        }
    }

    async fn end(&mut self) {
        for _ in 0..8 {
            while let Some(conflict) = self.client.conflicts().await.unwrap().pop() {
                self.client.resolve(&conflict, Resolution::<Note>::Keep).await.unwrap();
            }
            self.client.push_tables(Tables::all()).await.unwrap();
            self.table().pull_items(self.table().query()).await.unwrap();
            self.check().await;
        }
        assert!(self.client.pending().await.unwrap().is_empty(), "{}", self.log.join("\n"));
        let plain = self.client.offline_table_dyn("note").unwrap();
        for row in self.rows.rows().iter().filter(|row| !row.record.deleted) {
            let here = plain.get(&row.id).await.unwrap().unwrap();
            assert_eq!(later(&here), self.later.get(&*row.id).copied(), "{}", self.log.join("\n"));
        }
    }
}

async fn histories<S: Store + Clone>(make: impl Fn() -> S, seeds: u64) {
    let mut reached: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..seeds {
        for wire in [Wire::Original, Wire::Extended] {
            for (number, config) in POLICIES.iter().enumerate() {
                let mut history = History::new(make(), wire, config, seed * 100 + number as u64).await;
                history.log.push(format!("{config:?} {wire:?} seed {seed}"));
                for _ in 0..40 {
                    history.step().await;
                    history.check().await;
                }
                history.end().await;
                for (what, times) in history.reached {
                    *reached.entry(what).or_default() += times;
                }
            }
        }
    }
    let wanted = ["insert", "delete", "scroll", "replace", "discard", "resolve", "restore", "straight", "restart"];
    assert!(wanted.iter().all(|what| reached.get(what).is_some_and(|times| *times > seeds)), "{reached:?}");
}

#[tokio::test]
async fn i16_fields_survive_every_history_over_memory() {
    histories(MemoryStore::new, 12).await;
}

#[tokio::test]
async fn i16_fields_survive_every_history_over_redb() {
    let make = || RedbStore::builder().open_backend(redb::backends::InMemoryBackend::new()).unwrap();
    histories(make, 2).await;
}
