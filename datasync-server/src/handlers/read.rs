//! Queries and reads.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use datasync_core::query::{BinaryOp, Evaluator, Expr, QueryDescription};
use serde_json::{Map, Value, json};

use super::{Request, azure, delta, entity};
use crate::{
    access::TableOperation,
    error::{self, Refusal},
    page,
    preconditions::{self, Verdict},
    repository::{RepositoryError, Row, RowQuery, View},
};

pub(crate) async fn query(request: &Request, caller: &str, azure: Option<azure::Version>) -> Result<Response, Refusal> {
    request.authorize(caller, TableOperation::Query, None).await?;
    let options = &request.table.options;
    let mut parameters = page::parameters(request.uri.query());
    if azure == Some(azure::Version::V2) {
        parameters = azure::modern(parameters);
    }
    let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let query = QueryDescription::from_options(pairs)?;
    if query.top.is_some_and(|top| top > options.max_top) {
        let message = format!("The limit of '{}' for Top query has been exceeded.", options.max_top);
        return Err(Refusal::because(StatusCode::BAD_REQUEST, message));
    }
    // Checked without the view first: what does not fit the table is the client's mistake here, and ours below.
    Evaluator::new(&query, &options.schema)?;
    let view = options.access.view(caller);
    let seen = within_view(&query, view.clone());
    let evaluator = Evaluator::new(&seen, &options.schema).map_err(RepositoryError::new)?;
    let size = query.top.unwrap_or(u64::MAX).min(options.page_size);
    let limit = usize::try_from(size).unwrap_or(usize::MAX);
    if let Some(token) = delta::token(request, &parameters) {
        let view = view.map(|view| View::new(view, &options.schema)).transpose().map_err(RepositoryError::new)?;
        return delta::page(request, delta::Asked { query, seen, evaluator, view, limit }, token).await;
    }
    let named = azure.is_some() && azure::option(request, "include:deleted");
    let include_deleted = !options.soft_delete || named || page::wants_deleted(&parameters);
    let wanted = RowQuery { description: seen, evaluator, include_deleted, limit };
    let found = request.table.repository.query(wanted).await?;
    let items: Vec<Value> = found.rows.iter().map(|row| item(request, &query, row)).collect();
    let returned = items.len() as u64;
    if let Some(version) = azure {
        let next = found.more.then(|| azure::next_link(request, query.skip, query.top, returned)).flatten();
        return Ok(error::json(StatusCode::OK, &azure::envelope(version, items, found.total, next)));
    }
    let mut next = page::next_link(&parameters, found.more, query.skip, query.top, returned);
    if azure::option(request, "nextlink=path") {
        next = next.map(|next| format!("{}?{next}", request.uri.path()));
    }
    Ok(error::json(StatusCode::OK, &json!({ "items": items, "count": found.total, "nextLink": next })))
}

/// The query over the rows that the caller sees.
fn within_view(query: &QueryDescription, view: Option<Expr>) -> QueryDescription {
    let filter = match (view, &query.filter) {
        (None, filter) => filter.clone(),
        (Some(view), None) => Some(view),
        (Some(view), Some(filter)) => Some(Expr::binary(BinaryOp::And, view, filter.clone())),
    };
    QueryDescription { filter, ..query.clone() }
}

fn item(request: &Request, query: &QueryDescription, row: &Row) -> Value {
    let object = request.object(row);
    if query.select.is_empty() {
        return Value::Object(object);
    }
    let chosen = |name: &String| query.select.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
    Value::Object(object.into_iter().filter(|(name, _)| chosen(name)).collect::<Map<_, _>>())
}

pub(crate) async fn read(request: &Request, caller: &str, id: &str) -> Result<Response, Refusal> {
    let row = request.table.repository.read(id).await?;
    let row = row.ok_or_else(|| Refusal::empty(StatusCode::NOT_FOUND))?;
    if !request.sees(caller, &row)? {
        return Err(Refusal::empty(StatusCode::NOT_FOUND));
    }
    request.authorize(caller, TableOperation::Read, Some(&request.object(&row))).await?;
    let named = request.is_azure() && azure::option(request, "include:deleted");
    let include_deleted = named || page::wants_deleted(&page::parameters(request.uri.query()));
    if request.table.options.soft_delete && row.record.deleted && !include_deleted {
        return Err(Refusal::empty(StatusCode::GONE));
    }
    Ok(match preconditions::evaluate(&request.headers, &row, true, request.table.dialect) {
        Verdict::Holds { .. } => entity(request, StatusCode::OK, &row),
        Verdict::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Verdict::Failed => entity(request, StatusCode::PRECONDITION_FAILED, &row),
    })
}
