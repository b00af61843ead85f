//! Building a transport.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use datasync_core::clock::{Clock, SystemClock};
use url::Url;

use crate::{
    codec::request::Endpoints,
    exchange::Exchange,
    reqwest_client::ReqwestClient,
    surf_client::SurfExchange,
    transport::{HttpTransport, Token},
};

/// Why a transport cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfigError(String);

impl fmt::Display for HttpConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HttpConfigError {}

/// Builds an [`HttpTransport`].
#[must_use]
pub struct HttpTransportBuilder {
    base: String,
    paths: BTreeMap<String, String>,
    timeout: Duration,
    retries: u32,
    max_body: usize,
    clock: Arc<dyn Clock>,
    bearer: Option<Token>,
    handle: Option<tokio::runtime::Handle>,
    exchange: Option<Arc<dyn Exchange>>,
}

impl fmt::Debug for HttpTransportBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransportBuilder").field("base", &self.base).finish_non_exhaustive()
    }
}

impl HttpTransportBuilder {
    pub(crate) fn new(base: &str) -> HttpTransportBuilder {
        HttpTransportBuilder {
            base: base.to_owned(),
            paths: BTreeMap::new(),
            timeout: Duration::from_secs(30),
            retries: 3,
            max_body: 64 * 1024 * 1024,
            clock: Arc::new(SystemClock),
            bearer: None,
            handle: None,
            exchange: None,
        }
    }

    /// How long one exchange may take, from the first byte sent to the last byte received; 30 s by default, more than 0.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many times a read is sent again after a failure that may pass, or a change after a connection that could
    /// not be made; 3 by default, at most 20.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// The longest body of an answer, in bytes; 64 MiB by default.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// The path of a table, below the base or from the root if it begins with `/`; `tables/{name}` by default.
    pub fn table_path(mut self, table: impl Into<String>, path: impl Into<String>) -> Self {
        self.paths.insert(table.into(), path.into());
        self
    }

    /// Asked for a bearer token before each request; with `None` the request carries none.
    pub fn bearer(mut self, token: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        self.bearer = Some(Arc::new(token));
        self
    }

    /// The source of time, waiting and randomness; the system's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The tokio runtime that requests run on where none is current; without it a worker thread is started.
    pub fn tokio_handle(mut self, handle: tokio::runtime::Handle) -> Self {
        self.handle = Some(handle);
        self
    }

    /// Sends with this client in place of ours. It must not follow redirects to other origins.
    ///
    /// Surf's own `h1-client` must not be used: after a request that was given up it hands its answer to another one.
    pub fn surf_client(mut self, client: surf::Client) -> Self {
        self.exchange = Some(Arc::new(SurfExchange::new(client)));
        self
    }

    /// Sends with something of your own.
    pub fn exchange(mut self, exchange: impl Exchange) -> Self {
        self.exchange = Some(Arc::new(exchange));
        self
    }

    /// Checks everything; connects to nothing.
    ///
    /// # Errors
    ///
    /// A base that is not an `http` or `https` URL, carries a password, or a value out of its range.
    pub fn build(self) -> Result<HttpTransport, HttpConfigError> {
        let wrong = |what: String| Err(HttpConfigError(what));
        let base = match Url::parse(&self.base) {
            Ok(base) => base,
            Err(error) => return wrong(format!("the address of the service is not a URL: {error}")),
        };
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return wrong(format!(
                "the address of the service must begin with http:// or https://, not {}:",
                base.scheme()
            ));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return wrong("the address of the service must not carry a user or password: use `bearer`".to_owned());
        }
        if self.timeout.is_zero() {
            return wrong("the timeout must be more than 0".to_owned());
        }
        if self.retries > 20 {
            return wrong(format!("{} retries are too many: at most 20", self.retries));
        }
        let exchange = match self.exchange {
            Some(exchange) => exchange,
            None => {
                let client = ReqwestClient::new(self.handle, self.max_body);
                let client = client.map_err(|error| HttpConfigError(format!("the HTTP client: {error}")))?;
                Arc::new(SurfExchange::new(surf::Client::with_http_client(client)))
            }
        };
        Ok(HttpTransport {
            endpoints: Endpoints::new(base, self.paths),
            timeout: self.timeout,
            retries: self.retries,
            max_body: self.max_body,
            clock: self.clock,
            bearer: self.bearer,
            exchange,
        })
    }
}
