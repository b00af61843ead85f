//! The cases of the reference, over HTTP. They are read from the folder that `DATASYNC_CONFORMANCE_DIR` names.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "../examples/conformance-service/azure.rs"]
mod azure;
#[path = "../examples/conformance-service/data.rs"]
mod data;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
};
use base64::{Engine, prelude::BASE64_STANDARD};
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

/// The headers of a case; those of Azure's clients name a version.
fn headers_of(case: &Value) -> Vec<(String, String)> {
    let given = case["headers"].as_object().cloned().unwrap_or_default();
    let mut headers: Vec<(String, String)> =
        given.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())).collect();
    let azure = case["schema"] == "azure" || case["repo"] == "azure";
    if azure && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("zumo-api-version")) {
        headers.push(("ZUMO-API-VERSION".to_owned(), "3.0.0".to_owned()));
    }
    headers
}

/// The items of a page in any envelope, and the count.
fn items(body: &Value) -> (Vec<Value>, Value) {
    let items = [body, &body["items"], &body["results"]].into_iter().find_map(Value::as_array);
    (items.cloned().unwrap_or_default(), body.get("count").cloned().unwrap_or(Value::Null))
}

/// The parameters of a link, whichever form it has.
fn parameters(link: &Value) -> Vec<String> {
    let link = link.as_str().unwrap_or_default();
    let query = link.split_once('?').map_or(link, |(_, query)| query);
    let decoded = percent_encoding::percent_decode_str(query).decode_utf8_lossy().replace('+', " ");
    let mut parts: Vec<String> = decoded.split('&').map(str::to_owned).collect();
    parts.sort();
    parts
}

/// Whether a case is one of the reference's clients: it names a data set and no path. That a client of ours writes its query
/// is a test of the example `conformance-client`.
fn is_of_client(case: &Value) -> bool {
    case["source"].as_str().is_some_and(|source| source.ends_with("-client"))
}

/// The path that a case is sent to.
fn endpoint(case: &Value) -> &str {
    if !is_of_client(case) {
        return case["endpoint"].as_str().unwrap().trim_matches('/');
    }
    match (case["dataset"].as_str(), case["preDeleted"].is_null(), case["schema"] == "azure") {
        (Some("movies"), true, false) => "api/in-memory/movies",
        (Some("movies"), false, false) => "api/in-memory/softmovies",
        (Some("datetime365" | "countries"), true, false) => "api/in-memory/kitchensink",
        (Some("movies"), true, true) => "tables/movies",
        (Some("movies"), false, true) => "tables/soft",
        (Some("datetime365"), true, true) => "tables/datetime",
        _ => panic!("no table has the rows of {case}"),
    }
}

/// What is wrong with the answer to a query.
async fn wrong_answer(service: &Service, case: &Value) -> Option<String> {
    let endpoint = endpoint(case);
    let query = case["query"].as_str().unwrap_or_default().trim_start_matches('?');
    let (headers, expected) = (headers_of(case), &case["expected"]);
    let mut target = format!("{endpoint}?{}", encoded(query));
    let answer = service.send("GET", &target, &headers, Vec::new()).await;
    if Some(u64::from(answer.status)) != expected["status"].as_u64().or(Some(200)) {
        return Some(format!("answered {}", answer.status));
    }
    if answer.status != 200 {
        return None;
    }
    let (mut all, count) = items(&answer.body);
    if expected["followNextLinks"] == true {
        let (mut pages, mut next) = (1, answer.body["nextLink"].clone());
        while let Some(link) = next.as_str() {
            let prefix = expected["nextLinkStartsWith"].as_str().unwrap_or_default();
            if !link.starts_with(prefix) {
                return Some(format!("the link is `{link}`"));
            }
            target = match link.strip_prefix(service.base.as_str()).or(link.strip_prefix('/').map(|_| link)) {
                Some(path) => path.trim_start_matches('/').to_owned(),
                None => format!("{endpoint}?{link}"),
            };
            let page = service.send("GET", &target, &headers, Vec::new()).await;
            all.extend(items(&page.body).0);
            next = page.body["nextLink"].clone();
            pages += 1;
        }
        let is = |name: &str, value: usize| expected[name].is_null() || expected[name] == value;
        if !is("allItems", all.len()) || !is("pages", pages) {
            return Some(format!("{} rows in {pages} pages", all.len()));
        }
    }
    let mut ids: Vec<&str> = all.iter().filter_map(|item| item["id"].as_str()).collect();
    let mut first: Vec<&str> =
        expected["firstIds"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ids.truncate(first.len());
    if expected["firstIdsUnordered"] == true {
        ids.sort_unstable();
        first.sort_unstable();
    }
    // Without the id a row cannot be told.
    let selected = expected["itemKeysExactly"].as_array();
    if selected.is_none_or(|names| names.contains(&"id".into())) && ids != first {
        return Some(format!("the first ids are {ids:?}"));
    }
    let has = |item: &&Value, names: &[Value]| {
        let members: BTreeSet<&str> = item.as_object().unwrap().keys().map(String::as_str).collect();
        members == names.iter().map(|name| name.as_str().unwrap()).collect()
    };
    if let Some(names) = selected
        && let Some(item) = all.iter().find(|item| !has(item, names))
    {
        return Some(format!("{item} has not the members {names:?}"));
    }
    if expected["followNextLinks"] == true {
        return None;
    }
    if expected["itemCount"].as_u64().is_some_and(|count| count != all.len() as u64) {
        return Some(format!("{} rows", all.len()));
    }
    if expected["totalCount"] != count {
        return Some(format!("the count is {count}"));
    }
    let next = &answer.body["nextLink"];
    if expected["nextLink"].is_null() != next.is_null() || parameters(&expected["nextLink"]) != parameters(next) {
        return Some(format!("the link is {next}"));
    }
    match expected["envelope"].as_str() {
        Some("array") if !answer.body.is_array() => Some("no list".to_owned()),
        Some("results+count") if !answer.body["results"].is_array() => Some("no results".to_owned()),
        _ => None,
    }
}

#[tokio::test]
async fn queries_are_answered_as_by_the_reference() {
    let Some(folder) = folder() else { return };
    let service = Service::start(Data::load(&folder).unwrap().router().unwrap()).await;
    let (cases, mut failures) = (cases(&folder, "query_cases.json"), Vec::new());
    for case in &cases {
        let wrong = wrong_answer(&service, case).await;
        failures.extend(wrong.map(|what| format!("{} {}: {what}", case["n"], case["query"])));
    }
    let of_clients = cases.iter().filter(|case| is_of_client(case)).count();
    println!("{} of {} cases passed, {of_clients} of clients", cases.len() - failures.len(), cases.len());
    assert!(failures.is_empty() && of_clients > 0, "{} wrong:\n{}", failures.len(), failures.join("\n"));
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
    async fn of(service: &Service, path: &str, case: &Value) -> Rows {
        let query = format!("{path}?__includedeleted=true&$top=100");
        let mut headers = headers_of(&serde_json::json!({ "repo": case["repo"] }));
        headers.push(("x-ms-client-principal".to_owned(), "success".to_owned()));
        let page = service.send("GET", &query, &headers, Vec::new()).await;
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
        value if value.starts_with("<App Service token") => {
            let user = if value.contains("success") { "success" } else { "failed" };
            BASE64_STANDARD.encode(format!(r#"{{"auth_typ":"aad","claims":[{{"typ":"name","val":"{user}"}}]}}"#))
        }
        value if value.contains("+1") => date(1),
        value if value.contains("-1") || value.contains('−') => date(-1),
        value => value.to_owned(),
    }
}

/// The bodies that a case sends, one after the other: its own, or the row that is there with what the case changes in it.
fn bodies(case: &Value, about: &Map<String, Value>, deleted: &Map<String, Value>) -> Vec<Vec<u8>> {
    let method = case["method"].as_str().unwrap();
    let bytes = |value: &Map<String, Value>| serde_json::to_vec(value).unwrap();
    if let Some(properties) = case["bodies"].as_array() {
        let patch = |property: &Value| {
            let path = property.as_str().unwrap().split(' ').next().unwrap();
            let stored = &about[&path[1..]];
            let value = if case["test"] == "CannotPatchSystemProperties" {
                "2001-02-03T04:05:06.789Z".into()
            } else {
                stored.clone()
            };
            serde_json::to_vec(&serde_json::json!([{ "op": "replace", "path": path, "value": value }])).unwrap()
        };
        return properties.iter().map(patch).collect();
    }
    vec![match &case["body"] {
        Value::Object(given) => {
            let mut given = given.clone();
            let meant = given.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            match meant.as_str() {
                "<guid>" | "<guid N>" => drop(given.insert("id".to_owned(), "0123456789abcdef".into())),
                "<existing>" => drop(given.insert("id".to_owned(), deleted["id"].clone())),
                meant if meant.starts_with('<') => {
                    let row = if meant.contains("deleted") { deleted } else { about };
                    given.insert("id".to_owned(), row["id"].clone());
                }
                "" if method == "PUT" => drop(given.insert("id".to_owned(), about["id"].clone())),
                _ => {}
            }
            bytes(&given)
        }
        Value::Array(patch) => serde_json::to_vec(patch).unwrap(),
        Value::String(meant) if meant == "entity with another id" => bytes(about),
        Value::String(meant) if meant == "entity deleted:true" => {
            let mut row = about.clone();
            row.insert("deleted".to_owned(), true.into());
            bytes(&row)
        }
        Value::String(given) => given.clone().into_bytes(),
        _ => match method {
            "PUT" => {
                let mut row = about.clone();
                for (name, value) in case["bodyChange"].as_object().into_iter().flatten() {
                    row.insert(name.clone(), value.clone());
                }
                let target = case["target"].as_str().unwrap();
                if let Some(id) = target.rsplit('/').next().filter(|id| !id.contains('{')) {
                    row.insert("id".to_owned(), id.into());
                }
                bytes(&row)
            }
            "POST" => {
                let mut row = about.clone();
                row.remove("id");
                bytes(&row)
            }
            "PATCH" if case["contentType"] == "application/json-patch+json" => {
                br#"[{"op":"replace","path":"/title","value":"Test Movie Title"}]"#.to_vec()
            }
            "PATCH" => br#"{"title":"Test Movie Title"}"#.to_vec(),
            _ => Vec::new(),
        },
    }]
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

/// What is wrong beyond the status and the form of the answer: what the case notes of the row.
async fn noted(
    case: &Value,
    answer: &Answer,
    service: &Service,
    target: &str,
    headers: &[(String, String)],
    (about, deleted): (&Map<String, Value>, &Map<String, Value>),
) -> Option<String> {
    let is = |row: &Map<String, Value>| answer.body.as_object() == Some(row);
    let afterwards = async |options: &str| {
        let headers: Vec<_> = headers.iter().filter(|(name, _)| !name.starts_with("If-")).cloned().collect();
        service.send("GET", &format!("{target}{options}"), &headers, Vec::new()).await
    };
    let right = match case["expected"]["note"].as_str() {
        None => true,
        Some("body must not contain the id") => answer.body.is_null(),
        Some("body = stored (deleted) entity") => is(deleted),
        Some(note) if note.starts_with("412 body = stored entity") => answer.status != 412 || is(about),
        Some("row gone") => afterwards("").await.status == 404,
        Some("row kept, deleted=true") => afterwards("?__includedeleted=true").await.body["deleted"] == true,
        Some("sent updatedAt/version are replaced by server values") => {
            ["updatedAt", "version"].iter().all(|name| answer.body[*name] != case["body"][*name])
        }
        Some("PreCommit hook upper-cases title") => {
            let title = answer.body["title"].as_str().unwrap_or_default();
            !title.is_empty() && title.to_uppercase() == title
        }
        Some(other) => return Some(format!("nothing is known of the note `{other}`")),
    };
    if !right {
        return Some(format!("not so: {}", case["expected"]["note"]));
    }
    let recent = |text: &str| {
        let updated: jiff::Timestamp = text.parse().unwrap();
        let now = datasync_core::clock::Clock::now(&datasync_core::clock::SystemClock);
        now.as_second() - updated.as_second() < 3_600
    };
    let stamped = case["expected"]["updatedAt"].is_null() || answer.body["updatedAt"].as_str().is_some_and(recent);
    (!stamped).then(|| format!("the stamp is {}", answer.body["updatedAt"]))
}

#[tokio::test]
async fn changes_are_answered_as_by_the_reference() {
    let Some(folder) = folder() else { return };
    let data = Data::load(&folder).unwrap();
    let service = Service::start(data.router().unwrap()).await;
    let (mut passed, mut failures) = (0, Vec::new());
    for case in cases(&folder, "crud_cases.json") {
        data.reset().unwrap();
        let target = case["target"].as_str().unwrap();
        let path = target.split("/{").next().unwrap().split('?').next().unwrap();
        let known = ["/missing", "/not-found", "/id-113", "/1"];
        let path = known.iter().fold(path, |path, end| path.strip_suffix(end).unwrap_or(path));
        let viewed;
        let rows = Rows::of(&service, path, &case).await;
        let service = match case["dataView"].as_str().filter(|_| case["repo"] == "ct") {
            None => &service,
            Some(view) => {
                let view = View(if view.contains("true") { "id ne ''" } else { "id eq ''" });
                viewed = with_view(path, view, &rows.live).await;
                &viewed
            }
        };
        let about = if target.contains("{deleted id}") { &rows.deleted } else { &rows.live };
        let id = text(about, "id");
        let target =
            ["{id}", "{deleted id}", "{id of an R movie}"].iter().fold(target.to_owned(), |t, p| t.replace(p, id));
        let mut wrong_with = None;
        for place in 0..bodies(&case, about, &rows.deleted).len() {
            // Each body meets the rows as they were at first.
            let rows = if place == 0 { &rows } else { &fresh(&data, service, path, &case).await };
            let about = if target.contains(text(&rows.live, "id")) { &rows.live } else { &rows.deleted };
            let body = bodies(&case, about, &rows.deleted).swap_remove(place);
            let mut headers: Vec<(String, String)> =
                headers_of(&case).into_iter().map(|(name, value)| (name, header(&value, about))).collect();
            if !body.is_empty() {
                let patches = body.starts_with(b"[");
                let otherwise = if patches { "application/json-patch+json" } else { "application/json" };
                let kind = case["contentType"].as_str().unwrap_or(otherwise);
                headers.push(("content-type".to_owned(), kind.to_owned()));
            }
            let answer = service.send(case["method"].as_str().unwrap(), &target, &headers, body).await;
            wrong_with = wrong_with.or(wrong(&case, &answer, service));
            let known = (about, &rows.deleted);
            wrong_with = wrong_with.or(noted(&case, &answer, service, &target, &headers, known).await);
        }
        match wrong_with {
            None => passed += 1,
            Some(what) => failures.push(format!("{} {} {target}: {what}", case["n"], case["test"])),
        }
    }
    println!("{passed} cases passed");
    assert!(failures.is_empty() && passed > 0, "{} wrong:\n{}", failures.len(), failures.join("\n"));
}

async fn fresh(data: &Data, service: &Service, path: &str, case: &Value) -> Rows {
    data.reset().unwrap();
    Rows::of(service, path, case).await
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
