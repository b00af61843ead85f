//! The store: what is where in the file, and how a batch becomes one transaction.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | a name | the format; the last commit; the number of the next index |
//! | `rows` | account, table, id | the row, its entries in indexes and its places in the queue |
//! | `index` | number of the index, account, index key, id | – |
//! | `queue` | place | account, table, id |
//! | `tokens` | account, table, scope | the token |
//! | `notes` | a key | the note |
//! | `losers` | id | the settled loser |
//! | `indexes` | text of an index, with its table | its number |
//! | `indexed` | table | the texts of the indexes that its rows are in, and up to which id while not all are |

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    ops::Bound,
    sync::{Arc, PoisonError},
};

use async_trait::async_trait;
use datasync_core::{
    executor::{BlockingExecutor, run_blocking},
    row::{Row, RowKey, SettledLoser},
    store::{
        Cursor, DeltaToken, Head, Indexed, KeysRequest, Note, OperationsRequest, Outdated, QueuedOperation, ScanPage,
        ScanRequest, ScopeKey, Store, StoreError, StoreErrorKind, TableSpec, WriteBatch,
    },
};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use uuid::Uuid;

use crate::{
    codec,
    config::RedbBuilder,
    error::{corrupted, failed},
    keys,
    scan::{self, table},
    shared::{Shared, index_name},
    wire::{Reader, Writer},
    write::{begin, commit, settle},
};

pub(crate) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(crate) const META: Definition = TableDefinition::new("meta");
pub(crate) const ROWS: Definition = TableDefinition::new("rows");
pub(crate) const INDEX: Definition = TableDefinition::new("index");
pub(crate) const QUEUE: Definition = TableDefinition::new("queue");
pub(crate) const TOKENS: Definition = TableDefinition::new("tokens");
pub(crate) const NOTES: Definition = TableDefinition::new("notes");
pub(crate) const LOSERS: Definition = TableDefinition::new("losers");
pub(crate) const INDEXES: Definition = TableDefinition::new("indexes");
pub(crate) const INDEXED: Definition = TableDefinition::new("indexed");
pub(crate) const ALL: [Definition; 9] = [META, ROWS, INDEX, QUEUE, TOKENS, NOTES, LOSERS, INDEXES, INDEXED];

pub(crate) const META_FORMAT: &[u8] = b"format";
/// The name of the format, and its number in the last byte.
pub(crate) const FORMAT: &[u8] = b"datasync store \x01";
pub(crate) const META_HEAD: &[u8] = b"head";
/// The number of the next index.
const META_NEXT_INDEX: &[u8] = b"next index";

/// A store in one file.
#[derive(Clone)]
pub struct RedbStore {
    shared: Arc<Shared>,
    executor: Arc<dyn BlockingExecutor>,
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore").field("executor", &self.executor).finish_non_exhaustive()
    }
}

impl RedbStore {
    /// Opens the store in the file `path`, or makes it. See [`RedbBuilder::open`] for the errors.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<RedbStore, StoreError> {
        RedbStore::builder().open(path)
    }

    /// Opens a store with options.
    pub fn builder() -> RedbBuilder {
        RedbBuilder::default()
    }

    pub(crate) fn new(shared: Shared, executor: Arc<dyn BlockingExecutor>) -> RedbStore {
        RedbStore { shared: Arc::new(shared), executor }
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        lost: StoreErrorKind,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let done = run_blocking(&*self.executor, move || work(&shared)).await;
        done.unwrap_or_else(|| Err(StoreError::new(lost, "the thread that worked on the store ended early")))
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared, &ReadTransaction) -> Result<Option<T>, StoreError> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let read = |shared: &Shared| {
            shared.read(|database| {
                let transaction = database.begin_read().map_err(failed)?;
                work(shared, &transaction)
            })
        };
        self.blocking(StoreErrorKind::Io, read).await
    }
}

pub(crate) fn encode_head(head: &Head) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(head.number);
    out.0.extend(head.id.as_bytes());
    out.number(head.generation);
    out.0
}

pub(crate) fn decode_head(bytes: &[u8]) -> Result<Head, StoreError> {
    let mut reader = Reader(bytes);
    let number = reader.number()?;
    let id = Uuid::from_slice(reader.take(16)?).map_err(|_| corrupted("the head has no id"))?;
    Ok(Head { number, id, generation: reader.number()?, last_place: 0 })
}

pub(crate) fn encode_indexed(indexed: &Indexed) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(indexed.spec.indexes.len() as u64);
    indexed.spec.indexes.iter().for_each(|index| out.text(index));
    out.option(indexed.done.as_ref(), |out, done| out.text(done));
    out.0
}

fn decode_indexed(table: &Arc<str>, bytes: &[u8]) -> Result<Indexed, StoreError> {
    let mut reader = Reader(bytes);
    let indexes = reader.list(|reader| Ok(Arc::from(reader.text()?)))?;
    let done = reader.option(|reader| Ok(Arc::from(reader.text()?)))?;
    reader.end()?;
    Ok(Indexed { spec: TableSpec { table: Arc::clone(table), indexes }, done })
}

#[async_trait]
impl Store for RedbStore {
    async fn open(&self, tables: &[TableSpec]) -> Result<Vec<Outdated>, StoreError> {
        let tables = tables.to_vec();
        self.blocking(StoreErrorKind::Io, move |shared| shared.write(|database| open(shared, database, &tables))).await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        let head = self.read(|_, transaction| {
            let meta = table!(transaction, META);
            let mut head = match meta.get(META_HEAD).map_err(failed)? {
                Some(bytes) => decode_head(bytes.value())?,
                None => Head::default(),
            };
            let queue = table!(transaction, QUEUE);
            if let Some((place, _)) = queue.last().map_err(failed)? {
                head.last_place = read_place(place.value())?;
            }
            Ok(Some(head))
        });
        Ok(head.await?.unwrap_or_default())
    }

    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, StoreError> {
        let wanted: Vec<Vec<u8>> = keys.iter().map(keys::row).collect();
        let count = wanted.len();
        let rows = self.read(move |_, transaction| {
            let rows = table!(transaction, ROWS);
            let get = |key: &Vec<u8>| match rows.get(key.as_slice()).map_err(failed)? {
                Some(row) => codec::decode_row(row.value()).map(Some),
                None => Ok(None),
            };
            wanted.iter().map(get).collect::<Result<Vec<_>, _>>().map(Some)
        });
        Ok(rows.await?.unwrap_or_else(|| vec![None; count]))
    }

    async fn scan(&self, request: &ScanRequest) -> Result<ScanPage, StoreError> {
        let request = request.clone();
        let page = self.read(move |shared, transaction| scan::scan(shared, &request, transaction));
        Ok(page.await?.unwrap_or_default())
    }

    async fn count(&self, request: &ScanRequest) -> Result<u64, StoreError> {
        let request = request.clone();
        let count = self.read(move |shared, transaction| scan::count(shared, &request, transaction));
        Ok(count.await?.unwrap_or_default())
    }

    async fn keys(&self, request: &KeysRequest) -> Result<Vec<RowKey>, StoreError> {
        let request = request.clone();
        let found = self.read(move |_, transaction| {
            let rows = table!(transaction, ROWS);
            scan::keys_of(&rows, &request.table, request.after.as_ref(), request.limit).map(Some)
        });
        Ok(found.await?.unwrap_or_default())
    }

    async fn operations(&self, request: &OperationsRequest) -> Result<Vec<QueuedOperation>, StoreError> {
        let request = request.clone();
        let found = self.read(move |_, transaction| {
            let queue = table!(transaction, QUEUE);
            let rows = table!(transaction, ROWS);
            let mut found = Vec::new();
            let from = request.after.to_be_bytes();
            let range = (Bound::Excluded(from.as_slice()), Bound::Unbounded);
            for entry in queue.range::<&[u8]>(range).map_err(failed)? {
                if found.len() >= request.limit {
                    break;
                }
                let (place, key) = entry.map_err(failed)?;
                let (place, row_key) = (read_place(place.value())?, keys::read_row(key.value())?);
                let wanted = request.tables.as_ref().is_none_or(|tables| tables.contains(&row_key.table));
                if !wanted || row_key.account != request.account {
                    continue;
                }
                let row = rows.get(key.value()).map_err(failed)?;
                let row = row.ok_or_else(|| corrupted("a queued operation has no row"))?;
                let operations = codec::decode_row(row.value())?.operations;
                let operation = operations.into_iter().find(|operation| operation.place == place);
                let operation = operation.ok_or_else(|| corrupted("a place of the queue has no operation"))?;
                found.push(QueuedOperation { key: row_key, operation });
            }
            Ok(Some(found))
        });
        Ok(found.await?.unwrap_or_default())
    }

    async fn delta_token(&self, scope: &ScopeKey) -> Result<Option<DeltaToken>, StoreError> {
        let key = keys::scope(scope);
        self.read(move |_, transaction| {
            let tokens = table!(transaction, TOKENS);
            let token = tokens.get(key.as_slice()).map_err(failed)?;
            token.map(|token| read_token(token.value())).transpose()
        })
        .await
    }

    async fn scopes(&self, account: &str, table: &str) -> Result<Vec<ScopeKey>, StoreError> {
        let prefix = keys::table(account, table);
        let scopes = self.read(move |_, transaction| {
            let tokens = table!(transaction, TOKENS);
            let mut scopes = Vec::new();
            for entry in tokens.range::<&[u8]>(prefix.as_slice()..).map_err(failed)? {
                let (key, _) = entry.map_err(failed)?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                scopes.push(keys::read_scope(key.value())?);
            }
            Ok(Some(scopes))
        });
        Ok(scopes.await?.unwrap_or_default())
    }

    async fn entries(&self, request: &ScanRequest) -> Result<Vec<Cursor>, StoreError> {
        let request = request.clone();
        let found = self.read(move |shared, transaction| scan::entries_of(shared, &request, transaction));
        Ok(found.await?.unwrap_or_default())
    }

    async fn notes(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Note>>, StoreError> {
        let (keys, count) = (keys.to_vec(), keys.len());
        let notes = self.read(move |_, transaction| {
            let notes = table!(transaction, NOTES);
            let get = |key: &Arc<str>| -> Result<Option<Note>, StoreError> {
                Ok(notes.get(key.as_bytes()).map_err(failed)?.map(|note| Note(note.value().to_vec())))
            };
            keys.iter().map(get).collect::<Result<Vec<_>, _>>().map(Some)
        });
        Ok(notes.await?.unwrap_or_else(|| vec![None; count]))
    }

    async fn list_notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Arc<str>, Note)>, StoreError> {
        let prefix = prefix.to_owned();
        let start = match after {
            Some(after) if after >= prefix.as_str() => Bound::Excluded(after.as_bytes().to_vec()),
            _ => Bound::Included(prefix.as_bytes().to_vec()),
        };
        let found = self.read(move |_, transaction| {
            let notes = table!(transaction, NOTES);
            let start = start.as_ref().map(Vec::as_slice);
            let mut found = Vec::new();
            for entry in notes.range::<&[u8]>((start, Bound::Unbounded)).map_err(failed)? {
                let (key, note) = entry.map_err(failed)?;
                if found.len() >= limit || !key.value().starts_with(prefix.as_bytes()) {
                    break;
                }
                let key = std::str::from_utf8(key.value()).map_err(|_| corrupted("the key of a note is not UTF-8"))?;
                found.push((key.into(), Note(note.value().to_vec())));
            }
            Ok(Some(found))
        });
        Ok(found.await?.unwrap_or_default())
    }

    async fn losers(&self, account: &str, after: Option<Uuid>, limit: usize) -> Result<Vec<SettledLoser>, StoreError> {
        let account = account.to_owned();
        let losers = self.read(move |_, transaction| {
            let table = table!(transaction, LOSERS);
            let after = after.map(Uuid::into_bytes);
            let start = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_slice()));
            let mut losers = Vec::new();
            for entry in table.range::<&[u8]>((start, Bound::Unbounded)).map_err(failed)? {
                if losers.len() >= limit {
                    break;
                }
                let (id, value) = entry.map_err(failed)?;
                let id = Uuid::from_slice(id.value()).map_err(|_| corrupted("a settled loser has no id"))?;
                let loser = codec::decode_loser(id, value.value())?;
                if loser.key.account.as_ref() == account {
                    losers.push(loser);
                }
            }
            Ok(Some(losers))
        });
        Ok(losers.await?.unwrap_or_default())
    }

    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let work = move |shared: &Shared| match shared.write(|database| commit(shared, database, &batch)) {
            Err(error) if error.kind() == StoreErrorKind::OutcomeUnknown => settle(shared, &batch, error),
            done => done,
        };
        self.blocking(StoreErrorKind::OutcomeUnknown, work).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.blocking(StoreErrorKind::Io, |shared| {
            shared.close().map_or(Ok(()), |database| database.close().map_err(failed))
        })
        .await
    }
}

pub(crate) fn read_place(bytes: &[u8]) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| corrupted("a place of the queue is not a number"))
}

fn read_token(bytes: &[u8]) -> Result<DeltaToken, StoreError> {
    let text = std::str::from_utf8(bytes).map_err(|_| corrupted("a token is not UTF-8"))?;
    Ok(DeltaToken(text.into()))
}

/// Makes tables and the numbers of new indexes, and says which tables are in other indexes than those given.
fn open(shared: &Shared, database: &Database, specs: &[TableSpec]) -> Result<Vec<Outdated>, StoreError> {
    let transaction = begin(database)?;
    let mut outdated = Vec::new();
    {
        for definition in ALL {
            transaction.open_table(definition).map_err(failed)?;
        }
        let mut meta = transaction.open_table(META).map_err(failed)?;
        meta.insert(META_FORMAT, FORMAT).map_err(failed)?;
        // A number is never given twice: rows may still name those of indexes that were dropped.
        let mut next = match meta.get(META_NEXT_INDEX).map_err(failed)? {
            Some(next) => Reader(next.value()).small()?,
            None => 0,
        };
        let mut numbers = transaction.open_table(INDEXES).map_err(failed)?;
        let mut known = BTreeMap::new();
        for entry in numbers.iter().map_err(failed)? {
            let (name, number) = entry.map_err(failed)?;
            known.insert(name.value().to_vec(), Reader(number.value()).small()?);
        }
        let mut indexed = transaction.open_table(INDEXED).map_err(failed)?;
        let rows = transaction.open_table(ROWS).map_err(failed)?;
        for spec in specs {
            for index in &spec.indexes {
                if let Entry::Vacant(unknown) = known.entry(index_name(&spec.table, index)) {
                    let mut number = Writer::default();
                    number.number(u64::from(next));
                    numbers.insert(unknown.key().as_slice(), number.0.as_slice()).map_err(failed)?;
                    unknown.insert(next);
                    next += 1;
                }
            }
            let key = spec.table.as_bytes();
            let stored = indexed.get(key).map_err(failed)?;
            let stored = stored.map(|stored| decode_indexed(&spec.table, stored.value())).transpose()?;
            let done = match stored {
                Some(Indexed { spec: known, done }) if known == *spec => match done {
                    None => continue,
                    done => done,
                },
                _ => None,
            };
            if !scan::keys_of(&rows, &spec.table, None, 1)?.is_empty() {
                outdated.push(Outdated { table: Arc::clone(&spec.table), done });
            } else {
                let all = Indexed { spec: spec.clone(), done: None };
                indexed.insert(key, encode_indexed(&all).as_slice()).map_err(failed)?;
            }
        }
        let mut number = Writer::default();
        number.number(u64::from(next));
        meta.insert(META_NEXT_INDEX, number.0.as_slice()).map_err(failed)?;
        *shared.indexes.write().unwrap_or_else(PoisonError::into_inner) = known;
    }
    transaction.commit().map_err(failed)?;
    Ok(outdated)
}
