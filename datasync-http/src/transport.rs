//! The transport: the codec, a client, deadlines and retries.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use datasync_core::{
    clock::Clock,
    store::DeltaToken,
    transport::{
        Page, PageRequest, Purpose, PushOperation, PushOutcome, ServiceRow, Transport, TransportError,
        TransportErrorKind,
    },
};
use futures::future::{Either, select};

use crate::{
    codec::{
        paging::Position,
        request::{self, Endpoints},
        response,
    },
    config::{HttpConfigError, HttpTransportBuilder},
    exchange::{Exchange, HttpRequest, HttpResponse, Method},
    retry,
};

/// Gives a bearer token, or none.
pub(crate) type Token = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A service over HTTP. Clones share the connections.
#[derive(Clone)]
pub struct HttpTransport {
    pub(crate) endpoints: Endpoints,
    pub(crate) timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) max_body: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) bearer: Option<Token>,
    pub(crate) exchange: Arc<dyn Exchange>,
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").field("base", &self.endpoints.base().as_str()).finish_non_exhaustive()
    }
}

impl HttpTransport {
    /// The service at this address, with defaults; tables are at `{base}/tables/{name}`.
    ///
    /// # Errors
    ///
    /// [`HttpConfigError`] if the address is not an `http` or `https` URL.
    pub fn new(base: &str) -> Result<HttpTransport, HttpConfigError> {
        HttpTransport::builder(base).build()
    }

    /// The service at this address, with options.
    pub fn builder(base: &str) -> HttpTransportBuilder {
        HttpTransportBuilder::new(base)
    }

    /// One attempt: the deadline covers the connection, the request and the whole answer.
    async fn attempt(&self, mut request: HttpRequest) -> Result<HttpResponse, TransportError> {
        if let Some(token) = self.bearer.as_ref().and_then(|bearer| bearer()) {
            request.headers.push(("authorization", format!("Bearer {token}")));
        }
        let exchange = self.exchange.send(request, self.max_body);
        match select(exchange, self.clock.sleep(self.timeout)).await {
            Either::Left((response, _)) => response.map_err(response::broken),
            Either::Right(_) => {
                let message = format!("no answer within {} ms", self.timeout.as_millis());
                Err(TransportError::new(TransportErrorKind::Timeout, message))
            }
        }
    }

    /// Sends, and sends again what may be sent again.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let changes = request.method != Method::Get;
        let mut attempt = 0;
        loop {
            let error = match self.attempt(request.clone()).await {
                Ok(response) if changes || !matches!(response.status, 408 | 425 | 429 | 500..=599) => {
                    return Ok(response);
                }
                Ok(response) => response::failure(&response),
                Err(error) => error,
            };
            let wait = retry::wait(attempt, error.retry_after(), self.clock.random());
            match wait {
                Some(wait) if attempt < self.retries && retry::may_repeat(&error, changes) => {
                    self.clock.sleep(wait).await;
                }
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    async fn pull_page(&self, page: &PageRequest) -> Result<Page, TransportError> {
        let position = Position::read(page.token.as_ref())?;
        let query = position.query(&page.query, page.page_size, page.first);
        let response = self.send(request::query(&self.endpoints, &page.table, &query, true)).await?;
        let raw = response::page(&response)?;
        let (behind, more) = position.behind(&raw, page.page_size)?;
        Ok(Page { rows: raw.rows, token: Some(behind.token()?), more, total: raw.count })
    }

    async fn query_page(&self, page: &PageRequest) -> Result<Page, TransportError> {
        let request = match &page.token {
            Some(link) => request::get(self.endpoints.next(&page.table, &link.0)?),
            None => request::query(&self.endpoints, &page.table, &page.query, page.include_deleted),
        };
        let raw = response::page(&self.send(request).await?)?;
        let token: Option<DeltaToken> = raw.next_link.map(|link| DeltaToken(link.into()));
        Ok(Page { rows: raw.rows, more: token.is_some(), token, total: raw.count })
    }

    async fn change(&self, operation: &PushOperation) -> PushOutcome {
        let request = match request::change(&self.endpoints, operation) {
            Ok(request) => request,
            Err(error) => return PushOutcome::Failed(error),
        };
        match self.send(request).await {
            Ok(response) => response::outcome(&response, &operation.id),
            Err(error) => PushOutcome::Failed(error),
        }
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn fetch_page(&self, request: &PageRequest) -> Result<Page, TransportError> {
        match request.purpose {
            Purpose::Pull => self.pull_page(request).await,
            Purpose::Query => self.query_page(request).await,
        }
    }

    async fn fetch(&self, table: &str, id: &str, include_deleted: bool) -> Result<Option<ServiceRow>, TransportError> {
        let response = self.send(request::read(&self.endpoints, table, id, include_deleted)).await?;
        response::read(&response, id)
    }

    async fn push(&self, operations: &[PushOperation]) -> Vec<PushOutcome> {
        let mut outcomes = Vec::with_capacity(operations.len());
        for operation in operations {
            outcomes.push(self.change(operation).await);
        }
        outcomes
    }
}
