//! What the dialect of Azure Mobile Apps adds: versions of the protocol, PATCH, and its pages.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use datasync_core::schema::{DELETED, ID, UPDATED_AT, VERSION};
use serde_json::{Map, Value, json};

use super::{
    Request,
    write::{Passed, before_commit, commit, done, existing},
};
use crate::{access::TableOperation, body, error::Refusal, page, repository::Action};

/// The version of the protocol that a request names.
const PARAMETER: &str = "zumo-api-version";

/// The version of the protocol that a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Lists without an envelope.
    V2,
    V3,
}

/// The version that the request names; the parameter beats the header.
pub(super) fn version(request: &Request) -> Result<Version, Refusal> {
    let parameters = page::parameters(request.uri.query());
    let parameter = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(PARAMETER)).map(|(_, value)| value);
    let header = request.headers.get(PARAMETER).and_then(|value| value.to_str().ok());
    let (named, invalid) = match (parameter, header) {
        (Some(value), _) => (Some(value.as_str()), "Invalid ZUMO-API-VERSION Query Parameter"),
        (None, header) => (header, "Invalid ZUMO-API-VERSION Header"),
    };
    let Some(named) = named else { return Err(problem("Missing ZUMO-API-VERSION")) };
    let plain = |part: &str| part.len() == 1 && part.bytes().all(|byte| byte.is_ascii_digit());
    match named.split('.').collect::<Vec<_>>().as_slice() {
        ["2", "0"] => Ok(Version::V2),
        ["3", "0"] => Ok(Version::V3),
        ["2", "0", part] if plain(part) => Ok(Version::V2),
        ["3", "0", part] if plain(part) => Ok(Version::V3),
        _ => Err(problem(invalid)),
    }
}

fn problem(title: &str) -> Refusal {
    let problem = json!({ "title": title, "status": StatusCode::BAD_REQUEST.as_u16() });
    Refusal::with(StatusCode::BAD_REQUEST, problem)
}

/// The options of a query of version 2, as those of version 3.
pub(super) fn modern(parameters: Vec<(String, String)>) -> Vec<(String, String)> {
    let counts = |(name, value): &(String, String)| name == "$inlinecount" && value == "allpages";
    let wants_count = parameters.iter().any(counts);
    let mut options: Vec<(String, String)> =
        parameters.into_iter().filter(|(name, _)| name != "$inlinecount").collect();
    if wants_count {
        options.push(("$count".to_owned(), "true".to_owned()));
    }
    options
}

/// The page of a query in the envelope of its version.
pub(super) fn envelope(version: Version, items: Vec<Value>, count: Option<u64>, next: Option<String>) -> Value {
    match (version, count) {
        (Version::V3, count) => json!({ "items": items, "count": count, "nextLink": next }),
        (Version::V2, Some(count)) => json!({ "results": items, "count": count }),
        (Version::V2, None) => Value::Array(items),
    }
}

/// The link to the next page: the options as they came, but for `$skip` and `$top`, which come last; the whole URL, or
/// from the path on if the request asks so.
pub(super) fn next_link(request: &Request, skip: u64, top: Option<u64>, returned: u64) -> Option<String> {
    let top = top.map(|top| top.saturating_sub(returned));
    if top == Some(0) {
        return None;
    }
    let raw = request.uri.query().unwrap_or_default();
    let kept =
        raw.split('&').filter(|part| !part.is_empty() && !part.starts_with("$skip=") && !part.starts_with("$top="));
    let mut parts: Vec<String> = kept.map(str::to_owned).collect();
    parts.push(format!("$skip={}", skip.saturating_add(returned)));
    parts.extend(top.map(|top| format!("$top={top}")));
    let link = format!("{}?{}", request.uri.path(), parts.join("&"));
    if option(request, "nextlink=path") {
        return Some(link);
    }
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    Some(format!("http://{}{link}", host.strip_suffix(":80").unwrap_or(host)))
}

/// Whether the request's `X-ZUMO-Options` is this.
pub(super) fn option(request: &Request, wanted: &str) -> bool {
    let options = request.headers.get("x-zumo-options").map(HeaderValue::as_bytes);
    options.is_some_and(|options| options.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// What a PATCH does to a row.
enum Patch {
    /// Each member replaces that of the row.
    Merge(Map<String, Value>),
    /// RFC 6902.
    Operations(json_patch::Patch),
}

fn read(request: &Request) -> Result<Patch, Refusal> {
    let malformed = |error: serde_json::Error| {
        Refusal::because(StatusCode::BAD_REQUEST, format!("The body is not a patch: {error}."))
    };
    match super::content_type(request).as_str() {
        "application/json-patch+json" => {
            serde_json::from_slice(&request.body).map(Patch::Operations).map_err(malformed)
        }
        "application/json" | "application/merge-patch+json" => {
            serde_json::from_slice(&request.body).map(Patch::Merge).map_err(malformed)
        }
        _ => Err(Refusal::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
    }
}

/// The row with the patch in it.
fn apply(patch: Patch, row: Map<String, Value>) -> Result<Map<String, Value>, Refusal> {
    match patch {
        Patch::Merge(members) => {
            let mut patched = row;
            patched.extend(members);
            Ok(patched)
        }
        Patch::Operations(operations) => {
            let mut patched = Value::Object(row);
            json_patch::patch(&mut patched, &operations).map_err(|error| {
                Refusal::because(StatusCode::BAD_REQUEST, format!("The patch cannot be applied: {error}."))
            })?;
            match patched {
                Value::Object(patched) => Ok(patched),
                _ => Err(Refusal::because(StatusCode::BAD_REQUEST, "The patch leaves no object.")),
            }
        }
    }
}

pub(super) async fn patch(request: &Request, caller: &str, id: &str) -> Result<Response, Refusal> {
    let patch = read(request)?;
    let (row, expected, key) = match existing(request, caller, ("PATCH", TableOperation::Update), id, true).await? {
        Passed::Go { row, expected, key } => (row, expected, key),
        Passed::Answer(response) => return Ok(response),
    };
    let stored = request.object(&row);
    let patched = apply(patch, stored.clone())?;
    if request.table.options.soft_delete && row.record.deleted && patched.get(DELETED) != Some(&Value::Bool(false)) {
        return Err(Refusal::empty(StatusCode::GONE));
    }
    let changed: Vec<&str> =
        [ID, VERSION, UPDATED_AT].into_iter().filter(|name| patched.get(*name) != stored.get(*name)).collect();
    if !changed.is_empty() {
        let message = format!("The service's own properties cannot be patched: {}.", changed.join(", "));
        return Err(Refusal::because(StatusCode::BAD_REQUEST, message));
    }
    let bytes = Value::Object(patched).to_string();
    let mut sent = body::valid(&request.table.options, bytes.as_bytes())?;
    before_commit(request, caller, TableOperation::Update, &mut sent.fields).await?;
    let action = Action::Replace(body::keep(id, sent.fields, sent.deleted));
    // The row is written again as it was read: a change in between is a conflict, and not lost.
    let read = expected.or_else(|| row.record.version.clone());
    let outcome = commit(request, id, action, read, key.clone()).await?;
    done(request, caller, TableOperation::Update, outcome, key.as_ref()).await
}
