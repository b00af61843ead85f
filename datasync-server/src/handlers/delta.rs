//! Pages of changes in the order of the commits (`docs/wire-extensions.md`).

use axum::{http::StatusCode, response::Response};
use datasync_core::query::{Evaluator, QueryDescription};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::Request;
use crate::{
    error::{self, Refusal},
    page::Page,
    repository::{Place, RowQuery},
};

const NAME: &str = "__delta";

/// The token of a request for changes; empty for the first page.
pub(super) fn token<'p>(request: &Request, parameters: &'p [(String, String)]) -> Option<&'p str> {
    let asked = parameters.iter().find(|(name, _)| request.table.extensions && name.eq_ignore_ascii_case(NAME));
    asked.map(|(_, value)| value.as_str())
}

/// A place, and the epoch that it is good for: `{epoch}.{milliseconds}.{sequence}`.
fn read(text: &str) -> Option<(Uuid, Place)> {
    let mut parts = text.splitn(3, '.');
    let epoch = Uuid::try_parse(parts.next()?).ok()?;
    let updated_at = Timestamp::from_millisecond(parts.next()?.parse().ok()?).ok()?;
    let sequence = parts.next()?.parse().ok()?;
    Some((epoch, Place { updated_at, sequence }))
}

fn write(epoch: Uuid, place: Option<Place>) -> String {
    let place = place.unwrap_or(Place { updated_at: Timestamp::UNIX_EPOCH, sequence: 0 });
    let millis = place.updated_at.as_nanosecond().div_euclid(1_000_000);
    format!("{}.{millis}.{}", epoch.simple(), place.sequence)
}

pub(super) async fn page(
    request: &Request,
    query: &QueryDescription,
    seen: QueryDescription,
    evaluator: Evaluator,
    limit: usize,
    token: &str,
) -> Result<Response, Refusal> {
    let refuse = |message: &str| Err(Refusal::because(StatusCode::BAD_REQUEST, message));
    if !query.order.is_empty() || query.skip > 0 || !query.select.is_empty() {
        return refuse("`$orderby`, `$skip` and `$select` cannot stand beside `__delta`.");
    }
    let repository = &request.table.repository;
    let epoch = repository.epoch().await?;
    let asked = match token {
        "" => None,
        token => match read(token) {
            Some(asked) => Some(asked),
            None => return refuse("The token in `__delta` cannot be read."),
        },
    };
    let restart = asked.is_some_and(|(of, _)| of != epoch);
    let since = asked.filter(|(of, place)| *of == epoch && place.sequence > 0).map(|(_, place)| place);
    let total = match query.count {
        true => {
            let count = RowQuery { description: seen, evaluator: evaluator.clone(), include_deleted: true, limit: 0 };
            repository.query(count).await?.total
        }
        false => None,
    };
    let found = repository.changes(since, evaluator, limit).await?;
    let items = found.rows.iter().map(|row| request.answer(row, &[])).collect();
    let mut delta = json!({ "token": write(epoch, found.place), "more": found.more });
    if restart {
        delta["restart"] = true.into();
    }
    let page = Page { items, count: total, next_link: None, delta: Some(delta) };
    Ok(error::json(StatusCode::OK, &page))
}
