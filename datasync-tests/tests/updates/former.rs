//! Tables that a release of the app no longer has, and a later one has again.

use datasync_core::{
    client::{DatasyncClient, Pending, PendingRequest, PendingState, Tables},
    error::{Error, ErrorKind},
    memory::MemoryStore,
    row::OperationKind,
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::Method;
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{Fault, Note, RouterExchange, Wire, folder, note_of, notes};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::world::{Place, changes, file, json_of, transport};

on_both_places! {
    i08_i23_a_table_that_went_holds_nothing_back_and_loses_nothing
}

/// What the second release does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Film {
    id: String,
    title: String,
    #[sync(index)]
    year: i64,
    #[sync(local)]
    #[serde(default)]
    scroll: Option<u32>,
}

fn film(id: &str, title: &str) -> Film {
    Film { id: id.to_owned(), title: title.to_owned(), year: 1999, scroll: Some(3) }
}

async fn with_films(store: impl Store, exchange: &RouterExchange) -> DatasyncClient {
    let builder = DatasyncClient::builder().store(store).transport(transport(exchange));
    builder.table::<Note>().table::<Film>().build().await.unwrap()
}

async fn without_films(store: impl Store, exchange: &RouterExchange) -> DatasyncClient {
    let builder = DatasyncClient::builder().store(store).transport(transport(exchange));
    builder.table::<Note>().build().await.unwrap()
}

fn kind(error: Error) -> ErrorKind {
    error.kind()
}

async fn i08_i23_a_table_that_went_holds_nothing_back_and_loses_nothing(place: impl Place, wire: Wire) {
    let (rows, reels) = (MemoryRepository::new(), MemoryRepository::new());
    let builder = DatasyncService::builder().extensions(wire.extended());
    let builder = builder.table(TableOptions::of::<Note>().soft_delete(true), rows.clone());
    let service = builder.table(TableOptions::of::<Film>().soft_delete(true), reels.clone()).build().unwrap();
    let exchange = RouterExchange::new(wire.lead_to(service));

    let client = with_films(place.open(), &exchange).await;
    let films = client.offline_table::<Film>();
    films.insert_all(["edited", "given-up", "deleted"].map(|id| film(id, "there"))).await.unwrap();
    films.push_items().await.unwrap();
    films.pull_items(films.query()).await.unwrap();
    for (id, fault) in [("refused", Fault::Status(400)), ("doubt", Fault::AnswerLost)] {
        films.insert(film(id, "here")).await.unwrap();
        exchange.fault(changes, fault);
        films.push_items().await.unwrap();
    }
    films.insert(film("new", "here")).await.unwrap();
    films.replace(film("edited", "here")).await.unwrap();
    films.replace(film("given-up", "here")).await.unwrap();
    films.delete("deleted").await.unwrap();
    notes(&client).insert(note_of("first", "x")).await.unwrap();
    let queued = client.pending().await.unwrap();
    assert_eq!(queued.len(), 7);
    place.end(client).await;

    let client = without_films(place.open(), &exchange).await;
    exchange.before(|request| {
        assert!(request.method == Method::Get || !request.url.path().contains("film"), "nothing of it is sent");
    });
    let table = notes(&client);
    table.insert(note_of("second", "x")).await.unwrap();
    assert_eq!(client.push_tables(Tables::all()).await.unwrap().pushed, 2, "it holds nothing back");
    assert_eq!(client.pull_tables(Tables::all()).await.unwrap().len(), 1);
    assert_eq!(rows.rows().len(), 2);
    let waiting = client.pending().await.unwrap();
    assert!(waiting.iter().all(|change| change.state == PendingState::UnknownTable), "{waiting:?}");
    let what = |all: &[datasync_core::client::PendingChange]| -> Vec<(String, OperationKind, bool, u64)> {
        let films = all.iter().filter(|change| &*change.table == "film");
        films.map(|change| (change.id.to_string(), change.kind, change.in_doubt, change.place)).collect()
    };
    assert_eq!(what(&waiting), what(&queued));
    assert_eq!(client.pending_page(PendingRequest::new().parked()).await.unwrap().changes, waiting);
    let refused = client.sign_out(Pending::Push(std::time::Duration::from_secs(60))).await.unwrap_err();
    assert_eq!((refused.kind(), refused.pending()), (ErrorKind::Pending, waiting.as_slice()));

    assert_eq!(client.retry("film", "refused").await.map_err(kind), Err(ErrorKind::UnknownTable));
    assert_eq!(client.retry_all(Tables::all()).await.unwrap(), 0);
    client.sign_in("alice").await.unwrap();
    assert_eq!(client.adopt().await.unwrap().moved, 0, "nobody knows how its rows are indexed");
    client.sign_out(Pending::Keep).await.unwrap();
    assert_eq!(client.pending().await.unwrap(), waiting);

    let told = client.explain("film", "new").await.unwrap().to_string();
    assert!(told.contains("has no table `film`"), "{told}");
    let lines = |text: String| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let all = lines(client.export_parked().await.unwrap());
    assert_eq!(all.iter().filter(|line| line["kind"] == "operation").count(), waiting.len());
    let one = lines(client.export("film", "given-up").await.unwrap());
    assert_eq!(
        (&one[0]["record"]["body"]["title"], &one[0]["base"]["body"]["title"]),
        (&"here".into(), &"there".into())
    );
    client.discard("film", "given-up").await.unwrap();
    client.discard("film", "refused").await.unwrap();
    for id in ["given-up", "none"] {
        assert_eq!(client.discard("film", id).await.map_err(kind), Err(ErrorKind::UnknownTable), "nothing is queued");
        assert_eq!(client.export("film", id).await.map_err(kind), Err(ErrorKind::UnknownTable));
    }
    assert_eq!(client.pending().await.unwrap().len(), waiting.len() - 2);
    place.end(client).await;

    exchange.before(|_| {});
    let client = with_films(place.open(), &exchange).await;
    let films = client.offline_table::<Film>();
    assert_eq!(client.pending().await.unwrap().len(), 4);
    assert_eq!(client.push_tables(Tables::all()).await.unwrap().pushed, 4);
    assert!(client.pending().await.unwrap().is_empty());
    let there: Vec<(String, String)> = reels
        .rows()
        .into_iter()
        .filter(|row| !row.record.deleted)
        .map(|row| (row.id.to_string(), json_of(&row.record.body)["title"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [("doubt", "here"), ("edited", "here"), ("given-up", "there"), ("new", "here")];
    assert_eq!(there, expected.map(|(id, title)| (id.to_owned(), title.to_owned())));
    films.pull_items(films.query()).await.unwrap();
    let here = films.query().filter(|film| film.year.eq(1999)).to_vec().await.unwrap();
    let here: Vec<(String, String)> = here.into_iter().map(|film| (film.id, film.title)).collect();
    assert_eq!(here, there, "the index has them all");
    assert_eq!(films.get("edited").await.unwrap().unwrap().scroll, Some(3));
    place.end(client).await;
}
