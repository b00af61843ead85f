//! Once faults stop, every queue drains or parks and every pull ends, in a bounded number of rounds (I24).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::atomic::Ordering;

use datasync_core::{
    client::{DatasyncClient, PendingState, Tables},
    clock::Clock as _,
    config::ConflictPolicy,
    store::Store,
};
use datasync_server::MemoryRepository;
use datasync_tests::{
    Fault, MemoryStore, RouterExchange, StillClock, Wire, client, local_rows, note_of, notes, service, service_rows,
};

datasync_tests::on_both_stores! {
    i24_once_faults_stop_queues_drain_or_park_and_pulls_end
}

const FAULTS: [Fault; 8] = [
    Fault::None,
    Fault::Lost,
    Fault::AnswerLost,
    Fault::Refused,
    Fault::Status(401),
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(503),
];
/// Rows that two devices write to.
const IDS: usize = 6;
/// Rounds of a push and a pull in which all must be done: one sends what waited and meets what the others did, one more sends
/// what a policy or a collapse has made of that.
const ROUNDS: usize = 2;

async fn i24_once_faults_stop_queues_drain_or_park_and_pulls_end(store: impl Store + Clone, wire: Wire) {
    let rows = MemoryRepository::new();
    for (seed, policy) in (0..).zip([ConflictPolicy::Park, ConflictPolicy::ClientWins, ConflictPolicy::ServerWins]) {
        let random = StillClock::new(seed);
        let draw = |most: usize| (random.random() % most as u64) as usize;
        let exchange = RouterExchange::new(service(&rows, 4, wire));
        let mut device = client(store.clone(), &exchange, policy).await;
        let calm = RouterExchange::new(service(&rows, 4, wire));
        let other = client(MemoryStore::new(), &calm, ConflictPolicy::ClientWins).await;
        for _ in 0..60 {
            match draw(8) {
                0..=3 => edit(&device, draw(IDS), draw(5)).await,
                4 => {
                    edit(&other, draw(IDS), draw(5)).await;
                    notes(&other).pull_items(notes(&other).query()).await.unwrap();
                }
                5 => device = client(store.clone(), &exchange, policy).await,
                chosen => {
                    for _ in 0..draw(6) {
                        exchange.fault(|_| true, FAULTS[draw(FAULTS.len())]);
                    }
                    // What a fault makes of it is the other tests' matter.
                    if chosen == 6 {
                        drop(device.push_tables(Tables::all()).await);
                    } else {
                        drop(notes(&device).pull_items(notes(&device).query()).await);
                    }
                }
            }
        }
        exchange.clear_faults();
        let before = exchange.requests.load(Ordering::SeqCst);
        for _ in 0..ROUNDS {
            device.push_tables(Tables::all()).await.unwrap();
            notes(&device).pull_items(notes(&device).query()).await.unwrap();
        }
        let requests = exchange.requests.load(Ordering::SeqCst) - before;
        // For each row: its two operations, and a look at what became of them; and the pages and walks of the pulls.
        assert!(requests <= ROUNDS * (4 * IDS + 20), "{requests} requests, {policy:?} {wire:?}");
        let pending = device.pending().await.unwrap();
        let ended = |state: &PendingState| matches!(state, PendingState::Conflict(_) | PendingState::Parked(_));
        assert!(pending.iter().all(|change| ended(&change.state)), "{pending:?} {policy:?} {wire:?}");
        let waits = |id: &str| pending.iter().any(|change| change.id.as_ref() == id);
        let rest = |all: Vec<(String, String, i64)>| all.into_iter().filter(|row| !waits(&row.0)).collect::<Vec<_>>();
        assert_eq!(rest(local_rows(&notes(&device)).await), rest(service_rows(&rows)), "{policy:?} {wire:?}");
    }
}

async fn edit(client: &DatasyncClient, id: usize, what: usize) {
    let (notes, id) = (notes(client), format!("{id}"));
    if what > 0 {
        notes.upsert(note_of(&id, &format!("{what}"))).await.unwrap();
    } else if notes.get(&id).await.unwrap().is_some() {
        notes.delete(&id).await.unwrap();
    }
}
