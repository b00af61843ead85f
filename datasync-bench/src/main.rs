//! The figures of the README: each beside the limit it is measured against, in one run and in turns.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod queries;

use std::{
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use datasync_core::{
    client::{DatasyncClient, OfflineTable},
    entity::SyncEntity as _,
    row::Record,
};
use datasync_derive::SyncEntity;
use datasync_http::HttpTransport;
use datasync_redb::RedbStore;
use datasync_server::{
    Action, Change, DatasyncServer, DatasyncService, MemoryRepository, RedbDatabase, Repository, TableOptions,
};
use futures::future::join_all;
use redb::{Database, TableDefinition};
use serde::{Deserialize, Serialize};

/// How often each pair is measured; the medians are printed.
const ROUNDS: usize = 5;
const RAW_ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const RAW_QUEUE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("queue");

#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Item {
    id: String,
    title: String,
    text: String,
    #[sync(index)]
    rank: i64,
}

fn item(rank: i64) -> Item {
    Item { id: String::new(), title: format!("item {rank}"), text: "x".repeat(120), rank }
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Row and operation of the sizes that an insert of an [`Item`] writes, in one durable transaction each.
fn raw_redb(commits: u64, rows_each: u64) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let database = Database::create(folder.path().join("raw.redb"))?;
    let begun = Instant::now();
    for commit in 0..commits {
        let write = database.begin_write()?;
        {
            let (mut rows, mut queue) = (write.open_table(RAW_ROWS)?, write.open_table(RAW_QUEUE)?);
            for row in 0..rows_each {
                let number = commit * rows_each + row;
                let key = format!("item/{number:036}");
                rows.insert(key.as_bytes(), [b'x'; 330].as_slice())?;
                queue.insert(number, key.as_bytes())?;
            }
        }
        write.commit()?;
    }
    Ok(begun.elapsed())
}

async fn client(folder: &std::path::Path, address: &str) -> Result<(DatasyncClient, OfflineTable<Item>)> {
    let store = RedbStore::open(folder.join("bench.redb"))?;
    let builder = DatasyncClient::builder().store(store).transport(HttpTransport::new(address)?).table::<Item>();
    let client = builder.build().await?;
    let table = client.offline_table();
    Ok((client, table))
}

async fn single_inserts(count: i64) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let (_client, table) = client(folder.path(), "http://127.0.0.1:9").await?;
    let begun = Instant::now();
    for rank in 0..count {
        table.insert(item(rank)).await?;
    }
    Ok(begun.elapsed())
}

async fn concurrent_inserts(count: i64) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let (_client, table) = client(folder.path(), "http://127.0.0.1:9").await?;
    let begun = Instant::now();
    for part in 0..count / 64 {
        for outcome in join_all((0..64).map(|rank| table.insert(item(part * 64 + rank)))).await {
            outcome?;
        }
    }
    Ok(begun.elapsed())
}

async fn batch_insert(count: i64) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let (_client, table) = client(folder.path(), "http://127.0.0.1:9").await?;
    let begun = Instant::now();
    table.insert_all((0..count).map(item)).await?;
    Ok(begun.elapsed())
}

/// What the other end of the socket is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    /// What an original is: no delta pages, no batches; rows in memory.
    Original,
    /// With the extensions; rows in memory.
    Memory,
    /// With the extensions; rows in a file.
    Redb,
}

impl Service {
    const ALL: [Service; 3] = [Service::Original, Service::Memory, Service::Redb];

    /// The service, filled with rows.
    async fn start(self, folder: &Path, count: i64) -> Result<DatasyncServer> {
        let options = TableOptions::of::<Item>().soft_delete(true).page_size(1_000);
        let builder = DatasyncService::builder().extensions(self != Service::Original);
        let router = if self == Service::Redb {
            let rows = RedbDatabase::open(folder.join("service.redb"))?.table("item");
            let writes = (0..count).map(|number| {
                let body = serde_json::to_vec(&item(number)).unwrap_or_default();
                let record = Record { body: body.into(), version: None, updated_at: None, deleted: false };
                let now = jiff::Timestamp::UNIX_EPOCH;
                let (id, action) = (format!("item-{number:06}").into(), Action::Create(record));
                rows.write(Change { id, action, expected: None, now, key: None, forget: None })
            });
            for written in join_all(writes).await {
                written?;
            }
            builder.table(options, rows).build()?
        } else {
            let rows = MemoryRepository::new();
            rows.seed(serde_json::to_value((0..count).map(item).collect::<Vec<_>>())?)?;
            builder.table(options, rows).build()?
        };
        Ok(DatasyncServer::start("127.0.0.1:0".parse()?, router).await?)
    }
}

/// The times of a first pull, an idle pull, an indexed and an unindexed query, and a push of 1,000 operations.
async fn loop_over_a_socket(count: i64, service: Service) -> Result<[Duration; 5]> {
    let folder = tempfile::tempdir()?;
    let server = service.start(folder.path(), count).await?;
    let (_client, table) = client(folder.path(), &format!("http://{}", server.address())).await?;

    let mut times = [Duration::ZERO; 5];
    let begun = Instant::now();
    let report = table.pull_items(table.query()).await?;
    times[0] = begun.elapsed();
    if report.inserted != count as u64 {
        return Err(format!("{} rows of {count} came", report.inserted).into());
    }
    let begun = Instant::now();
    table.pull_items(table.query()).await?;
    times[1] = begun.elapsed();
    let begun = Instant::now();
    let found = table.query().filter(|i| i.rank.ge(100).and(i.rank.lt(200))).to_vec().await?;
    times[2] = begun.elapsed();
    let begun = Instant::now();
    let ends = table.query().filter(|i| i.title.ends_with("77")).count().await?;
    times[3] = begun.elapsed();
    if found.len() != 100 || ends == 0 || found[0].id().is_empty() {
        return Err("a query found other rows than there are".into());
    }
    table.insert_all((0..1_000).map(item)).await?;
    let begun = Instant::now();
    let pushed = table.push_items().await?;
    times[4] = begun.elapsed();
    if pushed.pushed != 1_000 {
        return Err(format!("{} of 1000 operations were pushed", pushed.pushed).into());
    }
    server.stop(Duration::from_secs(2)).await;
    Ok(times)
}

/// How long the work takes.
async fn timed(work: impl AsyncFnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work().await?;
    Ok(begun.elapsed())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1_000.0
}

#[tokio::main]
async fn main() -> Result<()> {
    let pairs: [(&str, i64, u64, u64); 3] = [
        ("1,000 inserts, one after the other", 1_000, 1_000, 1),
        ("1,024 inserts, 64 at a time", 1_024, 16, 64),
        ("10,000 rows in one `insert_all`", 10_000, 1, 10_000),
    ];
    println!("| work | here, ms | raw redb, same commits, ms | ratio |\n| --- | --- | --- | --- |");
    for (name, count, commits, rows_each) in pairs {
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            raw.push(raw_redb(commits, rows_each)?);
            ours.push(match commits {
                1_000 => single_inserts(count).await?,
                16 => concurrent_inserts(count).await?,
                _ => batch_insert(count).await?,
            });
        }
        let (ours, raw) = (median(ours), median(raw));
        println!("| {name} | {ours:.1} | {raw:.1} | {:.2} |", ours / raw);
    }
    let count = 20_000;
    let mut all: [[Vec<Duration>; 5]; 3] = Default::default();
    for _ in 0..3 {
        for (service, all) in Service::ALL.into_iter().zip(&mut all) {
            for (times, time) in all.iter_mut().zip(loop_over_a_socket(count, service).await?) {
                times.push(time);
            }
        }
    }
    let names = [
        "first pull of 20,000 rows over a socket, one index",
        "pull with nothing new",
        "query by index, 100 of 20,000 (no network)",
        "count by an unindexed filter over 20,000 (no network)",
        "push of 1,000 operations",
    ];
    println!("\n| work | as an original, ms | with the extensions, ms | rows in a redb file, ms |");
    println!("| --- | --- | --- | --- |");
    let [original, memory, redb] = all.map(|all| all.map(median));
    for (place, name) in names.iter().enumerate() {
        println!("| {name} | {:.2} | {:.2} | {:.2} |", original[place], memory[place], redb[place]);
    }
    queries::print().await
}
