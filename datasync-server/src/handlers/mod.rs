//! The verbs, each in the order of the reference's checks: the first failure wins.

mod keys;
mod read;
mod write;

use std::sync::Arc;

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use serde_json::Value;

pub(crate) use read::{query, read};
pub(crate) use write::{create, delete, replace};

use crate::{body, error::json, repository::Row, router::Table};

/// A request to a table.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) table: Arc<Table>,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Option<String>,
    pub(crate) body: Bytes,
}

/// An answer with a row: its JSON, its version as the tag, and its time in whole seconds.
fn entity(request: &Request, status: StatusCode, row: &Row) -> Response {
    let object = body::write(&request.table.options.schema, row);
    let mut response = json(status, &Value::Object(object));
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
