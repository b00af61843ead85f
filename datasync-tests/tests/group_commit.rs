//! Writers share commits (DESIGN.md section 10).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{clock::SystemClock, config::ConflictPolicy, error::ErrorKind, memory::MemoryStore, store::Store};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault, FaultStore, Gate, StoreCall};
use datasync_tests::{RouterExchange, Wire, client, local_rows, note, note_of, notes, service};
use futures::future::join_all;

fn exchange() -> RouterExchange {
    RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended))
}

#[tokio::test]
async fn sixty_four_inserts_behind_a_held_commit_take_two_commits() {
    let store = FaultStore::new(MemoryStore::new(), SystemClock);
    let client = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
    let table = notes(&client);
    let (gate, release) = Gate::new();
    store.faults().next(StoreCall::Commit, Fault::Hold(gate));
    let before = store.faults().calls(StoreCall::Commit);
    let mut inserts: Vec<_> = (0..62).map(|number| note(&number.to_string())).collect();
    inserts.extend([note_of("twice", "first"), note_of("twice", "second")]);
    let mut inserts = Box::pin(join_all(inserts.into_iter().map(|note| table.insert(note))));
    assert!(futures::poll!(inserts.as_mut()).is_pending(), "all 64 are polled and the first commit is held");
    drop(release);
    let outcomes = inserts.await;
    assert!(store.faults().calls(StoreCall::Commit) - before <= 2);
    let failed: Vec<ErrorKind> = outcomes.into_iter().filter_map(Result::err).map(|error| error.kind()).collect();
    assert_eq!(failed, [ErrorKind::Exists], "one of the two with one id");
    assert_eq!(local_rows(&table).await.len(), 63);
    assert_eq!(client.pending().await.unwrap().len(), 63);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_inserts_share_the_commits_of_redb() {
    let folder = tempfile::tempdir().unwrap();
    let store = FaultStore::new(RedbStore::open(folder.path().join("store.redb")).unwrap(), SystemClock);
    let client = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
    let table = notes(&client);
    let before = store.faults().calls(StoreCall::Commit);
    let tasks = (0..64).map(|number| {
        let table = table.clone();
        tokio::spawn(async move { table.insert(note(&number.to_string())).await.map(drop) })
    });
    for outcome in join_all(tasks).await {
        outcome.unwrap().unwrap();
    }
    let commits = store.faults().calls(StoreCall::Commit) - before;
    println!("64 inserts from 64 tasks on redb took {commits} commits");
    assert!(commits < 64);
    assert_eq!(local_rows(&table).await.len(), 64);
}

#[tokio::test]
async fn i01_a_commit_whose_answer_was_lost_happens_once() {
    use Fault::{FailAfter, FailBefore};
    for faults in [vec![FailAfter], vec![FailBefore], vec![FailBefore, FailBefore, FailAfter]] {
        let memory = MemoryStore::new();
        let store = FaultStore::new(memory.clone(), SystemClock);
        let client = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
        let table = notes(&client);
        let before = memory.head().await.unwrap().number;
        faults.into_iter().for_each(|fault| store.faults().next(StoreCall::Commit, fault));
        table.insert(note_of("a", "one")).await.unwrap();
        table.insert(note_of("b", "two")).await.unwrap();
        assert_eq!(local_rows(&table).await.len(), 2);
        assert_eq!(client.pending().await.unwrap().len(), 2);
        assert_eq!(store.faults().left(), 0);
        assert_eq!(memory.head().await.unwrap().number, before + 2);
    }
}

#[tokio::test]
async fn i22_a_dropped_insert_is_all_or_nothing_and_the_next_works() {
    for polls in 0..6 {
        let store = FaultStore::new(MemoryStore::new(), SystemClock);
        let client = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
        let table = notes(&client);
        let (gate, release) = Gate::new();
        store.faults().next(StoreCall::Commit, Fault::Hold(gate));
        {
            let mut insert = Box::pin(table.insert(note_of("a", "dropped")));
            for _ in 0..polls {
                assert!(futures::poll!(insert.as_mut()).is_pending());
            }
        }
        drop(release);
        table.insert(note_of("b", "next")).await.unwrap();
        let rows = local_rows(&table).await.len();
        assert_eq!(client.pending().await.unwrap().len(), rows, "never a row without its operation");
        assert!(table.get("b").await.unwrap().is_some());
    }
}

#[tokio::test]
async fn i13_two_engines_on_one_store_do_not_overwrite_each_other() {
    let store = MemoryStore::new();
    let one = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
    let other = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
    for number in 0..10 {
        notes(&one).insert(note_of(&format!("a{number}"), "one")).await.unwrap();
        notes(&other).insert(note_of(&format!("b{number}"), "other")).await.unwrap();
    }
    let places: Vec<_> = one.pending().await.unwrap().iter().map(|change| change.id.to_string()).collect();
    assert_eq!(places.len(), 20);
    assert_eq!(local_rows(&notes(&one)).await.len(), 20);
}
