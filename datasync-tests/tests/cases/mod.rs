//! The cases of the originals' clients, a device and a service to try them on, and the names of what is done differently.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{collections::BTreeSet, path::PathBuf};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PendingState},
    config::ConflictPolicy,
    error::ErrorKind,
    memory::MemoryStore,
    row::OperationKind,
};
use datasync_derive::SyncEntity;
use datasync_http::HttpTransport;
use datasync_server::{Action, Change, DatasyncService, MemoryRepository, Repository, TableOptions};
use datasync_tests::{Note, RouterExchange, Wire, client, note_of, notes, service};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The cases, or `None` with a word about it.
pub(crate) fn cases(name: &str) -> Option<Value> {
    let Some(folder) = std::env::var_os("DATASYNC_CONFORMANCE_DIR").map(PathBuf::from) else {
        println!("skipped: DATASYNC_CONFORMANCE_DIR is not set");
        return None;
    };
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// The names of what is done differently; a test that meets none of one fails, so that no name outlives its reason.
pub(crate) struct Differences {
    known: &'static [(&'static str, &'static str)],
    met: BTreeSet<&'static str>,
}

impl Differences {
    pub(crate) fn new(known: &'static [(&'static str, &'static str)]) -> Differences {
        Differences { known, met: BTreeSet::new() }
    }

    pub(crate) fn expect(&mut self, name: &str) {
        let found = self.known.iter().find(|(known, _)| *known == name);
        self.met.insert(found.unwrap_or_else(|| panic!("`{name}` differs and is not listed")).0);
    }

    pub(crate) fn end(self) {
        let unmet: Vec<_> = self.known.iter().filter(|(name, _)| !self.met.contains(name)).collect();
        assert!(unmet.is_empty(), "listed, but no longer different: {unmet:?}");
    }
}

pub(crate) struct World {
    pub(crate) client: DatasyncClient,
    pub(crate) table: OfflineTable<Note>,
    pub(crate) exchange: RouterExchange,
    pub(crate) rows: MemoryRepository,
    pub(crate) store: MemoryStore,
}

pub(crate) async fn world(wire: Wire, policy: ConflictPolicy) -> World {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let store = MemoryStore::new();
    let client = client(store.clone(), &exchange, policy).await;
    World { table: notes(&client), client, exchange, rows, store }
}

pub(crate) fn kind(name: &str) -> OperationKind {
    match name.split(' ').next().unwrap() {
        "Add" | "Insert" => OperationKind::Insert,
        "Replace" | "Update" => OperationKind::Replace,
        "Delete" => OperationKind::Delete,
        other => panic!("an operation `{other}`"),
    }
}

impl World {
    /// Queues an operation of this kind for the row.
    pub(crate) async fn queue(&self, kind: OperationKind, id: &str) {
        if kind != OperationKind::Insert {
            self.table.insert(note_of(id, "base")).await.unwrap();
            self.table.push_items().await.unwrap();
        }
        self.write(kind, id, "mine").await.unwrap();
    }

    pub(crate) async fn write(&self, kind: OperationKind, id: &str, title: &str) -> Result<(), ErrorKind> {
        let done = match kind {
            OperationKind::Insert => self.table.insert(note_of(id, title)).await.map(drop),
            OperationKind::Delete => self.table.delete(id).await.map(drop),
            _ => self.table.replace(note_of(id, title)).await.map(drop),
        };
        done.map_err(|error| error.kind())
    }

    pub(crate) async fn pending(&self, id: &str) -> Option<(OperationKind, PendingState)> {
        let pending = self.client.pending().await.unwrap();
        pending.into_iter().find(|change| &*change.id == id).map(|change| (change.kind, change.state))
    }

    /// Somebody writes the row on the service, or removes it for good.
    pub(crate) async fn elsewhere(&self, id: &str, title: Option<&str>) {
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
        let change =
            Change { id: id.into(), action, expected: None, now: jiff::Timestamp::UNIX_EPOCH, key: None, forget: None };
        self.rows.write(change).await.unwrap();
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
#[serde(rename_all = "camelCase")]
pub(crate) struct Movie {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) duration: i64,
    pub(crate) rating: String,
    pub(crate) release_date: String,
    pub(crate) best_picture_winner: bool,
    pub(crate) year: i64,
    /// Not sent, as a property that is left out of the JSON of CT's client.
    #[sync(local)]
    #[serde(default)]
    pub(crate) shelf: i64,
}

/// A service with the movies of the reference, and a device with none of them.
pub(crate) async fn movies(wire: Wire) -> Option<(DatasyncClient, MemoryStore, MemoryRepository)> {
    let data = cases("movies.json")?;
    let rows = MemoryRepository::new();
    rows.seed(data["movies"].clone()).unwrap();
    let builder = DatasyncService::builder().extensions(wire.extended());
    let builder = builder.table(TableOptions::of::<Note>(), MemoryRepository::new());
    let router = builder.table(TableOptions::of::<Movie>(), rows.clone()).build().unwrap();
    let transport = HttpTransport::builder("http://service").exchange(RouterExchange::new(router)).build().unwrap();
    let store = MemoryStore::new();
    let builder = DatasyncClient::builder().store(store.clone()).transport(transport);
    Some((builder.table::<Movie>().table::<Note>().build().await.unwrap(), store, rows))
}
