//! The `HttpClient` beneath surf: reqwest, on a tokio runtime wherever there is one.
//!
//! The request is built, sent and read to its end inside one task, which is aborted when the caller goes away. So a
//! connection with an answer on its way never goes back to the pool. A stream of events is handed on as it comes, by the
//! same task, which waits while nobody reads.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{
    SinkExt, Stream, StreamExt, TryStreamExt,
    channel::{mpsc, oneshot},
};
use surf::http::{Body, Request, Response, StatusCode};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::exchange::{ExchangeError, ExchangeErrorKind};

#[derive(Clone)]
pub(crate) struct ReqwestClient {
    client: reqwest::Client,
    handle: Option<Handle>,
    worker: Arc<Mutex<Option<Worker>>>,
    max_body: usize,
}

impl fmt::Debug for ReqwestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReqwestClient")
    }
}

/// A thread with a runtime, which ends when this is dropped.
struct Worker {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl Worker {
    fn start() -> io::Result<Worker> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("datasync-http".to_owned()).spawn(move || {
            // Ends with the sender, which is never used to send.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Worker { handle, _end: end })
    }
}

/// Aborts its task when it is dropped.
struct Aborting<T>(JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ReqwestClient {
    /// A client that follows no redirects; the options are the builder's.
    pub(crate) fn new(
        client: reqwest::ClientBuilder,
        handle: Option<Handle>,
        max_body: usize,
    ) -> reqwest::Result<ReqwestClient> {
        let client = client.redirect(reqwest::redirect::Policy::none()).tcp_nodelay(true).build()?;
        Ok(ReqwestClient { client, handle, worker: Arc::default(), max_body })
    }

    /// The runtime that is current, or the one that was given, or a thread of our own.
    fn runtime(&self) -> io::Result<Handle> {
        if let Ok(current) = Handle::try_current() {
            return Ok(current);
        }
        if let Some(given) = &self.handle {
            return Ok(given.clone());
        }
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            *worker = Some(Worker::start()?);
        }
        match &*worker {
            Some(worker) => Ok(worker.handle.clone()),
            None => Err(io::Error::other("the worker thread did not start")),
        }
    }
}

/// A response as it is carried out of its task.
struct Received {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    /// The whole body; empty for a stream of events.
    body: Vec<u8>,
    events: bool,
}

type Pieces = mpsc::Receiver<io::Result<Vec<u8>>>;

/// The pieces of a stream, and the task that they come from.
struct Events {
    pieces: Pieces,
    _task: Aborting<()>,
}

impl Stream for Events {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.poll_next_unpin(context)
    }
}

/// Sends the request, hands on what was received, and goes on with the pieces of a stream of events.
async fn exchange(
    request: reqwest::RequestBuilder,
    max_body: usize,
    received: oneshot::Sender<Result<Received, ExchangeError>>,
    mut pieces: mpsc::Sender<io::Result<Vec<u8>>>,
) {
    let (response, head) = match receive(request, max_body).await {
        Ok((response, head)) => (response, Ok(head)),
        Err(error) => (None, Err(error)),
    };
    // Whoever has gone away needs neither.
    if received.send(head).is_err() {
        return;
    }
    let Some(mut response) = response else { return };
    loop {
        let piece = match response.chunk().await {
            Ok(Some(piece)) => Ok(piece.to_vec()),
            Ok(None) => return,
            Err(error) => Err(io::Error::other(error.without_url())),
        };
        let broken = piece.is_err();
        if pieces.send(piece).await.is_err() || broken {
            return;
        }
    }
}

/// What was received, and the response if it is a stream of events.
async fn receive(
    request: reqwest::RequestBuilder,
    max_body: usize,
) -> Result<(Option<reqwest::Response>, Received), ExchangeError> {
    let interrupted = |error: reqwest::Error| {
        // The URL of a request may hold what the user wrote.
        let error = error.without_url();
        #[cfg(feature = "tls")]
        if let Some(message) = crate::tls::distrust(&error) {
            return ExchangeError::new(ExchangeErrorKind::Untrusted).with_message(message).with_source(error);
        }
        let kind = if error.is_connect() { ExchangeErrorKind::Connect } else { ExchangeErrorKind::Interrupted };
        ExchangeError::new(kind).with_source(error)
    };
    let mut response = request.send().await.map_err(interrupted)?;
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.to_ascii_lowercase().starts_with("text/event-stream") {
        return Ok((Some(response), Received { status, headers, body: Vec::new(), events: true }));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(interrupted)? {
        if body.len() + chunk.len() > max_body {
            return Err(ExchangeError::new(ExchangeErrorKind::TooLarge));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((None, Received { status, headers, body, events: false }))
}

#[surf::utils::async_trait]
impl surf::HttpClient for ReqwestClient {
    async fn send(&self, mut request: Request) -> Result<Response, surf::http::Error> {
        let broken = |error| surf::http::Error::new(StatusCode::BadGateway, error);
        let lost = || ExchangeError::new(ExchangeErrorKind::Interrupted);
        let method = reqwest::Method::from_bytes(request.method().to_string().as_bytes());
        let method = method.map_err(|error| broken(lost().with_source(error)))?;
        let body = request.take_body().into_bytes().await?;
        let mut builder = self.client.request(method, request.url().clone());
        for (name, values) in request.iter() {
            builder = builder.header(name.as_str(), values.last().as_str());
        }
        if !body.is_empty() {
            builder = builder.body(body);
        }
        let unreachable = |error| broken(ExchangeError::new(ExchangeErrorKind::Connect).with_source(error));
        let runtime = self.runtime().map_err(unreachable)?;
        let (sender, receiver) = oneshot::channel();
        let (pieces_in, pieces) = mpsc::channel(0);
        let task = Aborting(runtime.spawn(exchange(builder, self.max_body, sender, pieces_in)));
        let received = match receiver.await {
            Ok(received) => received.map_err(broken)?,
            Err(error) => return Err(broken(lost().with_source(error))),
        };
        let status =
            StatusCode::try_from(received.status).map_err(|error| broken(lost().with_source(error.into_inner())))?;
        let mut response = Response::new(status);
        for (name, value) in received.headers {
            // The body is decompressed and has its own length; a value that is not text says nothing to the protocol.
            if let (false, Ok(value)) = (
                matches!(name.as_str(), "content-length" | "content-encoding" | "transfer-encoding"),
                String::from_utf8(value),
            ) {
                response.append_header(name.as_str(), value);
            }
        }
        response.set_body(match received.events {
            true => Body::from_reader(Events { pieces, _task: task }.into_async_read(), None),
            false => Body::from_bytes(received.body),
        });
        Ok(response)
    }
}
