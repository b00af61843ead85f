//! Answers that are no success.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use datasync_core::query::{Dialect, QueryError};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::repository::RepositoryError;

const JSON: &str = "application/json; charset=utf-8";
/// RFC 9457, as ASP.NET answers what it refuses by itself.
const PROBLEM: &str = "application/problem+json; charset=utf-8";

/// A refusal, with the body that the reference gives it.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    body: Option<(&'static str, Value)>,
}

impl Refusal {
    pub(crate) fn empty(status: StatusCode) -> Refusal {
        Refusal { status, body: None }
    }

    /// A status with a sentence, as a JSON text.
    pub(crate) fn because(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, body: Some((JSON, Value::String(message.into()))) }
    }

    /// A problem that Azure's service answers, with 400.
    pub(crate) fn problem(title: &str, mut problem: Map<String, Value>) -> Refusal {
        let status = StatusCode::BAD_REQUEST;
        problem.insert("title".to_owned(), title.into());
        problem.insert("status".to_owned(), status.as_u16().into());
        Refusal { status, body: Some((PROBLEM, Value::Object(problem))) }
    }

    /// A row that did not pass the validation: one message each, as .NET writes its `ValidationResult`; Azure's service answers
    /// a problem with them.
    pub(crate) fn invalid(messages: Vec<String>, dialect: Dialect) -> Refusal {
        if dialect == Dialect::Azure {
            let errors = json!({ "": messages });
            let problem = Map::from_iter([("errors".to_owned(), errors)]);
            return Refusal::problem("One or more validation errors occurred.", problem);
        }
        let list = messages.into_iter().map(|message| json!({ "errorMessage": message })).collect();
        Refusal { status: StatusCode::BAD_REQUEST, body: Some((JSON, Value::Array(list))) }
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Refusal {
        Refusal::because(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<RepositoryError> for Refusal {
    /// What went wrong inside is told to the operator, and not to a client.
    fn from(error: RepositoryError) -> Refusal {
        tracing::error!("a request could not be answered: {error}");
        Refusal::empty(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self.body {
            None => self.status.into_response(),
            Some((kind, body)) => of_kind(self.status, kind, &body),
        }
    }
}

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    of_kind(status, JSON, body)
}

fn of_kind(status: StatusCode, kind: &'static str, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
