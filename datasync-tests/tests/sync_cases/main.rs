//! What the originals' clients do, case by case (`sync_cases.json`), and where ours does it better: each difference has a name
//! and a reason.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod addresses;
mod answers;
mod collapse;
mod conflicts;
mod pulls;
mod purges;

use std::{collections::BTreeSet, path::PathBuf};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PendingState},
    config::{ConflictPolicy, SyncConfig},
    error::ErrorKind,
    memory::MemoryStore,
    row::{OperationKind, Row, RowKey},
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::HttpTransport;
use datasync_server::{Action, Change, DatasyncService, MemoryRepository, Repository, TableOptions};
use datasync_tests::{Note, RouterExchange, Wire, client, note_of, notes, service};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The cases, or `None` with a word about it.
fn cases(name: &str) -> Option<Value> {
    let Some(folder) = std::env::var_os("DATASYNC_CONFORMANCE_DIR").map(PathBuf::from) else {
        println!("skipped: DATASYNC_CONFORMANCE_DIR is not set");
        return None;
    };
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// The names of what is done differently; a test that meets none of one fails, so that no name outlives its reason.
struct Differences {
    known: &'static [(&'static str, &'static str)],
    met: BTreeSet<&'static str>,
}

impl Differences {
    fn new(known: &'static [(&'static str, &'static str)]) -> Differences {
        Differences { known, met: BTreeSet::new() }
    }

    fn expect(&mut self, name: &str) {
        let found = self.known.iter().find(|(known, _)| *known == name);
        self.met.insert(found.unwrap_or_else(|| panic!("`{name}` differs and is not listed")).0);
    }

    fn end(self) {
        let unmet: Vec<_> = self.known.iter().filter(|(name, _)| !self.met.contains(name)).collect();
        assert!(unmet.is_empty(), "listed, but no longer different: {unmet:?}");
    }
}

struct World {
    client: DatasyncClient,
    table: OfflineTable<Note>,
    exchange: RouterExchange,
    rows: MemoryRepository,
    store: MemoryStore,
}

async fn world(wire: Wire, policy: ConflictPolicy) -> World {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let store = MemoryStore::new();
    let client = client(store.clone(), &exchange, policy).await;
    World { table: notes(&client), client, exchange, rows, store }
}

fn kind(name: &str) -> OperationKind {
    match name.split(' ').next().unwrap() {
        "Add" | "Insert" => OperationKind::Insert,
        "Replace" | "Update" => OperationKind::Replace,
        "Delete" => OperationKind::Delete,
        other => panic!("an operation `{other}`"),
    }
}

fn change(id: &str, action: Action) -> Change {
    Change { id: id.into(), action, expected: None, now: Timestamp::UNIX_EPOCH, key: None, forget: None }
}

impl World {
    /// All that the device keeps of the row.
    async fn row(&self, id: &str) -> Option<Row> {
        self.store.get(&[RowKey::new("note", id)]).await.unwrap().remove(0)
    }

    /// The service marks the row as deleted.
    async fn deleted_elsewhere(&self, id: &str) {
        let there = self.rows.read(id).await.unwrap().unwrap();
        let record = datasync_core::row::Record { deleted: true, ..there.record };
        self.rows.write(change(id, Action::Replace(record))).await.unwrap();
    }

    /// Queues an operation of this kind for the row.
    async fn queue(&self, kind: OperationKind, id: &str) {
        if kind != OperationKind::Insert {
            self.table.insert(note_of(id, "base")).await.unwrap();
            self.table.push_items().await.unwrap();
        }
        self.write(kind, id, "mine").await.unwrap();
    }

    async fn write(&self, kind: OperationKind, id: &str, title: &str) -> Result<(), ErrorKind> {
        let done = match kind {
            OperationKind::Insert => self.table.insert(note_of(id, title)).await.map(drop),
            OperationKind::Delete => self.table.delete(id).await.map(drop),
            _ => self.table.replace(note_of(id, title)).await.map(drop),
        };
        done.map_err(|error| error.kind())
    }

    async fn pending(&self, id: &str) -> Option<(OperationKind, PendingState)> {
        let pending = self.client.pending().await.unwrap();
        pending.into_iter().find(|change| &*change.id == id).map(|change| (change.kind, change.state))
    }

    /// Somebody writes the row on the service, or removes it for good.
    async fn elsewhere(&self, id: &str, title: Option<&str>) {
        let body = format!(r#"{{"id":"{id}","title":"{}","rank":0}}"#, title.unwrap_or_default());
        let record = datasync_core::row::Record {
            body: body.into_bytes().into(),
            version: None,
            updated_at: None,
            deleted: false,
        };
        let there = self.rows.read(id).await.unwrap().is_some();
        let action = match title {
            None => Action::Remove,
            Some(_) if there => Action::Replace(record),
            Some(_) => Action::Create(record),
        };
        self.rows.write(change(id, action)).await.unwrap();
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
#[serde(rename_all = "camelCase")]
struct Movie {
    id: String,
    title: String,
    duration: i64,
    rating: String,
    release_date: String,
    best_picture_winner: bool,
    year: i64,
    /// Not sent, as a property that is left out of the JSON of CT's client.
    #[sync(local)]
    #[serde(default)]
    shelf: i64,
}

/// A service with the movies of the reference, and a device with none of them that has so many operations under way at once.
async fn movies(wire: Wire, parallel: usize) -> Option<(DatasyncClient, MemoryStore, MemoryRepository)> {
    let data = cases("movies.json")?;
    let rows = MemoryRepository::new();
    rows.seed(data["movies"].clone()).unwrap();
    let builder = DatasyncService::builder().extensions(wire.extended());
    let builder = builder.table(TableOptions::of::<Note>(), MemoryRepository::new());
    let router = builder.table(TableOptions::of::<Movie>(), rows.clone()).build().unwrap();
    let transport = HttpTransport::builder("http://service")
        .exchange(RouterExchange::new(Wire::Extended.lead_to(router)))
        .build()
        .unwrap();
    let store = MemoryStore::new();
    let builder = DatasyncClient::builder().store(store.clone()).transport(transport);
    let mut config = SyncConfig::default();
    config.sync.parallel_operations = parallel;
    Some((builder.config(config).table::<Movie>().table::<Note>().build().await.unwrap(), store, rows))
}
