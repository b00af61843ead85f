//! Comparisons of a scope that was begun again: where they begin, and what becomes of them when they are cut (I12, I27).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PullOptions, ResetOptions},
    clock::SystemClock,
    config::SyncConfig,
    query::Query,
    row::LoserCause,
    store::Store,
};
use datasync_http::{HttpRequest, Method};
use datasync_server::{MemoryRepository, MemorySnapshot};
use datasync_testkit::{Fault as StoreFault, FaultStore, StoreCall};
use datasync_tests::{
    Fault, MovedClock, Note, RouterExchange, Wire, client_over, local_rows, note_of, notes, service_at, service_rows,
    steps::{Steps, within},
};

datasync_tests::on_both_stores! {
    i12_a_part_of_the_pages_removes_no_row
}

datasync_tests::on_both_stores_extended! {
    i27_a_comparison_after_a_restore_that_is_cut_keeps_each_lost_row_once
}

async fn written(table: &OfflineTable<Note>, ids: Range<i64>) {
    let all = ids.map(|rank| Note { rank, ..note_of(&format!("{rank:03}"), "first") });
    table.insert_all(all).await.unwrap();
    table.push_items().await.unwrap();
}

/// Whether it asks for more than a page of a pull has.
fn compares(request: &HttpRequest) -> bool {
    let by_id = request.url.path().contains("/note/");
    request.method == Method::Get && (by_id || request.url.query().is_some_and(|query| query.contains("$select")))
}

/// Why a scope is compared with the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It is old.
    Age,
    /// Its query has changed.
    Query,
    /// Rows were pushed that no page has shown.
    Unseen,
    /// The service was restored from a backup.
    Restored,
}

async fn i12_a_part_of_the_pages_removes_no_row(store: impl Store + Clone, wire: Wire) {
    for why in [Why::Age, Why::Query, Why::Unseen] {
        a_part_of_the_pages_removes_no_row(store.clone(), wire, why).await;
    }
    if wire.extended() {
        a_part_of_the_pages_removes_no_row(store, wire, Why::Restored).await;
    }
}

async fn a_part_of_the_pages_removes_no_row(store: impl Store, wire: Wire, why: Why) {
    let clock = MovedClock::default();
    let rows = MemoryRepository::with_clock(clock.clone());
    let exchange = RouterExchange::new(service_at(&rows, 100, wire, clock.clone()));
    let config = "[sync]\npage_size = 2\nmax_pages = 1\nfull_resync_after = '1h'";
    let builder = client_over(store, exchange.clone()).config(SyncConfig::from_toml(config).unwrap());
    let client = builder.clock(clock.clone()).build().await.unwrap();
    let table = notes(&client);
    let from =
        |rank| PullOptions::default().query(Query::<Note>::new().filter(|note| note.rank.ge(rank))).query_id("q");
    written(&table, 0..6).await;
    let backup = rows.snapshot();
    written(&table, 6..8).await;
    if why != Why::Unseen {
        while table.pull_items(from(0)).await.unwrap().more {}
    }
    match why {
        Why::Age => clock.advance(Duration::from_secs(7_200)),
        Why::Restored => rows.restore(&backup),
        Why::Query | Why::Unseen => {}
    }
    if matches!(why, Why::Age | Why::Unseen) {
        // The first and the last page would have shown them.
        ["000", "007"].into_iter().for_each(|id| rows.lose(id));
    }
    let compared = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&compared);
    exchange.before(move |request| {
        counted.fetch_add(usize::from(compares(request)), Ordering::SeqCst);
    });
    let least = if why == Why::Query { 2 } else { 0 };
    let before = local_rows(&table).await;
    let mut parts = 0;
    loop {
        let report = table.pull_items(from(least)).await.unwrap();
        if !report.more {
            assert_eq!(report.removed, 2, "{why:?} {wire:?}");
            break;
        }
        assert_eq!((report.removed, compared.load(Ordering::SeqCst)), (0, 0), "{why:?} {wire:?}, part {parts}");
        assert_eq!(local_rows(&table).await, before, "{why:?} {wire:?}, part {parts}");
        parts += 1;
    }
    assert!(parts >= 2, "{why:?} {wire:?}: {parts} parts");
    let expected: Vec<_> = service_rows(&rows).into_iter().filter(|(.., rank)| *rank >= least).collect();
    assert_eq!(local_rows(&table).await, expected, "{why:?} {wire:?}");
    let done = compared.load(Ordering::SeqCst);
    assert!(done > 0, "{why:?} {wire:?}");
    while table.pull_items(from(least)).await.unwrap().more {}
    assert_eq!(compared.load(Ordering::SeqCst), done, "once compared, it is a pull as any other");
    client.reset(ResetOptions::everything().force()).await.unwrap();
}

/// What cuts a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// One of its requests is lost.
    Request,
    /// One of the answers is lost.
    Answer,
    /// The process ends before one of its commits.
    BeforeCommit,
    /// The process ends after one of its commits.
    AfterCommit,
    /// It is dropped at one of its awaits.
    Dropped,
}

/// A device of which a restored service lacks three rows of six.
struct World<S> {
    store: S,
    rows: MemoryRepository,
    exchange: RouterExchange,
}

impl<S: Store + Clone> World<S> {
    async fn new(store: S, wire: Wire) -> World<S> {
        let rows = MemoryRepository::new();
        let exchange = RouterExchange::new(service_at(&rows, 100, wire, SystemClock));
        let world = World { store, rows, exchange };
        let table = notes(&world.client(world.store.clone()).await);
        written(&table, 0..3).await;
        let backup: MemorySnapshot = world.rows.snapshot();
        written(&table, 3..6).await;
        table.pull_items(table.query()).await.unwrap();
        world.rows.restore(&backup);
        world
    }

    async fn client(&self, store: impl Store) -> DatasyncClient {
        let config = SyncConfig::from_toml("[sync]\npage_size = 2").unwrap();
        client_over(store, self.exchange.clone()).config(config).build().await.unwrap()
    }

    /// Begins the pull that finds the restore, and cuts it at its nth step; returns whether it has as many.
    async fn cut(&self, cut: Cut, nth: usize) -> bool {
        let store = FaultStore::new(self.store.clone(), Steps);
        let client = self.client(store.clone()).await;
        let table = notes(&client);
        let (faults, pull) = (store.faults(), table.pull_items(table.query()));
        match cut {
            Cut::Request | Cut::Answer => {
                (0..nth).for_each(|_| self.exchange.fault(|_| true, Fault::None));
                self.exchange.fault(|_| true, if cut == Cut::Request { Fault::Lost } else { Fault::AnswerLost });
                let pulled = pull.await;
                let cut = self.exchange.faults_left() == 0;
                self.exchange.clear_faults();
                assert!(cut || pulled.is_ok());
                cut
            }
            Cut::BeforeCommit | Cut::AfterCommit => {
                (0..nth).for_each(|_| faults.next(StoreCall::Commit, StoreFault::Pass));
                let before = cut == Cut::BeforeCommit;
                faults.next(StoreCall::Commit, if before { StoreFault::EndBefore } else { StoreFault::EndAfter });
                // After its last commit there is nothing to tell.
                drop(pull.await);
                faults.left() == 0
            }
            Cut::Dropped => {
                for _ in 0..1_000 {
                    faults.next(StoreCall::Commit, StoreFault::Delay(Duration::ZERO));
                    faults.next(StoreCall::Read, StoreFault::Delay(Duration::ZERO));
                }
                within(1 + 3 * nth, pull).await.is_none()
            }
        }
    }
}

async fn i27_a_comparison_after_a_restore_that_is_cut_keeps_each_lost_row_once(store: impl Store + Clone, wire: Wire) {
    for cut in [Cut::Request, Cut::Answer, Cut::BeforeCommit, Cut::AfterCommit, Cut::Dropped] {
        let mut within_it = 0;
        for nth in 0.. {
            let world = World::new(store.clone(), wire).await;
            let was_cut = world.cut(cut, nth).await;
            let case = format!("{cut:?} {nth} {wire:?}");
            let client = world.client(world.store.clone()).await;
            let table = notes(&client);
            within_it += usize::from((1..3).contains(&client.settled_losers().await.unwrap().len()));
            // The second pull finds a service like any other.
            for _ in 0..2 {
                table.pull_items(table.query()).await.unwrap();
                let losers = client.settled_losers().await.unwrap();
                let lost: Vec<&str> = losers.iter().map(|loser| &*loser.key.id).collect();
                assert_eq!(lost, ["003", "004", "005"], "{case}");
                assert!(losers.iter().all(|loser| loser.cause == LoserCause::Vanished), "{case}");
                assert_eq!(local_rows(&table).await, service_rows(&world.rows), "{case}");
            }
            client.reset(ResetOptions::everything().force()).await.unwrap();
            if !was_cut {
                break;
            }
        }
        assert!(within_it > 0, "{cut:?} {wire:?}: the comparison itself was cut {within_it} times");
    }
}
