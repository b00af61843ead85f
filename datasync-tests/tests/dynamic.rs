//! Tables without a type: rows are JSON objects, checked against the schema, and the same rows as those of a type.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{
    client::{DatasyncClient, PullOptions, PurgeOptions, Resolution, ResolverConflict, TableOptions},
    entity::SyncEntity,
    error::{Error, ErrorKind},
    query::{Query, QueryError},
    schema::{FieldKind, FieldSchema, IndexSchema, TableSchema},
    store::Store,
};
use datasync_http::HttpTransport;
use datasync_server::{Action, Change, DatasyncService, MemoryRepository, Repository, TableOptions as ServiceTable};
use datasync_tests::{
    MemoryStore, Note, RouterExchange, Wire, client_over, local_rows, note_of, notes, open_service, service,
    service_rows,
};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

datasync_tests::on_both_stores! {
    a_table_known_at_run_time_synchronizes_like_one_of_a_type
    rows_of_a_table_without_a_type_are_watched_streamed_verified_and_purged
    a_table_known_at_run_time_is_migrated
    i19_a_conflict_of_a_table_without_a_type_is_seen_and_settled
    i16_a_merge_in_json_keeps_what_it_does_not_change
    a_resolver_settles_conflicts_over_json
    i03_what_does_not_fit_is_an_error_and_changes_nothing
    queries_are_text
    i16_fields_that_are_written_back_keep_their_digits
}

fn kind<T>(done: Result<T, Error>) -> Result<(), ErrorKind> {
    done.map(drop).map_err(|error| error.kind())
}

fn read(query: &str) -> Result<Query<Value>, QueryError> {
    query.parse()
}

/// A client that knows its tables only by their schemas.
async fn untyped(store: impl Store, exchange: &RouterExchange, schemas: &[TableSchema]) -> DatasyncClient {
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
    let builder = DatasyncClient::builder().store(store).transport(transport);
    let builder = schemas.iter().cloned().fold(builder, |builder, schema| builder.table_dyn(schema));
    builder.build().await.unwrap()
}

/// A schema as a tool would read it from a file: one field of each kind.
fn films() -> TableSchema {
    let field = |name: &str, kind, nullable| FieldSchema::of(name.to_owned(), kind, nullable);
    let names = vec!["open".into(), "done".into()];
    let fields = vec![
        field("id", FieldKind::Text, false),
        field("title", FieldKind::Text, false),
        field("year", FieldKind::I64, true),
        field("price", FieldKind::Decimal, true),
        field("score", FieldKind::F64, true),
        field("seen", FieldKind::Bool, true),
        field("state", FieldKind::Enum(names.into()), true),
        field("shown", FieldKind::Timestamp, true),
        field("day", FieldKind::Date, true),
        field("hour", FieldKind::Time, true),
        field("disc", FieldKind::Uuid, true),
        field("cover", FieldKind::Bytes, true),
        field("place", FieldKind::Point, true),
        field("notes", FieldKind::Json, true),
    ];
    TableSchema::of("films", fields, [IndexSchema::of("year", ["year"])])
}

async fn a_table_known_at_run_time_synchronizes_like_one_of_a_type(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = untyped(store, &exchange, &[Note::SCHEMA]).await;
    let table = client.offline_table_dyn("note").unwrap();
    let other = client_over(MemoryStore::new(), exchange.clone()).build().await.unwrap();
    let there = notes(&other);

    let made = table.insert(json!({ "title": "first", "rank": 1, "scroll": 7 })).await.unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let mut acked = Box::pin(made.acked());
    assert!(futures::poll!(acked.as_mut()).is_pending());
    table
        .insert_all([json!({"id": "b", "title": "b", "rank": 2}), json!({"id": "c", "title": "c", "rank": 3})])
        .await
        .unwrap();
    assert_eq!(table.push_items().await.unwrap().pushed, 3);
    acked.await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    assert_eq!(there.get(&id).await.unwrap().unwrap().title, "first");

    there.replace(Note { rank: 9, ..note_of("b", "theirs") }).await.unwrap();
    there.delete("c").await.unwrap();
    there.push_items().await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    let shown = table.get("b").await.unwrap().unwrap();
    assert_eq!((&shown["title"], &shown["rank"]), (&json!("theirs"), &json!(9)));
    assert_eq!(table.get("c").await.unwrap(), None);
    assert_eq!(table.get(&id).await.unwrap().unwrap()["scroll"], 7, "it stays on this device");

    table
        .upsert_all([json!({"id": "b", "title": "ours", "rank": 9}), json!({"id": "d", "title": "d", "rank": 4})])
        .await
        .unwrap();
    table.delete(&id).await.unwrap();
    table.push_items().await.unwrap();
    let high = PullOptions::default().query(read("$filter=rank gt 5").unwrap()).query_id("high").page_size(1);
    table.pull_items(high).await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    assert_eq!(local_rows(&there).await, service_rows(&rows));
    assert_eq!(table.count().await.unwrap(), 2);
    assert!(client.pending().await.unwrap().is_empty());
}

async fn rows_of_a_table_without_a_type_are_watched_streamed_verified_and_purged(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let client = untyped(store, &exchange, &[Note::SCHEMA]).await;
    let table = client.offline_table_dyn("note").unwrap();
    let titles = || table.query().with(read("$filter=rank ge 2&$orderby=rank&$select=title").unwrap());
    let mut seen = titles().watch();
    assert_eq!(seen.next().await.unwrap().unwrap(), Vec::<Value>::new());
    let all = (1..=3).map(|rank| json!({ "id": rank.to_string(), "title": format!("t{rank}"), "rank": rank }));
    table.insert_all(all).await.unwrap();
    let expected = [json!({ "title": "t2" }), json!({ "title": "t3" })];
    assert_eq!(seen.next().await.unwrap().unwrap(), expected);
    assert_eq!(titles().stream().try_collect::<Vec<_>>().await.unwrap(), expected);

    let kept = table.purge_items(PurgeOptions::default()).await;
    assert_eq!(kind(kept), Err(ErrorKind::Pending));
    table.pull_items(PullOptions::default().no_push()).await.unwrap();
    assert_eq!(client.pending().await.unwrap().len(), 3);
    table.pull_items(table.query()).await.unwrap();
    rows.lose("1");
    let verified = table.verify_items(table.query()).await.unwrap();
    assert_eq!(verified.removed, 1);
    table.delete_all(["2"]).await.unwrap();
    assert_eq!(table.query().to_vec().await.unwrap().len(), 1);
    let high = read("$filter=rank eq 3").unwrap();
    assert_eq!(table.purge_items(PurgeOptions::default().query(high)).await.unwrap().rows, 1);
    assert_eq!(table.purge_items(PurgeOptions::default().force()).await.unwrap().dropped, 1);
    assert_eq!(table.count().await.unwrap(), 0);
}

async fn a_table_known_at_run_time_is_migrated(store: impl Store + Clone, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let client = untyped(store.clone(), &exchange, &[films()]).await;
    let old = json!({ "id": "a", "title": "A", "year": 1994 });
    client.offline_table_dyn("films").unwrap().insert(old).await.unwrap();
    drop(client);

    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange).build().unwrap();
    let options = TableOptions::new().migration(1, |mut row: Value| {
        row["year"] = (row["year"].as_i64().ok_or("no year")? + 1).into();
        Ok(row)
    });
    let builder = DatasyncClient::builder().store(store).transport(transport);
    let client = builder.table_dyn_with(films(), options).build().await.unwrap();
    assert_eq!(client.offline_table_dyn("films").unwrap().get("a").await.unwrap().unwrap()["year"], 1995);
}

async fn i03_what_does_not_fit_is_an_error_and_changes_nothing(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange).build().unwrap();
    let builder = DatasyncClient::builder().store(store).transport(transport);
    let client = builder.table::<Note>().table_dyn(films()).build().await.unwrap();
    let unknown = client.offline_table_dyn("nothing").unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::UnknownTable);
    assert!(unknown.to_string().contains("films"), "{unknown}");

    let films = client.offline_table_dyn("films").unwrap();
    let good = json!({
        "id": "a", "title": "A", "year": 1994, "price": "12.50", "score": 9.5, "seen": true, "state": "open",
        "shown": "2024-01-01T10:00:00Z", "day": "2024-01-01", "hour": "10:00", "cover": "AAEC",
        "disc": "8f7c7f6e-9a57-4f1c-8f4e-1f2e3d4c5b6a", "place": {"type": "Point", "coordinates": [1, 2]},
        "notes": [1, {"x": null}], "unknown": 1,
    });
    films.insert(good.clone()).await.unwrap();
    assert_eq!(films.get("a").await.unwrap().unwrap(), good);
    let wrong = [
        ("title", json!(null)),
        ("title", json!(7)),
        ("year", json!("1994")),
        ("year", json!(1994.5)),
        ("price", json!("a lot")),
        ("score", json!("9")),
        ("seen", json!(1)),
        ("state", json!("never")),
        ("shown", json!("yesterday")),
        ("day", json!("2024-13-01")),
        ("hour", json!("25:00")),
        ("disc", json!("7")),
        ("cover", json!([1])),
        ("place", json!("here")),
    ];
    for (name, value) in wrong {
        let mut row = good.clone();
        row[name] = value;
        let error = films.replace(row).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEntity, "{name}");
        assert!(error.to_string().contains(&format!("`{name}` of films/a must be")), "{error}");
    }
    for (row, expected) in [
        (json!([1]), ErrorKind::InvalidEntity),
        (json!("a"), ErrorKind::InvalidEntity),
        (json!({"id": 7, "title": "x"}), ErrorKind::InvalidId),
        (json!({"id": "-", "title": "x"}), ErrorKind::InvalidId),
        (json!({"id": "b"}), ErrorKind::InvalidEntity),
        (json!({"id": "a", "title": "x"}), ErrorKind::Exists),
    ] {
        assert_eq!(kind(films.insert(row).await), Err(expected));
    }
    assert_eq!(kind(films.replace(json!({"id": "b", "title": "x"})).await), Err(ErrorKind::NotFound));
    assert_eq!(kind(films.delete("b").await), Err(ErrorKind::NotFound));
    let batch = [json!({"id": "b", "title": "x"}), json!({"id": "c", "title": null})];
    assert_eq!(kind(films.upsert_all(batch).await), Err(ErrorKind::InvalidEntity));
    assert_eq!(films.count().await.unwrap(), 1);
    assert_eq!(films.get("a").await.unwrap().unwrap(), good);

    // Where the table has a type, what is written must be readable as that.
    let table = client.offline_table_dyn("note").unwrap();
    assert_eq!(kind(table.insert(json!({"id": "a", "title": "x"})).await), Err(ErrorKind::InvalidEntity));
    assert_eq!(kind(table.insert(json!({"id": "a", "title": "x", "rank": "1"})).await), Err(ErrorKind::InvalidEntity));
    table.insert(json!({"id": "a", "title": "x", "rank": 1})).await.unwrap();
    assert_eq!(notes(&client).get("a").await.unwrap().unwrap().rank, 1);
    assert_eq!(client.pending().await.unwrap().len(), 2);
}

async fn queries_are_text(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let client = untyped(store, &exchange, &[films()]).await;
    let films = client.offline_table_dyn("films").unwrap();
    let all = (0..50).map(|year| json!({"id": format!("{year:02}"), "title": format!("T{}", year % 5), "year": year}));
    films.insert_all(all).await.unwrap();
    let query = |text: &str| films.query().with(read(text).unwrap());
    let found =
        query("$filter=year ge 40 and title eq 'T3'&$orderby=year desc&$select=id,year").to_rows().await.unwrap();
    assert_eq!(found.rows, [json!({"id": "48", "year": 48}), json!({"id": "43", "year": 43})]);
    assert_eq!(found.total, Some(2));
    let found = query("$orderby=title,year&$skip=1&$top=2").to_vec().await.unwrap();
    let ids: Vec<&Value> = found.iter().map(|row| &row["id"]).collect();
    assert_eq!(ids, ["05", "10"]);
    assert_eq!(films.query().to_vec().await.unwrap().len(), 50);
    assert_eq!(query("$filter=year lt 7").count().await.unwrap(), 7);
    assert!(query("$filter=year lt 7").explain().unwrap().index.is_some());
    assert!(read("$filter=year gt").is_err());
    for wrong in ["$filter=nothing eq 1", "$orderby=nothing", "$select=nothing", "$filter=year gt 'x'"] {
        assert_eq!(kind(query(wrong).to_vec().await), Err(ErrorKind::InvalidQuery), "{wrong}");
    }
    assert_eq!(kind(query("$filter=nothing eq 1").count().await), Err(ErrorKind::InvalidQuery));
    let pulled = films.pull_items(read("$filter=nothing eq 1").unwrap()).await;
    assert_eq!(kind(pulled), Err(ErrorKind::InvalidQuery));
}

async fn i16_fields_that_are_written_back_keep_their_digits(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let table = ServiceTable::new(films()).soft_delete(true).schemaless(true);
    let builder = DatasyncService::builder().extensions(wire.extended()).table(table, rows.clone());
    let exchange = RouterExchange::new(wire.lead_to(builder.build().unwrap()));
    let body =
        r#"{"id":"a","title":"x","price":1.100000000000000000000000001,"big":12345678901234567890123,"tail":[1.10]}"#;
    let record =
        datasync_core::row::Record { body: body.as_bytes().into(), version: None, updated_at: None, deleted: false };
    let action = Action::Create(record);
    let change =
        Change { id: "a".into(), action, expected: None, now: jiff::Timestamp::UNIX_EPOCH, key: None, forget: None };
    rows.write(change).await.unwrap();

    let client = untyped(store, &exchange, &[films()]).await;
    let films = client.offline_table_dyn("films").unwrap();
    films.pull_items(films.query()).await.unwrap();
    let mut row = films.get("a").await.unwrap().unwrap();
    row["title"] = json!("edited");
    films.replace(row).await.unwrap();
    assert_eq!(films.push_items().await.unwrap().pushed, 1);
    let stored = rows.rows().pop().unwrap();
    let stored = std::str::from_utf8(stored.record.body.as_bytes()).unwrap();
    for kept in [r#""price":1.100000000000000000000000001"#, r#""big":12345678901234567890123"#, r#""tail":[1.10]"#] {
        assert!(stored.contains(kept), "{stored}");
    }
    assert!(stored.contains(r#""title":"edited""#), "{stored}");
}

/// Makes these rows on both devices, and lets both of them write each: first `there`, then `here`.
async fn clash(here: &DatasyncClient, there: &DatasyncClient, rows: &[Value], theirs: &Value, ours: &Value) {
    let (here, there) = (here.offline_table_dyn("note").unwrap(), there.offline_table_dyn("note").unwrap());
    here.insert_all(rows.to_vec()).await.unwrap();
    here.push_items().await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    for (table, change) in [(&there, theirs), (&here, ours)] {
        for row in rows {
            let mut row = table.get(row["id"].as_str().unwrap()).await.unwrap().unwrap();
            row.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            table.replace(row).await.unwrap();
        }
        table.push_items().await.unwrap();
    }
}

/// The row of the service, as text.
fn stored(rows: &MemoryRepository, id: &str) -> String {
    let row = rows.rows().into_iter().find(|row| row.id.as_ref() == id).unwrap();
    String::from_utf8(row.record.body.as_bytes().to_vec()).unwrap()
}

async fn i19_a_conflict_of_a_table_without_a_type_is_seen_and_settled(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let here = untyped(store, &exchange, &[Note::SCHEMA]).await;
    let there = untyped(MemoryStore::new(), &exchange, &[Note::SCHEMA]).await;
    let made = ["keep", "merge", "take"].map(|id| json!({ "id": id, "title": "secret", "rank": 1, "scroll": 7 }));
    clash(&here, &there, &made, &json!({ "title": "theirs" }), &json!({ "title": "ours" })).await;
    let mut conflicts = here.conflicts().await.unwrap();
    conflicts.sort_by(|one, other| one.id().cmp(other.id()));
    let [keep, merge, take] = &conflicts[..] else { panic!("{conflicts:?}") };

    assert_eq!(keep.base().unwrap(), Some(made[0].clone()));
    assert_eq!(keep.local::<Value>().unwrap().unwrap()["title"], "ours");
    assert_eq!(keep.service().unwrap(), Some(json!({ "id": "keep", "title": "theirs", "rank": 1 })));
    assert!(!format!("{conflicts:?}").contains("secret"));

    let resolution: Resolution = Resolution::Keep;
    here.resolve(keep, resolution).await.unwrap();
    here.resolve::<Value>(take, Resolution::Take).await.unwrap();
    for (wrong, why) in
        [(json!({ "title": 7, "rank": 1 }), ErrorKind::InvalidEntity), (json!(7), ErrorKind::InvalidEntity)]
    {
        assert_eq!(kind(here.resolve(merge, Resolution::Merged(wrong)).await), Err(why));
    }
    assert_eq!(here.conflicts().await.unwrap(), std::slice::from_ref(merge));
    let mut both = merge.service::<Value>().unwrap().unwrap();
    both["title"] = json!("both");
    here.resolve(merge, Resolution::Merged(both)).await.unwrap();

    let table = here.offline_table_dyn("note").unwrap();
    assert_eq!(table.push_items().await.unwrap().pushed, 2);
    let titles = service_rows(&rows).into_iter().map(|(_, title, _)| title).collect::<Vec<_>>();
    assert_eq!(titles, ["ours", "both", "theirs"]);
    assert_eq!(table.get("merge").await.unwrap().unwrap()["scroll"], 7, "it stays on this device");
    let losers = here.settled_losers().await.unwrap();
    let lost = losers.iter().map(|loser| loser.entity::<Value>().unwrap()["title"].clone()).collect::<Vec<_>>();
    assert_eq!(lost, ["theirs", "ours"]);
}

async fn i16_a_merge_in_json_keeps_what_it_does_not_change(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(open_service(&rows, wire));
    let here = untyped(store, &exchange, &[Note::SCHEMA]).await;
    let there = untyped(MemoryStore::new(), &exchange, &[Note::SCHEMA]).await;
    let made = [json!({ "id": "a", "title": "base", "rank": 1, "newer": 1, "mine": 1 })];
    let (theirs, ours) = (json!({ "title": "theirs", "newer": 2 }), json!({ "title": "ours", "mine": 3 }));
    clash(&here, &there, &made, &theirs, &ours).await;
    let conflict = here.conflicts().await.unwrap().remove(0);
    let mut merged = conflict.local::<Value>().unwrap().unwrap();
    merged["title"] = json!("both");
    here.resolve(&conflict, Resolution::Merged(merged)).await.unwrap();
    here.offline_table_dyn("note").unwrap().push_items().await.unwrap();
    let sent: Value = serde_json::from_str(&stored(&rows, "a")).unwrap();
    assert_eq!((&sent["title"], &sent["newer"], &sent["mine"]), (&json!("both"), &json!(2), &json!(3)));
}

async fn a_resolver_settles_conflicts_over_json(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let options = TableOptions::new().resolver(|conflict: ResolverConflict<Value>| {
        let (Some(mut ours), Some(theirs)) = (conflict.local, conflict.service) else { return Ok(Resolution::Take) };
        ours["title"] = format!("{} and {}", ours["title"], theirs["title"]).into();
        Ok(Resolution::Merged(ours))
    });
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
    let builder = DatasyncClient::builder().store(store).transport(transport);
    let here = builder.table_dyn_with(Note::SCHEMA, options).build().await.unwrap();
    let there = untyped(MemoryStore::new(), &exchange, &[Note::SCHEMA]).await;
    let made = [json!({ "id": "a", "title": "base", "rank": 1 })];
    clash(&here, &there, &made, &json!({ "title": "theirs" }), &json!({ "title": "ours" })).await;
    assert_eq!(service_rows(&rows)[0].1, r#""ours" and "theirs""#);
    assert!(here.conflicts().await.unwrap().is_empty());
}
