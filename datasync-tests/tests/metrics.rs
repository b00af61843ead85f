//! The metrics of a client: each has the value that the store has.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::BTreeMap;

use datasync_core::{
    client::{DatasyncClient, PendingState, PullOptions, Resolution},
    config::ConflictPolicy,
    error::ErrorKind,
    metrics::{PULL_LAG, QUEUE_DEPTH, QUEUE_LAG},
    store::Store,
};
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::MemoryRepository;
use datasync_tests::{Fault, MemoryStore, Note, RouterExchange, StillClock, Wire, client, note_of, notes, service_at};
use jiff::SignedDuration;
use metrics::Unit;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// The values of all gauges, by name and labels.
fn gauges(recorded: &Snapshotter) -> BTreeMap<(String, Vec<(String, String)>), f64> {
    let value = |(key, unit, description, value): (metrics_util::CompositeKey, Option<Unit>, Option<_>, DebugValue)| {
        let key = key.key();
        let wanted = if key.name() == QUEUE_DEPTH { Unit::Count } else { Unit::Seconds };
        assert!(unit == Some(wanted) && description.is_some(), "{key}");
        let DebugValue::Gauge(value) = value else { panic!("{key} is no gauge") };
        let labels = key.labels().map(|label| (label.key().to_owned(), label.value().to_owned()));
        ((key.name().to_owned(), labels.collect()), value.into_inner())
    };
    recorded.snapshot().into_vec().into_iter().map(value).collect()
}

/// The queue's depth by state, its lag, and the lag of the pulls.
fn recorded(recorded: &Snapshotter) -> ([f64; 6], f64, f64) {
    let table = || ("table".to_owned(), "note".to_owned());
    let gauges = gauges(recorded);
    let depth = ["ready", "waiting", "blocked", "conflict", "parked", "paused"]
        .map(|state| gauges[&(QUEUE_DEPTH.to_owned(), vec![table(), ("state".to_owned(), state.to_owned())])]);
    let of = |name: &str| gauges[&(name.to_owned(), vec![table()])];
    assert_eq!(gauges.len(), 8, "nothing else is recorded");
    (depth, of(QUEUE_LAG), of(PULL_LAG))
}

async fn counted(client: &DatasyncClient) -> [f64; 6] {
    let mut depth = [0.0; 6];
    for change in client.pending().await.unwrap() {
        depth[match change.state {
            PendingState::Ready => 0,
            PendingState::Waiting(_) | PendingState::Throttled(_) => 1,
            PendingState::Blocked { .. } => 2,
            PendingState::Conflict(_) => 3,
            PendingState::Parked(_) => 4,
            PendingState::Paused => 5,
            other => panic!("{other:?} is not counted"),
        }] += 1.0;
    }
    depth
}

fn is_change(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

async fn depth_and_lag_are_those_of_the_store(store: impl Store, wire: Wire) {
    let recorder = DebuggingRecorder::new();
    let snapshot = recorder.snapshotter();
    let _here = metrics::set_default_local_recorder(&recorder);
    let clock = StillClock::new(7);
    let wait = |seconds| clock.advance(SignedDuration::from_secs(seconds));
    let rows = MemoryRepository::with_clock(clock.clone());
    let exchange = RouterExchange::new(service_at(&rows, 100, wire, clock.clone()));
    let transport = HttpTransport::builder("http://service").retries(0).clock(clock.clone());
    let transport = transport.exchange(exchange.clone()).build().unwrap();
    let builder = DatasyncClient::builder().store(store).transport(transport).clock(clock.clone());
    let client = builder.table::<Note>().build().await.unwrap();
    let table = notes(&client);

    table.pull_items(table.query()).await.unwrap();
    assert_eq!(recorded(&snapshot), ([0.0; 6], 0.0, 0.0));

    // One change in each state, made 10 s after another.
    for (id, seconds) in [("conflict", 10), ("parked", 10), ("waiting", 10), ("ready", 10)] {
        wait(seconds);
        table.insert(note_of(id, "here")).await.unwrap();
        match id {
            "conflict" => {
                rows_of_another(&exchange, id).await;
                table.push_items().await.unwrap();
            }
            "parked" => {
                exchange.fault(is_change, Fault::Status(422));
                table.push_items().await.unwrap();
            }
            "waiting" => {
                exchange.fault(is_change, Fault::Status(503));
                table.push_items().await.unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(
        recorded(&snapshot).0,
        [0.0, 1.0, 0.0, 1.0, 1.0, 0.0],
        "a local write is no push: the last one has counted"
    );
    client.record_metrics().await.unwrap();
    let each = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0];
    assert_eq!(recorded(&snapshot), (each, 30.0, 40.0));
    assert_eq!(counted(&client).await, each);

    // An edit behind an attempt in doubt goes after it.
    table.replace(note_of("waiting", "again")).await.unwrap();
    client.record_metrics().await.unwrap();
    assert_eq!(recorded(&snapshot).0, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    assert_eq!(counted(&client).await, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);

    // Without a network what waits grows older.
    wait(100);
    exchange.fault(|_| true, Fault::Refused);
    assert_eq!(table.push_items().await.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(recorded(&snapshot), (counted(&client).await, 130.0, 140.0));
    wait(5);
    exchange.fault(|_| true, Fault::Refused);
    let around = PullOptions::from(table.query()).no_push();
    assert_eq!(table.pull_items(around).await.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(recorded(&snapshot), (counted(&client).await, 135.0, 145.0));

    for conflict in client.conflicts().await.unwrap() {
        client.resolve(&conflict, Resolution::<Note>::Take).await.unwrap();
    }
    client.retry_all(["note"]).await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(recorded(&snapshot), ([0.0; 6], 0.0, 0.0));
    assert_eq!(counted(&client).await, [0.0; 6]);

    // With a sign-in that is refused everything waits for another one.
    table.insert(note_of("paused", "here")).await.unwrap();
    exchange.fault(is_change, Fault::Status(401));
    assert_eq!(table.push_items().await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(recorded(&snapshot).0, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(counted(&client).await, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
}

async fn rows_of_another(exchange: &RouterExchange, id: &str) {
    let there = client(MemoryStore::new(), exchange, ConflictPolicy::Park).await;
    notes(&there).insert(note_of(id, "there")).await.unwrap();
    notes(&there).push_items().await.unwrap();
}

datasync_tests::on_both_stores! {
    depth_and_lag_are_those_of_the_store
}
