//! Building a transport.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use datasync_core::{
    clock::{Clock, SystemClock},
    query::Dialect,
};
use url::Url;

use crate::{
    auth::{TokenProvider, Tokens},
    codec::request::Endpoints,
    exchange::{Exchange, HttpRequest},
    reqwest_client::ReqwestClient,
    surf_client::SurfExchange,
    transport::{Hook, HttpTransport, Known},
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

/// Whether a name and a value may stand in a request as they are.
fn is_header(name: &str, value: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty()
        && name.bytes().all(token)
        && value.bytes().all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte))
}

/// Builds an [`HttpTransport`].
#[must_use]
pub struct HttpTransportBuilder {
    base: String,
    paths: BTreeMap<String, String>,
    dialect: Dialect,
    timeout: Duration,
    retries: u32,
    max_body: usize,
    clock: Arc<dyn Clock>,
    headers: Vec<(String, String)>,
    before_send: Option<Hook>,
    provider: Option<Box<dyn TokenProvider>>,
    token_header: (String, String),
    handle: Option<tokio::runtime::Handle>,
    exchange: Option<Arc<dyn Exchange>>,
    proxy: Option<String>,
    #[cfg(feature = "tls")]
    tls: crate::tls::Tls,
}

impl fmt::Debug for HttpTransportBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address may carry what it must not; then it is refused.
        let base = Url::parse(&self.base).map(|base| base.origin().ascii_serialization());
        f.debug_struct("HttpTransportBuilder").field("base", &base.unwrap_or_default()).finish_non_exhaustive()
    }
}

impl HttpTransportBuilder {
    pub(crate) fn new(base: &str) -> HttpTransportBuilder {
        HttpTransportBuilder {
            base: base.to_owned(),
            paths: BTreeMap::new(),
            dialect: Dialect::Toolkit,
            timeout: Duration::from_secs(30),
            retries: 3,
            max_body: 64 * 1024 * 1024,
            clock: Arc::new(SystemClock),
            headers: Vec::new(),
            before_send: None,
            provider: None,
            token_header: ("authorization".to_owned(), "Bearer".to_owned()),
            handle: None,
            exchange: None,
            proxy: None,
            #[cfg(feature = "tls")]
            tls: crate::tls::Tls::default(),
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

    /// The longest body of an answer, in bytes, at least 1; 64 MiB by default. A page of a pull that is longer is asked for again, with
    /// fewer rows.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// The path of a table: below the base, from the root if it begins with `/`, or a whole URL of the same origin;
    /// `tables/{name}` by default.
    pub fn table_path(mut self, table: impl Into<String>, path: impl Into<String>) -> Self {
        self.paths.insert(table.into(), path.into());
        self
    }

    /// Whose service it is; the Toolkit's by default, which ours speaks too. For one of Azure Mobile Apps rows are undeleted
    /// by PATCH, replaced by one with the fields that differ where it is known from what, and queries are spelled its way.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Gets the token that each request carries; a request that is answered with 401 is sent once more with another.
    /// See [`TokenProvider`].
    pub fn token_provider(mut self, provider: impl TokenProvider) -> Self {
        self.provider = Some(Box::new(provider));
        self
    }

    /// The header of the token and the word before it, `authorization` and `Bearer` by default; no word if it is empty,
    /// as Azure's `x-zumo-auth` has it.
    pub fn token_header(mut self, name: impl Into<String>, scheme: impl Into<String>) -> Self {
        self.token_header = (name.into(), scheme.into());
        self
    }

    /// A header that every request carries.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Looks at each request before it is sent, and may change it; called once, also if the request is sent again. The
    /// token is not in it yet. A request that is turned to another origin is refused.
    ///
    /// To see the answers too, put an [`Exchange`] around that of [`HttpTransport::exchange`], and give it to
    /// [`exchange`](HttpTransportBuilder::exchange).
    pub fn before_send(mut self, hook: impl Fn(&mut HttpRequest) + Send + Sync + 'static) -> Self {
        self.before_send = Some(Arc::new(hook));
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

    /// A proxy for every request, `http://host:port`. Without it the environment's `HTTP_PROXY` and its kin hold.
    ///
    /// Not looked at where an [`exchange`](HttpTransportBuilder::exchange) or a surf client is given.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Trusts the certificate authorities in this PEM text too, beside those of the system.
    ///
    /// Not looked at where an [`exchange`](HttpTransportBuilder::exchange) or a surf client is given.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.tls.roots.push(pem.as_ref().to_vec());
        self
    }

    /// Shows this certificate to a service that asks for one: the chain and the key, each as PEM text.
    ///
    /// Not looked at where an [`exchange`](HttpTransportBuilder::exchange) or a surf client is given.
    #[cfg(feature = "tls")]
    pub fn client_certificate(mut self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.tls.identity = Some((chain.as_ref().to_vec(), key.as_ref().to_vec()));
        self
    }

    /// Sends with this client in place of ours. It must not follow redirects to other origins.
    ///
    /// Surf's own `h1-client` must not be used: after a request that was given up it hands its answer to another one.
    pub fn surf_client(mut self, client: surf::Client) -> Self {
        self.exchange = Some(Arc::new(SurfExchange::new(client)));
        self
    }

    /// Sends with something of your own, perhaps around the [`exchange`](HttpTransport::exchange) of another transport.
    pub fn exchange(mut self, exchange: impl Exchange) -> Self {
        self.exchange = Some(Arc::new(exchange));
        self
    }

    /// The options of reqwest's client.
    fn client(&self, secure: bool) -> Result<reqwest::ClientBuilder, HttpConfigError> {
        let mut client = reqwest::Client::builder();
        if let Some(proxy) = &self.proxy {
            let proxy = reqwest::Proxy::all(proxy);
            client = client.proxy(proxy.map_err(|_| HttpConfigError("the proxy is not a URL".to_owned()))?);
        }
        #[cfg(feature = "tls")]
        {
            let secure = secure || self.proxy.as_ref().is_some_and(|proxy| proxy.starts_with("https:"));
            let tls = if secure { self.tls.config() } else { crate::tls::Tls::unused() };
            client = client.tls_backend_preconfigured(tls.map_err(HttpConfigError)?);
        }
        #[cfg(not(feature = "tls"))]
        if secure {
            let message = "https needs the feature `tls`, or a surf client that has it".to_owned();
            return Err(HttpConfigError(message));
        }
        Ok(client)
    }

    /// Checks everything; connects to nothing.
    ///
    /// # Errors
    ///
    /// A base that is not an `http` or `https` URL, carries a password, certificates or a proxy that cannot be read, or
    /// a value out of its range.
    pub fn build(mut self) -> Result<HttpTransport, HttpConfigError> {
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
            return wrong(
                "the address of the service must not carry a user or password: use `token_provider`".to_owned(),
            );
        }
        if self.timeout.is_zero() {
            return wrong("the timeout must be more than 0".to_owned());
        }
        if self.max_body == 0 {
            return wrong("the longest body of an answer must be more than 0 bytes".to_owned());
        }
        if self.retries > 20 {
            return wrong(format!("{} retries are too many: at most 20", self.retries));
        }
        for (name, value) in self.headers.iter().chain([&self.token_header]) {
            if !is_header(name, value) {
                return wrong(format!("`{name}` cannot be the name of a header, or its value cannot stand in one"));
            }
        }
        for (table, path) in &mut self.paths {
            if path.starts_with("http://") || path.starts_with("https://") {
                match Url::parse(path) {
                    Ok(url) if url.origin() == base.origin() => *path = url.path().to_owned(),
                    _ => return wrong(format!("the path of `{table}` is a URL of another origin than the service")),
                }
            }
        }
        let (header, scheme) = self.token_header.clone();
        let tokens = self
            .provider
            .take()
            .map(|provider| Arc::new(Tokens::new(provider, Arc::clone(&self.clock), header, scheme)));
        let exchange = match self.exchange.take() {
            Some(exchange) => exchange,
            None => {
                let client = self.client(base.scheme() == "https")?;
                let client = ReqwestClient::new(client, self.handle, self.max_body);
                let client = client.map_err(|error| HttpConfigError(format!("the HTTP client: {error}")))?;
                Arc::new(SurfExchange::new(surf::Client::with_http_client(client)))
            }
        };
        Ok(HttpTransport {
            endpoints: Endpoints::new(base, self.paths, self.dialect),
            timeout: self.timeout,
            retries: self.retries,
            max_body: self.max_body,
            clock: self.clock,
            headers: self.headers,
            before_send: self.before_send,
            tokens,
            exchange,
            known: Arc::new(Known::default()),
        })
    }
}
