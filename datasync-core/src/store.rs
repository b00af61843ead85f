//! The contract between the engine and a storage backend.

mod error;

use std::{fmt, ops::Bound, sync::Arc};

use async_trait::async_trait;
use uuid::Uuid;

pub use self::error::{Salvage, SalvageProgress, Salvaged, StoreError, StoreErrorKind};
use crate::row::{Operation, Record, RecordRef, Row, RowKey, SettledLoser};

/// A local store: reads, and one way to write.
///
/// # Behavior
///
/// - [`commit`](Store::commit) applies the whole batch, or nothing of it. Once it returned `Ok`, the batch survives a
///   kill at any later instant.
/// - A batch is applied only if its number is the next one: the number of [`head`](Store::head) plus one. Otherwise it
///   fails with [`StoreErrorKind::Superseded`] and nothing is changed. The store keeps number and id of the last batch.
/// - If the future of `commit` is dropped, the batch happens as a whole or not at all, perhaps later. If the outcome
///   was lost the error is [`StoreErrorKind::OutcomeUnknown`].
/// - Reads see every commit that returned before they began, and never a part of a batch.
/// - Bodies and notes are opaque bytes. Index keys come ready-made with each row, and their order is the order of their
///   bytes. An index may have several entries of one row, and entries of rows without a record.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Makes the tables and their indexes known. May be called again with more.
    ///
    /// Returns the tables whose stored index keys are of another set of indexes than the one given. The engine then
    /// writes their rows again, in the order of their ids, and tells how far it is with [`WriteBatch::indexed`]; until that
    /// says that the table is done the same tables are returned, with the place to go on at.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::NewerFormat`] and [`StoreErrorKind::NotAStore`] for what was stored by something else, which is left as it
    /// was; else as [`get`](Store::get), or as [`commit`](Store::commit) if it writes.
    async fn open(&self, tables: &[TableSpec]) -> Result<Vec<Outdated>, StoreError>;

    /// The number and id of the last commit, and the counters that belong to it.
    ///
    /// # Errors
    ///
    /// As [`get`](Store::get).
    async fn head(&self) -> Result<Head, StoreError>;

    /// The rows of these keys, in the same order; `None` where the store keeps nothing.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Closed`] after [`close`](Store::close); [`StoreErrorKind::Io`] if the system refuses to read;
    /// [`StoreErrorKind::Corrupted`] if what was read is none that a store has written.
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, StoreError>;

    /// Some of the records of a table, in the order of their ids or of an index.
    ///
    /// Rows without a record are left out. Entries of an index with equal keys come in the order of their ids, in both
    /// directions in the direction of the scan.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unsupported`] for a table or an index that is not known from [`open`](Store::open); that of the filter; else
    /// as [`get`](Store::get).
    async fn scan(&self, request: &ScanRequest) -> Result<ScanPage, StoreError>;

    /// The keys of the rows of a table in all accounts, in order; of those without a record too.
    ///
    /// # Errors
    ///
    /// As [`get`](Store::get).
    async fn keys(&self, request: &KeysRequest) -> Result<Vec<RowKey>, StoreError>;

    /// How many records all pages of a scan bring together, as of one moment; the request's limit is not looked at.
    ///
    /// In an index, without a filter, it looks at no rows and counts entries, those of rows without a record too.
    ///
    /// # Errors
    ///
    /// As [`scan`](Store::scan).
    async fn count(&self, request: &ScanRequest) -> Result<u64, StoreError>;

    /// Queued operations in the order of their places.
    ///
    /// # Errors
    ///
    /// As [`get`](Store::get).
    async fn operations(&self, request: &OperationsRequest) -> Result<Vec<QueuedOperation>, StoreError>;

    /// The token of a scope, if it has one.
    ///
    /// # Errors
    ///
    /// As [`get`](Store::get).
    async fn delta_token(&self, scope: &ScopeKey) -> Result<Option<DeltaToken>, StoreError>;

    /// All scopes of a table that have a token.
    ///
    /// # Errors
    ///
    /// As [`get`](Store::get).
    async fn scopes(&self, account: &str, table: &str) -> Result<Vec<ScopeKey>, StoreError>;

    /// The entries of an index that a scan of it goes over, in its order and at most its limit; those of rows without a record
    /// too. The request's filter is not looked at.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unsupported`] without an index, else as [`scan`](Store::scan).
    async fn entries(&self, request: &ScanRequest) -> Result<Vec<Cursor>, StoreError>;

    /// The notes under these keys, in the same order.
    ///
    /// # Errors
    ///
    /// As [`get`](Store::get).
    async fn notes(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Note>>, StoreError>;

    /// Notes whose keys begin with `prefix` and are greater than `after`, in the order of their keys.
    ///
    /// # Errors
    ///
    /// As [`get`](Store::get).
    async fn list_notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Arc<str>, Note)>, StoreError>;

    /// Settled losers with an id greater than `after`, in the order of their ids.
    ///
    /// # Errors
    ///
    /// As [`get`](Store::get).
    async fn losers(&self, account: &str, after: Option<Uuid>, limit: usize) -> Result<Vec<SettledLoser>, StoreError>;

    /// Applies the whole batch, or nothing of it.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Superseded`] if the number is not the next one; [`StoreErrorKind::Full`] if the disk is: nothing was changed
    /// then, as with [`StoreErrorKind::Unsupported`] for keys of a table or an index that is not known from [`open`](Store::open),
    /// and with what [`get`](Store::get) fails with. [`StoreErrorKind::OutcomeUnknown`] if it may have happened.
    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError>;

    /// Frees files and memory. Later calls fail with [`StoreErrorKind::Closed`]; a second `close` is no error.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Io`] if the system refuses to write what the store still held.
    async fn close(&self) -> Result<(), StoreError>;
}

/// A table and the names of its indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The table's name.
    pub table: Arc<str>,
    /// A text for each index that changes whenever the index's name or fields do.
    pub indexes: Vec<Arc<str>>,
}

/// A table whose rows do not all carry the keys of its indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outdated {
    /// The table.
    pub table: Arc<str>,
    /// The id up to which they do already; `None` if nothing is known of any row.
    pub done: Option<Arc<str>>,
}

/// How far the rows of a table carry the keys of its indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexed {
    /// The table and its indexes. An index of the table that is not among them is forgotten with its last entry.
    pub spec: TableSpec,
    /// The id up to which the rows do; `None` if all of them do.
    pub done: Option<Arc<str>>,
}

/// The last commit of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// How many commits there were; 0 for an empty store.
    pub number: u64,
    /// The id of the last commit; nil if there was none.
    pub id: Uuid,
    /// Raised by whatever makes pages on their way worthless.
    pub generation: u64,
    /// The greatest place of a queued operation; 0 if the queue is empty.
    pub last_place: u64,
}

/// A place in the local copy of a query: whose token, of which table and query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeKey {
    /// The name of the account.
    pub account: Arc<str>,
    /// The table.
    pub table: Arc<str>,
    /// The name of the scope in its table; empty for all rows of the table.
    pub scope: Arc<str>,
}

/// How far a scope has been pulled; only the transport that made it can read it.
#[derive(Clone, PartialEq, Eq)]
pub struct DeltaToken(pub Arc<str>);

impl fmt::Debug for DeltaToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeltaToken({} bytes)", self.0.len())
    }
}

/// The bytes of a key of an index; their order is the order of the index.
pub type KeyBytes = Vec<u8>;

/// A range of keys of an index, or of the bytes of ids.
pub type KeyRange = (Bound<KeyBytes>, Bound<KeyBytes>);

/// The order of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Greatest key first.
    Backward,
}

/// Which records to scan. Its `Debug` output does not show the ranges.
#[derive(Clone)]
pub struct ScanRequest {
    /// The account.
    pub account: Arc<str>,
    /// The table.
    pub table: Arc<str>,
    /// The index to follow, by the text of [`TableSpec::indexes`]; `None` for the order of ids.
    pub index: Option<Arc<str>>,
    /// The ranges, none of which overlaps another, in the direction of the scan: backward the greatest is the first. One
    /// that nothing can lie in is no error.
    pub ranges: Vec<KeyRange>,
    /// The direction.
    pub direction: Direction,
    /// Goes on behind the end of an earlier page.
    pub after: Option<Cursor>,
    /// How many records are looked at, at most; at least 1.
    pub limit: usize,
    /// Leaves out the records that it does not keep; they count towards the limit.
    pub filter: Option<Arc<dyn RecordFilter>>,
}

impl fmt::Debug for ScanRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys hold values of rows (I21).
        let ScanRequest { table, index, ranges, direction, after, limit, filter, .. } = self;
        f.debug_struct("ScanRequest")
            .field("table", table)
            .field("index", index)
            .field("ranges", &ranges.len())
            .field("direction", direction)
            .field("after", after)
            .field("limit", limit)
            .field("filter", filter)
            .finish_non_exhaustive()
    }
}

/// Says which records of a scan are wanted, where they lie, so that the others are never copied.
pub trait RecordFilter: fmt::Debug + Send + Sync {
    /// Whether the record is wanted. An error ends the scan.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Corrupted`] for a body that cannot be read.
    fn keeps(&self, id: &str, record: RecordRef<'_>) -> Result<bool, StoreError>;
}

/// An entry of an index, or a place in the order of ids: where a page of a scan ended, at the last record that it looked at.
#[derive(Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The index key; empty in the order of ids.
    pub key: KeyBytes,
    /// The id of the row.
    pub id: Arc<str>,
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A part of a scan.
#[derive(Clone, Debug, Default)]
pub struct ScanPage {
    /// The records with their ids.
    pub records: Vec<(Arc<str>, Record)>,
    /// Where the next page goes on; `None` if this was the last.
    pub next: Option<Cursor>,
}

/// Which rows of a table to list.
#[derive(Clone, Debug)]
pub struct KeysRequest {
    /// The table.
    pub table: Arc<str>,
    /// Only behind this row, in the order of accounts and ids.
    pub after: Option<RowKey>,
    /// How many at most.
    pub limit: usize,
}

/// Which operations to list.
#[derive(Clone, Debug)]
pub struct OperationsRequest {
    /// The account.
    pub account: Arc<str>,
    /// Only of these tables; `None` for all.
    pub tables: Option<Vec<Arc<str>>>,
    /// Only with a place greater than this.
    pub after: u64,
    /// How many at most.
    pub limit: usize,
}

/// An operation and its row.
#[derive(Clone, Debug)]
pub struct QueuedOperation {
    /// The row.
    pub key: RowKey,
    /// The operation.
    pub operation: Operation,
}

/// Something that the engine remembers besides rows. To a store it is bytes; its `Debug` output never shows them.
#[derive(Clone, PartialEq, Eq)]
pub struct Note(pub Vec<u8>);

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Note({} bytes)", self.0.len())
    }
}

/// What one commit changes.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// The number that this commit will have; its only precondition.
    pub number: u64,
    /// A random id by which the commit can be recognized.
    pub id: Uuid,
    /// Whose rows, operations, tokens and settled losers are all removed, before anything else is written.
    pub clear: Vec<Clear>,
    /// The rows; each key at most once.
    pub rows: Vec<RowWrite>,
    /// The tokens to set, or to remove where `None`; each scope at most once.
    pub tokens: Vec<(ScopeKey, Option<DeltaToken>)>,
    /// The notes to keep, or to remove where `None`; each key at most once.
    pub notes: Vec<(Arc<str>, Option<Note>)>,
    /// The settled losers to add.
    pub add_losers: Vec<SettledLoser>,
    /// The settled losers to remove; unknown ids are no error.
    pub remove_losers: Vec<Uuid>,
    /// The new generation, if it changes.
    pub generation: Option<u64>,
    /// How far rows carry the keys of the indexes of their tables, where that has changed.
    pub indexed: Vec<Indexed>,
}

/// Everything of an account, or of one of its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clear {
    /// The account.
    pub account: Arc<str>,
    /// The table; `None` for all tables of the account.
    pub table: Option<Arc<str>>,
}

impl Clear {
    /// Whether what belongs to this account and table is meant.
    #[must_use]
    pub fn includes(&self, account: &str, table: &str) -> bool {
        *account == *self.account && self.table.as_deref().is_none_or(|only| only == table)
    }
}

/// The change of one row.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "almost every write is a put")]
pub enum RowWrite {
    /// Keeps the row as given, in place of whatever was there.
    Put {
        /// Which row.
        key: RowKey,
        /// All of it.
        row: Row,
        /// Its entries in indexes, by the text of [`TableSpec::indexes`].
        index_keys: Vec<(Arc<str>, KeyBytes)>,
    },
    /// Forgets the row with everything that belongs to it; an unknown key is no error.
    Remove {
        /// Which row.
        key: RowKey,
    },
}

impl fmt::Debug for RowWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowWrite::Put { key, row, .. } => {
                f.debug_struct("Put").field("key", key).field("row", row).finish_non_exhaustive()
            }
            RowWrite::Remove { key } => f.debug_struct("Remove").field("key", key).finish(),
        }
    }
}
