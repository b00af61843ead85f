//! Who may do what, as in Datasync's `IAccessControlProvider`.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use axum::http::HeaderMap;
use datasync_core::query::Expr;
use serde_json::{Map, Value};

/// What a request does to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableOperation {
    /// Adds a row.
    Create,
    /// Removes a row. A soft delete is asked about as this, and committed as an [`Update`](TableOperation::Update).
    Delete,
    /// Queries the table.
    Query,
    /// Reads a row.
    Read,
    /// Replaces or undeletes a row.
    Update,
}

/// Decides about the requests to a table, and hears of its changes.
///
/// The order of the checks is the reference's: the row exists, it is in the caller's view, the caller is authorized,
/// it is not deleted, the preconditions hold. A stored row is given as its JSON object, system properties included; a new
/// one has its data fields, and its id if the client gave one.
#[async_trait]
pub trait AccessControl: fmt::Debug + Send + Sync + 'static {
    /// The name of who asks, by the headers of a request; empty for everybody, which is the default. Idempotency keys
    /// belong to it.
    fn caller(&self, headers: &HeaderMap) -> Arc<str> {
        let _ = headers;
        "".into()
    }

    /// The rows that a caller sees; `None` for all, which is the default. A condition that does not fit the table is
    /// answered with 500, and shows nothing.
    fn view(&self, caller: &str) -> Option<Expr> {
        let _ = caller;
        None
    }

    /// Whether the caller may do this: to the stored row, or to the new one of a creation; a query has none. Yes by
    /// default.
    async fn authorize(&self, caller: &str, operation: TableOperation, row: Option<&Map<String, Value>>) -> bool {
        let _ = (caller, operation, row);
        true
    }

    /// Looks at a row that is about to be stored, and may change its data fields. Not called for a removal for good.
    ///
    /// # Errors
    ///
    /// A sentence for the client: the request is answered with 400, and nothing is changed.
    async fn before_commit(
        &self,
        caller: &str,
        operation: TableOperation,
        row: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let _ = (caller, operation, row);
        Ok(())
    }

    /// Hears of a change that was made, once; a replay is none.
    async fn after_commit(&self, caller: &str, operation: TableOperation, row: &Map<String, Value>) {
        let _ = (caller, operation, row);
    }
}

/// Everybody may do everything.
#[derive(Debug)]
pub(crate) struct OpenToAll;

impl AccessControl for OpenToAll {}
