//! A release of the app with other indexes than the last one: they are built when the store opens, go on where a kill ended
//! them, and what was dropped is gone from the file.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use datasync_core::{
    client::{DatasyncClient, OpeningProgress, OpeningWork},
    clock::SystemClock,
    entity::SyncEntity,
    memory::MemoryStore,
    row::{Record, Row, RowKey, Tombstone},
    store::{Indexed, RowWrite, Store, TableSpec, WriteBatch},
};
use datasync_derive::SyncEntity;
use datasync_http::HttpTransport;
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault, FaultStore, StoreCall};
use datasync_tests::{Note, RouterExchange, Wire, client_over, note_of, service};
use futures::executor::block_on;
use serde::{Deserialize, Serialize};

/// The table of [`Note`] in a later release: the index on `rank` is dropped, and one on `title` and `rank` is there.
#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "note", index(title, rank))]
struct LaterNote {
    id: String,
    title: String,
    rank: i64,
}

/// How many rows there are: six commits' worth.
const ROWS: u64 = 5_500;
/// The store that a child process opens in a later release.
const CHILD: &str = "DATASYNC_INDEX_TEST_CHILD";

/// Rows that were pulled: nothing of them is queued.
fn fill(store: impl Store) {
    block_on(async {
        let rows = MemoryRepository::new();
        let note = |number| Note { rank: number as i64, ..note_of(&format!("row-{number:05}"), "x") };
        rows.seed(serde_json::to_value((0..ROWS).map(note).collect::<Vec<_>>()).unwrap()).unwrap();
        let exchange = RouterExchange::new(service(&rows, 1_000, Wire::Extended));
        let client = client_over(store, exchange).build().await.unwrap();
        let table = client.offline_table::<Note>();
        assert_eq!(table.pull_items(table.query()).await.unwrap().inserted, ROWS);
    });
}

/// Opens a store with the table of a release; also returns what was told of the indexes.
async fn open<E: SyncEntity>(
    store: impl Store,
) -> (Result<DatasyncClient, datasync_core::error::Error>, Vec<(u64, u64)>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let tell = move |OpeningProgress { work, table, done, total, .. }: OpeningProgress| {
        assert_eq!((work, table.as_ref()), (OpeningWork::Indexes, "note"));
        seen.lock().unwrap().push((done, total));
    };
    let transport = HttpTransport::new("http://localhost").unwrap();
    let builder = DatasyncClient::builder().store(store).transport(transport).table::<E>().on_progress(tell);
    let client = builder.build().await;
    let told = std::mem::take(&mut *told.lock().unwrap());
    (client, told)
}

async fn finds_everything_by_its_index(client: &DatasyncClient) {
    let query = client.offline_table::<LaterNote>().query().filter(|note| note.title.eq("x").and(note.rank.lt(7)));
    assert!(query.explain().unwrap().to_string().contains("title,rank"), "{:?}", query.explain());
    assert_eq!(query.to_vec().await.unwrap().len(), 7);
    let whole = client.offline_table::<LaterNote>().query().filter(|note| note.title.eq("x"));
    assert_eq!(whole.count().await.unwrap(), ROWS);
}

fn goes_on_where_it_was(store: impl Store + Clone) {
    let faulty = FaultStore::new(store.clone(), SystemClock);
    fill(store);
    block_on(async {
        // The first commit of a release notes the fingerprint of its schema.
        for (passes, done) in [(3, 2_000), (1, 3_000)] {
            for fault in (0..passes).map(|_| Fault::Pass).chain([Fault::Refuse]) {
                faulty.faults().next(StoreCall::Commit, fault);
            }
            let (client, told) = open::<LaterNote>(faulty.clone()).await;
            assert!(client.is_err(), "the commit was refused");
            assert_eq!(told.last(), Some(&(done, ROWS)));
        }
        let (client, told) = open::<LaterNote>(faulty.clone()).await;
        assert_eq!(told, [(3_000, ROWS), (4_000, ROWS), (5_000, ROWS), (ROWS, ROWS)], "it goes on");
        finds_everything_by_its_index(&client.unwrap()).await;
        let (_, told) = open::<LaterNote>(faulty.clone()).await;
        assert!(told.is_empty(), "there is nothing to do any more: {told:?}");

        // An older release, and then the later one again: neither believes what the other one has done.
        for fault in [Fault::Pass, Fault::Pass, Fault::Refuse] {
            faulty.faults().next(StoreCall::Commit, fault);
        }
        let (_, told) = open::<Note>(faulty.clone()).await;
        assert_eq!(told, [(0, ROWS), (1_000, ROWS)]);
        let (client, told) = open::<LaterNote>(faulty.clone()).await;
        assert_eq!(told[0], (0, ROWS), "{told:?}");
        finds_everything_by_its_index(&client.unwrap()).await;
    });
}

#[test]
fn indexes_go_on_where_they_were_in_memory() {
    goes_on_where_it_was(MemoryStore::new());
}

#[test]
fn indexes_go_on_where_they_were_in_redb() {
    let folder = tempfile::tempdir().unwrap();
    goes_on_where_it_was(RedbStore::open(folder.path().join("store.redb")).unwrap());
}

async fn rows_without_a_record_are_indexed_too(store: impl Store + Clone) {
    let (client, _) = open::<LaterNote>(store.clone()).await;
    drop(client.unwrap());
    // As a release left it that had no index of own tombstones.
    let tombstone = Some(Tombstone { version: None, since: "2020-02-20T20:20:20Z".parse().unwrap() });
    let there = br#"{"id":"there","title":"x","rank":1}"#.as_slice().into();
    let rows = [("gone", None, tombstone), ("there", Some(there), None)].map(|(id, body, tombstone)| {
        let record = body.map(|body| Record { body, version: None, updated_at: None, deleted: false });
        let row = Row { record, tombstone, schema: 1, ..Row::default() };
        RowWrite::Put { key: RowKey::new("note", id), row, index_keys: Vec::new() }
    });
    let spec = TableSpec { table: "note".into(), indexes: Vec::new() };
    let (number, indexed) = (store.head().await.unwrap().number + 1, vec![Indexed { spec, done: None }]);
    let id = uuid::Uuid::from_u128(1);
    store.commit(WriteBatch { number, id, rows: rows.into(), indexed, ..WriteBatch::default() }).await.unwrap();

    let (client, told) = open::<LaterNote>(store.clone()).await;
    assert_eq!(told, [(0, 1), (1, 1)], "rows with a record are counted");
    drop(client.unwrap());
    let gone = [RowKey::new("note", "gone")];
    assert!(store.get(&gone).await.unwrap()[0].is_some());
    let rows = MemoryRepository::new();
    let transport = HttpTransport::builder("http://service")
        .exchange(RouterExchange::new(service(&rows, 100, Wire::Extended)))
        .build();
    let builder = DatasyncClient::builder().store(store.clone()).transport(transport.unwrap());
    let client = builder.table::<LaterNote>().build().await.unwrap();
    let table = client.offline_table::<LaterNote>();
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(store.get(&gone).await.unwrap(), [None], "the old tombstone was found");
}

#[test]
fn rows_without_a_record_are_indexed_in_memory() {
    block_on(rows_without_a_record_are_indexed_too(MemoryStore::new()));
}

#[test]
fn rows_without_a_record_are_indexed_in_redb() {
    let folder = tempfile::tempdir().unwrap();
    block_on(rows_without_a_record_are_indexed_too(RedbStore::open(folder.path().join("store.redb")).unwrap()));
}

/// Does nothing but in a child process of another test.
#[test]
fn in_a_child_process() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let transport = HttpTransport::new("http://localhost").unwrap();
    let builder = DatasyncClient::builder().store(RedbStore::open(path).unwrap()).transport(transport);
    let builder = builder.table::<LaterNote>().on_progress(|progress| {
        println!("\ndone {}", progress.done);
        // The kill comes while the next commit is made, or before it.
        std::thread::sleep(std::time::Duration::from_millis(20));
    });
    block_on(builder.build()).unwrap();
    println!("\nopened");
}

/// Opens the store in a process of its own and kills it once `wanted` rows are indexed; the rows that it then told of.
fn killed_at(path: &Path, wanted: u64) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "in_a_child_process", "--nocapture"]).env(CHILD, path).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut done = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("done ")?.parse::<u64>().ok());
    let done = done.find(|done| *done >= wanted).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    done
}

#[test]
fn indexes_survive_kills_and_leave_nothing_of_dropped_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    fill(store.clone());
    assert_eq!(block_on(store.check()).unwrap().index_entries, ROWS);
    block_on(store.close()).unwrap();
    drop(store);
    let mut told = Vec::new();
    for wanted in [1_000, 3_000, 4_000] {
        told.push(killed_at(&path, wanted));
    }
    let store = RedbStore::open(&path).unwrap();
    let report = block_on(store.check()).unwrap();
    assert_eq!((report.rows, report.index_entries), (ROWS, ROWS), "every row is in one index or the other");
    block_on(async {
        let (client, progress) = open::<LaterNote>(store.clone()).await;
        assert!(progress[0].0 >= told[2], "{progress:?} goes on behind {told:?}");
        finds_everything_by_its_index(&client.unwrap()).await;
        let report = store.check().await.unwrap();
        assert_eq!((report.rows, report.index_entries), (ROWS, ROWS), "the old index is gone");
    });
}
