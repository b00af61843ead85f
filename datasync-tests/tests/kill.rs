//! A real device and a real service, each a process of its own, killed at random moments: what the device had reported
//! as done is there, nothing is there twice, and in the end both agree (I1, I4, I10, I12, I13).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use async_trait::async_trait;
use datasync_core::{
    client::{DatasyncClient, OfflineTable, Tables},
    clock::{Clock, SystemClock},
    memory::MemoryStore,
    query::QueryDescription,
    store::{ScopeKey, Store},
    transport::{PageRequest, Purpose, Transport},
};
use datasync_http::HttpTransport;
use datasync_redb::RedbStore;
use datasync_server::{AccessControl, DatasyncServer, DatasyncService, RedbDatabase, TableOperation, TableOptions};
use datasync_tests::{Note, Wire, note_of};
use jiff::Timestamp;
use serde_json::{Map, Value};

/// What a child process is: `device` or `service`, its folder, the address, and a number.
const CHILD: &str = "DATASYNC_KILL_TEST_CHILD";
/// How many kills a test makes.
const KILLS: u64 = 50;

fn random(most: u64) -> u64 {
    SystemClock.random() % most
}

fn child(role: &str, folder: &Path, address: SocketAddr, detail: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "in_a_child_process", "--nocapture"]).stdout(Stdio::piped());
    command.env(CHILD, format!("{role}|{}|{address}|{detail}", folder.display()));
    command
}

async fn open(store: impl Store, address: SocketAddr) -> (DatasyncClient, OfflineTable<Note>) {
    let transport = HttpTransport::builder(&format!("http://{address}")).retries(1).timeout(Duration::from_secs(3));
    let builder = DatasyncClient::builder().store(store).transport(transport.build().unwrap());
    let client = builder.table::<Note>().build().await.unwrap();
    let table = client.offline_table();
    (client, table)
}

/// Writes every change that the service makes into a file.
#[derive(Debug)]
struct Logged(PathBuf);

#[async_trait]
impl AccessControl for Logged {
    async fn after_commit(&self, _: &str, operation: TableOperation, row: &Map<String, Value>) {
        let line = format!("{operation:?} {} {} {}\n", row["id"], row["title"], row["deleted"]);
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

async fn be_the_service(folder: &Path, address: SocketAddr, wire: Wire) {
    let database = RedbDatabase::open(folder.join("service.redb")).unwrap();
    let notes = TableOptions::of::<Note>().soft_delete(true).page_size(20).access(Logged(folder.join("log")));
    let builder = DatasyncService::builder().extensions(wire.extended()).table(notes, database.table("note"));
    let server = DatasyncServer::start(address, builder.build().unwrap()).await.unwrap();
    println!("\nlistening {}", server.address());
    std::future::pending().await
}

/// Writes and syncs for ever; each write is told before it is begun and when it is done.
async fn be_the_device(folder: &Path, address: SocketAddr, life: &str) {
    let (client, table) = open(RedbStore::open(folder.join("device.redb")).unwrap(), address).await;
    println!("\nopened");
    for number in 0.. {
        let own = table.query().filter(|note| note.id.starts_with("d-")).to_vec().await.unwrap();
        let some = || own.get(random(own.len().max(1) as u64) as usize).cloned();
        let title = format!("life {life} write {number}");
        match (random(12), some()) {
            (0, _) => drop(client.push_tables(Tables::all()).await),
            (1, _) => drop(table.pull_items(table.query()).await),
            (2, Some(note)) => {
                println!("begin {}|-", note.id);
                table.delete(&note.id).await.unwrap();
                println!("done {}|-", note.id);
            }
            (3..=6, Some(note)) => {
                println!("begin {}|{title}", note.id);
                table.replace(Note { title: title.clone(), ..note.clone() }).await.unwrap();
                println!("done {}|{title}", note.id);
            }
            _ => {
                let id = format!("d-{life}-{number}");
                println!("begin {id}|{title}");
                table.insert(note_of(&id, &title)).await.unwrap();
                println!("done {id}|{title}");
            }
        }
    }
}

/// Does nothing but in a child process of another test.
#[test]
fn in_a_child_process() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let [role, folder, address, detail] = order.split('|').collect::<Vec<_>>().try_into().unwrap();
    let (folder, address) = (Path::new(folder), address.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match role {
        "service" => {
            let wire = if detail == "Original" { Wire::Original } else { Wire::Extended };
            runtime.block_on(be_the_service(folder, address, wire));
        }
        _ => runtime.block_on(be_the_device(folder, address, detail)),
    }
}

/// The service in a process of its own.
struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    fn start(folder: &Path, address: SocketAddr, wire: Wire) -> Service {
        let mut child = child("service", folder, address, &format!("{wire:?}")).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let address = lines.find_map(|line| line.unwrap().strip_prefix("listening ").map(str::to_owned)).unwrap();
        Service { child, address: address.parse().unwrap() }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the device has told: the title of each row, `None` for a deleted one.
#[derive(Default)]
struct Told {
    done: BTreeMap<String, Option<String>>,
    /// The write that was begun and not told as done.
    open: Option<(String, Option<String>)>,
    written: u64,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let Some((word, rest)) = line.split_once(' ') else { return };
        let Some((id, title)) = rest.split_once('|') else { return };
        let write = (id.to_owned(), (title != "-").then(|| title.to_owned()));
        match word {
            "begin" => self.open = Some(write),
            "done" => {
                self.open = None;
                self.written += 1;
                self.done.insert(write.0, write.1);
            }
            _ => {}
        }
    }

    /// Compares with what is there, and takes over what became of the write that was open (I1).
    fn check(&mut self, there: &HashMap<String, String>) {
        if let Some((id, title)) = self.open.take()
            && there.get(&id) == title.as_ref()
        {
            self.done.insert(id, title);
        }
        for (id, title) in &self.done {
            assert_eq!(there.get(id), title.as_ref(), "I1: `{id}` was told as done");
        }
        let known = |id: &String| matches!(self.done.get(id), Some(Some(_)));
        let unknown: Vec<&String> = there.keys().filter(|id| id.starts_with("d-") && !known(id)).collect();
        assert!(unknown.is_empty(), "rows that nobody wrote: {unknown:?}");
    }
}

type Titles = HashMap<String, String>;

/// The rows of a service: id, title, time.
async fn rows_of(address: SocketAddr) -> Vec<(String, String, Timestamp)> {
    let transport = HttpTransport::new(&format!("http://{address}")).unwrap();
    let mut request = PageRequest {
        account: "".into(),
        table: "note".into(),
        purpose: Purpose::Query,
        query: QueryDescription::default(),
        token: None,
        first: true,
        page_size: 1_000,
        overlap: Duration::ZERO,
        include_deleted: false,
    };
    let mut rows = Vec::new();
    loop {
        let page = transport.fetch_page(&request).await.unwrap();
        for row in page.rows {
            let note: Note = serde_json::from_slice(row.record.body.as_bytes()).unwrap();
            rows.push((note.id, note.title, row.record.updated_at.unwrap()));
        }
        if !page.more {
            return rows;
        }
        (request.token, request.first) = (page.token, false);
    }
}

/// What the store holds after a kill, and whether it holds together with the service (I4, I13).
async fn look(folder: &Path, service: &Service, told: &mut Told) {
    let store = RedbStore::open(folder.join("device.redb")).unwrap();
    let report = store.check().await.unwrap();
    let (client, table) = open(store.clone(), service.address).await;
    let here: Titles = table.query().to_vec().await.unwrap().into_iter().map(|note| (note.id, note.title)).collect();
    told.check(&here);
    let pending = client.pending().await.unwrap();
    assert_eq!(pending.len() as u64, report.operations);
    let queued: HashSet<&str> = pending.iter().map(|change| &*change.id).collect();
    let there = rows_of(service.address).await;
    let titles: Titles = there.iter().map(|(id, title, _)| (id.clone(), title.clone())).collect();
    for (id, title) in &told.done {
        let same = titles.get(id) == title.as_ref();
        assert!(same || queued.contains(id.as_str()), "I4: `{id}` is neither on the service nor in the queue");
    }
    let scope = ScopeKey { account: "".into(), table: "note".into(), scope: "".into() };
    if let Some(token) = store.delta_token(&scope).await.unwrap() {
        let token: Value = serde_json::from_str(&token.0).unwrap();
        let mark = token["delta"]["mark"].as_i64().or(token["keyset"]["mark"].as_i64());
        let covered = there
            .iter()
            .filter(|(id, _, time)| id.starts_with("o-") && mark.is_some_and(|mark| time.as_millisecond() < mark));
        for (id, title, _) in covered {
            assert_eq!(here.get(id), Some(title), "I13: the token covers `{id}`");
        }
    }
    client.close().await.unwrap();
}

/// Another device, whose rows the pulls bring.
async fn elsewhere(service: &Service, round: u64) {
    let (_, table) = open(MemoryStore::new(), service.address).await;
    table.pull_items(table.query().filter(|note| note.id.starts_with("o-"))).await.unwrap();
    for number in 0..8 {
        let id = format!("o-{}", random(60));
        table.upsert(note_of(&id, &format!("round {round} number {number}"))).await.unwrap();
    }
    let pushed = table.push_items().await.unwrap();
    assert_eq!(pushed.conflicts + pushed.parked, 0);
}

/// Syncs the device without a kill: then it and the service hold the same, and nothing waits (I12).
async fn agree(folder: &Path, service: &Service, told: &mut Told) {
    let (client, table) = open(RedbStore::open(folder.join("device.redb")).unwrap(), service.address).await;
    for _ in 0..5 {
        client.push_tables(Tables::all()).await.unwrap();
    }
    table.pull_items(table.query()).await.unwrap();
    assert!(client.pending().await.unwrap().is_empty(), "{:?}", client.pending().await.unwrap());
    assert!(client.conflicts().await.unwrap().is_empty());
    assert!(client.settled_losers().await.unwrap().is_empty());
    let here = table.query().to_vec().await.unwrap();
    let mut here: Vec<(String, String)> = here.into_iter().map(|note| (note.id, note.title)).collect();
    let there = rows_of(service.address).await;
    let mut there: Vec<(String, String)> = there.into_iter().map(|(id, title, _)| (id, title)).collect();
    here.sort_unstable();
    there.sort_unstable();
    assert_eq!(here, there, "I12");
    told.check(&here.into_iter().collect());
    client.close().await.unwrap();
}

fn kill_and_look(wire: Wire) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut service = Service::start(folder, "127.0.0.1:0".parse().unwrap(), wire);
    let mut told = Told::default();
    let (mut devices, mut services) = (0, 0);
    for round in 0..KILLS {
        let mut device = child("device", folder, service.address, &round.to_string()).spawn().unwrap();
        let lines = BufReader::new(device.stdout.take().unwrap()).lines();
        let (opened, is_open) = std::sync::mpsc::channel();
        let listening = std::thread::spawn(move || {
            let mut heard = Vec::new();
            for line in lines.map_while(Result::ok) {
                if line == "opened" {
                    // Nobody waits for it a second time.
                    let _ = opened.send(());
                }
                heard.push(line);
            }
            heard
        });
        // Some are killed while they open their store.
        if round % 8 != 7 {
            let _ = is_open.recv();
        }
        if round % 3 == 2 {
            std::thread::sleep(Duration::from_millis(random(60)));
            service.kill();
            services += 1;
            std::thread::sleep(Duration::from_millis(random(30)));
            service = Service::start(folder, service.address, wire);
        } else {
            runtime.block_on(elsewhere(&service, round));
        }
        std::thread::sleep(Duration::from_micros(random(120_000)));
        device.kill().unwrap();
        device.wait().unwrap();
        devices += 1;
        listening.join().unwrap().iter().for_each(|line| told.hear(line));
        runtime.block_on(look(folder, &service, &mut told));
        if round % 10 == 9 {
            runtime.block_on(agree(folder, &service, &mut told));
        }
    }
    runtime.block_on(agree(folder, &service, &mut told));
    let log = fs::read_to_string(folder.join("log")).unwrap();
    let mut seen = HashSet::new();
    for line in log.lines().filter(|line| line.contains("\"d-")) {
        assert!(seen.insert(line), "I10: made twice: {line}");
    }
    println!("{wire:?}: {devices} devices and {services} services killed, {} writes", told.written);
    assert!(told.written > KILLS, "{}", told.written);
}

#[test]
fn i10_kills_lose_and_duplicate_nothing_with_the_extensions() {
    kill_and_look(Wire::Extended);
}

#[test]
fn i10_kills_lose_and_duplicate_nothing_without_the_extensions() {
    kill_and_look(Wire::Original);
}
