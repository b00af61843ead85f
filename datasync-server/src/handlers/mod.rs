//! The verbs, each in the order of the reference's checks: the first failure wins.

mod azure;
mod batch;
mod delta;
mod keys;
mod read;
mod write;

use std::sync::Arc;

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use datasync_core::query::{Dialect, Evaluator, MAX_LENGTH, QueryDescription, options};
use serde_json::{Map, Value, value::RawValue};

pub(crate) use batch::{MOST_OPERATIONS, batch};

use crate::{
    access::TableOperation,
    body::{self, Members},
    error::{Refusal, json},
    page,
    repository::{RepositoryError, Row},
    router::Table,
};

/// A request to a table.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) table: Arc<Table>,
    pub(crate) uri: Uri,
    /// The options and parameters of the query string, decoded.
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Answers a request to a table, or to the row `id` of it.
pub(crate) async fn answer(request: &Request, method: &Method, id: Option<&str>) -> Response {
    let caller = request.table.options.access.caller(&request.headers);
    let version = match request.is_azure().then(|| azure::version(request)).transpose() {
        Ok(version) => version,
        Err(refusal) => return refusal.into_response(),
    };
    let answer = match (id, method.as_str()) {
        (None, "GET") => read::query(request, &caller, version).await,
        (None, "POST") => write::create(request, &caller).await,
        (Some(id), "GET") => read::read(request, &caller, id).await,
        (Some(id), "PUT") => write::replace(request, &caller, id).await,
        (Some(id), "PATCH") if version.is_some() => azure::patch(request, &caller, id).await,
        (Some(id), "DELETE") => write::delete(request, &caller, id).await,
        _ => Err(Refusal::empty(StatusCode::METHOD_NOT_ALLOWED)),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

/// The type of the request's body, in lower case and without parameters.
fn content_type(request: &Request) -> String {
    let kind = request.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl Request {
    /// A request whose query string can be read: of at most 64 KiB, and UTF-8.
    pub(crate) fn new(table: Arc<Table>, uri: Uri, headers: HeaderMap, body: Bytes) -> Result<Request, Refusal> {
        let query = uri.query().unwrap_or_default();
        if query.len() > MAX_LENGTH {
            return Err(Refusal::because(StatusCode::URI_TOO_LONG, "The query is longer than 64 KiB."));
        }
        let parameters = options(query)?;
        Ok(Request { table, uri, parameters, headers, body })
    }

    /// Whether the table speaks the dialect of Azure Mobile Apps.
    fn is_azure(&self) -> bool {
        self.table.dialect == Dialect::Azure
    }

    /// The row as hooks see it.
    fn object(&self, row: &Row) -> Map<String, Value> {
        Members::of_row(&self.table.options, row).values
    }

    /// The row as it is answered.
    fn answer(&self, row: &Row, select: &[String]) -> Box<RawValue> {
        body::answer(&self.table.options, self.table.dialect, row, select)
    }

    /// Whether rows that are marked as deleted are asked for.
    fn includes_deleted(&self) -> bool {
        let named = self.is_azure() && azure::option(self, "include:deleted");
        named || page::wants_deleted(&self.parameters, self.table.dialect)
    }

    /// Refuses who may not do this to the row.
    async fn authorize(
        &self,
        caller: &str,
        operation: TableOperation,
        row: Option<&Map<String, Value>>,
    ) -> Result<(), Refusal> {
        let options = &self.table.options;
        match options.access.authorize(caller, operation, row).await {
            true => Ok(()),
            false => Err(Refusal::empty(options.refusal())),
        }
    }

    /// Whether the caller sees the row.
    fn sees(&self, caller: &str, row: &Row) -> Result<bool, Refusal> {
        let Some(view) = self.table.options.access.view(caller) else { return Ok(true) };
        let query = QueryDescription { filter: Some(view), ..QueryDescription::default() };
        let view = Evaluator::new(&query, &self.table.options.schema).map_err(RepositoryError::new)?;
        Ok(view.evaluate(&row.id, &row.record).map_err(RepositoryError::new)?.is_some())
    }
}

/// An answer with a row: its JSON, its version as the tag, and its time in whole seconds.
fn entity(request: &Request, status: StatusCode, row: &Row) -> Response {
    let mut response = json(status, &request.answer(row, &[]));
    let mut set = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    };
    if let Some(version) = &row.record.version {
        set(header::ETAG, format!("\"{version}\""));
    }
    if let Some(time) = row.record.updated_at {
        set(header::LAST_MODIFIED, httpdate::fmt_http_date(crate::system_time(time)));
    }
    response
}
