//! A service whose lists have no end (I24).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use datasync_core::{config::ConflictPolicy, error::ErrorKind, store::Store};
use datasync_server::MemoryRepository;
use datasync_tests::{RouterExchange, Wire, client, local_rows, note_of, notes, service, service_rows};
use serde_json::{Value, json};

datasync_tests::on_both_stores! {
    i24_links_without_an_end_end_a_list
    i24_a_list_that_begins_again_and_again_ends
}

/// After so many pages the service of a test is as it should be, so that the test ends in any case.
const MOST: usize = 300;

/// Lets the service answer each list as `broken` makes of the page and its number. Returns how many it has answered so.
fn break_lists(
    exchange: &RouterExchange,
    mut broken: impl FnMut(Value, usize) -> Value + Send + 'static,
) -> Arc<AtomicUsize> {
    let pages = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pages);
    exchange.after(move |answer| {
        let Ok(page) = serde_json::from_slice::<Value>(&answer.body) else { return };
        if page["items"].is_array() && counted.load(Ordering::SeqCst) < MOST {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            answer.body = serde_json::to_vec(&broken(page, number)).unwrap();
        }
    });
    pages
}

async fn i24_links_without_an_end_end_a_list(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = client(store, &exchange, ConflictPolicy::ClientWins).await;
    let table = notes(&client);
    // To itself, and to one page after the other.
    for (id, step) in [("itself", 0), ("others", 1)] {
        table.insert(note_of(id, "x")).await.unwrap();
        table.push_items().await.unwrap();
        table.pull_items(table.query()).await.unwrap();
        let linked = move |mut page: Value, number| {
            page["nextLink"] = json!(format!("http://service/tables/note?$skip={}", 1_000 + step * number));
            page
        };

        let pages = break_lists(&exchange, linked);
        let error = table.verify_items(table.query()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Service, "{id}");
        assert!(error.to_string().contains("has no end"), "{error}");
        assert!(pages.load(Ordering::SeqCst) < MOST / 2, "{id}: {pages:?}");

        // What a 404 means is asked of a list.
        rows.lose(id);
        table.replace(note_of(id, "ours")).await.unwrap();
        let pages = break_lists(&exchange, linked);
        table.push_items().await.unwrap();
        assert!((1..MOST / 2).contains(&pages.load(Ordering::SeqCst)), "{id}: {pages:?}");
        assert_eq!(client.pending().await.unwrap().len(), 1, "{id}: nothing is known of the row");

        exchange.after(|_| {});
        table.push_items().await.unwrap();
        table.verify_items(table.query()).await.unwrap();
        assert!(client.pending().await.unwrap().is_empty());
        assert_eq!(local_rows(&table).await, service_rows(&rows));
    }
}

async fn i24_a_list_that_begins_again_and_again_ends(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let row = |number| json!({ "id": format!("{number:04}"), "title": "x", "rank": 1 });
    rows.seed((0..1_100).map(row).collect()).unwrap();
    let exchange = RouterExchange::new(service(&rows, 1_000, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    let mut first = None;
    let pages = break_lists(&exchange, move |page, _| first.get_or_insert(page).clone());
    let error = table.verify_items(table.query()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Service);
    assert_eq!(pages.load(Ordering::SeqCst), 2);
    assert_eq!(table.count().await.unwrap(), 1_100, "nothing was changed");
}
