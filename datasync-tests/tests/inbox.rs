//! The inbox: conflicts that wait for a person, and the bodies that lost.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::BTreeSet;

use datasync_core::{
    client::{Conflict, DatasyncClient, JournalStep, OfflineTable, PullOptions, Resolution},
    config::SyncConfig,
    error::ErrorKind,
    row::{Body, LoserCause, RowKey, SettledLoser, Side},
    store::{Store, WriteBatch},
};
use datasync_http::HttpTransport;
use datasync_server::MemoryRepository;
use datasync_tests::{
    MemoryStore, Note, RouterExchange, StillClock, Way, Wire, note_of, on_both_stores, service_at, service_rows,
};
use futures::{FutureExt, StreamExt};
use jiff::SignedDuration;
use uuid::Uuid;

struct World {
    rows: MemoryRepository,
    way: Way,
    clock: StillClock,
}

impl World {
    fn new(wire: Wire) -> World {
        let clock = StillClock::new(7);
        let rows = MemoryRepository::with_clock(clock.clone());
        let way = service_at(&rows, 100, wire, clock.clone());
        World { rows, way, clock }
    }

    async fn client(&self, store: impl Store, config: &str) -> DatasyncClient {
        self.client_at(store, config, self.clock.clone()).await
    }

    async fn client_at(&self, store: impl Store, config: &str, clock: StillClock) -> DatasyncClient {
        self.client_over(store, config, clock, RouterExchange::new(self.way.clone())).await
    }

    async fn client_over(
        &self,
        store: impl Store,
        config: &str,
        clock: StillClock,
        exchange: RouterExchange,
    ) -> DatasyncClient {
        let transport = HttpTransport::builder("http://service").retries(0).clock(clock.clone()).exchange(exchange);
        let builder = DatasyncClient::builder().store(store).transport(transport.build().unwrap()).clock(clock);
        builder.config(SyncConfig::from_toml(config).unwrap()).table::<Note>().build().await.unwrap()
    }
}

fn notes(client: &DatasyncClient) -> OfflineTable<Note> {
    client.offline_table()
}

async fn sync(client: &DatasyncClient) {
    notes(client).push_items().await.unwrap();
    notes(client).pull_items(PullOptions::default()).await.unwrap();
}

/// Both devices change these rows, the other one first.
async fn clash(here: &DatasyncClient, there: &DatasyncClient, ids: &[&str], ours: &str) {
    sync(here).await;
    sync(there).await;
    for id in ids {
        if notes(here).get(*id).await.unwrap().is_none() {
            notes(here).insert(note_of(id, "base")).await.unwrap();
        }
    }
    sync(here).await;
    sync(there).await;
    for id in ids {
        notes(there).replace(note_of(id, &format!("theirs for {ours}"))).await.unwrap();
        notes(here).replace(note_of(id, ours)).await.unwrap();
    }
    sync(there).await;
    sync(here).await;
}

fn title(side: Option<Note>) -> Option<String> {
    side.map(|note| note.title)
}

fn service_title(conflict: &Conflict) -> Option<String> {
    title(conflict.service().unwrap())
}

on_both_stores! {
    i19_conflicts_and_losers_survive_a_restart
    i19_a_stale_resolution_is_refused_with_the_conflict_as_it_is
    the_stream_shows_what_waits_and_then_what_is_found
    the_inbox_is_read_in_parts
    i28_a_lost_body_comes_back_as_an_edit
    i28_a_lost_body_is_kept_until_its_age_has_passed
    i28_a_wrong_date_of_an_answer_removes_no_lost_body
    losers_of_one_millisecond_are_in_the_order_in_which_they_lost
}

async fn losers_of_one_millisecond_are_in_the_order_in_which_they_lost(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.client(store, "[sync]\nconflict = 'server-wins'").await;
    let there = world.client(MemoryStore::new(), "").await;
    let ids = ["c", "a", "e", "b", "d", "g", "f"];
    clash(&here, &there, &ids, "first").await;
    clash(&here, &there, &ids, "second").await;
    let losers = here.settled_losers().await.unwrap();
    let found: Vec<(String, &str)> =
        losers.iter().map(|loser| (loser.entity::<Note>().unwrap().title, &*loser.key.id)).collect();
    let expected = ["first", "second"].iter().flat_map(|title| ids.iter().map(|id| ((*title).to_owned(), *id)));
    assert_eq!(found, expected.collect::<Vec<_>>());
}

async fn i19_conflicts_and_losers_survive_a_restart(store: impl Store + Clone, wire: Wire) {
    let world = World::new(wire);
    let here = world.client(store.clone(), "").await;
    let there = world.client(MemoryStore::new(), "").await;
    clash(&here, &there, &["a", "b"], "ours").await;
    let first = here.conflicts().await.unwrap();
    here.resolve::<Note>(&first[1], Resolution::Take).await.unwrap();
    let losers = here.settled_losers().await.unwrap();
    drop(here);

    let again = world.client(store, "").await;
    let waiting = again.conflicts().await.unwrap();
    assert_eq!(waiting, first[..1], "with base, local and service copy");
    assert_eq!(title(waiting[0].base().unwrap()).as_deref(), Some("base"));
    assert_eq!(title(waiting[0].local().unwrap()).as_deref(), Some("ours"));
    assert_eq!(service_title(&waiting[0]).as_deref(), Some("theirs for ours"));
    assert_eq!(again.settled_losers().await.unwrap(), losers);
    again.resolve::<Note>(&waiting[0], Resolution::Keep).await.unwrap();
    sync(&again).await;
    assert_eq!(service_rows(&world.rows)[0].1, "ours");
}

async fn i19_a_stale_resolution_is_refused_with_the_conflict_as_it_is(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.client(store, "").await;
    let there = world.client(MemoryStore::new(), "").await;
    clash(&here, &there, &["a"], "ours").await;
    let shown = here.conflicts().await.unwrap().pop().unwrap();

    // The other side moves on, and a pull brings it.
    notes(&there).replace(note_of("a", "theirs again")).await.unwrap();
    sync(&there).await;
    sync(&here).await;
    let error = here.resolve::<Note>(&shown, Resolution::Keep).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConflictChanged);
    let renewed = error.conflict().unwrap().clone();
    assert_eq!(service_title(&renewed).as_deref(), Some("theirs again"));
    assert_eq!(here.conflicts().await.unwrap(), std::slice::from_ref(&renewed), "nothing was done");

    // So does the user here.
    notes(&here).replace(note_of("a", "ours again")).await.unwrap();
    let error = here.resolve::<Note>(&renewed, Resolution::Take).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConflictChanged);
    let edited = error.conflict().unwrap().clone();
    assert_eq!(title(edited.local().unwrap()).as_deref(), Some("ours again"));
    assert_eq!(title(edited.base().unwrap()).as_deref(), Some("base"), "the first base");

    here.resolve(&edited, Resolution::Merged(note_of("a", "both"))).await.unwrap();
    let error = here.resolve::<Note>(&edited, Resolution::Keep).await.unwrap_err();
    assert_eq!((error.kind(), error.conflict()), (ErrorKind::ConflictChanged, None), "it is gone");
    sync(&here).await;
    assert_eq!(service_rows(&world.rows)[0].1, "both");
}

async fn the_stream_shows_what_waits_and_then_what_is_found(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.client(store, "").await;
    let there = world.client(MemoryStore::new(), "").await;
    clash(&here, &there, &["a"], "ours").await;
    let mut stream = here.conflict_stream();
    assert_eq!(stream.next().await.unwrap().unwrap().id(), "a", "what waits already");
    assert!(stream.next().now_or_never().is_none(), "and nothing more");

    clash(&here, &there, &["b"], "ours").await;
    let found = stream.next().await.unwrap().unwrap();
    assert_eq!(found.id(), "b");
    here.resolve::<Note>(&found, Resolution::Take).await.unwrap();
    assert!(stream.next().now_or_never().is_none(), "what is settled is not shown");

    // A side has changed: the conflict is shown as it is.
    notes(&there).replace(note_of("a", "theirs again")).await.unwrap();
    sync(&there).await;
    sync(&here).await;
    let renewed = stream.next().await.unwrap().unwrap();
    assert_eq!((renewed.id(), service_title(&renewed).as_deref()), ("a", Some("theirs again")));
    here.resolve::<Note>(&renewed, Resolution::Keep).await.unwrap();
    assert!(here.conflict_stream().next().now_or_never().is_none(), "none waits");
}

async fn the_inbox_is_read_in_parts(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.client(store, "").await;
    let there = world.client(MemoryStore::new(), "").await;
    let ids: Vec<String> = (0..7).map(|number| format!("row{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    clash(&here, &there, &ids, "ours").await;
    // Others are queued between them, and are not shown.
    notes(&here).insert(note_of("new", "x")).await.unwrap();
    let (mut found, mut after): (Vec<String>, Option<Conflict>) = (Vec::new(), None);
    loop {
        let part = here.conflicts_after(after.as_ref(), 3).await.unwrap();
        assert!(part.len() <= 3);
        found.extend(part.iter().map(|conflict| conflict.id().to_owned()));
        match part.into_iter().next_back() {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    assert_eq!(found, ids);
}

#[tokio::test]
async fn i15_a_stream_that_nobody_reads_misses_nothing() {
    let world = World::new(Wire::Extended);
    let here = world.client(MemoryStore::new(), "").await;
    let there = world.client(MemoryStore::new(), "").await;
    let ids: Vec<String> = (0..1_200).map(|number| format!("row{number:04}")).collect();
    let mut stream = here.conflict_stream();
    assert!(stream.next().now_or_never().is_none(), "none waits yet");
    // More than the stream remembers, found while nobody looks.
    notes(&there).insert_all(ids.iter().map(|id| note_of(id, "theirs"))).await.unwrap();
    sync(&there).await;
    notes(&here).insert_all(ids.iter().map(|id| note_of(id, "ours"))).await.unwrap();
    notes(&here).push_items().await.unwrap();
    let mut found = BTreeSet::new();
    while let Some(Some(conflict)) = stream.next().now_or_never() {
        found.insert(conflict.unwrap().id().to_owned());
    }
    assert_eq!(found, ids.into_iter().collect());
}

async fn i28_a_lost_body_comes_back_as_an_edit(store: impl Store + Clone, wire: Wire) {
    let world = World::new(wire);
    let here = world.client(store.clone(), "[sync]\nconflict = 'server-wins'").await;
    let there = world.client(MemoryStore::new(), "").await;
    clash(&here, &there, &["a", "b"], "ours").await;
    let mut losers = here.settled_losers().await.unwrap();
    // Two of one millisecond are in no order.
    losers.sort_by(|one, other| one.key.cmp(&other.key));
    assert_eq!(
        losers.iter().map(|loser| (&*loser.key.id, loser.side)).collect::<Vec<_>>(),
        [("a", Side::Local), ("b", Side::Local)]
    );

    // The row is there: the body replaces it, but for what stays on this device.
    notes(&here).replace(Note { scroll: Some(4), ..note_of("a", "theirs for ours") }).await.unwrap();
    here.restore_loser(losers[0].id).await.unwrap();
    let restored = notes(&here).get("a").await.unwrap().unwrap();
    assert_eq!((restored.title.as_str(), restored.scroll), ("ours", Some(4)));
    // The row is gone: it is made again.
    notes(&there).delete("b").await.unwrap();
    sync(&there).await;
    sync(&here).await;
    assert!(notes(&here).get("b").await.unwrap().is_none());
    here.restore_loser(losers[1].id).await.unwrap();
    here.push_tables(["note"]).await.unwrap();
    assert!(
        here.settled_losers().await.unwrap().iter().all(|loser| loser.id != losers[0].id),
        "it is no loser any more"
    );
    assert_eq!(here.restore_loser(losers[0].id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(here.restore_loser(Uuid::nil()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(service_rows(&world.rows)[0].1, "ours");
    drop(here);

    // What a restored service no longer had comes back in the same way.
    let head = store.head().await.unwrap();
    let vanished = SettledLoser {
        id: Uuid::from_u128(9),
        key: RowKey::new("note", "gone"),
        side: Side::Local,
        body: Body::from(br#"{"id":"gone","title":"from before","rank":3}"#.as_slice()),
        version: Some("old".to_owned()),
        at: datasync_core::clock::Clock::now(&world.clock),
        schema: losers[0].schema,
        cause: LoserCause::Vanished,
    };
    let batch = WriteBatch {
        number: head.number + 1,
        id: Uuid::from_u128(1),
        add_losers: vec![vanished.clone()],
        ..WriteBatch::default()
    };
    store.commit(batch).await.unwrap();
    let again = world.client(store, "").await;
    again.restore_loser(vanished.id).await.unwrap();
    again.push_tables(["note"]).await.unwrap();
    assert!(service_rows(&world.rows).contains(&("gone".to_owned(), "from before".to_owned(), 3)));
}

async fn i28_a_lost_body_is_kept_until_its_age_has_passed(store: impl Store + Clone, wire: Wire) {
    let world = World::new(wire);
    let config = "[sync]\nconflict = 'server-wins'\nloser_age = '10d'";
    let clock = world.clock.ahead(SignedDuration::from_hours(3));
    let here = world.client_at(store.clone(), config, clock.clone()).await;
    let there = world.client(MemoryStore::new(), "").await;
    clash(&here, &there, &["a"], "ours").await;
    world.clock.advance(SignedDuration::from_hours(24 * 5));
    clash(&here, &there, &["a"], "ours later").await;
    let titles = async |client: &DatasyncClient| {
        let losers = client.settled_losers().await.unwrap();
        losers.iter().map(|loser| loser.entity::<Note>().unwrap().title).collect::<Vec<_>>()
    };
    assert_eq!(titles(&here).await, ["ours", "ours later"]);

    // This device's clock jumps ten years: the service's does not, and only that one counts.
    clock.set_ahead(SignedDuration::from_hours(24 * 365 * 10));
    sync(&here).await;
    assert_eq!(titles(&here).await, ["ours", "ours later"]);
    clock.set_ahead(SignedDuration::ZERO);

    world.clock.advance(SignedDuration::from_hours(24 * 5 + 1));
    drop(here);
    let again = world.client_at(store, config, clock).await;
    assert_eq!(titles(&again).await, ["ours", "ours later"], "nothing goes before the service was heard of");
    sync(&again).await;
    assert_eq!(titles(&again).await, ["ours later"], "the age of one has passed");
    let journal = again.journal(None, 100).await.unwrap();
    let forgotten = journal.iter().find(|entry| entry.step == JournalStep::Forgotten).unwrap();
    assert_eq!((forgotten.rows, forgotten.message.as_deref()), (1, Some("older than `loser_age`")));
}

async fn i28_a_wrong_date_of_an_answer_removes_no_lost_body(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let exchange = RouterExchange::new(world.way.clone());
    let config = "[sync]\nconflict = 'server-wins'";
    let here = world.client_over(store, config, world.clock.clone(), exchange.clone()).await;
    let there = world.client(MemoryStore::new(), "").await;
    clash(&here, &there, &["a"], "ours").await;
    // What stands before the service has a clock that is years ahead.
    exchange.after(|answer| {
        answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
        answer.headers.push(("date".to_owned(), "Fri, 14 Jun 2030 09:46:40 GMT".to_owned()));
    });
    sync(&here).await;
    assert_eq!(here.settled_losers().await.unwrap().len(), 1);
}
