//! Rows that appear after their stamp, on services that stamp before they commit: `pull_overlap` (I12).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use datasync_core::{client::ResetOptions, clock::Clock as _, config::SyncConfig, row::Record, store::Store};
use datasync_server::{Action, Change, MemoryRepository, Repository, Stamping};
use datasync_testkit::{FaultStore, StoreCall};
use datasync_tests::{RouterExchange, StillClock, Wire, client_over, local_rows, note_of, notes, service_at};
use jiff::{SignedDuration, Timestamp};

datasync_tests::on_both_stores! {
    i12_a_row_that_appears_within_the_overlap_is_pulled_and_no_other_costs_anything
}

/// Those whose ids say so are stamped so many seconds before they appear.
fn stamp(id: &str, now: Timestamp) -> Timestamp {
    let late = id.strip_prefix("late-").map_or(0, |seconds| seconds.parse().unwrap());
    now - SignedDuration::from_secs(late)
}

async fn appears(rows: &MemoryRepository, clock: &StillClock, id: &str) {
    let body = serde_json::to_vec(&note_of(id, "theirs")).unwrap();
    let record = Record { body: body.into(), version: None, updated_at: None, deleted: false };
    let (action, now) = (Action::Create(record), clock.now());
    rows.write(Change { id: id.into(), action, expected: None, now, key: None, forget: None }).await.unwrap();
}

/// Since when a page is asked for, if it is one in the order of the stamps.
fn begins_at(query: &str) -> Option<Timestamp> {
    let (_, rest) = query.split_once("(updatedAt ge cast(")?;
    let (stamp, _) = rest.split_once(',')?;
    query.contains("$orderby=updatedAt").then(|| stamp.parse().unwrap())
}

async fn i12_a_row_that_appears_within_the_overlap_is_pulled_and_no_other_costs_anything(
    store: impl Store + Clone,
    wire: Wire,
) {
    for (config, overlap) in [("pull_overlap = '0s'", 0), ("", 30), ("pull_overlap = '5m'", 300)] {
        let clock = StillClock::new(5);
        let rows = MemoryRepository::with_clock(clock.clone()).stamping(Stamping::Given(stamp));
        let exchange = RouterExchange::new(service_at(&rows, 100, wire, clock.clone()));
        let store = FaultStore::new(store.clone(), clock.clone());
        let builder = client_over(store.clone(), exchange.clone()).clock(clock.clone());
        let config = SyncConfig::from_toml(&format!("[sync]\n{config}")).unwrap();
        let client = builder.config(config).build().await.unwrap();
        let table = notes(&client);
        let asked: Arc<Mutex<Vec<Timestamp>>> = Arc::default();
        let seen = Arc::clone(&asked);
        exchange.before(move |request| {
            let query = request.url.query_pairs().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
            seen.lock().unwrap().extend(begins_at(&query.join("&")));
        });
        let case = format!("{overlap} s, {wire:?}");

        for number in 0..10 {
            appears(&rows, &clock, &format!("{number}")).await;
            clock.advance(SignedDuration::from_secs(60));
        }
        appears(&rows, &clock, "last").await;
        assert_eq!(table.pull_items(table.query()).await.unwrap().inserted, 11, "{case}");

        // What is read again and is there already changes nothing here.
        let (commits, before) = (store.faults().calls(StoreCall::Commit), local_rows(&table).await);
        for _ in 0..3 {
            let report = table.pull_items(table.query()).await.unwrap();
            assert_eq!((report.inserted, report.updated, report.removed), (0, 0, 0), "{case}");
            let read_again = if wire.extended() { 0 } else { 1 + overlap / 60 };
            assert_eq!(report.received, read_again, "{case}");
        }
        assert_eq!(store.faults().calls(StoreCall::Commit), commits, "{case}");
        assert_eq!(local_rows(&table).await, before, "{case}");

        clock.advance(SignedDuration::from_secs(1));
        for late in [20, 240, 400] {
            appears(&rows, &clock, &format!("late-{late}")).await;
        }
        let found = [20, 240, 400].into_iter().filter(|late| wire.extended() || late < &overlap).count() as u64;
        assert_eq!(table.pull_items(table.query()).await.unwrap().inserted, found, "{case}");
        for late in [20, 240, 400] {
            let here = table.get(&format!("late-{late}")).await.unwrap().is_some();
            assert_eq!(here, wire.extended() || late < overlap, "{case}: {late} s late");
        }

        // However often it is read again from before the mark, the mark stays; also if its row is not there any more.
        let last = rows.read("last").await.unwrap().unwrap().record.updated_at.unwrap();
        rows.lose("last");
        let mut marks = Vec::new();
        for _ in 0..8 {
            clock.advance(SignedDuration::from_secs(60));
            asked.lock().unwrap().clear();
            let report = table.pull_items(table.query()).await.unwrap();
            assert_eq!((report.inserted, report.updated, report.removed), (0, 0, 0), "{case}");
            marks.extend(asked.lock().unwrap().first().copied());
        }
        assert!(marks.is_sorted() && marks.is_empty() == wire.extended(), "{case}: {marks:?}");
        let mark = last - SignedDuration::from_millis(1);
        assert!(marks.last().is_none_or(|begins| *begins == mark), "{case}: {marks:?} {mark}");
        assert_eq!(local_rows(&table).await.len() as u64, 11 + found, "{case}");
        client.reset(ResetOptions::everything()).await.unwrap();
    }
}
