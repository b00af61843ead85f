//! Live queries: the present, then each change that concerns them, whoever makes it.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{
    clock::SystemClock,
    config::ConflictPolicy,
    error::{Error, ErrorKind},
    memory::MemoryStore,
    query::Query,
    store::Store,
};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault, FaultStore, Gate, StoreCall};
use datasync_tests::{Note, RouterExchange, Wire, client, note_of, notes, service};
use futures::{FutureExt, StreamExt, stream::BoxStream};

type Results = BoxStream<'static, Result<Vec<Note>, Error>>;

async fn next(results: &mut Results) -> Vec<String> {
    let rows = tokio::time::timeout(std::time::Duration::from_secs(10), results.next()).await;
    rows.expect("a change wakes").unwrap().unwrap().into_iter().map(|note| note.title).collect()
}

fn is_quiet(results: &mut Results) -> bool {
    results.next().now_or_never().is_none()
}

fn ranked(id: &str, rank: i64) -> Note {
    Note { rank, ..note_of(id, id) }
}

#[tokio::test]
async fn a_live_query_is_told_that_its_client_was_closed() {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let mut all = notes(&client).query().watch();
    let mut conflicts = client.conflict_stream();
    assert!(next(&mut all).await.is_empty() && conflicts.next().now_or_never().is_none());
    client.close().await.unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), all.next()).await.expect("it is told");
    assert_eq!(ended.unwrap().unwrap_err().kind(), ErrorKind::Store);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), conflicts.next()).await.expect("it is told");
    assert_eq!(ended.unwrap().unwrap_err().kind(), ErrorKind::Store);
}

#[tokio::test]
async fn i22_a_write_that_was_dropped_and_still_happens_is_told() {
    let store = FaultStore::new(MemoryStore::new(), SystemClock);
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended));
    let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let mut all = table.query().watch();
    assert!(next(&mut all).await.is_empty());
    let (gate, open) = Gate::new();
    store.faults().next(StoreCall::Commit, Fault::Hold(gate));
    let mut insert = Box::pin(table.insert(ranked("a", 1)));
    while store.faults().left() > 0 {
        assert!((&mut insert).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(insert);
    drop(open);
    assert_eq!(next(&mut all).await, ["a"], "nobody else polls the commit on");
}

async fn a_live_query_shows_what_concerns_it(store: impl Store + Clone) {
    let store = FaultStore::new(store, SystemClock);
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended));
    let one = client(store.clone(), &exchange, ConflictPolicy::Park).await;
    let other = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let (here, there) = (notes(&one), notes(&other));
    here.insert(ranked("a", 1)).await.unwrap();
    let mut high = here.query().filter(|note| note.rank.ge(5)).watch();
    let mut first = here.query().order_by(|note| note.rank.asc()).top(1).watch();
    assert_eq!((next(&mut high).await, next(&mut first).await), (vec![], vec!["a".to_owned()]));
    assert!(is_quiet(&mut high) && is_quiet(&mut first));

    let reads = store.faults().calls(StoreCall::Read);
    here.insert(ranked("b", 2)).await.unwrap();
    let of_write = store.faults().calls(StoreCall::Read) - reads;
    assert!(is_quiet(&mut high), "a row that does not match concerns nobody");
    assert_eq!(store.faults().calls(StoreCall::Read) - reads, of_write, "and nothing is read for it");
    assert!(is_quiet(&mut first), "the result is the same");

    here.insert(ranked("c", 7)).await.unwrap();
    assert_eq!(next(&mut high).await, ["c"]);
    here.replace(ranked("c", 3)).await.unwrap();
    assert!(next(&mut high).await.is_empty(), "a row that leaves");
    here.replace(ranked("c", 0)).await.unwrap();
    assert_eq!(next(&mut first).await, ["c"], "another row is first");
    here.delete("c").await.unwrap();
    assert_eq!(next(&mut first).await, ["a"]);

    there.insert(ranked("theirs", 9)).await.unwrap();
    there.push_items().await.unwrap();
    assert!(is_quiet(&mut high));
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(next(&mut high).await, ["theirs"], "a pull is a change too");
    here.insert_all((10..20).map(|rank| ranked(&format!("many-{rank}"), rank))).await.unwrap();
    assert_eq!(next(&mut high).await.len(), 11, "one commit, one result");
    assert!(is_quiet(&mut high));

    store.faults().next(StoreCall::Commit, Fault::Refuse);
    here.insert(ranked("refused", 50)).await.unwrap_err();
    assert!(is_quiet(&mut high), "a commit that failed shows nothing new");
    store.faults().next(StoreCall::Commit, Fault::FailAfter);
    here.insert(ranked("late", 50)).await.unwrap();
    assert_eq!(next(&mut high).await.len(), 12, "an outcome that was found out");
}

#[tokio::test]
async fn a_live_query_shows_what_concerns_it_from_memory() {
    a_live_query_shows_what_concerns_it(MemoryStore::new()).await;
}

#[tokio::test]
async fn a_live_query_shows_what_concerns_it_from_redb() {
    let folder = tempfile::tempdir().unwrap();
    a_live_query_shows_what_concerns_it(RedbStore::open(folder.path().join("store.redb")).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_result_is_never_missed() {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    for round in 0..50 {
        let query: Query<Note> = format!("$filter=rank eq {round}").parse().unwrap();
        let mut results = table.query().with(query).watch();
        let writing = table.clone();
        let writer = tokio::spawn(async move {
            for number in 0..20 {
                writing.insert(ranked(&format!("{round}-{number}"), round)).await.unwrap();
            }
        });
        while next(&mut results).await.len() < 20 {}
        writer.await.unwrap();
        assert!(is_quiet(&mut results));
    }
}
