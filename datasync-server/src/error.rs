//! Answers that are no success.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use datasync_core::query::QueryError;
use serde_json::Value;

use crate::repository::RepositoryError;

/// A refusal, with the body that the reference gives it.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    body: Option<Value>,
}

impl Refusal {
    pub(crate) fn empty(status: StatusCode) -> Refusal {
        Refusal { status, body: None }
    }

    /// A status with a sentence, as a JSON text.
    pub(crate) fn because(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, body: Some(Value::String(message.into())) }
    }

    /// A status with a body.
    pub(crate) fn with(status: StatusCode, body: Value) -> Refusal {
        Refusal { status, body: Some(body) }
    }

    /// A row that did not pass the validation: one message each, as .NET writes its `ValidationResult`.
    pub(crate) fn invalid(messages: Vec<String>) -> Refusal {
        let list = messages.into_iter().map(|message| serde_json::json!({ "errorMessage": message })).collect();
        Refusal { status: StatusCode::BAD_REQUEST, body: Some(Value::Array(list)) }
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
            Some(body) => json(self.status, &body),
        }
    }
}

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, body: &Value) -> Response {
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    (status, [(header::CONTENT_TYPE, kind)], body.to_string()).into_response()
}
