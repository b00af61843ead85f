//! Errors of redb as errors of a store.

use std::io;

use datasync_core::store::{StoreError, StoreErrorKind};
use redb::{DatabaseError, StorageError};

pub(crate) fn corrupted(what: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupted, format!("the store is damaged: {}", what.into()))
}

pub(crate) fn failed(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    let (kind, message) = match &error {
        redb::Error::Corrupted(what) => (StoreErrorKind::Corrupted, format!("the store is damaged: {what}")),
        redb::Error::DatabaseAlreadyOpen => (
            StoreErrorKind::AlreadyOpen,
            "the store is open in another process, or by another handle of this one: close that first".to_owned(),
        ),
        redb::Error::UpgradeRequired(version) => (
            StoreErrorKind::NewerFormat,
            format!("the file has redb's format {version}, which this release cannot read"),
        ),
        redb::Error::DatabaseClosed => (StoreErrorKind::Closed, "the store has been closed: open it again".to_owned()),
        redb::Error::PreviousIo => {
            (StoreErrorKind::Io, "an earlier write failed: try again, or close the store and open it again".to_owned())
        }
        redb::Error::Io(io) => return of_io(io, "the store cannot be read or written").with_source(error),
        other => (StoreErrorKind::Io, format!("the store cannot be read or written: {other}")),
    };
    StoreError::new(kind, message).with_source(error)
}

/// An error of the system: a full disk is one of its own.
pub(crate) fn of_io(error: &io::Error, what: &str) -> StoreError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => {
            let message = format!("{what}: the disk is full. Nothing was lost: free some space and try again");
            StoreError::new(StoreErrorKind::Full, message)
        }
        _ => StoreError::new(StoreErrorKind::Io, format!("{what}: {error}")),
    }
}

/// An error of opening: what cannot be read to its end is cut short.
pub(crate) fn opening(error: DatabaseError) -> StoreError {
    match &error {
        DatabaseError::Storage(StorageError::Io(io)) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            corrupted("the file is cut short").with_source(error)
        }
        DatabaseError::Storage(StorageError::Io(io)) if io.kind() == std::io::ErrorKind::InvalidData => {
            StoreError::new(StoreErrorKind::NotAStore, "the file is not a store: choose another path")
                .with_source(error)
        }
        DatabaseError::LockProtocolMismatch => failed(DatabaseError::DatabaseAlreadyOpen),
        _ => failed(error),
    }
}

/// Runs what reads a file. On some damaged files redb panics where it finds what cannot be; to an app that is damage.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(corrupted("what redb found in the file makes no sense to it")))
}
