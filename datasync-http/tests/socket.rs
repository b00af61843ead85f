//! The client over a real socket: the right answer, and errors that say what happened.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasync_core::{
    query::QueryDescription,
    row::{Body, OperationKind},
    transport::{PageRequest, Purpose, PushOperation, PushOutcome, RowRequest, Transport, TransportErrorKind},
};
use datasync_http::{AccessToken, HttpTransport};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use uuid::Uuid;

/// A server on a runtime of its own, so that a test may have another one, or none.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    _runtime: Runtime,
}

fn entity(id: &str) -> String {
    let body = format!(r#"{{"id":"{id}","version":"AQ==","updatedAt":"2024-01-02T03:04:05.678Z","deleted":false}}"#);
    answer("200 OK", "", body.as_bytes())
}

fn answer(status: &str, headers: &str, body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// Answers each path in its own way.
async fn serve(mut stream: TcpStream, requests: Arc<AtomicUsize>) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return Ok(()),
            }
        }
        let number = requests.fetch_add(1, Ordering::SeqCst);
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        let target = head.split_whitespace().nth(1).unwrap_or_default();
        let id = target.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        match id {
            "datasync" => {
                stream.write_all(answer("404 Not Found", "", b"").as_bytes()).await?;
                continue;
            }
            "slow" => tokio::time::sleep(Duration::from_millis(300)).await,
            "slowbody" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":").await?;
                tokio::time::sleep(Duration::from_secs(5)).await;
                return Ok(());
            }
            "cut" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":").await?;
                return Ok(());
            }
            "flaky" if number < 2 => {
                stream.write_all(answer("503 Unavailable", "", b"").as_bytes()).await?;
                continue;
            }
            "later" => {
                stream.write_all(answer("429 Too Many", "retry-after: 120\r\n", b"").as_bytes()).await?;
                continue;
            }
            "moved" => {
                stream
                    .write_all(answer("302 Found", "location: http://127.0.0.1:9/elsewhere\r\n", b"").as_bytes())
                    .await?;
                continue;
            }
            "large" => {
                stream.write_all(answer("200 OK", "", &[b' '; 5_000]).as_bytes()).await?;
                continue;
            }
            "elsewhere" => {
                let page = br#"{"items":[],"nextLink":"http://127.0.0.1:9/tables/elsewhere?$skip=1"}"#;
                stream.write_all(answer("200 OK", "", page).as_bytes()).await?;
                continue;
            }
            "zipped" => {
                // {"id":"zipped"} in gzip, stored and not compressed.
                let mut zipped = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1, 15, 0, 0xf0, 0xff];
                zipped.extend(br#"{"id":"zipped"}"#);
                zipped.extend([0xcf, 0x8c, 0x0b, 0x97, 15, 0, 0, 0]);
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", zipped.len());
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&zipped).await?;
                continue;
            }
            _ => {}
        }
        stream.write_all(entity(id).as_bytes()).await?;
    }
}

impl Server {
    fn start() -> Server {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, connected) = (Arc::clone(&requests), Arc::clone(&connections));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connected.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&counted)));
            }
        });
        Server { address, requests, connections, _runtime: runtime }
    }

    fn transport(&self) -> HttpTransport {
        let builder = HttpTransport::builder(&format!("http://{}", self.address)).retries(0);
        builder.timeout(Duration::from_millis(150)).max_body(4_000).build().unwrap()
    }
}

async fn id_of(transport: &HttpTransport, id: &str) -> Result<String, TransportErrorKind> {
    let row = transport.fetch(&RowRequest::new("t", id)).await.map_err(|error| error.kind())?;
    Ok(row.unwrap().id.to_string())
}

/// A request that timed out, one that was dropped, and then others: each gets its own answer.
async fn after_requests_that_were_given_up(transport: &HttpTransport) {
    for round in 0..20 {
        assert_eq!(id_of(transport, "slow").await, Err(TransportErrorKind::Timeout));
        let id = format!("a{round}");
        assert_eq!(id_of(transport, &id).await, Ok(id));
        {
            let mut dropped = Box::pin(id_of(transport, "slow"));
            for _ in 0..round {
                let _ = futures::poll!(dropped.as_mut());
                futures::pending_once().await;
            }
        }
        let id = format!("b{round}");
        assert_eq!(id_of(transport, &id).await, Ok(id));
    }
}

mod futures {
    pub(crate) use ::futures::{executor, poll};

    /// Lets other tasks run once.
    pub(crate) async fn pending_once() {
        let mut yielded = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return std::task::Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }
}

#[test]
fn after_a_request_that_was_given_up_the_next_gets_its_own_answer_on_tokio() {
    let server = Server::start();
    Runtime::new().unwrap().block_on(after_requests_that_were_given_up(&server.transport()));
}

#[test]
fn after_a_request_that_was_given_up_the_next_gets_its_own_answer_without_a_runtime() {
    let server = Server::start();
    futures::executor::block_on(after_requests_that_were_given_up(&server.transport()));
}

#[test]
fn requests_one_after_the_other_share_a_connection() {
    let server = Server::start();
    let transport = server.transport();
    Runtime::new().unwrap().block_on(async {
        for number in 0..10 {
            id_of(&transport, &number.to_string()).await.unwrap();
        }
    });
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn what_goes_wrong_is_told_by_its_kind() {
    let server = Server::start();
    Runtime::new().unwrap().block_on(async {
        let transport = server.transport();
        assert_eq!(
            id_of(&transport, "slowbody").await,
            Err(TransportErrorKind::Timeout),
            "the deadline covers the body"
        );
        assert_eq!(id_of(&transport, "cut").await, Err(TransportErrorKind::Interrupted));
        assert_eq!(id_of(&transport, "large").await, Err(TransportErrorKind::Protocol));
        assert_eq!(id_of(&transport, "moved").await, Err(TransportErrorKind::Protocol), "i25: no redirect is followed");
        assert_eq!(id_of(&transport, "zipped").await, Ok("zipped".to_owned()));
        let later = transport.fetch(&RowRequest::new("t", "later")).await.unwrap_err();
        assert_eq!(
            (later.kind(), later.retry_after()),
            (TransportErrorKind::Throttled, Some(Duration::from_secs(120)))
        );
        let nobody = HttpTransport::builder("http://127.0.0.1:9").retries(0).build().unwrap();
        assert_eq!(id_of(&nobody, "1").await, Err(TransportErrorKind::Connect));
    });
}

#[test]
fn i25_a_next_link_to_another_origin_is_not_followed() {
    let server = Server::start();
    Runtime::new().unwrap().block_on(async {
        let mut request = PageRequest {
            account: "".into(),
            table: "elsewhere".into(),
            purpose: Purpose::Query,
            query: QueryDescription::default(),
            token: None,
            first: true,
            page_size: 10,
            overlap: Duration::ZERO,
            include_deleted: false,
        };
        let page = server.transport().fetch_page(&request).await.unwrap();
        request.token = page.token;
        let refused = server.transport().fetch_page(&request).await.unwrap_err();
        assert_eq!(refused.kind(), TransportErrorKind::Protocol);
        assert_eq!(server.requests.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn i11_reads_are_tried_again_and_changes_are_not() {
    let flaky = Server::start();
    let failing = Server::start();
    Runtime::new().unwrap().block_on(async {
        let builder = HttpTransport::builder(&format!("http://{}", flaky.address)).retries(3);
        let transport = builder.timeout(Duration::from_secs(5)).build().unwrap();
        assert_eq!(id_of(&transport, "flaky").await, Ok("flaky".to_owned()));
        assert_eq!(flaky.requests.load(Ordering::SeqCst), 3);

        let transport = HttpTransport::new(&format!("http://{}", failing.address)).unwrap();
        let operation = PushOperation {
            account: "".into(),
            base: None,
            table: "t".into(),
            id: "flaky".into(),
            kind: OperationKind::Replace,
            key: Uuid::nil(),
            version: Some("AQ==".to_owned()),
            body: Some(Body::from(&br#"{"id":"flaky"}"#[..])),
        };
        transport.capabilities().await.unwrap();
        failing.requests.store(0, Ordering::SeqCst);
        let outcome = transport.push(&[operation]).await.pop().unwrap();
        assert!(matches!(outcome, PushOutcome::Failed(error) if error.kind() == TransportErrorKind::Server));
        assert_eq!(failing.requests.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn i21_nothing_secret_is_in_debug_output() {
    let builder = HttpTransport::builder("http://h").token_provider(|| async { Ok(Some(AccessToken::new("secret"))) });
    assert!(!format!("{builder:?}").contains("secret"));
    assert!(!format!("{:?}", builder.build().unwrap()).contains("secret"));
}

#[test]
fn an_address_that_cannot_be_right_is_refused() {
    for address in ["", "h", "ftp://h", "http://user:pass@h", "file:///x"] {
        assert!(HttpTransport::new(address).is_err(), "{address}");
    }
    assert!(HttpTransport::builder("http://h").timeout(Duration::ZERO).build().is_err());
    assert!(HttpTransport::builder("http://h").retries(21).build().is_err());
}
