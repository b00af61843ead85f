//! Synchronization that goes on by itself.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod pulls;
mod sign_in;
mod waits;
mod world;

use std::{sync::atomic::Ordering, time::Duration};

use datasync_core::{
    client::{AutoSync, DatasyncClient, NetworkSignal, PendingState},
    clock::{Clock as _, SystemClock},
    config::ConflictPolicy,
    error::ErrorKind,
    store::Store,
};
use datasync_server::MemoryRepository;
use datasync_tests::{
    Fault, MemoryStore, RouterExchange, Wire, client, local_rows, note_of, notes, service, service_rows,
};

datasync_tests::on_both_stores! {
    a_local_write_is_pushed_soon
    changes_of_others_come_at_the_interval
    the_return_of_the_network_ends_a_wait
    a_refused_sign_in_pauses_until_the_app_says_so
    i22_a_run_may_be_dropped_at_any_await
    intervals_out_of_their_range_are_errors
    sync_until_does_what_fits
}

datasync_tests::on_both_wires! {
    what_waits_is_sent_again_by_itself
}

/// How long a test waits for what must come, at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until it is so.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes in time");
}

/// Ends when its guard is dropped.
fn started(client: &DatasyncClient, options: AutoSync) -> tokio::task::JoinHandle<datasync_core::error::Error> {
    let client = client.clone();
    tokio::spawn(async move { client.run(options).await })
}

fn never() -> Duration {
    Duration::from_secs(3_000)
}

async fn a_local_write_is_pushed_soon(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let run = started(&client, AutoSync::default().push_after(Duration::from_millis(20)).pull_every(never()));
    until(async || exchange.requests.load(Ordering::SeqCst) > 0).await;
    for round in 0..3 {
        for number in 0..10 {
            notes(&client).upsert(note_of(&format!("{number}"), &format!("round {round}"))).await.unwrap();
        }
        until(async || client.pending().await.unwrap().is_empty()).await;
        assert_eq!(local_rows(&notes(&client)).await, service_rows(&rows));
    }
    assert!(!run.is_finished());
    run.abort();
}

async fn changes_of_others_come_at_the_interval(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let device = client(store, &exchange, ConflictPolicy::Park).await;
    let other = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    // A service that tells of changes needs no interval.
    let interval = if wire.extended() { never() } else { Duration::from_secs(1) };
    let run = started(&device, AutoSync::default().pull_every(interval));
    for round in 0..3 {
        notes(&other).insert(note_of(&format!("{round}"), "theirs")).await.unwrap();
        notes(&other).push_items().await.unwrap();
        until(async || notes(&device).count().await.unwrap() == round + 1).await;
    }
    run.abort();
}

async fn the_return_of_the_network_ends_a_wait(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    notes(&client).insert(note_of("a", "mine")).await.unwrap();
    for _ in 0..40 {
        exchange.fault(|_| true, Fault::Refused);
    }
    let network = NetworkSignal::default();
    let options = AutoSync::default().push_after(Duration::from_millis(1)).pull_every(never()).network(&network);
    let run = started(&client, options);
    until(async || exchange.faults_left() < 40).await;
    assert_eq!(client.pending().await.unwrap().len(), 1, "nothing is lost");
    while exchange.faults_left() > 0 {
        network.came_back();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    network.came_back();
    until(async || client.pending().await.unwrap().is_empty()).await;
    assert_eq!(service_rows(&rows).len(), 1);
    run.abort();
}

async fn a_refused_sign_in_pauses_until_the_app_says_so(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    notes(&client).insert(note_of("a", "mine")).await.unwrap();
    exchange.fault(|request| request.method != datasync_http::Method::Get, Fault::Status(401));
    let network = NetworkSignal::default();
    let run = started(&client, AutoSync::default().pull_every(Duration::from_secs(1)).network(&network));
    until(async || exchange.faults_left() == 0).await;
    until(async || client.pending().await.unwrap()[0].state == PendingState::Paused).await;
    let asked = exchange.requests.load(Ordering::SeqCst);
    notes(&client).insert(note_of("b", "mine")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(exchange.requests.load(Ordering::SeqCst), asked, "nothing is tried by itself");
    network.came_back();
    until(async || service_rows(&rows).len() == 2).await;
    run.abort();
}

async fn intervals_out_of_their_range_are_errors(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    for options in [
        AutoSync::default().pull_every(Duration::ZERO),
        AutoSync::default().pull_every(Duration::from_millis(999)),
        AutoSync::default().push_after(Duration::from_secs(3_601)),
    ] {
        let error = client.run(options).await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("must be from"), "{error}");
    }
    assert_eq!(exchange.requests.load(Ordering::SeqCst), 0);
}

async fn i22_a_run_may_be_dropped_at_any_await(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    for polls in 0..25 {
        notes(&client).upsert(note_of(&format!("{polls}"), "mine")).await.unwrap();
        let run = client.run(AutoSync::default());
        let mut run = Box::pin(run);
        for _ in 0..polls {
            assert!(futures::poll!(run.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }
    notes(&client).pull_items(notes(&client).query()).await.unwrap();
    client.push_tables(datasync_core::client::Tables::all()).await.unwrap();
    assert!(client.pending().await.unwrap().is_empty());
    assert_eq!(service_rows(&rows).len(), 25);
    assert_eq!(local_rows(&notes(&client)).await, service_rows(&rows));
}

async fn sync_until_does_what_fits(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    notes(&client).insert(note_of("a", "mine")).await.unwrap();
    let nothing = client.sync_until(SystemClock.now()).await.unwrap();
    assert!(!nothing.complete);
    let report = client.sync_until(SystemClock.now() + PATIENCE).await.unwrap();
    assert!(report.complete && report.push.is_some(), "{report:?}");
    assert_eq!(report.pulls.keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["note"]);
    assert_eq!(service_rows(&rows).len(), 1);
    client.close().await.unwrap();
    assert_eq!(client.run(AutoSync::default()).await.kind(), ErrorKind::Store, "it ends with what no waiting mends");
}

async fn what_waits_is_sent_again_by_itself(wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    notes(&client).insert(note_of("a", "mine")).await.unwrap();
    exchange.fault(|request| request.method != datasync_http::Method::Get, Fault::Status(503));
    let run = started(&client, AutoSync::default().pull_every(never()));
    until(async || exchange.faults_left() == 0).await;
    until(async || client.pending().await.unwrap().is_empty()).await;
    assert_eq!(service_rows(&rows).len(), 1);
    run.abort();
}
