//! Writers share commits (DESIGN.md section 10).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{error::Error as _, task::Poll};

use datasync_core::{
    client::{DatasyncClient, OfflineTable},
    clock::SystemClock,
    config::ConflictPolicy,
    error::{Error, ErrorKind},
    memory::MemoryStore,
    row::OperationKind,
    store::{Store, StoreError, StoreErrorKind},
};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault, FaultStore, Gate, StoreCall};
use datasync_tests::{Note, RouterExchange, Wire, client, local_rows, note, note_of, notes, service};
use futures::{FutureExt, future::join_all};

datasync_tests::on_both_stores! {
    i01_a_lost_outcome_is_no_ok_for_what_another_engine_did_instead
    i01_an_outcome_that_nothing_shows_any_more_is_an_error
    i03_wrong_writes_in_a_group_are_left_out
    i06_writes_of_one_row_collapse_within_a_group
    i22_a_member_of_a_group_that_goes_away_takes_nothing_along
}

fn exchange() -> RouterExchange {
    RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended))
}

/// Two engines on one store, the first of them over a script.
async fn two_engines<S: Store + Clone>(
    store: S,
    wire: Wire,
) -> (FaultStore<S>, OfflineTable<Note>, OfflineTable<Note>) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let faulty = FaultStore::new(store.clone(), SystemClock);
    let one = client(faulty.clone(), &exchange, ConflictPolicy::Park).await;
    let other = client(store, &exchange, ConflictPolicy::Park).await;
    (faulty, notes(&one), notes(&other))
}

/// A commit that did not happen, and whose number another engine takes before it is sent again.
async fn i01_a_lost_outcome_is_no_ok_for_what_another_engine_did_instead(store: impl Store + Clone, wire: Wire) {
    let (faulty, one, other) = two_engines(store, wire).await;
    let (gate, release) = Gate::new();
    faulty.faults().next(StoreCall::Commit, Fault::FailBefore);
    faulty.faults().next(StoreCall::Commit, Fault::Late(gate));
    let mut insert = Box::pin(one.insert(note_of("a", "one")));
    while faulty.faults().left() > 0 {
        assert!(futures::poll!(insert.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    other.insert(note_of("b", "other")).await.unwrap();
    drop(release);
    insert.await.unwrap();
    assert_eq!(local_rows(&one).await.len(), 2, "both that were answered with Ok are there");
    assert!(one.insert(note_of("a", "again")).await.is_err() && one.get("a").await.unwrap().is_some());
}

/// A commit of which the store's head says nothing any more: others have gone further before the engine could look.
async fn i01_an_outcome_that_nothing_shows_any_more_is_an_error(store: impl Store + Clone, wire: Wire) {
    let (faulty, one, other) = two_engines(store.clone(), wire).await;
    for happens in [true, false] {
        let id = format!("{happens}");
        let before = store.head().await.unwrap().number;
        let (gate, release) = Gate::new();
        if happens {
            faulty.faults().next(StoreCall::Commit, Fault::HoldAndLose(gate));
        } else {
            faulty.faults().next(StoreCall::Commit, Fault::FailBefore);
            faulty.faults().next(StoreCall::Commit, Fault::Late(gate));
        }
        let mut insert = Box::pin(one.insert(note_of(&id, "one")));
        while faulty.faults().left() > 0 || (happens && store.head().await.unwrap().number == before) {
            assert!(futures::poll!(insert.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        for number in 0..2 {
            other.insert(note_of(&format!("{id}-{number}"), "other")).await.unwrap();
        }
        drop(release);
        let error = insert.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store, "not `Exists`, for a row that it may have inserted itself");
        let source = error.source().and_then(|source| source.downcast_ref::<StoreError>());
        assert_eq!(source.map(StoreError::kind), Some(StoreErrorKind::OutcomeUnknown), "{error}");
        let commits = store.head().await.unwrap().number - before;
        assert_eq!((one.get(&id).await.unwrap().is_some(), commits), (happens, 2 + u64::from(happens)));
        one.upsert(note_of(&id, "two")).await.unwrap();
        assert_eq!(one.get(&id).await.unwrap().unwrap().title, "two", "the next call works");
    }
}

/// Does `writes` together in the group behind a commit that is held; returns how many commits that group took.
async fn in_one_group<S: Store + Clone, T>(
    store: &FaultStore<S>,
    table: &OfflineTable<Note>,
    writes: impl Future<Output = T>,
) -> (T, usize) {
    let (gate, release) = Gate::new();
    store.faults().next(StoreCall::Commit, Fault::Hold(gate));
    let mut held = Box::pin(table.upsert(note_of("held", "x")));
    while store.faults().left() > 0 {
        assert!(futures::poll!(held.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    let before = store.faults().calls(StoreCall::Commit);
    let mut writes = Box::pin(writes);
    assert!(futures::poll!(writes.as_mut()).is_pending(), "they wait for the commit that is held");
    drop(release);
    let (held, outcome) = futures::join!(held, writes);
    held.unwrap();
    (outcome, store.faults().calls(StoreCall::Commit) - before)
}

async fn grouped<S: Store + Clone>(store: S, wire: Wire) -> (FaultStore<S>, DatasyncClient, OfflineTable<Note>) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let store = FaultStore::new(store, SystemClock);
    let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    (store, client, table)
}

async fn i03_wrong_writes_in_a_group_are_left_out(store: impl Store + Clone, wire: Wire) {
    let (store, client, table) = grouped(store, wire).await;
    table.insert(note_of("there", "first")).await.unwrap();
    let kind = |error: Error| error.kind();
    let writes = async {
        futures::join!(
            table.insert(note_of("a", "one")),
            table.insert(note_of("there", "again")),
            table.replace(note_of("missing", "x")),
            table.delete("missing"),
            table.replace(note_of("a", "two")),
        )
    };
    let ((first, exists, replaced, deleted, second), commits) = in_one_group(&store, &table, writes).await;
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(exists.map_err(kind), Err(ErrorKind::Exists));
    assert_eq!(replaced.map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(deleted.map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(commits, 1);
    let titles: Vec<_> = local_rows(&table).await.into_iter().map(|(id, title, _)| format!("{id} {title}")).collect();
    assert_eq!(titles, ["a two", "held x", "there first"]);
    assert_eq!(client.pending().await.unwrap().len(), 3);
}

async fn i06_writes_of_one_row_collapse_within_a_group(store: impl Store + Clone, wire: Wire) {
    let (store, client, table) = grouped(store, wire).await;
    table.insert(note_of("kept", "first")).await.unwrap();
    table.push_items().await.unwrap();
    let writes = async {
        futures::join!(
            table.insert(note_of("new", "one")),
            table.replace(note_of("new", "two")),
            table.delete("new"),
            table.replace(note_of("kept", "second")),
            table.delete("kept"),
            table.insert(note_of("kept", "third")),
        )
    };
    let ((a, b, c, d, e, f), commits) = in_one_group(&store, &table, writes).await;
    assert!(a.is_ok() && b.is_ok() && c.is_ok() && d.is_ok() && e.is_ok() && f.is_ok());
    assert_eq!(commits, 1);
    let pending = client.pending().await.unwrap();
    let queued: Vec<_> = pending.iter().map(|change| (&*change.id, change.kind)).collect();
    assert_eq!(
        queued,
        [("held", OperationKind::Insert), ("kept", OperationKind::Replace)],
        "nothing of the new row is left"
    );
    assert_eq!(table.get("new").await.unwrap(), None);
    assert_eq!(table.get("kept").await.unwrap().unwrap().title, "third");
    assert_eq!(table.push_items().await.unwrap().pushed, 2);
}

/// One of four members is dropped before their group begins, while its commit is held, or after it.
async fn i22_a_member_of_a_group_that_goes_away_takes_nothing_along(store: impl Store + Clone, wire: Wire) {
    let (store, client, table) = grouped(store, wire).await;
    for when in ["before", "during", "after"] {
        for dropped in 0..4 {
            let ids: Vec<String> = (0..4).map(|number| format!("{when}-{dropped}-{number}")).collect();
            let (first_gate, first) = Gate::new();
            let (second_gate, second) = Gate::new();
            store.faults().next(StoreCall::Commit, Fault::Hold(first_gate));
            store.faults().next(StoreCall::Commit, Fault::Hold(second_gate));
            let mut held = Box::pin(table.upsert(note_of("held", &ids[0])).fuse());
            let mut members: Vec<_> = ids.iter().map(|id| Some(Box::pin(table.insert(note_of(id, "x"))))).collect();
            let mut step = async |members: &mut Vec<Option<_>>, left: usize| {
                while store.faults().left() > left {
                    let _: Poll<_> = futures::poll!(held.as_mut());
                    poll_all(members).await;
                    tokio::task::yield_now().await;
                }
            };
            step(&mut members, 1).await;
            poll_all(&mut members).await;
            if when == "before" {
                members[dropped] = None;
            }
            drop(first);
            step(&mut members, 0).await;
            if when == "during" {
                members[dropped] = None;
            }
            drop(second);
            let gone = members[dropped].take();
            for member in members.into_iter().flatten() {
                member.await.unwrap();
            }
            drop(gone);
            let there: Vec<bool> = {
                let rows = local_rows(&table).await;
                ids.iter().map(|id| rows.iter().any(|(row, ..)| row == id)).collect()
            };
            let expected: Vec<bool> = (0..4).map(|number| number != dropped || when != "before").collect();
            assert_eq!(there, expected, "{when} {dropped}: the commit was the group's");
            let queued = client.pending().await.unwrap().len();
            assert_eq!(queued, local_rows(&table).await.len(), "{when} {dropped}: never a row without its operation");
        }
    }
}

/// Polls each that is not dropped and not done.
async fn poll_all<F: Future + Unpin>(members: &mut [Option<F>])
where
    F::Output: std::fmt::Debug,
{
    for member in members.iter_mut().flatten() {
        assert!(futures::poll!(member).is_pending(), "its commit is held");
    }
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
