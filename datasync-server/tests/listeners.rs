//! Who listens is told what has changed, and costs no more the less it reads.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, BodyDataStream},
    http::{HeaderMap, Request, Response, StatusCode},
};
use datasync_core::{
    clock::Clock,
    schema::{FieldKind, FieldSchema, TableSchema},
};
use datasync_server::{
    AccessControl, DatasyncServer, DatasyncService, MemoryRepository, ServiceBuilder, TableOperation, TableOptions,
};
use futures::{FutureExt, StreamExt, channel::oneshot, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::ServiceExt;

const FIELDS: &[FieldSchema] =
    &[FieldSchema::new("id", FieldKind::Text, false), FieldSchema::new("title", FieldKind::Text, true)];

/// When somebody is to be woken, and how.
type Sleeper = (SignedDuration, oneshot::Sender<()>);

/// A clock that stands until a test moves it.
#[derive(Clone, Debug, Default)]
struct Still(Arc<Mutex<(SignedDuration, Vec<Sleeper>)>>);

impl Still {
    fn advance(&self, by: Duration) {
        let mut state = self.0.lock().unwrap();
        state.0 += SignedDuration::try_from(by).unwrap();
        let now = state.0;
        // Those whose time has come are woken when their sender goes.
        state.1.retain(|(at, _)| *at > now);
    }
}

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + self.0.lock().unwrap().0
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.lock().unwrap();
        let at = state.0 + SignedDuration::try_from(length).unwrap();
        state.1.push((at, sender));
        receiver.map(drop).boxed()
    }

    fn random(&self) -> u64 {
        7
    }
}

/// Queries are for those who say so.
#[derive(Debug)]
struct Members;

#[async_trait]
impl AccessControl for Members {
    fn caller(&self, headers: &HeaderMap) -> Arc<str> {
        headers.get("x-caller").and_then(|caller| caller.to_str().ok()).unwrap_or_default().into()
    }

    async fn authorize(&self, caller: &str, operation: TableOperation, _: Option<&Map<String, Value>>) -> bool {
        operation != TableOperation::Query || caller == "member"
    }
}

fn builder(clock: &Still) -> ServiceBuilder {
    let table = |name: &'static str| TableOptions::new(TableSchema::new(name, FIELDS, &[])).soft_delete(true);
    let club = table("club").path("of/the/club").access(Members).unauthorized_status(403);
    let builder = DatasyncService::builder().clock(clock.clone()).table(table("a"), MemoryRepository::new());
    builder.table(table("b"), MemoryRepository::new()).table(club, MemoryRepository::new())
}

async fn send(router: &Router, method: &str, path: &str, body: &str) -> StatusCode {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap().status()
}

async fn ask(router: &Router, path: &str, caller: &str) -> Response<Body> {
    let request = Request::builder().uri(path).header("x-caller", caller).header("accept-encoding", "gzip");
    router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

/// A stream behind its `ready`.
async fn listen(router: &Router, path: &str, caller: &str) -> BodyDataStream {
    let response = ask(router, path, caller).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert!(!response.headers().contains_key("content-encoding"), "what is compressed waits for more");
    let mut stream = response.into_body().into_data_stream();
    assert_eq!(heard(&mut stream).await, "event: ready\ndata:\n\n");
    stream
}

async fn heard(stream: &mut BodyDataStream) -> String {
    String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap()
}

fn change(path: &str) -> String {
    format!("event: change\ndata: {path}\n\n")
}

#[tokio::test]
async fn each_change_is_told_and_many_are_told_together() {
    let clock = Still::default();
    let router = builder(&clock).build().unwrap();
    send(&router, "POST", "/tables/a", r#"{"id":"0"}"#).await;
    let mut stream = listen(&router, "/changes?tables=tables/a,/tables/b/", "").await;
    assert!(futures::poll!(stream.next()).is_pending(), "what was before is not told");
    assert_eq!(send(&router, "POST", "/tables/a", r#"{"id":"0"}"#).await, 409);
    assert_eq!(send(&router, "POST", "/of/the/club", r#"{"id":"0"}"#).await, 201);
    assert!(futures::poll!(stream.next()).is_pending(), "neither a refusal nor another table");
    assert_eq!(send(&router, "POST", "/tables/b", r#"{"id":"1"}"#).await, 201);
    assert_eq!(heard(&mut stream).await, change("tables/b"));
    for number in 1..1_000 {
        assert_eq!(send(&router, "POST", "/tables/a", &format!(r#"{{"id":"{number}"}}"#)).await, 201);
    }
    assert_eq!(send(&router, "DELETE", "/tables/b/1", "").await, 204);
    assert!(futures::poll!(stream.next()).is_pending(), "changes are told together");
    clock.advance(Duration::from_millis(200));
    assert_eq!(heard(&mut stream).await, change("tables/a") + &change("tables/b"), "each table once");
    for pause in [Duration::from_millis(200), Duration::from_secs(20)] {
        assert!(futures::poll!(stream.next()).is_pending());
        clock.advance(pause);
    }
    assert_eq!(heard(&mut stream).await, ": alive\n\n");
    let batch = r#"{"operations":[{"method":"PUT","path":"tables/a/1","body":{"id":"1","title":"x"}}]}"#;
    assert_eq!(send(&router, "POST", "/$batch", batch).await, 200);
    assert_eq!(heard(&mut stream).await, change("tables/a"));
}

#[tokio::test]
async fn who_may_not_query_a_table_does_not_hear_of_it() {
    let router = builder(&Still::default()).build().unwrap();
    for (path, caller, status) in [
        ("/changes?tables=of/the/club", "", 403),
        ("/changes?tables=tables/a,of/the/club", "", 403),
        ("/changes?tables=of/the/club", "member", 200),
        ("/changes?tables=tables/c", "member", 404),
        ("/changes?tables=", "member", 404),
        ("/changes?tables=club", "member", 404),
    ] {
        assert_eq!(ask(&router, path, caller).await.status(), status, "{path} {caller}");
    }
    let (mut guest, mut member) = (listen(&router, "/changes", "").await, listen(&router, "/changes", "member").await);
    send(&router, "POST", "/of/the/club", r#"{"id":"0"}"#).await;
    assert_eq!(heard(&mut member).await, change("of/the/club"));
    assert!(futures::poll!(guest.next()).is_pending());
    send(&router, "POST", "/tables/a", r#"{"id":"0"}"#).await;
    assert_eq!(heard(&mut guest).await, change("tables/a"));
    let club = TableOptions::new(TableSchema::new("club", FIELDS, &[])).access(Members).unauthorized_status(403);
    let closed = DatasyncService::builder().table(club, MemoryRepository::new()).build().unwrap();
    assert_eq!(ask(&closed, "/changes", "").await.status(), 403, "nothing to listen to");
}

#[tokio::test]
async fn a_thousand_listen_and_the_next_is_refused_until_one_goes() {
    let clock = Still::default();
    let router = builder(&clock).build().unwrap();
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        streams.push(listen(&router, "/changes", "").await);
    }
    let refused = ask(&router, "/changes", "").await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "30"));
    drop(streams.pop());
    let mut last = listen(&router, "/changes", "").await;
    send(&router, "POST", "/tables/a", r#"{"id":"0"}"#).await;
    for stream in streams.iter_mut().chain([&mut last]) {
        assert_eq!(heard(stream).await, change("tables/a"));
    }
    assert!(futures::poll!(last.next()).is_pending());
    clock.advance(Duration::from_secs(3_600));
    assert!(last.next().await.is_none(), "a sign-in that was taken back does not listen for ever");
}

#[tokio::test]
async fn a_service_without_extensions_has_no_stream_and_no_table_takes_its_place() {
    let clock = Still::default();
    let original = builder(&clock).extensions(false).build().unwrap();
    assert_eq!(ask(&original, "/changes", "").await.status(), 404);
    for path in ["changes", "/changes/", ".well-known/datasync"] {
        let table = || TableOptions::new(TableSchema::new("x", FIELDS, &[])).path(path);
        let error = builder(&clock).table(table(), MemoryRepository::new()).build().unwrap_err();
        assert!(error.to_string().contains("the service's own"), "{error}");
        let original = DatasyncService::builder().extensions(false).table(table(), MemoryRepository::new());
        assert!(original.build().is_ok(), "an original has none of it");
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams_at_once_and_cleanly() {
    let router = builder(&Still::default()).build().unwrap();
    let server = DatasyncServer::start("127.0.0.1:0".parse().unwrap(), router).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /changes HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"data:\n\n\r\n") {
        heard.push(stream.read_u8().await.unwrap());
    }
    let mut other = TcpStream::connect(server.address()).await.unwrap();
    let body = r#"{"id":"1"}"#;
    let head = "POST /tables/a HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\n";
    other.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    while !heard.ends_with(b"data: tables/a\n\n\r\n") {
        heard.push(stream.read_u8().await.unwrap());
    }
    // Longer than a test may take: it does not wait for the stream.
    server.stop(Duration::from_secs(100_000)).await;
    heard.clear();
    stream.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"0\r\n\r\n", "the last piece of a body that is whole");
}
