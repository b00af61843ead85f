//! The gaps of the originals' pull.

use std::time::Duration;

use datasync_core::{
    client::{OfflineTable, PullOptions},
    clock::{Clock as _, SystemClock},
    config::{ConflictPolicy, SyncConfig},
    query::Query,
    store::Store,
};
use datasync_http::Method;
use datasync_server::{Action, MemoryRepository, Repository, Stamping};
use datasync_tests::{
    Fault, MemoryStore, MovedClock, Note, RouterExchange, Wire, client, client_over, local_rows, note_of, notes,
    service_at, service_rows,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::{World, change, is_page, written};

datasync_tests::on_both_stores! {
    gap_01_a_hard_deletion_is_found_by_verify
    gap_02_a_row_that_left_the_filter_leaves_the_device
    gap_03_a_row_that_is_committed_late_is_not_missed
    gap_04_rows_of_one_millisecond_are_not_skipped_after_a_cut
    gap_05_a_finer_clock_of_the_service_brings_nothing_twice
    gap_06_rows_that_move_while_paging_are_not_missed
    gap_07_a_clock_that_goes_back_hides_nothing
    gap_08_the_mark_is_the_greatest_stamp_and_not_the_last
}

/// A service whose rows get stamps of its own kind, and a client with this clock.
async fn stamped<S: Store + Clone>(
    store: S,
    wire: Wire,
    stamping: Stamping,
) -> (MemoryRepository, MovedClock, RouterExchange, OfflineTable<Note>) {
    let clock = MovedClock::default();
    let rows = MemoryRepository::with_clock(clock.clone()).stamping(stamping);
    let exchange = RouterExchange::new(service_at(&rows, 4, wire, clock.clone()));
    let mut config = SyncConfig::default();
    config.sync.page_size = 4;
    let builder = client_over(store, exchange.clone()).config(config).clock(clock.clone());
    let table = notes(&builder.build().await.unwrap());
    (rows, clock, exchange, table)
}

async fn gap_01_a_hard_deletion_is_found_by_verify(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.rows.write(change("3", Action::Remove, SystemClock.now())).await.unwrap();
    world.table.pull_items(world.table.query()).await.unwrap();
    if !wire.extended() {
        assert_eq!(world.table.count().await.unwrap(), 10, "a service that is not ours does not tell");
        assert_eq!(world.table.verify_items(world.table.query()).await.unwrap().removed, 1);
    }
    assert_eq!(world.table.count().await.unwrap(), 9);
    world.agrees().await;
}

async fn gap_02_a_row_that_left_the_filter_leaves_the_device(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let low = || PullOptions::default().query(Query::<Note>::new().filter(|note| note.rank.lt(5)));
    let device = client(MemoryStore::new(), &world.exchange, ConflictPolicy::Park).await;
    let device = notes(&device);
    device.pull_items(low()).await.unwrap();
    world.table.replace(Note { rank: 50, ..note_of("2", "moved") }).await.unwrap();
    world.table.push_items().await.unwrap();
    device.pull_items(low()).await.unwrap();
    if !wire.extended() {
        assert!(device.get("2").await.unwrap().is_some(), "a service that is not ours does not tell");
        device.verify_items(low()).await.unwrap();
    }
    assert!(device.get("2").await.unwrap().is_none());
    assert_eq!(device.count().await.unwrap(), 4);
}

async fn gap_03_a_row_that_is_committed_late_is_not_missed(store: impl Store + Clone, wire: Wire) {
    let given: fn(&str, Timestamp) -> Timestamp =
        |id, now| if id == "late" { now - Duration::from_secs(20) } else { now };
    let (rows, clock, _, table) = stamped(store, wire, Stamping::Given(given)).await;
    for number in 0..6 {
        written(&rows, &format!("{number}"), clock.now()).await;
    }
    table.pull_items(table.query()).await.unwrap();
    clock.advance(Duration::from_secs(5));
    written(&rows, "late", clock.now()).await;
    table.pull_items(table.query()).await.unwrap();
    assert!(table.get("late").await.unwrap().is_some(), "its stamp is before the token");
}

async fn gap_04_rows_of_one_millisecond_are_not_skipped_after_a_cut(store: impl Store + Clone, wire: Wire) {
    let given: fn(&str, Timestamp) -> Timestamp = |_, _| Timestamp::from_millisecond(1_600_000_000_000).unwrap();
    let (rows, _, exchange, table) = stamped(store, wire, Stamping::Given(given)).await;
    for number in 0..30 {
        written(&rows, &format!("{number:02}"), SystemClock.now()).await;
    }
    let mut held = vec![0];
    for _ in 0..30 {
        // One page comes through, and the next one is lost: each pull but the last goes on from the token of a cut.
        exchange.clear_faults();
        exchange.fault(is_page, Fault::None);
        exchange.fault(is_page, Fault::Lost);
        let pulled = table.pull_items(table.query()).await;
        held.push(local_rows(&table).await.len());
        if pulled.is_ok() {
            break;
        }
    }
    let within = held.iter().filter(|rows| (1..30).contains(*rows)).count();
    assert!(held.is_sorted() && within > 3, "the cuts are between rows of one millisecond: {held:?}");
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn gap_05_a_finer_clock_of_the_service_brings_nothing_twice(store: impl Store + Clone, wire: Wire) {
    let (rows, clock, _, table) = stamped(store, wire, Stamping::Cut).await;
    for number in 0..10 {
        written(&rows, &format!("{number}"), clock.now()).await;
    }
    table.pull_items(table.query()).await.unwrap();
    clock.advance(Duration::from_secs(60));
    table.pull_items(table.query()).await.unwrap();
    let report = table.pull_items(table.query()).await.unwrap();
    assert_eq!((report.inserted, report.updated), (0, 0), "rows that are there in that version cost nothing");
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn gap_06_rows_that_move_while_paging_are_not_missed(store: impl Store + Clone, wire: Wire) {
    let (rows, clock, exchange, table) = stamped(store, wire, Stamping::Own).await;
    for number in 0..20 {
        written(&rows, &format!("{number:02}"), clock.now()).await;
        clock.advance(Duration::from_secs(60));
    }
    let (moving, time, mut next) = (rows.clone(), clock.clone(), 0);
    exchange.before(move |request| {
        if request.method == Method::Get && next < 8 {
            // The first rows move to the end, so that every later one moves forward by one.
            let now = time.now();
            futures::executor::block_on(written(&moving, &format!("{next:02}"), now));
            next += 1;
        }
    });
    table.pull_items(table.query()).await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn gap_07_a_clock_that_goes_back_hides_nothing(store: impl Store + Clone, wire: Wire) {
    let back: fn(&str, Timestamp) -> Timestamp =
        |id, now| if id == "after" { now - Duration::from_secs(25) } else { now };
    let stamping = if wire.extended() { Stamping::Own } else { Stamping::Given(back) };
    let (rows, clock, _, table) = stamped(store, wire, stamping).await;
    written(&rows, "before", clock.now()).await;
    table.pull_items(table.query()).await.unwrap();
    // Others are believed within `pull_overlap`. Ours may be set back by any time: it gives no earlier stamp than it gave.
    let now = if wire.extended() { clock.now() - Duration::from_secs(86_400) } else { clock.now() };
    written(&rows, "after", now).await;
    let stamp = async |id: &str| rows.read(id).await.unwrap().unwrap().record.updated_at;
    assert_eq!(stamp("after").await >= stamp("before").await, wire.extended());
    let report = table.pull_items(table.query()).await.unwrap();
    assert_eq!(report.inserted, 1);
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn gap_08_the_mark_is_the_greatest_stamp_and_not_the_last(store: impl Store + Clone, wire: Wire) {
    let given: fn(&str, Timestamp) -> Timestamp = |id, now| {
        let number: u64 = id.parse().unwrap();
        now - Duration::from_secs(10_000 - 100 * number)
    };
    let (rows, clock, exchange, table) = stamped(store, wire, Stamping::Given(given)).await;
    // A service that gives the rows of a page in the other order, and shows no stamp of the rows that then come last.
    exchange.after(|response| {
        let Ok(mut page) = serde_json::from_slice::<Value>(&response.body) else { return };
        let Some(items) = page["items"].as_array_mut().filter(|items| items.len() > 1) else { return };
        items.reverse();
        items.last_mut().unwrap()["updatedAt"] = Value::Null;
        response.body = serde_json::to_vec(&page).unwrap();
    });
    let now = clock.now();
    for number in 0..10 {
        written(&rows, &format!("{number}"), now).await;
    }
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));
    let report = table.pull_items(table.query()).await.unwrap();
    assert!(report.received <= 1, "the mark did not go back: {report:?}");
}
