//! The error of the public API.

use std::{error::Error as StdError, fmt, path::Path, sync::Arc};

use crate::{
    client::{Conflict, PendingChange},
    entity::InvalidId,
    row::RowKey,
    store::{Salvaged, StoreError, StoreErrorKind},
    transport::{TransportError, TransportErrorKind},
};

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A row of that id exists: use `replace` or `upsert`.
    Exists,
    /// There is no row of that id: use `insert` or `upsert`.
    NotFound,
    /// The id does not follow the rule for ids.
    InvalidId,
    /// An entity could not be written as JSON, or stored JSON could not be read as the entity.
    InvalidEntity,
    /// A query names a property that the table does not have, or compares what cannot be compared.
    InvalidQuery,
    /// The configuration or the builder's arguments contradict each other; the message names the key.
    InvalidConfig,
    /// The client has no table of that name; the message lists those it has.
    UnknownTable,
    /// A purge would drop changes that were not sent: [`Error::pending`] lists them.
    Pending,
    /// The row could not be migrated to the schema of this release, and waits for a migration that was mended: see
    /// [`DatasyncClient::quarantined`](crate::client::DatasyncClient::quarantined).
    Quarantined,
    /// A newer release of the app has written the store: update the app. Nothing was changed.
    NewerSchema,
    /// The conflict is no longer the one that was shown: [`Error::conflict`] has the one there is.
    ConflictChanged,
    /// The rules of its table cannot settle the conflict: [`Error::conflict`] has it, and the message says which fields
    /// somebody has to decide about.
    Undecided,
    /// The service has another version of the row, or already has it: seen by a remote table, and by who waits for a
    /// change in [`Written::acked`](crate::client::Written::acked).
    Conflict,
    /// The change waits for somebody: the service refused it, or failed at it too often.
    Parked,
    /// The change left the queue before the service had it: it was discarded, purged, or deleted again.
    Dropped,
    /// A transaction met other commits each time that it ran: try again later.
    Contended,
    /// The handle of a transaction was used after its closure had returned.
    Ended,
    /// The pull was overtaken by a purge or reset of its table: pull again.
    Overtaken,
    /// The service cannot be reached. Nothing is lost: try again when there is a network.
    Unreachable,
    /// The service does not accept the sign-in, or nobody is signed in.
    Unauthenticated,
    /// It belongs to another account than the one that is signed in; nothing was sent or changed.
    OtherAccount,
    /// The name cannot be the name of an account.
    InvalidAccount,
    /// The service failed or refused; the source says how.
    Service,
    /// The local store failed; the source says how.
    Store,
}

/// An error of a client or a table.
///
/// It can be cloned, because one push or pull may end for several callers.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    pending: Vec<PendingChange>,
    conflict: Option<Box<Conflict>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner { kind, message: message.into(), pending: Vec::new(), conflict: None, source: None }))
    }

    pub(crate) fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        let (message, source) = (message.into(), Some(source.into()));
        Error(Arc::new(Inner { kind, message, pending: Vec::new(), conflict: None, source }))
    }

    /// The error of a call that would change a row in quarantine.
    pub(crate) fn quarantined(key: &RowKey) -> Error {
        let message = format!(
            "{key:?} could not be migrated to this release's schema: update the app, or export the row and discard it with \
             `discard_quarantined`"
        );
        Error::new(ErrorKind::Quarantined, message)
    }

    pub(crate) fn with_pending(message: String, pending: Vec<PendingChange>) -> Error {
        Error(Arc::new(Inner { kind: ErrorKind::Pending, message, pending, conflict: None, source: None }))
    }

    /// The same error with another one as its cause.
    pub(crate) fn because(self, cause: Error) -> Error {
        let (kind, pending) = (self.kind(), self.pending().to_vec());
        let message = format!("{self} ({cause})");
        Error(Arc::new(Inner { kind, message, pending, conflict: None, source: Some(Box::new(cause)) }))
    }

    pub(crate) fn conflict_changed(message: &str, conflict: Option<Conflict>) -> Error {
        Error::with_conflict(ErrorKind::ConflictChanged, message, conflict)
    }

    pub(crate) fn with_conflict(kind: ErrorKind, message: impl Into<String>, conflict: Option<Conflict>) -> Error {
        let (message, conflict) = (message.into(), conflict.map(Box::new));
        Error(Arc::new(Inner { kind, message, pending: Vec::new(), conflict, source: None }))
    }

    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the service has refused the sign-in itself.
    pub(crate) fn is_refused_sign_in(&self) -> bool {
        let source = self.0.source.as_ref().and_then(|source| source.downcast_ref::<TransportError>());
        source.is_some_and(|error| error.kind() == TransportErrorKind::Unauthenticated)
    }

    /// Exports what can still be read of a damaged store: see [`StoreError::salvage`].
    ///
    /// # Errors
    ///
    /// As there; [`StoreErrorKind::Unsupported`](crate::store::StoreErrorKind::Unsupported) if this is another error.
    pub fn salvage(&self, to: impl AsRef<Path>) -> Result<Salvaged, StoreError> {
        match self.0.source.as_ref().and_then(|source| source.downcast_ref::<StoreError>()) {
            Some(error) => error.salvage(to),
            None => StoreError::new(StoreErrorKind::Unsupported, "").salvage(to),
        }
    }

    /// The unsent changes that a refused purge would have dropped.
    #[must_use]
    pub fn pending(&self) -> &[PendingChange] {
        &self.0.pending
    }

    /// The conflict as it is, if a resolution named one that has changed or did not settle it, or a change waits in it;
    /// `None` if it is gone.
    #[must_use]
    pub fn conflict(&self) -> Option<&Conflict> {
        self.0.conflict.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        Error::caused(ErrorKind::Store, format!("the local store failed: {error}"), error)
    }
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Error {
        let (kind, what) = match error.kind() {
            TransportErrorKind::Connect | TransportErrorKind::Interrupted | TransportErrorKind::Timeout => {
                (ErrorKind::Unreachable, "the service cannot be reached")
            }
            TransportErrorKind::Unauthenticated => (ErrorKind::Unauthenticated, "the service asks for a sign-in"),
            TransportErrorKind::OtherAccount => (ErrorKind::OtherAccount, "nothing was sent"),
            _ => (ErrorKind::Service, "the service did not do it"),
        };
        Error::caused(kind, format!("{what}: {error}"), error)
    }
}

impl From<InvalidId> for Error {
    fn from(error: InvalidId) -> Error {
        Error::caused(ErrorKind::InvalidId, error.to_string(), error)
    }
}
