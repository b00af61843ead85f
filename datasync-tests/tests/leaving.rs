//! Rows that leave a device because the service says so, and a service that has forgotten or lost something (I12, I27).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PullOptions, PurgeOptions},
    config::ConflictPolicy,
    query::{Expr, Query},
    row::{LoserCause, RowKey},
    store::Store,
    transport::{ChangeNotice, Transport},
};
use datasync_http::{HttpTransport, Method};
use datasync_server::{AccessControl, DatasyncServer, DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{
    MemoryStore, MovedClock, Note, Pair, RouterExchange, Wire, client, client_over, local_rows, note_of, notes,
    service_at, service_rows,
};
use futures::StreamExt;

datasync_tests::on_both_stores_extended! {
    i12_a_row_that_is_removed_for_good_leaves_by_itself
    i12_a_row_that_left_the_filter_stays_while_something_of_it_is_queued
    i27_a_restored_service_loses_no_row_of_the_device_silently
    i27_a_device_that_was_away_too_long_begins_again
    i28_a_restored_service_loses_nothing_that_a_queued_change_started_from
    i27_i28_what_was_pushed_and_never_pulled_does_not_vanish_with_a_restored_service
    i12_a_row_that_no_page_has_shown_leaves_with_its_tombstone_forgotten
    i12_a_row_that_was_gone_before_the_first_pull_leaves_with_it
    i12_rows_that_left_before_a_purge_leave_with_the_next_pull
    i27_a_restore_behind_a_purge_loses_no_row_silently
    i27_a_scope_that_begins_again_notices_a_restored_service_too
}

datasync_tests::on_both_stores! {
    i12_verify_finds_a_row_that_no_page_has_shown
    a_filter_that_was_changed_after_a_purge_is_noticed
    an_own_tombstone_goes_with_the_tombstone_period
}

async fn written(table: &OfflineTable<Note>, ids: std::ops::Range<i64>, title: &str) {
    for rank in ids {
        table.upsert(Note { rank, ..note_of(&format!("{rank:03}"), title) }).await.unwrap();
    }
    table.push_items().await.unwrap();
}

fn low() -> PullOptions<Note> {
    PullOptions::default().query(Query::<Note>::new().filter(|note| note.rank.lt(10)))
}

async fn i12_a_row_that_is_removed_for_good_leaves_by_itself(store: impl Store, wire: Wire) {
    let Pair { rows, here, there, .. } = Pair::of(forgetful(wire), store, ConflictPolicy::Park).await;
    written(&here, 0..5, "mine").await;
    here.pull_items(here.query()).await.unwrap();
    // No scope has ever held this one.
    written(&here, 5..6, "made here").await;
    there.pull_items(there.query()).await.unwrap();
    for id in ["001", "005"] {
        there.delete(id).await.unwrap();
    }
    there.push_items().await.unwrap();
    assert_eq!(rows.rows().len(), 4, "nothing is left of them");
    here.replace(Note { rank: 2, ..note_of("002", "edited") }).await.unwrap();
    let report = here.pull_items(here.query()).await.unwrap();
    assert_eq!(report.removed, 2);
    assert_eq!(local_rows(&here).await, service_rows(&rows));
}

async fn i12_a_row_that_left_the_filter_stays_while_something_of_it_is_queued(store: impl Store, wire: Wire) {
    let Pair { rows, here, there, .. } = Pair::new(store, wire, ConflictPolicy::ClientWins).await;
    written(&there, 0..20, "theirs").await;
    here.pull_items(low()).await.unwrap();
    assert_eq!(here.count().await.unwrap(), 10);
    for id in ["003", "004"] {
        there.replace(Note { rank: 50, ..note_of(id, "moved") }).await.unwrap();
    }
    there.push_items().await.unwrap();
    here.replace(Note { rank: 3, ..note_of("003", "mine") }).await.unwrap();
    let report = here.pull_items(low().no_push()).await.unwrap();
    assert_eq!(report.removed, 1);
    assert!(here.get("004").await.unwrap().is_none());
    assert_eq!(here.get("003").await.unwrap().unwrap().title, "mine", "what the user wrote stays");
    here.push_items().await.unwrap();
    here.pull_items(low()).await.unwrap();
    let expected: Vec<_> = service_rows(&rows).into_iter().filter(|(.., rank)| *rank < 10).collect();
    assert_eq!(local_rows(&here).await, expected);
}

async fn i27_a_restored_service_loses_no_row_of_the_device_silently(store: impl Store, wire: Wire) {
    let Pair { rows, one, here, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    written(&here, 0..20, "before").await;
    let backup = rows.snapshot();
    written(&here, 20..25, "lost").await;
    here.pull_items(here.query()).await.unwrap();
    here.insert(note_of("queued", "mine")).await.unwrap();
    rows.restore(&backup);
    here.pull_items(PullOptions::default().no_push()).await.unwrap();
    let losers = one.settled_losers().await.unwrap();
    let mut lost: Vec<&str> = losers.iter().map(|loser| &*loser.key.id).collect();
    lost.sort_unstable();
    assert_eq!(lost, ["020", "021", "022", "023", "024"]);
    assert!(losers.iter().all(|loser| loser.cause == LoserCause::Vanished));
    let explained = one.explain("note", "020").await.unwrap().to_string();
    assert!(explained.contains("A body went with a service that was restored at "), "{explained}");
    assert_eq!(one.pending().await.unwrap().len(), 1, "queued operations stay");
    here.push_items().await.unwrap();
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(local_rows(&here).await, service_rows(&rows));
    assert_eq!(one.settled_losers().await.unwrap().len(), 5, "and they wait for a decision");
}

async fn i28_a_restored_service_loses_nothing_that_a_queued_change_started_from(store: impl Store, wire: Wire) {
    let Pair { rows, one, here, .. } = Pair::new(store, wire, ConflictPolicy::Merge).await;
    written(&here, 1..3, "before").await;
    let backup = rows.snapshot();
    written(&here, 1..3, "lost").await;
    here.pull_items(here.query()).await.unwrap();
    here.replace(Note { rank: 9, ..note_of("001", "lost") }).await.unwrap();
    rows.restore(&backup);
    here.pull_items(PullOptions::default().no_push()).await.unwrap();
    let losers = one.settled_losers().await.unwrap();
    let lost = losers.iter().map(|loser| (&*loser.key.id, loser.entity::<Note>().unwrap().title, loser.cause));
    let expected = ["001", "002"].map(|id| (id, "lost".to_owned(), LoserCause::Vanished));
    assert_eq!(lost.collect::<Vec<_>>(), expected, "also of the row with a queued change");
    here.push_items().await.unwrap();
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(service_rows(&rows)[0], ("001".to_owned(), "before".to_owned(), 9));
    assert_eq!(local_rows(&here).await, service_rows(&rows));
}

async fn i27_a_device_that_was_away_too_long_begins_again(store: impl Store, wire: Wire) {
    let clock = MovedClock::default();
    let rows = MemoryRepository::with_clock(clock.clone());
    let exchange = RouterExchange::new(service_at(&rows, 7, wire, clock.clone()));
    let other = client_over(MemoryStore::new(), exchange.clone()).clock(clock.clone()).build().await.unwrap();
    let one = client_over(store, exchange.clone()).clock(clock.clone()).build().await.unwrap();
    let (here, there) = (notes(&one), notes(&other));
    written(&there, 0..20, "first").await;
    here.pull_items(here.query()).await.unwrap();
    for id in ["003", "007"] {
        there.delete(id).await.unwrap();
    }
    there.push_items().await.unwrap();
    clock.advance(Duration::from_secs(91 * 86_400));
    written(&there, 30..50, "later").await;
    assert!(!rows.rows().iter().any(|row| row.record.deleted), "the tombstones are forgotten");
    let report = here.pull_items(here.query()).await.unwrap();
    assert_eq!((report.removed, report.inserted), (2, 20));
    assert_eq!(local_rows(&here).await, service_rows(&rows));
    assert!(one.settled_losers().await.unwrap().is_empty(), "they were deleted, and not lost");
    assert!(here.pull_items(here.query()).await.unwrap().received <= 1, "an ordinary pull again");
}

async fn i27_i28_what_was_pushed_and_never_pulled_does_not_vanish_with_a_restored_service(
    store: impl Store,
    wire: Wire,
) {
    let Pair { rows, one, other: never, here, there, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    written(&here, 0..5, "before").await;
    here.pull_items(here.query()).await.unwrap();
    let backup = rows.snapshot();
    written(&here, 5..8, "lost").await;
    written(&there, 8..10, "lost").await;
    rows.restore(&backup);
    // The second device has never pulled, and nobody can tell it that the service was restored.
    for (device, expected) in [(&one, vec!["005", "006", "007"]), (&never, vec!["008", "009"])] {
        let table = notes(device);
        table.pull_items(table.query()).await.unwrap();
        assert_eq!(local_rows(&table).await, service_rows(&rows));
        let losers = device.settled_losers().await.unwrap();
        let lost: Vec<&str> = losers.iter().map(|loser| &*loser.key.id).collect();
        assert_eq!(lost, expected);
        assert!(losers.iter().all(|loser| loser.cause == LoserCause::Vanished));
    }
}

async fn i12_a_row_that_no_page_has_shown_leaves_with_its_tombstone_forgotten(store: impl Store, wire: Wire) {
    let clock = MovedClock::default();
    let rows = MemoryRepository::with_clock(clock.clone());
    let exchange = RouterExchange::new(service_at(&rows, 7, wire, clock.clone()));
    let other = client_over(MemoryStore::new(), exchange.clone()).clock(clock.clone()).build().await.unwrap();
    let one = client_over(store, exchange.clone()).clock(clock.clone()).build().await.unwrap();
    let (here, there) = (notes(&one), notes(&other));
    written(&here, 0..3, "pulled").await;
    here.pull_items(here.query()).await.unwrap();
    written(&here, 3..5, "only pushed").await;
    there.pull_items(there.query()).await.unwrap();
    there.delete("003").await.unwrap();
    there.push_items().await.unwrap();
    clock.advance(Duration::from_secs(91 * 86_400));
    written(&there, 30..35, "later").await;
    assert!(!rows.rows().iter().any(|row| row.record.deleted), "the tombstone is forgotten");
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(local_rows(&here).await, service_rows(&rows));
    assert!(one.settled_losers().await.unwrap().is_empty(), "it was deleted, and not lost");
}

/// A service that keeps no tombstones.
fn forgetful(wire: Wire) -> (MemoryRepository, RouterExchange) {
    let rows = MemoryRepository::new();
    let builder = DatasyncService::builder().extensions(wire.extended());
    let router = builder.table(TableOptions::of::<Note>(), rows.clone()).build().unwrap();
    (rows, RouterExchange::new(wire.lead_to(router)))
}

async fn i12_a_row_that_was_gone_before_the_first_pull_leaves_with_it(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, here, there, .. } = Pair::of(forgetful(wire), store, ConflictPolicy::Park).await;
    let lists = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&lists);
    exchange.before(move |request| {
        let by_id = request.method == Method::Get && !request.url.path().ends_with("/note");
        *counted.lock().unwrap() +=
            i32::from(by_id || request.url.query().is_some_and(|query| query.contains("$select")));
    });
    written(&here, 0..15, "made here").await;
    there.pull_items(there.query()).await.unwrap();
    there.delete("002").await.unwrap();
    there.delete("012").await.unwrap();
    there.push_items().await.unwrap();
    *lists.lock().unwrap() = 0;
    // The first pull of a query concerns the rows of the query.
    here.pull_items(low()).await.unwrap();
    assert!(here.get("002").await.unwrap().is_none() && here.get("012").await.unwrap().is_some());
    assert_eq!(*lists.lock().unwrap(), 1, "only what no page has shown is asked for");
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(local_rows(&here).await, service_rows(&rows));
    assert_eq!(*lists.lock().unwrap(), 2);
    here.pull_items(PullOptions::default().query_id("again")).await.unwrap();
    assert_eq!(*lists.lock().unwrap(), 2, "and nothing if there is no such row");
}

async fn i12_verify_finds_a_row_that_no_page_has_shown(store: impl Store, wire: Wire) {
    let Pair { rows, here, .. } = Pair::of(forgetful(wire), store, ConflictPolicy::Park).await;
    written(&here, 0..3, "pulled").await;
    here.pull_items(here.query()).await.unwrap();
    written(&here, 3..6, "only pushed").await;
    written(&here, 20..22, "only pushed").await;
    for id in ["001", "004", "020"] {
        rows.lose(id);
    }
    assert_eq!(here.verify_items(low()).await.unwrap().removed, 1, "the others are not of this scope");
    assert_eq!(here.verify_items(here.query()).await.unwrap().removed, 2);
    assert_eq!(local_rows(&here).await, service_rows(&rows));
}

/// Who asks sees the rows whose title is his name.
#[derive(Debug)]
struct Titles(Arc<Mutex<String>>);

impl AccessControl for Titles {
    fn view(&self, _: &str) -> Option<Expr> {
        format!("title eq '{}'", self.0.lock().unwrap()).parse().ok()
    }
}

#[tokio::test]
async fn i12_what_the_caller_no_longer_sees_leaves_the_device() {
    let (rows, name) = (MemoryRepository::new(), Arc::new(Mutex::new("ann".to_owned())));
    let options = || TableOptions::of::<Note>().soft_delete(true);
    let everything = DatasyncService::builder().table(options(), rows.clone()).build().unwrap();
    let hers = options().access(Titles(Arc::clone(&name)));
    let hers = DatasyncService::builder().table(hers, rows.clone()).build().unwrap();
    let admin = client(
        MemoryStore::new(),
        &RouterExchange::new(Wire::Extended.lead_to(everything)),
        ConflictPolicy::ClientWins,
    )
    .await;
    let ann =
        client(MemoryStore::new(), &RouterExchange::new(Wire::Extended.lead_to(hers)), ConflictPolicy::Park).await;
    let (all, mine) = (notes(&admin), notes(&ann));
    written(&all, 0..10, "ann").await;
    written(&all, 10..20, "bob").await;
    mine.pull_items(mine.query()).await.unwrap();
    assert_eq!(mine.count().await.unwrap(), 10);
    written(&all, 0..3, "bob").await;
    written(&all, 10..12, "ann").await;
    let report = mine.pull_items(mine.query()).await.unwrap();
    assert_eq!((report.removed, report.inserted), (3, 2));
    // Another view: the token is good no longer, and the rows are compared.
    *name.lock().unwrap() = "bob".to_owned();
    mine.pull_items(mine.query()).await.unwrap();
    let titles: Vec<String> = local_rows(&mine).await.into_iter().map(|(_, title, _)| title).collect();
    assert_eq!(titles, vec!["bob"; 11]);
}

#[tokio::test]
async fn changes_are_heard_over_a_socket_until_the_service_stops() {
    let rows = MemoryRepository::new();
    let router = || DatasyncService::builder().table(TableOptions::of::<Note>(), rows.clone()).build().unwrap();
    let server = DatasyncServer::start("127.0.0.1:0".parse().unwrap(), router()).await.unwrap();
    let address = server.address();
    let transport = HttpTransport::builder(&format!("http://{address}")).retries(0).build().unwrap();
    assert!(transport.capabilities().await.unwrap().notifications);
    let mut changes = transport.changes("".into());
    assert_eq!(changes.next().await.unwrap().unwrap(), ChangeNotice::Connected);
    let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport.clone()).table::<Note>();
    let client = builder.build().await.unwrap();
    written(&notes(&client), 0..200, "x").await;
    assert_eq!(changes.next().await.unwrap().unwrap(), ChangeNotice::Changed("note".into()));
    server.stop(Duration::from_secs(1_000)).await;
    let mut rest = Vec::new();
    while let Some(notice) = changes.next().await {
        rest.push(notice.unwrap());
    }
    assert!(rest.len() <= 1, "two hundred rows are not two hundred events: {rest:?}");
    assert!(transport.changes("".into()).next().await.unwrap().is_err(), "nobody is there");
    let _server = DatasyncServer::start(address, router()).await.unwrap();
    assert_eq!(transport.changes("".into()).next().await.unwrap().unwrap(), ChangeNotice::Connected);
}

async fn an_own_tombstone_goes_with_the_tombstone_period(store: impl Store + Clone, wire: Wire) {
    let clock = MovedClock::default();
    let rows = MemoryRepository::with_clock(clock.clone());
    let table = TableOptions::of::<Note>().soft_delete(true);
    let builder = DatasyncService::builder().extensions(wire.extended()).clock(clock.clone());
    let service = builder.tombstone_days(200).table(table, rows.clone()).build().unwrap();
    let exchange = RouterExchange::new(wire.lead_to(service));
    let client = client_over(store.clone(), exchange).clock(clock.clone()).build().await.unwrap();
    let here = notes(&client);
    let tombstones = async || {
        let keys = ["000", "001", "002"].map(|id| RowKey::new("note", id));
        let rows = store.get(&keys).await.unwrap();
        rows.iter().map(|row| row.as_ref().is_some_and(|row| row.tombstone.is_some())).collect::<Vec<_>>()
    };
    let day = Duration::from_secs(86_400);
    // An original service does not say for how long it remembers deletions.
    let period = if wire.extended() { 200 } else { 90 };

    written(&here, 0..3, "mine").await;
    here.delete("000").await.unwrap();
    here.push_items().await.unwrap();
    clock.advance(day * (period - 1));
    here.delete("001").await.unwrap();
    here.delete("002").await.unwrap();
    here.push_items().await.unwrap();
    assert_eq!(tombstones().await, [true; 3]);
    // It is a deletion of this device for as long as the service may show it.
    here.insert(note_of("002", "again")).await.unwrap();
    clock.advance(day * 2);
    here.push_items().await.unwrap();
    assert_eq!(tombstones().await, [false, true, false]);
    assert_eq!(store.get(&[RowKey::new("note", "000")]).await.unwrap(), [None], "nothing is left of it");
    assert_eq!(service_rows(&rows), [("002".to_owned(), "again".to_owned(), 0)]);

    // A pull removes them too, also where no page shows them.
    clock.advance(day * period);
    rows.lose("001");
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(tombstones().await, [false; 3]);
    assert_eq!(client.pending().await.unwrap().len(), 0);
}

async fn i12_rows_that_left_before_a_purge_leave_with_the_next_pull(store: impl Store, wire: Wire) {
    let Pair { rows, here, there, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    written(&there, 0..10, "theirs").await;
    here.pull_items(low()).await.unwrap();
    there.replace(Note { rank: 50, ..note_of("004", "moved") }).await.unwrap();
    there.push_items().await.unwrap();
    rows.lose("005");
    here.purge_items(PurgeOptions::default().query(here.query().filter(|note| note.id.eq("007")))).await.unwrap();
    assert_eq!(here.pull_items(low()).await.unwrap().removed, 2);
    let expected: Vec<_> = service_rows(&rows).into_iter().filter(|(.., rank)| *rank < 10).collect();
    assert_eq!(local_rows(&here).await, expected);
}

async fn a_filter_that_was_changed_after_a_purge_is_noticed(store: impl Store, wire: Wire) {
    let Pair { rows, here, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    written(&here, 0..10, "mine").await;
    here.pull_items(low().query_id("some")).await.unwrap();
    here.purge_items(PurgeOptions::default().query(here.query().filter(|note| note.id.eq("002")))).await.unwrap();
    let lower = PullOptions::default().query(Query::<Note>::new().filter(|note| note.rank.lt(5))).query_id("some");
    here.pull_items(lower).await.unwrap();
    let expected: Vec<_> = service_rows(&rows).into_iter().filter(|(.., rank)| *rank < 5).collect();
    assert_eq!(local_rows(&here).await, expected);
}

async fn i27_a_restore_behind_a_purge_loses_no_row_silently(store: impl Store, wire: Wire) {
    let Pair { rows, one, here, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    written(&here, 0..5, "before").await;
    let backup = rows.snapshot();
    written(&here, 5..8, "lost").await;
    here.pull_items(here.query()).await.unwrap();
    here.purge_items(PurgeOptions::default().query(here.query().filter(|note| note.id.eq("002")))).await.unwrap();
    rows.restore(&backup);
    here.pull_items(here.query()).await.unwrap();
    let losers = one.settled_losers().await.unwrap();
    assert_eq!(losers.iter().map(|loser| &*loser.key.id).collect::<Vec<_>>(), ["005", "006", "007"]);
    assert_eq!(local_rows(&here).await, service_rows(&rows));
}

async fn i27_a_scope_that_begins_again_notices_a_restored_service_too(store: impl Store, wire: Wire) {
    let Pair { rows, one, here, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    written(&here, 0..5, "before").await;
    let backup = rows.snapshot();
    written(&here, 5..8, "lost").await;
    here.pull_items(low().query_id("some")).await.unwrap();
    rows.restore(&backup);
    let other = PullOptions::default().query(Query::<Note>::new().filter(|note| note.rank.lt(9))).query_id("some");
    assert_eq!(here.pull_items(other).await.unwrap().removed, 3);
    let losers = one.settled_losers().await.unwrap();
    assert_eq!(losers.iter().map(|loser| &*loser.key.id).collect::<Vec<_>>(), ["005", "006", "007"]);
    assert_eq!(local_rows(&here).await, service_rows(&rows));
}
