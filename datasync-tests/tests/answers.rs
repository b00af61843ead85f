//! What an answer does to the row whose operation was sent, where that is more than to take the copy.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use async_trait::async_trait;
use datasync_core::{
    client::{OfflineTable, PendingState, Resolution},
    config::ConflictPolicy,
    store::Store,
};
use datasync_http::{HttpRequest, Method};
use datasync_server::{AccessControl, DatasyncService, MemoryRepository, TableOperation, TableOptions};
use datasync_tests::{Fault, Note, Pair, RouterExchange, Wire, client, note_of, notes, service_rows};
use futures::executor::block_on;
use serde_json::{Map, Value};

datasync_tests::on_both_stores! {
    a_success_meets_what_was_changed_meanwhile
    a_row_that_is_gone_and_one_that_is_deleted
    a_404_that_is_not_about_the_row_loses_nothing
}

/// A service that ranks each row it writes.
#[derive(Debug)]
struct Ranks;

#[async_trait]
impl AccessControl for Ranks {
    async fn before_commit(&self, _: &str, _: TableOperation, row: &mut Map<String, Value>) -> Result<(), String> {
        row.insert("rank".to_owned(), 100.into());
        Ok(())
    }
}

fn is_put(request: &HttpRequest) -> bool {
    request.method == Method::Put
}

/// Once, while the next replace is on its way.
fn meanwhile(exchange: &RouterExchange, edit: impl FnOnce() + Send + 'static) {
    let mut edit = Some(edit);
    exchange.before(move |request| {
        if is_put(request)
            && let Some(edit) = edit.take()
        {
            edit();
        }
    });
}

async fn a_success_meets_what_was_changed_meanwhile(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let options = TableOptions::of::<Note>().soft_delete(true).access(Ranks);
    let built = DatasyncService::builder().extensions(wire.extended()).table(options, rows.clone()).build();
    let exchange = RouterExchange::new(wire.lead_to(built.unwrap()));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let get = async |id: &str| table.get(id).await.unwrap().unwrap();
    for id in ["edited", "settled", "deleted"] {
        table.insert(note_of(id, "one")).await.unwrap();
    }
    table.push_items().await.unwrap();
    let push = async |id: &str, edit: fn(OfflineTable<Note>)| {
        // The rank that is sent is not the one that is answered.
        table.replace(Note { rank: 1, ..note_of(id, "two") }).await.unwrap();
        let behind = table.clone();
        meanwhile(&exchange, move || edit(behind));
        table.push_items().await.unwrap()
    };
    push("edited", |table| {
        block_on(table.replace(Note { rank: 1, scroll: Some(3), ..note_of("edited", "three") })).unwrap();
    })
    .await;
    let merged = Note { rank: 100, scroll: Some(3), ..note_of("edited", "three") };
    assert_eq!(get("edited").await, merged, "a field that was not changed meanwhile is the service's");
    table.push_items().await.unwrap();
    assert!(service_rows(&rows).contains(&("edited".to_owned(), "three".to_owned(), 100)));

    push("settled", |table| {
        block_on(table.replace(Note { rank: 100, ..note_of("settled", "two") })).unwrap();
    })
    .await;
    assert!(client.pending().await.unwrap().is_empty(), "nothing differs any more");
    assert_eq!(get("settled").await, Note { rank: 100, ..note_of("settled", "two") });

    push("deleted", |table| drop(block_on(table.delete("deleted")).unwrap())).await;
    table.push_items().await.unwrap();
    assert!(client.pending().await.unwrap().is_empty(), "the deletion has the version that was answered");
    assert!(table.get("deleted").await.unwrap().is_none());
    assert!(service_rows(&rows).iter().all(|(id, ..)| id != "deleted"));
}

async fn a_row_that_is_gone_and_one_that_is_deleted(store: impl Store, wire: Wire) {
    let Pair { rows, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    let ids = ["gone", "gone-too", "marked", "marked-too"];
    for id in ids {
        table.insert(note_of(id, "one")).await.unwrap();
    }
    table.push_items().await.unwrap();
    for id in ids {
        if id.starts_with("gone") {
            rows.lose(id);
        } else {
            let row = serde_json::json!({ "id": id, "title": "one", "rank": 0, "deleted": true });
            rows.seed(serde_json::json!([row])).unwrap();
        }
    }
    table.replace(note_of("gone", "ours")).await.unwrap();
    table.replace(note_of("marked", "ours")).await.unwrap();
    table.delete("gone-too").await.unwrap();
    table.delete("marked-too").await.unwrap();
    let report = table.push_items().await.unwrap();
    assert_eq!(
        (report.pushed + report.settled, report.conflicts),
        (2, 2),
        "who deletes it wants nothing else: {report:?}"
    );
    let conflicts = client.conflicts().await.unwrap();
    assert_eq!(conflicts.iter().map(|conflict| conflict.id()).collect::<Vec<_>>(), ["gone", "marked"]);
    for conflict in &conflicts {
        assert_eq!(conflict.base::<Note>().unwrap().unwrap().title, "one");
        assert!(conflict.service::<Note>().unwrap().is_none());
        client.resolve::<Note>(conflict, Resolution::Keep).await.unwrap();
    }
    assert_eq!(table.push_items().await.unwrap().pushed, 2, "an insert, and an undelete");
    let there: Vec<String> = service_rows(&rows).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(there, ["gone", "marked"]);
    assert!(client.pending().await.unwrap().is_empty());
}

async fn a_404_that_is_not_about_the_row_loses_nothing(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    table.insert(note_of("a", "one")).await.unwrap();
    table.push_items().await.unwrap();
    // A row at a route that is wrong only for it, while its table answers.
    table.replace(note_of("a", "two")).await.unwrap();
    exchange.fault(is_put, Fault::Status(404));
    assert_eq!(table.push_items().await.unwrap().waiting, 1, "the table shows it: it is not gone");
    assert_eq!(table.push_items().await.unwrap().pushed, 1);
    table.insert(note_of("b", "one")).await.unwrap();
    exchange.fault(|request| request.method == Method::Post, Fault::Status(404));
    assert_eq!(table.push_items().await.unwrap().parked, 1);
    let pending = client.pending().await.unwrap();
    assert!(matches!(&pending[0].state, PendingState::Parked(reason) if reason.contains("404")), "{pending:?}");
    client.retry("note", "b").await.unwrap();
    assert_eq!(table.push_items().await.unwrap().pushed, 1, "nothing was lost");
    assert_eq!(service_rows(&rows).len(), 2);
}
