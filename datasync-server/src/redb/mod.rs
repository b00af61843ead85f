//! Rows in a redb file: one file for a service, and in it five tables for each table.
//!
//! | redb table | key | value |
//! | --- | --- | --- |
//! | `rows/{name}` | id | the row ([`rows`]) |
//! | `stamps/{name}` | `updatedAt`, sequence | id |
//! | `departures/{name}` | time, sequence | what a row was before it left, as far as views look at it |
//! | `keys/{name}` | idempotency key, caller | the effect |
//! | `ages/{name}` | time, idempotency key, caller | nothing |
//! | `service` | `format`, `epoch` | see [`open`](RedbDatabase::open) |
//! | `service` | `last/{name}` | the last stamp and sequence given |
//! | `service` | `tracked/{name}` | the fields whose changes leave departures, as a JSON array |
//! | `service` | `swept/{name}`, `forgotten/{name}` | up to where tombstones were forgotten, and the greatest sequence that was |
//!
//! Changes that wait while a commit is under way share the next one. A change is answered after its commit.
//!
//! | the process dies … | what is left |
//! | --- | --- |
//! | before the commit of a change | nothing of it: the client sends it again |
//! | after the commit, before the answer | the row and the trace of its key: the client sends it again, and gets the answer |

mod marks;
mod read;
mod rows;
mod write;

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use async_trait::async_trait;
use datasync_core::clock::{Clock, SystemClock, random_key};
use futures::channel::oneshot;
use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition, TableHandle};
use uuid::Uuid;

use self::write::Queue;
use crate::repository::{
    Change, Changes, ChangesQuery, Effect, Repository, RepositoryError, Row, RowQuery, Selection, WriteOutcome,
};

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// What holds for the whole file.
const SERVICE: Bytes = TableDefinition::new("service");
const FORMAT: &[u8] = b"format";
const EPOCH: &[u8] = b"epoch";
/// How many bytes of the file are kept in memory.
const CACHE: usize = 64 * 1024 * 1024;
/// What the format is called.
const FORMAT_1: &[u8] = b"datasync-server 1";

/// The file of a service. Clones are handles of the same file.
#[derive(Clone)]
pub struct RedbDatabase {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// `None` after a failure of the disk, until the file could be opened again.
    database: RwLock<Option<Database>>,
    epoch: Mutex<Uuid>,
    queue: Mutex<Queue>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for RedbDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbDatabase").field("path", &self.shared.path).finish()
    }
}

impl RedbDatabase {
    /// Opens the file, or makes it if it is not there. Blocks while a file that was not closed is repaired.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written, is open in another process, is none of a service, or was made by a newer
    /// release. It is left as it was then.
    pub fn open(path: impl AsRef<Path>) -> Result<RedbDatabase, RepositoryError> {
        RedbDatabase::open_with(path, SystemClock)
    }

    /// [`open`](RedbDatabase::open), with versions and the epoch from this clock's randomness.
    ///
    /// # Errors
    ///
    /// As for [`open`](RedbDatabase::open).
    pub fn open_with(path: impl AsRef<Path>, clock: impl Clock) -> Result<RedbDatabase, RepositoryError> {
        let path = path.as_ref().to_owned();
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let (database, epoch) = open(&path, &*clock)?;
        let (database, epoch, queue) = (RwLock::new(Some(database)), Mutex::new(epoch), Mutex::default());
        Ok(RedbDatabase { shared: Arc::new(Shared { path, database, epoch, queue, clock }) })
    }

    /// The rows of a table, which is made with its first row.
    #[must_use]
    pub fn table(&self, name: &str) -> RedbRepository {
        RedbRepository { shared: Arc::clone(&self.shared), names: Arc::new(Names::of(name)) }
    }

    /// Gives the file another epoch, so that clients pull everything again. To be called after the file was restored
    /// from a backup, before the service answers anybody.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn renew_epoch(&self) -> Result<(), RepositoryError> {
        let epoch = random_key(&*self.shared.clock);
        self.shared.with(|database| {
            let write = database.begin_write()?;
            write.open_table(SERVICE)?.insert(EPOCH, &epoch.as_bytes()[..])?;
            write.commit()?;
            Ok(())
        })?;
        *self.shared.epoch.lock().unwrap_or_else(PoisonError::into_inner) = epoch;
        Ok(())
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// Why a file cannot be opened.
fn unopened(path: &Path, error: DatabaseError) -> RepositoryError {
    let path = path.display();
    let is = |error: &StorageError, kind| matches!(error, StorageError::Io(io) if io.kind() == kind);
    RepositoryError::new(match &error {
        DatabaseError::DatabaseAlreadyOpen => format!("`{path}` is open in another process: stop that first"),
        DatabaseError::Storage(error) if is(error, ErrorKind::InvalidData) => {
            format!("`{path}` is not the data of a service: choose another path")
        }
        DatabaseError::Storage(error) if is(error, ErrorKind::UnexpectedEof) => {
            format!("`{path}` is cut short: restore a backup of it")
        }
        _ => format!("`{path}` cannot be opened: {error}"),
    })
}

/// Opens the file, makes it if it is not there or empty, and checks whose it is.
fn open(path: &Path, clock: &dyn Clock) -> Result<(Database, Uuid), RepositoryError> {
    if !std::fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        create(path)?;
    }
    // Opening writes, and what is not ours must not be written to. One that was not closed cannot be looked at so.
    match builder().open_read_only(path) {
        Ok(database) => drop(epoch_in(path, &database)?),
        Err(DatabaseError::RepairAborted) => {}
        Err(error) => return Err(unopened(path, error)),
    }
    let database = builder().open(path).map_err(|error| unopened(path, error))?;
    let epoch = match epoch_in(path, &database)? {
        Some(epoch) => epoch,
        None => {
            let epoch = random_key(clock);
            let make = || -> Result<(), redb::Error> {
                let write = database.begin_write()?;
                {
                    let mut service = write.open_table(SERVICE)?;
                    service.insert(FORMAT, FORMAT_1)?;
                    service.insert(EPOCH, &epoch.as_bytes()[..])?;
                }
                write.commit()?;
                Ok(())
            };
            make().map_err(failed)?;
            epoch
        }
    };
    Ok((database, epoch))
}

/// Makes an empty database beside the path, and gives it its name when it is whole and on the disk: a kill leaves no file
/// under that name, or a whole one.
fn create(path: &Path) -> Result<(), RepositoryError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix(".datasync-").suffix(".new").tempfile_in(folder);
    let made = made.map_err(RepositoryError::new)?;
    Database::create(made.path()).map_err(failed)?.close().map_err(failed)?;
    made.as_file().sync_all().map_err(RepositoryError::new)?;
    if let Err(taken) = made.persist_noclobber(path) {
        // What another process has made meanwhile is as good; an empty file is nobody's.
        let empty = std::fs::metadata(path).is_ok_and(|file| file.len() == 0);
        match taken.error.kind() {
            ErrorKind::AlreadyExists if empty => drop(taken.file.persist(path).map_err(RepositoryError::new)?),
            ErrorKind::AlreadyExists => {}
            _ => return Err(RepositoryError::new(taken)),
        }
    }
    #[cfg(unix)]
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(RepositoryError::new)?;
    Ok(())
}

enum Found {
    Nothing,
    Epoch(Uuid),
    Foreign,
    Newer,
}

/// The epoch in the file, if it is ours; none if there is nothing in it yet.
fn epoch_in(path: &Path, database: &impl ReadableDatabase) -> Result<Option<Uuid>, RepositoryError> {
    let path = path.display();
    match inspect(database).map_err(failed)? {
        Found::Foreign => {
            Err(RepositoryError::new(format!("`{path}` is not the data of a service: choose another path")))
        }
        Found::Newer => {
            Err(RepositoryError::new(format!("`{path}` was made by a newer release of the service: use that one")))
        }
        Found::Epoch(epoch) => Ok(Some(epoch)),
        Found::Nothing => Ok(None),
    }
}

fn inspect(database: &impl ReadableDatabase) -> Result<Found, redb::Error> {
    let read = database.begin_read()?;
    let mut tables = read.list_tables()?;
    if !tables.any(|table| table.name() == SERVICE.name()) {
        return Ok(if read.list_tables()?.next().is_some() { Found::Foreign } else { Found::Nothing });
    }
    let service = read.open_table(SERVICE)?;
    match service.get(FORMAT)? {
        Some(format) if format.value() == FORMAT_1 => {}
        Some(_) => return Ok(Found::Newer),
        None => return Ok(Found::Foreign),
    }
    let epoch = service.get(EPOCH)?.and_then(|epoch| Uuid::from_slice(epoch.value()).ok());
    Ok(epoch.map_or(Found::Foreign, Found::Epoch))
}

fn failed(error: impl Into<redb::Error>) -> RepositoryError {
    RepositoryError::new(error.into())
}

impl Shared {
    /// The file that was open before; none while it cannot be read, or if another one, or none, is at its place.
    fn reopen(&self) -> Option<Database> {
        let database = builder().open(&self.path).ok()?;
        let known = *self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(inspect(&database), Ok(Found::Epoch(epoch)) if epoch == known).then_some(database)
    }

    /// Does something with the file. After a failure of the disk redb refuses everything, so the file is opened again:
    /// what was committed is there, and what was not is not.
    fn with<T>(&self, job: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, RepositoryError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let result = match &*database {
            Some(database) => job(database),
            None => Err(redb::Error::PreviousIo),
        };
        drop(database);
        if let Err(redb::Error::Io(_) | redb::Error::PreviousIo) = &result {
            let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
            // Closed first: a file cannot be open twice.
            *database = None;
            *database = self.reopen();
        }
        result.map_err(failed)
    }
}

/// The names of the redb tables of a table.
struct Names {
    rows: String,
    stamps: String,
    departures: String,
    keys: String,
    ages: String,
    last: String,
    tracked: String,
    swept: String,
    forgotten: String,
}

impl Names {
    fn of(table: &str) -> Names {
        let name = |kind: &str| format!("{kind}/{table}");
        Names {
            rows: name("rows"),
            stamps: name("stamps"),
            departures: name("departures"),
            keys: name("keys"),
            ages: name("ages"),
            last: name("last"),
            tracked: name("tracked"),
            swept: name("swept"),
            forgotten: name("forgotten"),
        }
    }
}

/// A table by one of its names.
fn bytes(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// The rows of a table in the file of a service. Clones are handles of the same rows.
#[derive(Clone)]
pub struct RedbRepository {
    shared: Arc<Shared>,
    names: Arc<Names>,
}

impl fmt::Debug for RedbRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedbRepository({} of {})", self.names.rows, self.shared.path.display())
    }
}

impl RedbRepository {
    /// Reads on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&redb::ReadTransaction, &Names) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, RepositoryError> {
        let (shared, names) = (Arc::clone(&self.shared), Arc::clone(&self.names));
        blocking::unblock(move || shared.with(|database| job(&database.begin_read()?, &names))).await
    }
}

#[async_trait]
impl Repository for RedbRepository {
    async fn epoch(&self) -> Result<Uuid, RepositoryError> {
        Ok(*self.shared.epoch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn read(&self, id: &str) -> Result<Option<Row>, RepositoryError> {
        let id: Arc<str> = id.into();
        self.read(move |read, names| read::row(read, names, &id)).await
    }

    async fn query(&self, query: RowQuery) -> Result<Selection, RepositoryError> {
        self.read(move |read, names| read::query(read, names, &query)).await
    }

    async fn changes(&self, query: ChangesQuery) -> Result<Changes, RepositoryError> {
        let (shared, names) = (Arc::clone(&self.shared), Arc::clone(&self.names));
        let job = move |database: &Database| {
            if let Some(view) = &query.view {
                write::track(database, &names, &view.fields)?;
            }
            read::changes(&database.begin_read()?, &names, &query)
        };
        blocking::unblock(move || shared.with(job)).await
    }

    async fn write(&self, change: Change) -> Result<WriteOutcome, RepositoryError> {
        let (answer, answered) = oneshot::channel();
        Queue::push(&self.shared, Arc::clone(&self.names), change, answer);
        match answered.await {
            Ok(outcome) => outcome.map_err(RepositoryError::new),
            Err(_) => Err(RepositoryError::new("the writer stopped: see the log of the service")),
        }
    }

    async fn effect(&self, caller: &str, key: Uuid) -> Result<Option<Effect>, RepositoryError> {
        let caller: Arc<str> = caller.into();
        self.read(move |read, names| read::effect(read, names, &caller, key)).await
    }
}
