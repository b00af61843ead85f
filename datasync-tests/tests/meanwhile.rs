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
    client::{DatasyncClient, OfflineTable, PullOptions},
    clock::SystemClock,
    config::ConflictPolicy,
    memory::MemoryStore,
    query::Query,
    store::Store,
};
use datasync_http::{Exchange, ExchangeError, HttpRequest, HttpResponse, HttpStream, HttpTransport, Method};
use datasync_redb::RedbStore;
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_testkit::{Fault as CallFault, FaultTransport, Gate, TransportCall};
use datasync_tests::{
    Fault, Note, RouterExchange, Way, Wire, client, client_over, local_rows, note_of, notes, service, service_rows,
};
use futures::channel::oneshot;

datasync_tests::on_both_stores! {
    i02_a_thousand_writes_return_while_the_service_holds_an_answer
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

/// A service that keeps no tombstones never tells again of a row that is gone.
async fn i12_a_page_on_its_way_brings_nothing_back_that_was_looked_at_since(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let built = DatasyncService::builder().extensions(wire.extended()).table(TableOptions::of::<Note>(), rows.clone());
    let exchange = RouterExchange::new(wire.lead_to(built.build().unwrap()));
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answers);
    exchange.after(move |_| _ = counted.fetch_add(1, Ordering::SeqCst));
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
    let transport = FaultTransport::new(transport, SystemClock);
    let faults = transport.faults().clone();
    let client = DatasyncClient::builder().store(store).transport(transport).table::<Note>().build().await.unwrap();
    let table = notes(&client);
    // A page that the service has answered, and that has not arrived.
    let page_on_its_way = async |scope: &str| {
        let (gate, open) = Gate::new();
        // In the first page of an original service are the rows without a time.
        let pages = if wire.extended() { 1 } else { 2 };
        (1..pages).for_each(|_| faults.next(TransportCall::FetchPage, CallFault::Pass));
        faults.next(TransportCall::FetchPage, CallFault::Hold(gate));
        let (before, pulling) = (answers.load(Ordering::SeqCst), table.clone());
        let options = PullOptions::default().query_id(scope).no_push();
        let pull = tokio::spawn(async move { pulling.pull_items(options).await });
        until(|| answers.load(Ordering::SeqCst) == before + pages).await;
        (pull, open)
    };

    // A deletion in doubt, because the push is dropped, of which a discard learns that it was made.
    table.insert(note_of("a", "x")).await.unwrap();
    table.push_items().await.unwrap();
    let (pull, open) = page_on_its_way("one").await;
    table.delete("a").await.unwrap();
    let (gate, _held) = Gate::new();
    faults.next(TransportCall::Push, CallFault::Hold(gate));
    let pushing = table.clone();
    let push = tokio::spawn(async move { pushing.push_items().await });
    until(|| rows.rows().is_empty()).await;
    push.abort();
    assert!(push.await.unwrap_err().is_cancelled());
    client.discard("note", "a").await.unwrap();
    drop(open);
    pull.await.unwrap().unwrap();
    assert_eq!((local_rows(&table).await, service_rows(&rows)), (vec![], vec![]));

    // A success for a row of which a page has shown a later state: the row is asked for, and is gone meanwhile.
    let other = client_over(MemoryStore::new(), exchange.clone()).build().await.unwrap();
    table.insert(note_of("b", "x")).await.unwrap();
    table.push_items().await.unwrap();
    table.replace(note_of("b", "ours")).await.unwrap();
    let (gate, answer) = Gate::new();
    faults.next(TransportCall::Push, CallFault::Hold(gate));
    let pushing = table.clone();
    let push = tokio::spawn(async move { pushing.push_items().await });
    until(|| service_rows(&rows)[0].1 == "ours").await;
    notes(&other).pull_items(Query::new()).await.unwrap();
    notes(&other).replace(note_of("b", "theirs")).await.unwrap();
    notes(&other).push_items().await.unwrap();
    table.pull_items(PullOptions::default().no_push()).await.unwrap();
    let (gate, look) = Gate::new();
    faults.next(TransportCall::Fetch, CallFault::Late(gate));
    let looks = faults.calls(TransportCall::Fetch);
    drop(answer);
    until(|| faults.calls(TransportCall::Fetch) > looks).await;
    let (pull, open) = page_on_its_way("two").await;
    rows.lose("b");
    drop(look);
    push.await.unwrap().unwrap();
    drop(open);
    pull.await.unwrap().unwrap();
    assert_eq!((local_rows(&table).await, service_rows(&rows)), (vec![], vec![]));
}
