//! Keys, pages and whatever else a client may send.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, Response},
};
use datasync_core::schema::{FieldKind, FieldSchema, TableSchema};
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use serde_json::{Value, json};
use tower::ServiceExt;

const FIELDS: &[FieldSchema] =
    &[FieldSchema::new("id", FieldKind::Text, false), FieldSchema::new("title", FieldKind::Text, false)];

fn service() -> (Router, MemoryRepository) {
    let rows = MemoryRepository::new();
    let notes = TableOptions::new(TableSchema::new("notes", FIELDS, &[])).soft_delete(true).page_size(10);
    (DatasyncService::builder().table(notes, rows.clone()).max_body(10_000).build().unwrap(), rows)
}

async fn send(router: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
}

async fn body(response: Response<Body>) -> Value {
    serde_json::from_slice(&to_bytes(response.into_body(), usize::MAX).await.unwrap()).unwrap_or(Value::Null)
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn i10_a_change_under_one_key_is_made_once() {
    let (router, rows) = service();
    let key = |number: u8| format!("00000000-0000-0000-0000-0000000000{number:02}");
    let (one, two, three) = (key(1), key(2), key(3));
    let note = r#"{"id":"a","title":"x"}"#;
    let first = send(&router, "POST", "/tables/notes", &[JSON, ("idempotency-key", &one)], note).await;
    assert_eq!((first.status().as_u16(), first.headers().get("idempotency-replayed")), (201, None));
    let first = body(first).await;
    let version = format!("\"{}\"", first["version"].as_str().unwrap());
    let again = send(&router, "POST", "/tables/notes", &[JSON, ("idempotency-key", &one)], note).await;
    assert_eq!((again.status().as_u16(), again.headers()["idempotency-replayed"].to_str().unwrap()), (201, "true"));
    assert_eq!(body(again).await, first);

    let put = [JSON, ("idempotency-key", two.as_str()), ("if-match", version.as_str())];
    let changed = r#"{"id":"a","title":"y"}"#;
    let made = body(send(&router, "PUT", "/tables/notes/a", &put, changed).await).await;
    let replayed = send(&router, "PUT", "/tables/notes/a", &put, changed).await;
    assert_eq!(replayed.status(), 200, "although the version has changed");
    assert_eq!(body(replayed).await, made);
    let other = send(&router, "PUT", "/tables/notes/a", &put, note).await;
    assert_eq!(other.status(), 422, "the same key with another body");
    let wrong = send(&router, "DELETE", "/tables/notes/a", &[("idempotency-key", "x")], "").await;
    assert_eq!(wrong.status(), 400);

    let delete = [("idempotency-key", three.as_str())];
    assert_eq!(send(&router, "DELETE", "/tables/notes/a", &delete, "").await.status(), 204);
    assert_eq!(send(&router, "DELETE", "/tables/notes/a", &delete, "").await.status(), 204);
    assert_eq!(send(&router, "DELETE", "/tables/notes/a", &[], "").await.status(), 410);
    assert_eq!(rows.rows().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_not_remembered() {
    let (router, _) = service();
    let key = ("idempotency-key", "00000000-0000-0000-0000-000000000001");
    let put = r#"{"id":"a","title":"y"}"#;
    assert_eq!(send(&router, "PUT", "/tables/notes/a", &[JSON, key], put).await.status(), 404);
    assert_eq!(send(&router, "POST", "/tables/notes", &[JSON], put).await.status(), 201);
    assert_eq!(send(&router, "PUT", "/tables/notes/a", &[JSON, key], put).await.status(), 200);
}

#[tokio::test]
async fn pages_lead_to_all_rows_in_both_forms_of_the_link() {
    let (router, rows) = service();
    rows.seed(Value::Array((0..35).map(|n| json!({ "id": format!("{n:02}"), "title": "x" })).collect())).unwrap();
    for options in [&[][..], &[("x-zumo-options", "nextLink=path")]] {
        let mut path = "/tables/notes/?$top=31&$count=true".to_owned();
        let mut ids = Vec::new();
        loop {
            let page = body(send(&router, "GET", &path, options, "").await).await;
            assert_eq!(page["count"], 35);
            ids.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].to_string()));
            match page["nextLink"].as_str() {
                Some(link) if link.starts_with('/') => path = link.to_owned(),
                Some(link) => path = format!("/tables/notes?{link}"),
                None => break,
            }
        }
        assert_eq!(ids.len(), 31);
        assert!(ids.is_sorted());
    }
}

#[tokio::test]
async fn long_answers_are_compressed_for_who_accepts_it_and_requests_may_be() {
    let (router, rows) = service();
    rows.seed(json!([{ "id": "long", "title": "x".repeat(5_000) }, { "id": "short", "title": "x" }])).unwrap();
    let gzip = ("accept-encoding", "gzip");
    for (path, accepted, compressed) in [
        ("/tables/notes/long", &[gzip][..], true),
        ("/tables/notes/long", &[], false),
        ("/tables/notes/short", &[gzip], false),
    ] {
        let response = send(&router, "GET", path, accepted, "").await;
        assert_eq!(response.headers().get("content-encoding").is_some_and(|kind| kind == "gzip"), compressed, "{path}");
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let mut text = Vec::new();
        match compressed {
            true => drop(std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap()),
            false => text = bytes.to_vec(),
        }
        assert!(!compressed || bytes.len() * 5 < text.len());
        assert!(serde_json::from_slice::<Value>(&text).unwrap()["title"].as_str().unwrap().starts_with('x'));
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, br#"{"id":"sent","title":"compressed"}"#).unwrap();
    let request = Request::builder().method("POST").uri("/tables/notes").header(JSON.0, JSON.1);
    let request = request.header("content-encoding", "gzip").body(Body::from(encoder.finish().unwrap())).unwrap();
    assert_eq!(router.oneshot(request).await.unwrap().status(), 201);
    assert!(rows.rows().iter().any(|row| &*row.id == "sent"));
}

#[tokio::test]
async fn whatever_is_sent_gets_an_answer() {
    let (router, rows) = service();
    rows.seed(json!([{ "id": "a", "title": "x" }])).unwrap();
    assert_eq!(send(&router, "PATCH", "/tables/notes/a", &[JSON], "{}").await.status(), 405);
    assert_eq!(send(&router, "POST", "/tables/notes", &[], "{}").await.status(), 415);
    assert_eq!(send(&router, "POST", "/tables/notes", &[JSON], "{").await.status(), 400);
    assert_eq!(send(&router, "POST", "/tables/notes", &[JSON], "null").await.status(), 400);
    assert_eq!(send(&router, "POST", "/tables/notes", &[JSON], &"x".repeat(10_001)).await.status(), 413);
    assert!(send(&router, "GET", "/tables/notes", &[], "").await.headers().contains_key("date"));

    // A small generator with a fixed seed: what fails can be run again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |most: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % most as u64) as usize
    };
    let parts = [
        "$filter=",
        "$top=",
        "$orderby=",
        "title",
        " eq ",
        "'",
        "(",
        ")",
        "%27",
        "%",
        "%ff",
        "not",
        "-1",
        "9e999",
        "&",
        "=",
        "$skip=",
        "null",
        "cast(",
        ",Edm.Date)",
        "geo.distance(",
        "in (",
        "1",
        "\"",
        "W/",
        "*",
        ",",
        "{",
        "}",
        "[",
        "\"id\":",
        "1e400",
        "\\u0000",
        "é",
        " ",
        "deleted",
        "true",
    ];
    for _ in 0..3_000 {
        let mut text = || (0..next(12)).map(|_| parts[next(parts.len())]).collect::<String>();
        let (query, header, sent) = (text(), text(), text());
        let method = ["GET", "POST", "PUT", "DELETE", "OPTIONS"][next(5)];
        let path = ["/tables/notes", "/tables/notes/a", "/tables/notes/", "/tables/notes/%00"][next(4)];
        let name = ["if-match", "if-none-match", "idempotency-key", "if-modified-since", "x-zumo-options"][next(5)];
        let request = Request::builder().method(method).uri(format!("{path}?{}", query.replace(' ', "%20")));
        let request = request.header(name, header.as_bytes()).header(JSON.0, JSON.1).body(Body::from(sent));
        // What cannot be a request never reaches a service.
        let Ok(request) = request else { continue };
        let status = router.clone().oneshot(request).await.unwrap().status();
        assert!(!status.is_server_error(), "{method} {path}?{query} answered {status}");
    }
}
