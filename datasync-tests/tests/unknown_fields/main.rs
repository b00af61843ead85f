//! Fields that this build does not know, and fields that stay on the device (I16). The service keeps whatever a row has;
//! `later` is a field of a newer release of the app, and this one must neither lose it nor set it back.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod histories;

use datasync_core::{
    client::{DatasyncClient, OfflineTable, Resolution},
    config::ConflictPolicy,
    store::Store,
};
use datasync_http::Method;
use datasync_server::MemoryRepository;
use datasync_tests::{Fault, Note, RouterExchange, Wire, client, note_of, notes, open_service};
use serde_json::{Value, json};

datasync_tests::on_both_stores! {
    i16_a_row_that_is_made_again_keeps_what_this_build_does_not_know
    i16_a_deletion_in_doubt_and_a_row_made_again
    i16_this_side_wins_without_taking_back_what_it_does_not_know
    i16_equal_changes_agree_whatever_else_was_changed
    i16_a_remote_replace_keeps_what_this_build_does_not_know
    i16_a_restored_loser_leaves_newer_fields
    i16_local_fields_survive_discards_and_resolutions
    i16_local_fields_survive_a_deletion_behind_an_insert_in_doubt
    i16_what_a_tool_changes_is_a_change
}

/// What the service has of a row.
fn there(rows: &MemoryRepository, id: &str) -> Value {
    let row = rows.rows().into_iter().find(|row| *row.id == *id).unwrap();
    serde_json::from_slice(row.record.body.as_bytes()).unwrap()
}

/// A newer release of the app writes a row.
fn newer(rows: &MemoryRepository, id: &str, title: &str, later: u64) {
    rows.seed(json!([{ "id": id, "title": title, "rank": 0, "later": [later, 1.5] }])).unwrap();
}

fn later(row: &Value) -> Option<u64> {
    row["later"][0].as_u64()
}

struct World {
    rows: MemoryRepository,
    exchange: RouterExchange,
    client: DatasyncClient,
    notes: OfflineTable<Note>,
}

impl World {
    /// A device that has pulled a row `a` with `later` 1.
    async fn new(store: impl Store, wire: Wire, policy: ConflictPolicy) -> World {
        let rows = MemoryRepository::new();
        let exchange = RouterExchange::new(open_service(&rows, wire));
        let client = client(store, &exchange, policy).await;
        let notes = notes(&client);
        newer(&rows, "a", "base", 1);
        notes.pull_items(notes.query()).await.unwrap();
        World { rows, exchange, client, notes }
    }

    fn service(&self) -> (String, Option<u64>) {
        let row = there(&self.rows, "a");
        (row["title"].as_str().unwrap().to_owned(), later(&row))
    }

    async fn sync(&self) {
        self.notes.push_items().await.unwrap();
        self.notes.pull_items(self.notes.query()).await.unwrap();
    }

    async fn resolve(&self, resolution: Resolution<Note>) {
        let conflict = self.client.conflicts().await.unwrap().pop().unwrap();
        self.client.resolve(&conflict, resolution).await.unwrap();
    }

    async fn scroll(&self) -> Option<u32> {
        self.notes.get("a").await.unwrap().unwrap().scroll
    }
}

fn changes(request: &datasync_http::HttpRequest) -> bool {
    request.method != Method::Get
}

async fn i16_a_row_that_is_made_again_keeps_what_this_build_does_not_know(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, ConflictPolicy::Park).await;
    world.notes.delete("a").await.unwrap();
    world.notes.insert(note_of("a", "again")).await.unwrap();
    world.sync().await;
    assert_eq!(world.service(), ("again".to_owned(), Some(1)), "one change");
    world.notes.delete("a").await.unwrap();
    world.notes.push_items().await.unwrap();
    world.notes.upsert(note_of("a", "revived")).await.unwrap();
    world.sync().await;
    assert_eq!(world.service(), ("revived".to_owned(), Some(1)), "what the tombstone has");
    assert!(world.client.pending().await.unwrap().is_empty());
}

async fn i16_a_deletion_in_doubt_and_a_row_made_again(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, ConflictPolicy::ClientWins).await;
    // A deletion that came to nothing, because somebody else was faster.
    world.exchange.fault(changes, Fault::Lost);
    world.notes.delete("a").await.unwrap();
    world.notes.push_items().await.unwrap();
    world.notes.insert(note_of("a", "again")).await.unwrap();
    newer(&world.rows, "a", "theirs", 2);
    world.sync().await;
    assert_eq!(world.service(), ("again".to_owned(), Some(2)));
    // A change in doubt, then a deletion and a new row behind it.
    world.exchange.fault(changes, Fault::AnswerLost);
    world.notes.replace(note_of("a", "sent")).await.unwrap();
    world.notes.push_items().await.unwrap();
    world.notes.delete("a").await.unwrap();
    world.notes.insert(note_of("a", "behind")).await.unwrap();
    world.sync().await;
    assert_eq!(world.service(), ("behind".to_owned(), Some(2)));
    assert!(world.client.pending().await.unwrap().is_empty());
}

async fn i16_this_side_wins_without_taking_back_what_it_does_not_know(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, ConflictPolicy::Park).await;
    world.notes.replace(note_of("a", "ours")).await.unwrap();
    newer(&world.rows, "a", "theirs", 2);
    world.sync().await;
    newer(&world.rows, "a", "theirs again", 3);
    world.sync().await;
    world.resolve(Resolution::Keep).await;
    world.sync().await;
    assert_eq!(world.service(), ("ours".to_owned(), Some(3)));
    // A field that was taken away there is not brought back.
    world.notes.replace(note_of("a", "ours again")).await.unwrap();
    world.rows.seed(json!([{ "id": "a", "title": "without", "rank": 0 }])).unwrap();
    world.sync().await;
    world.resolve(Resolution::Keep).await;
    world.sync().await;
    assert_eq!(world.service(), ("ours again".to_owned(), None));
    // Over a row that was deleted there.
    newer(&world.rows, "a", "new", 4);
    world.sync().await;
    world.notes.replace(note_of("a", "alive")).await.unwrap();
    let dead = json!([{ "id": "a", "title": "new", "rank": 0, "later": [5, 1.5], "deleted": true }]);
    world.rows.seed(dead).unwrap();
    world.sync().await;
    world.resolve(Resolution::Keep).await;
    world.sync().await;
    assert_eq!(world.service(), ("alive".to_owned(), Some(5)));
    assert!(world.client.pending().await.unwrap().is_empty());
}

async fn i16_equal_changes_agree_whatever_else_was_changed(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, ConflictPolicy::Park).await;
    world.notes.replace(Note { scroll: Some(4), ..note_of("a", "same") }).await.unwrap();
    newer(&world.rows, "a", "same", 2);
    world.sync().await;
    assert!(world.client.pending().await.unwrap().is_empty(), "both sides want the same");
    assert_eq!((world.service(), world.scroll().await), (("same".to_owned(), Some(2)), Some(4)));
}

async fn i16_a_remote_replace_keeps_what_this_build_does_not_know(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, ConflictPolicy::Park).await;
    let remote = world.client.remote_table::<Note>();
    let row = remote.get("a").await.unwrap().unwrap().map(|note| Note { title: "straight".to_owned(), ..note });
    let row = remote.replace(&row).await.unwrap();
    assert_eq!(world.service(), ("straight".to_owned(), Some(1)));
    remote.replace(&row.map(|note| Note { rank: 7, ..note })).await.unwrap();
    assert_eq!((there(&world.rows, "a")["rank"].clone(), world.service().1), (json!(7), Some(1)), "from the answer");
    let listed = remote.query().to_vec().await.unwrap().pop().unwrap();
    remote.replace(&listed.map(|note| Note { rank: 8, ..note })).await.unwrap();
    assert_eq!((there(&world.rows, "a")["rank"].clone(), world.service().1), (json!(8), Some(1)), "from a query");
}

async fn i16_a_restored_loser_leaves_newer_fields(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, ConflictPolicy::ServerWins).await;
    world.notes.replace(Note { scroll: Some(1), ..note_of("a", "ours") }).await.unwrap();
    newer(&world.rows, "a", "theirs", 2);
    world.sync().await;
    let loser = world.client.settled_losers().await.unwrap().pop().unwrap();
    assert_eq!(loser.entity::<Note>().unwrap().title, "ours");
    world.client.restore_loser(loser.id).await.unwrap();
    world.sync().await;
    assert_eq!((world.service(), world.scroll().await), (("ours".to_owned(), Some(2)), Some(1)));
}

async fn i16_local_fields_survive_discards_and_resolutions(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, ConflictPolicy::Park).await;
    let scrolled = |title: &str, scroll| Note { scroll: Some(scroll), ..note_of("a", title) };
    // A discarded edit.
    world.notes.replace(scrolled("draft", 1)).await.unwrap();
    world.client.discard("note", "a").await.unwrap();
    assert_eq!(world.scroll().await, Some(1));
    // A discarded edit on a copy that a success has brought.
    world.exchange.fault(changes, Fault::AnswerLost);
    world.notes.replace(scrolled("sent", 2)).await.unwrap();
    world.notes.push_items().await.unwrap();
    world.notes.replace(scrolled("behind", 3)).await.unwrap();
    world.exchange.fault(changes, Fault::None);
    world.exchange.fault(changes, Fault::Status(500));
    world.notes.push_items().await.unwrap();
    world.client.discard("note", "a").await.unwrap();
    assert_eq!(world.scroll().await, Some(3));
    // A discarded deletion, and one that lost.
    world.notes.delete("a").await.unwrap();
    world.client.discard("note", "a").await.unwrap();
    assert_eq!(world.scroll().await, Some(3));
    for resolution in [Resolution::Take, Resolution::Merged(note_of("a", "merged"))] {
        world.notes.delete("a").await.unwrap();
        newer(&world.rows, "a", "theirs", 2);
        world.sync().await;
        world.resolve(resolution).await;
        assert_eq!(world.scroll().await, Some(3));
        world.sync().await;
        assert_eq!(world.scroll().await, Some(3));
    }
    // A deletion that was to be sent again, met another change, and was discarded.
    world.notes.delete("a").await.unwrap();
    newer(&world.rows, "a", "once", 3);
    world.sync().await;
    world.resolve(Resolution::Keep).await;
    world.client.discard("note", "a").await.unwrap();
    assert_eq!(world.scroll().await, Some(3));
    // What a person wrote who saw both sides is about what is sent.
    world.notes.replace(scrolled("ours", 4)).await.unwrap();
    newer(&world.rows, "a", "twice", 4);
    world.sync().await;
    world.resolve(Resolution::Merged(note_of("a", "both"))).await;
    assert_eq!(world.scroll().await, Some(4));
    world.sync().await;
    assert_eq!((world.service(), world.scroll().await), (("both".to_owned(), Some(4)), Some(4)));
}

async fn i16_local_fields_survive_a_deletion_behind_an_insert_in_doubt(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, ConflictPolicy::Park).await;
    let row = || async { world.notes.get("b").await.unwrap() };
    let scrolled = |title: &str| Note { scroll: Some(5), ..note_of("b", title) };
    // The insert is found to be made, and the deletion comes to nothing.
    world.exchange.fault(changes, Fault::AnswerLost);
    world.notes.insert(scrolled("made")).await.unwrap();
    world.notes.push_items().await.unwrap();
    world.notes.delete("b").await.unwrap();
    world.exchange.fault(changes, Fault::None);
    world.exchange.fault(changes, Fault::Status(500));
    world.notes.push_items().await.unwrap();
    assert_eq!(row().await, None);
    world.client.discard("note", "b").await.unwrap();
    assert_eq!(row().await, Some(scrolled("made")));
    // And so if another device has changed the row meanwhile.
    let scrolled = |title: &str| Note { scroll: Some(5), ..note_of("d", title) };
    world.exchange.fault(changes, Fault::AnswerLost);
    world.notes.insert(scrolled("made")).await.unwrap();
    world.notes.push_items().await.unwrap();
    world.notes.delete("d").await.unwrap();
    newer(&world.rows, "d", "theirs", 2);
    world.sync().await;
    world.resolve(Resolution::Take).await;
    assert_eq!(world.notes.get("d").await.unwrap(), Some(scrolled("theirs")));
    // One that was certainly not made leaves nothing.
    world.exchange.fault(changes, Fault::Lost);
    world.notes.insert(Note { scroll: Some(6), ..note_of("c", "lost") }).await.unwrap();
    world.notes.push_items().await.unwrap();
    world.notes.delete("c").await.unwrap();
    world.client.discard("note", "c").await.unwrap();
    world.sync().await;
    assert!(world.client.pending().await.unwrap().is_empty());
    assert_eq!(world.notes.get("c").await.unwrap(), None);
}

async fn i16_what_a_tool_changes_is_a_change(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, ConflictPolicy::ClientWins).await;
    let plain = world.client.offline_table_dyn("note").unwrap();
    let mut row = plain.get("a").await.unwrap().unwrap();
    row["later"] = json!([9, 1.5]);
    row["more"] = json!(true);
    plain.replace(row).await.unwrap();
    newer(&world.rows, "a", "theirs", 2);
    world.sync().await;
    assert_eq!(world.service().1, Some(9), "it was changed here too, and this side wins");
    assert_eq!(there(&world.rows, "a")["more"], json!(true));
}
