//! Queries and reads.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use datasync_core::query::{Evaluator, QueryDescription};
use serde_json::{Map, Value, json};

use super::{Request, entity};
use crate::{
    body,
    error::{self, Refusal},
    page,
    preconditions::{self, Verdict},
    repository::Row,
};

pub(crate) async fn query(request: &Request) -> Result<Response, Refusal> {
    let options = &request.table.options;
    let parameters = page::parameters(request.query.as_deref());
    let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let query = QueryDescription::from_options(pairs)?;
    if query.top.is_some_and(|top| top > options.max_top) {
        let message = format!("The limit of '{}' for Top query has been exceeded.", options.max_top);
        return Err(Refusal::because(StatusCode::BAD_REQUEST, message));
    }
    let evaluator = Evaluator::new(&query, &options.schema)?;
    let include_deleted = !options.soft_delete || page::wants_deleted(&parameters);
    let rows = request.table.repository.query(&evaluator, include_deleted).await??;
    let total = rows.len() as u64;
    let (from, returned) = page::window(total, query.skip, query.top, options.page_size);
    let (from, length) = (from as usize, returned as usize);
    let items: Vec<Value> = rows.iter().skip(from).take(length).map(|row| item(request, &query, row)).collect();
    let mut next = page::next_link(&parameters, total, query.skip, query.top, returned);
    let as_path = request.headers.get("x-zumo-options").is_some_and(|value| value.as_bytes() == b"nextLink=path");
    if as_path {
        next = next.map(|next| format!("{}?{next}", request.uri.path()));
    }
    let count = query.count.then_some(total);
    Ok(error::json(StatusCode::OK, &json!({ "items": items, "count": count, "nextLink": next })))
}

fn item(request: &Request, query: &QueryDescription, row: &Row) -> Value {
    let object = body::write(&request.table.options.schema, row);
    if query.select.is_empty() {
        return Value::Object(object);
    }
    let chosen = |name: &String| query.select.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
    Value::Object(object.into_iter().filter(|(name, _)| chosen(name)).collect::<Map<_, _>>())
}

pub(crate) async fn read(request: &Request, id: &str) -> Result<Response, Refusal> {
    let row = request.table.repository.read(id).await?;
    let row = row.ok_or_else(|| Refusal::empty(StatusCode::NOT_FOUND))?;
    let include_deleted = page::wants_deleted(&page::parameters(request.query.as_deref()));
    if request.table.options.soft_delete && row.record.deleted && !include_deleted {
        return Err(Refusal::empty(StatusCode::GONE));
    }
    Ok(match preconditions::evaluate(&request.headers, &row, true) {
        Verdict::Holds { .. } => entity(request, StatusCode::OK, &row),
        Verdict::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Verdict::Failed => entity(request, StatusCode::PRECONDITION_FAILED, &row),
    })
}
