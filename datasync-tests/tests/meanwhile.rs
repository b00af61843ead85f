//! The user edits while a request is on its way, and answers come late or never (I2, I5, I10).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datasync_core::{
    client::{DatasyncClient, OfflineTable},
    memory::MemoryStore,
    store::Store,
};
use datasync_http::{Exchange, ExchangeError, HttpRequest, HttpResponse, HttpTransport, Method};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_tests::{Fault, Note, RouterExchange, Wire, local_rows, note_of, service, service_rows};

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
