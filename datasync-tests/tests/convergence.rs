//! Histories of several devices under every policy: they converge (I17), and nothing that a user wrote disappears (I28).
//!
//! A history is a list of steps drawn from a seed: edits, pushes, pulls, lost requests and answers, restarts. Then each
//! device syncs, and pulls once more. A history that fails prints its seed and its steps.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::{BTreeMap, BTreeSet};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PendingState, PullOptions, Tables},
    clock::Clock,
    config::SyncConfig,
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::{HttpTransport, Method};
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{Fault, MemoryStore, RedbStore, RouterExchange, StillClock, Way, Wire};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Item {
    id: String,
    /// Each write of it is another text, so that each can be followed.
    title: String,
    #[sync(merge = max)]
    rank: i64,
    #[sync(merge = sum)]
    count: i64,
    #[sync(merge = union)]
    tags: BTreeSet<u64>,
}

const POLICIES: &[&str] = &[
    "[sync]\nconflict = 'park'",
    "[sync]\nconflict = 'client-wins'",
    "[sync]\nconflict = 'server-wins'",
    "[sync]\nconflict = 'last-writer-wins'",
    "[sync]\nconflict = 'merge'",
    "[sync]\nconflict = 'merge'\nfallback = 'client-wins'",
    "[sync]\nconflict = 'merge'\nfallback = 'server-wins'",
    "[sync]\nconflict = 'merge'\nfallback = 'last-writer-wins'",
];

/// What is drawn from.
#[derive(Clone, Copy)]
struct Plan {
    devices: usize,
    steps: usize,
    ids: usize,
    /// Whether rows are deleted and made again.
    deletes: bool,
}

/// What a user did to a text that was shown.
#[derive(Default)]
struct Written {
    /// Every text that a write was acknowledged for.
    all: BTreeSet<String>,
    /// Texts that somebody who saw them overwrote or deleted.
    seen: BTreeSet<String>,
    /// How much was added to each row.
    added: BTreeMap<String, i64>,
}

struct Device<S> {
    store: S,
    client: DatasyncClient,
    exchange: RouterExchange,
    clock: StillClock,
    config: &'static str,
}

impl<S: Store + Clone> Device<S> {
    async fn new(store: S, way: &Way, clock: StillClock, config: &'static str) -> Device<S> {
        let exchange = RouterExchange::new(way.clone());
        let client = Device::client(&store, &exchange, &clock, config).await;
        Device { store, client, exchange, clock, config }
    }

    async fn client(store: &S, exchange: &RouterExchange, clock: &StillClock, config: &str) -> DatasyncClient {
        let transport = HttpTransport::builder("http://service").retries(0).clock(clock.clone());
        let builder = DatasyncClient::builder()
            .store(store.clone())
            .transport(transport.exchange(exchange.clone()).build().unwrap())
            .clock(clock.clone())
            .config(SyncConfig::from_toml(config).unwrap());
        builder.table::<Item>().build().await.unwrap()
    }

    fn table(&self) -> OfflineTable<Item> {
        self.client.offline_table()
    }

    async fn restart(&mut self) {
        self.client = Device::client(&self.store, &self.exchange, &self.clock, self.config).await;
    }

    async fn rows(&self) -> BTreeMap<String, Item> {
        let rows = self.table().query().to_vec().await.unwrap();
        rows.into_iter().map(|row| (row.id.clone(), row)).collect()
    }
}

struct History<S> {
    rows: MemoryRepository,
    devices: Vec<Device<S>>,
    clock: StillClock,
    written: Written,
    log: Vec<String>,
    name: String,
}

impl<S: Store + Clone> History<S> {
    fn draw(&self, most: usize) -> usize {
        (self.clock.random() % most as u64) as usize
    }

    async fn step(&mut self, plan: Plan) {
        let (device, id) = (self.draw(self.devices.len()), format!("row{}", self.draw(plan.ids)));
        let chosen = self.draw(13);
        let step = format!("{chosen} on {device}, {id}");
        self.log.push(step);
        match chosen {
            0..=5 => self.edit(device, id, plan).await,
            6..=8 => self.push(device).await,
            9 => {
                let pulled = PullOptions::default().no_push();
                self.devices[device].table().pull_items(pulled).await.unwrap();
            }
            // What it pushes first may meet a fault that waits for a change.
            10 => drop(self.devices[device].table().pull_items(PullOptions::default()).await),
            11 => self.devices[device].restart().await,
            _ => {
                let millis = [1, 200, 3_000, 40_000][self.draw(4)];
                self.clock.advance(SignedDuration::from_millis(millis));
            }
        }
    }

    async fn edit(&mut self, device: usize, id: String, plan: Plan) {
        let title = format!("t{}", self.written.all.len());
        let table = self.devices[device].table();
        let what = self.draw(6);
        let Some(shown) = table.get(&id).await.unwrap() else {
            if plan.deletes {
                let item = Item { id, title: title.clone(), rank: 0, count: 0, tags: BTreeSet::new() };
                table.insert(item).await.unwrap();
                self.written.all.insert(title);
            }
            return;
        };
        if what == 0 && plan.deletes {
            table.delete(&id).await.unwrap();
            self.written.seen.insert(shown.title);
            return;
        }
        let mut item = shown.clone();
        if what > 1 {
            item.title = title;
        }
        if what < 4 {
            item.count += 1;
            item.rank += self.draw(3) as i64;
            item.tags.insert(self.draw(5) as u64);
            *self.written.added.entry(id).or_default() += 1;
        }
        table.replace(item.clone()).await.unwrap();
        if item.title != shown.title {
            self.written.all.insert(item.title);
            self.written.seen.insert(shown.title);
        }
    }

    /// A push that may meet a fault on one of its changes.
    async fn push(&mut self, device: usize) {
        let faults = [Fault::None, Fault::AnswerLost, Fault::Lost, Fault::Status(503), Fault::Refused];
        let fault = faults[self.draw(faults.len())];
        let exchange = &self.devices[device].exchange;
        let before = exchange.faults_left();
        exchange.fault(|request| request.method != Method::Get, fault);
        self.log.push(format!("  {fault:?} after {before}"));
        // A connection that cannot be made ends the push.
        drop(self.devices[device].client.push_tables(Tables::all()).await);
    }

    async fn end(&mut self) {
        for device in &self.devices {
            device.exchange.clear_faults();
        }
        for device in &self.devices {
            device.client.push_tables(Tables::all()).await.unwrap();
            device.table().pull_items(PullOptions::default().no_push()).await.unwrap();
        }
        for device in &self.devices {
            device.table().pull_items(PullOptions::default().no_push()).await.unwrap();
        }
    }

    fn service(&self) -> BTreeMap<String, Item> {
        let live = self.rows.rows().into_iter().filter(|row| !row.record.deleted);
        live.map(|row| (row.id.to_string(), serde_json::from_slice(row.record.body.as_bytes()).unwrap())).collect()
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{}: {what}\n{}", self.name, self.log.join("\n"));
    }

    /// Every queue is drained or parked, and all else is as the service has it (I17).
    async fn check_convergence(&self) {
        let service = self.service();
        for (number, device) in self.devices.iter().enumerate() {
            let pending = device.client.pending().await.unwrap();
            if let Some(change) = pending.iter().find(|change| !matches!(change.state, PendingState::Conflict(_))) {
                self.fail(&format!("device {number} still has {change:?}"));
            }
            let queued: BTreeSet<&str> = pending.iter().map(|change| &*change.id).collect();
            let (mut here, mut there) = (device.rows().await, service.clone());
            here.retain(|id, _| !queued.contains(id.as_str()));
            there.retain(|id, _| !queued.contains(id.as_str()));
            if here != there {
                self.fail(&format!("device {number} has {here:?}\nand the service {there:?}"));
            }
        }
    }

    /// Every text is on the service, was overwritten by somebody who had seen it, or is kept by a device (I28).
    async fn check_nothing_lost(&self) {
        let mut kept: BTreeSet<String> = self.service().into_values().map(|item| item.title).collect();
        for device in &self.devices {
            kept.extend(device.rows().await.into_values().map(|item| item.title));
            for loser in device.client.settled_losers().await.unwrap() {
                kept.insert(loser.entity::<Item>().unwrap().title);
            }
            for conflict in device.client.conflicts().await.unwrap() {
                let sides = [conflict.base::<Item>(), conflict.local::<Item>(), conflict.service::<Item>()];
                kept.extend(sides.into_iter().filter_map(|side| side.unwrap()).map(|item| item.title));
            }
        }
        let lost: Vec<_> = self
            .written
            .all
            .iter()
            .filter(|text| !kept.contains(*text) && !self.written.seen.contains(*text))
            .collect();
        if !lost.is_empty() {
            self.fail(&format!("nobody has {lost:?} any more"));
        }
    }

    /// Each row counts what was added to it, once.
    async fn check_sums(&self) {
        for (id, item) in self.service() {
            let added = self.written.added.get(&id).copied().unwrap_or(0);
            if item.count != added {
                self.fail(&format!("{id} counts {} of {added}", item.count));
            }
        }
    }
}

async fn run<S: Store + Clone>(
    make: &impl Fn() -> S,
    wire: Wire,
    configs: &[&'static str],
    seed: u64,
    plan: Plan,
) -> History<S> {
    let clock = StillClock::new(seed);
    let rows = MemoryRepository::with_clock(clock.clone());
    let service = DatasyncService::builder().extensions(wire.extended()).clock(clock.clone());
    let service = service.table(TableOptions::of::<Item>().soft_delete(true), rows.clone()).build();
    let way = wire.lead_to(service.unwrap());
    let mut devices = Vec::new();
    for number in 0..plan.devices {
        let ahead = SignedDuration::from_secs([0, 7_000, -9_000][number]);
        let config = configs[number % configs.len()];
        devices.push(Device::new(make(), &way, clock.ahead(ahead), config).await);
    }
    let name = format!("{configs:?} {wire:?} seed {seed}");
    let mut history = History { rows, devices, clock, written: Written::default(), log: Vec::new(), name };
    for id in 0..plan.ids {
        let title = format!("t{}", history.written.all.len());
        let item = Item { id: format!("row{id}"), title: title.clone(), rank: 0, count: 0, tags: BTreeSet::new() };
        history.devices[0].table().insert(item).await.unwrap();
        history.written.all.insert(title);
    }
    history.devices[0].table().push_items().await.unwrap();
    for device in &history.devices {
        device.table().pull_items(PullOptions::default()).await.unwrap();
    }
    for _ in 0..plan.steps {
        history.step(plan).await;
    }
    history.end().await;
    history
}

fn on_redb() -> RedbStore {
    RedbStore::builder().open_backend(redb::backends::InMemoryBackend::new()).unwrap()
}

async fn histories<S: Store + Clone>(make: impl Fn() -> S, seeds: u64) {
    for seed in 0..seeds {
        for wire in [Wire::Original, Wire::Extended] {
            for (number, policy) in POLICIES.iter().enumerate() {
                // Two devices or three, all with one policy, or each with its own.
                let other = POLICIES[(number + 1 + seed as usize) % POLICIES.len()];
                let configs = if seed % 3 == 2 { vec![*policy, other] } else { vec![*policy] };
                let plan = Plan { devices: 2 + (seed % 2) as usize, steps: 40, ids: 3, deletes: true };
                let history = run(&make, wire, &configs, seed * 100 + number as u64, plan).await;
                history.check_convergence().await;
                history.check_nothing_lost().await;
            }
        }
    }
}

#[tokio::test]
async fn i17_i28_devices_converge_and_lose_nothing_over_memory() {
    histories(MemoryStore::new, 9).await;
}

#[tokio::test]
async fn i17_i28_devices_converge_and_lose_nothing_over_redb() {
    histories(on_redb, 2).await;
}

#[tokio::test]
async fn i10_i17_sums_count_each_change_once_in_every_history() {
    let config = "[sync]\nconflict = 'merge'\nfallback = 'last-writer-wins'";
    for seed in 0..30 {
        let plan = Plan { devices: 2 + (seed % 2) as usize, steps: 40, ids: 2, deletes: false };
        let history = run(&MemoryStore::new, Wire::Extended, &[config], seed, plan).await;
        history.check_convergence().await;
        history.check_nothing_lost().await;
        history.check_sums().await;
    }
}
