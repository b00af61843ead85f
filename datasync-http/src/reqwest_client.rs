//! The `HttpClient` beneath surf: reqwest, on a tokio runtime wherever there is one.
//!
//! The request is built, sent and read to its end inside one task, which is aborted when the caller goes away. So a
//! connection with an answer on its way never goes back to the pool.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use futures::channel::oneshot;
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
    body: Vec<u8>,
}

async fn exchange(request: reqwest::RequestBuilder, max_body: usize) -> Result<Received, ExchangeError> {
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
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(interrupted)? {
        if body.len() + chunk.len() > max_body {
            return Err(ExchangeError::new(ExchangeErrorKind::TooLarge));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Received { status: response.status().as_u16(), headers, body })
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
        let mut task = Aborting(runtime.spawn(exchange(builder, self.max_body)));
        let received = match (&mut task.0).await {
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
        response.set_body(Body::from_bytes(received.body));
        Ok(response)
    }
}
