//! Releases of an app, one after the other, on the same store (I23).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[macro_use]
mod world;
mod dropped;
mod former;
mod kills;
mod quarantine;

use std::sync::{Arc, Mutex};

use datasync_core::{
    client::{DatasyncClient, Resolution, TableOptions},
    config::ConflictPolicy,
    error::ErrorKind,
    memory::MemoryStore,
    row::{Hold, Phase, ServiceCopy},
    store::{KeysRequest, Store},
};
use datasync_derive::SyncEntity;
use datasync_http::Method;
use datasync_redb::RedbStore;
use datasync_tests::{Note, RouterExchange, Wire, client, folder, notes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::world::{Later, Place, World, everything, file, json_of, later, later_with, rename, row, transport};

on_both_places! {
    i23_everything_of_a_row_is_migrated_together
    i16_a_local_field_that_was_removed_is_never_sent
    i23_what_was_in_doubt_is_settled_after_the_update
    i23_a_newer_store_is_refused
    i23_optional_fields_come_and_go_without_a_migration
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
        let seen = row.seen.as_ref().and_then(ServiceCopy::live);
        for copy in row.record.iter().chain(&row.base).chain(seen).chain(conflict) {
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
    let exchange = RouterExchange::new(Wire::Extended.lead_to(axum::Router::new()));
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
