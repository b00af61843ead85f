//! The seam between the codec and a client: one request, and one response, whole or piece by piece.

use std::{borrow::Cow, error::Error as StdError, fmt};

use async_trait::async_trait;
use futures::stream::BoxStream;

/// The methods that the protocol uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are HTTP's own")]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// The method as it stands in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// A request. Its `Debug` output shows neither headers nor body.
#[derive(Clone)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: url::Url,
    /// The headers; names in lower case.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} bytes)", self.method.as_str(), self.url.path(), self.body.len())
    }
}

/// A response with its whole body. Its `Debug` output shows neither headers nor body.
#[derive(Clone)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// The headers; names in any case.
    pub headers: Vec<(String, String)>,
    /// The body, decompressed.
    pub body: Vec<u8>,
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.status, self.body.len())
    }
}

/// A response whose body is still to come. Its `Debug` output shows neither headers nor body.
pub struct HttpStream {
    /// The head of the response; its body is empty.
    pub head: HttpResponse,
    /// The body, decompressed, in pieces of any size. Dropping it gives the response up.
    pub body: BoxStream<'static, Result<Vec<u8>, ExchangeError>>,
}

impl fmt::Debug for HttpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (a stream)", self.head.status)
    }
}

impl HttpResponse {
    /// The value of a header, whose name is compared without regard to case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Sends one request and reads its response.
///
/// Redirects are not followed. If the future is dropped the request is given up, and no later request gets its answer.
#[async_trait]
pub trait Exchange: fmt::Debug + Send + Sync + 'static {
    /// Sends the request and reads the whole response; a body longer than `max_body` bytes is an error.
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError>;

    /// Sends the request and reads the head of the response. Its body comes as the service sends it, perhaps for hours.
    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError>;
}

/// What went wrong between a request and its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeErrorKind {
    /// No connection was made: certainly nothing was sent.
    Connect,
    /// One side does not trust the other's certificate: certainly nothing was done.
    Untrusted,
    /// The connection broke, or what came was not HTTP.
    Interrupted,
    /// The body is longer than allowed.
    TooLarge,
}

/// A request without a response.
#[derive(Debug)]
pub struct ExchangeError {
    kind: ExchangeErrorKind,
    message: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl ExchangeError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: ExchangeErrorKind) -> ExchangeError {
        ExchangeError { kind, message: None, source: None }
    }

    /// Says more than the kind does; nothing that is secret.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> ExchangeError {
        self.message = Some(message.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> ExchangeError {
        self.source = Some(source.into());
        self
    }

    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ExchangeErrorKind {
        self.kind
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(message) = &self.message {
            return f.write_str(message);
        }
        f.write_str(match self.kind {
            ExchangeErrorKind::Connect => {
                "no connection could be made: check the network, and the address of the service"
            }
            ExchangeErrorKind::Untrusted => "the certificate is not trusted",
            ExchangeErrorKind::Interrupted => "the connection broke before the answer was complete: try again",
            ExchangeErrorKind::TooLarge => {
                "the answer is longer than allowed: check the address of the service, or allow more with `max_body`"
            }
        })
    }
}

impl StdError for ExchangeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
