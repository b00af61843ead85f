//! Creations, replacements and deletions.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use datasync_core::clock::random_key;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Request, entity,
    keys::{Keyed, look_up},
};
use crate::{
    body::{self, Sent},
    error::Refusal,
    page,
    preconditions::{self, Verdict},
    repository::{Row, WriteOutcome},
};

/// The longest id, in bytes: what can still stand in a path.
const MAX_ID: usize = 1024;
/// What of an id stands in a path as it is.
const ID: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// The body of a creation or replacement: of a JSON type, an object, and valid.
fn sent(request: &Request) -> Result<Sent, Refusal> {
    let kind = request.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json")) {
        return Err(Refusal::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let options = &request.table.options;
    let sent = body::read(&options.schema, &request.body);
    let sent = sent.map_err(|reason| Refusal::because(StatusCode::BAD_REQUEST, reason))?;
    let sent = sent.ok_or_else(|| Refusal::empty(StatusCode::BAD_REQUEST))?;
    let messages = options.validate.as_ref().map_or_else(Vec::new, |validate| validate(&sent.fields));
    if !messages.is_empty() {
        return Err(Refusal::invalid(messages));
    }
    Ok(sent)
}

pub(crate) async fn create(request: &Request) -> Result<Response, Refusal> {
    let sent = sent(request)?;
    if sent.id.len() > MAX_ID {
        return Err(Refusal::because(StatusCode::BAD_REQUEST, "The id is longer than 1024 bytes."));
    }
    let now = request.table.clock.now();
    let key = match look_up(request, "POST", &sent.id, StatusCode::CREATED, now).await? {
        Keyed::Replay(response) => return Ok(response),
        Keyed::Fresh(key) => key,
    };
    let id = match sent.id.as_str() {
        "" => random_key(&*request.table.clock).simple().to_string(),
        id => id.to_owned(),
    };
    let deleted = sent.deleted;
    let row = body::keep(&id, sent, deleted);
    Ok(match request.table.repository.create(row, now, key).await? {
        WriteOutcome::Done(row) => {
            let mut response = entity(request, StatusCode::CREATED, &row);
            if let Ok(location) = HeaderValue::from_str(&location(request, &id)) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        WriteOutcome::Conflict(row) => entity(request, StatusCode::CONFLICT, &row),
        WriteOutcome::Missing => StatusCode::NOT_FOUND.into_response(),
    })
}

fn location(request: &Request, id: &str) -> String {
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.map_or_else(String::new, |host| format!("http://{host}"));
    format!("{host}{}/{}", request.uri.path().trim_end_matches('/'), utf8_percent_encode(id, ID))
}

/// The row that a change is about, after every check that it must pass; and the version that it then must have.
async fn existing(
    request: &Request,
    id: &str,
    revives: bool,
) -> Result<(Row, Option<String>), Result<Response, Refusal>> {
    let row = request.table.repository.read(id).await.map_err(|error| Err(error.into()))?;
    let row = row.ok_or_else(|| Err(Refusal::empty(StatusCode::NOT_FOUND)))?;
    if request.table.options.soft_delete && row.record.deleted && !revives {
        return Err(Err(Refusal::empty(StatusCode::GONE)));
    }
    match preconditions::evaluate(&request.headers, &row, false) {
        Verdict::Holds { matched } => {
            let expected = row.record.version.clone().filter(|_| matched);
            Ok((row, expected))
        }
        Verdict::NotModified | Verdict::Failed => Err(Ok(entity(request, StatusCode::PRECONDITION_FAILED, &row))),
    }
}

fn written(request: &Request, outcome: WriteOutcome, expected: bool) -> Response {
    match outcome {
        WriteOutcome::Done(row) => entity(request, StatusCode::OK, &row),
        WriteOutcome::Conflict(row) if expected => entity(request, StatusCode::PRECONDITION_FAILED, &row),
        WriteOutcome::Conflict(row) => entity(request, StatusCode::CONFLICT, &row),
        WriteOutcome::Missing => StatusCode::NOT_FOUND.into_response(),
    }
}

pub(crate) async fn replace(request: &Request, id: &str) -> Result<Response, Refusal> {
    let sent = sent(request)?;
    if sent.id != id {
        return Err(Refusal::empty(StatusCode::BAD_REQUEST));
    }
    let now = request.table.clock.now();
    let key = match look_up(request, "PUT", id, StatusCode::OK, now).await? {
        Keyed::Replay(response) => return Ok(response),
        Keyed::Fresh(key) => key,
    };
    let revives = page::wants_deleted(&page::parameters(request.query.as_deref()));
    let expected = match existing(request, id, revives).await {
        Ok((_, expected)) => expected,
        Err(answer) => return answer,
    };
    let deleted = sent.deleted;
    let row = body::keep(id, sent, deleted);
    let outcome = request.table.repository.replace(row, expected.as_deref(), now, key).await?;
    Ok(written(request, outcome, expected.is_some()))
}

pub(crate) async fn delete(request: &Request, id: &str) -> Result<Response, Refusal> {
    let now = request.table.clock.now();
    let key = match look_up(request, "DELETE", id, StatusCode::NO_CONTENT, now).await? {
        Keyed::Replay(response) => return Ok(response),
        Keyed::Fresh(key) => key,
    };
    let (row, expected) = match existing(request, id, false).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let repository = &request.table.repository;
    let outcome = if request.table.options.soft_delete {
        let mut row = row;
        row.record.deleted = true;
        repository.replace(row, expected.as_deref(), now, key).await?
    } else {
        repository.delete(id, expected.as_deref(), now, key).await?
    };
    Ok(match outcome {
        WriteOutcome::Done(_) => StatusCode::NO_CONTENT.into_response(),
        outcome => written(request, outcome, expected.is_some()),
    })
}
