//! What an app does with a store now and then: give space back, copy it, look whether it is whole.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use datasync_core::store::{StoreError, StoreErrorKind};
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError,
};

use crate::{
    codec,
    error::{self, corrupted, failed},
    keys, open,
    store::{ALL, Definition, INDEX, LOSERS, QUEUE, ROWS, RedbStore, TOKENS, read_place},
};

/// How many entries of a backup are written at once: memory does not grow with the store.
const ENTRIES_A_COMMIT: usize = 10_000;

type Bytes = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// What a store holds, all of it readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Whether redb had something to mend.
    pub repaired: bool,
    /// How many rows there are, those that only have a queued operation included.
    pub rows: u64,
    /// How many queued operations.
    pub operations: u64,
    /// How many entries of indexes.
    pub index_entries: u64,
    /// How many delta tokens.
    pub tokens: u64,
    /// How many settled losers.
    pub losers: u64,
}

impl RedbStore {
    /// Gives the space of what was deleted back to the system; false if there was none. Everything else waits for as
    /// long as it takes, about 0.1 s for 15 MB.
    ///
    /// # Errors
    ///
    /// [`Io`](StoreErrorKind::Io), [`Full`](StoreErrorKind::Full) or [`Closed`](StoreErrorKind::Closed); the rows are
    /// as they were.
    pub async fn compact(&self) -> Result<bool, StoreError> {
        self.blocking(StoreErrorKind::Io, |shared| shared.alone(|database| database.compact().map_err(failed))).await
    }

    /// Copies the store, as it is at one moment, into a new file, while others go on reading and writing. The file
    /// appears under its name when it is complete and on the disk, or not at all.
    ///
    /// # Errors
    ///
    /// [`Io`](StoreErrorKind::Io) if there is a file of that name already or it cannot be written,
    /// [`Full`](StoreErrorKind::Full) or [`Closed`](StoreErrorKind::Closed); the store is as it was.
    pub async fn backup(&self, path: impl AsRef<Path>) -> Result<(), StoreError> {
        let path = path.as_ref().to_owned();
        self.blocking(StoreErrorKind::Io, move |shared| {
            // The moment of the copy; the lock is not held while it is made.
            let read = shared.write(|database| database.begin_read().map_err(failed))?;
            copy_to(&read, &path)
        })
        .await
    }

    /// Looks whether the file is whole: its checksums, and that rows, queue and indexes agree. Everything else waits
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// [`Corrupted`](StoreErrorKind::Corrupted) with what is wrong first; nothing is changed then.
    /// [`Io`](StoreErrorKind::Io) or [`Closed`](StoreErrorKind::Closed).
    pub async fn check(&self) -> Result<CheckReport, StoreError> {
        self.blocking(StoreErrorKind::Io, |shared| {
            shared.alone(|database| {
                let whole = database.check_integrity().map_err(error::opening)?;
                let mut report = inspect(&database.begin_read().map_err(failed)?)?;
                report.repaired = !whole;
                Ok(report)
            })
        })
        .await
    }
}

fn table(read: &ReadTransaction, definition: Definition) -> Result<Option<Bytes>, StoreError> {
    match read.open_table(definition) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn io_error(what: &str, error: io::Error) -> StoreError {
    error::of_io(&error, what).with_source(error)
}

fn copy_to(read: &ReadTransaction, path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        let message = format!("there is something at `{}` already: name a new file", path.display());
        return Err(StoreError::new(StoreErrorKind::Io, message));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let copied = copy(read, &beside).and_then(|()| publish(&beside, path));
    if copied.is_err() {
        // What is left of a copy that failed is of no use; if it cannot be removed, the next one overwrites it.
        let _ = std::fs::remove_file(&beside);
    }
    copied
}

fn copy(read: &ReadTransaction, beside: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("the file of the backup cannot be written", error));
        }
        _ => {}
    }
    let target = Database::create(beside).map_err(error::opening)?;
    for definition in ALL {
        let Some(source) = table(read, definition)? else { continue };
        let mut entries = source.iter().map_err(failed)?;
        let mut more = true;
        while more {
            let write = target.begin_write().map_err(failed)?;
            {
                let mut table = write.open_table(definition).map_err(failed)?;
                more = false;
                for entry in entries.by_ref().take(ENTRIES_A_COMMIT) {
                    let (key, value) = entry.map_err(failed)?;
                    table.insert(key.value(), value.value()).map_err(failed)?;
                    more = true;
                }
            }
            write.commit().map_err(failed)?;
        }
    }
    target.close().map_err(failed)
}

/// Gives the complete copy its name. The folder is synced too, so that the name survives a loss of power.
fn publish(beside: &Path, path: &Path) -> Result<(), StoreError> {
    let unwritten = |error| io_error("the file of the backup cannot be written", error);
    File::open(beside).and_then(|file| file.sync_all()).map_err(unwritten)?;
    // Unlike a rename, a link never replaces what somebody else has put there meanwhile.
    std::fs::hard_link(beside, path).map_err(unwritten)?;
    std::fs::remove_file(beside).map_err(unwritten)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    open::sync_folder(folder).map_err(unwritten)
}

fn inspect(read: &ReadTransaction) -> Result<CheckReport, StoreError> {
    let of = |definition| table(read, definition);
    // The tables are made together: a store that no client has opened yet has none of them.
    let (Some(rows), Some(queue), Some(index), Some(tokens), Some(losers)) =
        (of(ROWS)?, of(QUEUE)?, of(INDEX)?, of(TOKENS)?, of(LOSERS)?)
    else {
        return Ok(CheckReport::default());
    };
    let mut report = CheckReport { tokens: tokens.len().map_err(failed)?, ..CheckReport::default() };
    for entry in rows.iter().map_err(failed)? {
        let (key, value) = entry.map_err(failed)?;
        let name = keys::read_row(key.value())?;
        let wrong = |what: &str| corrupted(format!("{name:?} {what}"));
        codec::decode_row(value.value())?;
        let links = codec::decode_links(value.value())?;
        report.rows += 1;
        for place in links.places {
            report.operations += 1;
            let queued = queue.get(place.to_be_bytes().as_slice()).map_err(failed)?;
            if queued.is_none_or(|queued| queued.value() != key.value()) {
                return Err(wrong("has an operation that is not in the queue"));
            }
        }
        for (number, index_key) in links.index_keys {
            report.index_entries += 1;
            let entry = keys::entry(number, &name.account, &index_key, &name.id);
            if index.get(entry.as_slice()).map_err(failed)?.is_none() {
                return Err(wrong("is not in its index"));
            }
        }
    }
    for entry in queue.iter().map_err(failed)? {
        read_place(entry.map_err(failed)?.0.value())?;
    }
    for entry in losers.iter().map_err(failed)? {
        let (id, value) = entry.map_err(failed)?;
        let id = uuid::Uuid::from_slice(id.value()).map_err(|_| corrupted("a settled loser has no id"))?;
        codec::decode_loser(id, value.value())?;
        report.losers += 1;
    }
    if queue.len().map_err(failed)? != report.operations {
        return Err(corrupted("the queue has places without an operation"));
    }
    if index.len().map_err(failed)? != report.index_entries {
        return Err(corrupted("an index has entries without a row"));
    }
    Ok(report)
}
