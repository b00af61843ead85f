//! The transport: the codec, a client, deadlines and retries.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use datasync_core::{
    clock::Clock,
    query::Dialect,
    store::DeltaToken,
    transport::{
        Capabilities, ChangeNotice, Page, PageRequest, Purpose, PushOperation, PushOutcome, Restart, RowRequest,
        ServiceRow, Transport, TransportError, TransportErrorKind,
    },
};
use futures::{
    FutureExt,
    future::{Either, select},
    stream::BoxStream,
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    auth::{Tokens, other_account},
    codec::{
        batch,
        capabilities::{self, Extensions},
        position::Position,
        request::{self, Endpoints},
        response::{self, RawPage},
        sent::Sent,
    },
    compression,
    config::{HttpConfigError, HttpTransportBuilder},
    exchange::{Exchange, ExchangeError, HttpRequest, HttpResponse, HttpStream, Method},
    joint::Joint,
    listening,
    page_size::PageSize,
    retry,
};

/// Looks at each request before it is sent.
pub(crate) type Hook = Arc<dyn Fn(&mut HttpRequest) + Send + Sync>;

/// A service over HTTP. Clones share the connections, the token and what is known of the service.
#[derive(Clone)]
pub struct HttpTransport {
    pub(crate) endpoints: Endpoints,
    pub(crate) timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) max_body: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) before_send: Option<Hook>,
    pub(crate) tokens: Option<Arc<Tokens>>,
    pub(crate) exchange: Arc<dyn Exchange>,
    pub(crate) known: Arc<Known>,
}

/// Whose request it is; `None` if it is nobody's.
pub(crate) type Account<'a> = Option<&'a str>;

/// What was learnt of the service.
#[derive(Default)]
pub(crate) struct Known {
    extensions: Mutex<Option<Extensions>>,
    asking: Joint<Result<Extensions, TransportError>>,
    /// How many operations a batch holds: halved when one is refused or lost, doubled when one went well; 0 at first.
    batch: AtomicUsize,
    page_size: PageSize,
    /// How far the service's clock is ahead of this device's.
    offset: Mutex<Option<SignedDuration>>,
}

/// A request that took longer says too little of when its answer was made.
const LONGEST_TIMED: SignedDuration = SignedDuration::from_secs(10);

impl Known {
    fn extensions(&self) -> MutexGuard<'_, Option<Extensions>> {
        self.extensions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an answer says of the service's clock. `Date` is cut to seconds, and was written while the request was on its way,
    /// so that the middle of both is taken. Pages and redirects are not believed: they may come from a network that asks for
    /// a sign-in.
    fn tell_time(&self, response: &HttpResponse, sent: Timestamp, received: Timestamp) {
        // surf gives this one to an answer that has none.
        let no_kind = |kind: &str| kind.contains("octet-stream") && response.body.is_empty();
        let kind = response.header("content-type");
        let json = kind.map_or(response.body.is_empty(), |kind| kind.contains("json") || no_kind(kind));
        let took = received.duration_since(sent);
        let Some(date) = response.header("date").and_then(response::date) else { return };
        if !json || matches!(response.status, 300..=399 | 511) || took.is_negative() || took > LONGEST_TIMED {
            return;
        }
        let offset = date.duration_since(received) + SignedDuration::from_millis(500) + took / 2;
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner) = Some(offset);
    }
}

fn took(sent: Timestamp, received: Timestamp) -> i64 {
    received.as_millisecond().saturating_sub(sent.as_millisecond())
}

/// What an exchange brings.
pub(crate) trait Answer {
    fn head(&self) -> &HttpResponse;
}

impl Answer for HttpResponse {
    fn head(&self) -> &HttpResponse {
        self
    }
}

impl Answer for HttpStream {
    fn head(&self) -> &HttpResponse {
        &self.head
    }
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

    /// What this transport sends with: for an [`Exchange`] of your own that goes around it.
    #[must_use]
    pub fn exchange(&self) -> Arc<dyn Exchange> {
        Arc::clone(&self.exchange)
    }

    /// One attempt: the deadline covers the connection, the request and what the exchange reads of the answer.
    pub(crate) async fn in_time<T: Answer>(
        &self,
        exchange: impl Future<Output = Result<T, ExchangeError>> + Unpin,
    ) -> Result<T, TransportError> {
        let sent = self.clock.now();
        match select(exchange, self.clock.sleep(self.timeout)).await {
            Either::Left((answer, _)) => {
                let received = self.clock.now();
                let answer = answer.map_err(|error| {
                    let error = response::broken(error);
                    tell!("no answer", kind = format!("{:?}", error.kind()), milliseconds = took(sent, received));
                    error
                })?;
                tell!("answered", status = answer.head().status, milliseconds = took(sent, received));
                self.known.tell_time(answer.head(), sent, received);
                Ok(answer)
            }
            Either::Right(_) => {
                tell!("no answer in time", milliseconds = took(sent, self.clock.now()));
                let message = format!(
                    "no answer within {} ms: try again, or allow more with `timeout`",
                    self.timeout.as_millis()
                );
                Err(TransportError::new(TransportErrorKind::Timeout, message))
            }
        }
    }

    /// What the app adds to a request. It goes to the configured origin, whatever a hook has made of it (I25).
    pub(crate) fn prepare(&self, mut request: HttpRequest) -> Result<HttpRequest, TransportError> {
        for (name, value) in &self.headers {
            request.headers.push((name.clone().into(), value.clone()));
        }
        if let Some(hook) = &self.before_send {
            hook(&mut request);
        }
        if request.url.origin() != self.endpoints.base().origin() {
            let message = "the request was turned to another origin than the configured one, and is not sent";
            return Err(TransportError::new(TransportErrorKind::Rejected, message));
        }
        Ok(request)
    }

    /// An attempt with the token of the account, and once more with another one if the service refuses it; with the answer
    /// comes what no error must repeat.
    pub(crate) async fn authorized<T: Answer, F: Future<Output = Result<T, TransportError>>>(
        &self,
        request: &HttpRequest,
        account: Account<'_>,
        attempt: impl Fn(HttpRequest) -> F,
    ) -> Result<(T, Sent), TransportError> {
        let mut sent = Sent::of(request);
        let Some(tokens) = &self.tokens else {
            return match account {
                Some(account) if !account.is_empty() => Err(other_account()),
                _ => Ok((attempt(request.clone()).await?, sent)),
            };
        };
        let mut refused = None;
        loop {
            let authorization = tokens.authorize(account, refused).await?;
            let mut request = request.clone();
            if let Some((name, value)) = authorization.header {
                sent.add_credential(&value);
                request.headers.push((name.into(), value));
            }
            let answer = attempt(request).await?;
            if answer.head().status != 401 || refused.is_some() {
                return Ok((answer, sent));
            }
            refused = Some(authorization.number);
        }
    }

    /// Sends, and sends again what may be sent again.
    async fn send(&self, request: HttpRequest, account: Account<'_>) -> Result<(HttpResponse, Sent), TransportError> {
        let request = self.prepare(request)?;
        let changes = request.method != Method::Get;
        let mut attempt = 0;
        loop {
            let exchange = |request| self.in_time(self.exchange.send(request, self.max_body));
            let error = match self.authorized(&request, account, exchange).await {
                Ok((response, sent)) if changes || !matches!(response.status, 408 | 425 | 429 | 500..=599) => {
                    return Ok((response, sent));
                }
                Ok((response, sent)) => response::failure(&response, &sent),
                Err(error) => error,
            };
            let wait = retry::wait(attempt, error.retry_after(), self.clock.random());
            match wait {
                Some(wait) if attempt < self.retries && retry::may_repeat(&error, changes) => {
                    tell!("asked again after a wait", attempt = attempt, milliseconds = wait.as_millis() as u64);
                    self.clock.sleep(wait).await;
                }
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    /// What the service can do: asked once, and remembered if it was the service that answered.
    async fn extensions(&self) -> Result<Extensions, TransportError> {
        loop {
            if let Some(extensions) = *self.known.extensions() {
                return Ok(extensions);
            }
            let question = || self.known.extensions().is_none().then(|| self.clone().ask_extensions().boxed());
            if let Some(answer) = self.known.asking.ask(question).await {
                return answer;
            }
        }
    }

    async fn ask_extensions(self) -> Result<Extensions, TransportError> {
        let (response, sent) = self.send(request::get(self.endpoints.below(capabilities::PATH)), None).await?;
        let extensions = capabilities::read(&response, &sent)?;
        *self.known.extensions() = Some(extensions).filter(|extensions| extensions.certain);
        Ok(extensions)
    }

    /// A page of a pull, with as many rows as an answer that is taken holds.
    async fn pull_page_that_fits(&self, request: &PageRequest) -> Result<Page, TransportError> {
        loop {
            let page_size = self.known.page_size.of(request.page_size);
            let page = self.pull_page(&PageRequest { page_size, ..request.clone() }).await;
            if !self.known.page_size.learn(page_size, &page) {
                return page;
            }
        }
    }

    async fn pull_page(&self, page: &PageRequest) -> Result<Page, TransportError> {
        for _ in 0..2 {
            let place = match Position::read(page.token.as_ref(), &self.extensions().await?)? {
                Position::Delta(place) => place,
                Position::Keyset(keyset) => {
                    let query = keyset.query(&page.query, page.page_size, page.first);
                    let request = request::query(&self.endpoints, &page.table, &query, true);
                    let (response, sent) = self.send(request, Some(&page.account)).await?;
                    let raw = response::page(&response, &sent)?;
                    let (behind, more) = keyset.behind(&raw, page.page_size, page.overlap)?;
                    let token = Some(Position::Keyset(behind).token()?);
                    return Ok(page_of(raw, token, more));
                }
            };
            let query = place.query(&page.query, page.page_size, page.first);
            let request = request::delta(&self.endpoints, &page.table, &query, &place.token);
            let (response, sent) = self.send(request, Some(&page.account)).await?;
            let raw = response::page(&response, &sent)?;
            if let Some((behind, more)) = place.behind(&raw)? {
                let token = Some(Position::Delta(behind).token()?);
                let mut found = page_of(raw, token, more);
                // A token of a time without delta pages does not say what was gone by then.
                let begins = page.token.is_some() && place.begins();
                found.restart = found.restart.or(begins.then_some(Restart::Expired));
                return Ok(found);
            }
            // The service has changed: it is asked once more what it can do.
            *self.known.extensions() = None;
        }
        let message = "the service declares delta pages and does not answer them";
        Err(TransportError::new(TransportErrorKind::Protocol, message))
    }

    async fn query_page(&self, page: &PageRequest) -> Result<Page, TransportError> {
        let request = match &page.token {
            Some(link) => request::get(self.endpoints.next(&page.table, &link.0)?),
            None => request::query(&self.endpoints, &page.table, &page.query, page.include_deleted),
        };
        let (response, sent) = self.send(request, Some(&page.account)).await?;
        let raw = response::page(&response, &sent)?;
        let token = raw.next_link.as_ref().map(|link| DeltaToken(link.as_str().into()));
        let more = token.is_some();
        Ok(page_of(raw, token, more))
    }

    async fn change(&self, operation: &PushOperation) -> PushOutcome {
        let request = match request::change(&self.endpoints, operation) {
            Ok(request) => request,
            Err(error) => return PushOutcome::Failed(error),
        };
        match self.send(request, Some(&operation.account)).await {
            Ok((response, sent)) => {
                let sent = sent.with_operations(std::slice::from_ref(operation));
                response::outcome(&response, &operation.id, &sent)
            }
            Err(error) => PushOutcome::Failed(error),
        }
    }

    /// Sends operations in as few requests as the service takes: a batch that is refused as a whole is halved. Where no
    /// connection is made, or the sign-in is refused, the rest is not tried.
    async fn send_all(&self, operations: &[PushOperation], extensions: Extensions) -> Vec<PushOutcome> {
        let mut outcomes = Vec::with_capacity(operations.len());
        while outcomes.len() < operations.len() {
            let left = &operations[outcomes.len()..];
            let account = &left[0].account;
            let of_account = left.iter().take_while(|operation| operation.account == *account).count();
            let left = &left[..of_account];
            let most = extensions.batch.map_or(1, |limits| limits.operations);
            let size = match self.known.batch.load(Ordering::Relaxed) {
                0 => most,
                size => size.min(most),
            };
            let part = &left[..size.clamp(1, left.len())];
            let batch = (part.len() > 1).then(|| batch::request(&self.endpoints, part)).flatten();
            let (Some(mut request), Some(limits)) = (batch, extensions.batch) else {
                match self.change(&part[0]).await {
                    PushOutcome::Failed(error) if meets_all(&error) => outcomes.extend(common(error, left.len())),
                    outcome => outcomes.push(outcome),
                }
                // After a batch that was refused down to one operation, two are tried again.
                let _ = self.known.batch.compare_exchange(1, 2, Ordering::Relaxed, Ordering::Relaxed);
                continue;
            };
            if request.body.len() > limits.bytes {
                self.known.batch.store(part.len() / 2, Ordering::Relaxed);
                continue;
            }
            if extensions.gzip {
                request = compression::compress(request);
            }
            let sent = self.send(request, Some(account)).await;
            let answer = sent.map(|(response, sent)| batch::answer(&response, part, &sent.with_operations(part)));
            let (found, next) = match answer {
                Ok(batch::Answer::Each(found)) => (found, part.len().saturating_mul(2)),
                Ok(batch::Answer::Refused) => (Vec::new(), part.len() / 2),
                Ok(batch::Answer::All(error)) | Err(error) if meets_all(&error) => {
                    outcomes.extend(common(error, left.len()));
                    continue;
                }
                Ok(batch::Answer::All(error)) | Err(error) => (common(error, part.len()), part.len() / 2),
            };
            self.known.batch.store(next.max(1), Ordering::Relaxed);
            outcomes.extend(found);
        }
        outcomes
    }
}

fn page_of(raw: RawPage, token: Option<DeltaToken>, more: bool) -> Page {
    let (stubs, restart) = raw.delta.map_or_else(Default::default, |delta| (delta.stubs, delta.restart));
    Page { rows: raw.rows, stubs, restart, token, more, total: raw.count }
}

/// Whether everything else of the account would fail in the same way, whatever it is.
fn meets_all(error: &TransportError) -> bool {
    use TransportErrorKind::{Connect, OtherAccount, Unauthenticated};
    matches!(error.kind(), Connect | OtherAccount | Unauthenticated)
}

/// The same failure for each operation of a batch.
fn common(error: TransportError, operations: usize) -> Vec<PushOutcome> {
    let (kind, message, status, wait) = (error.kind(), error.to_string(), error.status(), error.retry_after());
    let another = || {
        let another = TransportError::new(kind, message.clone()).with_retry_after(wait);
        PushOutcome::Failed(match status {
            Some(status) => another.with_status(status),
            None => another,
        })
    };
    let mut outcomes: Vec<PushOutcome> = (1..operations).map(|_| another()).collect();
    outcomes.push(PushOutcome::Failed(error));
    outcomes
}

#[async_trait]
impl Transport for HttpTransport {
    async fn account(&self, wanted: &str) -> Result<Option<Arc<str>>, TransportError> {
        match &self.tokens {
            Some(tokens) => tokens.account(wanted).await,
            None => Ok(None),
        }
    }

    async fn capabilities(&self) -> Result<Capabilities, TransportError> {
        let extensions = self.extensions().await?;
        let batch = extensions.batch.map_or(1, |limits| limits.operations);
        let patch = self.endpoints.dialect() == Dialect::Azure;
        let capabilities = Capabilities::default().with_batch(batch).with_keys(extensions.keys);
        let capabilities = capabilities.with_patch(patch).with_notifications(extensions.changes);
        let days = |days| Duration::from_secs(u64::from(days) * 24 * 3_600);
        Ok(extensions.tombstone_days.map_or(capabilities, |told| capabilities.with_tombstones(days(told))))
    }

    fn changes(&self, account: Arc<str>) -> BoxStream<'static, Result<ChangeNotice, TransportError>> {
        listening::changes(self.clone(), account)
    }

    fn clock_offset(&self) -> Option<SignedDuration> {
        *self.known.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch_page(&self, request: &PageRequest) -> Result<Page, TransportError> {
        match request.purpose {
            Purpose::Pull => self.pull_page_that_fits(request).await,
            Purpose::Query => self.query_page(request).await,
        }
    }

    async fn fetch(&self, row: &RowRequest) -> Result<Option<ServiceRow>, TransportError> {
        let request = request::read(&self.endpoints, &row.table, &row.id, row.include_deleted);
        let (response, sent) = self.send(request, Some(&row.account)).await?;
        response::read(&response, &row.id, &sent)
    }

    async fn push(&self, operations: &[PushOperation]) -> Vec<PushOutcome> {
        match self.extensions().await {
            Ok(extensions) if operations.len() > 1 => self.send_all(operations, extensions).await,
            // A service that cannot say what it can do is sent one operation after the other.
            _ => self.send_all(operations, Extensions::default()).await,
        }
    }
}
