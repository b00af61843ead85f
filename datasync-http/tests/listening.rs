//! The stream of changes over a real socket.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasync_core::{
    clock::{Clock, SystemClock},
    transport::{ChangeNotice, RowRequest, Transport, TransportErrorKind},
};
use datasync_http::{AccessToken, HttpTransport, HttpTransportBuilder};
use futures::{StreamExt, future::BoxFuture};
use jiff::Timestamp;
use server::{Request, Server, answer, entity};
use smol::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use surf::http::{Body, Error, Response, StatusCode};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// One piece of a body.
fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// Begins a stream that goes on: what comes later never does.
fn begins(request: &Request) -> Option<Vec<u8>> {
    match request.target.as_str() {
        "/changes" => {
            assert_eq!(request.header("accept"), Some("text/event-stream"));
            let events =
                [chunk("event: rea"), chunk("dy\ndata:\n\n: alive\n"), chunk("\nevent: change\ndata: tables/t\n\n")];
            Some([HEAD.to_owned(), events.concat()].concat().into_bytes())
        }
        _ => Some(entity(request.id())),
    }
}

fn builder(server: &Server) -> HttpTransportBuilder {
    HttpTransport::builder(&format!("http://{}", server.address())).retries(0)
}

fn changed(table: &str) -> ChangeNotice {
    ChangeNotice::Changed(table.into())
}

/// Events come while the answer is not at its end, and other requests are answered meanwhile.
async fn listens(transport: HttpTransport) {
    let mut changes = transport.changes("".into());
    assert_eq!(changes.next().await.unwrap().unwrap(), ChangeNotice::Connected);
    assert_eq!(changes.next().await.unwrap().unwrap(), changed("t"));
    assert!(futures::poll!(changes.next()).is_pending());
    assert!(transport.fetch(&RowRequest::new("t", "a")).await.unwrap().is_some());
    let mut second = transport.changes("".into());
    assert_eq!(second.next().await.unwrap().unwrap(), ChangeNotice::Connected);
    drop(changes);
    assert_eq!(second.next().await.unwrap().unwrap(), changed("t"));
    assert!(transport.fetch(&RowRequest::new("t", "b")).await.unwrap().is_some());
}

#[tokio::test]
async fn changes_are_heard_as_they_come_on_tokio() {
    let server = Server::start(begins);
    listens(builder(&server).build().unwrap()).await;
}

#[test]
fn changes_are_heard_as_they_come_on_smol() {
    let server = Server::start(begins);
    smol::block_on(listens(builder(&server).build().unwrap()));
}

#[test]
fn changes_are_heard_as_they_come_without_a_runtime() {
    let server = Server::start(begins);
    futures::executor::block_on(listens(builder(&server).build().unwrap()));
}

/// One connection a request; the body is read from it as it comes.
#[derive(Debug)]
struct Plain;

#[surf::utils::async_trait]
impl surf::HttpClient for Plain {
    async fn send(&self, request: surf::http::Request) -> Result<Response, Error> {
        let address = request.url().socket_addrs(|| None)?[0];
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {} HTTP/1.1\r\nhost: h\r\naccept: text/event-stream\r\n\r\n", request.url().path());
        stream.write_all(head.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            head.push(byte[0]);
        }
        let mut response = Response::new(StatusCode::Ok);
        // The test's server sends this one as it is.
        response.set_body(Body::from_reader(smol::io::BufReader::new(stream), None));
        response.insert_header("content-type", "text/event-stream");
        Ok(response)
    }
}

#[test]
fn a_surf_client_whose_bodies_stream_is_heard_too() {
    let server = Server::start(|_| {
        Some(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: ready\n\nevent: change\ndata: tables/t\n\n".to_vec())
    });
    let transport = builder(&server).surf_client(surf::Client::with_http_client(Plain)).build().unwrap();
    smol::block_on(async {
        let mut changes = transport.changes("".into());
        assert_eq!(changes.next().await.unwrap().unwrap(), ChangeNotice::Connected);
        assert_eq!(changes.next().await.unwrap().unwrap(), changed("t"));
        assert!(futures::poll!(changes.next()).is_pending());
    });
}

/// Patience is short for what takes a minute.
#[derive(Clone, Debug)]
struct Impatient;

impl Clock for Impatient {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(if length >= Duration::from_secs(60) { Duration::from_millis(300) } else { length })
    }

    fn random(&self) -> u64 {
        SystemClock.random()
    }
}

#[tokio::test]
async fn a_stream_ends_cleanly_with_an_error_or_after_silence() {
    let server = Server::start(|request| {
        let ready = chunk("event: ready\n\n");
        let body = match request.header("x-case").unwrap() {
            "end" => format!("{HEAD}{ready}0\r\n\r\n"),
            "silence" => format!("{HEAD}{ready}"),
            "endless" => format!("{HEAD}{ready}{}", chunk(&"x".repeat(100_000))),
            "page" => return Some(answer("200 OK", "content-type: text/html\r\n", b"<p>sign in")),
            "moved" => return Some(answer("302 Found", "location: http://other.example/\r\n", b"")),
            "full" => return Some(answer("503 Service Unavailable", "retry-after: 30\r\n", b"")),
            _ => return Some(answer("404 Not Found", "", b"")),
        };
        Some(body.into_bytes())
    });
    for (case, first, then) in [
        ("end", None, None),
        ("silence", None, Some(TransportErrorKind::Timeout)),
        ("endless", None, Some(TransportErrorKind::Protocol)),
        ("page", Some(TransportErrorKind::Protocol), None),
        ("moved", Some(TransportErrorKind::Protocol), None),
        ("full", Some(TransportErrorKind::Server), None),
        ("missing", Some(TransportErrorKind::Rejected), None),
    ] {
        let transport = builder(&server).header("x-case", case).clock(Impatient).build().unwrap();
        let mut changes = transport.changes("".into());
        let notice = changes.next().await.unwrap();
        match first {
            None => assert_eq!(notice.unwrap(), ChangeNotice::Connected, "{case}"),
            Some(kind) => assert_eq!(notice.unwrap_err().kind(), kind, "{case}"),
        }
        let notice = changes.next().await;
        assert_eq!(notice.map(|notice| notice.unwrap_err().kind()), then, "{case}");
        assert!(changes.next().await.is_none(), "{case}: an error is the last");
    }
    assert_eq!(server.requests(), 7, "nothing is asked again");
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_for_a_stream_too() {
    let server = Server::start(|request| match request.header("authorization") {
        Some("Bearer 2") => begins(request),
        _ => Some(answer("401 Unauthorized", "", b"")),
    });
    let given = Arc::new(AtomicUsize::new(0));
    let provider = move || {
        let number = given.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Ok(Some(AccessToken::new(number.to_string()))) }
    };
    let transport = builder(&server).token_provider(provider).build().unwrap();
    assert_eq!(transport.changes("".into()).next().await.unwrap().unwrap(), ChangeNotice::Connected);
    assert_eq!(server.requests(), 2);
}
