//! The user edits while a request is on its way, and answers come late or never (I2, I5, I10).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use axum::{
    extract::Request,
    middleware::{Next, from_fn},
};
use datasync_core::{
    client::{DatasyncClient, OfflineTable, PullOptions, ResetOptions},
    clock::SystemClock,
    config::{ConflictPolicy, SyncConfig},
    error::Error,
    memory::MemoryStore,
    query::Query,
    report::{PullReport, PushReport},
    store::Store,
};
use datasync_http::{Exchange, ExchangeError, HttpRequest, HttpResponse, HttpStream, HttpTransport, Method};
use datasync_redb::RedbStore;
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_testkit::{Fault as CallFault, FaultTransport, Faults, Gate, TransportCall};
use datasync_tests::{
    Fault, Note, RouterExchange, Way, Wire, client, client_over, local_rows, note_of, notes, service, service_rows,
};
use futures::channel::oneshot;
use tokio::task::JoinHandle;

datasync_tests::on_both_stores! {
    i02_a_thousand_writes_return_while_the_service_holds_an_answer
    i12_i14_an_older_page_of_another_scope_takes_no_copy_back
    i12_a_page_on_its_way_brings_nothing_back_that_was_looked_at_since
}

/// What the user does while a change is on its way.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Replace,
    Delete,
    DeleteAndInsert,
}

/// The table and what is done to it, once.
type Planned = Arc<Mutex<Option<(OfflineTable<Note>, Edit)>>>;

/// Lets the user edit after the service has done a change, and before its answer arrives.
#[derive(Clone, Debug)]
struct Meanwhile {
    inner: RouterExchange,
    edit: Planned,
}

#[async_trait]
impl Exchange for Meanwhile {
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError> {
        let changes = request.method != Method::Get;
        let answer = self.inner.send(request, max_body).await;
        let edit = if changes { self.edit.lock().unwrap().take() } else { None };
        if let Some((table, edit)) = edit {
            match edit {
                Edit::Replace => drop(table.replace(Note { rank: 9, ..note_of("a", "meanwhile") }).await.unwrap()),
                Edit::Delete => drop(table.delete("a").await.unwrap()),
                Edit::DeleteAndInsert => {
                    table.delete("a").await.unwrap();
                    table.insert(note_of("a", "meanwhile")).await.unwrap();
                }
            }
        }
        answer
    }

    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError> {
        self.inner.stream(request).await
    }
}

async fn edits_while_a_push_is_on_its_way(
    store: impl Store,
    edit: Edit,
    fault: Fault,
    first_replace: bool,
    wire: Wire,
) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let meanwhile = Meanwhile { inner: exchange.clone(), edit: Arc::default() };
    let transport = HttpTransport::builder("http://service").retries(0).exchange(meanwhile.clone()).build().unwrap();
    let builder = DatasyncClient::builder().store(store).transport(transport).table::<Note>();
    let client = builder.build().await.unwrap();
    let table = client.offline_table::<Note>();
    table.insert(note_of("a", "first")).await.unwrap();
    if first_replace {
        table.push_items().await.unwrap();
        table.replace(note_of("a", "second")).await.unwrap();
    }
    exchange.fault(|request| request.method != Method::Get, fault);
    *meanwhile.edit.lock().unwrap() = Some((table.clone(), edit));
    let first = table.push_items().await;
    assert_eq!(first.is_err(), fault == Fault::Refused);
    assert!(meanwhile.edit.lock().unwrap().is_none(), "the edit returned while the request was on its way");
    for _ in 0..2 {
        table.pull_items(table.query()).await.unwrap();
        table.push_items().await.unwrap();
    }
    let case = format!("{edit:?} {fault:?} {first_replace} {wire:?}");
    assert!(client.pending().await.unwrap().is_empty(), "{case}");
    assert!(client.settled_losers().await.unwrap().is_empty(), "{case}: nothing was lost");
    let expected: Vec<(String, String, i64)> = match edit {
        Edit::Replace => vec![("a".to_owned(), "meanwhile".to_owned(), 9)],
        Edit::Delete => Vec::new(),
        Edit::DeleteAndInsert => vec![("a".to_owned(), "meanwhile".to_owned(), 0)],
    };
    assert_eq!(local_rows(&table).await, expected, "{case}");
    assert_eq!(service_rows(&rows), expected, "{case}");
}

#[tokio::test]
async fn i02_an_edit_while_a_push_is_on_its_way_is_never_lost() {
    for edit in [Edit::Replace, Edit::Delete, Edit::DeleteAndInsert] {
        for fault in [Fault::None, Fault::AnswerLost, Fault::Lost, Fault::Status(503), Fault::Refused] {
            for first_replace in [false, true] {
                for wire in Wire::ALL {
                    let folder = tempfile::tempdir().unwrap();
                    let redb = RedbStore::open(folder.path().join("store.redb")).unwrap();
                    edits_while_a_push_is_on_its_way(MemoryStore::new(), edit, fault, first_replace, wire).await;
                    edits_while_a_push_is_on_its_way(redb, edit, fault, first_replace, wire).await;
                }
            }
        }
    }
}

/// A service that holds its answer to the first change. Returns what is told when that has been done, and what lets the
/// answer go.
fn holding(service: Way) -> (Way, oneshot::Receiver<()>, oneshot::Sender<()>) {
    let ((done, is_done), (open, gate)) = (oneshot::channel(), oneshot::channel::<()>());
    let once = Arc::new(Mutex::new(Some((done, gate))));
    let layer = from_fn(move |request: Request, next: Next| {
        let changes = request.method() != "GET";
        let held = if changes { once.lock().unwrap().take() } else { None };
        async move {
            let answer = next.run(request).await;
            if let Some((done, gate)) = held {
                done.send(()).unwrap();
                gate.await.unwrap();
            }
            answer
        }
    });
    (service.behind(|router| router.layer(layer)), is_done, open)
}

/// The user writes a thousand rows while the answer to another one is held by a gate that opens only afterwards.
async fn i02_a_thousand_writes_return_while_the_service_holds_an_answer(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let (service, is_done, open) = holding(service(&rows, 100, wire));
    let client = client(store, &RouterExchange::new(service), ConflictPolicy::Park).await;
    let table = notes(&client);
    table.insert(note_of("first", "x")).await.unwrap();
    let pushing = table.clone();
    let push = tokio::spawn(async move { pushing.push_items().await });
    is_done.await.unwrap();
    let writing = table.clone();
    let writes = tokio::spawn(async move {
        for number in 0..1_000 {
            writing.insert(note_of(&format!("{number:03}"), "meanwhile")).await.unwrap();
        }
    });
    writes.await.unwrap();
    assert!(!push.is_finished(), "the answer is still held");
    assert_eq!(table.count().await.unwrap(), 1_001);
    open.send(()).unwrap();
    assert_eq!(push.await.unwrap().unwrap().pushed, 1, "what was queued later was not waited for");
    let report = table.push_items().await.unwrap();
    assert_eq!(report.pushed, 1_000, "{report:?}");
    assert_eq!(service_rows(&rows), local_rows(&table).await);
}

/// Waits until something has come about.
async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

/// A client whose pages and pushes can be held, and the service that it shares with others.
struct Held {
    exchange: RouterExchange,
    answers: Arc<AtomicUsize>,
    faults: Faults<TransportCall>,
    client: DatasyncClient,
    table: OfflineTable<Note>,
    wire: Wire,
}

impl Held {
    async fn new(store: impl Store, service: Way, config: SyncConfig, wire: Wire) -> Held {
        let exchange = RouterExchange::new(service);
        let answers = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&answers);
        exchange.after(move |_| _ = counted.fetch_add(1, Ordering::SeqCst));
        let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
        let transport = FaultTransport::new(transport, SystemClock);
        let faults = transport.faults().clone();
        let builder = DatasyncClient::builder().store(store).transport(transport).config(config).table::<Note>();
        let client = builder.build().await.unwrap();
        let table = notes(&client);
        Held { exchange, answers, faults, client, table, wire }
    }

    /// A page that the service has answered, and that has not arrived.
    async fn page_on_its_way(&self, scope: &str) -> (JoinHandle<Result<PullReport, Error>>, oneshot::Sender<()>) {
        let (gate, open) = Gate::new();
        // In the first page of an original service are the rows without a time.
        let pages = if self.wire.extended() { 1 } else { 2 };
        (1..pages).for_each(|_| self.faults.next(TransportCall::FetchPage, CallFault::Pass));
        self.faults.next(TransportCall::FetchPage, CallFault::Hold(gate));
        let (before, pulling) = (self.answers.load(Ordering::SeqCst), self.table.clone());
        let options = PullOptions::default().query_id(scope).no_push();
        let pull = tokio::spawn(async move { pulling.pull_items(options).await });
        until(|| self.answers.load(Ordering::SeqCst) == before + pages).await;
        (pull, open)
    }

    /// A push that has been answered, and whose answer has not arrived.
    async fn push_on_its_way(&self) -> (JoinHandle<Result<PushReport, Error>>, oneshot::Sender<()>) {
        let (gate, open) = Gate::new();
        self.faults.next(TransportCall::Push, CallFault::Hold(gate));
        let (before, pushing) = (self.answers.load(Ordering::SeqCst), self.table.clone());
        let push = tokio::spawn(async move { pushing.push_items().await });
        until(|| self.answers.load(Ordering::SeqCst) > before).await;
        (push, open)
    }
}

/// A page of one scope that is older than what a page of another one has shown.
async fn i12_i14_an_older_page_of_another_scope_takes_no_copy_back(store: impl Store + Clone, wire: Wire) {
    for (id, policy) in [("parked", ConflictPolicy::Park), ("in-doubt", ConflictPolicy::ServerWins)] {
        let rows = MemoryRepository::new();
        let mut config = SyncConfig::default();
        config.sync.conflict = policy;
        let here = Held::new(store.clone(), service(&rows, 100, wire), config, wire).await;
        let other = notes(&client_over(MemoryStore::new(), here.exchange.clone()).build().await.unwrap());
        let theirs = async |title: &str| {
            other.replace(note_of(id, title)).await.unwrap();
            other.push_items().await.unwrap();
        };
        here.table.insert(note_of(id, "x")).await.unwrap();
        here.table.push_items().await.unwrap();
        other.pull_items(Query::new()).await.unwrap();
        here.table.replace(note_of(id, "ours")).await.unwrap();
        let push = match policy {
            ConflictPolicy::Park => None,
            _ => {
                here.exchange.fault(|request| request.method != Method::Get, Fault::Status(403));
                Some(here.push_on_its_way().await)
            }
        };
        theirs("older").await;
        if push.is_none() {
            assert_eq!(here.table.push_items().await.unwrap().conflicts, 1);
        }
        let (pull, open) = here.page_on_its_way(&format!("{id}-one")).await;
        theirs("newer").await;
        let options = PullOptions::default().query_id(format!("{id}-two")).no_push();
        here.table.pull_items(options).await.unwrap();
        drop(open);
        pull.await.unwrap().unwrap();
        let shown = match push {
            None => here.client.conflicts().await.unwrap()[0].service::<Note>().unwrap(),
            // What was refused meets what has been seen meanwhile.
            Some((push, open)) => {
                drop(open);
                push.await.unwrap().unwrap();
                here.table.get(id).await.unwrap()
            }
        };
        assert_eq!(shown.unwrap().title, "newer", "{id}");
        here.client.reset(ResetOptions::everything().force()).await.unwrap();
    }
}

/// A service that keeps no tombstones never tells again of a row that is gone.
async fn i12_a_page_on_its_way_brings_nothing_back_that_was_looked_at_since(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let built = DatasyncService::builder().extensions(wire.extended()).table(TableOptions::of::<Note>(), rows.clone());
    let service = wire.lead_to(built.build().unwrap());
    let held = Held::new(store, service, SyncConfig::default(), wire).await;
    let Held { exchange, faults, client, table, .. } = &held;

    // A deletion in doubt, because the push is dropped, of which a discard learns that it was made.
    table.insert(note_of("a", "x")).await.unwrap();
    table.push_items().await.unwrap();
    let (pull, open) = held.page_on_its_way("one").await;
    table.delete("a").await.unwrap();
    let (push, _held) = held.push_on_its_way().await;
    assert!(rows.rows().is_empty());
    push.abort();
    assert!(push.await.unwrap_err().is_cancelled());
    client.discard("note", "a").await.unwrap();
    drop(open);
    pull.await.unwrap().unwrap();
    assert_eq!((local_rows(table).await, service_rows(&rows)), (vec![], vec![]));

    // A success for a row of which a page has shown a later state: the row is asked for, and is gone meanwhile.
    let other = client_over(MemoryStore::new(), exchange.clone()).build().await.unwrap();
    table.insert(note_of("b", "x")).await.unwrap();
    table.push_items().await.unwrap();
    table.replace(note_of("b", "ours")).await.unwrap();
    let (push, answer) = held.push_on_its_way().await;
    assert_eq!(service_rows(&rows)[0].1, "ours");
    notes(&other).pull_items(Query::new()).await.unwrap();
    notes(&other).replace(note_of("b", "theirs")).await.unwrap();
    notes(&other).push_items().await.unwrap();
    table.pull_items(PullOptions::default().no_push()).await.unwrap();
    let (gate, look) = Gate::new();
    faults.next(TransportCall::Fetch, CallFault::Late(gate));
    let looks = faults.calls(TransportCall::Fetch);
    drop(answer);
    until(|| faults.calls(TransportCall::Fetch) > looks).await;
    let (pull, open) = held.page_on_its_way("two").await;
    rows.lose("b");
    drop(look);
    push.await.unwrap().unwrap();
    drop(open);
    pull.await.unwrap().unwrap();
    assert_eq!((local_rows(table).await, service_rows(&rows)), (vec![], vec![]));
}
