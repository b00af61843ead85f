//! The service: tables, and the paths that lead to them.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::map_response_with_state,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use datasync_core::{
    clock::{Clock, SystemClock},
    query::Dialect,
};
use jiff::SignedDuration;
use serde_json::json;
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer, Predicate,
        predicate::{NotForContentType, SizeAbove},
    },
    decompression::RequestDecompressionLayer,
};

use crate::{
    handlers::{self, MOST_OPERATIONS, Request},
    listeners::{self, Hub, Listeners},
    options::{ServiceConfigError, TableOptions},
    repository::{KEYS_KEPT, Repository},
};

/// Where the capabilities are told.
const CAPABILITIES: &str = "/.well-known/datasync";
/// Where batches are taken.
const BATCH: &str = "/$batch";
/// Shorter answers are not worth their compression, in bytes.
const COMPRESSED_FROM: u16 = 1_024;

/// The service side of Datasync.
#[derive(Debug)]
pub struct DatasyncService(());

impl DatasyncService {
    /// Begins a service.
    pub fn builder() -> ServiceBuilder {
        ServiceBuilder {
            tables: Vec::new(),
            clock: Arc::new(SystemClock),
            max_body: 1024 * 1024,
            tombstone_days: 90,
            extensions: true,
            dialect: Dialect::Toolkit,
        }
    }
}

/// A table and its rows.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) options: TableOptions,
    pub(crate) repository: Arc<dyn Repository>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) extensions: bool,
    pub(crate) dialect: Dialect,
    /// For how long it is remembered what was deleted.
    pub(crate) remembered: SignedDuration,
    /// Where those who listen are told of changes, and at which place of the service's tables.
    pub(crate) hub: Arc<Hub>,
    pub(crate) place: usize,
}

/// The tables, each with its path from the root.
pub(crate) type Tables = Arc<[(String, Arc<Table>)]>;

/// Builds the router of a service.
#[derive(Debug)]
#[must_use]
pub struct ServiceBuilder {
    tables: Vec<(TableOptions, Arc<dyn Repository>)>,
    clock: Arc<dyn Clock>,
    max_body: usize,
    tombstone_days: u16,
    extensions: bool,
    dialect: Dialect,
}

impl ServiceBuilder {
    /// Adds a table.
    pub fn table(mut self, options: TableOptions, repository: impl Repository) -> ServiceBuilder {
        self.tables.push((options, Arc::new(repository)));
        self
    }

    /// The source of time and randomness; the system's by default.
    pub fn clock(mut self, clock: impl Clock) -> ServiceBuilder {
        self.clock = Arc::new(clock);
        self
    }

    /// The greatest body of a request after decompression, in bytes; 1 MiB by default. A longer one is answered with 413.
    pub fn max_body(mut self, bytes: usize) -> ServiceBuilder {
        self.max_body = bytes;
        self
    }

    /// For how many days it is remembered what was deleted; 90 by default, at least 1. Later changes forget what is older:
    /// rows that are marked as deleted, too. A device that was away for longer begins its pulls again. Without
    /// [`extensions`](ServiceBuilder::extensions) nothing is forgotten.
    pub fn tombstone_days(mut self, days: u16) -> ServiceBuilder {
        self.tombstone_days = days;
        self
    }

    /// Whether the service does what the originals do not: capabilities, delta pages, batches, idempotency keys, change
    /// notifications and compressed requests (`docs/wire-extensions.md`). Yes by default; without them it is what an
    /// original is.
    pub fn extensions(mut self, extensions: bool) -> ServiceBuilder {
        self.extensions = extensions;
        self
    }

    /// Whose clients the service is for: the Toolkit's by default, which ours are like. For those of Azure Mobile Apps a
    /// request must name its `ZUMO-API-VERSION`, 2.0 or 3.0; there is PATCH, also to undelete, and next links are whole URLs.
    pub fn dialect(mut self, dialect: Dialect) -> ServiceBuilder {
        self.dialect = dialect;
        self
    }

    /// The router. Paths are below the place where it is mounted.
    ///
    /// # Errors
    ///
    /// No table, two at one path, a path that is none or one of the service's own, a schema without an id, or limits out
    /// of range.
    pub fn build(self) -> Result<Router, ServiceConfigError> {
        if self.tables.is_empty() {
            return Err(ServiceConfigError("the service has no table".to_owned()));
        }
        if self.tombstone_days == 0 {
            return Err(ServiceConfigError("tombstones must be kept for at least 1 day".to_owned()));
        }
        let remembered = SignedDuration::from_hours(i64::from(self.tombstone_days) * 24);
        let hub = Hub::new(self.tables.len());
        let mut router = Router::new();
        let mut tables: Vec<(String, Arc<Table>)> = Vec::new();
        for (options, repository) in self.tables {
            options.check()?;
            let path = format!("/{}", options.path.trim_matches('/'));
            if tables.iter().any(|(known, _)| *known == path) {
                return Err(ServiceConfigError(format!("two tables are at `{path}`")));
            }
            if self.extensions && [CAPABILITIES, listeners::PATH].contains(&path.as_str()) {
                return Err(ServiceConfigError(format!("`{path}` is the service's own: put the table elsewhere")));
            }
            let (clock, extensions, dialect) = (Arc::clone(&self.clock), self.extensions, self.dialect);
            let (hub, place) = (Arc::clone(&hub), tables.len());
            let table = Arc::new(Table { options, repository, clock, extensions, dialect, remembered, hub, place });
            let routes = Router::new()
                .route(&path, any(of_table))
                .route(&format!("{path}/"), any(of_table))
                .route(&format!("{path}/{{id}}"), any(of_row))
                .with_state(Arc::clone(&table));
            router = router.merge(routes);
            tables.push((path, table));
        }
        if self.extensions {
            let capabilities = json!({
                "version": 1,
                "delta": true,
                "tombstoneDays": self.tombstone_days,
                "keyDays": KEYS_KEPT.as_hours() / 24,
                "batch": { "operations": MOST_OPERATIONS, "bytes": self.max_body },
                "changes": true,
                "gzip": true,
            });
            let tables: Tables = tables.into();
            let listeners = Listeners { tables: Arc::clone(&tables), hub, clock: Arc::clone(&self.clock) };
            router = router
                .route(CAPABILITIES, get(async move || crate::error::json(StatusCode::OK, &capabilities)))
                .route(BATCH, post(of_batch).with_state(tables))
                .route(listeners::PATH, get(listeners::listen).with_state(listeners))
                .layer(DefaultBodyLimit::max(self.max_body))
                .layer(RequestDecompressionLayer::new().no_br().no_deflate().no_zstd());
        }
        let compression = CompressionLayer::new().quality(CompressionLevel::Fastest);
        Ok(router
            .layer(DefaultBodyLimit::max(self.max_body))
            .layer(compression.compress_when(SizeAbove::new(COMPRESSED_FROM).and(NotForContentType::SSE)))
            .layer(map_response_with_state(self.clock, dated)))
    }
}

/// A client measures times from the service's own, also where no server of HTTP adds them.
async fn dated(State(clock): State<Arc<dyn Clock>>, mut response: Response) -> Response {
    let now = httpdate::fmt_http_date(crate::system_time(clock.now()));
    if let Ok(value) = HeaderValue::from_str(&now) {
        response.headers_mut().entry(header::DATE).or_insert(value);
    }
    response
}

async fn of_table(
    State(table): State<Arc<Table>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    answer(table, &method, uri, headers, body, None).await
}

async fn of_row(
    State(table): State<Arc<Table>>,
    Path(id): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    answer(table, &method, uri, headers, body, Some(&id)).await
}

async fn answer(
    table: Arc<Table>,
    method: &Method,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
    id: Option<&str>,
) -> Response {
    match body.map(|body| Request::new(table, uri, headers, body)) {
        Ok(Ok(request)) => handlers::answer(&request, method, id).await,
        Ok(Err(refusal)) => refusal.into_response(),
        Err(rejection) => rejection.into_response(),
    }
}

async fn of_batch(State(tables): State<Tables>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    match body {
        Ok(body) => handlers::batch(&tables, &headers, &body).await,
        Err(rejection) => rejection.into_response(),
    }
}
