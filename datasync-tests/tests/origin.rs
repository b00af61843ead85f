//! Credentials and rows go to the configured origin only (I25).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use datasync_core::{config::ConflictPolicy, error::ErrorKind, store::Store};
use datasync_server::MemoryRepository;
use datasync_tests::{MemoryStore, RouterExchange, Wire, client, note_of, notes, service, service_rows};
use serde_json::Value;

datasync_tests::on_both_stores! {
    i25_links_and_redirects_to_elsewhere_are_not_followed
}

/// Sends readers and writers elsewhere.
async fn misled(mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if path.contains("/redirects/") || request.method() != "GET" {
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "http://elsewhere/tables/note")]).into_response();
    }
    // A body that is compressed cannot be changed here.
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    let (mut head, body) = next.run(request).await.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = match serde_json::from_slice::<Value>(&body) {
        Ok(mut page) if page["nextLink"].is_string() => {
            page["nextLink"] = "http://elsewhere/tables/note?$skip=1".into();
            page.to_string().into()
        }
        _ => body,
    };
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(body))
}

fn misleading(service: Router) -> Router {
    Router::new().fallback_service(service).layer(from_fn(misled))
}

async fn i25_links_and_redirects_to_elsewhere_are_not_followed(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let service = service(&rows, 10, wire);
    let seeder = client(MemoryStore::new(), &RouterExchange::new(service.clone()), ConflictPolicy::Park).await;
    notes(&seeder).insert_all((0..45).map(|number| note_of(&format!("{number:02}"), "theirs"))).await.unwrap();
    notes(&seeder).push_items().await.unwrap();

    let exchange = RouterExchange::new(service.clone().behind(misleading));
    exchange.before(|request| assert_eq!(request.url.origin().ascii_serialization(), "http://service"));
    let device = client(store, &exchange, ConflictPolicy::Park).await;
    let error = device.remote_table::<datasync_tests::Note>().query().to_vec().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Service);
    assert!(error.to_string().contains("another origin"), "{error}");

    // A pull has positions of its own and needs no link.
    let notes = notes(&device);
    notes.pull_items(notes.query()).await.unwrap();
    assert_eq!(notes.count().await.unwrap(), 45);

    notes.insert(note_of("mine", "a secret")).await.unwrap();
    let pushed = notes.push_items().await;
    assert_eq!(device.pending().await.unwrap().len(), 1, "{pushed:?}");
    assert_eq!(service_rows(&rows).len(), 45);
}
