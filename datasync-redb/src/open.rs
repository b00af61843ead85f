//! Opening a file without touching one that is not ours, or that somebody only looks at.
//!
//! redb writes to every file that it opens: it marks it as open, mends one that was not closed (after a kill), and notes at
//! the end what is free. So a file is first opened under an overlay that keeps what would be written in memory, and is
//! locked against others. Its first bytes and its meta row say whether it is one of our stores; and if it is, it is read
//! through the overlay until the first write, which opens the file itself.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    ops::Bound,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use datasync_core::store::{StoreError, StoreErrorKind};
use redb::{
    BackendError, Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, TableError, backends::FileBackend,
};

use crate::{
    error::{corrupted, failed, guarded, of_io, opening},
    store::{FORMAT, META, META_FORMAT},
};

/// What every file of redb begins with.
const MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1a, 0x0a, 0xa9, 0x0d, 0x0a];
/// The size of the pages that the overlay keeps.
const PAGE: u64 = 4096;

fn builder(cache: usize) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(cache);
    builder
}

/// Opens a file to look at it, and makes it if there is none. It is not written to, and nobody else can open it meanwhile.
pub(crate) fn look(path: &Path, cache: usize) -> Result<Database, StoreError> {
    guarded(|| look_at(path, cache))
}

/// Opens a file to write to it.
pub(crate) fn live(path: &Path, cache: usize) -> Result<Database, StoreError> {
    guarded(|| {
        let database = builder(cache).open(path).map_err(opening)?;
        check(&database)?;
        Ok(database)
    })
}

fn look_at(path: &Path, cache: usize) -> Result<Database, StoreError> {
    let io = |error: io::Error| {
        let message = format!("the file of the store cannot be opened: {error}");
        StoreError::new(StoreErrorKind::Io, message).with_source(error)
    };
    let length = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(StoreError::new(
                StoreErrorKind::NotAStore,
                "the path of the store is a folder: choose that of a file",
            ));
        }
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io(error)),
    };
    match length {
        0 => create(path, cache)?,
        length => check_beginning(path, length)?,
    }
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    let overlay = Overlay::new(file).map_err(opening)?;
    let database = builder(cache).create_with_backend(overlay).map_err(opening)?;
    check(&database)?;
    Ok(database)
}

/// Makes an empty database beside the path, and gives it its name when it is whole and on the disk: a kill leaves no file
/// under that name, or a whole one.
fn create(path: &Path, cache: usize) -> Result<(), StoreError> {
    let io = |error: io::Error| of_io(&error, "the file of the store cannot be made").with_source(error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut made = tempfile::Builder::new();
    made.prefix(".datasync-").suffix(".new");
    // As any file that a program makes: the user's mask decides.
    #[cfg(unix)]
    made.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let made = made.tempfile_in(folder).map_err(io)?;
    builder(cache).create(made.path()).map_err(opening)?.close().map_err(failed)?;
    made.as_file().sync_all().map_err(io)?;
    match made.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            // Somebody else has made it meanwhile, which is as good; an empty file is nobody's.
            if std::fs::metadata(path).map_err(io)?.len() == 0 {
                error.file.persist(path).map_err(|error| io(error.error))?;
            }
        }
        Err(error) => return Err(io(error.error)),
    }
    sync_folder(folder).map_err(io)
}

/// Makes the names in a folder survive a loss of power.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

pub(crate) fn backend(backend: impl StorageBackend, cache: usize) -> Result<Database, StoreError> {
    guarded(|| {
        let database = builder(cache).create_with_backend(backend).map_err(opening)?;
        check(&database)?;
        Ok(database)
    })
}

/// Looks at the first bytes of an existing file.
fn check_beginning(path: &Path, length: u64) -> Result<(), StoreError> {
    let io = |error: io::Error| {
        let message = format!("the file of the store cannot be read: {error}");
        StoreError::new(StoreErrorKind::Io, message).with_source(error)
    };
    let mut file = File::open(path).map_err(io)?;
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(io(error)),
        Ok(()) if magic == MAGIC => {}
        _ if length < MAGIC.len() as u64 && MAGIC.starts_with(&magic[..length as usize]) => {
            return Err(corrupted("the file is cut short"));
        }
        _ => return Err(StoreError::new(StoreErrorKind::NotAStore, "the file is not a store: choose another path")),
    }
    Ok(())
}

/// Checks that a database is one of our stores, or empty.
fn check(database: &Database) -> Result<(), StoreError> {
    let foreign = || StoreError::new(StoreErrorKind::NotAStore, "the file is another program's: choose another path");
    let read = database.begin_read().map_err(failed)?;
    let format = match read.open_table(META) {
        Ok(meta) => meta.get(META_FORMAT).map_err(failed)?,
        Err(TableError::TableDoesNotExist(_)) if read.list_tables().map_err(failed)?.next().is_none() => return Ok(()),
        Err(
            TableError::TableDoesNotExist(_)
            | TableError::TableTypeMismatch { .. }
            | TableError::TableIsMultimap(_)
            | TableError::TypeDefinitionChanged { .. },
        ) => return Err(foreign()),
        Err(error) => return Err(failed(error)),
    };
    match format.as_ref().map(|format| format.value()) {
        Some(format) if format == FORMAT => Ok(()),
        Some([magic @ .., _]) if FORMAT.starts_with(magic) && magic.len() + 1 == FORMAT.len() => {
            let message = "the store was written by a newer release: update the app";
            Err(StoreError::new(StoreErrorKind::NewerFormat, message))
        }
        _ => Err(foreign()),
    }
}

/// A file that is only read, and what would have been written to it.
#[derive(Debug)]
struct Overlay {
    layers: Mutex<Layers>,
    /// The same file, as redb locks it.
    lock: FileBackend,
}

#[derive(Debug)]
struct Layers {
    file: File,
    file_length: u64,
    length: u64,
    written: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    fn new(file: File) -> Result<Overlay, DatabaseError> {
        let length = file.metadata()?.len();
        let lock = FileBackend::new(file.try_clone()?)?;
        let layers = Mutex::new(Layers { file, file_length: length, length, written: BTreeMap::new() });
        Ok(Overlay { layers, lock })
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layers {
    /// The page that begins at `start`, as it was last written.
    fn page(&mut self, start: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = self.written.get(&start) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE as usize];
        let there = self.file_length.saturating_sub(start).min(PAGE) as usize;
        if let Some(part) = page.get_mut(..there) {
            self.file.seek(SeekFrom::Start(start))?;
            self.file.read_exact(part)?;
        }
        Ok(page)
    }

    /// Calls `each` with every page that the range touches, where the range begins in it, and where it ends.
    fn pages(
        &mut self,
        offset: u64,
        length: u64,
        mut each: impl FnMut(&mut Layers, u64, usize, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let start = at - at % PAGE;
            let to = end.min(start + PAGE);
            each(self, start, (at - start) as usize, (to - start) as usize)?;
            at = to;
        }
        Ok(())
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.layers().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut layers = self.layers();
        if offset + out.len() as u64 > layers.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = offset + out.len() as u64;
        if end <= layers.file_length && layers.written.range(offset - offset % PAGE..end).next().is_none() {
            layers.file.seek(SeekFrom::Start(offset))?;
            return layers.file.read_exact(out);
        }
        let mut done = 0;
        layers.pages(offset, out.len() as u64, |layers, start, from, to| {
            let page = layers.page(start)?;
            out[done..done + (to - from)].copy_from_slice(&page[from..to]);
            done += to - from;
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut layers = self.layers();
        layers.length = length;
        layers.file_length = layers.file_length.min(length);
        layers.written.retain(|start, _| *start < length);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut layers = self.layers();
        let mut done = 0;
        layers.pages(offset, data.len() as u64, |layers, start, from, to| {
            let mut page = layers.page(start)?;
            page[from..to].copy_from_slice(&data[done..done + (to - from)]);
            done += to - from;
            layers.written.insert(start, page);
            Ok(())
        })
    }

    fn close(&self) -> io::Result<()> {
        self.lock.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lock.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lock.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lock.query_lock_range(start, end)
    }
}
