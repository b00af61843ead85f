//! What is told while something is under way: each step, with how much of it is done.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use datasync_core::{
    client::{DatasyncClient, Pending, PullOptions, PurgeOptions, ResetOptions, Tables},
    clock::{Clock, SystemClock},
    config::ConflictPolicy,
    error::{ErrorKind, SyncPhase},
    events::{EventStream, SyncEvent},
    row::{OperationKind, ParkReason},
    store::Store,
};
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault as CallFault, FaultTransport, TransportCall};
use datasync_tests::{Fault, MemoryStore, Note, RouterExchange, Wire, client, note_of, notes, service};
use futures::{FutureExt, StreamExt, future::join};

/// What has been told so far, in short: what, how much is done, and of how much.
fn told(events: &mut EventStream) -> Vec<(&'static str, Option<u64>, Option<u64>)> {
    let mut told = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        told.push(match event {
            SyncEvent::SignedIn { .. } => ("signed in", None, None),
            SyncEvent::PushStarted { total } => ("push", None, Some(total)),
            SyncEvent::ItemPushed { done, total, .. } => ("item", Some(done), Some(total)),
            SyncEvent::ItemSettled { done, total, .. } => ("settled", Some(done), total),
            SyncEvent::ItemDelayed { done, total, .. } => ("delayed", Some(done), Some(total)),
            SyncEvent::ItemParked { done, total, .. } => ("parked", Some(done), total),
            SyncEvent::PushEnded(report) => ("push ended", Some(report.pushed), None),
            SyncEvent::PullStarted { .. } => ("pull", None, None),
            SyncEvent::PageFetched { done, total, .. } => ("page", Some(done), total),
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
    let fetched: Vec<_> = pulled.iter().filter(|step| step.0 == "page").collect();
    assert_eq!((fetched.last(), fetched.len()), (Some(&&("page", some(3), some(3))), stored.len()));

    for id in ["a", "b"] {
        table.insert(note_of(id, "here")).await.unwrap();
    }
    table.push_items().await.unwrap();
    let items = [("item", some(1), some(2)), ("item", some(2), some(2))];
    let pushed = told(&mut events);
    assert_eq!(pushed, [&[("push", None, some(2))][..], &items, &[("push ended", some(2), None)]].concat());
    table.insert(note_of("c", "here")).await.unwrap();
    exchange.fault(is_change, Fault::Status(503));
    table.push_items().await.unwrap();
    exchange.fault(is_change, Fault::Status(422));
    table.push_items().await.unwrap();
    let (begins, ended) = (("push", None, some(1)), ("push ended", some(0), None));
    let (delayed, parked) = (("delayed", some(0), some(1)), ("parked", some(1), some(1)));
    assert_eq!(
        told(&mut events),
        [begins, delayed, ended, begins, parked, ended],
        "only what was pushed is told as pushed"
    );

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
        let parked = all(events).into_iter().filter_map(|event| match event {
            SyncEvent::ItemParked { table, id, reason, .. } => Some((table.to_string(), id.to_string(), reason)),
            _ => None,
        });
        parked.collect::<Vec<_>>()
    };
    let report = table.pull_items(PullOptions::default().no_push()).await.unwrap();
    assert_eq!(report.conflicts, 2);
    let expected = ids.map(|id| ("note".to_owned(), id.to_owned(), ParkReason::Conflict));
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

async fn the_total_of_a_push_is_what_the_store_has_for_it_and_for_who_joins(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 1_000, wire));
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
    let transport = FaultTransport::new(transport, SystemClock);
    let builder = DatasyncClient::builder().store(store).transport(transport.clone());
    let client = builder.table::<Note>().build().await.unwrap();
    let table = notes(&client);
    table.insert(note_of("parked", "here")).await.unwrap();
    exchange.fault(is_change, Fault::Status(422));
    table.push_items().await.unwrap();

    let mut events = client.events();
    table.insert_all((0..120).map(|row| note_of(&format!("{row:05}"), "here"))).await.unwrap();
    table.push_items().await.unwrap();
    let mut steps = told(&mut events).into_iter();
    assert_eq!(steps.next(), Some(("push", None, Some(120))), "a wave holds a hundred");
    assert!((1..=120).eq(steps.by_ref().take(120).map(|step| step.1.unwrap())));
    assert_eq!(steps.next(), Some(("push ended", Some(120), None)));

    table.insert(note_of("first", "here")).await.unwrap();
    transport.faults().next(TransportCall::Push, CallFault::Delay(Duration::from_millis(300)));
    let joining = async {
        SystemClock.sleep(Duration::from_millis(50)).await;
        table.insert_all(["joins", "joins too"].map(|id| note_of(&id.replace(' ', "-"), "here"))).await.unwrap();
        table.push_items().await.unwrap();
    };
    let (pushed, ()) = join(table.push_items(), joining).await;
    assert_eq!(pushed.unwrap().pushed, 3);
    let item = |done, total| ("item", Some(done), Some(total));
    let (begins, ended) = (("push", None, Some(1)), ("push ended", Some(3), None));
    assert_eq!(told(&mut events), [begins, item(1, 1), item(2, 3), item(3, 3), ended]);
}

fn all(events: &mut EventStream) -> Vec<SyncEvent> {
    std::iter::from_fn(|| events.next().now_or_never().flatten()).collect()
}

/// What has parked an operation, its row, reason and status, and how much was done.
type Parked = (SyncPhase, String, ParkReason, Option<u16>, u64, Option<u64>);

fn parked(events: &mut EventStream) -> Vec<Parked> {
    let parked = all(events).into_iter().filter_map(|event| match event {
        SyncEvent::ItemParked { phase, id, reason, status, message, done, total, .. } => {
            assert!(!message.is_empty());
            Some((phase, id.as_ref().to_owned(), reason, status, done, total))
        }
        _ => None,
    });
    parked.collect()
}

async fn what_is_parked_is_told_with_its_reason(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 1_000, wire));
    let there = fill(&exchange, 2).await;
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let (table, mut events) = (notes(&client), client.events());
    let (push, pull) = (SyncPhase::Push, SyncPhase::Pull);

    table.insert(note_of("refused", "here")).await.unwrap();
    exchange.fault(is_change, Fault::Status(422));
    table.push_items().await.unwrap();
    let refused = (push, "refused".to_owned(), ParkReason::Refused, Some(422), 1, Some(1));
    assert_eq!(parked(&mut events), [refused]);

    table.insert(note_of("00000", "here")).await.unwrap();
    table.push_items().await.unwrap();
    let conflict = (push, "00000".to_owned(), ParkReason::Conflict, None, 1, Some(1));
    assert_eq!(parked(&mut events), [conflict]);

    let whole = || PullOptions::default().no_push();
    table.pull_items(whole()).await.unwrap();
    table.replace(note_of("00001", "here")).await.unwrap();
    notes(&there).replace(note_of("00001", "changed there")).await.unwrap();
    notes(&there).push_items().await.unwrap();
    all(&mut events);
    table.pull_items(whole()).await.unwrap();
    let found = parked(&mut events);
    let [(phase, id, reason, status, done, _)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((*phase, id.as_str(), *reason, *status), (pull, "00001", ParkReason::Conflict, None));
    assert!(*done > 0);

    // What cannot be sent counts too.
    exchange.after(|answer| {
        answer.headers.retain(|(name, _)| name != "etag");
        if let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(&answer.body)
            && let Some(row) = json.as_object_mut().filter(|row| row.contains_key("title"))
        {
            row.remove("version");
            answer.body = serde_json::to_vec(&json).unwrap();
        }
    });
    let bare = datasync_tests::client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let (table, mut events) = (notes(&bare), bare.events());
    table.insert(note_of("bare", "here")).await.unwrap();
    table.push_items().await.unwrap();
    table.replace(note_of("bare", "here again")).await.unwrap();
    table.push_items().await.unwrap();
    let unsendable = (push, "bare".to_owned(), ParkReason::Refused, None, 1, Some(1));
    assert_eq!(parked(&mut events), [unsendable]);
}

async fn the_attempt_that_parks_an_operation_does_not_delay_it(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 1_000, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let (table, mut events) = (notes(&client), client.events());
    table.insert(note_of("hopeless", "here")).await.unwrap();
    for _ in 0..9 {
        exchange.fault(is_change, Fault::Status(503));
        table.push_items().await.unwrap();
    }
    let delayed = all(&mut events).into_iter().filter(|event| {
        let told = (OperationKind::Insert, Some(503), 0, 1);
        matches!(event, SyncEvent::ItemDelayed { kind, status, done, total, .. } if (*kind, *status, *done, *total) == told)
    });
    assert_eq!(delayed.count(), 9);
    // The push of a pull leaves alone what waits; this one tells that the service does its work.
    table.insert(note_of("fine", "here")).await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    exchange.fault(is_change, Fault::Status(503));
    all(&mut events);
    table.push_items().await.unwrap();
    let last = all(&mut events);
    assert!(!last.iter().any(|event| matches!(event, SyncEvent::ItemDelayed { .. })), "{last:?}");
    let is_parked = |event: &SyncEvent| {
        matches!(event, SyncEvent::ItemParked { reason: ParkReason::Exhausted, status: Some(503), .. })
    };
    assert!(last.iter().any(is_parked), "{last:?}");
}

async fn a_conflict_that_a_policy_settles_is_told_as_settled(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 1_000, wire));
    drop(fill(&exchange, 1).await);
    let client = client(store, &exchange, ConflictPolicy::ClientWins).await;
    let (table, mut events) = (notes(&client), client.events());
    table.insert(note_of("00000", "here")).await.unwrap();
    table.push_items().await.unwrap();
    let (begins, settled) = (("push", None, Some(1)), ("settled", Some(0), Some(1)));
    let pushed = [begins, settled, ("item", Some(1), Some(1)), ("push ended", Some(1), None)];
    assert_eq!(told(&mut events), pushed, "it is sent once more, and then it is done");
}

async fn a_push_that_fails_names_the_row_that_it_failed_at(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 1_000, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    notes(&client).insert(note_of("a", "here")).await.unwrap();
    exchange.fault(is_change, Fault::Refused);
    let mut events = client.events();
    client.push_tables(Tables::all()).await.unwrap_err();
    let failed = all(&mut events).pop().unwrap();
    let SyncEvent::Failed { phase: SyncPhase::Push, table, id, .. } = failed else { panic!("{failed:?}") };
    assert_eq!((table.as_deref(), id.as_deref()), (Some("note"), Some("a")));
}

datasync_tests::on_both_stores! {
    each_step_is_told_with_what_is_done_and_of_how_much
    a_pull_tells_what_it_parks
    the_total_of_a_push_is_what_the_store_has_for_it_and_for_who_joins
    what_is_parked_is_told_with_its_reason
    the_attempt_that_parks_an_operation_does_not_delay_it
    a_conflict_that_a_policy_settles_is_told_as_settled
    a_push_that_fails_names_the_row_that_it_failed_at
}

datasync_tests::on_both_wires! {
    long_comparison
}

async fn long_comparison(wire: Wire) {
    a_long_comparison_is_told_part_by_part(MemoryStore::new(), wire).await;
}
