//! Two releases of an app, what the first leaves of every kind, and the places where it lies.

use std::{path::Path, sync::Arc};

use datasync_core::{
    client::{DatasyncClient, PullOptions, Resolution, TableOptions},
    config::ConflictPolicy,
    error::Error,
    export,
    memory::MemoryStore,
    row::{Row, RowKey},
    schema::SERVICE_OWNED,
    store::{KeysRequest, Store},
};
use datasync_derive::SyncEntity;
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_tests::{Fault, Note, RouterExchange, Wire, client, note_of, notes, open_service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// [`Note`] in a later release: the title is called a name, and ranks are ten times as great.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "note")]
pub(crate) struct Later {
    pub(crate) id: String,
    pub(crate) name: String,
    #[sync(index)]
    pub(crate) rank: i64,
    #[sync(local)]
    #[serde(default)]
    pub(crate) scroll: Option<u32>,
}

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn rename(mut json: Value) -> Result<Value, Failure> {
    let fields = json.as_object_mut().ok_or("no object")?;
    let title = fields.remove("title").ok_or("no title")?;
    fields.insert("name".to_owned(), title);
    let rank = fields["rank"].as_i64().ok_or("no rank")?;
    fields.insert("rank".to_owned(), (rank * 10).into());
    Ok(json)
}

/// [`rename`] in a release that has a bug.
pub(crate) fn rename_badly(json: Value) -> Result<Value, Failure> {
    match json["title"].as_str() {
        Some(title) if title.starts_with("bad") => Err("there is no name for that".into()),
        Some(title) if title.starts_with("panic") => panic!("a migration panics"),
        Some(title) if title.starts_with("odd") => Ok(json!({ "id": json["id"], "name": 7, "rank": 0 })),
        _ => rename(json),
    }
}

pub(crate) fn transport(exchange: &RouterExchange) -> HttpTransport {
    HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap()
}

pub(crate) async fn later(
    store: impl Store,
    exchange: &RouterExchange,
    migration: fn(Value) -> Result<Value, Failure>,
) -> Result<DatasyncClient, Error> {
    later_with(store, exchange, TableOptions::new().migration(1, migration)).await
}

pub(crate) async fn later_with(
    store: impl Store,
    exchange: &RouterExchange,
    options: TableOptions<Later>,
) -> Result<DatasyncClient, Error> {
    let builder = DatasyncClient::builder().store(store).transport(transport(exchange));
    builder.table_with(options).build().await
}

/// Where a store lies that one release after the other opens.
pub(crate) trait Place: Clone {
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
pub(crate) struct File(pub(crate) Arc<std::path::PathBuf>);

impl Place for File {
    type Store = RedbStore;
    fn open(&self) -> RedbStore {
        RedbStore::open(self.0.as_path()).unwrap()
    }

    async fn end(&self, client: DatasyncClient) {
        client.close().await.unwrap();
    }
}

pub(crate) fn file(path: &Path) -> File {
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

pub(crate) fn changes(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

pub(crate) async fn row(store: &impl Store, id: &str) -> Row {
    store.get(&[RowKey::new("note", id)]).await.unwrap().remove(0).unwrap_or_default()
}

pub(crate) fn json_of(body: &datasync_core::row::Body) -> Value {
    let mut json: Value = serde_json::from_slice(body.as_bytes()).unwrap();
    json.as_object_mut().unwrap().retain(|name, _| !SERVICE_OWNED.contains(&name.as_str()));
    json
}

/// Everything that a store keeps, as text.
pub(crate) async fn everything(store: &impl Store) -> Vec<String> {
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
pub(crate) struct World {
    pub(crate) rows: MemoryRepository,
    pub(crate) wire: Wire,
    pub(crate) exchange: RouterExchange,
}

impl World {
    pub(crate) fn new(wire: Wire) -> World {
        let rows = MemoryRepository::new();
        let exchange = RouterExchange::new(open_service(&rows, wire));
        World { rows, wire, exchange }
    }

    /// A way to the service without faults.
    pub(crate) fn way(&self) -> RouterExchange {
        RouterExchange::new(open_service(&self.rows, self.wire))
    }

    pub(crate) async fn fill(&self, store: impl Store, word: &str) -> DatasyncClient {
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
