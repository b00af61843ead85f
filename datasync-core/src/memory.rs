//! A store in memory: for tests, and for apps that keep nothing.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashSet, btree_set},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    row::{Record, Row, RowKey, SettledLoser},
    store::{
        Clear, Cursor, DeltaToken, Direction, Head, Indexed, KeyBytes, KeyRange, KeysRequest, Note, OperationsRequest,
        Outdated, QueuedOperation, RowWrite, ScanPage, ScanRequest, ScopeKey, Store, StoreError, StoreErrorKind,
        TableSpec, WriteBatch,
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
    indexed: BTreeMap<Arc<str>, Indexed>,
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

    /// The records of a scan with their entries, from its cursor on.
    fn scanned<'s>(&'s self, request: &'s ScanRequest) -> Scanned<'s> {
        Box::new(request.ranges.iter().flat_map(move |range| match &request.index {
            None => self.by_id(request, range),
            Some(index) => self.by_index(request, range, index),
        }))
    }

    fn by_id<'s>(&'s self, request: &'s ScanRequest, range: &'s KeyRange) -> Scanned<'s> {
        let key =
            |id: Arc<str>| RowKey { account: Arc::clone(&request.account), table: Arc::clone(&request.table), id };
        // The bytes of a bound need not be UTF-8: the scan begins at the text before it, and then compares.
        let mut low = match &range.0 {
            Bound::Included(bytes) | Bound::Excluded(bytes) => {
                let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
                Bound::Included(key(text.into()))
            }
            Bound::Unbounded => Bound::Included(key("".into())),
        };
        let next_table = format!("{}\0", request.table).into();
        let mut high = Bound::Excluded(RowKey { table: next_table, ..key("".into()) });
        if let Some(after) = &request.after {
            go_on(request.direction, (&mut low, &mut high), key(Arc::clone(&after.id)));
        }
        if is_empty((&low, &high)) {
            return Box::new(std::iter::empty());
        }
        let above = |id: &str| match &range.0 {
            Bound::Included(least) => id.as_bytes() >= least.as_slice(),
            Bound::Excluded(least) => id.as_bytes() > least.as_slice(),
            Bound::Unbounded => true,
        };
        let below = |id: &str| match &range.1 {
            Bound::Included(most) => id.as_bytes() <= most.as_slice(),
            Bound::Excluded(most) => id.as_bytes() < most.as_slice(),
            Bound::Unbounded => true,
        };
        let rows = self.rows.range((low, high)).filter_map(|(key, stored)| {
            stored.row.record.as_ref().map(|record| (KeyBytes::new(), Arc::clone(&key.id), record))
        });
        match request.direction {
            Direction::Forward => {
                Box::new(rows.skip_while(move |(_, id, _)| !above(id)).take_while(move |(_, id, _)| below(id)))
            }
            Direction::Backward => {
                Box::new(rows.rev().skip_while(move |(_, id, _)| !below(id)).take_while(move |(_, id, _)| above(id)))
            }
        }
    }

    fn by_index<'s>(&'s self, request: &'s ScanRequest, range: &KeyRange, index: &Arc<str>) -> Scanned<'s> {
        let entries = self.entries(request, range, index).into_iter().flatten().filter_map(move |(key, id)| {
            let (account, table) = (Arc::clone(&request.account), Arc::clone(&request.table));
            let stored = self.rows.get(&RowKey { account, table, id: Arc::clone(id) })?;
            stored.row.record.as_ref().map(|record| (key.clone(), Arc::clone(id), record))
        });
        match request.direction {
            Direction::Forward => Box::new(entries),
            Direction::Backward => Box::new(entries.rev()),
        }
    }

    /// The entries of an index that a range of a scan covers, from its cursor on.
    fn entries(
        &self,
        request: &ScanRequest,
        range: &KeyRange,
        index: &Arc<str>,
    ) -> Option<btree_set::Range<'_, Entry>> {
        let name = (Arc::clone(&request.account), Arc::clone(&request.table), Arc::clone(index));
        let entries = self.indexes.get(&name)?;
        let first = |key: &KeyBytes| (key.clone(), Arc::from(""));
        // The least key behind a key is that key and a zero.
        let behind = |key: &KeyBytes| ([key.as_slice(), &[0]].concat(), Arc::from(""));
        let mut low = match &range.0 {
            Bound::Included(key) => Bound::Included(first(key)),
            Bound::Excluded(key) => Bound::Included(behind(key)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let mut high = match &range.1 {
            Bound::Included(key) => Bound::Excluded(behind(key)),
            Bound::Excluded(key) => Bound::Excluded(first(key)),
            Bound::Unbounded => Bound::Unbounded,
        };
        if let Some(Cursor { key, id }) = request.after.clone() {
            go_on(request.direction, (&mut low, &mut high), (key, id));
        }
        (!is_empty((&low, &high))).then(|| entries.range((low, high)))
    }
}

/// The entries of a scan, each with its record.
type Scanned<'s> = Box<dyn Iterator<Item = (KeyBytes, Arc<str>, &'s Record)> + 's>;

fn keeps(request: &ScanRequest, id: &str, record: &Record) -> Result<bool, StoreError> {
    request.filter.as_ref().map_or(Ok(true), |filter| filter.keeps(id, record.into()))
}

/// Leaves of a range what lies behind a place, in the direction of a scan.
fn go_on<T: Ord>(direction: Direction, (low, high): (&mut Bound<T>, &mut Bound<T>), after: T) {
    let (bound, beyond) = match direction {
        Direction::Forward => (low, Ordering::Greater),
        Direction::Backward => (high, Ordering::Less),
    };
    match bound {
        Bound::Included(key) | Bound::Excluded(key) if (*key).cmp(&after) == beyond => {}
        bound => *bound = Bound::Excluded(after),
    }
}

/// Whether nothing can lie between two bounds. A tree takes them for a mistake of the program.
fn is_empty<T: Ord>(bounds: (&Bound<T>, &Bound<T>)) -> bool {
    match bounds {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
        _ => false,
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn open(&self, tables: &[TableSpec]) -> Result<Vec<Outdated>, StoreError> {
        let mut state = self.state()?;
        let mut outdated = Vec::new();
        for spec in tables {
            let done = match state.indexed.get(&spec.table) {
                Some(indexed) if indexed.spec == *spec => match &indexed.done {
                    None => continue,
                    done => done.clone(),
                },
                _ => None,
            };
            if state.rows.keys().any(|key| key.table == spec.table) {
                outdated.push(Outdated { table: Arc::clone(&spec.table), done });
            } else {
                state.indexed.insert(Arc::clone(&spec.table), Indexed { spec: spec.clone(), done: None });
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
        let mut page = ScanPage::default();
        let mut last = None;
        for (looked_at, (key, id, record)) in state.scanned(request).enumerate() {
            if looked_at == request.limit {
                page.next = last;
                break;
            }
            if keeps(request, &id, record)? {
                page.records.push((Arc::clone(&id), record.clone()));
            }
            last = Some(Cursor { key, id });
        }
        Ok(page)
    }

    async fn count(&self, request: &ScanRequest) -> Result<u64, StoreError> {
        let state = self.state()?;
        if let (Some(index), None) = (&request.index, &request.filter) {
            let entries = request.ranges.iter().filter_map(|range| state.entries(request, range, index));
            return Ok(entries.map(|entries| entries.count() as u64).sum());
        }
        let mut count = 0;
        for (_, id, record) in state.scanned(request) {
            count += u64::from(keeps(request, &id, record)?);
        }
        Ok(count)
    }

    async fn keys(&self, request: &KeysRequest) -> Result<Vec<RowKey>, StoreError> {
        let state = self.state()?;
        let start = request.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = state.rows.range((start, Bound::Unbounded)).map(|(key, _)| key);
        Ok(behind.filter(|key| key.table == request.table).take(request.limit).cloned().collect())
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

    async fn entries(&self, request: &ScanRequest) -> Result<Vec<Cursor>, StoreError> {
        let Some(index) = &request.index else {
            return Err(StoreError::new(
                StoreErrorKind::Unsupported,
                "entries are those of an index, and none is named",
            ));
        };
        let state = self.state()?;
        let mut found = Vec::new();
        for entries in request.ranges.iter().filter_map(|range| state.entries(request, range, index)) {
            let cursor = |(key, id): &Entry| Cursor { key: key.clone(), id: Arc::clone(id) };
            let left = request.limit - found.len();
            match request.direction {
                Direction::Forward => found.extend(entries.map(cursor).take(left)),
                Direction::Backward => found.extend(entries.rev().map(cursor).take(left)),
            }
        }
        Ok(found)
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
        for indexed in batch.indexed {
            if indexed.done.is_none() {
                let spec = &indexed.spec;
                state.indexes.retain(|(_, table, index), _| *table != spec.table || spec.indexes.contains(index));
            }
            state.indexed.insert(Arc::clone(&indexed.spec.table), indexed);
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
