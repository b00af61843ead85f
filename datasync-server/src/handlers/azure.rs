//! What the dialect of Azure Mobile Apps adds: versions of the protocol, PATCH, and its pages.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use datasync_core::{
    query::{milliseconds, timestamp},
    schema::{DELETED, ID, UPDATED_AT, VERSION},
};
use json_patch::Patch;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, value::RawValue};

use super::{
    Request,
    write::{Passed, before_commit, commit, done, existing},
};
use crate::{
    access::TableOperation,
    body::{self, Members},
    error::{self, Refusal},
    page::Page,
    repository::Action,
};

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
    let parameter =
        request.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(PARAMETER)).map(|(_, value)| value);
    let header = request.headers.get(PARAMETER).and_then(|value| value.to_str().ok());
    let (named, invalid) = match (parameter, header) {
        (Some(value), _) => (Some(value.as_str()), "Invalid ZUMO-API-VERSION Query Parameter"),
        (None, header) => (header, "Invalid ZUMO-API-VERSION Header"),
    };
    let problem = |title| Refusal::problem(title, Map::new());
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

/// The options of a query of version 2, as those of version 3.
pub(super) fn modern(parameters: &[(String, String)]) -> Vec<(String, String)> {
    let counts = |(name, value): &(String, String)| name == "$inlinecount" && value == "allpages";
    let mut options: Vec<(String, String)> =
        parameters.iter().filter(|(name, _)| name != "$inlinecount").cloned().collect();
    if parameters.iter().any(counts) {
        options.push(("$count".to_owned(), "true".to_owned()));
    }
    options
}

/// A page of version 2: a list, or with a count the list and the count. There is no link.
pub(super) fn old_page(page: &Page) -> Response {
    match page.count {
        None => error::json(StatusCode::OK, &page.items),
        Some(count) => {
            #[derive(Serialize)]
            struct Counted<'p> {
                results: &'p [Box<RawValue>],
                count: u64,
            }
            error::json(StatusCode::OK, &Counted { results: &page.items, count })
        }
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
enum Change {
    /// Each member replaces that of the row.
    Merge(Members),
    /// RFC 6902, and the values in it as they came.
    Operations(Patch, Members),
}

fn read(request: &Request) -> Result<Change, Refusal> {
    let bad = |reason: String| Refusal::because(StatusCode::BAD_REQUEST, reason);
    let no_patch = |error: serde_json::Error| bad(format!("The body is no patch: {error}."));
    let mut given = Members::default();
    match super::content_type(request).as_str() {
        "application/json-patch+json" => {
            let mut operations: Vec<Operation> = serde_json::from_slice(&request.body).map_err(no_patch)?;
            for operation in &mut operations {
                operation.name(request);
                if let (Some(value), Some(name)) = (&operation.value, operation.path.strip_prefix('/')) {
                    given.set(name, value.clone()).map_err(no_patch)?;
                }
            }
            let patch = serde_json::to_value(&operations).and_then(serde_json::from_value).map_err(no_patch)?;
            Ok(Change::Operations(patch, given))
        }
        "application/json" | "application/merge-patch+json" => {
            let members = body::members(&request.body).map_err(bad)?;
            for (name, text) in members.ok_or_else(|| Refusal::empty(StatusCode::BAD_REQUEST))? {
                given.set(&known_name(request, &name).unwrap_or(name), text).map_err(no_patch)?;
            }
            Ok(Change::Merge(given))
        }
        _ => Err(Refusal::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
    }
}

/// The row with the change in it.
fn apply(change: Change, stored: &Members) -> Result<Members, Refusal> {
    match change {
        Change::Merge(given) => {
            let mut values = stored.values.clone();
            values.extend(given.values.clone());
            Ok(stored.clone().with_texts_of(&given).with_values(values))
        }
        Change::Operations(patch, given) => {
            let bad = |reason: String| Refusal::because(StatusCode::BAD_REQUEST, reason);
            let mut row = Value::Object(stored.values.clone());
            json_patch::patch(&mut row, &patch)
                .map_err(|error| bad(format!("The patch cannot be applied: {error}.")))?;
            match row {
                Value::Object(values) => Ok(stored.clone().with_texts_of(&given).with_values(values)),
                _ => Err(bad("The patch leaves no object.".to_owned())),
            }
        }
    }
}

/// An operation of RFC 6902, with its value as it came.
#[derive(Serialize, Deserialize)]
struct Operation {
    op: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
}

/// A member that is there, even if it is null.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl Operation {
    /// Properties are found without regard to case, as by the reference.
    fn name(&mut self, request: &Request) {
        for path in [Some(&mut self.path), self.from.as_mut()].into_iter().flatten() {
            let Some((name, rest)) = path.strip_prefix('/').map(|path| path.split_once('/').unwrap_or((path, "")))
            else {
                continue;
            };
            if let Some(known) = known_name(request, name) {
                *path = if rest.is_empty() { format!("/{known}") } else { format!("/{known}/{rest}") };
            }
        }
    }
}

/// The name of a property as it is written.
fn known_name(request: &Request, name: &str) -> Option<String> {
    let fields = request.table.options.schema.fields.iter().map(|field| field.name.as_ref());
    let known = fields.chain([ID, VERSION, UPDATED_AT, DELETED]).find(|known| known.eq_ignore_ascii_case(name));
    known.map(str::to_owned)
}

/// Whether a patch leaves a property of the service alone; times count by their milliseconds.
fn is_same(name: &str, stored: &Value, patched: Option<&Value>) -> bool {
    let millis = |value: &Value| value.as_str().and_then(timestamp).map(milliseconds);
    match patched {
        Some(patched) if name == UPDATED_AT => patched == stored || millis(patched) == millis(stored),
        patched => patched == Some(stored),
    }
}

pub(super) async fn patch(request: &Request, caller: &str, id: &str) -> Result<Response, Refusal> {
    let change = read(request)?;
    let (row, expected, key) = match existing(request, caller, ("PATCH", TableOperation::Update), id, true).await? {
        Passed::Go { row, expected, key } => (row, expected, key),
        Passed::Answer(response) => return Ok(response),
    };
    let options = &request.table.options;
    let stored = Members::of_row(options, &row);
    let patched = apply(change, &stored)?;
    if options.soft_delete && row.record.deleted && patched.values.get(DELETED) != Some(&Value::Bool(false)) {
        return Err(Refusal::empty(StatusCode::GONE));
    }
    let changed: Vec<String> = [ID, VERSION, UPDATED_AT]
        .into_iter()
        .filter(|name| !is_same(name, &stored.values[*name], patched.values.get(*name)))
        .map(|name| {
            let sent = patched.values.get(name).unwrap_or(&Value::Null);
            format!("`{name}` is {}, and cannot become {sent}.", stored.values[name])
        })
        .collect();
    if !changed.is_empty() {
        return Err(Refusal::invalid(changed, request.table.dialect));
    }
    let mut sent = body::valid(options, request.table.dialect, &patched.to_json())?;
    before_commit(request, caller, TableOperation::Update, &mut sent.members.values).await?;
    let action = Action::Replace(sent.members.keep(id, sent.deleted));
    // The row is written again as it was read: a change in between is a conflict, and not lost.
    let read = expected.or_else(|| row.record.version.clone());
    let outcome = commit(request, id, action, read, key.clone()).await?;
    done(request, caller, TableOperation::Update, outcome, key.as_ref()).await
}
