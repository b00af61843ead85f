//! The service: tables, and the paths that lead to them.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, RawQuery, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::map_response_with_state,
    response::{IntoResponse, Response},
    routing::any,
};
use datasync_core::clock::{Clock, SystemClock};

use crate::{
    error::Refusal,
    handlers::{self, Request},
    options::{ServiceConfigError, TableOptions},
    repository::Repository,
};

/// The service side of Datasync.
#[derive(Debug)]
pub struct DatasyncService(());

impl DatasyncService {
    /// Begins a service.
    pub fn builder() -> ServiceBuilder {
        ServiceBuilder { tables: Vec::new(), clock: Arc::new(SystemClock), max_body: 1024 * 1024 }
    }
}

/// A table and its rows.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) options: TableOptions,
    pub(crate) repository: Arc<dyn Repository>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Builds the router of a service.
#[derive(Debug)]
#[must_use]
pub struct ServiceBuilder {
    tables: Vec<(TableOptions, Arc<dyn Repository>)>,
    clock: Arc<dyn Clock>,
    max_body: usize,
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

    /// The greatest body of a request, in bytes; 1 MiB by default. A longer one is answered with 413.
    pub fn max_body(mut self, bytes: usize) -> ServiceBuilder {
        self.max_body = bytes;
        self
    }

    /// The router.
    ///
    /// # Errors
    ///
    /// No table, two at one path, a path that is none, a schema without an id, or limits out of range.
    pub fn build(self) -> Result<Router, ServiceConfigError> {
        if self.tables.is_empty() {
            return Err(ServiceConfigError("the service has no table".to_owned()));
        }
        let mut router = Router::new();
        let mut paths: Vec<String> = Vec::new();
        for (options, repository) in self.tables {
            options.check()?;
            let path = format!("/{}", options.path.trim_matches('/'));
            if paths.contains(&path) {
                return Err(ServiceConfigError(format!("two tables are at `{path}`")));
            }
            let table = Arc::new(Table { options, repository, clock: Arc::clone(&self.clock) });
            let routes = Router::new()
                .route(&path, any(of_table))
                .route(&format!("{path}/"), any(of_table))
                .route(&format!("{path}/{{id}}"), any(of_row))
                .with_state(table);
            router = router.merge(routes);
            paths.push(path);
        }
        let router = router.layer(DefaultBodyLimit::max(self.max_body));
        Ok(router.layer(map_response_with_state(self.clock, dated)))
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
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    let request = Request { table, uri, headers, query, body };
    let answer = match method {
        Method::GET => handlers::query(&request).await,
        Method::POST => handlers::create(&request).await,
        _ => Err(Refusal::empty(StatusCode::METHOD_NOT_ALLOWED)),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn of_row(
    State(table): State<Arc<Table>>,
    Path(id): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    let request = Request { table, uri, headers, query, body };
    let answer = match method {
        Method::GET => handlers::read(&request, &id).await,
        Method::PUT => handlers::replace(&request, &id).await,
        Method::DELETE => handlers::delete(&request, &id).await,
        _ => Err(Refusal::empty(StatusCode::METHOD_NOT_ALLOWED)),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}
