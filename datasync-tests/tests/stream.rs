//! Results page by page, and parts of rows: over local and remote tables alike.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex, atomic::Ordering};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, RemoteTable},
    clock::SystemClock,
    error::ErrorKind,
    memory::MemoryStore,
    query::Query,
    row::{Record, Row, RowKey},
    store::{RowWrite, Store, WriteBatch},
};
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault as StoreFault, FaultStore, StoreCall};
use datasync_tests::{Fault, Note, RouterExchange, Wire, client_over, note_of, notes, on_both_stores, service};
use futures::{StreamExt, TryStreamExt, executor::block_on};
use serde::Deserialize;

/// More than two pages of a local stream.
const ROWS: i64 = 2_500;

fn row(number: i64) -> Note {
    Note { rank: number % 7, ..note_of(&format!("row-{number:04}"), &format!("title {}", number % 90)) }
}

async fn filled(store: impl Store, wire: Wire, rows: i64) -> (DatasyncClient, RouterExchange) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let client = client_over(store, exchange.clone()).build().await.unwrap();
    notes(&client).insert_all((0..rows).map(row)).await.unwrap();
    (client, exchange)
}

on_both_stores! { a_local_stream_is_the_result_in_its_order }

async fn a_local_stream_is_the_result_in_its_order(store: impl Store, wire: Wire) {
    let (client, _) = filled(store, wire, ROWS).await;
    let table = notes(&client);
    for text in [
        "",
        "$top=0",
        "$skip=2400",
        "$skip=9999",
        "$top=1200",
        "$orderby=id desc",
        "$orderby=id desc&$skip=3&$top=2",
        "$orderby=rank",
        "$orderby=rank desc",
        "$orderby=rank desc&$skip=300&$top=1500",
        "$orderby=rank desc,title",
        "$orderby=rank,title desc",
        "$orderby=title",
        "$orderby=title desc&$top=7",
        "$orderby=title&$skip=1100&$top=1100",
        "$filter=rank eq 3&$orderby=rank desc",
        "$filter=rank in (6,1,2)&$skip=10&$top=900",
        "$filter=rank gt 2 and contains(title,'7')&$orderby=rank",
        "$filter=id ge 'row-1000' and id lt 'row-1010'",
        "$filter=title eq 'title 999'",
    ] {
        let query: Query<Note> = if text.is_empty() { Query::new() } else { text.parse().unwrap() };
        let whole = table.query().with(query.clone()).to_vec().await.unwrap();
        let stream: Vec<Note> = table.query().with(query).stream().try_collect().await.unwrap();
        assert!(stream == whole, "{text}: {} rows, not {}", stream.len(), whole.len());
    }
}

#[test]
fn a_local_stream_reads_no_page_before_it_is_wanted() {
    block_on(async {
        let store = FaultStore::new(MemoryStore::new(), SystemClock);
        let (client, _) = filled(store.clone(), Wire::Extended, ROWS).await;
        for (text, pages) in [("$orderby=id", 3), ("$orderby=rank", 3), ("$filter=contains(title,'t')", 3)] {
            let begun = store.records();
            let mut stream = notes(&client).query().with(text.parse::<Query<Note>>().unwrap()).stream();
            assert_eq!(store.records(), begun, "nothing is read before the first row is asked for");
            for place in 0..ROWS {
                stream.next().await.unwrap().unwrap();
                let page = usize::try_from(place / 1_000).unwrap() + 1;
                let looked_at = (page * 1_000).min(usize::try_from(ROWS).unwrap());
                assert_eq!(store.records() - begun, looked_at, "{text}: row {place}");
            }
            assert!(stream.next().await.is_none());
            assert_eq!((store.records() - begun).div_ceil(1_000), pages);
        }
        let begun = store.records();
        let first: Vec<Note> = notes(&client).query().top(3).stream().try_collect().await.unwrap();
        assert_eq!(
            (first.len(), store.records() - begun),
            (3, 3),
            "of the first rows no more are read than are wanted"
        );
        let begun = store.faults().calls(StoreCall::Read);
        let none = notes(&client).query().filter(|note| note.title.eq("none")).top(1).stream();
        assert_eq!(none.count().await, 0);
        assert!(store.faults().calls(StoreCall::Read) - begun < 16, "reads grow while nothing is found");
    });
}

#[test]
fn a_local_stream_in_an_order_that_no_index_gives_holds_ids_and_reads_the_rows_again() {
    block_on(async {
        let store = FaultStore::new(MemoryStore::new(), SystemClock);
        let (client, _) = filled(store.clone(), Wire::Extended, ROWS).await;
        let mut stream = notes(&client).query().order_by(|note| note.title.desc()).stream();
        let begun = store.faults().calls(StoreCall::Read);
        let reads = || store.faults().calls(StoreCall::Read) - begun;
        stream.next().await.unwrap().unwrap();
        let first = reads();
        assert!(first >= 3, "all three pages are needed for the first row");
        let rest: Vec<Note> = stream.by_ref().try_collect().await.unwrap();
        assert_eq!(rest.len() as i64, ROWS - 1);
        let again = reads() - first;
        assert!(again > 0, "1,500 of the bodies were not kept, and are read when their turn comes");
    });
}

#[test]
fn a_row_that_goes_or_changes_meanwhile_is_shown_as_it_is_when_its_turn_comes() {
    block_on(async {
        let (client, _) = filled(MemoryStore::new(), Wire::Extended, ROWS).await;
        let table = notes(&client);
        let like = "$filter=contains(title,'title')";
        for (turn, text) in [like.to_owned(), format!("{like}&$orderby=title")].into_iter().enumerate() {
            let mut stream = table.query().with(text.parse::<Query<Note>>().unwrap()).stream();
            let first = stream.next().await.unwrap().unwrap();
            let last = ROWS - 1 - 3 * i64::try_from(turn).unwrap();
            let id = |back: i64| format!("row-{:04}", last - back);
            table.delete(&id(0)).await.unwrap();
            let renamed = Note { title: "renamed".to_owned(), ..table.get(&id(1)).await.unwrap().unwrap() };
            table.replace(renamed).await.unwrap();
            let raised = Note { rank: 100, ..table.get(&id(2)).await.unwrap().unwrap() };
            table.replace(raised).await.unwrap();
            let rest: Vec<Note> = stream.try_collect().await.unwrap();
            assert!(rest.iter().all(|note| note.id != first.id), "no row comes twice");
            assert!(rest.iter().all(|note| note.id != id(0) && note.id != id(1)), "what does not match is left out");
            assert!(rest.iter().any(|note| note.id == id(2) && note.rank == 100), "as it is now");
        }
    });
}

#[test]
fn a_row_that_cannot_be_read_is_an_item_and_a_store_that_fails_is_the_end() {
    block_on(async {
        let store = FaultStore::new(MemoryStore::new(), SystemClock);
        let (client, _) = filled(store.clone(), Wire::Extended, ROWS).await;
        put(&store, "row-0001", r#"{"id":"row-0001","title":7,"rank":1}"#).await;
        let table = notes(&client);
        let items: Vec<_> = table.query().stream().collect().await;
        assert_eq!(items.len() as i64, ROWS);
        assert_eq!(items[1].as_ref().unwrap_err().kind(), ErrorKind::InvalidEntity);
        assert!(items[2].is_ok());

        let mut stream = table.query().stream();
        stream.next().await.unwrap().unwrap();
        store.faults().next(StoreCall::Read, StoreFault::FailBefore);
        let items: Vec<_> = stream.collect().await;
        assert_eq!(items.len(), 1_000, "the rest of the page, and the error");
        assert_eq!(items[999].as_ref().unwrap_err().kind(), ErrorKind::Store);
    });
}

/// Writes a body past the types.
async fn put(store: &impl Store, id: &str, body: &str) {
    let record = Record { body: body.as_bytes().into(), version: None, updated_at: None, deleted: false };
    let row = Row { record: Some(record), ..Row::default() };
    let number = store.head().await.unwrap().number + 1;
    let mut batch = WriteBatch { number, ..WriteBatch::default() };
    batch.rows.push(RowWrite::Put { key: RowKey::new("note", id), row, index_keys: Vec::new() });
    store.commit(batch).await.unwrap();
}

async fn remote(wire: Wire) -> (RemoteTable<Note>, RouterExchange, OfflineTable<Note>) {
    let (client, exchange) = filled(MemoryStore::new(), wire, 350).await;
    client.push_tables(["note"]).await.unwrap();
    (client.remote_table(), exchange, notes(&client))
}

#[tokio::test]
async fn a_remote_stream_asks_for_a_page_when_the_one_before_is_used_up() {
    for wire in Wire::ALL {
        let (table, exchange, _) = remote(wire).await;
        let query = table.query().filter(|note| note.rank.ge(1)).order_by(|note| note.title.desc());
        let whole = query.to_vec().await.unwrap();
        let query = table.query().filter(|note| note.rank.ge(1)).order_by(|note| note.title.desc());
        let mut stream = query.stream();
        let begun = exchange.requests.load(Ordering::SeqCst);
        let requests = || exchange.requests.load(Ordering::SeqCst) - begun;
        assert_eq!(requests(), 0);
        for (place, expected) in whole.iter().enumerate() {
            let note = stream.next().await.unwrap().unwrap();
            assert!(note == *expected, "{wire:?}: row {place}");
            assert_eq!(requests(), place / 100 + 1, "{wire:?}: row {place}");
        }
        assert!(stream.next().await.is_none());
        assert_eq!(whole.len(), 300);
        let first: Vec<_> = table.query().top(7).stream().try_collect().await.unwrap();
        assert_eq!(first.len(), 7);
    }
}

#[tokio::test]
async fn a_remote_stream_ends_with_the_request_that_fails() {
    let (table, exchange, _) = remote(Wire::Original).await;
    let mut stream = table.query().stream();
    stream.next().await.unwrap().unwrap();
    exchange.fault(|_| true, Fault::Refused);
    let items: Vec<_> = stream.collect().await;
    assert_eq!(items.len(), 100);
    assert_eq!(items[99].as_ref().unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(exchange.faults_left(), 0);
}

#[derive(Debug, PartialEq, Deserialize)]
struct Title {
    title: String,
    #[serde(rename = "id")]
    key: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    scroll: Option<u32>,
    version: Option<String>,
    updated_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Misspelled {
    #[allow(dead_code)]
    titel: String,
}

#[derive(Debug, Deserialize)]
struct JustTheTitle {
    title: String,
}

#[test]
fn a_part_of_a_local_row_is_all_that_is_decoded() {
    block_on(async {
        let store = MemoryStore::new();
        let (client, _) = filled(store.clone(), Wire::Extended, ROWS).await;
        let table = notes(&client);
        put(&store, "row-0000", r#"{"id":"row-0000","title":"whole","rank":"no number","scroll":[{}]}"#).await;
        assert_eq!(table.query().top(1).to_vec().await.unwrap_err().kind(), ErrorKind::InvalidEntity);
        let title = Title { title: "whole".to_owned(), key: "row-0000".to_owned() };
        assert_eq!(table.query().top(1).select::<Title>().to_vec().await.unwrap(), [title]);
        let rows = table.query().filter(|note| note.rank.eq(3)).select::<Title>().top(2).to_rows().await.unwrap();
        assert_eq!((rows.rows.len(), rows.total), (2, Some(357)));
        let all: Vec<Title> = table.query().select::<Title>().stream().try_collect().await.unwrap();
        assert_eq!(all.len() as i64, ROWS);
        let mut results = table.query().filter(|note| note.id.eq("row-0000")).select::<Title>().watch();
        assert_eq!(results.next().await.unwrap().unwrap()[0].title, "whole");
    });
}

#[tokio::test]
async fn a_part_of_a_row_has_what_the_service_says_of_it_and_what_stays_here() {
    let (_, _, table) = remote(Wire::Extended).await;
    table.replace(Note { scroll: Some(7), ..row(5) }).await.unwrap();
    let place = table.query().filter(|note| note.id.eq("row-0005")).select::<Place>().first().await.unwrap().unwrap();
    assert_eq!(place.scroll, Some(7));
    assert!(place.version.is_some() && place.updated_at.is_some_and(|time| time.ends_with('Z')));
}

#[tokio::test]
async fn a_part_of_a_remote_row_is_all_that_is_asked_for() {
    for wire in Wire::ALL {
        let (table, exchange, _) = remote(wire).await;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        exchange.before(move |request| seen.lock().unwrap().push(request.url.query().unwrap_or_default().to_owned()));
        let query = table.query().filter(|note| note.rank.eq(3)).top(1);
        let found = query.select::<Title>().to_vec().await.unwrap();
        assert_eq!(found, [Title { title: "title 3".to_owned(), key: "row-0003".to_owned() }]);
        let mut titles = table.query().select::<JustTheTitle>().stream();
        assert_eq!(titles.next().await.unwrap().unwrap().title, "title 0");
        // A selection of the query itself asks for nothing less: whole entities are read.
        let whole = table.query().with(Query::<Note>::new().select(|note| note.id)).top(1).to_vec().await.unwrap();
        assert_eq!(whole[0].title, "title 0");
        table.query().include_deleted().with_parameter("for", "me").unwrap().top(1).to_vec().await.unwrap();
        let asked = asked.lock().unwrap();
        let part =
            |place: usize, name: &str| asked[place].split('&').find(|part| part.starts_with(name)).map(str::to_owned);
        assert_eq!(part(0, "$select").as_deref(), Some("$select=id,title"));
        assert_eq!(part(1, "$select").as_deref(), Some("$select=id,title"), "rows have ids");
        assert_eq!(part(2, "$select"), None);
        assert_eq!(part(3, "for=").as_deref(), Some("for=me"));
        assert_eq!(part(3, "__includedeleted").as_deref(), Some("__includedeleted=true"));
    }
}

#[tokio::test]
async fn a_remote_row_says_whether_the_service_has_deleted_it() {
    for wire in Wire::ALL {
        let (table, ..) = remote(wire).await;
        let deleted = table.get("row-0003").await.unwrap().unwrap();
        assert!(!deleted.is_deleted());
        table.delete(&deleted).await.unwrap();
        let all = table.query().filter(|note| note.rank.le(3)).include_deleted().to_vec().await.unwrap();
        let marked = all.iter().filter(|row| row.is_deleted()).map(|row| row.id.as_str()).collect::<Vec<_>>();
        assert_eq!(marked, ["row-0003"]);
    }
}

#[tokio::test]
async fn a_part_that_the_table_does_not_have_is_an_error_that_names_it() {
    let (remote, exchange, local) = remote(Wire::Extended).await;
    let begun = exchange.requests.load(Ordering::SeqCst);
    let misspelled = [
        local.query().select::<Misspelled>().to_vec().await.unwrap_err(),
        local.query().select::<Misspelled>().stream().next().await.unwrap().unwrap_err(),
        local.query().select::<Misspelled>().watch().next().await.unwrap().unwrap_err(),
        remote.query().select::<Misspelled>().to_vec().await.unwrap_err(),
        remote.query().select::<Misspelled>().stream().next().await.unwrap().unwrap_err(),
    ];
    for error in misspelled {
        assert_eq!(error.kind(), ErrorKind::InvalidQuery);
        assert!(error.to_string().contains("`note` has no property `titel`"), "{error}");
    }
    let error = local.query().select::<(String, String)>().to_vec().await.unwrap_err();
    assert!(error.to_string().contains("a struct with named fields"), "{error}");
    let error = remote.query().select::<Place>().to_vec().await.unwrap_err();
    assert!(error.to_string().contains("`scroll` of `note` stays on the device"), "{error}");
    assert_eq!(exchange.requests.load(Ordering::SeqCst), begun, "nothing was asked for");
}
