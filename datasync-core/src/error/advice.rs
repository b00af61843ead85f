//! What to do about an error, in a sentence for the developer of the app.

use super::{Error, ErrorKind, SyncPhase};
use crate::store::StoreErrorKind;

impl ErrorKind {
    /// What to do about it, in a sentence for the developer of the app. [`Error::advice`] knows more.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            ErrorKind::Exists => "use `replace` or `upsert`, or another id",
            ErrorKind::NotFound => "use `insert` or `upsert`, or pull the row first",
            ErrorKind::InvalidId => {
                "use 1 to 127 ASCII letters, digits and `_ . | : -`, the first a letter or digit, or an empty id"
            }
            ErrorKind::InvalidEntity => "give fields that were added a default, or register a migration",
            ErrorKind::InvalidQuery => "mend the query: the message says where it is wrong",
            ErrorKind::InvalidConfig => "mend the configuration or the builder's arguments: the message names the key",
            ErrorKind::UnknownTable => "add the table to the builder, or use one that it has",
            ErrorKind::Pending => "push what is listed, or force it to be dropped",
            ErrorKind::ConflictChanged => "look at the conflict as it is now, and decide again",
            ErrorKind::Undecided => "decide about the fields that the message names",
            ErrorKind::Quarantined => "update the app, or export the row and discard it",
            ErrorKind::NewerSchema => "update the app: the store is as it was",
            ErrorKind::Conflict => "read the row again, and decide which side is to stay",
            ErrorKind::Parked => "edit the row, retry the change or discard it",
            ErrorKind::Dropped => "write the change again if it is still wanted",
            ErrorKind::Contended => "call again later: nothing was changed",
            ErrorKind::Ended => "use the handle of a transaction within its closure only",
            ErrorKind::Overtaken => "pull again",
            ErrorKind::Unreachable => "try again when there is a network: nothing is lost",
            ErrorKind::Unauthenticated => "sign in again, then push or pull: nothing is lost",
            ErrorKind::OtherAccount => "call `sign_in` with the account that is signed in, or sign that one in again",
            ErrorKind::InvalidAccount => "use a name of 1 to 256 bytes without control characters",
            ErrorKind::Service => "look at the status, and at what the service says: trying again may help",
            ErrorKind::Store => "look at the message, and at the source if there is one",
        }
    }
}

impl StoreErrorKind {
    /// What to do about it, in a sentence for the developer of the app.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            StoreErrorKind::Superseded => "let one client alone use the store, then call again: nothing was changed",
            StoreErrorKind::OutcomeUnknown => "read what was to be written: it is there as a whole, or not at all",
            StoreErrorKind::AlreadyOpen => "close what has the store open: another client, or another program",
            StoreErrorKind::NotAStore => "name a store or a file that does not exist yet: this one is as it was",
            StoreErrorKind::NewerFormat => "update the app: the store is as it was",
            StoreErrorKind::Corrupted => "export what can still be read with `salvage`, and begin with another store",
            StoreErrorKind::Full => "make room on the disk, then call again: nothing was changed",
            StoreErrorKind::Io => "look at the source, then call again: what was written before is safe",
            StoreErrorKind::Closed => "build a client again: what was written before is safe",
            StoreErrorKind::Unsupported => "use a store that can do what was asked of it",
        }
    }
}

impl Error {
    /// What to do about it, in a sentence for the developer of the app: by its kind, by that of a
    /// [store's error](Error::store_kind), and by what was under way.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match (self.kind(), self.store_kind(), self.phase()) {
            (ErrorKind::Store, Some(kind), _) => kind.advice(),
            (ErrorKind::NotFound, _, Some(SyncPhase::Decide | SyncPhase::Read)) => {
                "list what there is once more: it was sent, decided about or removed, or never was there"
            }
            (ErrorKind::Conflict, ..) if self.conflict().is_some() => "settle it with `resolve`, or discard the change",
            (ErrorKind::ConflictChanged, ..) if self.conflict().is_none() => {
                "list the conflicts once more: this one is settled"
            }
            (kind, ..) => kind.advice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn the_advice_of_a_damaged_store_is_to_salvage_it_and_promises_nothing() {
        let of = |kind| Error::from(StoreError::new(kind, "")).advice();
        assert!(of(StoreErrorKind::Corrupted).contains("`salvage`"));
        for kind in [StoreErrorKind::Corrupted, StoreErrorKind::NewerFormat, StoreErrorKind::AlreadyOpen] {
            assert!(!of(kind).contains("is safe"), "{kind:?}");
            assert_ne!(of(kind), ErrorKind::Store.advice());
        }
        assert!(of(StoreErrorKind::Full).contains("room on the disk"));
        assert!(of(StoreErrorKind::Closed).contains("build a client"));
        assert!(!Error::new(ErrorKind::Store, "").advice().contains("is safe"), "nobody knows");
    }

    #[test]
    fn the_advice_of_what_was_not_found_fits_what_was_asked() {
        let missing = || Error::new(ErrorKind::NotFound, "");
        assert!(missing().during(SyncPhase::Write).advice().contains("`insert`"));
        for phase in [SyncPhase::Decide, SyncPhase::Read] {
            assert!(!missing().during(phase).advice().contains("`insert`"), "{phase}");
        }
    }
}
