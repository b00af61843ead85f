//! Creations, replacements and deletions.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use datasync_core::{
    clock::random_key,
    schema::{DELETED, ID},
};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::{
    Request, content_type, entity,
    keys::{look_up, replay},
};
use crate::{
    access::TableOperation,
    body::{self, Members, Sent},
    error::Refusal,
    preconditions::{self, Verdict},
    repository::{Action, Change, Forget, Idempotency, Row, WriteOutcome},
};

/// The longest id, in bytes: what can still stand in a path.
const MAX_ID: usize = 1024;
/// What of an id stands in a path as it is.
const ID_IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// The body of a creation or replacement: of a JSON type, an object, and valid.
fn sent(request: &Request) -> Result<Sent, Refusal> {
    let kind = content_type(request);
    if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json")) {
        return Err(Refusal::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    body::valid(&request.table.options, request.table.dialect, &request.body)
}

pub(crate) async fn create(request: &Request, caller: &str) -> Result<Response, Refusal> {
    let sent = sent(request)?;
    if sent.id.len() > MAX_ID {
        return Err(Refusal::because(StatusCode::BAD_REQUEST, "The id is longer than 1024 bytes."));
    }
    let Sent { id, deleted, mut members } = sent;
    if !id.is_empty() {
        members.values.insert(ID.to_owned(), id.as_str().into());
    }
    request.authorize(caller, TableOperation::Create, Some(&members.values)).await?;
    let (key, effect) = look_up(request, caller, "POST", &id, StatusCode::CREATED).await?;
    if let Some(effect) = effect {
        return replay(request, key.as_ref(), &effect);
    }
    let id = match id.as_str() {
        "" => random_key(&*request.table.clock).simple().to_string(),
        id => id.to_owned(),
    };
    before_commit(request, caller, TableOperation::Create, &mut members.values).await?;
    let action = Action::Create(members.keep(&id, deleted));
    match commit(request, &id, action, None, key.clone()).await? {
        WriteOutcome::Done(row) => {
            after_commit(request, caller, TableOperation::Create, &row).await;
            let mut response = entity(request, StatusCode::CREATED, &row);
            if let Ok(location) = HeaderValue::from_str(&location(request, &id)) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Ok(response)
        }
        // A row outside the caller's view is not shown, as in the Toolkit's service; Azure's shows it.
        WriteOutcome::Conflict(row) if !request.is_azure() && !request.sees(caller, &row)? => {
            Err(Refusal::empty(StatusCode::BAD_REQUEST))
        }
        WriteOutcome::Conflict(row) => Ok(entity(request, StatusCode::CONFLICT, &row)),
        WriteOutcome::Missing => Err(Refusal::empty(StatusCode::NOT_FOUND)),
        WriteOutcome::Replayed(effect) => replay(request, key.as_ref(), &effect),
    }
}

fn location(request: &Request, id: &str) -> String {
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.map_or_else(String::new, |host| format!("http://{host}"));
    format!("{host}{}/{}", request.uri.path().trim_end_matches('/'), utf8_percent_encode(id, ID_IN_PATH))
}

pub(super) async fn before_commit(
    request: &Request,
    caller: &str,
    operation: TableOperation,
    fields: &mut Map<String, Value>,
) -> Result<(), Refusal> {
    let refused = request.table.options.access.before_commit(caller, operation, fields).await;
    refused.map_err(|reason| Refusal::because(StatusCode::BAD_REQUEST, reason))
}

async fn after_commit(request: &Request, caller: &str, operation: TableOperation, row: &Row) {
    request.table.options.access.after_commit(caller, operation, &request.object(row)).await;
}

pub(super) async fn commit(
    request: &Request,
    id: &str,
    action: Action,
    expected: Option<String>,
    key: Option<Idempotency>,
) -> Result<WriteOutcome, Refusal> {
    let table = &request.table;
    let now = table.clock.now();
    // Who does not know of restarts must not be kept from learning of a deletion.
    let forget = table.extensions.then(|| Forget {
        before: now.checked_sub(table.remembered).unwrap_or(Timestamp::MIN),
        tombstones: table.options.soft_delete,
    });
    let outcome = table.repository.write(Change { id: id.into(), action, expected, now, key, forget }).await?;
    if matches!(outcome, WriteOutcome::Done(_)) {
        table.hub.tell(table.place);
    }
    Ok(outcome)
}

/// What a change of a row has passed.
pub(super) enum Passed {
    /// Every check: this is the row, the version that it then must have, and the key.
    Go { row: Row, expected: Option<String>, key: Option<Idempotency> },
    /// The change has its answer.
    Answer(Response),
}

/// Everything that a change of a row must pass.
pub(super) async fn existing(
    request: &Request,
    caller: &str,
    (verb, operation): (&str, TableOperation),
    id: &str,
    revives: bool,
) -> Result<Passed, Refusal> {
    let status = if verb == "DELETE" { StatusCode::NO_CONTENT } else { StatusCode::OK };
    let mut row = request.table.repository.read(id).await?;
    if let Some(there) = &row
        && !request.sees(caller, there)?
    {
        row = None;
    }
    let (key, effect) = look_up(request, caller, verb, id, status).await?;
    // A row that is gone may be the caller's own doing.
    let about = row.as_ref().or(effect.as_ref().map(|effect| &effect.row));
    let about = about.ok_or_else(|| Refusal::empty(StatusCode::NOT_FOUND))?;
    request.authorize(caller, operation, Some(&request.object(about))).await?;
    if let Some(effect) = effect {
        return replay(request, key.as_ref(), &effect).map(Passed::Answer);
    }
    let row = row.ok_or_else(|| Refusal::empty(StatusCode::NOT_FOUND))?;
    if request.table.options.soft_delete && row.record.deleted && !revives {
        return Err(Refusal::empty(StatusCode::GONE));
    }
    match preconditions::evaluate(&request.headers, &row, false, request.table.dialect) {
        Verdict::Holds { matched } => {
            let expected = row.record.version.clone().filter(|_| matched);
            Ok(Passed::Go { row, expected, key })
        }
        Verdict::NotModified | Verdict::Failed => {
            Ok(Passed::Answer(entity(request, StatusCode::PRECONDITION_FAILED, &row)))
        }
    }
}

/// The answer to what became of a change of a row.
pub(super) async fn done(
    request: &Request,
    caller: &str,
    operation: TableOperation,
    outcome: WriteOutcome,
    key: Option<&Idempotency>,
) -> Result<Response, Refusal> {
    match outcome {
        WriteOutcome::Done(row) => {
            after_commit(request, caller, operation, &row).await;
            Ok(entity(request, StatusCode::OK, &row))
        }
        WriteOutcome::Conflict(row) if request.headers.contains_key(header::IF_MATCH) => {
            Ok(entity(request, StatusCode::PRECONDITION_FAILED, &row))
        }
        WriteOutcome::Conflict(row) => Ok(entity(request, StatusCode::CONFLICT, &row)),
        WriteOutcome::Missing => Err(Refusal::empty(StatusCode::NOT_FOUND)),
        WriteOutcome::Replayed(effect) => replay(request, key, &effect),
    }
}

pub(crate) async fn replace(request: &Request, caller: &str, id: &str) -> Result<Response, Refusal> {
    let mut sent = sent(request)?;
    if sent.id != id {
        return Err(Refusal::empty(StatusCode::BAD_REQUEST));
    }
    let revives = !request.is_azure() && request.includes_deleted();
    let (expected, key) = match existing(request, caller, ("PUT", TableOperation::Update), id, revives).await? {
        Passed::Go { expected, key, .. } => (expected, key),
        Passed::Answer(response) => return Ok(response),
    };
    before_commit(request, caller, TableOperation::Update, &mut sent.members.values).await?;
    let action = Action::Replace(sent.members.keep(id, sent.deleted));
    let outcome = commit(request, id, action, expected, key.clone()).await?;
    done(request, caller, TableOperation::Update, outcome, key.as_ref()).await
}

pub(crate) async fn delete(request: &Request, caller: &str, id: &str) -> Result<Response, Refusal> {
    let (row, expected, key) = match existing(request, caller, ("DELETE", TableOperation::Delete), id, false).await? {
        Passed::Go { row, expected, key } => (row, expected, key),
        Passed::Answer(response) => return Ok(response),
    };
    let soft = request.table.options.soft_delete;
    let (operation, action, expected) = if soft {
        let mut members = Members::of_row(&request.table.options, &row);
        members.values.insert(DELETED.to_owned(), true.into());
        // The Toolkit calls a soft deletion an update where Azure calls it a deletion.
        let operation = if request.is_azure() { TableOperation::Delete } else { TableOperation::Update };
        before_commit(request, caller, operation, &mut members.values).await?;
        // The row is written again as it was read: a change in between is a conflict, and not lost.
        let read = expected.or_else(|| row.record.version.clone());
        (operation, Action::Replace(members.keep(id, true)), read)
    } else {
        (TableOperation::Delete, Action::Remove, expected)
    };
    let outcome = commit(request, id, action, expected, key.clone()).await?;
    let made = matches!(outcome, WriteOutcome::Done(_));
    let response = done(request, caller, operation, outcome, key.as_ref()).await?;
    Ok(if made { StatusCode::NO_CONTENT.into_response() } else { response })
}
