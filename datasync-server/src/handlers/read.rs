//! Queries and reads.

use std::borrow::Cow;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use datasync_core::query::{BinaryOp, Evaluator, Expr, QueryDescription};

use super::{Request, azure, delta, entity};
use crate::{
    access::TableOperation,
    error::{self, Refusal},
    page::{self, Page},
    preconditions::{self, Verdict},
    repository::{RepositoryError, RowQuery, View},
};

pub(crate) async fn query(request: &Request, caller: &str, azure: Option<azure::Version>) -> Result<Response, Refusal> {
    request.authorize(caller, TableOperation::Query, None).await?;
    let options = &request.table.options;
    let mut parameters = Cow::Borrowed(&request.parameters);
    if azure == Some(azure::Version::V2) {
        parameters = Cow::Owned(azure::modern(&parameters));
    }
    let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let query = QueryDescription::from_options(pairs)?;
    let max_top = options.greatest_top(request.table.dialect);
    if query.top.is_some_and(|top| top > max_top) {
        let message = format!("The limit of '{max_top}' for Top query has been exceeded.");
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
    let include_deleted = !options.soft_delete || request.includes_deleted();
    let wanted = RowQuery { description: seen, evaluator, include_deleted, limit };
    let found = request.table.repository.query(wanted).await?;
    let items: Vec<_> = found.rows.iter().map(|row| request.answer(row, &query.select)).collect();
    let returned = items.len() as u64;
    let next_link = match azure {
        Some(_) if !found.more => None,
        Some(_) => azure::next_link(request, query.skip, query.top, returned),
        None => {
            let next = page::next_link(&parameters, found.more, query.skip, query.top, returned);
            let from_the_path = azure::option(request, "nextlink=path");
            next.map(|next| if from_the_path { format!("{}?{next}", request.uri.path()) } else { next })
        }
    };
    let page = Page { items, count: found.total, next_link, delta: None };
    Ok(match azure {
        Some(azure::Version::V2) => azure::old_page(&page),
        _ => error::json(StatusCode::OK, &page),
    })
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

pub(crate) async fn read(request: &Request, caller: &str, id: &str) -> Result<Response, Refusal> {
    let row = request.table.repository.read(id).await?;
    let row = row.ok_or_else(|| Refusal::empty(StatusCode::NOT_FOUND))?;
    if !request.sees(caller, &row)? {
        return Err(Refusal::empty(StatusCode::NOT_FOUND));
    }
    request.authorize(caller, TableOperation::Read, Some(&request.object(&row))).await?;
    if request.table.options.soft_delete && row.record.deleted && !request.includes_deleted() {
        return Err(Refusal::empty(StatusCode::GONE));
    }
    Ok(match preconditions::evaluate(&request.headers, &row, true, request.table.dialect) {
        Verdict::Holds { .. } => entity(request, StatusCode::OK, &row),
        Verdict::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Verdict::Failed => entity(request, StatusCode::PRECONDITION_FAILED, &row),
    })
}
