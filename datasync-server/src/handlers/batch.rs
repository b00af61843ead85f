//! Several changes in one request (`docs/wire-extensions.md`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    body::{Bytes, to_bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures::stream::{self, StreamExt};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Request, answer, keys::REPLAYED};
use crate::{error::Refusal, router::Table};

/// How many operations a batch may hold.
pub(crate) const MOST_OPERATIONS: usize = 1_000;
/// How many paths of a batch are worked on at once: what they share commits with, and what is in memory for them.
const AT_ONCE: usize = 100;
/// How long the bodies of all outcomes are together, at most, in bytes. Others are left out: a client reads those rows
/// by their ids.
const BYTES: usize = 8 * 1024 * 1024;

#[derive(Deserialize)]
struct Sent {
    operations: Vec<Operation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Operation {
    method: String,
    path: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    if_match: Option<String>,
    #[serde(default)]
    include_deleted: bool,
    #[serde(default)]
    body: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Answered {
    outcomes: Vec<Outcome>,
}

#[derive(Default, Serialize)]
struct Outcome {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
}

/// Answers a batch: operations of one row in their order, those of different rows at once, so that a repository can
/// commit them together.
pub(crate) async fn batch(tables: &[(String, Arc<Table>)], headers: &HeaderMap, body: &Bytes) -> Response {
    let refuse = |status, message: String| Refusal::because(status, message).into_response();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/json") {
        return Refusal::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE).into_response();
    }
    let sent: Sent = match serde_json::from_slice(body) {
        Ok(sent) => sent,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("The body is not a batch: {error}.")),
    };
    if sent.operations.len() > MOST_OPERATIONS {
        let message = format!("A batch holds at most {MOST_OPERATIONS} operations.");
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, message);
    }
    let mut outcomes: Vec<Outcome> = sent.operations.iter().map(|_| Outcome::default()).collect();
    // In the order in which each path first came: the order of the commits must not hang on chance.
    let mut rows: Vec<Vec<(usize, &Operation)>> = Vec::new();
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, operation) in sent.operations.iter().enumerate() {
        // Creations share the path of their table, and have nothing to do with one another.
        let of_row = match operation.method.as_str() {
            "POST" => rows.len(),
            _ => *known.entry(&operation.path).or_insert(rows.len()),
        };
        match rows.get_mut(of_row) {
            Some(row) => row.push((place, operation)),
            None => rows.push(vec![(place, operation)]),
        }
    }
    let left = &AtomicUsize::new(BYTES);
    let of_rows: Vec<_> = rows
        .into_iter()
        .map(|operations| async move {
            let mut done = Vec::with_capacity(operations.len());
            for (place, operation) in operations {
                done.push((place, one(tables, headers, operation, left).await));
            }
            done
        })
        .collect();
    let mut of_rows = stream::iter(of_rows).buffered(AT_ONCE);
    while let Some(done) = of_rows.next().await {
        for (place, outcome) in done {
            if let Some(slot) = outcomes.get_mut(place) {
                *slot = outcome;
            }
        }
    }
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    match serde_json::to_vec(&Answered { outcomes }) {
        Ok(body) => (StatusCode::OK, [(header::CONTENT_TYPE, kind)], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Does one operation. Its body takes from what is `left` for all.
async fn one(
    tables: &[(String, Arc<Table>)],
    headers: &HeaderMap,
    operation: &Operation,
    left: &AtomicUsize,
) -> Outcome {
    let response = match request(tables, headers, operation) {
        Ok((request, method, id)) => answer(&request, &method, id.as_deref()).await,
        Err(refusal) => refusal.into_response(),
    };
    let status = response.status().as_u16();
    let replayed = response.headers().contains_key(REPLAYED);
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
    let text = String::from_utf8(bytes.to_vec()).ok().filter(|text| !text.is_empty());
    let fits = |text: &String| {
        let rest = |left: usize| left.checked_sub(text.len());
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    };
    let body = text.filter(fits).and_then(|text| RawValue::from_string(text).ok());
    Outcome { status, body, replayed }
}

/// The request that an operation stands for.
fn request(
    tables: &[(String, Arc<Table>)],
    headers: &HeaderMap,
    operation: &Operation,
) -> Result<(Request, Method, Option<String>), Refusal> {
    let path = format!("/{}", operation.path.trim_matches('/'));
    let found = tables.iter().find_map(|(known, table)| match path.strip_prefix(known.as_str())? {
        "" => Some((table, None)),
        rest => {
            let id = rest.strip_prefix('/').filter(|id| !id.contains('/'))?;
            Some((table, Some(percent_decode_str(id).decode_utf8().ok()?.into_owned())))
        }
    });
    let (table, id) = found.ok_or_else(|| Refusal::empty(StatusCode::NOT_FOUND))?;
    let bad = |message: &str| Refusal::because(StatusCode::BAD_REQUEST, message);
    let query = if operation.include_deleted { "?__includedeleted=true" } else { "" };
    let uri: Uri = format!("{path}{query}").parse().map_err(|_| bad("The path is not one."))?;
    let method = match operation.method.as_str() {
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        _ => return Err(Refusal::empty(StatusCode::METHOD_NOT_ALLOWED)),
    };
    let mut headers = headers.clone();
    let given: [(HeaderName, Option<String>); 3] = [
        (header::CONTENT_TYPE, operation.body.as_ref().map(|_| "application/json".to_owned())),
        (header::IF_MATCH, operation.if_match.as_ref().map(|version| format!("\"{version}\""))),
        (HeaderName::from_static("idempotency-key"), operation.key.clone()),
    ];
    for (name, value) in given {
        headers.remove(&name);
        if let Some(value) = value {
            headers.insert(name, HeaderValue::from_str(&value).map_err(|_| bad("A value cannot stand in a header."))?);
        }
    }
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE] {
        headers.remove(name);
    }
    let body = operation.body.as_ref().map(|body| Bytes::copy_from_slice(body.get().as_bytes())).unwrap_or_default();
    Ok((Request::new(Arc::clone(table), uri, headers, body)?, method, id))
}
