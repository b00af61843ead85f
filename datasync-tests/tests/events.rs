//! What is told while something is under way: each step, with how much of it is done.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{
    client::{DatasyncClient, Pending, PullOptions, PurgeOptions, ResetOptions},
    config::ConflictPolicy,
    error::{ErrorKind, SyncPhase},
    events::{EventStream, SyncEvent},
    store::Store,
};
use datasync_http::{HttpRequest, Method};
use datasync_server::MemoryRepository;
use datasync_tests::{Fault, MemoryStore, RouterExchange, Wire, client, note_of, notes, service};
use futures::{FutureExt, StreamExt};

/// What has been told so far, in short: what, how much is done, and of how much.
fn told(events: &mut EventStream) -> Vec<(&'static str, Option<u64>, Option<u64>)> {
    let mut told = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        told.push(match event {
            SyncEvent::SignedIn { .. } => ("signed in", None, None),
            SyncEvent::PushStarted => ("push", None, None),
            SyncEvent::ItemPushed { done, total, .. } => ("item", Some(done), Some(total)),
            SyncEvent::ItemDelayed { .. } => ("delayed", None, None),
            SyncEvent::ItemParked { .. } => ("parked", None, None),
            SyncEvent::PushEnded(report) => ("push ended", Some(report.pushed), None),
            SyncEvent::PullStarted { .. } => ("pull", None, None),
            SyncEvent::PageFetched { rows, .. } => ("page", Some(rows), None),
            SyncEvent::PageCommitted { done, total, .. } => ("page stored", Some(done), total),
            SyncEvent::PullEnded { report, .. } => ("pull ended", Some(report.received), None),
            SyncEvent::VerifyStarted { .. } => ("verify", None, None),
            SyncEvent::VerifyProgress { done, total, .. } => ("compared", Some(done), total),
            SyncEvent::VerifyEnded { report, .. } => ("verify ended", Some(report.compared), None),
            SyncEvent::RemovalStarted { total, .. } => ("removal", None, Some(total)),
            SyncEvent::RemovalEnded { report, .. } => ("removed", Some(report.rows), None),
            SyncEvent::Failed { phase: SyncPhase::Leave, kind: ErrorKind::Pending, .. } => ("refused", None, None),
            other => panic!("{other:?} is not looked at"),
        });
    }
    told
}

fn is_change(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

async fn fill(exchange: &RouterExchange, rows: usize) -> DatasyncClient {
    let there = client(MemoryStore::new(), exchange, ConflictPolicy::Park).await;
    let new = (0..rows).map(|row| note_of(&format!("{row:05}"), "there")).collect::<Vec<_>>();
    notes(&there).insert_all(new).await.unwrap();
    notes(&there).push_items().await.unwrap();
    there
}

async fn each_step_is_told_with_what_is_done_and_of_how_much(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 1_000, wire));
    drop(fill(&exchange, 3).await);
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let (table, mut events) = (notes(&client), client.events());

    table.pull_items(table.query()).await.unwrap();
    let pulled = told(&mut events);
    let some = |number| Some(number);
    assert_eq!(pulled.first(), Some(&("pull", None, None)));
    assert_eq!(pulled.last(), Some(&("pull ended", some(3), None)));
    // Rows without a stamp have pages of their own.
    let stored: Vec<_> = pulled.iter().filter(|step| step.0 == "page stored").collect();
    assert_eq!(stored.last(), Some(&&("page stored", some(3), some(3))));
    assert_eq!(pulled.iter().filter(|step| step.0 == "page").count(), stored.len());

    for id in ["a", "b"] {
        table.insert(note_of(id, "here")).await.unwrap();
    }
    table.push_items().await.unwrap();
    let items = [("item", some(1), some(2)), ("item", some(2), some(2))];
    let pushed = told(&mut events);
    assert_eq!(pushed, [&[("push", None, None)][..], &items, &[("push ended", some(2), None)]].concat());
    table.insert(note_of("c", "here")).await.unwrap();
    exchange.fault(is_change, Fault::Status(503));
    table.push_items().await.unwrap();
    exchange.fault(is_change, Fault::Status(422));
    table.push_items().await.unwrap();
    let steps: Vec<_> = told(&mut events).into_iter().map(|(what, ..)| what).collect();
    assert_eq!(steps, ["push", "delayed", "push ended", "push", "parked", "item", "push ended"]);

    table.verify_items(table.query()).await.unwrap();
    let verified = told(&mut events);
    assert_eq!(verified, [("verify", None, None), ("compared", some(5), some(5)), ("verify ended", some(5), None)]);

    assert_eq!(table.purge_items(PurgeOptions::default()).await.unwrap_err().kind(), ErrorKind::Pending);
    assert_eq!(told(&mut events), [("removal", None, some(6)), ("refused", None, None)]);
    let one = table.query().filter(|note| note.id.eq("a"));
    table.purge_items(PurgeOptions::default().query(one)).await.unwrap();
    assert_eq!(told(&mut events), [("removal", None, some(1)), ("removed", some(1), None)]);
    table.purge_items(PurgeOptions::default().force()).await.unwrap();
    assert_eq!(told(&mut events), [("removal", None, some(5)), ("removed", some(5), None)]);
    client.reset(ResetOptions::everything()).await.unwrap();
    assert_eq!(told(&mut events), [("removal", None, some(0)), ("removed", some(0), None)]);
    table.insert(note_of("d", "here")).await.unwrap();
    told(&mut events);
    client.sign_out(Pending::Discard).await.unwrap();
    assert_eq!(told(&mut events), [("removal", None, some(1)), ("removed", some(1), None)]);
}

async fn a_pull_tells_what_it_parks(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 1_000, wire));
    let there = notes(&fill(&exchange, 3).await);
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    let ids = ["00001", "00002"];
    for id in ids {
        table.replace(note_of(id, "here")).await.unwrap();
        there.replace(note_of(id, "there too")).await.unwrap();
    }
    there.push_items().await.unwrap();
    let mut events = client.events();
    let parked = |events: &mut EventStream| {
        let mut parked = Vec::new();
        while let Some(Some(event)) = events.next().now_or_never() {
            if let SyncEvent::ItemParked { table, id, reason } = event {
                parked.push((table.to_string(), id.to_string(), reason));
            }
        }
        parked
    };
    let report = table.pull_items(PullOptions::default().no_push()).await.unwrap();
    assert_eq!(report.conflicts, 2);
    let expected = ids.map(|id| ("note".to_owned(), id.to_owned(), "conflict".to_owned()));
    assert_eq!(parked(&mut events), expected);
    let waiting = client.conflicts().await.unwrap();
    assert_eq!(waiting.iter().map(|conflict| conflict.id()).collect::<Vec<_>>(), ids);

    // It is shown as it has become, and waits as before.
    there.replace(note_of("00001", "there again")).await.unwrap();
    there.push_items().await.unwrap();
    let report = table.pull_items(PullOptions::default().no_push()).await.unwrap();
    assert_eq!((report.conflicts, parked(&mut events)), (0, Vec::new()), "told once");
}

async fn a_long_comparison_is_told_part_by_part(store: impl Store, wire: Wire) {
    const ROWS: u64 = 2_500;
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 1_000, wire));
    drop(fill(&exchange, ROWS as usize).await);
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let (table, mut events) = (notes(&client), client.events());
    table.pull_items(table.query()).await.unwrap();
    told(&mut events);
    table.verify_items(table.query()).await.unwrap();
    let compared: Vec<_> = told(&mut events).into_iter().filter(|step| step.0 == "compared").collect();
    assert_eq!(compared, [1_000, 2_000, ROWS].map(|done| ("compared", Some(done), Some(ROWS))));
}

datasync_tests::on_both_stores! {
    each_step_is_told_with_what_is_done_and_of_how_much
    a_pull_tells_what_it_parks
}

datasync_tests::on_both_wires! {
    long_comparison
}

async fn long_comparison(wire: Wire) {
    a_long_comparison_is_told_part_by_part(MemoryStore::new(), wire).await;
}
