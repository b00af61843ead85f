//! The user edits while a request is on its way, and answers come late or never (I2, I5, I10).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::{
    extract::Request,
    middleware::{Next, from_fn},
};
use datasync_core::{
    client::{DatasyncClient, OfflineTable},
    config::ConflictPolicy,
    memory::MemoryStore,
    store::Store,
};
use datasync_http::{Exchange, ExchangeError, HttpRequest, HttpResponse, HttpStream, HttpTransport, Method};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_tests::{
    Fault, Note, RouterExchange, Way, Wire, client, local_rows, note_of, notes, service, service_rows,
};
use futures::channel::oneshot;

datasync_tests::on_both_stores! {
    i02_a_thousand_writes_return_while_the_service_holds_an_answer
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
