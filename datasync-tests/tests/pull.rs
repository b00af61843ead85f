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
use datasync_server::{Action, Change, MemoryRepository, Repository, Stamping};
use datasync_tests::{
    Fault, RouterExchange, Wire, client, client_over, local_rows, note_of, notes, service_at, service_rows, stampings,
};
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

fn record(id: &str, title: &str) -> (String, Record) {
    let body = serde_json::to_vec(&serde_json::json!({ "id": id, "title": title, "rank": 0 })).unwrap();
    (id.to_owned(), Record { body: Body::from(body), version: None, updated_at: None, deleted: false })
}

fn write(rows: &MemoryRepository, clock: &StillClock, (id, record): (String, Record)) {
    block_on(async {
        let action = match rows.read(&id).await.unwrap() {
            Some(_) => Action::Replace(record),
            None => Action::Create(record),
        };
        // Services that keep times to 100 ns give no two rows the same one.
        let nanos = i128::from(clock.random() % 9_999) * 100;
        let now = Timestamp::from_nanosecond(clock.now().as_nanosecond() + nanos).unwrap();
        rows.write(Change { id: id.into(), action, expected: None, now, key: None, forget: None }).await.unwrap();
    });
}

fn filled(clock: &StillClock, count: usize, apart: i64, stamping: Stamping) -> MemoryRepository {
    let rows = MemoryRepository::with_clock(clock.clone()).stamping(stamping);
    for number in 0..count {
        write(&rows, clock, record(&format!("{:03}", number * 37 % count), "first"));
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
        write(&rows, &clock, record(&some(0), &format!("changed {left}")));
        clock.advance(apart);
        let mut gone = record(&some(50), "gone");
        gone.1.deleted = true;
        write(&rows, &clock, gone);
        write(&rows, &clock, record(&format!("new-{left:03}"), "inserted"));
        clock.advance(apart);
    });
}

/// Pulls while the service changes. If the clock moves with each change the first pull has all of it; else the pull
/// after the time for which the service may still write with the same stamp.
async fn pull_while_meddling(stamps_apart: i64, meddling_apart: i64, page_size: u64, wire: Wire) {
    for stamping in stampings() {
        let folder = tempfile::tempdir().unwrap();
        let redb = RedbStore::open(folder.path().join("store.redb")).unwrap();
        pull_into(redb, stamps_apart, meddling_apart, page_size, wire, stamping.clone()).await;
        pull_into(MemoryStore::new(), stamps_apart, meddling_apart, page_size, wire, stamping).await;
    }
}

async fn pull_into(store: impl Store, apart: i64, meddling_apart: i64, page_size: u64, wire: Wire, stamping: Stamping) {
    let clock = StillClock::new();
    let rows = filled(&clock, 120, apart, stamping.clone());
    clock.advance(meddling_apart);
    let exchange = RouterExchange::new(service_at(&rows, page_size, wire, clock.clone()));
    let meddling = 12;
    meddle(&exchange, &rows, &clock, meddling, meddling_apart);
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let mut applied = 0;
    // What a page at the end could not yet see is in the next pull: rows with its stamp, or with an earlier one.
    let at_once = wire.extended() || (meddling_apart > 0 && matches!(stamping, Stamping::Own));
    // Rows that are written behind the pull are in the one after it.
    let lags = matches!(stamping, Stamping::BeforeCommit(_));
    for pull in 0..3 {
        let report = table.pull_items(table.query()).await.unwrap();
        applied += report.inserted + report.updated + report.removed;
        if pull > 1 || at_once || (pull > 0 && !lags) {
            assert_eq!(local_rows(&table).await, service_rows(&rows), "{stamping:?} {wire:?} {pull}");
        }
        clock.advance(10_000);
    }
    assert!(applied <= 120 + 3 * meddling as u64, "no version is applied twice, but {applied} were applied");
}

async fn i12_rows_that_change_while_paging_are_all_there(wire: Wire) {
    pull_while_meddling(1, 1, 25, wire).await;
}

async fn i12_rows_with_one_time_are_all_there(wire: Wire) {
    pull_while_meddling(0, 0, 25, wire).await;
}

async fn i12_rows_written_with_the_time_of_the_walk_are_all_there(wire: Wire) {
    pull_while_meddling(0, 1, 10, wire).await;
    pull_while_meddling(1, 0, 10, wire).await;
}

async fn i12_an_idle_pull_is_one_request(wire: Wire) {
    for stamping in stampings() {
        an_idle_pull_is_one_request(wire, stamping).await;
    }
}

async fn an_idle_pull_is_one_request(wire: Wire, stamping: Stamping) {
    let clock = StillClock::new();
    let rows = filled(&clock, 120, 1, stamping);
    let exchange = RouterExchange::new(service_at(&rows, 25, wire, clock.clone()));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    clock.advance(60_000);
    table.pull_items(table.query()).await.unwrap();
    let before = exchange.requests.load(Ordering::SeqCst);
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(exchange.requests.load(Ordering::SeqCst), before + 1);
}

/// Cuts the connection after each page in turn: what was stored stays, and the next pull goes on behind it.
async fn cut_after_each_page(apart: i64, wire: Wire) {
    for (cut, stamping) in (0..14).zip(stampings().into_iter().cycle()) {
        let clock = StillClock::new();
        let lags = matches!(stamping, Stamping::BeforeCommit(_));
        let rows = filled(&clock, 120, apart, stamping);
        let exchange = RouterExchange::new(service_at(&rows, 25, wire, clock.clone()));
        let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
        let table = notes(&client);
        for _ in 0..cut {
            exchange.fault(|_| true, Fault::None);
        }
        exchange.fault(|_| true, Fault::AnswerLost);
        let first = table.pull_items(table.query()).await;
        let stored = local_rows(&table).await.len();
        let Err(error) = first else { return assert!(cut > 4, "the pull had more pages than were cut") };
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(cut < 3 || stored > 0, "the pages before the cut are stored");
        clock.advance(10_000);
        meddle(&exchange, &rows, &clock, 3, 1);
        let second = table.pull_items(table.query()).await.unwrap();
        if lags {
            table.pull_items(table.query()).await.unwrap();
        }
        assert_eq!(local_rows(&table).await, service_rows(&rows), "cut after {cut} pages");
        if apart > 0 && stored > 0 {
            assert!(second.inserted < 120, "what was stored is not received again as new");
        }
    }
}

async fn i13_a_pull_cut_after_any_page_goes_on(wire: Wire) {
    cut_after_each_page(1, wire).await;
}

async fn i13_a_pull_of_rows_with_one_time_cut_after_any_page_goes_on(wire: Wire) {
    cut_after_each_page(0, wire).await;
}

/// A row appears within the overlap of its stamp, behind a page that reached beyond it, and long before the pull ends.
async fn i12_a_row_that_appears_while_a_pull_is_cut_or_slow_is_pulled(wire: Wire) {
    let stamp: fn(&str, Timestamp) -> Timestamp = |id, now| match id {
        "late" => now.checked_sub(jiff::SignedDuration::from_secs(20)).unwrap(),
        _ => now,
    };
    for slow in [false, true] {
        for pages in 1..7 {
            let clock = StillClock::new();
            let rows = filled(&clock, 120, 1, Stamping::Given(stamp));
            let exchange = RouterExchange::new(service_at(&rows, 25, wire, clock.clone()));
            let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
            let table = notes(&client);
            let late = {
                let (rows, clock) = (rows.clone(), clock.clone());
                move || {
                    clock.advance(1_000);
                    write(&rows, &clock, record("late", "late"));
                    clock.advance(120_000);
                }
            };
            if slow {
                let mut left = pages;
                exchange.before(move |request| {
                    left -= i32::from(request.method == Method::Get && request.url.path().ends_with("note"));
                    if left == 0 {
                        late();
                    }
                });
            } else {
                let page: datasync_tests::Wanted = |request| request.url.path().ends_with("note");
                (0..pages).for_each(|_| exchange.fault(page, Fault::None));
                exchange.fault(page, Fault::Lost);
                let cut = table.pull_items(table.query()).await.map(drop);
                assert!(pages > 4 || cut.is_err(), "cut behind page {pages}");
                exchange.clear_faults();
                late();
            }
            table.pull_items(table.query()).await.unwrap();
            table.pull_items(table.query()).await.unwrap();
            assert_eq!(local_rows(&table).await, service_rows(&rows), "behind page {pages}, slow: {slow}");
            assert!(table.get("late").await.unwrap().is_some() || (slow && pages > 4));
            clock.advance(120_000);
            table.pull_items(table.query()).await.unwrap();
            let received = table.pull_items(table.query()).await.unwrap().received;
            assert!(received < 25, "what is old is not read again for ever: {received}");
        }
    }
}

async fn i13_a_purge_overtakes_a_pull_and_a_later_pull_gets_everything(wire: Wire) {
    for stamping in stampings() {
        a_purge_overtakes_a_pull_and_a_later_pull_gets_everything(wire, stamping).await;
    }
}

async fn a_purge_overtakes_a_pull_and_a_later_pull_gets_everything(wire: Wire, stamping: Stamping) {
    let clock = StillClock::new();
    let rows = filled(&clock, 120, 1, stamping);
    let exchange = RouterExchange::new(service_at(&rows, 25, wire, clock.clone()));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let (purging, mut requests) = (table.clone(), 0);
    exchange.before(move |_| {
        requests += 1;
        if requests == 5 {
            block_on(purging.purge_items(datasync_core::client::PurgeOptions::default())).unwrap();
        }
    });
    let overtaken = table.pull_items(table.query()).await.unwrap_err();
    assert_eq!(overtaken.kind(), ErrorKind::Overtaken);
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn i14_an_answer_that_crosses_a_page_is_not_overwritten(wire: Wire) {
    for stamping in stampings() {
        an_answer_that_crosses_a_page_is_not_overwritten(wire, stamping).await;
    }
}

async fn an_answer_that_crosses_a_page_is_not_overwritten(wire: Wire, stamping: Stamping) {
    let clock = StillClock::new();
    let rows = filled(&clock, 10, 1, stamping);
    let exchange = RouterExchange::new(service_at(&rows, 100, wire, clock.clone()));
    let client = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    clock.advance(5);
    write(&rows, &clock, record("003", "from elsewhere"));
    // The page that is answered holds "from elsewhere"; before it arrives the row is changed and pushed.
    let crossing = Crossing { inner: exchange.clone(), table: Arc::new(Mutex::new(None)) };
    let slow = client_of(&client, crossing.clone()).await;
    let there = slow.offline_table::<datasync_tests::Note>();
    there.pull_items(there.query()).await.unwrap();
    clock.advance(5);
    write(&rows, &clock, record("004", "from elsewhere"));
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

    async fn stream(
        &self,
        request: datasync_http::HttpRequest,
    ) -> Result<datasync_http::HttpStream, datasync_http::ExchangeError> {
        self.inner.stream(request).await
    }
}

/// Rows that are longer together than an answer may be: the service ends its pages before.
async fn i12_rows_that_are_long_together_come_in_pages_that_are_taken(wire: Wire) {
    let clock = StillClock::new();
    let rows = filled(&clock, 0, 1, Stamping::Own);
    for number in 0..12 {
        write(&rows, &clock, record(&format!("{number:03}"), &"x".repeat(1_500_000)));
        clock.advance(1);
    }
    clock.advance(60_000);
    let exchange = RouterExchange::new(service_at(&rows, 100, wire, clock.clone()));
    let transport = datasync_http::HttpTransport::builder("http://service").retries(0).max_body(10_000_000);
    let transport = transport.exchange(exchange.clone()).build().unwrap();
    let builder = datasync_core::client::DatasyncClient::builder().store(MemoryStore::new()).transport(transport);
    let client = builder.table::<datasync_tests::Note>().build().await.unwrap();
    let table = notes(&client);
    let report = table.pull_items(table.query()).await.unwrap();
    assert_eq!(report.inserted, 12);
    assert!(report.pages >= 3 && (!wire.extended() || report.pages == 3), "{report:?}");
    assert!(local_rows(&table).await == service_rows(&rows));
}

async fn i22_a_dropped_pull_or_push_loses_nothing(wire: Wire) {
    for stamping in stampings() {
        a_dropped_pull_or_push_loses_nothing(wire, stamping).await;
    }
}

async fn a_dropped_pull_or_push_loses_nothing(wire: Wire, stamping: Stamping) {
    let clock = StillClock::new();
    let rows = filled(&clock, 60, 1, stamping);
    for steps in 0..40 {
        let exchange = RouterExchange::new(service_at(&rows, 25, wire, clock.clone()));
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

datasync_tests::on_both_wires! {
    i12_rows_that_change_while_paging_are_all_there
    i12_rows_with_one_time_are_all_there
    i12_rows_written_with_the_time_of_the_walk_are_all_there
    i12_an_idle_pull_is_one_request
    i12_a_row_that_appears_while_a_pull_is_cut_or_slow_is_pulled
    i13_a_pull_cut_after_any_page_goes_on
    i13_a_pull_of_rows_with_one_time_cut_after_any_page_goes_on
    i13_a_purge_overtakes_a_pull_and_a_later_pull_gets_everything
    i14_an_answer_that_crosses_a_page_is_not_overwritten
    i12_rows_that_are_long_together_come_in_pages_that_are_taken
    i22_a_dropped_pull_or_push_loses_nothing
}
