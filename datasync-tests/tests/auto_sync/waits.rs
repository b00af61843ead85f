//! When what has failed is tried again.

use std::time::Duration;

use datasync_core::{
    client::{AutoSync, PendingState, Tables},
    clock::SystemClock,
    config::SyncConfig,
};
use datasync_testkit::{Fault, FaultStore, StoreCall};
use datasync_tests::{MemoryStore, Wire};

use crate::world::{Asks, Meets, NEVER, STEP, World};

datasync_tests::on_both_wires! {
    what_the_service_asked_to_wait_for_is_sent_when_the_wait_is_over
    what_waits_is_not_forgotten_for_what_is_written_meanwhile
    a_wait_that_began_before_the_run_ends_in_it
    what_a_push_of_the_app_leaves_waiting_is_sent
    a_report_counts_what_waits_at_its_end
    writes_are_collected_before_they_are_pushed
    attempts_become_rarer_while_a_service_fails
    a_network_that_is_away_is_asked_for_more_and_more_rarely
    a_disk_that_fails_for_a_while_ends_nothing
}

fn options() -> AutoSync {
    AutoSync::default().pull_every(NEVER)
}

async fn what_the_service_asked_to_wait_for_is_sent_when_the_wait_is_over(wire: Wire) {
    for status in [429, 503] {
        let world = World::new(wire).await;
        world.insert("a").await;
        world.meet_once(Asks::Change, Meets::Status(status, 30));
        let _run = world.run(options()).await;
        world.pass_seconds(29).await;
        assert_eq!(world.asked(Asks::Change), 1, "the service asked for patience");
        world.pass_seconds(2).await;
        assert_eq!((world.asked(Asks::Change), world.there()), (2, vec!["a".to_owned()]));
    }
}

async fn what_waits_is_not_forgotten_for_what_is_written_meanwhile(wire: Wire) {
    let world = World::new(wire).await;
    let _run = world.run(options().push_after(STEP)).await;
    world.meet_once(Asks::Change, Meets::Status(503, 10));
    world.insert("a").await;
    world.pass(STEP).await;
    world.insert("b").await;
    world.pass_seconds(1).await;
    assert_eq!(world.there(), ["b"]);
    world.pass_seconds(10).await;
    assert_eq!(world.there(), ["a", "b"]);
}

async fn a_wait_that_began_before_the_run_ends_in_it(wire: Wire) {
    let world = World::new(wire).await;
    world.insert("a").await;
    world.meet_once(Asks::Change, Meets::Status(503, 60));
    drop(world.run(options()).await);
    let _run = world.run(options()).await;
    world.pass_seconds(59).await;
    assert_eq!(world.asked(Asks::Change), 1);
    world.pass_seconds(2).await;
    assert_eq!(world.there(), ["a"]);
}

async fn what_a_push_of_the_app_leaves_waiting_is_sent(wire: Wire) {
    let world = World::new(wire).await;
    let _run = world.run(options().push_after(Duration::from_secs(2))).await;
    world.insert("a").await;
    world.meet_once(Asks::Change, Meets::Status(503, 20));
    let table = world.table();
    table.pull_items(table.query()).await.unwrap();
    world.pass_seconds(19).await;
    assert_eq!(world.asked(Asks::Change), 1);
    world.pass_seconds(2).await;
    assert_eq!(world.there(), ["a"]);
}

/// Of a service without batches, so that one change of two fails.
#[tokio::test]
async fn what_is_made_ready_by_hand_is_sent() {
    let world = World::new(Wire::Original).await;
    world.insert("a").await;
    let mut changes = 0;
    world.meet(move |asks| {
        changes += u64::from(asks == Asks::Change);
        if asks == Asks::Change && changes % 2 == 1 { Meets::Status(500, 0) } else { Meets::Service }
    });
    for number in 0..10 {
        world.insert(&format!("b{number}")).await;
        world.client.push_tables(Tables::all()).await.unwrap();
    }
    let parked = world.client.pending().await.unwrap().pop().unwrap();
    assert!(matches!(parked.state, PendingState::Parked(_)) && parked.in_doubt, "{parked:?}");
    world.meet(|_| Meets::Service);
    let _run = world.run(options()).await;
    assert!(!world.there().contains(&"a".to_owned()), "it is parked");
    world.client.retry("note", "a").await.unwrap();
    world.pass_seconds(1).await;
    assert!(world.there().contains(&"a".to_owned()));
}

async fn a_report_counts_what_waits_at_its_end(wire: Wire) {
    let world = World::new(wire).await;
    for id in ["a", "b"] {
        world.insert(id).await;
    }
    world.meet(|asks| if asks == Asks::Change { Meets::Status(503, 30) } else { Meets::Service });
    let failed = world.client.push_tables(Tables::all()).await.unwrap();
    assert_eq!((failed.waiting, failed.pushed), (2, 0));
    let until = failed.next_try.unwrap();
    world.meet(|_| Meets::Service);
    let passed = world.client.push_tables(Tables::all()).await.unwrap();
    assert_eq!((passed.waiting, passed.pushed, passed.next_try), (2, 0, Some(until)), "passed over, and still waiting");
    let other = world.client.push_tables(["other"]).await.unwrap();
    assert_eq!((other.waiting, other.next_try), (0, None), "not of this table");
    world.pass_seconds(30).await;
    let done = world.client.push_tables(Tables::all()).await.unwrap();
    assert_eq!((done.waiting, done.pushed, done.next_try), (0, 2, None));
}

async fn writes_are_collected_before_they_are_pushed(wire: Wire) {
    let world = World::new(wire).await;
    let _run = world.run(options().push_after(Duration::from_secs(2))).await;
    for number in 0..8 {
        world.insert(&number.to_string()).await;
        world.pass(Duration::from_millis(200)).await;
    }
    assert_eq!(world.asked(Asks::Change), 0, "two seconds have not passed since the first");
    world.pass_seconds(1).await;
    assert_eq!(world.there().len(), 8);
    let times = world.times(Asks::Change);
    assert_eq!(times.first(), times.last(), "all at once");
}

/// The waits between attempts, in milliseconds.
fn waits(times: &[Duration]) -> Vec<u64> {
    times.windows(2).map(|pair| u64::try_from((pair[1] - pair[0]).as_millis()).unwrap()).collect()
}

/// Each wait is half to the whole of one that doubles from a second up to `longest`.
fn assert_doubling(times: &[Duration], longest: Duration) {
    let longest = u64::try_from(longest.as_millis()).unwrap();
    let waits = waits(times);
    assert!(waits.len() > 8, "{waits:?}");
    for (failures, wait) in waits.iter().enumerate() {
        let whole = (1_000_u64 << failures.min(20)).min(longest);
        // The clock goes in steps, and a push that looks finds nothing to send until the wait is over.
        assert!((whole / 2..=whole + 2 * STEP.as_millis() as u64).contains(wait), "{failures}: {waits:?}");
    }
}

async fn attempts_become_rarer_while_a_service_fails(wire: Wire) {
    let world = World::new(wire).await;
    world.insert("a").await;
    world.meet(|asks| if asks == Asks::Change { Meets::Status(503, 0) } else { Meets::Service });
    let _run = world.run(options()).await;
    world.pass_seconds(1_200).await;
    assert_doubling(&world.times(Asks::Change), Duration::from_secs(3_600));
    assert_eq!(world.client.pending().await.unwrap().len(), 1, "a service that fails everybody parks nothing");
}

async fn a_network_that_is_away_is_asked_for_more_and_more_rarely(wire: Wire) {
    let world = World::new(wire).await;
    world.insert("a").await;
    world.meet(|_| Meets::Nobody);
    let _run = world.run(AutoSync::default().pull_every(Duration::from_secs(300))).await;
    world.pass_seconds(3_600).await;
    let asked = world.requests();
    assert!((20..150).contains(&asked), "{asked} requests in an hour");
    world.meet(|_| Meets::Service);
    world.network.came_back();
    world.settle().await;
    assert_eq!(world.there(), ["a"]);
}

async fn a_disk_that_fails_for_a_while_ends_nothing(wire: Wire) {
    let store = FaultStore::new(MemoryStore::new(), SystemClock);
    let world = World::with(store.clone(), wire, SyncConfig::default()).await;
    let run = world.run(AutoSync::default().pull_every(Duration::from_secs(60))).await;
    world.pass_seconds(1).await;
    for id in ["a", "b"] {
        world.appears(id);
        store.faults().next(StoreCall::Commit, Fault::Refuse);
        world.pass_seconds(180).await;
        assert!(run.goes_on());
    }
    assert_eq!(world.here().await, ["a", "b"]);
}
