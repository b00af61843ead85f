//! The error of the public API.

mod advice;
mod context;

use std::{error::Error as StdError, fmt, path::Path, sync::Arc};

pub(crate) use self::context::Context;
use crate::{
    client::{Conflict, PendingChange},
    entity::InvalidId,
    row::{OperationKind, RowKey},
    store::{SalvageProgress, Salvaged, StoreError, StoreErrorKind},
    transport::{TransportError, TransportErrorKind},
};

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A row of that id exists: use `replace` or `upsert`.
    Exists,
    /// There is no row of that id to change, or nothing of it that could be decided about or exported.
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
    /// The service has another version of the row, or already has it: seen by a remote table, by who waits for a change in
    /// [`Written::acked`](crate::client::Written::acked), and by a retry of what waits in a conflict.
    Conflict,
    /// The change waits for somebody: the service refused it, or failed at it too often.
    Parked,
    /// The change left the queue before the service had it: it was discarded, purged, or deleted again.
    Dropped,
    /// A transaction met other commits, or a discard further pushes of the row, each time that it was tried: try again later.
    Contended,
    /// The handle of a transaction was used after its closure had returned.
    Ended,
    /// A pull or a comparison was overtaken by a purge or reset of its table: call again.
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
    /// The local store failed: [`Error::store_kind`] says in which way, and the source how.
    Store,
}

/// What was under way when an error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SyncPhase {
    /// A read of the local store.
    Read,
    /// A local write.
    Write,
    /// A push.
    Push,
    /// A pull.
    Pull,
    /// A comparison of the local rows with the service.
    Verify,
    /// A request of a remote table.
    Remote,
    /// A purge, a reset or a sign-out.
    Leave,
    /// A decision about what waits or has lost, or whose it is: retry, discard, resolve, adopt, sign-in.
    Decide,
    /// The opening of the store, with new indexes and migrations, or its closing.
    Open,
}

impl fmt::Display for SyncPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SyncPhase::Read => "read",
            SyncPhase::Write => "write",
            SyncPhase::Push => "push",
            SyncPhase::Pull => "pull",
            SyncPhase::Verify => "verify",
            SyncPhase::Remote => "remote request",
            SyncPhase::Leave => "purge, reset or sign-out",
            SyncPhase::Decide => "decision",
            SyncPhase::Open => "opening or closing",
        })
    }
}

/// An error of a client or a table.
///
/// It can be cloned, because one push or pull may end for several callers. Beside its text it has what a program needs:
/// where it happened, what was tried, and what to do.
///
/// ```
/// # use datasync_core::{client::DatasyncClient, error::Error};
/// # fn report(error: &Error) {
/// eprintln!("{error}: {}", error.advice());
/// if let (Some(table), Some(id)) = (error.table(), error.id()) {
///     eprintln!("the row is {table}/{id}, the status {:?}", error.status());
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    table: Option<Arc<str>>,
    id: Option<Arc<str>>,
    operation: Option<OperationKind>,
    phase: Option<SyncPhase>,
    status: Option<u16>,
    tried: Option<String>,
    pending: Vec<PendingChange>,
    conflict: Option<Box<Conflict>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            message: message.into(),
            table: None,
            id: None,
            operation: None,
            phase: None,
            status: None,
            tried: None,
            pending: Vec::new(),
            conflict: None,
            source: None,
        }))
    }

    fn set(mut self, change: impl FnOnce(&mut Inner)) -> Error {
        change(Arc::make_mut(&mut self.0));
        self
    }

    pub(crate) fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        Error::new(kind, message).set(|inner| inner.source = Some(source.into().into()))
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
        Error::new(ErrorKind::Pending, message).set(|inner| inner.pending = pending)
    }

    /// The same error with another one as its cause.
    pub(crate) fn because(self, cause: Error) -> Error {
        self.set(|inner| {
            inner.message = format!("{} ({cause})", inner.message);
            inner.source = Some(Arc::new(cause));
        })
    }

    pub(crate) fn conflict_changed(message: &str, conflict: Option<Conflict>) -> Error {
        Error::with_conflict(ErrorKind::ConflictChanged, message, conflict)
    }

    pub(crate) fn with_conflict(kind: ErrorKind, message: impl Into<String>, conflict: Option<Conflict>) -> Error {
        Error::new(kind, message).set(|inner| inner.conflict = conflict.map(Box::new))
    }

    /// The table that it is about, unless it names one already.
    pub(crate) fn of(self, table: &str) -> Error {
        self.set(|inner| _ = inner.table.get_or_insert_with(|| table.into()))
    }

    /// The row that it is about, unless it names one already.
    pub(crate) fn at(self, table: &str, id: &str) -> Error {
        self.of(table).set(|inner| _ = inner.id.get_or_insert_with(|| id.into()))
    }

    /// What was to be done to the row, unless it says so already.
    pub(crate) fn doing(self, operation: OperationKind) -> Error {
        self.set(|inner| _ = inner.operation.get_or_insert(operation))
    }

    /// What was under way, unless it says so already.
    pub(crate) fn during(self, phase: SyncPhase) -> Error {
        self.set(|inner| _ = inner.phase.get_or_insert(phase))
    }

    /// What was tried, unless it says so already: "sending …", "fetching …".
    pub(crate) fn trying(self, tried: impl FnOnce() -> String) -> Error {
        self.set(|inner| _ = inner.tried.get_or_insert_with(tried))
    }

    pub(crate) fn with_status(self, status: Option<u16>) -> Error {
        self.set(|inner| inner.status = inner.status.or(status))
    }

    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// In which way the local store failed, if it did.
    #[must_use]
    pub fn store_kind(&self) -> Option<StoreErrorKind> {
        self.store_error().map(StoreError::kind)
    }

    fn store_error(&self) -> Option<&StoreError> {
        self.0.source.as_ref()?.downcast_ref()
    }

    /// The table that it is about.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        self.0.table.as_deref()
    }

    /// The row that it is about.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.0.id.as_deref()
    }

    /// What was to be done to the row.
    #[must_use]
    pub fn operation(&self) -> Option<OperationKind> {
        self.0.operation
    }

    /// What was under way.
    #[must_use]
    pub fn phase(&self) -> Option<SyncPhase> {
        self.0.phase
    }

    /// The status of the service's answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// What was tried; its text has it too.
    #[must_use]
    pub fn tried(&self) -> Option<&str> {
        self.0.tried.as_deref()
    }

    /// Whether a failure of the store may pass: the disk is full, or does not answer now.
    pub(crate) fn passes(&self) -> bool {
        use StoreErrorKind::{Full, Io, OutcomeUnknown, Superseded};
        matches!(self.store_kind(), Some(Full | Io | OutcomeUnknown | Superseded))
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
    /// As there; [`StoreErrorKind::Unsupported`] if this is another error.
    pub fn salvage(&self, to: impl AsRef<Path>) -> Result<Salvaged, StoreError> {
        self.salvage_telling(to, |_| {})
    }

    /// [`salvage`](Error::salvage), and tells how far it is.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn salvage_telling(
        &self,
        to: impl AsRef<Path>,
        told: impl FnMut(SalvageProgress),
    ) -> Result<Salvaged, StoreError> {
        match self.store_error() {
            Some(error) => error.salvage_telling(to, told),
            None => StoreError::new(StoreErrorKind::Unsupported, "").salvage_telling(to, told),
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
        f.write_str(&self.0.message)?;
        match &self.0.tried {
            Some(tried) => write!(f, " (while {tried})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &inner.kind).field("message", &inner.message);
        let mut some = |name: &str, value: Option<&dyn fmt::Debug>| {
            if let Some(value) = value {
                debug.field(name, value);
            }
        };
        some("phase", inner.phase.as_ref().map(|value| value as _));
        some("table", inner.table.as_ref().map(|value| value as _));
        some("id", inner.id.as_ref().map(|value| value as _));
        some("operation", inner.operation.as_ref().map(|value| value as _));
        some("status", inner.status.as_ref().map(|value| value as _));
        some("tried", inner.tried.as_ref().map(|value| value as _));
        some("source", inner.source.as_ref().map(|value| value as _));
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
        let status = error.status();
        Error::caused(kind, format!("{what}: {error}"), error).with_status(status)
    }
}

impl From<InvalidId> for Error {
    fn from(error: InvalidId) -> Error {
        Error::caused(ErrorKind::InvalidId, error.to_string(), error)
    }
}
