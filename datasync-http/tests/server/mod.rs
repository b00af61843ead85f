//! A server that answers each request as a closure says, on a thread of its own.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// A request as it came.
pub(crate) struct Request {
    pub(crate) target: String,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
    }

    /// The last part of the path.
    pub(crate) fn id(&self) -> &str {
        self.target.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default()
    }
}

pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len()).as_bytes(), body].concat()
}

pub(crate) fn entity(id: &str) -> Vec<u8> {
    let body = format!(r#"{{"id":"{id}","version":"AQ==","updatedAt":"2024-01-02T03:04:05.678Z","deleted":false}}"#);
    answer("200 OK", "", body.as_bytes())
}

type Answer = Arc<dyn Fn(&Request) -> Option<Vec<u8>> + Send + Sync>;

/// A server on a runtime of its own, so that a test may have another one, or none.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A test on a runtime must not wait for another one to end.
            runtime.shutdown_background();
        }
    }
}

impl Server {
    /// Answers what `answer` says; `None` closes the connection.
    pub(crate) fn start(answer: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> Server {
        Server::run(None, Arc::new(answer))
    }

    /// The same over TLS.
    pub(crate) fn secure(
        config: ServerConfig,
        answer: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Server {
        Server::run(Some(TlsAcceptor::from(Arc::new(config))), Arc::new(answer))
    }

    fn run(tls: Option<TlsAcceptor>, answer: Answer) -> Server {
        let runtime = Runtime::new().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let counted = Arc::clone(&requests);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (tls, counted, answer) = (tls.clone(), Arc::clone(&counted), Arc::clone(&answer));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &counted, &answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &counted, &answer).await;
                            }
                        }
                    }
                });
            }
        });
        Server { address, requests, runtime: Some(runtime) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, requests: &AtomicUsize, answer: &Answer) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        let head = String::from_utf8_lossy(&head).into_owned();
        let target = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let mut request = Request { target, head, body: Vec::new() };
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        request.body = vec![0; length];
        if stream.read_exact(&mut request.body).await.is_err() {
            return;
        }
        match answer(&request) {
            Some(answer) if stream.write_all(&answer).await.is_ok() => {}
            _ => return,
        }
    }
}
