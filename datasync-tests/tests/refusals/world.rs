//! A device whose way to the service a test answers itself, where it wants to.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use datasync_core::{
    client::{Conflict, DatasyncClient, OfflineTable, PendingChange, PullOptions},
    config::SyncConfig,
    row::OperationKind,
    store::Store,
    transport::{
        Capabilities, Page, PageRequest, PushOperation, PushOutcome, RowRequest, ServiceRow, Transport, TransportError,
        TransportErrorKind,
    },
};
use datasync_http::HttpTransport;
use datasync_server::MemoryRepository;
use datasync_tests::{
    MemoryStore, MovedClock, Note, RouterExchange, Wire, client_over, note_of, notes, service_at, service_rows,
};
use futures::future::BoxFuture;
use jiff::SignedDuration;

type Change = Box<dyn FnMut(&PushOperation) -> Option<PushOutcome> + Send>;
type Fetch = Box<dyn FnMut(&RowRequest) -> Option<Result<Option<ServiceRow>, TransportError>> + Send>;

/// A transport on which a test answers some requests itself. What it answers never reaches the service.
#[derive(Clone)]
pub(crate) struct Way {
    inner: HttpTransport,
    change: Arc<Mutex<Option<Change>>>,
    fetch: Arc<Mutex<Option<Fetch>>>,
    meanwhile: Arc<Mutex<Option<BoxFuture<'static, ()>>>>,
    /// Kind, id and key of each change, in the order of the attempts.
    sent: Arc<Mutex<Vec<(OperationKind, String, String)>>>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}

impl Way {
    /// Answers the changes for which the test has an answer.
    pub(crate) fn answer(&self, answer: impl FnMut(&PushOperation) -> Option<PushOutcome> + Send + 'static) {
        *self.change.lock().unwrap() = Some(Box::new(answer));
    }

    /// Answers the questions for single rows for which the test has an answer.
    pub(crate) fn answer_fetch(
        &self,
        answer: impl FnMut(&RowRequest) -> Option<Result<Option<ServiceRow>, TransportError>> + Send + 'static,
    ) {
        *self.fetch.lock().unwrap() = Some(Box::new(answer));
    }

    /// Leaves everything to the service again.
    pub(crate) fn mend(&self) {
        *self.change.lock().unwrap() = None;
        *self.fetch.lock().unwrap() = None;
    }

    /// Happens once, after the next changes were made and before their answers arrive.
    pub(crate) fn meanwhile(&self, happens: impl Future<Output = ()> + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::pin(happens));
    }

    /// What was sent since the last call.
    pub(crate) fn sent(&self) -> Vec<(OperationKind, String, String)> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

/// The service refuses it for good.
pub(crate) fn rejected(status: u16) -> PushOutcome {
    failed(TransportErrorKind::Rejected, Some(status))
}

pub(crate) fn failed(kind: TransportErrorKind, status: Option<u16>) -> PushOutcome {
    let error = TransportError::new(kind, "the test says so");
    PushOutcome::Failed(match status {
        Some(status) => error.with_status(status),
        None => error,
    })
}

#[async_trait]
impl Transport for Way {
    async fn fetch_page(&self, request: &PageRequest) -> Result<Page, TransportError> {
        self.inner.fetch_page(request).await
    }

    async fn fetch(&self, request: &RowRequest) -> Result<Option<ServiceRow>, TransportError> {
        let answer = self.fetch.lock().unwrap().as_mut().and_then(|answer| answer(request));
        match answer {
            Some(answer) => answer,
            None => self.inner.fetch(request).await,
        }
    }

    async fn capabilities(&self) -> Result<Capabilities, TransportError> {
        self.inner.capabilities().await
    }

    async fn push(&self, operations: &[PushOperation]) -> Vec<PushOutcome> {
        let mut outcomes: Vec<Option<PushOutcome>> = Vec::new();
        let mut left = Vec::new();
        for operation in operations {
            let made = (operation.kind, operation.id.to_string(), operation.key.to_string());
            self.sent.lock().unwrap().push(made);
            let answer = self.change.lock().unwrap().as_mut().and_then(|answer| answer(operation));
            if answer.is_none() {
                left.push(operation.clone());
            }
            outcomes.push(answer);
        }
        let made = if left.is_empty() { Vec::new() } else { self.inner.push(&left).await };
        let happens = self.meanwhile.lock().unwrap().take();
        if let Some(happens) = happens {
            happens.await;
        }
        let mut made = made.into_iter();
        outcomes.into_iter().map_while(|outcome| outcome.or_else(|| made.next())).collect()
    }

    fn clock_offset(&self) -> Option<SignedDuration> {
        self.inner.clock_offset()
    }
}

/// A device, another one, and their service.
pub(crate) struct World {
    pub(crate) client: DatasyncClient,
    pub(crate) table: OfflineTable<Note>,
    pub(crate) way: Way,
    pub(crate) there: OfflineTable<Note>,
    pub(crate) rows: MemoryRepository,
    pub(crate) clock: MovedClock,
    pub(crate) exchange: RouterExchange,
}

impl World {
    pub(crate) async fn new(store: impl Store, wire: Wire, config: &str) -> World {
        let clock = MovedClock::default();
        let rows = MemoryRepository::with_clock(clock.clone());
        World::over(store, RouterExchange::new(service_at(&rows, 10, wire, clock.clone())), rows, clock, config).await
    }

    pub(crate) async fn over(
        store: impl Store,
        exchange: RouterExchange,
        rows: MemoryRepository,
        clock: MovedClock,
        config: &str,
    ) -> World {
        let inner = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
        let (change, fetch, meanwhile, sent) = Default::default();
        let way = Way { inner, change, fetch, meanwhile, sent };
        let config = SyncConfig::from_toml(config).unwrap();
        let builder = DatasyncClient::builder().store(store).transport(way.clone()).table::<Note>();
        let client = builder.config(config).clock(clock.clone()).build().await.unwrap();
        let other = client_over(MemoryStore::new(), exchange.clone()).clock(clock.clone()).build().await.unwrap();
        World { table: notes(&client), client, way, there: notes(&other), rows, clock, exchange }
    }

    /// Rows that both devices have.
    pub(crate) async fn shared(&self, ids: &[&str]) {
        self.table.insert_all(ids.iter().map(|id| note_of(id, "base"))).await.unwrap();
        self.table.push_items().await.unwrap();
        self.table.pull_items(self.table.query()).await.unwrap();
        self.there.pull_items(self.there.query()).await.unwrap();
        self.way.sent();
    }

    /// The other device writes a title, and the service has it.
    pub(crate) async fn written_there(&self, id: &str, title: &str) {
        self.there.pull_items(self.there.query()).await.unwrap();
        self.there.upsert(note_of(id, title)).await.unwrap();
        self.there.push_items().await.unwrap();
    }

    pub(crate) async fn title(&self, id: &str) -> Option<String> {
        self.table.get(id).await.unwrap().map(|note| note.title)
    }

    /// What the service has as the title.
    pub(crate) fn title_there(&self, id: &str) -> Option<String> {
        service_rows(&self.rows).into_iter().find(|(found, ..)| found == id).map(|(_, title, _)| title)
    }

    /// The titles of what lost.
    pub(crate) async fn lost(&self) -> Vec<String> {
        let losers = self.client.settled_losers().await.unwrap();
        losers.iter().map(|loser| loser.entity::<Note>().unwrap().title).collect()
    }
}

pub(crate) fn policy(name: &str) -> String {
    format!("[sync]\nconflict = '{name}'")
}

pub(crate) async fn only_pending(world: &World) -> PendingChange {
    let mut pending = world.client.pending().await.unwrap();
    assert_eq!(pending.len(), 1, "{pending:?}");
    pending.remove(0)
}

pub(crate) fn pull_only() -> PullOptions<Note> {
    PullOptions::default().no_push()
}

pub(crate) async fn only_conflict(world: &World) -> Conflict {
    let mut conflicts = world.client.conflicts().await.unwrap();
    assert_eq!(conflicts.len(), 1);
    conflicts.remove(0)
}

pub(crate) fn titles(conflict: &Conflict) -> [Option<String>; 3] {
    let title = |note: Option<Note>| note.map(|note| note.title);
    [title(conflict.base().unwrap()), title(conflict.local().unwrap()), title(conflict.service().unwrap())]
}

pub(crate) fn texts(of: [&str; 3]) -> [Option<String>; 3] {
    of.map(|text| (!text.is_empty()).then(|| text.to_owned()))
}

/// The other device writes while a change is on its way, and a pull here sees it.
pub(crate) fn seen_meanwhile(world: &World, id: &'static str, title: &'static str) {
    let (table, there) = (world.table.clone(), world.there.clone());
    world.way.meanwhile(async move {
        there.pull_items(there.query()).await.unwrap();
        there.upsert(note_of(id, title)).await.unwrap();
        there.push_items().await.unwrap();
        table.pull_items(pull_only()).await.unwrap();
    });
}
