//! Pulls while the service changes, with equal times, and after cuts (I12, I13, I14).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex, atomic::Ordering};

use datasync_core::{
    clock::Clock,
    config::ConflictPolicy,
    error::ErrorKind,
    memory::MemoryStore,
    row::{Body, Record},
    store::Store,
};
use datasync_http::Method;
use datasync_redb::RedbStore;
use datasync_server::{MemoryRepository, Repository, Row};
use datasync_tests::{Fault, RouterExchange, client, client_over, local_rows, note_of, notes, service, service_rows};
use futures::{FutureExt, executor::block_on, future::BoxFuture};
use jiff::Timestamp;

/// A clock that stands still until it is moved, and does not wait.
#[derive(Clone, Debug)]
struct StillClock(Arc<Mutex<(i64, u64)>>);

impl StillClock {
    fn new() -> StillClock {
        StillClock(Arc::new(Mutex::new((1_700_000_000_000, 1))))
    }

    fn advance(&self, millis: i64) {
        self.0.lock().unwrap().0 += millis;
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.lock().unwrap().0).unwrap()
    }

    fn sleep(&self, _: std::time::Duration) -> BoxFuture<'static, ()> {
        futures::future::pending().boxed()
    }

    fn random(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        state.1 ^= state.1 << 13;
        state.1 ^= state.1 >> 7;
        state.1 ^= state.1 << 17;
        state.1
    }
}

fn row(id: &str, title: &str) -> Row {
    let body = serde_json::to_vec(&serde_json::json!({ "id": id, "title": title, "rank": 0 })).unwrap();
    Row { id: id.into(), record: Record { body: Body::from(body), version: None, updated_at: None, deleted: false } }
}

fn write(rows: &MemoryRepository, clock: &StillClock, row: Row) {
    block_on(async {
        if rows.read(&row.id).await.unwrap().is_some() {
            rows.replace(row, None, clock.now(), None).await.unwrap();
        } else {
            rows.create(row, clock.now(), None).await.unwrap();
        }
    });
}

fn filled(clock: &StillClock, count: usize, apart: i64) -> MemoryRepository {
    let rows = MemoryRepository::with_clock(clock.clone());
    for number in 0..count {
        write(&rows, clock, row(&format!("{:03}", number * 37 % count), "first"));
        clock.advance(apart);
    }
    rows
}

/// Changes rows at each request for a page: an update, a deletion and an insert, up to a number of times.
fn meddle(exchange: &RouterExchange, rows: &MemoryRepository, clock: &StillClock, times: usize, apart: i64) {
    let (rows, clock) = (rows.clone(), clock.clone());
    let mut left = times;
    exchange.before(move |request| {
        if request.method != Method::Get || left == 0 {
            return;
        }
        left -= 1;
        let some = |salt: usize| format!("{:03}", (left * 7 + salt) % 120);
        write(&rows, &clock, row(&some(0), &format!("changed {left}")));
        clock.advance(apart);
        let mut gone = row(&some(50), "gone");
        gone.record.deleted = true;
        write(&rows, &clock, gone);
        write(&rows, &clock, row(&format!("new-{left:03}"), "inserted"));
        clock.advance(apart);
    });
}

/// Pulls while the service changes. If the clock moves with each change the first pull has all of it; else the pull
/// after the time for which the service may still write with the same stamp.
async fn pull_while_meddling(stamps_apart: i64, meddling_apart: i64, page_size: u64) {
    let folder = tempfile::tempdir().unwrap();
    let redb = RedbStore::open(folder.path().join("store.redb")).unwrap();
    pull_into(redb, stamps_apart, meddling_apart, page_size).await;
    pull_into(MemoryStore::new(), stamps_apart, meddling_apart, page_size).await;
}

async fn pull_into(store: impl Store, stamps_apart: i64, meddling_apart: i64, page_size: u64) {
    let clock = StillClock::new();
    let rows = filled(&clock, 120, stamps_apart);
    clock.advance(meddling_apart);
    let exchange = RouterExchange::new(service(&rows, page_size));
    let meddling = 12;
    meddle(&exchange, &rows, &clock, meddling, meddling_apart);
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let mut applied = 0;
    for pull in 0..3 {
        let report = table.pull_items(table.query()).await.unwrap();
        applied += report.inserted + report.updated + report.removed;
        if pull > 0 || meddling_apart > 0 {
            assert_eq!(local_rows(&table).await, service_rows(&rows), "as of the last page's request");
        }
        clock.advance(10_000);
    }
    assert!(applied <= 120 + 3 * meddling as u64, "no version is applied twice, but {applied} were applied");
}

#[tokio::test]
async fn i12_rows_that_change_while_paging_are_all_there() {
    pull_while_meddling(1, 1, 25).await;
}

#[tokio::test]
async fn i12_rows_with_one_time_are_all_there() {
    pull_while_meddling(0, 0, 25).await;
}

#[tokio::test]
async fn i12_rows_written_with_the_time_of_the_walk_are_all_there() {
    pull_while_meddling(0, 1, 10).await;
    pull_while_meddling(1, 0, 10).await;
}

#[tokio::test]
async fn i12_an_idle_pull_is_one_request() {
    let clock = StillClock::new();
    let rows = filled(&clock, 120, 1);
    let exchange = RouterExchange::new(service(&rows, 25));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    let before = exchange.requests.load(Ordering::SeqCst);
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(exchange.requests.load(Ordering::SeqCst), before + 1);
}

/// Cuts the connection after each page in turn: what was stored stays, and the next pull goes on behind it.
async fn cut_after_each_page(apart: i64) {
    for cut in 0..14 {
        let clock = StillClock::new();
        let rows = filled(&clock, 120, apart);
        let exchange = RouterExchange::new(service(&rows, 25));
        let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
        let table = notes(&client);
        for _ in 0..cut {
            exchange.fault(|_| true, Fault::None);
        }
        exchange.fault(|_| true, Fault::AnswerLost);
        let first = table.pull_items(table.query()).await;
        let stored = local_rows(&table).await.len();
        let Err(error) = first else { return assert!(cut > 5, "the pull had more pages than were cut") };
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(cut < 2 || stored > 0, "the pages before the cut are stored");
        clock.advance(10_000);
        meddle(&exchange, &rows, &clock, 3, 1);
        let second = table.pull_items(table.query()).await.unwrap();
        assert_eq!(local_rows(&table).await, service_rows(&rows), "cut after {cut} pages");
        if apart > 0 && stored > 0 {
            assert!(second.inserted < 120, "what was stored is not received again as new");
        }
    }
}

#[tokio::test]
async fn i13_a_pull_cut_after_any_page_goes_on() {
    cut_after_each_page(1).await;
}

#[tokio::test]
async fn i13_a_pull_of_rows_with_one_time_cut_after_any_page_goes_on() {
    cut_after_each_page(0).await;
}

#[tokio::test]
async fn i13_a_purge_overtakes_a_pull_and_a_later_pull_gets_everything() {
    let clock = StillClock::new();
    let rows = filled(&clock, 120, 1);
    let exchange = RouterExchange::new(service(&rows, 25));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let (purging, mut requests) = (table.clone(), 0);
    exchange.before(move |_| {
        requests += 1;
        if requests == 4 {
            block_on(purging.purge_items(datasync_core::client::PurgeOptions::default())).unwrap();
        }
    });
    let overtaken = table.pull_items(table.query()).await.unwrap_err();
    assert_eq!(overtaken.kind(), ErrorKind::Overtaken);
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

#[tokio::test]
async fn i14_an_answer_that_crosses_a_page_is_not_overwritten() {
    let clock = StillClock::new();
    let rows = filled(&clock, 10, 1);
    let exchange = RouterExchange::new(service(&rows, 100));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    clock.advance(5);
    write(&rows, &clock, row("003", "from elsewhere"));
    // The page that is answered holds "from elsewhere"; before it arrives the row is changed and pushed.
    let crossing = Crossing { inner: exchange.clone(), table: Arc::new(Mutex::new(None)) };
    let slow = client_of(&client, crossing.clone()).await;
    let there = slow.offline_table::<datasync_tests::Note>();
    there.pull_items(there.query()).await.unwrap();
    clock.advance(5);
    write(&rows, &clock, row("004", "from elsewhere"));
    *crossing.table.lock().unwrap() = Some(there.clone());
    there.pull_items(there.query()).await.unwrap();
    assert_eq!(there.get("004").await.unwrap().unwrap().title, "mine");
    assert_eq!(local_rows(&there).await, service_rows(&rows));
}

async fn client_of(
    _: &datasync_core::client::DatasyncClient,
    exchange: Crossing,
) -> datasync_core::client::DatasyncClient {
    let transport = datasync_http::HttpTransport::builder("http://service").retries(0).exchange(exchange);
    let mut config = datasync_core::config::SyncConfig::default();
    config.sync.conflict = ConflictPolicy::ClientWins;
    datasync_core::client::DatasyncClient::builder()
        .store(MemoryStore::new())
        .transport(transport.build().unwrap())
        .config(config)
        .table::<datasync_tests::Note>()
        .build()
        .await
        .unwrap()
}

/// Lets a page wait while a row in it is changed and pushed.
#[derive(Clone, Debug)]
struct Crossing {
    inner: RouterExchange,
    table: Arc<Mutex<Option<datasync_core::client::OfflineTable<datasync_tests::Note>>>>,
}

#[async_trait::async_trait]
impl datasync_http::Exchange for Crossing {
    async fn send(
        &self,
        request: datasync_http::HttpRequest,
        max_body: usize,
    ) -> Result<datasync_http::HttpResponse, datasync_http::ExchangeError> {
        let is_page = request.method == Method::Get && request.url.query().is_some_and(|query| query.contains("$top"));
        let answer = self.inner.send(request, max_body).await;
        let table = if is_page { self.table.lock().unwrap().take() } else { None };
        if let Some(table) = table {
            table.replace(note_of("004", "mine")).await.unwrap();
            table.push_items().await.unwrap();
        }
        answer
    }
}

#[tokio::test]
async fn i22_a_dropped_pull_or_push_loses_nothing() {
    let clock = StillClock::new();
    let rows = filled(&clock, 60, 1);
    for steps in 0..40 {
        let exchange = RouterExchange::new(service(&rows, 25));
        let client = client_over(MemoryStore::new(), exchange.clone()).clock(clock.clone()).build().await.unwrap();
        let table = notes(&client);
        let id = format!("mine-{steps}");
        table.insert(note_of(&id, "mine")).await.unwrap();
        {
            let mut pull = Box::pin(table.pull_items(table.query()));
            for _ in 0..steps {
                if futures::poll!(pull.as_mut()).is_ready() {
                    break;
                }
            }
        }
        clock.advance(3_600_000);
        table.pull_items(table.query()).await.unwrap();
        assert_eq!(local_rows(&table).await, service_rows(&rows), "dropped after {steps} polls");
        assert!(client.pending().await.unwrap().is_empty());
        assert!(table.get(&id).await.unwrap().is_some());
    }
}
