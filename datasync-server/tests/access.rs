//! Who may do what: views, authorization, and what is done before and after a commit.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
};
use datasync_core::{
    query::Expr,
    schema::{FieldKind, FieldSchema, TableSchema},
};
use datasync_server::{AccessControl, DatasyncService, MemoryRepository, TableOperation, TableOptions};
use serde_json::{Map, Value, json};
use tower::ServiceExt;

const FIELDS: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("title", FieldKind::Text, false),
    FieldSchema::new("owner", FieldKind::Text, false),
];

/// Everybody sees and owns what is theirs; a guest reads alone; the title may not be rude.
#[derive(Debug)]
struct Rules(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl AccessControl for Rules {
    fn caller(&self, headers: &HeaderMap) -> Arc<str> {
        headers.get("x-user").and_then(|user| user.to_str().ok()).unwrap_or_default().into()
    }

    fn view(&self, caller: &str) -> Option<Expr> {
        (caller != "guest").then(|| format!("owner eq '{caller}'").parse().unwrap())
    }

    async fn authorize(&self, caller: &str, operation: TableOperation, _: Option<&Map<String, Value>>) -> bool {
        caller != "guest" || matches!(operation, TableOperation::Query | TableOperation::Read)
    }

    async fn before_commit(
        &self,
        caller: &str,
        operation: TableOperation,
        row: &mut Map<String, Value>,
    ) -> Result<(), String> {
        self.0.lock().unwrap().push(format!("before {caller} {operation:?} {}", row["title"]));
        if row["title"] == "rude" {
            return Err("The title is rude.".to_owned());
        }
        row.insert("owner".to_owned(), caller.into());
        Ok(())
    }

    async fn after_commit(&self, caller: &str, operation: TableOperation, row: &Map<String, Value>) {
        self.0.lock().unwrap().push(format!("after {caller} {operation:?} {} {}", row["id"], row["deleted"]));
    }
}

struct Service {
    router: Router,
    rows: MemoryRepository,
    log: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn new() -> Service {
        let (rows, log) = (MemoryRepository::new(), Arc::default());
        let notes = TableOptions::new(TableSchema::new("notes", FIELDS, &[])).soft_delete(true);
        let notes = notes.access(Rules(Arc::clone(&log))).unauthorized_status(403);
        let router = DatasyncService::builder().table(notes, rows.clone()).build().unwrap();
        Service { router, rows, log }
    }

    /// A request of somebody; the status and the body of its answer.
    async fn send(&self, user: &str, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path).header("x-user", user);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = request.header("content-type", "application/json").body(body).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Two rows of Ann's and one of Bob's.
    async fn filled() -> Service {
        let service = Service::new();
        for (user, id) in [("ann", "a1"), ("ann", "a2"), ("bob", "b1")] {
            let made = service.send(user, "POST", "/tables/notes", &[], json!({ "id": id, "title": "x" })).await;
            assert_eq!((made.0, made.1["owner"].as_str()), (201, Some(user)));
        }
        service.heard();
        service
    }

    /// What was called since the last time.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// All rows with their sequences: equal if nothing was changed.
    fn state(&self) -> String {
        format!("{:?}", self.rows.rows())
    }
}

fn ids(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn nothing_outside_a_callers_view_is_shown_or_changed() {
    let service = Service::filled().await;
    let before = service.state();
    let (_, page) = service.send("bob", "GET", "/tables/notes?$count=true", &[], Value::Null).await;
    assert_eq!((ids(&page), page["count"].as_u64()), (vec!["b1"], Some(1)));
    let all = "/tables/notes?$count=true&$filter=owner%20eq%20'ann'%20or%20id%20ne%20''";
    let (_, page) = service.send("bob", "GET", all, &[], Value::Null).await;
    assert_eq!((ids(&page), page["count"].as_u64()), (vec!["b1"], Some(1)), "a filter opens no view");
    let (_, page) = service.send("bob", "GET", "/tables/notes?__delta=&$count=true", &[], Value::Null).await;
    assert_eq!((ids(&page), page["count"].as_u64()), (vec!["b1"], Some(1)));

    let theirs = json!({ "id": "a1", "title": "taken" });
    for (method, path, body, status) in [
        ("GET", "/tables/notes/a1", Value::Null, 404),
        ("GET", "/tables/notes/a1?__includedeleted=true", Value::Null, 404),
        ("PUT", "/tables/notes/a1", theirs.clone(), 404),
        ("DELETE", "/tables/notes/a1", Value::Null, 404),
        ("POST", "/tables/notes", theirs.clone(), 400),
    ] {
        let answer = service.send("bob", method, path, &[], body).await;
        assert_eq!(answer, (status, Value::Null), "{method} {path}");
    }
    let batch = json!({ "operations": [
        { "method": "PUT", "path": "tables/notes/a1", "body": theirs },
        { "method": "DELETE", "path": "tables/notes/a2" },
        { "method": "POST", "path": "tables/notes", "body": theirs },
    ] });
    let (_, answer) = service.send("bob", "POST", "/$batch", &[], batch).await;
    assert_eq!(answer, json!({ "outcomes": [{ "status": 404 }, { "status": 404 }, { "status": 400 }] }));
    assert_eq!(service.state(), before);
    assert!(service.heard().iter().all(|call| call.starts_with("before bob Create")), "no row of another is looked at");
}

#[tokio::test]
async fn who_may_not_is_refused_and_nothing_is_changed() {
    let service = Service::filled().await;
    let before = service.state();
    let note = json!({ "id": "a1", "title": "y" });
    assert_eq!(service.send("guest", "GET", "/tables/notes/a1", &[], Value::Null).await.0, 200);
    assert_eq!(ids(&service.send("guest", "GET", "/tables/notes", &[], Value::Null).await.1).len(), 3);
    let key = ("idempotency-key", "00000000-0000-0000-0000-000000000001");
    for (method, path, body) in [
        ("POST", "/tables/notes", json!({ "id": "new", "title": "y" })),
        ("POST", "/tables/notes", note.clone()),
        ("PUT", "/tables/notes/a1", note.clone()),
        ("DELETE", "/tables/notes/a1", Value::Null),
    ] {
        assert_eq!(service.send("guest", method, path, &[key], body).await, (403, Value::Null), "{method} {path}");
    }
    let batch = json!({ "operations": [{ "method": "PUT", "path": "tables/notes/a1", "body": note }] });
    let (status, answer) = service.send("guest", "POST", "/$batch", &[], batch).await;
    assert_eq!((status, answer), (200, json!({ "outcomes": [{ "status": 403 }] })));
    assert_eq!((service.state(), service.heard()), (before, Vec::new()));
}

#[tokio::test]
async fn before_a_commit_a_row_is_changed_or_refused() {
    let service = Service::filled().await;
    let before = service.state();
    let rude = json!({ "id": "a1", "title": "rude", "owner": "bob" });
    let sentence = json!("The title is rude.");
    let new = json!({ "id": "a3", "title": "rude" });
    assert_eq!(service.send("ann", "POST", "/tables/notes", &[], new).await, (400, sentence.clone()));
    assert_eq!(service.send("ann", "PUT", "/tables/notes/a1", &[], rude).await, (400, sentence));
    assert_eq!(service.state(), before);
    assert_eq!(service.heard(), [r#"before ann Create "rude""#, r#"before ann Update "rude""#]);
    let given_away = json!({ "id": "a1", "title": "y", "owner": "bob" });
    let (status, row) = service.send("ann", "PUT", "/tables/notes/a1", &[], given_away).await;
    assert_eq!((status, row["owner"].as_str(), row["title"].as_str()), (200, Some("ann"), Some("y")));
}

#[tokio::test]
async fn after_a_commit_each_change_is_heard_of_once_and_a_replay_is_none() {
    let service = Service::filled().await;
    let (first, second) = ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002");
    let note = json!({ "id": "a3", "title": "x" });
    for _ in 0..3 {
        let made = service.send("ann", "POST", "/tables/notes", &[("idempotency-key", first)], note.clone()).await;
        assert_eq!(made.0, 201);
    }
    assert_eq!(service.heard(), [r#"before ann Create "x""#, r#"after ann Create "a3" false"#]);
    let stale = service.send("ann", "PUT", "/tables/notes/a3", &[("if-match", "\"AA==\"")], note.clone()).await;
    assert_eq!((stale.0, service.send("ann", "POST", "/tables/notes", &[], note).await.0), (412, 409));
    assert_eq!(service.heard(), [r#"before ann Create "x""#], "a refusal is no change");
    for _ in 0..2 {
        let batch = json!({ "operations": [
            { "method": "PUT", "path": "tables/notes/a1", "key": first, "body": { "id": "a1", "title": "y" } },
            { "method": "DELETE", "path": "tables/notes/a2", "key": second },
        ] });
        let (_, answer) = service.send("ann", "POST", "/$batch", &[], batch).await;
        assert_eq!(answer["outcomes"][1]["status"], 204);
        assert_eq!(answer["outcomes"][0]["status"], 422, "the key was used for another change");
    }
    // As in the Toolkit's service, a soft deletion is committed as an update.
    assert_eq!(service.heard(), [r#"before ann Update "x""#, r#"after ann Update "a2" true"#]);
}

#[tokio::test]
async fn i10_a_key_belongs_to_its_caller() {
    let service = Service::new();
    let key = [("idempotency-key", "00000000-0000-0000-0000-000000000001")];
    for (user, id) in [("ann", "a1"), ("bob", "b1")] {
        let note = json!({ "id": id, "title": "x" });
        for _ in 0..2 {
            let (status, row) = service.send(user, "POST", "/tables/notes", &key, note.clone()).await;
            assert_eq!((status, row["owner"].as_str()), (201, Some(user)));
        }
    }
    assert_eq!(service.rows.rows().len(), 2);
}
