//! A service on a socket.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::JoinHandle,
};
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::{
    head::{Lines, told},
    listeners::Stopping,
};

/// What one client may take from the others.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How long a client may pause in the middle of its request's body.
    body: Duration,
    /// How long a connection may be silent before a request, or in the middle of its head.
    silence: Duration,
    /// How many connections are served at once; others wait to be accepted.
    connections: usize,
}

const LIMITS: Limits = Limits { body: Duration::from_secs(20), silence: Duration::from_secs(30), connections: 4_096 };
/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 128 * 1024;
/// How long is waited after the system had no resources for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// A service that listens on a socket until it is stopped or dropped.
///
/// It speaks HTTP/1.1 without TLS. A connection that sends nothing for 30 seconds is closed, one that
/// pauses for 20 in the middle of a body is answered with an error, and of so many that the service would run out of
/// memory the last wait to be accepted.
#[derive(Debug)]
pub struct DatasyncServer {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    stopping: Option<watch::Sender<()>>,
    task: JoinHandle<Connections>,
}

/// The connections that are served. They are closed when this is dropped.
#[derive(Debug)]
struct Connections {
    graceful: GracefulShutdown,
    close: watch::Sender<()>,
}

impl DatasyncServer {
    /// Listens on `address`, port 0 for any free one. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn start(address: SocketAddr, router: Router) -> io::Result<DatasyncServer> {
        DatasyncServer::start_with(address, router, LIMITS).await
    }

    async fn start_with(address: SocketAddr, router: Router, limits: Limits) -> io::Result<DatasyncServer> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (end, ended) = oneshot::channel::<()>();
        let stopping = watch::Sender::new(());
        let stops = Extension(Stopping(stopping.subscribe()));
        let router = router.layer(RequestBodyTimeoutLayer::new(limits.body)).layer(stops);
        let task = tokio::spawn(accept(listener, router, limits, ended));
        Ok(DatasyncServer { address, end: Some(end), stopping: Some(stopping), task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens no more, ends the streams of changes, answers the requests under way for as long as `patience`, and closes
    /// every connection.
    pub async fn stop(mut self, patience: Duration) {
        self.end.take();
        self.stopping.take();
        let Ok(connections) = self.task.await else { return };
        // What is not answered in time is closed with `connections.close`.
        let _ = tokio::time::timeout(patience, connections.graceful.shutdown()).await;
        drop(connections.close);
    }
}

async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    mut ended: oneshot::Receiver<()>,
) -> Connections {
    let connections = Connections { graceful: GracefulShutdown::new(), close: watch::Sender::new(()) };
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            _ = &mut ended => return connections,
            next = next => next,
        };
        match (place, accepted) {
            (Ok(place), Ok((stream, _))) => serve(stream, &router, limits, &connections, place),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn serve(stream: TcpStream, router: &Router, limits: Limits, connections: &Connections, place: OwnedSemaphorePermit) {
    // Answers are written at once; without it they wait for a network that acknowledges late.
    let _ = stream.set_nodelay(true);
    let (lines, ends) = Lines::new(stream);
    let router = TowerToHyperService::new(router.clone());
    let service = service_fn(move |request: Request<Incoming>| router.call(request.map(|body| told(body, &ends))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.silence)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(lines), service);
    let watched = connections.graceful.watch(connection);
    let mut close = connections.close.subscribe();
    tokio::spawn(async move {
        tokio::select! {
            // A connection that breaks is the client's affair.
            _ = watched => {}
            _ = close.changed() => {}
        }
        drop(place);
    });
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(limits: Limits) -> DatasyncServer {
        let router = Router::new().route("/", post(async |body: String| body));
        DatasyncServer::start_with("127.0.0.1:0".parse().unwrap(), router, limits).await.unwrap()
    }

    /// Says something and then nothing; what comes back until the connection is closed.
    async fn say(server: &DatasyncServer, words: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is reset is closed too.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    const WHOLE: &str = "POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

    #[tokio::test]
    async fn who_falls_silent_is_not_waited_for() {
        let soon = Duration::from_millis(100);
        let server = start(Limits { body: soon, silence: soon, ..LIMITS }).await;
        assert_eq!(say(&server, "").await, "");
        let half = say(&server, &WHOLE[..20]).await;
        assert!(half.is_empty() || half.starts_with("HTTP/1.1 408"), "{half}");
        let half = say(&server, &WHOLE[..WHOLE.len() - 1]).await;
        assert!(half.starts_with("HTTP/1.1 4"), "{half}");
        assert!(say(&server, WHOLE).await.ends_with("\r\n\r\nok"));
    }

    /// The status of each answer.
    fn statuses(answers: &str) -> Vec<&str> {
        answers.match_indices("HTTP/1.1 ").map(|(at, found)| &answers[at + found.len()..at + found.len() + 3]).collect()
    }

    #[tokio::test]
    async fn a_first_line_that_is_too_long_is_read_to_its_end_and_answered_wherever_it_stands() {
        let server = start(LIMITS).await;
        let one = WHOLE.replace("connection: close\r\n", "");
        // A line in a body is none of a head, however long it is.
        let body = "x".repeat(300_000);
        let post = format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let chunked = "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        for length in [60_000, 65_530, 65_540, 66_100, 131_072, 1_000_000, 3_000_000] {
            let line = format!("POST /?{} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n", "a".repeat(length));
            let last = if length > 65_531 { "414" } else { "200" };
            for before in [vec![], vec![&*one], vec![&*post], vec![chunked], vec![&*one, &*post, chunked, &*post]] {
                let mut stream = TcpStream::connect(server.address()).await.unwrap();
                let mut answers = String::new();
                for (number, request) in before.iter().enumerate() {
                    stream.write_all(request.as_bytes()).await.unwrap();
                    // The next request is sent when the service has read this one.
                    while statuses(&answers).len() <= number {
                        let mut bytes = vec![0; 1 << 20];
                        let read = stream.read(&mut bytes).await.unwrap();
                        assert!(read > 0, "{answers}");
                        answers.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
                    }
                }
                stream.write_all(line.as_bytes()).await.unwrap();
                stream.read_to_string(&mut answers).await.unwrap();
                let wanted: Vec<&str> = before.iter().map(|_| "200").chain([last]).collect();
                assert_eq!(statuses(&answers), wanted, "{length} bytes behind {} requests", before.len());
            }
        }
        assert!(say(&server, WHOLE).await.ends_with("\r\n\r\nok"), "it goes on");
    }

    #[tokio::test]
    async fn a_first_line_without_an_end_is_not_read_for_ever() {
        let server = start(LIMITS).await;
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let some = vec![b'a'; 1 << 20];
        let mut sent = 0;
        while sent < 1_000 && stream.write_all(&some).await.is_ok() {
            sent += 1;
        }
        assert!(sent < 100, "{sent} MiB were taken");
        assert!(say(&server, WHOLE).await.ends_with("\r\n\r\nok"), "it goes on");
    }

    #[tokio::test]
    async fn who_finds_every_place_taken_is_served_when_one_is_free() {
        let server = start(Limits { silence: Duration::from_millis(300), connections: 2, ..LIMITS }).await;
        let taken = [0, 1].map(|_| TcpStream::connect(server.address()));
        let taken = futures::future::join_all(taken).await;
        assert!(say(&server, WHOLE).await.ends_with("\r\n\r\nok"));
        drop(taken);
    }
}
