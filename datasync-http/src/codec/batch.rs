//! Several operations in one request (`docs/wire-extensions.md`).

use datasync_core::{
    row::OperationKind,
    transport::{PushOperation, PushOutcome, TransportError, TransportErrorKind},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    codec::{
        request::{self, Endpoints},
        response,
        sent::Sent,
    },
    exchange::{HttpRequest, HttpResponse, Method},
};

#[derive(Serialize)]
struct Batch<'a> {
    operations: Vec<Operation<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Operation<'a> {
    method: &'static str,
    path: String,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    include_deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Answered<'a> {
    #[serde(borrow)]
    outcomes: Vec<Outcome<'a>>,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    status: u16,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

/// The request of a batch; `None` if an operation cannot be in one, or its table is not below the base.
pub(crate) fn request(endpoints: &Endpoints, operations: &[PushOperation]) -> Option<HttpRequest> {
    let operations = operations.iter().map(|operation| one(endpoints, operation)).collect::<Option<Vec<_>>>()?;
    let mut request = request::request(Method::Post, endpoints.below("$batch"));
    request.headers.push(("content-type".into(), "application/json".to_owned()));
    request.body = serde_json::to_vec(&Batch { operations }).ok()?;
    Some(request)
}

fn one<'a>(endpoints: &Endpoints, operation: &'a PushOperation) -> Option<Operation<'a>> {
    // What could not be sent alone is refused alone.
    let alone = request::change(endpoints, operation).ok()?;
    let path = alone.url.path().strip_prefix(endpoints.base().path())?.to_owned();
    let body = match alone.body.as_slice() {
        [] => None,
        body => Some(serde_json::from_slice(body).ok()?),
    };
    Some(Operation {
        method: alone.method.as_str(),
        path,
        key: operation.key.as_hyphenated().to_string(),
        if_match: operation.version.as_deref().filter(|_| operation.kind != OperationKind::Insert),
        include_deleted: operation.kind == OperationKind::Undelete,
        body,
    })
}

/// What an answer to a batch says.
#[derive(Debug)]
pub(crate) enum Answer {
    /// One outcome for each operation.
    Each(Vec<PushOutcome>),
    /// Nothing was done: the service takes no batch, or none so large.
    Refused,
    /// All have this in common.
    All(TransportError),
}

pub(crate) fn answer(response: &HttpResponse, operations: &[PushOperation], sent: &Sent) -> Answer {
    match response.status {
        200 => match serde_json::from_slice::<Answered<'_>>(&response.body) {
            Ok(answered) => Answer::Each(each(answered, operations, sent)),
            Err(_) => Answer::All(response::unreadable("a batch", response)),
        },
        401 | 408 | 425 | 429 => Answer::All(response::failure(response, sent)),
        400..=499 => Answer::Refused,
        _ => Answer::All(response::failure(response, sent)),
    }
}

/// An operation without an outcome is in doubt, and it alone.
fn each(answered: Answered<'_>, operations: &[PushOperation], sent: &Sent) -> Vec<PushOutcome> {
    let mut outcomes = answered.outcomes.into_iter();
    let outcome = |operation: &PushOperation| match outcomes.next() {
        Some(Outcome { status, body }) => {
            let body = body.map(|body| body.get().as_bytes().to_vec()).unwrap_or_default();
            response::outcome(&HttpResponse { status, headers: Vec::new(), body }, &operation.id, sent)
        }
        None => {
            let message = "the answer to a batch has no outcome for this operation";
            PushOutcome::Failed(TransportError::new(TransportErrorKind::Protocol, message))
        }
    };
    operations.iter().map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datasync_core::{query::Dialect, row::Body};
    use serde_json::json;
    use url::Url;
    use uuid::Uuid;

    use super::*;

    fn operation(id: &str, kind: OperationKind) -> PushOperation {
        let body = (kind != OperationKind::Delete).then(|| Body::from(&br#"{"n":1.10}"#[..]));
        let version = Some("AQ==".to_owned());
        let (account, table, id, key) = ("".into(), "notes".into(), id.into(), Uuid::nil());
        PushOperation { account, table, id, kind, key, version, body, base: None }
    }

    #[test]
    fn a_batch_says_of_each_operation_what_it_says_alone() {
        let endpoints = Endpoints::new(Url::parse("http://h/sub").unwrap(), BTreeMap::new(), Dialect::Toolkit);
        let kinds = [OperationKind::Insert, OperationKind::Replace, OperationKind::Undelete, OperationKind::Delete];
        let operations: Vec<_> = kinds.into_iter().map(|kind| operation("a b", kind)).collect();
        let request = request(&endpoints, &operations).unwrap();
        assert_eq!((request.method, request.url.as_str()), (Method::Post, "http://h/sub/$batch"));
        let key = Uuid::nil().to_string();
        let body = String::from_utf8(request.body).unwrap();
        assert!(body.contains(r#""body":{"n":1.10}"#), "the bytes stay as they are");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap()["operations"],
            json!([
                { "method": "POST", "path": "tables/notes", "key": key, "body": { "n": 1.1 } },
                { "method": "PUT", "path": "tables/notes/a%20b", "key": key, "ifMatch": "AQ==", "body": { "n": 1.1 } },
                { "method": "PUT", "path": "tables/notes/a%20b", "key": key, "ifMatch": "AQ==", "includeDeleted": true, "body": { "n": 1.1 } },
                { "method": "DELETE", "path": "tables/notes/a%20b", "key": key, "ifMatch": "AQ==" },
            ])
        );
    }

    #[test]
    fn i05_an_operation_without_an_outcome_is_in_doubt_and_it_alone() {
        let operations = [operation("1", OperationKind::Insert), operation("2", OperationKind::Delete)];
        let response = |status, body: &str| HttpResponse { status, headers: Vec::new(), body: body.into() };
        let read = |status, body: &str| format!("{:?}", answer(&response(status, body), &operations, &Sent::default()));
        let Answer::Each(outcomes) =
            answer(&response(200, r#"{"outcomes":[{"status":201,"body":{"id":"1"}}]}"#), &operations, &Sent::default())
        else {
            panic!("an outcome each")
        };
        assert!(matches!(&outcomes[0], PushOutcome::Applied(Some(row)) if &*row.id == "1"));
        assert!(matches!(&outcomes[1], PushOutcome::Failed(error) if error.kind().in_doubt()));
        for status in [400, 403, 404, 405, 413, 415] {
            assert_eq!(read(status, ""), "Refused", "{status}");
        }
        for (status, body) in [(200, "<html>"), (200, ""), (200, "{}"), (500, ""), (401, ""), (429, "")] {
            assert!(read(status, body).starts_with("All"), "{status} {body}");
        }
    }
}
