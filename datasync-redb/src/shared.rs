//! The open file, and how it is opened again after the disk has failed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use datasync_core::store::{StoreError, StoreErrorKind};
use redb::Database;

use crate::{error::guarded, keys, open, salvage::Damaged};

pub(crate) struct Shared {
    /// `None` once the store is closed.
    database: RwLock<Option<Database>>,
    /// The file and the size of its cache; `None` for a storage of the app's own, which cannot be opened again.
    file: Option<(PathBuf, usize)>,
    /// Whether the file is only looked at so far, and must be opened before something is written.
    looking: AtomicBool,
    /// Whether the disk has failed since the file was opened: redb then refuses everything.
    broken: AtomicBool,
    /// The numbers of the indexes, by table and text.
    pub(crate) indexes: RwLock<BTreeMap<Vec<u8>, u32>>,
}

fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Closed, "the store has been closed: open it again")
}

impl Shared {
    /// A file that was opened to look at it, or a storage of the app's own.
    pub(crate) fn new(database: Database, file: Option<(PathBuf, usize)>) -> Shared {
        let (broken, indexes) = Default::default();
        let looking = AtomicBool::new(file.is_some());
        Shared { database: RwLock::new(Some(database)), file, looking, broken, indexes }
    }

    /// Reads, beside others.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.ready(false)?;
        self.beside_others(work)
    }

    /// Writes, or reads for as long as it takes, beside others.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.ready(true)?;
        self.beside_others(work)
    }

    fn beside_others<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        self.noted(guarded(|| database.as_ref().ok_or_else(closed).and_then(work)))
    }

    /// Does something with the database, alone.
    pub(crate) fn alone<T>(&self, work: impl FnOnce(&mut Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.ready(true)?;
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        self.noted(guarded(|| database.as_mut().ok_or_else(closed).and_then(work)))
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

    /// Remembers that the disk has failed; damage can be salvaged.
    fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        use StoreErrorKind::{Corrupted, Full, Io, OutcomeUnknown};
        result.map_err(|error| match (error.kind(), &self.file) {
            (Full | Io | OutcomeUnknown, _) => {
                self.broken.store(true, Ordering::SeqCst);
                error
            }
            (Corrupted, Some((path, _))) => error.with_salvage(Arc::new(Damaged(path.clone()))),
            _ => error,
        })
    }

    /// Opens the file again if the disk has failed, or if it is to be written to and was only looked at. What was committed
    /// is there, and what was not is not.
    fn ready(&self, writes: bool) -> Result<(), StoreError> {
        let needed = || self.broken.load(Ordering::SeqCst) || (writes && self.looking.load(Ordering::SeqCst));
        if !needed() {
            return Ok(());
        }
        let Some((path, cache)) = &self.file else { return Ok(()) };
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() || !needed() {
            return Ok(());
        }
        let looks = self.looking.load(Ordering::SeqCst) && !writes;
        // Dropped before it is opened again: a file cannot be open twice. If it cannot be opened now, a storage in
        // memory takes its place, which is never asked for anything while the store is broken.
        self.broken.store(true, Ordering::SeqCst);
        *database = redb::Builder::new().create_with_backend(redb::backends::InMemoryBackend::new()).ok();
        let opened = if looks { open::look(path, *cache) } else { open::live(path, *cache) };
        *database = Some(self.noted(opened)?);
        self.looking.store(looks, Ordering::SeqCst);
        self.broken.store(false, Ordering::SeqCst);
        Ok(())
    }
}

pub(crate) fn index_name(table: &str, index: &str) -> Vec<u8> {
    let mut name = keys::table("", table);
    name.extend_from_slice(index.as_bytes());
    name
}
