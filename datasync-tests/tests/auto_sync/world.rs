//! A device with two tables whose clock stands still, a service, and a way to it that a test decides about.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use datasync_core::{
    client::{AutoSync, DatasyncClient, NetworkSignal, OfflineTable},
    clock::Clock,
    config::SyncConfig,
    error::Error,
    store::Store,
    transport::{
        Capabilities, ChangeNotice, Page, PageRequest, PushOperation, PushOutcome, RowRequest, ServiceRow, Transport,
        TransportError,
    },
};
use datasync_derive::SyncEntity;
use datasync_http::{
    AccessToken, Exchange, ExchangeError, ExchangeErrorKind, HttpRequest, HttpResponse, HttpStream, HttpTransport,
    Method,
};
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{MemoryStore, Note, RouterExchange, StillClock, Wire, note_of};
use futures::{
    StreamExt,
    channel::{mpsc, oneshot},
    stream::BoxStream,
};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// The entity of the second table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
pub(crate) struct Other {
    pub(crate) id: String,
}

/// What a request meets.
pub(crate) enum Meets {
    /// The service.
    Service,
    /// This status, with this `Retry-After` if it is not 0.
    Status(u16, u64),
    /// No connection.
    Nobody,
    /// The service, and its answer is held until the other end is dropped.
    Gate(oneshot::Receiver<()>),
}

/// What is asked: a change, or a read of this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    Change,
    Notes,
    Others,
    Else,
}

impl Asks {
    fn of(request: &HttpRequest) -> Asks {
        match (request.method, request.url.path()) {
            (Method::Get, "/tables/note") => Asks::Notes,
            (Method::Get, "/tables/other") => Asks::Others,
            (Method::Get, _) => Asks::Else,
            _ => Asks::Change,
        }
    }
}

type Rule = Box<dyn FnMut(Asks) -> Meets + Send>;

/// The way to the service: what each request meets, and when there were which.
#[derive(Clone)]
struct Way {
    inner: RouterExchange,
    clock: StillClock,
    rule: Arc<Mutex<Rule>>,
    asked: Arc<Mutex<Vec<(Asks, Duration)>>>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Way")
    }
}

#[async_trait]
impl Exchange for Way {
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError> {
        let asks = Asks::of(&request);
        let at = Duration::from_millis(self.clock.now().as_millisecond().try_into().unwrap());
        self.asked.lock().unwrap().push((asks, at));
        let meets = (self.rule.lock().unwrap())(asks);
        match meets {
            Meets::Service => self.inner.send(request, max_body).await,
            Meets::Nobody => Err(ExchangeError::new(ExchangeErrorKind::Connect)),
            Meets::Status(status, wait) => {
                let headers = (wait > 0).then(|| ("retry-after".to_owned(), wait.to_string()));
                Ok(HttpResponse { status, headers: headers.into_iter().collect(), body: Vec::new() })
            }
            Meets::Gate(gate) => {
                let answer = self.inner.send(request, max_body).await;
                let _ = gate.await;
                answer
            }
        }
    }

    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError> {
        self.inner.stream(request).await
    }
}

type Notices = mpsc::UnboundedReceiver<Result<ChangeNotice, TransportError>>;

/// A transport whose service tells of changes when a test does.
#[derive(Debug)]
struct Telling {
    inner: HttpTransport,
    telling: Arc<Mutex<Telephone>>,
}

/// For whom each stream of notices was made, and the end by which the newest is told.
#[derive(Debug, Default)]
struct Telephone {
    listeners: Vec<Arc<str>>,
    end: Option<mpsc::UnboundedSender<Result<ChangeNotice, TransportError>>>,
}

#[async_trait]
impl Transport for Telling {
    async fn fetch_page(&self, request: &PageRequest) -> Result<Page, TransportError> {
        self.inner.fetch_page(request).await
    }

    async fn fetch(&self, request: &RowRequest) -> Result<Option<ServiceRow>, TransportError> {
        self.inner.fetch(request).await
    }

    async fn capabilities(&self) -> Result<Capabilities, TransportError> {
        let mut able = self.inner.capabilities().await?;
        able.notifications = true;
        Ok(able)
    }

    async fn push(&self, operations: &[PushOperation]) -> Vec<PushOutcome> {
        self.inner.push(operations).await
    }

    async fn account(&self, wanted: &str) -> Result<Option<Arc<str>>, TransportError> {
        self.inner.account(wanted).await
    }

    fn clock_offset(&self) -> Option<SignedDuration> {
        self.inner.clock_offset()
    }

    fn changes(&self, account: Arc<str>) -> BoxStream<'static, Result<ChangeNotice, TransportError>> {
        let (end, notices): (_, Notices) = mpsc::unbounded();
        let mut telephone = self.telling.lock().unwrap();
        telephone.listeners.push(account);
        telephone.end = Some(end);
        notices.boxed()
    }
}

/// What a test has at hand.
pub(crate) struct World {
    pub(crate) client: DatasyncClient,
    pub(crate) network: NetworkSignal,
    /// The service's rows: a test that writes them tells nobody.
    pub(crate) notes: MemoryRepository,
    pub(crate) others: MemoryRepository,
    clock: StillClock,
    way: Way,
    telling: Arc<Mutex<Telephone>>,
    session: Arc<Mutex<Option<&'static str>>>,
}

/// In which steps the time passes.
pub(crate) const STEP: Duration = Duration::from_millis(500);

/// No interval: what comes, comes for another reason.
pub(crate) const NEVER: Duration = Duration::from_secs(1_000_000);

impl World {
    pub(crate) async fn new(wire: Wire) -> World {
        World::with(MemoryStore::new(), wire, SyncConfig::default()).await
    }

    pub(crate) async fn with(store: impl Store, wire: Wire, config: SyncConfig) -> World {
        let (notes, others) = (MemoryRepository::new(), MemoryRepository::new());
        let builder = DatasyncService::builder().extensions(wire.extended());
        let service = builder
            .table(TableOptions::of::<Note>().soft_delete(true).page_size(100), notes.clone())
            .table(TableOptions::of::<Other>().soft_delete(true), others.clone())
            .build()
            .unwrap();
        let clock = StillClock::new(7);
        let rule: Rule = Box::new(|_| Meets::Service);
        let way = Way {
            inner: RouterExchange::new(wire.lead_to(service)),
            clock: clock.clone(),
            rule: Arc::new(Mutex::new(rule)),
            asked: Arc::default(),
        };
        let session = Arc::<Mutex<Option<&'static str>>>::default();
        let signed_in = Arc::clone(&session);
        let token = move || {
            let name = *signed_in.lock().unwrap();
            async move { Ok(name.map(|name| AccessToken::new(format!("token of {name}")).account(name))) }
        };
        let inner = HttpTransport::builder("http://service").retries(0).exchange(way.clone());
        let inner = inner.token_provider(token).build().unwrap();
        let telling = Arc::<Mutex<Telephone>>::default();
        let transport = Telling { inner, telling: Arc::clone(&telling) };
        let builder = DatasyncClient::builder().store(store).transport(transport).clock(clock.clone()).config(config);
        let client = builder.table::<Note>().table::<Other>().build().await.unwrap();
        let network = NetworkSignal::default();
        World { client, network, notes, others, clock, way, telling, session }
    }

    pub(crate) fn table(&self) -> OfflineTable<Note> {
        self.client.offline_table()
    }

    /// Begins to synchronize, and waits until there is nothing left to do for now.
    pub(crate) async fn run(&self, options: AutoSync) -> Running {
        let (client, options) = (self.client.clone(), options.network(&self.network));
        let running = Running(tokio::spawn(async move { client.run(options).await }));
        self.settle().await;
        running
    }

    /// Until everything that can be done without the clock is done: nothing here waits for anything else.
    pub(crate) async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// Lets the time pass, in steps.
    pub(crate) async fn pass(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(STEP);
            left -= step;
            self.clock.advance(step.try_into().unwrap());
            self.settle().await;
        }
    }

    pub(crate) async fn pass_seconds(&self, seconds: u64) {
        self.pass(Duration::from_secs(seconds)).await;
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// The app has another token, and says so.
    pub(crate) async fn sign_in(&self, name: &'static str) {
        self.holds_a_token_of(name);
        self.client.sign_in(name).await.unwrap();
    }

    /// The app has another token, and has told the client nothing.
    pub(crate) fn holds_a_token_of(&self, name: &'static str) {
        *self.session.lock().unwrap() = Some(name);
    }

    /// What the requests meet from now on.
    pub(crate) fn meet(&self, rule: impl FnMut(Asks) -> Meets + Send + 'static) {
        *self.way.rule.lock().unwrap() = Box::new(rule);
    }

    /// The next request of this kind meets this; every other one the service.
    pub(crate) fn meet_once(&self, wanted: Asks, meets: Meets) {
        let mut once = Some(meets);
        self.meet(move |asks| {
            let meets = if asks == wanted { once.take() } else { None };
            meets.unwrap_or(Meets::Service)
        });
    }

    /// How many requests of this kind there were.
    pub(crate) fn asked(&self, wanted: Asks) -> usize {
        self.times(wanted).len()
    }

    /// When there were requests of this kind.
    pub(crate) fn times(&self, wanted: Asks) -> Vec<Duration> {
        let asked = self.way.asked.lock().unwrap();
        asked.iter().filter(|(asks, _)| *asks == wanted).map(|(_, at)| *at).collect()
    }

    pub(crate) fn requests(&self) -> usize {
        self.way.asked.lock().unwrap().len()
    }

    /// Tells of a change, if somebody listens.
    pub(crate) async fn tell(&self, notice: ChangeNotice) {
        if let Some(end) = &self.telling.lock().unwrap().end {
            let _ = end.unbounded_send(Ok(notice));
        }
        self.settle().await;
    }

    pub(crate) async fn tell_of(&self, table: &str) {
        self.tell(ChangeNotice::Changed(table.into())).await;
    }

    /// The stream of notices breaks.
    pub(crate) async fn hang_up(&self) {
        self.telling.lock().unwrap().end = None;
        self.settle().await;
    }

    /// The accounts for which somebody has listened.
    pub(crate) fn listeners(&self) -> Vec<Arc<str>> {
        self.telling.lock().unwrap().listeners.clone()
    }

    pub(crate) async fn insert(&self, id: &str) {
        self.table().insert(note_of(id, "mine")).await.unwrap();
        self.settle().await;
    }

    /// A row of the service of which nobody is told.
    pub(crate) fn appears(&self, id: &str) {
        self.notes.seed(serde_json::json!([{ "id": id, "title": "theirs", "rank": 0 }])).unwrap();
    }

    pub(crate) fn other_appears(&self, id: &str) {
        self.others.seed(serde_json::json!([{ "id": id }])).unwrap();
    }

    /// The ids of the notes of the service.
    pub(crate) fn there(&self) -> Vec<String> {
        self.notes.rows().into_iter().map(|row| row.id.as_ref().to_owned()).collect()
    }

    /// The ids of the notes here.
    pub(crate) async fn here(&self) -> Vec<String> {
        self.table().query().to_vec().await.unwrap().into_iter().map(|note| note.id).collect()
    }

    /// How many rows of the second table are here.
    pub(crate) async fn others_here(&self) -> u64 {
        self.client.offline_table::<Other>().count().await.unwrap()
    }
}

/// A run that ends when it is dropped.
pub(crate) struct Running(tokio::task::JoinHandle<Error>);

impl Running {
    pub(crate) fn goes_on(&self) -> bool {
        !self.0.is_finished()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}
