//! What cannot be migrated waits, with everything queued for it.

use datasync_core::{
    client::{
        DatasyncClient, JournalStep, PendingState, PullOptions, PurgeOptions, ResetOptions, Resolution, TableOptions,
    },
    error::{Error, ErrorKind},
    memory::MemoryStore,
    row::{LoserCause, Row},
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_tests::{Wire, folder, note_of, notes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::world::{
    Failure, Later, Place, World, everything, file, json_of, later, rename, rename_badly, row, transport,
};

on_both_places! {
    i23_what_a_migration_refuses_waits_in_quarantine
    i23_what_a_migration_panics_at_waits_in_quarantine
    i23_a_row_that_does_not_fit_its_entity_waits_in_quarantine
    i23_local_fields_that_no_longer_fit_are_kept
    i23_a_pull_ends_a_quarantine_unless_something_is_queued
    i20_i26_a_reset_forgets_what_was_in_quarantine
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
        let noted = client.journal(None, 100).await.unwrap().into_iter();
        let noted: Vec<_> = noted.filter(|entry| entry.step == JournalStep::Quarantined).collect();
        let [noted] = noted.as_slice() else { panic!("{noted:?}") };
        assert_eq!((noted.rows, noted.ids.len()), (12, 12), "once, in the commit of the migration");
        assert!(noted.message.as_ref().unwrap().contains(reason));
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
    assert_eq!(json_of(&seen.seen.unwrap().live().unwrap().body)["name"], "served");
    assert_eq!(json_of(&seen.quarantine.unwrap().seen.unwrap().live().unwrap().body)["title"], "bad theirs");
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
    assert_eq!(json_of(&seen.seen.unwrap().live().unwrap().body)["name"], "served");
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
    let explained = client.explain("note", "plain").await.unwrap().to_string();
    assert!(
        explained.contains("A body that could not be migrated gave way to a newer one of the service"),
        "{explained}"
    );
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

async fn i20_i26_a_reset_forgets_what_was_in_quarantine(place: impl Place, wire: Wire) {
    let world = World::new(wire);
    let first = world.fill(place.open(), "bad").await;
    place.end(first).await;
    let store = place.open();
    let client = later(store.clone(), &world.way(), rename_badly).await.unwrap();
    assert!(!store.list_notes("quarantined/", None, 1).await.unwrap().is_empty());
    client.reset(ResetOptions::tables(["note"]).force()).await.unwrap();
    assert!(store.list_notes("quarantined/", None, 1).await.unwrap().is_empty(), "the notes name rows");
    place.end(client).await;
}
