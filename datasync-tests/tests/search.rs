//! Local queries read no more rows than they need, and say which way they take.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{clock::SystemClock, config::ConflictPolicy, memory::MemoryStore, query::Query, store::Store};
use datasync_redb::RedbStore;
use datasync_server::MemoryRepository;
use datasync_testkit::FaultStore;
use datasync_tests::{Note, RouterExchange, Wire, client, note_of, notes, service};

async fn reads_no_more_rows_than_it_needs(store: impl Store + Clone) {
    let store = FaultStore::new(store, SystemClock);
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended));
    let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let note = |number: i64| Note { rank: number * 7 % 1_000, ..note_of(&format!("row-{number:04}"), "x") };
    table.insert_all((0..1_000).map(note)).await.unwrap();
    for (text, rows, most) in [
        ("$orderby=rank&$top=20", 20, 21),
        ("$orderby=rank desc&$top=20", 20, 21),
        ("$orderby=rank,id&$skip=10&$top=10", 10, 21),
        ("$filter=rank ge 500&$orderby=rank&$top=20", 20, 21),
        ("$top=20", 20, 21),
        ("$orderby=id desc&$top=20", 20, 21),
        ("$filter=rank eq 5", 1, 1),
        ("$filter=rank in (5,6,7,5)", 3, 3),
        ("$filter=id in ('row-0007','row-0003','nothing')", 2, 2),
        ("$filter=id gt 'row-0990'", 9, 9),
        ("$filter=rank ge 10 and rank lt 20&$orderby=title", 10, 10),
        ("$filter=title eq 'x'&$top=0", 0, 0),
        ("$filter=title eq 'x'&$orderby=title&$top=3", 3, 1_000),
    ] {
        let query: Query<Note> = text.parse().unwrap();
        let asked = table.query().with(query);
        let way = asked.explain().unwrap().to_string();
        let before = store.records();
        assert_eq!(asked.to_vec().await.unwrap().len(), rows, "{text}");
        let read = store.records() - before;
        assert!(read <= most, "{text}: {read} rows were read, by {way}");
    }
    let words = |text: &str| table.query().with(text.parse::<Query<Note>>().unwrap()).explain().unwrap().to_string();
    assert_eq!(words("$orderby=rank desc&$top=3"), "the whole index rank(rank:number), in order from the end");
    assert_eq!(words("$filter=rank in (1,2)"), "2 ranges of the index rank(rank:number), then sorted");
    assert_eq!(words("$filter=title eq 'x'"), "all rows, filtered, in order");
    assert_eq!(
        words("$filter=rank gt 1 and title eq 'x'"),
        "1 range of the index rank(rank:number), filtered, then sorted"
    );
    assert!("$filter=nothing eq 1".parse::<Query<Note>>().is_err(), "a property that the table does not have");
}

#[tokio::test]
async fn a_query_reads_no_more_rows_than_it_needs_from_memory() {
    reads_no_more_rows_than_it_needs(MemoryStore::new()).await;
}

#[tokio::test]
async fn a_query_reads_no_more_rows_than_it_needs_from_redb() {
    let folder = tempfile::tempdir().unwrap();
    reads_no_more_rows_than_it_needs(RedbStore::open(folder.path().join("store.redb")).unwrap()).await;
}
