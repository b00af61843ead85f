//! A store in memory: for tests, and for apps that keep nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    row::{Row, RowKey, SettledLoser},
    store::{
        Clear, Cursor, DeltaToken, Direction, Head, KeyBytes, LinkedRequest, Note, OperationsRequest, QueuedOperation,
        RowWrite, ScanPage, ScanRequest, ScopeKey, Store, StoreError, StoreErrorKind, TableSpec, WriteBatch,
    },
};

/// A store in memory. Clones are handles of the same store; the content ends with the last of them.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

type Entry = (KeyBytes, Arc<str>);
/// Account, table and index.
type IndexName = (Arc<str>, Arc<str>, Arc<str>);

#[derive(Default)]
struct State {
    head: Head,
    rows: BTreeMap<RowKey, Stored>,
    indexes: BTreeMap<IndexName, BTreeSet<Entry>>,
    queue: BTreeMap<u64, RowKey>,
    tokens: BTreeMap<ScopeKey, DeltaToken>,
    notes: BTreeMap<Arc<str>, Note>,
    losers: BTreeMap<Uuid, SettledLoser>,
    indexed: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("head", &self.head).field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

struct Stored {
    row: Row,
    index_keys: Vec<(Arc<str>, KeyBytes)>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(StoreError::new(StoreErrorKind::Closed, "the store has been closed: open it again"));
        }
        Ok(state)
    }
}

impl State {
    fn remove(&mut self, key: &RowKey) {
        let Some(stored) = self.rows.remove(key) else { return };
        for operation in &stored.row.operations {
            self.queue.remove(&operation.place);
        }
        for (index, index_key) in stored.index_keys {
            let name = (Arc::clone(&key.account), Arc::clone(&key.table), index);
            if let Some(entries) = self.indexes.get_mut(&name) {
                entries.remove(&(index_key, Arc::clone(&key.id)));
            }
        }
    }

    fn clear(&mut self, clear: &Clear) {
        self.rows.retain(|key, _| !clear.includes(&key.account, &key.table));
        self.queue.retain(|_, key| !clear.includes(&key.account, &key.table));
        self.indexes.retain(|(account, table, _), _| !clear.includes(account, table));
        self.tokens.retain(|scope, _| !clear.includes(&scope.account, &scope.table));
        self.losers.retain(|_, loser| !clear.includes(&loser.key.account, &loser.key.table));
    }

    fn put(&mut self, key: RowKey, row: Row, index_keys: Vec<(Arc<str>, KeyBytes)>) {
        self.remove(&key);
        for operation in &row.operations {
            self.queue.insert(operation.place, key.clone());
        }
        for (index, index_key) in &index_keys {
            let name = (Arc::clone(&key.account), Arc::clone(&key.table), Arc::clone(index));
            self.indexes.entry(name).or_default().insert((index_key.clone(), Arc::clone(&key.id)));
        }
        self.rows.insert(key, Stored { row, index_keys });
    }

    fn scan_ids(&self, request: &ScanRequest) -> Vec<Entry> {
        let key =
            |id: Arc<str>| RowKey { account: Arc::clone(&request.account), table: Arc::clone(&request.table), id };
        let start = match (&request.after, request.direction) {
            (Some(after), Direction::Forward) => Bound::Excluded(key(Arc::clone(&after.id))),
            _ => Bound::Included(key("".into())),
        };
        let within = |id: &str| {
            let bytes = id.as_bytes();
            let above = match &request.range.0 {
                Bound::Included(least) => bytes >= least.as_slice(),
                Bound::Excluded(least) => bytes > least.as_slice(),
                Bound::Unbounded => true,
            };
            let below = match &request.range.1 {
                Bound::Included(most) => bytes <= most.as_slice(),
                Bound::Excluded(most) => bytes < most.as_slice(),
                Bound::Unbounded => true,
            };
            above && below
        };
        let all = self.rows.range((start, Bound::Unbounded));
        let all = all.take_while(|(key, _)| key.account == request.account && key.table == request.table);
        let all = all.filter(|(key, stored)| stored.row.record.is_some() && within(&key.id));
        let mut ids: Vec<Entry> = all.map(|(key, _)| (Vec::new(), Arc::clone(&key.id))).collect();
        if request.direction == Direction::Backward {
            ids.reverse();
            if let Some(after) = &request.after {
                ids.retain(|(_, id)| *id < after.id);
            }
        }
        ids
    }

    fn scan_index(&self, request: &ScanRequest, index: &Arc<str>) -> Vec<Entry> {
        let name = (Arc::clone(&request.account), Arc::clone(&request.table), Arc::clone(index));
        let Some(entries) = self.indexes.get(&name) else { return Vec::new() };
        let within = |key: &KeyBytes| {
            let above = match &request.range.0 {
                Bound::Included(least) => key >= least,
                Bound::Excluded(least) => key > least,
                Bound::Unbounded => true,
            };
            let below = match &request.range.1 {
                Bound::Included(most) => key <= most,
                Bound::Excluded(most) => key < most,
                Bound::Unbounded => true,
            };
            above && below
        };
        let wanted = |(key, id): &&Entry| {
            let behind = request.after.as_ref().is_none_or(|after| {
                let here = (key, id);
                let last = (&after.key, &after.id);
                match request.direction {
                    Direction::Forward => here > last,
                    Direction::Backward => here < last,
                }
            });
            behind && within(key)
        };
        match request.direction {
            Direction::Forward => entries.iter().filter(wanted).cloned().collect(),
            Direction::Backward => entries.iter().rev().filter(wanted).cloned().collect(),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn open(&self, tables: &[TableSpec]) -> Result<Vec<Arc<str>>, StoreError> {
        let mut state = self.state()?;
        let mut outdated = Vec::new();
        for spec in tables {
            if state.indexed.get(&spec.table) == Some(&spec.indexes) {
                continue;
            }
            if state.rows.keys().any(|key| key.table == spec.table) {
                outdated.push(Arc::clone(&spec.table));
            } else {
                state.indexed.insert(Arc::clone(&spec.table), spec.indexes.clone());
            }
        }
        Ok(outdated)
    }

    async fn head(&self) -> Result<Head, StoreError> {
        let state = self.state()?;
        let last_place = state.queue.last_key_value().map_or(0, |(place, _)| *place);
        Ok(Head { last_place, ..state.head })
    }

    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, StoreError> {
        let state = self.state()?;
        Ok(keys.iter().map(|key| state.rows.get(key).map(|stored| stored.row.clone())).collect())
    }

    async fn scan(&self, request: &ScanRequest) -> Result<ScanPage, StoreError> {
        let state = self.state()?;
        let entries = match &request.index {
            None => state.scan_ids(request),
            Some(index) => state.scan_index(request, index),
        };
        let row_key = |id: &Arc<str>| RowKey {
            account: Arc::clone(&request.account),
            table: Arc::clone(&request.table),
            id: Arc::clone(id),
        };
        let record = |id: &Arc<str>| state.rows.get(&row_key(id)).and_then(|stored| stored.row.record.clone());
        let found = entries.into_iter().filter_map(|(key, id)| record(&id).map(|record| (key, id, record)));
        let found: Vec<_> = found.take(request.limit.saturating_add(1)).collect();
        let more = found.len() > request.limit;
        let mut page = ScanPage::default();
        for (key, id, record) in found.into_iter().take(request.limit) {
            page.records.push((Arc::clone(&id), record));
            page.next = more.then_some(Cursor { key, id });
        }
        Ok(page)
    }

    async fn operations(&self, request: &OperationsRequest) -> Result<Vec<QueuedOperation>, StoreError> {
        let state = self.state()?;
        let mut found = Vec::new();
        for (place, key) in state.queue.range((Bound::Excluded(request.after), Bound::Unbounded)) {
            let wanted = request.tables.as_ref().is_none_or(|tables| tables.contains(&key.table));
            if found.len() == request.limit {
                break;
            }
            if !wanted || key.account != request.account {
                continue;
            }
            let operations = state.rows.get(key).map(|stored| &stored.row.operations);
            if let Some(operation) = operations.into_iter().flatten().find(|operation| operation.place == *place) {
                found.push(QueuedOperation { key: key.clone(), operation: operation.clone() });
            }
        }
        Ok(found)
    }

    async fn delta_token(&self, scope: &ScopeKey) -> Result<Option<DeltaToken>, StoreError> {
        Ok(self.state()?.tokens.get(scope).cloned())
    }

    async fn scopes(&self, account: &str, table: &str) -> Result<Vec<ScopeKey>, StoreError> {
        let state = self.state()?;
        let of_table = |scope: &&ScopeKey| scope.account.as_ref() == account && scope.table.as_ref() == table;
        Ok(state.tokens.keys().filter(of_table).cloned().collect())
    }

    async fn linked(&self, request: &LinkedRequest) -> Result<Vec<Arc<str>>, StoreError> {
        let state = self.state()?;
        let name = (Arc::clone(&request.account), Arc::clone(&request.table), Arc::clone(&request.index));
        let Some(entries) = state.indexes.get(&name) else { return Ok(Vec::new()) };
        let start = match &request.after {
            Some(after) => Bound::Excluded((request.key.clone(), Arc::clone(after))),
            None => Bound::Included((request.key.clone(), Arc::from(""))),
        };
        let of_key = entries.range((start, Bound::Unbounded)).take_while(|(key, _)| *key == request.key);
        Ok(of_key.take(request.limit).map(|(_, id)| Arc::clone(id)).collect())
    }

    async fn notes(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Note>>, StoreError> {
        let state = self.state()?;
        Ok(keys.iter().map(|key| state.notes.get(key).cloned()).collect())
    }

    async fn list_notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Arc<str>, Note)>, StoreError> {
        let state = self.state()?;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let notes = state.notes.range::<str, _>((start, Bound::Unbounded));
        let notes = notes.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(notes.map(|(key, note)| (Arc::clone(key), note.clone())).collect())
    }

    async fn losers(&self, account: &str, after: Option<Uuid>, limit: usize) -> Result<Vec<SettledLoser>, StoreError> {
        let state = self.state()?;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let losers = state.losers.range((start, Bound::Unbounded)).map(|(_, loser)| loser);
        Ok(losers.filter(|loser| loser.key.account.as_ref() == account).take(limit).cloned().collect())
    }

    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut state = self.state()?;
        if batch.number != state.head.number + 1 {
            let message = format!("commit {} was wanted, but {} is next", batch.number, state.head.number + 1);
            return Err(StoreError::new(StoreErrorKind::Superseded, message));
        }
        batch.clear.iter().for_each(|clear| state.clear(clear));
        let mut keys = HashSet::new();
        for write in batch.rows {
            let key = match &write {
                RowWrite::Put { key, .. } | RowWrite::Remove { key } => key.clone(),
            };
            debug_assert!(keys.insert(key), "a batch names each row at most once");
            match write {
                RowWrite::Put { key, row, index_keys } => state.put(key, row, index_keys),
                RowWrite::Remove { key } => state.remove(&key),
            }
        }
        for (scope, token) in batch.tokens {
            match token {
                Some(token) => state.tokens.insert(scope, token),
                None => state.tokens.remove(&scope),
            };
        }
        for (key, note) in batch.notes {
            match note {
                Some(note) => state.notes.insert(key, note),
                None => state.notes.remove(&key),
            };
        }
        for id in batch.remove_losers {
            state.losers.remove(&id);
        }
        for loser in batch.add_losers {
            state.losers.insert(loser.id, loser);
        }
        for spec in batch.indexed {
            state.indexed.insert(spec.table, spec.indexes);
        }
        state.head.number = batch.number;
        state.head.id = batch.id;
        state.head.generation = batch.generation.unwrap_or(state.head.generation);
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        Ok(())
    }
}
