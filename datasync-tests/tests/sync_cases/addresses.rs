//! Ids of rows, and addresses of tables.

use std::sync::{Arc, Mutex};

use datasync_core::{client::DatasyncClient, config::ConflictPolicy, error::ErrorKind, memory::MemoryStore};
use datasync_http::HttpTransport;
use datasync_server::MemoryRepository;
use datasync_tests::{Note, RouterExchange, Wire, local_rows, note_of, service, service_rows};

use crate::{Differences, cases, world};

async fn ids_follow_the_rule_of_the_originals(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let world = world(wire, ConflictPolicy::Park).await;
    for case in cases["ids"]["rows"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let written = world.table.insert(note_of(id, "x")).await;
        match case["valid"].as_bool().unwrap() {
            true => assert_eq!(written.unwrap().id, id),
            // Difference: an empty id is not refused but given, as by the originals' older client.
            false if id.is_empty() => assert_eq!(written.unwrap().id.len(), 36),
            false => assert_eq!(written.unwrap_err().kind(), ErrorKind::InvalidId, "{id}"),
        }
    }
    world.table.push_items().await.unwrap();
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "each of them goes there and back");
}

#[tokio::test]
async fn addresses_are_joined_as_by_ct() {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[(
        "a base with a path",
        "the base is a folder with or without its slash, as in CT's online client: `{base}/tables/x` is below it",
    )]);
    for case in cases["endpoint_join_ct"]["rows"].as_array().unwrap() {
        let endpoint = case["endpoint"].as_str().unwrap();
        let base = case["base"].as_str().unwrap_or("https://test.zumo.com");
        let asked = Arc::new(Mutex::new(None));
        let log = Arc::clone(&asked);
        let exchange = RouterExchange::new(service(&MemoryRepository::new(), 10, Wire::Original));
        exchange.before(move |request| *log.lock().unwrap() = Some(request.url.to_string()));
        let builder = HttpTransport::builder(base).retries(0).table_path("note", endpoint).exchange(exchange);
        let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(builder.build().unwrap());
        let client = builder.table::<Note>().build().await.unwrap();
        let remote = client.remote_table::<Note>();
        // What is answered does not matter: it is the address that was asked.
        let _ = match case["itemId"].as_str() {
            Some(id) => remote.get(id).await.map(drop),
            None => remote.query().to_vec().await.map(drop),
        };
        let asked = asked.lock().unwrap().clone().unwrap();
        let asked = asked.split('?').next().unwrap();
        if asked != case["expected"].as_str().unwrap() {
            assert!(!endpoint.starts_with('/') && base.ends_with("/tables"), "{endpoint} from {base}: {asked}");
            assert!(asked.starts_with("https://test.zumo.com/tables/movies"), "{asked}");
            differences.expect("a base with a path");
        }
    }
    differences.end();
    assert_eq!(
        cases["endpoint_join_ct"]["errors"].as_array().unwrap().len(),
        1,
        "neither base nor endpoint says where"
    );
    for base in ["", "tables", "/tables/movies"] {
        assert!(HttpTransport::builder(base).table_path("note", "tables/movies").build().is_err(), "{base}");
    }
    assert!(HttpTransport::builder("https://h").table_path("t", "https://other/t").build().is_err());
}

datasync_tests::on_both_wires! {
    ids_follow_the_rule_of_the_originals
}
