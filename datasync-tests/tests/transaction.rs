//! Transactions: one moment, one commit, and the closure again if another commit came between.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, Tx},
    clock::SystemClock,
    error::{Error, ErrorKind},
    query::Query,
    row::OperationKind,
    store::Store,
};
use datasync_derive::{SyncEntity, SyncId};
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault, FaultStore, Gate, StoreCall};
use datasync_tests::{
    MemoryStore, Note, RedbStore, RouterExchange, Wire, client_over, folder, local_rows, note, note_of, notes, service,
    service_rows,
};
use futures::{future::join_all, poll};
use serde::{Deserialize, Serialize};

datasync_tests::on_both_stores! {
    a_transaction_over_two_tables_is_one_commit
    i03_errors_inside_change_nothing_and_the_transaction_goes_on
    a_transaction_names_a_row_by_any_type_of_ids
    an_error_of_the_closure_changes_nothing
    operations_collapse_as_by_single_writes
    what_was_read_and_has_changed_runs_the_closure_again
    a_closure_never_sees_two_moments
    a_transaction_that_always_loses_is_an_error
    queries_see_the_transactions_own_writes
    i22_a_dropped_transaction_is_all_or_nothing
    i01_a_transaction_whose_answer_was_lost_happens_once
}

/// An entity of another table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Total {
    id: String,
    rank: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, SyncId)]
#[sync(crate = "datasync_core")]
struct TotalId(String);

fn ranked(id: &str, rank: i64) -> Note {
    Note { rank, ..note_of(id, id) }
}

async fn open(store: impl Store, wire: Wire) -> (DatasyncClient, OfflineTable<Note>) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let client = client_over(store, exchange).table::<Total>().build().await.unwrap();
    let table = notes(&client);
    (client, table)
}

/// Runs a closure that returns an error of the client.
async fn run<T, Fut: Future<Output = Result<T, Error>>>(
    client: &DatasyncClient,
    work: impl FnMut(Tx) -> Fut,
) -> Result<T, ErrorKind> {
    client.transaction(work).await.map_err(|error| error.kind())
}

async fn a_transaction_over_two_tables_is_one_commit(store: impl Store + Clone, wire: Wire) {
    let store = FaultStore::new(store, SystemClock);
    let (client, table) = open(store.clone(), wire).await;
    table.insert_all([ranked("a", 1), ranked("b", 2)]).await.unwrap();
    let commits = || store.faults().calls(StoreCall::Commit);
    let before = commits();
    let sum = run(&client, async |tx: Tx| {
        let mut sum = 0;
        for note in tx.query(Query::<Note>::new()).await? {
            sum += note.rank;
            tx.replace(Note { title: "counted".to_owned(), ..note }).await?;
        }
        assert_eq!(tx.get::<Total>("all").await?, None);
        tx.insert(Total { id: "all".to_owned(), rank: sum }).await?;
        assert_eq!(tx.get::<Total>("all").await?.unwrap().rank, 3, "its own write");
        tx.delete::<Note>("b").await?;
        assert!(tx.get::<Note>("b").await?.is_none());
        let made = tx.insert(note("without an id")).await?;
        assert!(!made.id.is_empty());
        Ok(sum)
    });
    assert_eq!(sum.await, Ok(3));
    assert_eq!(commits() - before, 1);
    let titles: Vec<_> = local_rows(&table).await.into_iter().map(|(_, title, _)| title).collect();
    assert_eq!(titles.len(), 2);
    assert!(titles.contains(&"counted".to_owned()) && titles.contains(&"without an id".to_owned()));
    assert_eq!(client.offline_table::<Total>().get("all").await.unwrap().unwrap().rank, 3);
    assert_eq!(client.pending().await.unwrap().len(), 3);

    let before = commits();
    assert_eq!(run(&client, async |tx: Tx| Ok(tx.get::<Note>("a").await?.unwrap().rank)).await, Ok(1));
    assert_eq!(commits(), before, "nothing was written");
}

async fn i03_errors_inside_change_nothing_and_the_transaction_goes_on(store: impl Store, wire: Wire) {
    let (client, table) = open(store, wire).await;
    table.insert(note_of("a", "first")).await.unwrap();
    let kind = |error: Error| error.kind();
    let done = run(&client, async |tx: Tx| {
        assert_eq!(tx.insert(note_of("a", "x")).await.map_err(kind), Err(ErrorKind::Exists));
        assert_eq!(tx.replace(note_of("b", "x")).await.map_err(kind), Err(ErrorKind::NotFound));
        assert_eq!(tx.delete::<Note>("b").await.map_err(kind), Err(ErrorKind::NotFound));
        assert_eq!(tx.upsert(note_of("-", "x")).await.map_err(kind), Err(ErrorKind::InvalidId));
        tx.delete::<Note>("a").await?;
        assert_eq!(tx.delete::<Note>("a").await.map_err(kind), Err(ErrorKind::NotFound), "it was deleted here");
        tx.upsert(note_of("b", "second")).await?;
        assert_eq!(tx.insert(note_of("b", "x")).await.map_err(kind), Err(ErrorKind::Exists), "it was made here");
        Ok(())
    });
    assert_eq!(done.await, Ok(()));
    assert_eq!(local_rows(&table).await, [("b".to_owned(), "second".to_owned(), 0)]);
    assert_eq!(client.pending().await.unwrap().len(), 1);
}

async fn a_transaction_names_a_row_by_any_type_of_ids(store: impl Store, wire: Wire) {
    let (client, _) = open(store, wire).await;
    let done = run(&client, async |tx: Tx| {
        let id = TotalId("a".to_owned());
        tx.insert(Total { id: id.0.clone(), rank: 1 }).await?;
        assert_eq!(tx.get::<Total>(&id).await?.unwrap().rank, 1);
        tx.delete::<Total>(&id).await?;
        tx.get::<Total>(&id).await
    });
    assert_eq!(done.await, Ok(None));
}

async fn an_error_of_the_closure_changes_nothing(store: impl Store, wire: Wire) {
    #[derive(Debug)]
    enum Mine {
        TooMany(usize),
        Client,
    }
    impl From<Error> for Mine {
        fn from(_: Error) -> Mine {
            Mine::Client
        }
    }
    let (client, table) = open(store, wire).await;
    table.insert(note_of("a", "first")).await.unwrap();
    let kept = Arc::new(std::sync::Mutex::new(None));
    let failed = client.transaction(async |tx: Tx| -> Result<(), Mine> {
        *kept.lock().unwrap() = Some(tx.clone());
        tx.replace(note_of("a", "changed")).await?;
        tx.insert(note_of("b", "made")).await?;
        Err(Mine::TooMany(tx.query(Query::<Note>::new()).await?.len()))
    });
    assert!(matches!(failed.await, Err(Mine::TooMany(2))));
    assert_eq!(local_rows(&table).await, [("a".to_owned(), "first".to_owned(), 0)]);
    let unknown = client.transaction(async |tx: Tx| -> Result<(), Mine> {
        tx.replace(note_of("none", "changed")).await?;
        Ok(())
    });
    assert!(matches!(unknown.await, Err(Mine::Client)));
    let kept = kept.lock().unwrap().take().unwrap();
    assert_eq!(kept.get::<Note>("a").await.unwrap_err().kind(), ErrorKind::Ended);
    assert_eq!(kept.insert(note_of("c", "late")).await.unwrap_err().kind(), ErrorKind::Ended);
}

async fn operations_collapse_as_by_single_writes(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let client = client_over(store, RouterExchange::new(service(&rows, 100, wire))).build().await.unwrap();
    let table = notes(&client);
    table.insert_all([note_of("a", "1"), note_of("b", "1")]).await.unwrap();
    table.push_items().await.unwrap();
    table.delete("b").await.unwrap();
    let done = run(&client, async |tx: Tx| {
        tx.insert(note_of("c", "1")).await?;
        tx.replace(note_of("c", "2")).await?;
        tx.insert(note_of("d", "1")).await?;
        tx.delete::<Note>("d").await?;
        tx.insert(note_of("b", "2")).await?;
        tx.replace(note_of("a", "2")).await?;
        tx.replace(note_of("a", "3")).await?;
        Ok(())
    });
    assert_eq!(done.await, Ok(()));
    let pending = client.pending().await.unwrap();
    let pending: Vec<_> = pending.iter().map(|change| (&*change.id, change.kind)).collect();
    use OperationKind::{Insert, Replace};
    assert_eq!(
        pending,
        [("b", Replace), ("c", Insert), ("a", Replace)],
        "one each, in the order of their first change"
    );
    assert_eq!(table.push_items().await.unwrap().pushed, 3);
    assert_eq!(service_rows(&rows), local_rows(&table).await);
}

/// What another writer does after the closure has read.
#[derive(Clone, Copy, Debug)]
enum Other {
    Changes,
    Deletes,
    Makes,
    WritesElsewhere,
}

async fn what_was_read_and_has_changed_runs_the_closure_again(store: impl Store + Clone, wire: Wire) {
    for other in [Other::Changes, Other::Deletes, Other::Makes, Other::WritesElsewhere] {
        for (queries, foreign) in [(false, false), (true, false), (false, true), (true, true)] {
            let (client, table) = open(store.clone(), wire).await;
            // A second engine on the same store is nothing to rely on, but what it writes is not overwritten.
            let (_foreign, elsewhere) = open(store.clone(), wire).await;
            table.upsert_all([ranked("a", 1), ranked("far", 1_000)]).await.unwrap();
            if table.get("new").await.unwrap().is_some() {
                table.delete("new").await.unwrap();
            }
            let writer = if foreign { &elsewhere } else { &table };
            let runs = AtomicUsize::new(0);
            let low = Query::<Note>::new().filter(|note| note.rank.lt(100));
            let seen = run(&client, async |tx: Tx| {
                let first = runs.fetch_add(1, Ordering::SeqCst) == 0;
                let seen: Vec<i64> = match queries {
                    true => tx.query(low.clone()).await?.iter().map(|note| note.rank).collect(),
                    false => {
                        let both = [tx.get::<Note>("a").await?, tx.get::<Note>("new").await?];
                        both.into_iter().flatten().map(|note| note.rank).collect()
                    }
                };
                if first {
                    match other {
                        Other::Changes => drop(writer.replace(ranked("a", 2)).await?),
                        Other::Deletes => drop(writer.delete("a").await?),
                        Other::Makes => drop(writer.insert(ranked("new", 3)).await?),
                        Other::WritesElsewhere => drop(writer.replace(ranked("far", 2_000)).await?),
                    }
                }
                tx.upsert(ranked("sum", 10_000 + seen.iter().sum::<i64>())).await?;
                Ok(seen)
            });
            let seen = seen.await.unwrap();
            let (expected, again): (&[i64], usize) = match other {
                Other::Changes => (&[2], 1),
                Other::Deletes => (&[], 1),
                Other::Makes => (&[1, 3], 1),
                // Of a result nothing is known when a stranger writes, so that it may be read again.
                Other::WritesElsewhere => (&[1], usize::from(foreign && queries)),
            };
            let case = format!("{other:?}, a query: {queries}, another engine: {foreign}, {wire:?}");
            assert_eq!(seen, expected, "{case}");
            assert_eq!(runs.load(Ordering::SeqCst), 1 + again, "{case}");
            assert_eq!(table.get("sum").await.unwrap().unwrap().rank, 10_000 + expected.iter().sum::<i64>());
        }
    }
}

async fn a_closure_never_sees_two_moments(store: impl Store, wire: Wire) {
    let (client, table) = open(store, wire).await;
    table.insert_all([ranked("a", 5), ranked("b", 5), ranked("c", 0)]).await.unwrap();
    let runs = AtomicUsize::new(0);
    let read = run(&client, async |tx: Tx| {
        let first = runs.fetch_add(1, Ordering::SeqCst) == 0;
        let a = tx.get::<Note>("a").await?.unwrap().rank;
        if first {
            table.upsert_all([ranked("a", 4), ranked("b", 6)]).await?;
        }
        let b = tx.get::<Note>("b").await;
        assert_eq!(b.as_ref().err().map(Error::kind), first.then_some(ErrorKind::Contended));
        let b = match b {
            Ok(b) => b.unwrap().rank,
            // A closure that goes on all the same is run again, too.
            Err(_) => return Ok((0, 0)),
        };
        // A commit that changes nothing of what was read is no reason to run again.
        table.upsert(ranked("c", a)).await?;
        assert_eq!(tx.get::<Note>("c").await?.unwrap().rank, a);
        Ok((a, b))
    });
    assert_eq!(read.await, Ok((4, 6)));
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

async fn a_transaction_that_always_loses_is_an_error(store: impl Store, wire: Wire) {
    let (client, table) = open(store, wire).await;
    table.insert(ranked("a", 0)).await.unwrap();
    let runs = AtomicI64::new(0);
    let lost = run(&client, async |tx: Tx| {
        let note = tx.get::<Note>("a").await?.unwrap();
        table.replace(ranked("a", 1 + runs.fetch_add(1, Ordering::SeqCst))).await?;
        tx.replace(Note { title: "mine".to_owned(), ..note }).await?;
        Ok(())
    });
    assert_eq!(lost.await, Err(ErrorKind::Contended));
    assert_eq!(runs.load(Ordering::SeqCst), 9, "once, and again eight times");
    assert_eq!(local_rows(&table).await, [("a".to_owned(), "a".to_owned(), 9)]);
}

async fn queries_see_the_transactions_own_writes(store: impl Store, wire: Wire) {
    let (client, table) = open(store, wire).await;
    table.insert_all((0..10).map(|rank| ranked(&format!("{rank}"), rank))).await.unwrap();
    let done = run(&client, async |tx: Tx| {
        let ranks = async |query: &str| -> Result<Vec<i64>, Error> {
            let query: Query<Note> = query.parse().unwrap();
            Ok(tx.query(query).await?.into_iter().map(|note| note.rank).collect())
        };
        tx.delete::<Note>("0").await?;
        tx.replace(ranked("1", 20)).await?;
        tx.insert(ranked("new", 3)).await?;
        assert_eq!(ranks("$filter=rank lt 4&$orderby=rank").await?, [2, 3, 3]);
        assert_eq!(ranks("$orderby=rank desc&$skip=1&$top=2").await?, [9, 8]);
        assert_eq!(ranks("$orderby=rank&$top=3").await?, [2, 3, 3]);
        assert_eq!(ranks("$filter=rank gt 100").await?, [] as [i64; 0]);
        tx.delete::<Note>("1").await?;
        assert_eq!(ranks("$orderby=rank desc&$top=1").await?, [9]);
        Ok(())
    });
    assert_eq!(done.await, Ok(()));
    let ranks: Vec<_> = table.query().order_by(|note| note.rank.asc()).to_vec().await.unwrap();
    assert_eq!(ranks.iter().map(|note| note.rank).collect::<Vec<_>>(), [2, 3, 3, 4, 5, 6, 7, 8, 9]);
}

async fn i22_a_dropped_transaction_is_all_or_nothing(store: impl Store + Clone, wire: Wire) {
    let store = FaultStore::new(store, SystemClock);
    let (client, table) = open(store.clone(), wire).await;
    table.insert_all([ranked("a", 50), ranked("b", 50)]).await.unwrap();
    let mut whole = 0;
    for polls in 0..40 {
        let (gate, release) = Gate::new();
        store.faults().next(StoreCall::Commit, Fault::Hold(gate));
        let moved = async |tx: Tx| {
            let (a, b) = (tx.get::<Note>("a").await?.unwrap(), tx.get::<Note>("b").await?.unwrap());
            tx.replace(Note { rank: a.rank - 1, ..a }).await?;
            tx.replace(Note { rank: b.rank + 1, ..b }).await?;
            Ok::<_, Error>(())
        };
        {
            let mut transaction = Box::pin(client.transaction(moved));
            for _ in 0..polls {
                assert!(poll!(transaction.as_mut()).is_pending(), "its commit is held");
                // A store on a file works on other threads.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        drop(release);
        table.upsert(ranked("next", polls)).await.unwrap();
        let (a, b) = (table.get("a").await.unwrap().unwrap().rank, table.get("b").await.unwrap().unwrap().rank);
        assert_eq!(a + b, 100);
        whole = whole.max(50 - a);
        assert_eq!(client.pending().await.unwrap().len(), 3);
    }
    assert!(whole > 0, "some were dropped after their commit had begun");
}

async fn i01_a_transaction_whose_answer_was_lost_happens_once(store: impl Store + Clone, wire: Wire) {
    let store = FaultStore::new(store, SystemClock);
    let (client, table) = open(store.clone(), wire).await;
    table.insert(ranked("a", 0)).await.unwrap();
    for fault in [Fault::FailAfter, Fault::FailBefore, Fault::Pass] {
        store.faults().next(StoreCall::Commit, fault);
        let done = run(&client, async |tx: Tx| {
            let note = tx.get::<Note>("a").await?.unwrap();
            tx.replace(Note { rank: note.rank + 1, ..note }).await?;
            Ok(())
        });
        assert_eq!(done.await, Ok(()));
    }
    assert_eq!(table.get("a").await.unwrap().unwrap().rank, 3);
    store.faults().next(StoreCall::Commit, Fault::Refuse);
    let refused = run(&client, async |tx: Tx| tx.replace(ranked("a", 9)).await.map(drop));
    assert_eq!(refused.await, Err(ErrorKind::Store));
    assert_eq!(table.get("a").await.unwrap().unwrap().rank, 3);
}

/// Money moves between accounts from many tasks, while others look whether any is lost on the way.
async fn transfers_from_many_tasks_lose_nothing(store: impl Store) {
    const ACCOUNTS: i64 = 8;
    let (client, table) = open(store, Wire::Extended).await;
    table.insert_all((0..ACCOUNTS).map(|id| ranked(&id.to_string(), 100))).await.unwrap();
    let moved = Arc::new(AtomicUsize::new(0));
    let movers = (0..4_i64).map(|task| {
        let (client, moved) = (client.clone(), Arc::clone(&moved));
        tokio::spawn(async move {
            for step in 0..40_i64 {
                let (from, to) = ((task + step) % ACCOUNTS, (task * 3 + step * 5 + 1) % ACCOUNTS);
                let done = client.transaction(|tx| async move {
                    if from == to {
                        return Ok(());
                    }
                    let payer = tx.get::<Note>(&from.to_string()).await?.unwrap();
                    let payee = tx.get::<Note>(&to.to_string()).await?.unwrap();
                    tx.replace(Note { rank: payer.rank - 1, ..payer }).await?;
                    tx.replace(Note { rank: payee.rank + 1, ..payee }).await?;
                    Ok::<_, Error>(())
                });
                match done.await {
                    Ok(()) => _ = moved.fetch_add(1, Ordering::SeqCst),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Contended),
                }
            }
        })
    });
    let looker = {
        let client = client.clone();
        tokio::spawn(async move {
            for round in 0..40 {
                let looked = client.transaction(|tx| async move {
                    let mut sum = 0;
                    match round % 2 {
                        0 => sum = tx.query(Query::<Note>::new()).await?.iter().map(|note| note.rank).sum(),
                        _ => {
                            for id in 0..ACCOUNTS {
                                sum += tx.get::<Note>(&id.to_string()).await?.unwrap().rank;
                            }
                        }
                    }
                    assert_eq!(sum, ACCOUNTS * 100, "in each run, also in those that are run again");
                    Ok::<_, Error>(())
                });
                assert!(
                    looked.await.map_err(|error| error.kind()).err().is_none_or(|kind| kind == ErrorKind::Contended)
                );
            }
        })
    };
    for task in join_all(movers).await {
        task.unwrap();
    }
    looker.await.unwrap();
    let sum: i64 = local_rows(&table).await.iter().map(|(_, _, rank)| rank).sum();
    assert_eq!(sum, ACCOUNTS * 100);
    println!("{} of 160 transfers were made", moved.load(Ordering::SeqCst));
    assert!(moved.load(Ordering::SeqCst) > 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transfers_from_many_tasks_lose_nothing_in_memory() {
    transfers_from_many_tasks_lose_nothing(MemoryStore::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transfers_from_many_tasks_lose_nothing_in_redb() {
    let folder = folder();
    transfers_from_many_tasks_lose_nothing(RedbStore::open(folder.path().join("store.redb")).unwrap()).await;
}
