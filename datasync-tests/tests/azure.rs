//! The loop against a service as Azure Mobile Apps has it: no extensions, PATCH to undelete, whole URLs as next links.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use datasync_core::{
    client::{DatasyncClient, OfflineTable},
    memory::MemoryStore,
    query::Dialect,
};
use datasync_http::{HttpTransport, Method};
use datasync_server::{DatasyncServer, DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{Note, RouterExchange, local_rows, note_of, service_rows};

fn router(rows: &MemoryRepository) -> axum::Router {
    let notes = TableOptions::of::<Note>().soft_delete(true).page_size(10);
    let builder = DatasyncService::builder().dialect(Dialect::Azure).extensions(false);
    builder.table(notes, rows.clone()).build().unwrap()
}

async fn device(transport: HttpTransport) -> (DatasyncClient, OfflineTable<Note>) {
    let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport).table::<Note>();
    let client = builder.build().await.unwrap();
    let table = client.offline_table();
    (client, table)
}

#[tokio::test]
async fn devices_agree_over_a_service_of_azure() {
    let rows = MemoryRepository::new();
    let server = DatasyncServer::start("127.0.0.1:0".parse().unwrap(), router(&rows)).await.unwrap();
    let transport = || {
        let builder = HttpTransport::builder(&format!("http://{}", server.address()));
        builder.dialect(Dialect::Azure).build().unwrap()
    };
    let (one, here) = device(transport()).await;
    let (_, there) = device(transport()).await;
    for number in 0..35 {
        here.insert(note_of(&format!("row-{number:02}"), "one")).await.unwrap();
    }
    assert_eq!(here.push_items().await.unwrap().pushed, 35);
    assert_eq!(there.pull_items(there.query()).await.unwrap().inserted, 35, "page after page");
    there.replace(note_of("row-03", "two")).await.unwrap();
    there.delete("row-04").await.unwrap();
    assert_eq!(there.push_items().await.unwrap().pushed, 2);
    let pulled = here.pull_items(here.query()).await.unwrap();
    assert_eq!((pulled.updated, pulled.removed), (1, 1));
    there.insert(note_of("row-04", "back again")).await.unwrap();
    assert_eq!(there.push_items().await.unwrap().pushed, 1, "an undelete by PATCH");
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(here.get("row-04").await.unwrap().unwrap().title, "back again");
    assert_eq!(local_rows(&here).await, service_rows(&rows));
    let remote = one.remote_table::<Note>().query().order_by(|note| note.title.desc()).to_vec().await.unwrap();
    assert_eq!((remote.len(), remote[0].title.as_str()), (35, "two"), "next links that are whole URLs");
}

#[tokio::test]
async fn an_undelete_of_azure_names_the_version_it_overwrites() {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(router(&rows));
    let builder = HttpTransport::builder("http://service").dialect(Dialect::Azure).exchange(exchange.clone());
    let (_, table) = device(builder.build().unwrap()).await;
    table.insert(note_of("a", "one")).await.unwrap();
    table.push_items().await.unwrap();
    table.delete("a").await.unwrap();
    table.push_items().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    exchange.before(move |request| {
        if request.method == Method::Patch {
            log.lock().unwrap().push(request.headers.iter().any(|(name, _)| name == "if-match"));
        }
    });
    table.insert(note_of("a", "again")).await.unwrap();
    assert_eq!(table.push_items().await.unwrap().pushed, 1);
    assert_eq!(*seen.lock().unwrap(), [true]);
    assert_eq!(service_rows(&rows), [("a".to_owned(), "again".to_owned(), 0)]);
}
