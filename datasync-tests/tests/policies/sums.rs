//! Changes that are added up.

use datasync_core::{events::SyncEvent, store::Store};
use datasync_http::{HttpRequest, Method};
use datasync_tests::{Fault, MemoryStore, Wire, on_both_stores, on_both_stores_extended};
use futures::StreamExt;

use crate::world::{Card, NO, World, card, of, two};

on_both_stores_extended! {
    i10_a_sum_counts_each_change_once
}

on_both_stores! {
    i10_a_lost_request_and_an_equal_change_are_two_changes
    sums_need_a_service_that_keeps_keys_and_say_so
}

async fn i10_a_sum_counts_each_change_once(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'").await;
    let faults = [Fault::AnswerLost, Fault::Lost, Fault::None, Fault::Status(503)];
    let mut expected = 5;
    for (turn, device) in [&here, &there, &here, &there, &there, &here, &here].into_iter().enumerate() {
        let other = if turn % 2 == 0 { &there } else { &here };
        for device in [device, other] {
            let card = device.cards().get("1").await.unwrap().unwrap();
            device.cards().replace(Card { count: card.count + 1, ..card }).await.unwrap();
            expected += 1;
            let changes = |request: &HttpRequest| request.method != Method::Get;
            device.exchange.fault(changes, faults[turn % faults.len()]);
            device.sync().await;
        }
    }
    for _ in 0..2 {
        here.sync().await;
        there.sync().await;
    }
    assert_eq!(of::<Card>(&world.cards, "1").count, expected);
    for device in [&here, &there] {
        assert_eq!(device.cards().get("1").await.unwrap().unwrap().count, expected);
        assert!(device.client.pending().await.unwrap().is_empty());
        assert!(device.client.settled_losers().await.unwrap().is_empty(), "a sum loses nothing");
    }
}

async fn i10_a_lost_request_and_an_equal_change_are_two_changes(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'").await;
    for (device, fault) in [(&here, Fault::Lost), (&there, Fault::None)] {
        let card = device.cards().get("1").await.unwrap().unwrap();
        device.cards().replace(Card { count: card.count + 1, ..card }).await.unwrap();
        device.exchange.fault(|request| request.method != Method::Get, fault);
        device.cards().push_items().await.unwrap();
    }
    assert!(here.client.pending().await.unwrap()[0].in_doubt);
    here.sync().await;
    // A service without keys cannot tell whose change it has: nothing is summed up there, and an equal copy counts as ours.
    let expected = if wire.extended() { 7 } else { 6 };
    assert_eq!(of::<Card>(&world.cards, "1").count, expected);
    assert_eq!(here.cards().get("1").await.unwrap().unwrap().count, expected);
    assert!(here.client.pending().await.unwrap().is_empty());
}

async fn sums_need_a_service_that_keeps_keys_and_say_so(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'").await;
    let events = here.client.events();
    for (device, count) in [(&there, 7), (&here, 6)] {
        let card = device.cards().get("1").await.unwrap().unwrap();
        device.cards().replace(Card { count, ..card }).await.unwrap();
        device.sync().await;
    }
    let parked = here.client.conflicts().await.unwrap();
    if wire.extended() {
        assert!(parked.is_empty());
        assert_eq!(of::<Card>(&world.cards, "1").count, 8);
        return;
    }
    assert!(
        parked[0].reason().contains("`count` cannot be summed up: the service keeps no keys"),
        "{}",
        parked[0].reason()
    );
    drop(events);
    // A client tells it once, at its first push.
    let fresh = world.device(MemoryStore::new(), "[tables.card]\nconflict = 'merge'", NO).await;
    let mut events = fresh.client.events();
    fresh.cards().insert(card("2")).await.unwrap();
    fresh.sync().await;
    fresh.cards().insert(card("3")).await.unwrap();
    fresh.sync().await;
    drop(fresh);
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        if let SyncEvent::CannotSum { table, fields } = event {
            told.push((table.to_string(), fields));
        }
    }
    assert_eq!(told, [("card".to_owned(), vec!["count".to_owned()])]);
}
