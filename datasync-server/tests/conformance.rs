//! The cases of the reference, through the router. They are read from the folder that `DATASYNC_CONFORMANCE_DIR` names.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{borrow::Cow, path::PathBuf};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use datasync_core::schema::{FieldKind, FieldSchema, Name, TableSchema};
use datasync_server::{DatasyncService, MemoryRepository, Row, TableOptions};
use serde_json::{Map, Value};
use tower::ServiceExt;

const RATINGS: &[Name] = &[
    Cow::Borrowed("Unrated"),
    Cow::Borrowed("G"),
    Cow::Borrowed("PG"),
    Cow::Borrowed("PG13"),
    Cow::Borrowed("NC17"),
    Cow::Borrowed("R"),
];
const FIELDS: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("title", FieldKind::Text, false),
    FieldSchema::new("duration", FieldKind::I64, false),
    FieldSchema::new("rating", FieldKind::Enum(Cow::Borrowed(RATINGS)), false),
    FieldSchema::new("releaseDate", FieldKind::Date, false),
    FieldSchema::new("bestPictureWinner", FieldKind::Bool, false),
    FieldSchema::new("year", FieldKind::I64, false),
];

/// The folder of the cases, or `None` with a word about it.
fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("DATASYNC_CONFORMANCE_DIR").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: DATASYNC_CONFORMANCE_DIR is not set");
    }
    folder
}

fn read(folder: &std::path::Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

fn validate(movie: &Map<String, Value>) -> Vec<String> {
    let number = |name: &str| movie.get(name).and_then(Value::as_i64).unwrap_or(0);
    let title = movie.get("title").and_then(Value::as_str).unwrap_or_default().chars().count();
    let checks = [
        ((2..=60).contains(&title), "The title must have 2 to 60 characters."),
        ((60..=360).contains(&number("duration")), "The duration must be 60 to 360."),
        ((1920..=2030).contains(&number("year")), "The year must be 1920 to 2030."),
        (movie.get("releaseDate").is_some_and(Value::is_string), "The release date is required."),
    ];
    checks.into_iter().filter(|(holds, _)| !holds).map(|(_, message)| message.to_owned()).collect()
}

/// The movies of the reference at its paths.
fn service(folder: &std::path::Path) -> (Router, MemoryRepository, MemoryRepository) {
    let movies = read(folder, "movies.json")["movies"].clone();
    let (plain, soft) = (MemoryRepository::new(), MemoryRepository::new());
    plain.seed(movies.clone()).unwrap();
    soft.seed(movies).unwrap();
    let table = |path: &str| TableOptions::new(TableSchema::new("movies", FIELDS, &[])).path(path).validate(validate);
    let router = DatasyncService::builder()
        .table(table("api/in-memory/movies"), plain.clone())
        .table(table("api/in-memory/pagedmovies").page_size(25), plain.clone())
        .table(table("api/in-memory/softmovies").soft_delete(true), soft.clone())
        .build()
        .unwrap();
    (router, plain, soft)
}

struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    body: Value,
}

async fn send(router: &Router, method: &str, target: &str, headers: &[(String, String)], body: Vec<u8>) -> Answer {
    let path: String = target.chars().map(|c| if c == ' ' { "%20".to_owned() } else { c.to_string() }).collect();
    let mut request = Request::builder().method(method).uri(format!("/{}", path.trim_start_matches('/')));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
}

/// Percent-encodes what cannot stand in a query string.
fn encoded(query: &str) -> String {
    let mut text = String::new();
    for byte in query.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'$' | b'=' | b'&' | b'-' | b'_' | b'.' | b'~' => {
                text.push(byte as char);
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// Soft-deletes the movies that a case wants deleted beforehand.
async fn delete_rated_r(router: &Router, soft: &MemoryRepository) {
    let rated = soft.rows().into_iter().filter(|row: &Row| {
        let movie: Value = serde_json::from_slice(row.record.body.as_bytes()).unwrap();
        movie["rating"] == "R"
    });
    for row in rated.collect::<Vec<_>>() {
        let answer = send(router, "DELETE", &format!("api/in-memory/softmovies/{}", row.id), &[], Vec::new()).await;
        assert_eq!(answer.status, 204);
    }
}

#[tokio::test]
async fn queries_are_answered_as_by_the_reference() {
    let Some(folder) = folder() else { return };
    let cases = read(&folder, "query_cases.json");
    let (router, _, soft) = service(&folder);
    delete_rated_r(&router, &soft).await;
    let (mut passed, mut left_out, mut wrong) = (0, 0, Vec::new());
    for case in cases.as_array().unwrap() {
        let endpoint = case["endpoint"].as_str().unwrap_or_default().trim_matches('/');
        let known = ["api/in-memory/movies", "api/in-memory/pagedmovies", "api/in-memory/softmovies"];
        let expected = &case["expected"];
        if case["source"] != "ct-server" || !known.contains(&endpoint) || expected["followNextLinks"] == true {
            left_out += 1;
            continue;
        }
        let query = case["query"].as_str().unwrap_or_default().trim_start_matches('?');
        let answer = send(&router, "GET", &format!("{endpoint}?{}", encoded(query)), &[], Vec::new()).await;
        let items = answer.body["items"].as_array().cloned().unwrap_or_default();
        let ids: Vec<&str> = items.iter().filter_map(|item| item["id"].as_str()).collect();
        let first: Option<Vec<&str>> =
            expected["firstIds"].as_array().map(|ids| ids.iter().filter_map(Value::as_str).collect());
        let right = i64::from(answer.status) == expected["status"].as_i64().unwrap_or(200)
            && expected["itemCount"].as_u64().is_none_or(|count| count == items.len() as u64)
            && (answer.status != 200 || expected["totalCount"] == answer.body["count"])
            && (answer.status != 200 || expected["nextLink"].is_null() == answer.body["nextLink"].is_null())
            && first.is_none_or(|first| expected["itemKeysExactly"].is_array() || ids.starts_with(&first));
        if right {
            passed += 1;
        } else {
            wrong.push(format!("{}: {query} answered {} {:?}", case["n"], answer.status, answer.body["count"]));
        }
    }
    println!("{passed} cases passed, {left_out} left out");
    assert!(wrong.is_empty() && passed > 0, "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn changes_are_answered_as_by_the_reference() {
    let Some(folder) = folder() else { return };
    let cases = read(&folder, "crud_cases.json");
    let (mut passed, mut left_out, mut wrong) = (0, 0, Vec::new());
    for case in cases.as_array().unwrap() {
        let target = case["target"].as_str().unwrap_or_default();
        let known = ["api/in-memory/movies", "api/in-memory/softmovies"].iter().any(|path| target.starts_with(path));
        let needs_more = !case["dataView"].is_null() || !case["bodyChange"].is_null() || !case["body"].is_object();
        let reads = matches!(case["method"].as_str(), Some("GET" | "DELETE"));
        if case["repo"] != "ct" || !known || (needs_more && !reads) || !case["dataView"].is_null() {
            left_out += 1;
            continue;
        }
        let (router, plain, soft) = service(&folder);
        delete_rated_r(&router, &soft).await;
        let rows = if target.contains("softmovies") { soft.rows() } else { plain.rows() };
        let live = rows.iter().find(|row| !row.record.deleted).unwrap();
        let deleted = rows.iter().find(|row| row.record.deleted).unwrap_or(live);
        let about = if target.contains("{deleted id}") { deleted } else { live };
        let target = target.replace("{id}", &live.id).replace("{deleted id}", &deleted.id);
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in case["headers"].as_object().into_iter().flatten() {
            let hour = jiff::SignedDuration::from_hours(1);
            let stamp = |time: jiff::Timestamp| {
                let seconds = u64::try_from(time.as_second()).unwrap();
                httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
            };
            let updated = about.record.updated_at.unwrap();
            let value = value.as_str().unwrap_or_default();
            let value = match value {
                "<current>" => format!("\"{}\"", about.record.version.as_deref().unwrap()),
                value if value.contains("+1") => stamp(updated + hour),
                value if value.contains("-1") || value.contains('−') => stamp(updated - hour),
                value => value.to_owned(),
            };
            headers.push((name.clone(), value));
        }
        let mut body = case["body"].clone();
        let meant = body["id"].as_str().unwrap_or_default();
        if meant.starts_with('<') {
            let row = if meant.contains("deleted") { deleted } else { about };
            body["id"] = row.id.as_ref().into();
        } else if case["method"] == "PUT" && body.is_object() && body["id"].is_null() {
            body["id"] = about.id.as_ref().into();
        }
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
        if !bytes.is_empty() {
            headers.push((
                "content-type".to_owned(),
                case["contentType"].as_str().unwrap_or("application/json").to_owned(),
            ));
        }
        let answer = send(&router, case["method"].as_str().unwrap(), &target, &headers, bytes).await;
        let tagged = case["expected"]["etag"].is_null()
            || answer.headers.get("etag").map(|tag| tag.to_str().unwrap().trim_matches('"').to_owned())
                == answer.body["version"].as_str().map(str::to_owned);
        if Some(i64::from(answer.status)) == case["expected"]["status"].as_i64() && tagged {
            passed += 1;
        } else {
            wrong.push(format!(
                "{} {} {target} {headers:?}: {} and not {}",
                case["n"], case["test"], answer.status, case["expected"]["status"]
            ));
        }
    }
    println!("{passed} cases passed, {left_out} left out");
    assert!(wrong.is_empty() && passed > 0, "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
