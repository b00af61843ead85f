//! The cases of the reference, over HTTP. They are read from the folder that `DATASYNC_CONFORMANCE_DIR` names.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "../examples/conformance-service/data.rs"]
mod data;

use std::{
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
};
use data::Data;
use datasync_core::{
    query::Expr,
    schema::{FieldKind, FieldSchema, TableSchema},
};
use datasync_server::{AccessControl, DatasyncServer, DatasyncService, MemoryRepository, TableOptions};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Map, Value};

/// The folder of the cases, or `None` with a word about it.
fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("DATASYNC_CONFORMANCE_DIR").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: DATASYNC_CONFORMANCE_DIR is not set");
    }
    folder
}

fn cases(folder: &Path, name: &str) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

/// The service on a socket.
struct Service {
    base: String,
    client: Client<HttpConnector, Body>,
    _server: DatasyncServer,
}

impl Service {
    async fn start(router: axum::Router) -> Service {
        let server = DatasyncServer::start("127.0.0.1:0".parse().unwrap(), router).await.unwrap();
        let base = format!("http://{}", server.address());
        Service { base, client: Client::builder(TokioExecutor::new()).build_http(), _server: server }
    }

    async fn send(&self, method: &str, target: &str, headers: &[(String, String)], body: Vec<u8>) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{}/{target}", self.base));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = self.client.request(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status, headers, body }
    }
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

#[tokio::test]
async fn queries_are_answered_as_by_the_reference() {
    let Some(folder) = folder() else { return };
    let service = Service::start(Data::load(&folder).unwrap().router().unwrap()).await;
    let (mut passed, mut left_out, mut wrong) = (0, 0, Vec::new());
    for case in cases(&folder, "query_cases.json") {
        let endpoint = case["endpoint"].as_str().unwrap_or_default().trim_matches('/');
        let expected = &case["expected"];
        let distance = case["query"].as_str().is_some_and(|query| query.contains("geo.distance"));
        if case["source"] != "ct-server" || distance || expected["followNextLinks"] == true {
            left_out += 1;
            continue;
        }
        let query = case["query"].as_str().unwrap_or_default().trim_start_matches('?');
        let answer = service.send("GET", &format!("{endpoint}?{}", encoded(query)), &[], Vec::new()).await;
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

/// A caller who sees everything, or nothing.
#[derive(Debug)]
struct View(&'static str);

#[async_trait]
impl AccessControl for View {
    fn view(&self, _: &str) -> Option<Expr> {
        self.0.parse().ok()
    }
}

/// What a case wants its row to be.
struct Rows {
    live: Map<String, Value>,
    deleted: Map<String, Value>,
}

impl Rows {
    async fn of(service: &Service, path: &str) -> Rows {
        let query = format!("{path}?__includedeleted=true&$top=100");
        let signed_in = [("x-auth".to_owned(), "success".to_owned())];
        let page = service.send("GET", &query, &signed_in, Vec::new()).await;
        let rows = page.body["items"].as_array().unwrap().clone();
        let first = |deleted: bool| rows.iter().find(|row| row["deleted"] == deleted).unwrap_or(&rows[0]).clone();
        let object = |row: Value| row.as_object().unwrap().clone();
        Rows { live: object(first(false)), deleted: object(first(true)) }
    }
}

fn text<'v>(row: &'v Map<String, Value>, name: &str) -> &'v str {
    row[name].as_str().unwrap()
}

/// A header as a case writes it.
fn header(value: &str, row: &Map<String, Value>) -> String {
    let updated: jiff::Timestamp = text(row, "updatedAt").parse().unwrap();
    let date = |hours: i64| {
        let seconds = u64::try_from(updated.as_second() + hours * 3600).unwrap();
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
    };
    match value {
        "<current>" => format!("\"{}\"", text(row, "version")),
        value if value.contains("+1") => date(1),
        value if value.contains("-1") || value.contains('−') => date(-1),
        value => value.to_owned(),
    }
}

/// The body that a case sends: its own, or the row that is there with what the case changes in it.
fn body(case: &Value, about: &Map<String, Value>, deleted: &Map<String, Value>) -> Vec<u8> {
    let method = case["method"].as_str().unwrap();
    let bytes = |value: &Map<String, Value>| serde_json::to_vec(value).unwrap();
    match &case["body"] {
        Value::Object(given) => {
            let mut given = given.clone();
            let meant = given.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            if meant.starts_with('<') {
                given.insert("id".to_owned(), if meant.contains("deleted") { deleted } else { about }["id"].clone());
            } else if method == "PUT" && meant.is_empty() {
                given.insert("id".to_owned(), about["id"].clone());
            }
            bytes(&given)
        }
        Value::String(meant) if meant == "entity with another id" => bytes(about),
        Value::String(meant) if meant == "entity deleted:true" => {
            let mut row = about.clone();
            row.insert("deleted".to_owned(), true.into());
            bytes(&row)
        }
        Value::String(given) => given.clone().into_bytes(),
        _ if method == "PUT" => bytes(about),
        _ => Vec::new(),
    }
}

/// What is wrong with an answer.
fn wrong(case: &Value, answer: &Answer, service: &Service) -> Option<String> {
    let expected = &case["expected"];
    if Some(i64::from(answer.status)) != expected["status"].as_i64() {
        return Some(format!("answered {} and not {}", answer.status, expected["status"]));
    }
    let version = answer.body["version"].as_str().map(|version| format!("\"{version}\""));
    let etag = answer.headers.get("etag").map(|tag| tag.to_str().unwrap().to_owned());
    if !expected["etag"].is_null() && (etag.is_none() || etag != version) {
        return Some(format!("the tag is {etag:?} and the version {version:?}"));
    }
    if expected["body"] == "entity" && !answer.body["updatedAt"].is_string() {
        return Some("the body is no entity".to_owned());
    }
    if let Some(deleted) = expected["deleted"].as_bool()
        && answer.body["deleted"] != deleted
    {
        return Some("`deleted` is another".to_owned());
    }
    let id = answer.body["id"].as_str().unwrap_or_default();
    if let Some(rule) = expected["id"].as_str() {
        let generated = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if if rule.contains("32 hex digits") { !generated } else { rule != id } {
            return Some(format!("the id is `{id}`"));
        }
    }
    if let Some(rule) = expected["location"].as_str() {
        let wanted = rule.replace("{base}", &service.base).replace("{id}", id);
        let location = answer.headers.get("location").and_then(|location| location.to_str().ok());
        if location != Some(wanted.as_str()) && rule != "present" {
            return Some(format!("the location is {location:?}"));
        }
    }
    if case["test"].as_str().is_some_and(|test| test.contains("NotInView")) && !answer.body.is_null() {
        return Some("a row outside the view is shown".to_owned());
    }
    None
}

#[tokio::test]
async fn changes_are_answered_as_by_the_reference() {
    let Some(folder) = folder() else { return };
    let data = Data::load(&folder).unwrap();
    let service = Service::start(data.router().unwrap()).await;
    let (mut passed, mut failures) = (0, Vec::new());
    for case in cases(&folder, "crud_cases.json").iter().filter(|case| case["repo"] == "ct") {
        data.reset().unwrap();
        let target = case["target"].as_str().unwrap();
        let path = target.split("/{").next().unwrap().split('?').next().unwrap();
        let path = path.trim_end_matches("/missing").trim_end_matches("/1");
        let viewed;
        let (service, rows) = match case["dataView"].as_str() {
            None => (&service, Rows::of(&service, path).await),
            Some(view) => {
                let view = View(if view.contains("true") { "id ne ''" } else { "id eq ''" });
                let rows = Rows::of(&service, path).await;
                viewed = with_view(path, view, &rows.live).await;
                (&viewed, rows)
            }
        };
        let about = if target.contains("{deleted id}") { &rows.deleted } else { &rows.live };
        let target = target.replace("{id}", text(about, "id")).replace("{deleted id}", text(about, "id"));
        let body = body(case, about, &rows.deleted);
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in case["headers"].as_object().into_iter().flatten() {
            headers.push((name.clone(), header(value.as_str().unwrap(), about)));
        }
        if !body.is_empty() {
            let kind = case["contentType"].as_str().unwrap_or("application/json");
            headers.push(("content-type".to_owned(), kind.to_owned()));
        }
        let answer = service.send(case["method"].as_str().unwrap(), &target, &headers, body).await;
        match wrong(case, &answer, service) {
            None => passed += 1,
            Some(what) => failures.push(format!("{} {} {target}: {what}", case["n"], case["test"])),
        }
    }
    println!("{passed} cases passed");
    assert!(failures.is_empty() && passed > 0, "{} wrong:\n{}", failures.len(), failures.join("\n"));
}

/// A table at the same path, with one row, and a view.
async fn with_view(path: &str, view: View, row: &Map<String, Value>) -> Service {
    const FIELDS: &[FieldSchema] =
        &[FieldSchema::new("id", FieldKind::Text, false), FieldSchema::new("title", FieldKind::Text, false)];
    let rows = MemoryRepository::new();
    rows.seed(Value::Array(vec![Value::Object(row.clone())])).unwrap();
    let options = TableOptions::new(TableSchema::new("movies", FIELDS, &[])).path(path).access(view);
    Service::start(DatasyncService::builder().table(options, rows).build().unwrap()).await
}
