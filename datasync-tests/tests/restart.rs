//! What waits for somebody survives the end of the program, and a purge does not drop it (I19, I20).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{
    client::{PendingState, PurgeOptions, Resolution},
    config::ConflictPolicy,
    error::ErrorKind,
    memory::MemoryStore,
};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_tests::{Fault, Note, RouterExchange, Wire, client, local_rows, note_of, notes, service, service_rows};

async fn i19_conflicts_doubts_and_losers_survive_a_restart(wire: Wire) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let other = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let there = notes(&other);
    let one = client(RedbStore::open(&path).unwrap(), &exchange, ConflictPolicy::Park).await;
    let here = notes(&one);
    for id in ["conflict", "doubt"] {
        here.insert(note_of(id, "one")).await.unwrap();
    }
    here.push_items().await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    there.replace(note_of("conflict", "theirs")).await.unwrap();
    there.push_items().await.unwrap();
    here.replace(note_of("conflict", "ours")).await.unwrap();
    here.push_items().await.unwrap();
    here.replace(note_of("doubt", "two")).await.unwrap();
    exchange.fault(|request| request.method == datasync_http::Method::Put, Fault::AnswerLost);
    here.push_items().await.unwrap();
    let (conflicts, pending) = (one.conflicts().await.unwrap(), one.pending().await.unwrap());
    one.close().await.unwrap();

    let one = client(RedbStore::open(&path).unwrap(), &exchange, ConflictPolicy::Park).await;
    let here = notes(&one);
    assert_eq!(one.conflicts().await.unwrap(), conflicts);
    assert_eq!(one.pending().await.unwrap(), pending);
    assert!(pending[1].in_doubt);
    assert_eq!(conflicts[0].base::<Note>().unwrap().unwrap().title, "one");
    one.resolve::<Note>(&conflicts[0], Resolution::Take).await.unwrap();
    here.push_items().await.unwrap();
    assert_eq!(local_rows(&here).await, service_rows(&rows));
    let losers = one.settled_losers().await.unwrap();
    one.close().await.unwrap();

    let one = client(RedbStore::open(&path).unwrap(), &exchange, ConflictPolicy::Park).await;
    let here = notes(&one);
    assert_eq!(one.settled_losers().await.unwrap(), losers);
    assert_eq!(losers[0].entity::<Note>().unwrap().title, "ours");
    let refused = here.purge_items(PurgeOptions::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Pending);
    assert_eq!(refused.pending()[0].state, PendingState::Loser);
    here.purge_items(PurgeOptions::default().force()).await.unwrap();
    assert!(one.settled_losers().await.unwrap().is_empty());
}

async fn i20_a_purge_by_query_takes_only_its_rows_and_a_pull_brings_them_back(wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    for rank in 0..10 {
        table.insert(Note { rank, ..note_of(&rank.to_string(), "one") }).await.unwrap();
    }
    table.push_items().await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    table.replace(Note { rank: 9, ..note_of("9", "unsent") }).await.unwrap();
    let some = PurgeOptions::default().query(table.query().filter(|n| n.rank.lt(5)));
    assert_eq!(table.purge_items(some).await.unwrap().rows, 5, "the unsent row is not among them");
    let all = PurgeOptions::default().query(table.query().filter(|n| n.rank.ge(5)));
    assert_eq!(table.purge_items(all).await.unwrap_err().kind(), ErrorKind::Pending);
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

datasync_tests::on_both_wires! { i19_conflicts_doubts_and_losers_survive_a_restart i20_a_purge_by_query_takes_only_its_rows_and_a_pull_brings_them_back }
