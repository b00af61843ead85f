//! What goes wrong in a store, and what can still be read of a damaged one.

use std::{error::Error as StdError, fmt, path::Path, sync::Arc};

/// What went wrong in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Another commit took the number of this batch: nothing was changed. The engine reads and plans again.
    Superseded,
    /// The batch may have happened or not. The engine reads [`Store::head`](crate::store::Store::head) and decides. An app gets it only if that says
    /// nothing: the store keeps losing its answers, or several clients share it and another one has gone further since.
    OutcomeUnknown,
    /// Another process, or another handle of this one, has the store open.
    AlreadyOpen,
    /// The file is not a store of this kind.
    NotAStore,
    /// The store was written by a newer release.
    NewerFormat,
    /// The store's content is damaged.
    Corrupted,
    /// There is no space left on the disk: nothing was changed.
    Full,
    /// The system refused to read or to write.
    Io,
    /// The store has been closed.
    Closed,
    /// The store was asked for what it does not have.
    Unsupported,
}

/// What can still be read of a damaged store.
pub trait Salvage: fmt::Debug + Send + Sync {
    /// Writes it into a new file, and never to the store. Blocks. `told` is called again and again with how far it is; the
    /// last call says that all is done.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Io`] if there is something at `to` already, it cannot be written, or the system refuses to read.
    fn salvage(&self, to: &Path, told: &mut dyn FnMut(SalvageProgress)) -> Result<Salvaged, StoreError>;
}

/// How far the salvage of a damaged store is, in bytes of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SalvageProgress {
    /// How many were looked at.
    pub done: u64,
    /// How many there are to look at, at most.
    pub total: u64,
}

/// What was salvaged of a damaged store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvaged {
    /// How many rows.
    pub rows: u64,
    /// How many queued operations; they stand behind their rows.
    pub operations: u64,
    /// How many settled losers.
    pub losers: u64,
    /// How many of the rows and losers were found where the store is damaged: these may be changed by the damage, of an
    /// older state, or removed since. Their lines, and those of their operations, begin with `"certain":false`.
    pub uncertain: u64,
}

/// An error of a store.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    damaged: Option<Arc<dyn Salvage>>,
}

impl StoreError {
    /// An error of this kind; `message` says what to do.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> StoreError {
        StoreError { kind, message: message.into(), source: None, damaged: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> StoreError {
        self.source = Some(source.into());
        self
    }

    /// Adds the damaged store, so that what is left of it can be exported.
    #[must_use]
    pub fn with_salvage(mut self, damaged: Arc<dyn Salvage>) -> StoreError {
        self.damaged = Some(damaged);
        self
    }

    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Exports what can still be read of the store that this error found [damaged](StoreErrorKind::Corrupted) into the new
    /// file `to`: rows, queued operations and settled losers, each on a line of JSON (see [`export`](crate::export)).
    /// The damaged store is only read. Blocks while it does.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unsupported`] if this is no error of a damaged file; [`StoreErrorKind::Io`] if there is something at
    /// `to` already, it cannot be written, or the system refuses to read.
    pub fn salvage(&self, to: impl AsRef<Path>) -> Result<Salvaged, StoreError> {
        self.salvage_telling(to, |_| {})
    }

    /// [`salvage`](StoreError::salvage), and tells how far it is.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn salvage_telling(
        &self,
        to: impl AsRef<Path>,
        mut told: impl FnMut(SalvageProgress),
    ) -> Result<Salvaged, StoreError> {
        match &self.damaged {
            Some(damaged) => damaged.salvage(to.as_ref(), &mut told),
            None => {
                let message = "there is nothing to salvage: this is not the error of a damaged file";
                Err(StoreError::new(StoreErrorKind::Unsupported, message))
            }
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.damaged {
            Some(_) => f.write_str(" (`salvage` of this error exports what can still be read)"),
            None => Ok(()),
        }
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
