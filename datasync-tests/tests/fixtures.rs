//! Stores that earlier releases have written, opened by this one (I23). Each format of the file keeps its own in `fixtures`:
//!
//! | file | is |
//! | --- | --- |
//! | `format-<n>.redb` | a store of an app's second release, which holds operations of every kind and state, and what it could not migrate |
//! | `format-<n>.txt` | everything in it, as text |
//! | `newer.redb` | a file of a format that no release has |
//!
//! `cargo test -p datasync-tests --test fixtures -- --ignored` writes those of the present format anew; a release that changes
//! the format adds its own under another number and leaves the others as they are.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use datasync_core::{
    client::{DatasyncClient, PendingRequest, PullOptions, Resolution, TableOptions, Tables},
    config::{ConflictPolicy, SyncConfig},
    entity::SyncEntity,
    error::{Error, ErrorKind},
    export,
    row::{Hold, ParkReason},
    store::{KeysRequest, Store, StoreErrorKind},
};
use datasync_derive::SyncEntity;
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_tests::{
    Fault, MemoryStore, Note, RouterExchange, Wire, client, folder, note_of, notes, open_service, service_rows,
};
use redb::{Database, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The format that this release writes.
const FORMAT: u8 = 1;
/// A commit brings every fixture to everybody.
const LARGEST: u64 = 200 * 1024;

/// [`Note`] in the app's second release.
#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "note")]
struct Second {
    id: String,
    title: String,
    #[sync(index)]
    rank: i64,
    #[sync(local)]
    scroll: Option<u32>,
    size: Option<i64>,
}

/// And in its third.
#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "note")]
struct Third {
    id: String,
    title: String,
    rank: i64,
    #[sync(local)]
    scroll: Option<u32>,
    #[sync(index)]
    size: Option<i64>,
    colour: Option<String>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn sized(mut json: Value) -> Result<Value, Failure> {
    json["size"] = json["title"].as_str().ok_or("no title")?.len().into();
    Ok(json)
}

/// [`sized`] in a release that has a bug.
fn sized_badly(json: Value) -> Result<Value, Failure> {
    if json["title"] == "odd" { Err("it is odd".into()) } else { sized(json) }
}

fn coloured(mut json: Value) -> Result<Value, Failure> {
    json["colour"] = "none".into();
    Ok(json)
}

fn second() -> TableOptions<Second> {
    TableOptions::new().migration(1, sized_badly)
}

fn third() -> TableOptions<Third> {
    TableOptions::new().migration(1, sized).migration(2, coloured)
}

async fn open<E: SyncEntity>(
    path: &Path,
    exchange: &RouterExchange,
    options: TableOptions<E>,
) -> Result<DatasyncClient, Error> {
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
    let mut config = SyncConfig::default();
    config.sync.conflict = ConflictPolicy::Park;
    let builder = DatasyncClient::builder().store(RedbStore::open(path)?).transport(transport).config(config);
    builder.table_with(options).build().await
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn changes(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

/// Everything that a store keeps, as text.
async fn everything(store: &RedbStore) -> String {
    let all = KeysRequest { table: "note".into(), after: None, limit: usize::MAX };
    let keys = store.keys(&all).await.unwrap();
    let mut lines = Vec::new();
    for (key, row) in keys.iter().zip(store.get(&keys).await.unwrap()) {
        let row = row.unwrap();
        lines.push(export::row(key, &row));
        lines.extend(row.operations.iter().map(|operation| export::operation(key, operation)));
    }
    lines.extend(store.losers("", None, usize::MAX).await.unwrap().iter().map(export::loser));
    for scope in store.scopes("", "note").await.unwrap() {
        lines.push(format!("{scope:?} {}", store.delta_token(&scope).await.unwrap().unwrap().0));
    }
    for (key, note) in store.list_notes("", None, usize::MAX).await.unwrap() {
        lines.push(format!("{key} {}", String::from_utf8_lossy(&note.0)));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Leaves something of every kind in a file.
async fn fill(path: &Path) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(open_service(&rows, Wire::Extended));
    rows.seed(json!([{ "id": "extra", "title": "e", "rank": 5, "exact": 1.25, "assignee": "ann" }])).unwrap();
    let one = client(RedbStore::open(path).unwrap(), &exchange, ConflictPolicy::Park).await;
    let there = notes(&client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await);
    let here = notes(&one);
    let ids =
        ["plain", "edited", "deleted", "doubt", "doubt-edited", "doubt-deleted", "conflict", "lost", "seen", "gone"];
    here.insert_all(ids.map(|id| Note { rank: 1, scroll: Some(3), ..note_of(id, "one") })).await.unwrap();
    here.insert(Note { rank: 2, ..note_of("odd", "odd") }).await.unwrap();
    here.pull_items(here.query()).await.unwrap();
    here.delete("gone").await.unwrap();
    here.push_items().await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    for id in ["conflict", "lost"] {
        there.replace(Note { rank: 2, ..note_of(id, "theirs") }).await.unwrap();
        here.replace(Note { rank: 3, scroll: Some(4), ..note_of(id, "ours") }).await.unwrap();
    }
    there.push_items().await.unwrap();
    here.push_items().await.unwrap();
    for conflict in one.conflicts().await.unwrap() {
        if conflict.id() == "lost" {
            one.resolve::<Note>(&conflict, Resolution::Take).await.unwrap();
        }
    }
    for (id, status) in [("parked", 400), ("waiting", 503)] {
        here.insert(note_of(id, "one")).await.unwrap();
        exchange.fault(changes, Fault::Status(status));
        here.push_items().await.unwrap();
    }
    for id in ["doubt", "doubt-edited", "doubt-deleted", "seen"] {
        here.replace(Note { rank: 2, scroll: Some(4), ..note_of(id, "two") }).await.unwrap();
    }
    // A batch whose answer is lost is sent again in parts.
    for _ in 0..16 {
        exchange.fault(changes, Fault::AnswerLost);
    }
    here.push_items().await.unwrap();
    exchange.clear_faults();
    here.replace(Note { rank: 2, scroll: Some(5), ..note_of("doubt-edited", "three") }).await.unwrap();
    here.delete("doubt-deleted").await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    there.replace(Note { rank: 4, ..note_of("seen", "theirs") }).await.unwrap();
    there.push_items().await.unwrap();
    let seen = here.query().filter(|note| note.id.eq("seen"));
    here.pull_items(PullOptions::default().query(seen).query_id("seen").no_push()).await.unwrap();
    here.insert(Note { rank: 7, scroll: Some(9), ..note_of("new", "new") }).await.unwrap();
    here.replace(Note { rank: 8, scroll: Some(9), ..note_of("edited", "two") }).await.unwrap();
    here.replace(Note { rank: 8, ..note_of("odd", "odd") }).await.unwrap();
    here.delete("deleted").await.unwrap();
    one.close().await.unwrap();
    open(path, &exchange, second()).await.unwrap().close().await.unwrap();
}

/// Writes the fixtures of the present format.
#[tokio::test]
#[ignore = "writes files of the repository"]
async fn write_the_fixtures() {
    let folder = folder();
    let path = folder.path().join("store.redb");
    fill(&path).await;
    let store = RedbStore::open(&path).unwrap();
    while store.compact().await.unwrap() {}
    fs::write(fixtures().join(format!("format-{FORMAT}.txt")), everything(&store).await).unwrap();
    store.close().await.unwrap();
    fs::copy(&path, fixtures().join(format!("format-{FORMAT}.redb"))).unwrap();

    let newer = fixtures().join("newer.redb");
    let _ = fs::remove_file(&newer);
    let mut database = Database::create(&newer).unwrap();
    let write = database.begin_write().unwrap();
    let meta = TableDefinition::<&[u8], &[u8]>::new("meta");
    write.open_table(meta).unwrap().insert(&b"format"[..], &b"datasync store \xfe"[..]).unwrap();
    write.commit().unwrap();
    while database.compact().unwrap() {}
}

/// The stores of all formats, each copied into a folder.
fn copies(folder: &Path) -> Vec<(PathBuf, String)> {
    let copy = |format| {
        let name = format!("format-{format}.redb");
        let (from, to) = (fixtures().join(&name), folder.join(name));
        assert!(fs::metadata(&from).unwrap().len() <= LARGEST, "{}", from.display());
        fs::copy(&from, &to).unwrap();
        (to, fs::read_to_string(from.with_extension("txt")).unwrap())
    };
    (1..=FORMAT).map(copy).collect()
}

#[tokio::test]
async fn i23_the_files_of_all_formats_open_with_everything_in_them() {
    let folder = folder();
    for (path, expected) in copies(folder.path()) {
        let store = RedbStore::open(&path).unwrap();
        assert_eq!(everything(&store).await, expected);
        let all = KeysRequest { table: "note".into(), after: None, limit: usize::MAX };
        let keys = store.keys(&all).await.unwrap();
        let rows: Vec<_> = store.get(&keys).await.unwrap().into_iter().flatten().collect();
        let any = |wanted: fn(&datasync_core::row::Row) -> bool| rows.iter().any(wanted);
        assert!(any(|row| row.quarantine.is_some()), "quarantine");
        assert!(any(|row| row.seen.is_some()), "seen");
        assert!(any(|row| row.tombstone.is_some()), "tombstone");
        assert!(any(|row| row.operations.len() == 2 && row.operations[0].in_doubt()));
        assert!(any(|row| matches!(row.operations.first().map(|one| &one.hold), Some(Hold::Wait { .. }))));
        for reason in [ParkReason::Conflict, ParkReason::Refused, ParkReason::Quarantined] {
            let parked = |hold: &Hold| matches!(hold, Hold::Parked(parked) if parked.reason == reason);
            assert!(rows.iter().flat_map(|row| &row.operations).any(|one| parked(&one.hold)), "{reason:?}");
        }
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn i23_the_files_of_all_formats_are_migrated_and_pushed() {
    for wire in [Wire::Original, Wire::Extended] {
        let folder = folder();
        for (path, _) in copies(folder.path()) {
            // A service that was set up anew from what the devices had sent: no version is what it was.
            let rows = MemoryRepository::new();
            let sent = [
                "plain",
                "edited",
                "deleted",
                "doubt",
                "doubt-edited",
                "doubt-deleted",
                "conflict",
                "lost",
                "seen",
                "odd",
            ];
            rows.seed(sent.iter().map(|id| json!({ "id": id, "title": "one", "rank": 1 })).collect()).unwrap();
            let exchange = RouterExchange::new(open_service(&rows, wire));
            let client = open(&path, &exchange, third()).await.unwrap();
            let table = client.offline_table::<Third>();
            let row = async |id: &str| table.get(id).await.unwrap().unwrap();
            let (edited, odd) = (row("edited").await, row("odd").await);
            assert_eq!((edited.title.as_str(), edited.size, edited.colour.as_deref()), ("two", Some(3), Some("none")));
            assert_eq!((edited.rank, edited.scroll, odd.rank, odd.size), (8, Some(9), 8, Some(3)));
            assert!(client.quarantined().await.unwrap().is_empty());
            let of_three = table.query().filter(|note| note.size.eq(3)).count().await.unwrap();
            assert_eq!((of_three, table.count().await.unwrap()), (8, 12), "the index is built");

            client.retry_all(Tables::all()).await.unwrap();
            for _ in 0..4 {
                client.push_tables(Tables::all()).await.unwrap();
                for conflict in client.conflicts().await.unwrap() {
                    client.resolve::<Third>(&conflict, Resolution::Keep).await.unwrap();
                }
            }
            let left = client.pending_page(PendingRequest::new()).await.unwrap().changes;
            assert!(left.is_empty(), "{left:?}");
            let there = service_rows(&rows);
            let of =
                |id: &str| there.iter().find(|(found, ..)| found == id).map(|(_, title, rank)| (title.as_str(), *rank));
            assert_eq!([of("edited"), of("new"), of("odd")], [Some(("two", 8)), Some(("new", 7)), Some(("odd", 8))]);
            assert_eq!(
                [of("doubt"), of("doubt-edited"), of("conflict")],
                [Some(("two", 2)), Some(("three", 2)), Some(("ours", 3))]
            );
            assert_eq!([of("parked"), of("waiting")], [Some(("one", 0)); 2]);
            assert_eq!([of("deleted"), of("doubt-deleted")], [None; 2]);
            client.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn i23_a_file_of_a_newer_format_is_refused_and_left_byte_by_byte() {
    let folder = folder();
    let path = folder.path().join("newer.redb");
    fs::copy(fixtures().join("newer.redb"), &path).unwrap();
    let before = fs::read(&path).unwrap();
    let error = RedbStore::open(&path).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NewerFormat);
    assert!(error.to_string().contains("update the app"), "{error}");
    assert!(fs::read(&path).unwrap() == before);
}

#[tokio::test]
async fn the_error_of_a_client_over_a_damaged_file_salvages_it() {
    let folder = folder();
    let exchange = RouterExchange::new(Wire::Extended.lead_to(axum::Router::new()));
    for (path, _) in copies(folder.path()) {
        let whole = fs::read(&path).unwrap();
        let (mut failed, mut rescued) = (0, 0);
        for page in 1..whole.len() / 4096 {
            let mut damaged = whole.clone();
            damaged[page * 4096..(page + 1) * 4096].fill(0x15);
            fs::write(&path, &damaged).unwrap();
            let Err(error) = open(&path, &exchange, third()).await.map(drop) else { continue };
            assert_eq!(error.kind(), ErrorKind::Store, "the page {page}: {error}");
            failed += 1;
            let to = folder.path().join(format!("{page}.jsonl"));
            let salvaged = error.salvage(&to).unwrap();
            let lines = fs::read_to_string(&to).unwrap().lines().count() as u64;
            assert_eq!(lines, salvaged.rows + salvaged.operations + salvaged.losers);
            rescued = rescued.max(salvaged.rows);
        }
        assert!(failed > 0 && rescued > 10, "{failed} of {} pages, {rescued} rows", whole.len() / 4096);
    }
}
