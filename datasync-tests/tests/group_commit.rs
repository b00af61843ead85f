//! Writers share commits (DESIGN.md section 10).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use datasync_core::{
    config::ConflictPolicy,
    error::ErrorKind,
    memory::MemoryStore,
    row::{Row, RowKey, SettledLoser},
    store::{
        DeltaToken, Head, OperationsRequest, QueuedOperation, ScanPage, ScanRequest, ScopeKey, Store, StoreError,
        StoreErrorKind, TableSpec, WriteBatch,
    },
};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_tests::{RouterExchange, Wire, client, local_rows, note, note_of, notes, service};
use futures::{channel::oneshot, future::join_all};
use uuid::Uuid;

/// What happens to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It happens, and its answer is lost.
    AnswerLost,
    /// It does not happen, and its answer is lost.
    Lost,
}

/// Counts commits, holds the first until it is released, and loses answers by a script.
#[derive(Clone, Debug)]
struct Watched<S> {
    inner: S,
    commits: Arc<AtomicU64>,
    gate: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
    fates: Arc<Mutex<Vec<Fate>>>,
}

impl<S> Watched<S> {
    fn new(inner: S) -> Watched<S> {
        Watched { inner, commits: Arc::default(), gate: Arc::default(), fates: Arc::default() }
    }
}

#[async_trait]
impl<S: Store> Store for Watched<S> {
    async fn open(&self, tables: &[TableSpec]) -> Result<Vec<Arc<str>>, StoreError> {
        self.inner.open(tables).await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.inner.head().await
    }

    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, StoreError> {
        self.inner.get(keys).await
    }

    async fn scan(&self, request: &ScanRequest) -> Result<ScanPage, StoreError> {
        self.inner.scan(request).await
    }

    async fn operations(&self, request: &OperationsRequest) -> Result<Vec<QueuedOperation>, StoreError> {
        self.inner.operations(request).await
    }

    async fn delta_token(&self, scope: &ScopeKey) -> Result<Option<DeltaToken>, StoreError> {
        self.inner.delta_token(scope).await
    }

    async fn scopes(&self, account: &str, table: &str) -> Result<Vec<ScopeKey>, StoreError> {
        self.inner.scopes(account, table).await
    }

    async fn losers(&self, account: &str, after: Option<Uuid>, limit: usize) -> Result<Vec<SettledLoser>, StoreError> {
        self.inner.losers(account, after, limit).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.await.unwrap();
        }
        let fate = self.fates.lock().unwrap().pop();
        let lost = || StoreError::new(StoreErrorKind::OutcomeUnknown, "the answer is lost");
        match fate {
            Some(Fate::Lost) => Err(lost()),
            Some(Fate::AnswerLost) => {
                self.inner.commit(batch).await?;
                Err(lost())
            }
            None => self.inner.commit(batch).await,
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

fn exchange() -> RouterExchange {
    RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended))
}

#[tokio::test]
async fn sixty_four_inserts_behind_a_held_commit_take_two_commits() {
    let store = Watched::new(MemoryStore::new());
    let client = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
    let table = notes(&client);
    let (release, gate) = oneshot::channel();
    *store.gate.lock().unwrap() = Some(gate);
    store.commits.store(0, Ordering::SeqCst);
    let mut inserts: Vec<_> = (0..62).map(|number| note(&number.to_string())).collect();
    inserts.extend([note_of("twice", "first"), note_of("twice", "second")]);
    let mut inserts = Box::pin(join_all(inserts.into_iter().map(|note| table.insert(note))));
    assert!(futures::poll!(inserts.as_mut()).is_pending(), "all 64 are polled and the first commit is held");
    release.send(()).unwrap();
    let outcomes = inserts.await;
    assert!(store.commits.load(Ordering::SeqCst) <= 2);
    let failed: Vec<ErrorKind> = outcomes.into_iter().filter_map(Result::err).map(|error| error.kind()).collect();
    assert_eq!(failed, [ErrorKind::Exists], "one of the two with one id");
    assert_eq!(local_rows(&table).await.len(), 63);
    assert_eq!(client.pending().await.unwrap().len(), 63);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_inserts_share_the_commits_of_redb() {
    let folder = tempfile::tempdir().unwrap();
    let store = Watched::new(RedbStore::open(folder.path().join("store.redb")).unwrap());
    let client = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
    let table = notes(&client);
    store.commits.store(0, Ordering::SeqCst);
    let tasks = (0..64).map(|number| {
        let table = table.clone();
        tokio::spawn(async move { table.insert(note(&number.to_string())).await.map(drop) })
    });
    for outcome in join_all(tasks).await {
        outcome.unwrap().unwrap();
    }
    let commits = store.commits.load(Ordering::SeqCst);
    println!("64 inserts from 64 tasks on redb took {commits} commits");
    assert!(commits < 64);
    assert_eq!(local_rows(&table).await.len(), 64);
}

#[tokio::test]
async fn i01_a_commit_whose_answer_was_lost_happens_once() {
    for fates in [vec![Fate::AnswerLost], vec![Fate::Lost], vec![Fate::AnswerLost, Fate::Lost, Fate::Lost]] {
        let store = Watched::new(MemoryStore::new());
        let client = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
        let table = notes(&client);
        *store.fates.lock().unwrap() = fates;
        table.insert(note_of("a", "one")).await.unwrap();
        table.insert(note_of("b", "two")).await.unwrap();
        assert_eq!(local_rows(&table).await.len(), 2);
        assert_eq!(client.pending().await.unwrap().len(), 2);
        assert_eq!(store.inner.head().await.unwrap().number, 2);
    }
}

#[tokio::test]
async fn i22_a_dropped_insert_is_all_or_nothing_and_the_next_works() {
    for polls in 0..6 {
        let store = Watched::new(MemoryStore::new());
        let client = client(store.clone(), &exchange(), ConflictPolicy::Park).await;
        let table = notes(&client);
        let (release, gate) = oneshot::channel();
        *store.gate.lock().unwrap() = Some(gate);
        {
            let mut insert = Box::pin(table.insert(note_of("a", "dropped")));
            for _ in 0..polls {
                assert!(futures::poll!(insert.as_mut()).is_pending());
            }
        }
        release.send(()).ok();
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
