//! The open file, and how it is opened again after the disk has failed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use datasync_core::store::{StoreError, StoreErrorKind};
use redb::Database;

use crate::{error::guarded, keys, open};

pub(crate) struct Shared {
    /// `None` once the store is closed.
    database: RwLock<Option<Database>>,
    /// The file and the size of its cache; `None` for a storage of the app's own, which cannot be opened again.
    file: Option<(PathBuf, usize)>,
    /// Whether the disk has failed since the file was opened: redb then refuses everything.
    broken: AtomicBool,
    /// The numbers of the indexes, by table and text.
    pub(crate) indexes: RwLock<BTreeMap<Vec<u8>, u32>>,
}

fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Closed, "the store has been closed: open it again")
}

impl Shared {
    pub(crate) fn new(database: Database, file: Option<(PathBuf, usize)>) -> Shared {
        let (broken, indexes) = Default::default();
        Shared { database: RwLock::new(Some(database)), file, broken, indexes }
    }

    /// Does something with the database, beside others.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.mend()?;
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let result = guarded(|| database.as_ref().ok_or_else(closed).and_then(work));
        self.note(&result);
        result
    }

    /// Does something with the database, alone.
    pub(crate) fn alone<T>(&self, work: impl FnOnce(&mut Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.mend()?;
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let result = guarded(|| database.as_mut().ok_or_else(closed).and_then(work));
        self.note(&result);
        result
    }

    /// Whether a failure of the disk is followed by opening the file again.
    pub(crate) fn can_be_reopened(&self) -> bool {
        self.file.is_some()
    }

    pub(crate) fn close(&self) -> Option<Database> {
        self.database.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn index_number(&self, table: &str, index: &str) -> Option<u32> {
        let indexes = self.indexes.read().unwrap_or_else(PoisonError::into_inner);
        indexes.get(&index_name(table, index)).copied()
    }

    fn note<T>(&self, result: &Result<T, StoreError>) {
        use StoreErrorKind::{Full, Io, OutcomeUnknown};
        if let Err(error) = result
            && matches!(error.kind(), Full | Io | OutcomeUnknown)
        {
            self.broken.store(true, Ordering::SeqCst);
        }
    }

    /// Opens the file again if the disk has failed. What was committed is there, and what was not is not.
    fn mend(&self) -> Result<(), StoreError> {
        if !self.broken.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Some((path, cache)) = &self.file else { return Ok(()) };
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() || !self.broken.load(Ordering::SeqCst) {
            return Ok(());
        }
        // Dropped before it is opened again: a file cannot be open twice. If it cannot be opened now, a storage in
        // memory takes its place, which is never asked for anything while the store is broken.
        *database = redb::Builder::new().create_with_backend(redb::backends::InMemoryBackend::new()).ok();
        *database = Some(open::file(path, *cache)?);
        self.broken.store(false, Ordering::SeqCst);
        Ok(())
    }
}

pub(crate) fn index_name(table: &str, index: &str) -> Vec<u8> {
    let mut name = keys::table("", table);
    name.extend_from_slice(index.as_bytes());
    name
}
