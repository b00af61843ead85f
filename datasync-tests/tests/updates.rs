//! Releases of an app, one after the other, on the same store (I23).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use datasync_core::{
    client::{
        DatasyncClient, OpeningProgress, OpeningWork, PendingState, PullOptions, PurgeOptions, Resolution, TableOptions,
    },
    clock::SystemClock,
    config::ConflictPolicy,
    entity::SyncEntity as _,
    error::{Error, ErrorKind},
    export,
    memory::MemoryStore,
    query::{index_keys, table_spec},
    row::{Hold, LoserCause, Phase, Row, RowKey},
    schema::SERVICE_OWNED,
    store::{KeysRequest, RowWrite, Store, WriteBatch},
};
use datasync_derive::SyncEntity;
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault as StoreFault, FaultStore, StoreCall};
use datasync_tests::{Fault, Note, RouterExchange, Wire, client, folder, note_of, notes, open_service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// [`Note`] in a later release: the title is called a name, and ranks are ten times as great.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "note")]
struct Later {
    id: String,
    name: String,
    #[sync(index)]
    rank: i64,
    #[sync(local)]
    #[serde(default)]
    scroll: Option<u32>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn rename(mut json: Value) -> Result<Value, Failure> {
    let fields = json.as_object_mut().ok_or("no object")?;
    let title = fields.remove("title").ok_or("no title")?;
    fields.insert("name".to_owned(), title);
    let rank = fields["rank"].as_i64().ok_or("no rank")?;
    fields.insert("rank".to_owned(), (rank * 10).into());
    Ok(json)
}

/// [`rename`] in a release that has a bug.
fn rename_badly(json: Value) -> Result<Value, Failure> {
    match json["title"].as_str() {
        Some(title) if title.starts_with("bad") => Err("there is no name for that".into()),
        Some(title) if title.starts_with("panic") => panic!("a migration panics"),
        Some(title) if title.starts_with("odd") => Ok(json!({ "id": json["id"], "name": 7, "rank": 0 })),
        _ => rename(json),
    }
}

fn transport(exchange: &RouterExchange) -> HttpTransport {
    HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap()
}

async fn later(
    store: impl Store,
    exchange: &RouterExchange,
    migration: fn(Value) -> Result<Value, Failure>,
) -> Result<DatasyncClient, Error> {
    later_with(store, exchange, TableOptions::new().migration(1, migration)).await
}

async fn later_with(
    store: impl Store,
    exchange: &RouterExchange,
    options: TableOptions<Later>,
) -> Result<DatasyncClient, Error> {
    let builder = DatasyncClient::builder().store(store).transport(transport(exchange));
    builder.table_with(options).build().await
}

/// Where a store lies that one release after the other opens.
trait Place: Clone {
    type Store: Store + Clone;

    fn open(&self) -> Self::Store;

    /// Ends a client; a file is given back, and the content of a memory store stays.
    async fn end(&self, client: DatasyncClient);
}

impl Place for MemoryStore {
    type Store = MemoryStore;
    fn open(&self) -> MemoryStore {
        self.clone()
    }

    async fn end(&self, client: DatasyncClient) {
        drop(client);
    }
}

#[derive(Clone)]
struct File(Arc<std::path::PathBuf>);

impl Place for File {
    type Store = RedbStore;
    fn open(&self) -> RedbStore {
        RedbStore::open(self.0.as_path()).unwrap()
    }

    async fn end(&self, client: DatasyncClient) {
        client.close().await.unwrap();
    }
}

fn file(path: &Path) -> File {
    File(Arc::new(path.to_owned()))
}

macro_rules! on_both_places {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn memory() {
                for wire in Wire::ALL {
                    super::$name(MemoryStore::new(), wire).await;
                }
            }

            #[tokio::test]
            async fn redb() {
                for wire in Wire::ALL {
                    let folder = folder();
                    super::$name(file(&folder.path().join("store.redb")), wire).await;
                }
            }
        }
    )*};
}

on_both_places! {
    i23_everything_of_a_row_is_migrated_together
    i23_what_a_migration_refuses_waits_in_quarantine
    i23_what_a_migration_panics_at_waits_in_quarantine
    i23_a_row_that_does_not_fit_its_entity_waits_in_quarantine
    i23_local_fields_that_no_longer_fit_are_kept
    i16_a_local_field_that_was_removed_is_never_sent
    i23_a_pull_ends_a_quarantine_unless_something_is_queued
    i23_what_was_in_doubt_is_settled_after_the_update
    i23_a_newer_store_is_refused
    i23_optional_fields_come_and_go_without_a_migration
}

fn changes(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

async fn row(store: &impl Store, id: &str) -> Row {
    store.get(&[RowKey::new("note", id)]).await.unwrap().remove(0).unwrap_or_default()
}

fn json_of(body: &datasync_core::row::Body) -> Value {
    let mut json: Value = serde_json::from_slice(body.as_bytes()).unwrap();
    json.as_object_mut().unwrap().retain(|name, _| !SERVICE_OWNED.contains(&name.as_str()));
    json
}

/// Everything that a store keeps, as text.
async fn everything(store: &impl Store) -> Vec<String> {
    let all = KeysRequest { table: "note".into(), after: None, limit: usize::MAX };
    let keys = store.keys(&all).await.unwrap();
    let mut lines = Vec::new();
    for (key, row) in keys.iter().zip(store.get(&keys).await.unwrap()) {
        let row = row.unwrap();
        lines.push(export::row(key, &row));
        lines.extend(row.operations.iter().map(|operation| export::operation(key, operation)));
    }
    for account in ["", "ann"] {
        lines.extend(store.losers(account, None, usize::MAX).await.unwrap().iter().map(export::loser));
        for scope in store.scopes(account, "note").await.unwrap() {
            lines.push(format!("{scope:?} {:?}", store.delta_token(&scope).await.unwrap()));
        }
    }
    for (key, note) in store.list_notes("", None, usize::MAX).await.unwrap() {
        lines.push(format!("{key} {}", String::from_utf8_lossy(&note.0)));
    }
    lines
}

/// A service, and what the first release has left of every kind. Titles begin with `word`.
struct World {
    rows: MemoryRepository,
    wire: Wire,
    exchange: RouterExchange,
}

impl World {
    fn new(wire: Wire) -> World {
        let rows = MemoryRepository::new();
        let exchange = RouterExchange::new(open_service(&rows, wire));
        World { rows, wire, exchange }
    }

    /// A way to the service without faults.
    fn way(&self) -> RouterExchange {
        RouterExchange::new(open_service(&self.rows, self.wire))
    }

    async fn fill(&self, store: impl Store, word: &str) -> DatasyncClient {
        let one = client(store, &self.exchange, ConflictPolicy::Park).await;
        let other = client(MemoryStore::new(), &self.way(), ConflictPolicy::Park).await;
        let (here, there) = (notes(&one), notes(&other));
        let title = |rest: &str| format!("{word} {rest}");
        self.rows
            .seed(json!([{ "id": "extra", "title": title("e"), "rank": 5, "exact": 1.25, "assignee": "ann" }]))
            .unwrap();
        for id in
            ["plain", "edited", "deleted", "doubt", "doubt-edited", "doubt-deleted", "conflict", "lost", "seen", "gone"]
        {
            here.insert(Note { rank: 1, scroll: Some(3), ..note_of(id, &title("one")) }).await.unwrap();
        }
        here.pull_items(here.query()).await.unwrap();
        here.delete("gone").await.unwrap();
        here.push_items().await.unwrap();
        there.pull_items(there.query()).await.unwrap();
        here.insert(note_of("refused", &title("one"))).await.unwrap();
        self.exchange.fault(changes, Fault::Status(400));
        here.push_items().await.unwrap();
        for id in ["conflict", "lost"] {
            there.replace(Note { rank: 2, ..note_of(id, &title("theirs")) }).await.unwrap();
            here.replace(Note { rank: 3, scroll: Some(4), ..note_of(id, &title("ours")) }).await.unwrap();
        }
        there.push_items().await.unwrap();
        here.push_items().await.unwrap();
        for conflict in one.conflicts().await.unwrap() {
            if conflict.id() == "lost" {
                one.resolve::<Note>(&conflict, Resolution::Take).await.unwrap();
            }
        }

        for id in ["doubt", "doubt-edited", "doubt-deleted", "seen"] {
            here.replace(Note { rank: 2, scroll: Some(4), ..note_of(id, &title("two")) }).await.unwrap();
            self.exchange.fault(changes, Fault::AnswerLost);
        }
        here.push_items().await.unwrap();
        here.replace(Note { rank: 2, scroll: Some(5), ..note_of("doubt-edited", &title("three")) }).await.unwrap();
        here.delete("doubt-deleted").await.unwrap();
        there.pull_items(there.query()).await.unwrap();
        there.replace(Note { rank: 4, ..note_of("seen", &title("theirs")) }).await.unwrap();
        there.push_items().await.unwrap();
        let seen = here.query().filter(|note| note.id.eq("seen"));
        here.pull_items(PullOptions::default().query(seen).no_push()).await.unwrap();

        here.insert(Note { rank: 7, scroll: Some(9), ..note_of("new", &title("new")) }).await.unwrap();
        here.replace(Note { rank: 8, scroll: Some(9), ..note_of("edited", &title("two")) }).await.unwrap();
        here.delete("deleted").await.unwrap();
        one
    }
}

async fn i23_everything_of_a_row_is_migrated_together(place: impl Place, wire: Wire) {
    let world = World::new(wire);
    let store = place.open();
    let first = world.fill(store.clone(), "a").await;
    let before = [row(&store, "doubt").await, row(&store, "doubt-edited").await, row(&store, "refused").await];
    assert_eq!(before[2].operations[0].phase, Phase::Refused);
    place.end(first).await;
    drop(store);

    let store = place.open();
    let client = later(store.clone(), &world.way(), rename).await.unwrap();
    let table = client.offline_table::<Later>();
    let expected =
        |id: &str, name: &str, rank, scroll| Some(Later { id: id.to_owned(), name: format!("a {name}"), rank, scroll });
    assert_eq!(table.get("plain").await.unwrap(), expected("plain", "one", 10, Some(3)));
    assert_eq!(table.get("new").await.unwrap(), expected("new", "new", 70, Some(9)));
    assert_eq!(table.get("edited").await.unwrap(), expected("edited", "two", 80, Some(9)));
    assert_eq!(table.get("doubt-edited").await.unwrap(), expected("doubt-edited", "three", 20, Some(5)));
    assert_eq!(table.get("deleted").await.unwrap(), None);
    assert_eq!(table.query().filter(|note| note.rank.eq(80)).count().await.unwrap(), 1, "the index has the new values");
    assert!(client.quarantined().await.unwrap().is_empty());

    let all = KeysRequest { table: "note".into(), after: None, limit: usize::MAX };
    let keys = store.keys(&all).await.unwrap();
    assert!(keys.iter().any(|key| *key.id == *"gone"), "the trace of a pushed deletion is kept");
    for (key, row) in keys.iter().zip(store.get(&keys).await.unwrap()) {
        let row = row.unwrap();
        assert_eq!(row.schema, 2, "{key:?}");
        let conflict = row.operations.iter().find_map(|operation| match &operation.hold {
            Hold::Parked(parked) => parked.conflict.as_ref()?.live(),
            _ => None,
        });
        for copy in row.record.iter().chain(&row.base).chain(&row.seen).chain(conflict) {
            let body = json_of(&copy.body);
            assert!(body["name"].as_str().unwrap().starts_with("a "), "{key:?}");
            assert!(body.get("title").is_none() && body["rank"].as_i64().unwrap() % 10 == 0, "{key:?}: {body}");
        }
        for operation in &row.operations {
            assert_eq!(operation.schema, if operation.in_doubt() { 1 } else { 2 }, "{key:?}");
        }
    }
    assert!(row(&store, "seen").await.seen.is_some());
    assert!(row(&store, "deleted").await.base.is_some());
    let extra = json_of(&row(&store, "extra").await.record.unwrap().body);
    assert_eq!(extra, json!({ "id": "extra", "name": "a e", "rank": 50, "exact": 1.25, "assignee": "ann" }));

    let after = [row(&store, "doubt").await, row(&store, "doubt-edited").await, row(&store, "refused").await];
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.operations[0].key, after.operations[0].key);
        assert_eq!(before.operations[0].place, after.operations[0].place);
        assert_eq!(before.operations[0].frozen, after.operations[0].frozen, "what was sent keeps its bytes");
        assert_eq!(before.operations[0].hold, after.operations[0].hold);
    }
    let conflicts = client.conflicts().await.unwrap();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].service::<Later>().unwrap().unwrap().name, "a theirs");
    assert_eq!(conflicts[0].base::<Later>().unwrap().unwrap().rank, 10);
    assert_eq!(conflicts[0].local::<Later>().unwrap().unwrap().rank, 30);
    let losers = client.settled_losers().await.unwrap();
    assert_eq!(losers.len(), 1);
    assert_eq!(losers[0].entity::<Later>().unwrap(), expected("lost", "ours", 30, Some(4)).unwrap());
    place.end(client).await;
}

async fn i23_what_was_in_doubt_is_settled_after_the_update(place: impl Place, wire: Wire) {
    let world = World::new(wire);
    let first = world.fill(place.open(), "a").await;
    place.end(first).await;
    let exchange = world.way();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    exchange.before(move |request| {
        if request.method == Method::Put && request.url.path().contains("/doubt") {
            seen.lock().unwrap().push((request.url.clone(), request.body.clone()));
        }
    });
    let store = place.open();
    let client = later(store.clone(), &exchange, rename).await.unwrap();
    let frozen = row(&store, "doubt").await.operations[0].frozen.clone().unwrap();
    let table = client.offline_table::<Later>();
    table.push_items().await.unwrap();
    let sent = requests.lock().unwrap().iter().find(|(url, _)| url.path().ends_with("/doubt")).cloned();
    if !wire.extended() {
        assert_eq!(sent.unwrap().1, frozen.as_bytes());
    }
    let expected =
        |id: &str, name: &str, rank, scroll| Some(Later { id: id.to_owned(), name: format!("a {name}"), rank, scroll });
    assert_eq!(table.get("doubt").await.unwrap(), expected("doubt", "two", 20, Some(4)));
    assert_eq!(table.get("doubt-edited").await.unwrap(), expected("doubt-edited", "three", 20, Some(5)));
    assert_eq!(table.get("doubt-deleted").await.unwrap(), None);
    let service: Vec<(String, Value)> = world
        .rows
        .rows()
        .into_iter()
        .filter(|row| !row.record.deleted)
        .map(|row| (row.id.to_string(), json_of(&row.record.body)))
        .collect();
    let of = |id: &str| service.iter().find(|(known, _)| known == id).map(|(_, body)| body.clone());
    assert_eq!(of("doubt-deleted"), None);
    assert_eq!(of("doubt").unwrap()["title"], "a two", "the service has it as it was sent");
    assert_eq!(of("doubt-edited").unwrap()["name"], "a three");
    assert_eq!(of("new").unwrap()["name"], "a new");
    assert_eq!(of("edited").unwrap(), json!({ "id": "edited", "name": "a two", "rank": 80 }));
    // Somebody has changed the row after our lost answer: that shows, or is a conflict, in either case as it reads today.
    let conflicts = client.conflicts().await.unwrap();
    let seen = conflicts.iter().find(|conflict| conflict.id() == "seen");
    let theirs = match seen {
        Some(conflict) => conflict.service::<Later>().unwrap().unwrap(),
        None => table.get("seen").await.unwrap().unwrap(),
    };
    assert_eq!((theirs.name.as_str(), theirs.rank), ("a theirs", 40));
    assert_eq!(seen.is_some(), !wire.extended(), "a service that keeps keys knows that it was done");
    for conflict in &conflicts {
        client.resolve::<Later>(conflict, Resolution::Keep).await.unwrap();
    }
    client.retry("note", "refused").await.unwrap();
    table.push_items().await.unwrap();
    assert!(client.pending().await.unwrap().is_empty(), "{:?}", client.pending().await.unwrap());
    place.end(client).await;
}

async fn i23_what_a_migration_refuses_waits_in_quarantine(place: impl Place, wire: Wire) {
    quarantine(place, wire, "bad", "there is no name for that").await;
}

async fn i23_what_a_migration_panics_at_waits_in_quarantine(place: impl Place, wire: Wire) {
    quarantine(place, wire, "panic", "panicked").await;
}

async fn i23_a_row_that_does_not_fit_its_entity_waits_in_quarantine(place: impl Place, wire: Wire) {
    let world = World::new(wire);
    let first = world.fill(place.open(), "odd").await;
    place.end(first).await;
    let client = later(place.open(), &world.way(), rename_badly).await.unwrap();
    let held = client.quarantined().await.unwrap();
    let plain = held.iter().find(|held| *held.id == *"plain").unwrap();
    assert!(plain.reason.contains("at the field `name`") && plain.schema == 1, "{plain:?}");
    assert!(client.offline_table::<Later>().query().to_vec().await.unwrap().is_empty());
    place.end(client).await;
    let client = later(place.open(), &world.way(), rename).await.unwrap();
    assert_eq!(client.offline_table::<Later>().get("plain").await.unwrap().unwrap().name, "odd one");
    assert!(client.quarantined().await.unwrap().is_empty());
    place.end(client).await;
}

async fn quarantine(place: impl Place, wire: Wire, word: &str, reason: &str) {
    let world = World::new(wire);
    let store = place.open();
    let first = world.fill(store.clone(), word).await;
    let table = notes(&first);
    table.insert(note_of("good", "good")).await.unwrap();
    let before = everything(&store).await;
    let doubt = row(&store, "doubt-edited").await.operations[0].clone();
    place.end(first).await;
    drop(store);

    for _ in 0..2 {
        let exchange = world.way();
        let store = place.open();
        let client = later(store.clone(), &exchange, rename_badly).await.unwrap();
        let table = client.offline_table::<Later>();
        let shown: Vec<String> = table.query().to_vec().await.unwrap().into_iter().map(|note| note.id).collect();
        assert_eq!(shown, ["good"]);
        let quarantined = client.quarantined().await.unwrap();
        assert!(quarantined.iter().all(|held| held.reason.contains(reason) && held.schema == 1), "{quarantined:?}");
        let loser = quarantined.iter().filter(|held| held.loser.is_some()).count();
        assert_eq!((loser, client.settled_losers().await.unwrap().len()), (1, 0));
        // Every row but the one that was migrated, and the trace of a deletion, which has no body.
        assert_eq!(quarantined.len(), 13, "{quarantined:?}");
        assert!(client.conflicts().await.unwrap().is_empty());
        let waiting = client.pending().await.unwrap();
        // A change behind one that is in doubt waits for that one.
        let waits = |state: &PendingState| match state {
            PendingState::Parked(message) => message.contains(reason),
            state => matches!(state, PendingState::Blocked { .. }),
        };
        assert!(waiting.iter().filter(|change| *change.id != *"good").all(|change| waits(&change.state)));
        // Nothing of it is sent.
        let bad = word.to_owned();
        exchange.before(move |request| assert!(!String::from_utf8_lossy(&request.body).contains(&bad)));
        let pushed = table.push_items().await.unwrap().pushed;
        assert_eq!(pushed, waiting.iter().filter(|change| *change.id == *"good").count() as u64);
        let kind = |error: Error| error.kind();
        let some = Later { id: "new".to_owned(), name: "x".to_owned(), rank: 0, scroll: None };
        assert_eq!(table.insert(some.clone()).await.map(drop).map_err(kind), Err(ErrorKind::Quarantined));
        assert_eq!(table.upsert(some.clone()).await.map(drop).map_err(kind), Err(ErrorKind::Quarantined));
        assert_eq!(table.replace(some).await.map(drop).map_err(kind), Err(ErrorKind::Quarantined));
        assert_eq!(table.delete("plain").await.map(drop).map_err(kind), Err(ErrorKind::Quarantined));
        assert_eq!(client.retry("note", "new").await.map_err(kind), Err(ErrorKind::Quarantined));
        assert_eq!(client.discard("note", "new").await.map_err(kind), Err(ErrorKind::Quarantined));
        assert_eq!(client.discard_quarantined("note", "good").await.map_err(kind), Err(ErrorKind::NotFound));
        let refused = table.purge_items(PurgeOptions::default()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Pending);

        let held = row(&store, "doubt-edited").await;
        assert_eq!(held.operations.len(), 2);
        assert!(held.operations[0].in_doubt());
        assert_eq!((held.operations[0].key, &held.operations[0].frozen), (doubt.key, &doubt.frozen));
        let lines = client.export("note", "doubt-edited").await.unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["quarantine"]["record"]["body"]["title"], format!("{word} three"));
        assert_eq!(lines[0]["quarantine"]["record"]["body"]["scroll"], 5);
        assert_eq!(lines[0]["quarantine"]["base"]["body"]["title"], format!("{word} one"));
        assert_eq!((lines[1]["phase"].as_str(), lines[2]["phase"].as_str()), (Some("in-doubt"), Some("new")));
        assert_eq!(lines[1]["frozen"]["title"], format!("{word} two"));
        let conflict = client.export("note", "conflict").await.unwrap();
        let conflict: Value = serde_json::from_str(conflict.lines().next().unwrap()).unwrap();
        assert_eq!(conflict["quarantine"]["conflict"]["body"]["title"], format!("{word} theirs"));
        place.end(client).await;
    }

    // A release with a mended migration.
    let exchange = world.way();
    let store = place.open();
    let client = later(store.clone(), &exchange, rename).await.unwrap();
    assert!(client.quarantined().await.unwrap().is_empty());
    assert!(store.list_notes("quarantined/", None, 1).await.unwrap().is_empty());
    let table = client.offline_table::<Later>();
    let edited = table.get("doubt-edited").await.unwrap().unwrap();
    assert_eq!((edited.name, edited.rank, edited.scroll), (format!("{word} three"), 20, Some(5)));
    let conflicts = client.conflicts().await.unwrap();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].service::<Later>().unwrap().unwrap().name, format!("{word} theirs"));
    assert_eq!(client.settled_losers().await.unwrap().len(), 1);
    let kinds = |lines: &[String], what: &str| lines.iter().filter(|line| line.contains(what)).count();
    let after = everything(&store).await;
    for what in [
        "\"kind\":\"row\"",
        "\"operation\":\"insert\"",
        "\"operation\":\"replace\"",
        "\"operation\":\"delete\"",
        "\"kind\":\"loser\"",
    ] {
        // The good row has been pushed.
        let pushed = usize::from(what.contains("insert"));
        assert_eq!(kinds(&before, what), kinds(&after, what) + pushed, "{what}");
    }
    table.push_items().await.unwrap();
    for conflict in client.conflicts().await.unwrap() {
        client.resolve::<Later>(&conflict, Resolution::Keep).await.unwrap();
    }
    table.push_items().await.unwrap();
    assert!(client.pending().await.unwrap().is_empty(), "{:?}", client.pending().await.unwrap());
    assert_eq!(table.get("new").await.unwrap().unwrap().rank, 70);
    table.purge_items(PurgeOptions::default().force()).await.unwrap();
    place.end(client).await;
}

async fn i23_a_pull_ends_a_quarantine_unless_something_is_queued(place: impl Place, wire: Wire) {
    let world = World::new(wire);
    let first = world.fill(place.open(), "bad").await;
    place.end(first).await;
    let store = place.open();
    let client = later(store.clone(), &world.way(), rename_badly).await.unwrap();
    let table = client.offline_table::<Later>();
    // The service is updated, and its rows are touched by that.
    let seed = |ids: &[&str]| {
        let rows: Vec<Value> = ids.iter().map(|id| json!({ "id": id, "name": "served", "rank": 1 })).collect();
        world.rows.seed(Value::Array(rows)).unwrap();
    };
    seed(&["plain", "edited", "extra", "seen"]);
    table.pull_items(PullOptions::default().no_push()).await.unwrap();
    let plain = table.get("plain").await.unwrap().unwrap();
    assert_eq!((plain.name.as_str(), plain.scroll), ("served", Some(3)), "local fields that still fit stay");
    assert_eq!(table.get("edited").await.unwrap(), None, "an unsent change waits for its migration");
    assert!(row(&store, "edited").await.quarantine.is_some());
    let seen = row(&store, "seen").await;
    assert_eq!(json_of(&seen.seen.unwrap().body)["name"], "served");
    assert_eq!(json_of(&seen.quarantine.unwrap().seen.unwrap().body)["title"], "bad theirs");
    assert!(store.losers("", None, 100).await.unwrap().iter().all(|loser| loser.cause == LoserCause::Conflict));
    // A copy that does not fit this release takes the place of the one that waits, and keeps what only this device has.
    let lost = row(&store, "lost").await;
    world.rows.seed(json!([{ "id": "lost", "title": "bad again", "rank": 6 }])).unwrap();
    table.pull_items(PullOptions::default().no_push()).await.unwrap();
    assert!(json_of(&lost.quarantine.unwrap().record.unwrap().body)["title"] == "bad theirs");
    let waits = json_of(&row(&store, "lost").await.quarantine.unwrap().record.unwrap().body);
    assert_eq!(waits, json!({ "id": "lost", "title": "bad again", "rank": 6, "scroll": 4 }));

    // The service deletes one that nothing is queued of.
    let held = row(&store, "lost").await;
    assert!(held.quarantine.is_some() && held.operations.is_empty());
    world.rows.seed(json!([{ "id": "lost", "deleted": true }])).unwrap();
    table.pull_items(PullOptions::default().no_push()).await.unwrap();
    assert_eq!(row(&store, "lost").await, Row::default());

    // Somebody gives up, and the next pull brings what the service has.
    client.discard_quarantined("note", "edited").await.unwrap();
    assert_eq!(row(&store, "edited").await, Row::default());
    table.pull_items(PullOptions::default().no_push()).await.unwrap();
    assert_eq!(table.get("edited").await.unwrap().unwrap().name, "served");
    place.end(client).await;

    // The mended release finds what was seen since, and asks the service about it.
    let store = place.open();
    let client = later(store.clone(), &world.way(), rename).await.unwrap();
    let seen = row(&store, "seen").await;
    assert_eq!(json_of(&seen.seen.unwrap().body)["name"], "served");
    assert_eq!(json_of(&seen.base.unwrap().body)["name"], "bad one");
    assert_eq!(client.settled_losers().await.unwrap().len(), 1);
    place.end(client).await;
}

async fn i23_local_fields_that_no_longer_fit_are_kept(place: impl Place, wire: Wire) {
    /// A note whose place is said in words.
    #[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core", table = "note")]
    struct Worded {
        id: String,
        title: String,
        #[sync(local)]
        #[serde(default)]
        scroll: Option<String>,
    }

    async fn open(store: impl Store, world: &World, migration: fn(Value) -> Result<Value, Failure>) -> DatasyncClient {
        let builder = DatasyncClient::builder().store(store).transport(transport(&world.way()));
        builder.table_with(TableOptions::<Worded>::new().migration(1, migration)).build().await.unwrap()
    }

    let world = World::new(wire);
    let first = world.fill(place.open(), "a").await;
    place.end(first).await;
    let store = place.open();
    // The migration forgets that the field has another type.
    let client = open(store.clone(), &world, Ok).await;
    world.rows.seed(json!([{ "id": "plain", "title": "served", "rank": 1 }])).unwrap();
    let table = client.offline_table::<Worded>();
    assert!(table.get("plain").await.unwrap().is_none());
    table.pull_items(PullOptions::default().no_push()).await.unwrap();
    let plain = table.get("plain").await.unwrap().unwrap();
    assert_eq!((plain.title.as_str(), plain.scroll), ("served", None));
    let losers = store.losers("", None, 100).await.unwrap();
    let kept = losers.iter().find(|loser| *loser.key.id == *"plain").unwrap();
    assert_eq!((kept.cause, kept.schema, &json_of(&kept.body)["scroll"]), (LoserCause::Quarantined, 1, &json!(3)));
    let held = client.quarantined().await.unwrap();
    assert!(held.iter().any(|held| held.loser == Some(kept.id) && held.reason.contains("`scroll`")), "{held:?}");
    place.end(client).await;
    drop(store);
    let words = |mut json: Value| {
        json["scroll"] = json["scroll"].as_u64().map(|scroll| scroll.to_string()).into();
        Ok(json)
    };
    let client = open(place.open(), &world, words).await;
    assert!(client.quarantined().await.unwrap().is_empty());
    let losers = client.settled_losers().await.unwrap();
    let kept = losers.iter().find(|loser| *loser.key.id == *"plain").unwrap();
    assert_eq!(kept.entity::<Worded>().unwrap().scroll.as_deref(), Some("3"));
    place.end(client).await;
}

async fn i16_a_local_field_that_was_removed_is_never_sent(place: impl Place, wire: Wire) {
    /// A note without its place.
    #[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core", table = "note")]
    struct Placeless {
        id: String,
        title: String,
        rank: i64,
    }

    let world = World::new(wire);
    let first = world.fill(place.open(), "a").await;
    place.end(first).await;
    // In the release without the field, and in one more start of it.
    for title in ["two", "three"] {
        let builder = DatasyncClient::builder().store(place.open()).transport(transport(&world.way()));
        let client = builder.table::<Placeless>().build().await.unwrap();
        let table = client.offline_table::<Placeless>();
        table.replace(Placeless { id: "plain".to_owned(), title: title.to_owned(), rank: 1 }).await.unwrap();
        table.push_items().await.unwrap();
        let served = world.rows.rows();
        assert!(served.iter().all(|row| json_of(&row.record.body).get("scroll").is_none()));
        assert!(served.iter().any(|row| json_of(&row.record.body)["title"] == title));
        place.end(client).await;
    }
    // It comes back with the field.
    let client = client(place.open(), &world.way(), ConflictPolicy::Park).await;
    let plain = notes(&client).get("plain").await.unwrap().unwrap();
    assert_eq!((plain.title.as_str(), plain.scroll), ("three", Some(3)));
    place.end(client).await;
}

async fn i23_a_newer_store_is_refused(place: impl Place, wire: Wire) {
    let world = World::new(wire);
    let first = world.fill(place.open(), "a").await;
    place.end(first).await;
    let client = later(place.open(), &world.way(), rename).await.unwrap();
    place.end(client).await;
    let store = place.open();
    let before = everything(&store).await;
    let head = store.head().await.unwrap();
    let older =
        DatasyncClient::builder().store(store.clone()).transport(transport(&world.way())).table::<Note>().build().await;
    let error = older.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerSchema);
    assert!(error.to_string().contains("`note`") && error.to_string().contains("update the app"), "{error}");
    assert_eq!((everything(&store).await, store.head().await.unwrap()), (before, head));
}

async fn i23_optional_fields_come_and_go_without_a_migration(place: impl Place, wire: Wire) {
    /// A note without a rank, and with a mark.
    #[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core", table = "note")]
    struct Marked {
        id: String,
        title: String,
        mark: Option<String>,
    }

    /// A note whose rank is a text.
    #[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core", table = "note")]
    struct Misfit {
        id: String,
        title: String,
        rank: String,
    }

    /// A note with a field that none has.
    #[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core", table = "note")]
    struct Missing {
        id: String,
        title: String,
        due: String,
    }

    async fn open<E: datasync_core::entity::SyncEntity>(store: impl Store, world: &World) -> DatasyncClient {
        DatasyncClient::builder().store(store).transport(transport(&world.way())).table::<E>().build().await.unwrap()
    }

    let world = World::new(wire);
    let first = world.fill(place.open(), "secret").await;
    place.end(first).await;

    let client = open::<Marked>(place.open(), &world).await;
    let table = client.offline_table::<Marked>();
    let mut plain = table.get("plain").await.unwrap().unwrap();
    assert_eq!(plain.mark, None);
    plain.mark = Some("new".to_owned());
    table.replace(plain).await.unwrap();
    table.push_items().await.unwrap();
    let served = world.rows.rows().into_iter().find(|row| *row.id == *"plain").unwrap();
    assert_eq!(
        json_of(&served.record.body),
        json!({ "id": "plain", "title": "secret one", "rank": 1, "mark": "new" }),
        "what was stored for a field that was removed is sent as it is"
    );
    place.end(client).await;

    let client = open::<Misfit>(place.open(), &world).await;
    let error = client.offline_table::<Misfit>().get("plain").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEntity);
    let message = error.to_string();
    assert!(message.contains("note/plain") && message.contains("at the field `rank`"), "{message}");
    assert!(message.contains("register a migration") && !message.contains("secret"), "{message}");
    place.end(client).await;

    let client = open::<Missing>(place.open(), &world).await;
    let message = client.offline_table::<Missing>().get("plain").await.unwrap_err().to_string();
    assert!(message.contains("it has no field `due`") && !message.contains("secret"), "{message}");
    place.end(client).await;
}

#[tokio::test]
async fn i23_an_older_build_leaves_the_file_of_a_newer_one_byte_by_byte() {
    let folder = folder();
    let (path, killed) = (folder.path().join("store.redb"), folder.path().join("killed.redb"));
    let world = World::new(Wire::Extended);
    let place = file(&path);
    let first = world.fill(place.open(), "a").await;
    place.end(first).await;
    let client = later(place.open(), &world.way(), rename).await.unwrap();
    // As it is on the disk of a process that was killed now.
    std::fs::copy(&path, &killed).unwrap();
    place.end(client).await;
    for path in [&path, &killed] {
        let before = std::fs::read(path).unwrap();
        let store = RedbStore::open(path).unwrap();
        let older =
            DatasyncClient::builder().store(store).transport(transport(&world.way())).table::<Note>().build().await;
        assert_eq!(older.unwrap_err().kind(), ErrorKind::NewerSchema);
        assert!(std::fs::read(path).unwrap() == before, "{} was changed", path.display());
        // And it is whole.
        let newer = later(RedbStore::open(path).unwrap(), &world.way(), rename).await.unwrap();
        assert_eq!(newer.offline_table::<Later>().get("plain").await.unwrap().unwrap().rank, 10);
        newer.close().await.unwrap();
    }
}

#[tokio::test]
async fn migrations_are_numbered_without_gaps() {
    let exchange = RouterExchange::new(axum::Router::new());
    let refuse = async |from: &[u32]| {
        let options = from.iter().fold(TableOptions::new(), |options, from| options.migration(*from, rename));
        let error = later_with(MemoryStore::new(), &exchange, options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        error.to_string()
    };
    assert!(refuse(&[0]).await.contains("from version 0, but the first version is 1"));
    assert!(refuse(&[2]).await.contains("from version 2, but none from version 1"));
    assert!(refuse(&[1, 3]).await.contains("from version 3, but none from version 2"));
    assert!(refuse(&[2, 1, 2]).await.contains("two migrations from version 2"));
    let options = TableOptions::new().migration(2, rename).migration(1, rename);
    later_with(MemoryStore::new(), &exchange, options).await.unwrap();
}

/// How many rows the stores have that are killed: three commits' worth.
const MANY: usize = 1_203;

/// A store of the first release with many rows, of two accounts.
async fn fill_many(store: impl Store, world: &World) -> DatasyncClient {
    let client = world.fill(store, "a").await;
    let table = notes(&client);
    let many = |count: usize| (0..count).map(|number| Note { rank: 1, ..note_of(&format!("m{number:05}"), "a many") });
    table.insert_all(many(MANY)).await.unwrap();
    client.sign_in("ann").await.unwrap();
    table.insert_all(many(40)).await.unwrap();
    client
}

/// Brings a store that a kill has left behind to the same state as one that nobody has disturbed.
async fn killed_at_every_commit<P: Place, Made: Future<Output = P>>(make: impl Fn(usize) -> Made) {
    let calls = Arc::new(AtomicUsize::new(0));
    let options = || {
        let calls = Arc::clone(&calls);
        TableOptions::<Later>::new().migration(1, move |json| {
            calls.fetch_add(1, Ordering::SeqCst);
            rename(json)
        })
    };
    let exchange = RouterExchange::new(axum::Router::new());
    let undisturbed = make(0).await;
    let faulty = FaultStore::new(undisturbed.open(), SystemClock);
    let client = later_with(faulty.clone(), &exchange, options()).await.unwrap();
    let commits = faulty.faults().calls(StoreCall::Commit);
    let bodies = calls.swap(0, Ordering::SeqCst);
    assert!(commits >= 3 && bodies > MANY, "{commits} commits for {bodies} bodies");
    undisturbed.end(client).await;
    drop(faulty);
    let store = undisturbed.open();
    let wanted = everything(&store).await;
    assert!(wanted.iter().any(|line| line.contains("\"account\":\"ann\"") && line.contains("\"name\":\"a many\"")));
    drop(store);

    for turn in 0..2 * commits {
        let (nth, after) = (turn / 2, turn % 2 == 1);
        let place = make(turn + 1).await;
        let faulty = FaultStore::new(place.open(), SystemClock);
        (0..nth).for_each(|_| faulty.faults().next(StoreCall::Commit, StoreFault::Pass));
        let end_of_it = if after { StoreFault::EndAfter } else { StoreFault::EndBefore };
        faulty.faults().next(StoreCall::Commit, end_of_it);
        let killed = later_with(faulty.clone(), &exchange, options()).await;
        assert_eq!(killed.unwrap_err().kind(), ErrorKind::Store);
        drop(faulty);
        // The older release refuses what has been begun, and opens what has not.
        let begun = nth > 0 || after;
        let older = DatasyncClient::builder().store(place.open()).transport(transport(&exchange));
        match older.table::<Note>().build().await {
            Err(error) => assert!(begun && error.kind() == ErrorKind::NewerSchema, "{error}"),
            Ok(client) => {
                assert!(!begun);
                place.end(client).await;
            }
        }
        let again = later_with(place.open(), &exchange, options()).await.unwrap();
        place.end(again).await;
        let store = place.open();
        assert!(everything(&store).await == wanted, "killed {} commit {nth}", if after { "after" } else { "before" });
        // What was done is not done again, but for the page that was lost.
        let again = calls.swap(0, Ordering::SeqCst) - bodies;
        assert!(if after { again == 0 } else { again <= 1_000 }, "{again} bodies twice");
    }
}

#[tokio::test]
async fn i23_killed_at_every_commit_in_memory() {
    let world = World::new(Wire::Extended);
    let original = MemoryStore::new();
    fill_many(original.clone(), &world).await;
    let original = &original;
    killed_at_every_commit(|_| async move { copy_of(original).await }).await;
}

/// The content of a memory store in another one.
async fn copy_of(store: &MemoryStore) -> MemoryStore {
    let (copy, spec) = (MemoryStore::new(), table_spec(&Note::SCHEMA));
    Store::open(&copy, &[spec]).await.unwrap();
    let mut batch = WriteBatch { number: 1, ..WriteBatch::default() };
    let all = KeysRequest { table: "note".into(), after: None, limit: usize::MAX };
    let keys = store.keys(&all).await.unwrap();
    for (key, row) in keys.iter().zip(store.get(&keys).await.unwrap()) {
        let row = row.unwrap();
        let entries = row.record.as_ref().map(|record| index_keys(&Note::SCHEMA, &key.id, record).unwrap());
        batch.rows.push(RowWrite::Put { key: key.clone(), row, index_keys: entries.unwrap_or_default() });
    }
    for account in ["", "ann"] {
        batch.add_losers.extend(store.losers(account, None, usize::MAX).await.unwrap());
        for scope in store.scopes(account, "note").await.unwrap() {
            let token = store.delta_token(&scope).await.unwrap();
            batch.tokens.push((scope, token));
        }
    }
    let notes = store.list_notes("", None, usize::MAX).await.unwrap();
    batch.notes.extend(notes.into_iter().map(|(key, note)| (key, Some(note))));
    copy.commit(batch).await.unwrap();
    copy
}

#[tokio::test]
async fn i23_killed_at_every_commit_in_a_file() {
    let world = World::new(Wire::Extended);
    let folder = folder();
    let path = folder.path().join("original.redb");
    let client = fill_many(RedbStore::open(&path).unwrap(), &world).await;
    client.close().await.unwrap();
    killed_at_every_commit(|turn| {
        let copy = folder.path().join(format!("{turn}.redb"));
        std::fs::copy(&path, &copy).unwrap();
        async move { file(&copy) }
    })
    .await;
}

#[tokio::test]
async fn progress_is_told_from_the_first_row_to_the_last() {
    let world = World::new(Wire::Extended);
    let store = MemoryStore::new();
    fill_many(store.clone(), &world).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let builder = DatasyncClient::builder().store(store.clone()).transport(transport(&world.way()));
    let builder = builder.on_progress(move |OpeningProgress { work, table, done, total, .. }| {
        assert_eq!((work, table.as_ref()), (OpeningWork::Migration, "note"));
        seen.lock().unwrap().push((done, total));
    });
    builder.table_with(TableOptions::<Later>::new().migration(1, rename)).build().await.unwrap();
    let all = KeysRequest { table: "note".into(), after: None, limit: usize::MAX };
    let rows = store.keys(&all).await.unwrap().len() as u64;
    assert_eq!(*told.lock().unwrap(), [(0, rows), (500, rows), (1_000, rows), (rows, rows)]);
}
