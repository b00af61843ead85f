//! Migrations that are killed go on where they were.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use datasync_core::{
    client::{DatasyncClient, OpeningProgress, OpeningWork, TableOptions},
    clock::SystemClock,
    entity::SyncEntity as _,
    error::ErrorKind,
    memory::MemoryStore,
    query::{index_keys, table_spec},
    store::{KeysRequest, RowWrite, Store, WriteBatch},
};
use datasync_redb::RedbStore;
use datasync_testkit::{Fault as StoreFault, FaultStore, StoreCall};
use datasync_tests::{Note, RouterExchange, Wire, folder, note_of, notes};

use crate::world::{Later, Place, World, everything, file, later_with, rename, transport};

/// How many rows the stores have that are killed: three commits' worth.
const MANY: usize = 1_203;

/// A store of the first release with many rows, of two accounts.
async fn fill_many(store: impl Store, world: &World) -> DatasyncClient {
    let client = world.fill(store, "a").await;
    let table = notes(&client);
    let many = |count: usize| (0..count).map(|number| Note { rank: 1, ..note_of(&format!("m{number:05}"), "a many") });
    table.insert_all(many(MANY)).await.unwrap();
    client.sign_in("ann").await.unwrap();
    table.insert_all(many(40)).await.unwrap();
    client
}

/// Brings a store that a kill has left behind to the same state as one that nobody has disturbed.
async fn killed_at_every_commit<P: Place, Made: Future<Output = P>>(make: impl Fn(usize) -> Made) {
    let calls = Arc::new(AtomicUsize::new(0));
    let options = || {
        let calls = Arc::clone(&calls);
        TableOptions::<Later>::new().migration(1, move |json| {
            calls.fetch_add(1, Ordering::SeqCst);
            rename(json)
        })
    };
    let exchange = RouterExchange::new(Wire::Extended.lead_to(axum::Router::new()));
    let undisturbed = make(0).await;
    let faulty = FaultStore::new(undisturbed.open(), SystemClock);
    let client = later_with(faulty.clone(), &exchange, options()).await.unwrap();
    let commits = faulty.faults().calls(StoreCall::Commit);
    let bodies = calls.swap(0, Ordering::SeqCst);
    assert!(commits >= 3 && bodies > MANY, "{commits} commits for {bodies} bodies");
    undisturbed.end(client).await;
    drop(faulty);
    let store = undisturbed.open();
    let wanted = everything(&store).await;
    assert!(wanted.iter().any(|line| line.contains("\"account\":\"ann\"") && line.contains("\"name\":\"a many\"")));
    drop(store);

    for turn in 0..2 * commits {
        let (nth, after) = (turn / 2, turn % 2 == 1);
        let place = make(turn + 1).await;
        let faulty = FaultStore::new(place.open(), SystemClock);
        (0..nth).for_each(|_| faulty.faults().next(StoreCall::Commit, StoreFault::Pass));
        let end_of_it = if after { StoreFault::EndAfter } else { StoreFault::EndBefore };
        faulty.faults().next(StoreCall::Commit, end_of_it);
        let killed = later_with(faulty.clone(), &exchange, options()).await;
        assert_eq!(killed.unwrap_err().kind(), ErrorKind::Store);
        drop(faulty);
        // The older release refuses what has been begun, and opens what has not.
        let begun = nth > 0 || after;
        let older = DatasyncClient::builder().store(place.open()).transport(transport(&exchange));
        match older.table::<Note>().build().await {
            Err(error) => assert!(begun && error.kind() == ErrorKind::NewerSchema, "{error}"),
            Ok(client) => {
                assert!(!begun);
                place.end(client).await;
            }
        }
        let again = later_with(place.open(), &exchange, options()).await.unwrap();
        place.end(again).await;
        let store = place.open();
        assert!(everything(&store).await == wanted, "killed {} commit {nth}", if after { "after" } else { "before" });
        // What was done is not done again, but for the page that was lost.
        let again = calls.swap(0, Ordering::SeqCst) - bodies;
        assert!(if after { again == 0 } else { again <= 1_000 }, "{again} bodies twice");
    }
}

#[tokio::test]
async fn i23_killed_at_every_commit_in_memory() {
    let world = World::new(Wire::Extended);
    let original = MemoryStore::new();
    fill_many(original.clone(), &world).await;
    let original = &original;
    killed_at_every_commit(|_| async move { copy_of(original).await }).await;
}

/// The content of a memory store in another one.
pub(crate) async fn copy_of(store: &MemoryStore) -> MemoryStore {
    let (copy, spec) = (MemoryStore::new(), table_spec(&Note::SCHEMA));
    Store::open(&copy, &[spec]).await.unwrap();
    let mut batch = WriteBatch { number: 1, ..WriteBatch::default() };
    let all = KeysRequest { table: "note".into(), after: None, limit: usize::MAX };
    let keys = store.keys(&all).await.unwrap();
    for (key, row) in keys.iter().zip(store.get(&keys).await.unwrap()) {
        let row = row.unwrap();
        let entries = row.record.as_ref().map(|record| index_keys(&Note::SCHEMA, &key.id, record).unwrap());
        batch.rows.push(RowWrite::Put { key: key.clone(), row, index_keys: entries.unwrap_or_default() });
    }
    for account in ["", "ann"] {
        batch.add_losers.extend(store.losers(account, None, usize::MAX).await.unwrap());
        for scope in store.scopes(account, "note").await.unwrap() {
            let token = store.delta_token(&scope).await.unwrap();
            batch.tokens.push((scope, token));
        }
    }
    let notes = store.list_notes("", None, usize::MAX).await.unwrap();
    batch.notes.extend(notes.into_iter().map(|(key, note)| (key, Some(note))));
    copy.commit(batch).await.unwrap();
    copy
}

#[tokio::test]
async fn i23_killed_at_every_commit_in_a_file() {
    let world = World::new(Wire::Extended);
    let folder = folder();
    let path = folder.path().join("original.redb");
    let client = fill_many(RedbStore::open(&path).unwrap(), &world).await;
    client.close().await.unwrap();
    killed_at_every_commit(|turn| {
        let copy = folder.path().join(format!("{turn}.redb"));
        std::fs::copy(&path, &copy).unwrap();
        async move { file(&copy) }
    })
    .await;
}

#[tokio::test]
async fn progress_is_told_from_the_first_row_to_the_last() {
    let world = World::new(Wire::Extended);
    let store = MemoryStore::new();
    fill_many(store.clone(), &world).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let builder = DatasyncClient::builder().store(store.clone()).transport(transport(&world.way()));
    let builder = builder.on_progress(move |OpeningProgress { work, table, done, total, .. }| {
        assert_eq!((work, table.as_ref()), (OpeningWork::Migration, "note"));
        seen.lock().unwrap().push((done, total));
    });
    builder.table_with(TableOptions::<Later>::new().migration(1, rename)).build().await.unwrap();
    let all = KeysRequest { table: "note".into(), after: None, limit: usize::MAX };
    let rows = store.keys(&all).await.unwrap().len() as u64;
    assert_eq!(*told.lock().unwrap(), [(0, rows), (500, rows), (1_000, rows), (rows, rows)]);
}
