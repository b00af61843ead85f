//! Scopes: which rows a device holds for which query, and the comparison with the service (DESIGN.md section 8).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PullOptions, PurgeOptions, Tables},
    clock::SystemClock,
    config::{ConflictPolicy, SyncConfig},
    error::ErrorKind,
    query::Query,
    report::VerifyReport,
    store::Store,
};
use datasync_http::HttpTransport;
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault as CallFault, FaultTransport, Faults, Gate, TransportCall};
use datasync_tests::{
    Fault, MemoryStore, Note, RouterExchange, Wire, client, client_over, local_rows, note_of, notes, service,
    service_rows,
};
use futures::channel::oneshot::Sender;
use serde_json::json;
use tokio::task::JoinHandle;

datasync_tests::on_both_stores! {
    a_changed_filter_lets_the_rows_of_the_old_one_go
    a_row_of_two_scopes_stays_until_both_have_let_it_go
    verify_finds_what_no_page_tells
    verify_leaves_alone_what_is_queued_or_moves
    verify_goes_on_behind_a_row_that_came_twice
    i27_an_old_scope_is_pulled_again_and_checked
    a_cut_pull_is_checked_by_the_next_one
    pull_tables_takes_the_queries_of_the_configuration
    a_pull_that_pushes_nothing_goes_on_around_the_queue
}

datasync_tests::on_both_stores_extended! {
    i16_a_row_that_is_back_in_its_query_keeps_what_stays_on_the_device
    i16_a_row_that_comes_back_while_a_page_is_on_its_way_keeps_what_stays_on_the_device
    i16_a_row_that_comes_back_while_a_push_is_on_its_way_keeps_what_stays_on_the_device
    a_row_that_does_not_come_back_to_its_query_leaves
}

async fn filled(count: i64, exchange: &RouterExchange) -> DatasyncClient {
    let other = client(MemoryStore::new(), exchange, ConflictPolicy::Park).await;
    let all = (0..count).map(|rank| Note { rank, ..note_of(&format!("{rank:03}"), "first") });
    notes(&other).insert_all(all).await.unwrap();
    notes(&other).push_items().await.unwrap();
    other
}

/// The rows below a rank, under one query id.
fn below(rank: i64) -> PullOptions<Note> {
    PullOptions::default().query(Query::<Note>::new().filter(|note| note.rank.lt(rank))).query_id("low")
}

async fn a_changed_filter_lets_the_rows_of_the_old_one_go(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 7, wire));
    filled(40, &exchange).await;
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(below(30)).await.unwrap();
    assert_eq!(table.count().await.unwrap(), 30);
    table.insert(note_of("mine", "made here")).await.unwrap();
    table.replace(Note { rank: 20, ..note_of("020", "edited here") }).await.unwrap();

    let report = table.pull_items(below(10).no_push()).await.unwrap();
    assert_eq!(report.removed, 19, "what is queued stays");
    let ids: Vec<String> = local_rows(&table).await.into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids.len(), 12);
    assert!(ids.contains(&"mine".to_owned()) && ids.contains(&"020".to_owned()));

    table.push_items().await.unwrap();
    table.pull_items(below(10)).await.unwrap();
    assert!(table.get("mine").await.unwrap().is_some(), "no scope has ever held it");
    table.verify_items(below(10)).await.unwrap();
    assert!(table.get("020").await.unwrap().is_none(), "the row leaves with its last operation");

    let report = table.pull_items(below(25)).await.unwrap();
    assert_eq!(report.inserted, 15);
    assert_eq!(table.get("020").await.unwrap().unwrap().title, "edited here");
}

async fn a_row_of_two_scopes_stays_until_both_have_let_it_go(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    filled(20, &exchange).await;
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let other = || PullOptions::default().query(Query::<Note>::new().filter(|note| note.rank.ge(5)));
    table.pull_items(below(10)).await.unwrap();
    table.pull_items(other()).await.unwrap();
    assert_eq!(table.count().await.unwrap(), 20);
    table.pull_items(below(3)).await.unwrap();
    let ids: Vec<String> = local_rows(&table).await.into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids.len(), 18, "003 and 004 were held by the first scope alone");
    assert!(!ids.contains(&"003".to_owned()) && ids.contains(&"007".to_owned()));
    table
        .purge_items(PurgeOptions::default().query(Query::<Note>::new().filter(|note| note.id.eq("007"))))
        .await
        .unwrap();
    table.pull_items(other()).await.unwrap();
    assert!(table.get("007").await.unwrap().is_some(), "a later pull gets it back (I20)");
}

async fn verify_finds_what_no_page_tells(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 7, wire));
    let other = filled(30, &exchange).await;
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    for id in ["003", "017", "029"] {
        rows.lose(id);
    }
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(table.count().await.unwrap(), 30, "no page tells of what the service was not told");
    notes(&other).replace(Note { rank: 5, ..note_of("005", "changed") }).await.unwrap();
    notes(&other).insert(note_of("new", "new")).await.unwrap();
    notes(&other).push_items().await.unwrap();
    let report = table.verify_items(table.query()).await.unwrap();
    let expected = (28, 1, 1, 3, 0);
    assert_eq!((report.compared, report.added, report.updated, report.removed, report.skipped), expected);
    assert_eq!(local_rows(&table).await, service_rows(&rows));
    let again = table.verify_items(table.query()).await.unwrap();
    assert_eq!((again.added, again.updated, again.removed), (0, 0, 0));
    assert!(table.pull_items(table.query()).await.unwrap().received >= 2, "no token has moved");
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn verify_leaves_alone_what_is_queued_or_moves(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    filled(6, &exchange).await;
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    table.replace(note_of("001", "mine")).await.unwrap();
    table.delete("002").await.unwrap();
    for id in ["001", "002", "003"] {
        rows.lose(id);
    }
    let report: VerifyReport = table.verify_items(table.query()).await.unwrap();
    assert_eq!((report.removed, report.updated), (1, 0));
    assert_eq!(table.get("001").await.unwrap().unwrap().title, "mine");
    assert_eq!(client.pending().await.unwrap().len(), 2);

    // While the list is on its way the row is written and pushed: the list is older than what is stored.
    let (own, seen) = (table.clone(), Arc::new(Mutex::new(false)));
    let done = Arc::clone(&seen);
    exchange.before(move |request| {
        let lists = request.url.query().is_some_and(|query| query.contains("$select"));
        if lists && !std::mem::replace(&mut *done.lock().unwrap(), true) {
            let own = own.clone();
            futures::executor::block_on(async move { own.insert(note_of("late", "mine")).await }).unwrap();
        }
    });
    table.verify_items(table.query()).await.unwrap();
    assert!(*seen.lock().unwrap());
    assert!(table.get("late").await.unwrap().is_some());
}

/// A device that holds a row for a query, with a field that stays on the device.
struct Device {
    faults: Faults<TransportCall>,
    answers: Arc<AtomicUsize>,
    exchange: RouterExchange,
    client: DatasyncClient,
    table: OfflineTable<Note>,
    id: &'static str,
}

impl Device {
    async fn new(store: impl Store, wire: Wire) -> Device {
        let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
        let answers = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&answers);
        exchange.after(move |_| _ = counted.fetch_add(1, Ordering::SeqCst));
        let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
        let transport = FaultTransport::new(transport, SystemClock);
        let faults = transport.faults().clone();
        let builder = DatasyncClient::builder().store(store).transport(transport).table::<Note>();
        let client = builder.build().await.unwrap();
        let table = notes(&client);
        let mut device = Device { faults, answers, exchange, client, table, id: "" };
        device.make("a").await;
        device
    }

    /// Goes on with another row.
    async fn make(&mut self, id: &'static str) {
        self.id = id;
        self.write("in", 1).await;
        self.pull().await;
    }

    async fn row(&self) -> Option<Note> {
        self.table.get(self.id).await.unwrap()
    }

    async fn write(&self, title: &str, rank: i64) {
        self.table.upsert(Note { rank, scroll: Some(7), ..note_of(self.id, title) }).await.unwrap();
    }

    async fn push(&self) {
        self.table.push_items().await.unwrap();
    }

    async fn pull(&self) {
        self.table.pull_items(below(10)).await.unwrap();
    }

    async fn pull_only(&self) {
        self.table.pull_items(below(10).no_push()).await.unwrap();
    }

    /// Begins a call that the service answers, and whose answer is held.
    async fn held<T: Send + 'static>(
        &self,
        call: TransportCall,
        made: impl Future<Output = T> + Send + 'static,
    ) -> (JoinHandle<T>, Sender<()>) {
        let (gate, open) = Gate::new();
        self.faults.next(call, CallFault::Hold(gate));
        let before = self.answers.load(Ordering::SeqCst);
        let made = tokio::spawn(made);
        while self.answers.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        (made, open)
    }

    async fn held_push(&self) -> (JoinHandle<()>, Sender<()>) {
        let table = self.table.clone();
        self.held(TransportCall::Push, async move { table.push_items().await.map(drop).unwrap() }).await
    }

    async fn held_pull(&self) -> (JoinHandle<()>, Sender<()>) {
        let table = self.table.clone();
        let pull = async move { table.pull_items(below(10).no_push()).await.map(drop).unwrap() };
        self.held(TransportCall::FetchPage, pull).await
    }

    /// The row is here as it was last written, and stays so with the next pull.
    async fn keeps(&self, title: &str, history: &str) {
        for pulled in [false, true] {
            let row = self.row().await.unwrap_or_else(|| panic!("{history}, pulled: {pulled}: the row is gone"));
            assert_eq!((row.title.as_str(), row.scroll), (title, Some(7)), "{history}, pulled: {pulled}");
            self.pull().await;
        }
        assert!(self.client.pending().await.unwrap().is_empty());
    }
}

async fn i16_a_row_that_is_back_in_its_query_keeps_what_stays_on_the_device(store: impl Store, wire: Wire) {
    let device = Device::new(store, wire).await;
    for told in ["before", "after"] {
        device.write("out", 50).await;
        device.push().await;
        // The page tells that it left while something of it is queued, which brings it back in the end.
        device.write("queued", if told == "after" { 1 } else { 51 }).await;
        device.pull_only().await;
        device.write("back", 1).await;
        device.push().await;
        device.keeps("back", &format!("told {told} it was changed back")).await;
    }
}

async fn i16_a_row_that_comes_back_while_a_page_is_on_its_way_keeps_what_stays_on_the_device(
    store: impl Store,
    wire: Wire,
) {
    let device = Device::new(store, wire).await;
    device.write("out", 50).await;
    device.push().await;
    let (pull, open) = device.held_pull().await;
    device.write("back", 1).await;
    device.push().await;
    drop(open);
    pull.await.unwrap();
    device.keeps("back", "the page is older than the answer").await;
}

async fn i16_a_row_that_comes_back_while_a_push_is_on_its_way_keeps_what_stays_on_the_device(
    store: impl Store,
    wire: Wire,
) {
    let device = Device::new(store, wire).await;
    device.write("out", 50).await;
    device.push().await;
    let (pull, told) = device.held_pull().await;
    device.write("back", 1).await;
    let (push, open) = device.held_push().await;
    drop(told);
    pull.await.unwrap();
    drop(open);
    push.await.unwrap();
    device.keeps("back", "the change that brings it back is in doubt").await;

    device.write("out", 50).await;
    let (push, open) = device.held_push().await;
    device.write("back", 1).await;
    device.pull_only().await;
    drop(open);
    push.await.unwrap();
    device.push().await;
    device.keeps("back", "the change that took it out is in doubt").await;
}

async fn a_row_that_does_not_come_back_to_its_query_leaves(store: impl Store, wire: Wire) {
    let mut device = Device::new(store, wire).await;
    let other = client(MemoryStore::new(), &device.exchange, ConflictPolicy::Park).await;
    for history in ["discarded", "changed-again", "in-doubt", "changed-alike-elsewhere"] {
        device.make(history).await;
        if history == "changed-alike-elsewhere" {
            notes(&other).pull_items(PullOptions::default()).await.unwrap();
            notes(&other).replace(Note { rank: 50, ..note_of(history, "out") }).await.unwrap();
            notes(&other).push_items().await.unwrap();
        }
        device.write("out", 50).await;
        match history {
            "discarded" => {
                device.push().await;
                device.write("back", 1).await;
                device.pull_only().await;
                assert!(device.row().await.is_some());
                device.client.discard("note", history).await.unwrap();
            }
            "changed-again" => {
                device.push().await;
                device.write("still out", 50).await;
                device.pull_only().await;
                device.pull().await;
            }
            "in-doubt" => {
                let (push, open) = device.held_push().await;
                device.pull_only().await;
                drop(open);
                push.await.unwrap();
            }
            _ => {
                device.pull_only().await;
                device.push().await;
            }
        }
        assert_eq!(device.row().await, None, "{history}");
        assert!(device.client.pending().await.unwrap().is_empty(), "{history}");
    }
}

/// A service that pages by place shows the last row of a page again at the top of the next one if a row was made before it.
async fn verify_goes_on_behind_a_row_that_came_twice(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let row = |id: &str| json!({ "id": id, "title": "first", "rank": 1 });
    rows.seed((0..2_500).map(|rank| row(&format!("{rank:04}"))).collect()).unwrap();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    rows.seed(json!([row("2300-b")])).unwrap();
    let (made, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (times, by_id, there) = (Arc::clone(&made), Arc::clone(&asked), rows.clone());
    exchange.before(move |request| {
        let path = request.url.path();
        if request.url.query().is_some_and(|query| query.contains("$skip=300")) {
            // Before all that the list has shown so far.
            there.seed(json!([row(&format!("!{}", times.fetch_add(1, Ordering::SeqCst)))])).unwrap();
        }
        by_id.lock().unwrap().extend(path.strip_prefix("/tables/note/").map(str::to_owned));
    });
    let report = table.verify_items(table.query()).await.unwrap();
    assert!(made.load(Ordering::SeqCst) >= 2, "between two pages of each part of the list");
    assert_eq!(*asked.lock().unwrap(), ["2300-b"], "only what differs is asked for by id");
    assert_eq!((report.added, report.updated, report.removed), (1, 0, 0));
}

async fn i27_an_old_scope_is_pulled_again_and_checked(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    filled(5, &exchange).await;
    let mut config = SyncConfig::default();
    config.sync.full_resync_after = Some(Duration::from_secs(60));
    let clock = datasync_tests::MovedClock::default();
    let client = client_over(store, exchange.clone()).config(config).clock(clock.clone()).build().await.unwrap();
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    rows.lose("003");
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(table.count().await.unwrap(), 5);
    clock.advance(Duration::from_secs(61));
    let report = table.pull_items(table.query()).await.unwrap();
    assert_eq!((report.received, report.removed), (4, 1), "from the start, and what was not seen is checked");
    assert_eq!(local_rows(&table).await, service_rows(&rows));
    let before = exchange.requests.load(Ordering::SeqCst);
    table.pull_items(table.query()).await.unwrap();
    assert!(exchange.requests.load(Ordering::SeqCst) <= before + 2, "an ordinary pull again");
}

async fn a_cut_pull_is_checked_by_the_next_one(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 5, wire));
    filled(30, &exchange).await;
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(below(20).page_size(5)).await.unwrap();
    for cut in ["ge", "$select"] {
        // The first or a later page, or the list of the check.
        let wanted: datasync_tests::Wanted = match cut {
            "ge" => |request| request.url.query().is_some_and(|query| query.contains("rank")),
            _ => |request| request.url.query().is_some_and(|query| query.contains("$select")),
        };
        exchange.fault(wanted, Fault::Lost);
        let error = table.pull_items(below(10).page_size(5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{cut}");
        assert_eq!(table.count().await.unwrap(), 20, "nothing is let go before it was checked");
    }
    table.pull_items(below(10).page_size(5)).await.unwrap();
    assert_eq!(table.count().await.unwrap(), 10);
}

async fn pull_tables_takes_the_queries_of_the_configuration(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    filled(20, &exchange).await;
    let config = "[tables.note]\nfilter = 'rank lt 8'\nquery_id = 'few'";
    let config = SyncConfig::from_toml(config).unwrap();
    let client = client_over(store, exchange.clone()).config(config).build().await.unwrap();
    let table = notes(&client);
    table.insert(note_of("mine", "made here")).await.unwrap();
    let reports = client.pull_tables(Tables::all()).await.unwrap();
    assert_eq!(reports["note"].inserted, 8);
    assert!(client.pending().await.unwrap().is_empty(), "pushed first");
    assert_eq!(client.pull_tables(["film"]).await.unwrap_err().kind(), ErrorKind::UnknownTable);
    for (wrong, said) in [
        ("filter = 'nope lt 1'", "no property `nope`"),
        ("filter = 'scroll lt 1'", "stays on the device"),
        ("filter = 'rank lt'", "tables.note.filter"),
        ("query_id = '-'", "tables.note.query_id"),
    ] {
        let config = SyncConfig::from_toml(&format!("[tables.note]\n{wrong}")).unwrap();
        let error = client_over(MemoryStore::new(), exchange.clone()).config(config).build().await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

async fn a_pull_that_pushes_nothing_goes_on_around_the_queue(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    filled(3, &exchange).await;
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.insert(note_of("mine", "made here")).await.unwrap();
    let before = exchange.requests.load(Ordering::SeqCst);
    table.pull_items(PullOptions::default().no_push()).await.unwrap();
    assert_eq!(table.count().await.unwrap(), 4);
    assert_eq!(client.pending().await.unwrap().len(), 1);
    assert!(exchange.requests.load(Ordering::SeqCst) > before);
    let error = table.pull_items(PullOptions::default().page_size(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidQuery);
    table.pull_items(PullOptions::default().push_other_tables()).await.unwrap();
    assert!(client.pending().await.unwrap().is_empty());
}
