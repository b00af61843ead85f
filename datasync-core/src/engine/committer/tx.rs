//! What a plan reads, and what it writes before that is committed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    clock::{Clock, random_key},
    engine::{
        acks::Fate,
        journal::Happened,
        links::{Link, names},
        service::Service,
        table::Tables,
        watch::Watcher,
    },
    error::{Error, ErrorKind},
    row::{Row, RowKey, SettledLoser},
    store::{Clear, DeltaToken, Head, Indexed, Note, QueuedOperation, ScopeKey},
};

/// What a plan reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    pub(crate) rows: Vec<RowKey>,
    pub(crate) tokens: Vec<ScopeKey>,
    pub(crate) notes: Vec<Arc<str>>,
    pub(crate) queues: Vec<Clear>,
    pub(crate) losers: Vec<Arc<str>>,
}

impl Reads {
    pub(crate) fn row(key: RowKey) -> Reads {
        Reads::rows(vec![key])
    }

    pub(crate) fn rows(rows: Vec<RowKey>) -> Reads {
        Reads { rows, ..Reads::default() }
    }

    pub(crate) fn token(mut self, scope: ScopeKey) -> Reads {
        self.tokens.push(scope);
        self
    }

    pub(crate) fn note(mut self, key: Arc<str>) -> Reads {
        self.notes.push(key);
        self
    }

    /// The settled losers of an account.
    pub(crate) fn losers(mut self, account: Arc<str>) -> Reads {
        self.losers.push(account);
        self
    }

    /// The queued operations and the settled losers of an account, or of one of its tables.
    pub(crate) fn unsent(mut self, what: Clear) -> Reads {
        self.losers.push(Arc::clone(&what.account));
        self.queues.push(what);
        self
    }
}

/// Changes that are not committed yet. Ordered, so that no hash order reaches the store.
#[derive(Default)]
pub(super) struct Overlay {
    pub(super) rows: BTreeMap<RowKey, Option<Row>>,
    pub(super) tokens: BTreeMap<ScopeKey, Option<DeltaToken>>,
    pub(super) notes: BTreeMap<Arc<str>, Option<Note>>,
    pub(super) clear: Vec<Clear>,
    pub(super) add_losers: Vec<SettledLoser>,
    pub(super) remove_losers: BTreeSet<Uuid>,
    pub(super) indexed: Vec<Indexed>,
    pub(super) last_place: u64,
    /// How many settled losers were made.
    pub(super) losers: u64,
    pub(super) raise_generation: bool,
    pub(super) present: Option<Arc<str>>,
    pub(super) fates: BTreeMap<u64, Fate>,
    pub(super) journal: Vec<(Arc<str>, Happened)>,
    /// Accounts whose journals end.
    pub(super) ended: BTreeSet<Arc<str>>,
}

impl Overlay {
    pub(super) fn absorb(&mut self, other: Overlay) {
        other.clear.iter().for_each(|clear| self.forget(clear));
        self.rows.extend(other.rows);
        self.tokens.extend(other.tokens);
        self.notes.extend(other.notes);
        self.clear.extend(other.clear);
        self.raise_generation |= other.raise_generation;
        self.add_losers.extend(other.add_losers);
        self.remove_losers.extend(other.remove_losers);
        self.indexed.extend(other.indexed);
        self.last_place = other.last_place;
        self.losers = other.losers;
        self.present = other.present.or(self.present.take());
        self.fates.extend(other.fates);
        self.journal.retain(|(account, _)| !other.ended.contains(account));
        self.journal.extend(other.journal);
        self.ended.extend(other.ended);
    }

    /// Takes back what was written before everything of an account or table was removed.
    pub(super) fn forget(&mut self, clear: &Clear) {
        self.rows.retain(|key, _| !clear.includes(&key.account, &key.table));
        self.tokens.retain(|scope, _| !clear.includes(&scope.account, &scope.table));
        self.add_losers.retain(|loser| !clear.includes(&loser.key.account, &loser.key.table));
    }

    pub(super) fn has_cleared(&self, account: &str, table: &str) -> bool {
        self.clear.iter().any(|clear| clear.includes(account, table))
    }

    pub(super) fn row(&self, key: &RowKey) -> Option<Option<Row>> {
        let written = self.rows.get(key).cloned();
        written.or_else(|| self.has_cleared(&key.account, &key.table).then_some(None))
    }

    pub(super) fn token(&self, scope: &ScopeKey) -> Option<Option<DeltaToken>> {
        let written = self.tokens.get(scope).cloned();
        written.or_else(|| self.has_cleared(&scope.account, &scope.table).then_some(None))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.tokens.is_empty()
            && self.notes.is_empty()
            && self.clear.is_empty()
            && !self.raise_generation
            && self.present.is_none()
            && self.journal.is_empty()
            && self.add_losers.is_empty()
            && self.remove_losers.is_empty()
            && self.indexed.is_empty()
    }
}

/// A row, and the table and index that lead to its queued children.
pub(super) type Children = (RowKey, Arc<str>, Arc<str>);

/// What the store had when the group began.
pub(super) struct Snapshot {
    pub(super) rows: BTreeMap<RowKey, Option<Row>>,
    pub(super) tokens: BTreeMap<ScopeKey, Option<DeltaToken>>,
    pub(super) notes: BTreeMap<Arc<str>, Option<Note>>,
    pub(super) queued: BTreeMap<u64, QueuedOperation>,
    pub(super) losers: BTreeMap<Uuid, SettledLoser>,
    /// The queued children of rows, by the index that leads to them.
    pub(super) children: BTreeMap<Children, Vec<RowKey>>,
    /// Children that a plan has asked for and that were not read: the group is planned once more with them.
    pub(super) wanted: RefCell<BTreeSet<Children>>,
    pub(super) head: Head,
    pub(super) present: Arc<str>,
}

/// The state that a plan reads and writes.
pub(crate) struct Tx<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) group: &'a Overlay,
    pub(super) own: Overlay,
    pub(super) tables: &'a Tables,
    pub(super) clock: &'a dyn Clock,
    pub(super) service: &'a Service,
}

impl Tx<'_> {
    /// The row as the members before this one leave it; `None` if nothing is kept of it.
    pub(crate) fn row(&self, key: &RowKey) -> Result<Option<Row>, Error> {
        let written = self.own.row(key).or_else(|| self.group.row(key));
        written.or_else(|| self.snapshot.rows.get(key).cloned()).ok_or_else(|| unread(format!("{key:?}")))
    }

    /// Keeps the row; one with nothing left is removed.
    pub(crate) fn put(&mut self, key: &RowKey, mut row: Row) {
        debug_assert!(row.quarantine.is_none() || row.record.is_none(), "a row in quarantine has no record");
        if let Some(table) = self.tables.0.get(&key.table) {
            row.schema = table.version;
            for operation in row.operations.iter_mut().filter(|operation| !operation.in_doubt()) {
                (operation.schema, operation.fingerprint) = (table.version, table.fingerprint);
            }
        }
        if row.left && row.operations.is_empty() {
            // Its last scope has let it go, and nothing that waits to be sent brings it back.
            row.record = None;
            row.quarantine = None;
            row.scopes.clear();
            row.left = false;
        }
        let row = (!row.is_empty()).then_some(row);
        self.own.rows.insert(key.clone(), row);
    }

    pub(crate) fn token(&self, scope: &ScopeKey) -> Result<Option<DeltaToken>, Error> {
        let written = self.own.token(scope).or_else(|| self.group.token(scope));
        let found = written.or_else(|| self.snapshot.tokens.get(scope).cloned());
        found.ok_or_else(|| unread(format!("the token of {}", scope.table)))
    }

    pub(crate) fn set_token(&mut self, scope: &ScopeKey, token: Option<DeltaToken>) {
        self.own.tokens.insert(scope.clone(), token);
    }

    pub(crate) fn note(&self, key: &Arc<str>) -> Result<Option<Note>, Error> {
        let found =
            self.own.notes.get(key).or_else(|| self.group.notes.get(key)).or_else(|| self.snapshot.notes.get(key));
        found.cloned().ok_or_else(|| unread(format!("the note {key}")))
    }

    /// The rows with queued operations that name this one by a link, or did before. Plans that ask run once more.
    pub(crate) fn children(&self, parent: &RowKey, link: &Link) -> Vec<RowKey> {
        let name = (parent.clone(), Arc::clone(&link.child), Arc::clone(&link.index));
        let Some(found) = self.snapshot.children.get(&name) else {
            self.snapshot.wanted.borrow_mut().insert(name);
            return Vec::new();
        };
        let fresh = self.group.rows.iter().chain(&self.own.rows).filter(|(key, row)| {
            key.table == link.child
                && key.account == parent.account
                && row.as_ref().is_some_and(|row| !row.operations.is_empty() && names(row, link, parent))
        });
        let all: BTreeSet<RowKey> = found.iter().chain(fresh.map(|(key, _)| key)).cloned().collect();
        all.into_iter().filter(|key| key != parent).collect()
    }

    pub(crate) fn set_note(&mut self, key: &Arc<str>, note: Option<Note>) {
        self.own.notes.insert(Arc::clone(key), note);
    }

    /// What is queued of an account or of one of its tables, in the order of the places.
    pub(crate) fn queued(&self, what: &Clear) -> Vec<QueuedOperation> {
        let included = |key: &RowKey| what.includes(&key.account, &key.table);
        let stored = self.snapshot.queued.values().filter(|queued| {
            let key = &queued.key;
            included(key) && self.own.row(key).or_else(|| self.group.row(key)).is_none()
        });
        let mut all: BTreeMap<u64, QueuedOperation> =
            stored.map(|queued| (queued.operation.place, queued.clone())).collect();
        let written = self.group.rows.iter().filter(|(key, _)| self.own.row(key).is_none()).chain(&self.own.rows);
        for (key, row) in written.filter(|(key, _)| included(key)) {
            for operation in row.iter().flat_map(|row| &row.operations) {
                let queued = QueuedOperation { key: key.clone(), operation: operation.clone() };
                all.insert(operation.place, queued);
            }
        }
        all.into_values().collect()
    }

    /// The settled losers of an account or of one of its tables.
    pub(crate) fn losers(&self, what: &Clear) -> Vec<SettledLoser> {
        let kept = |loser: &&SettledLoser| {
            let RowKey { account, table, .. } = &loser.key;
            let cleared = |overlay: &Overlay| overlay.has_cleared(account, table);
            !cleared(self.group) && !cleared(&self.own)
        };
        let stored =
            self.snapshot.losers.values().filter(kept).chain(&self.group.add_losers).chain(&self.own.add_losers);
        let removed = |id: &Uuid| self.group.remove_losers.contains(id) || self.own.remove_losers.contains(id);
        let wanted = |loser: &&SettledLoser| what.includes(&loser.key.account, &loser.key.table) && !removed(&loser.id);
        stored.filter(wanted).cloned().collect()
    }

    /// Removes everything of an account, or of one of its tables; what is written later stays.
    pub(crate) fn clear(&mut self, clear: Clear) {
        self.own.forget(&clear);
        self.own.clear.push(clear);
    }

    /// Makes pages that are on their way worthless (I13).
    pub(crate) fn raise_generation(&mut self) {
        self.own.raise_generation = true;
    }

    pub(crate) fn add_loser(&mut self, loser: SettledLoser) {
        self.own.add_losers.push(loser);
    }

    pub(crate) fn remove_loser(&mut self, id: Uuid) {
        self.own.remove_losers.insert(id);
    }

    pub(crate) fn indexed(&mut self, indexed: Indexed) {
        self.own.indexed.push(indexed);
    }

    /// The generation of the store (I13).
    pub(crate) fn generation(&self) -> u64 {
        self.snapshot.head.generation + u64::from(self.group.raise_generation) + u64::from(self.own.raise_generation)
    }

    /// The number of the commit that the rows are of, without those of this group.
    pub(crate) fn number(&self) -> u64 {
        self.snapshot.head.number
    }

    /// Whether the result that somebody watches may have changed since the last time that it was told.
    pub(crate) fn concerns(&self, watcher: &Watcher) -> bool {
        let before = |key: &RowKey| self.snapshot.rows.get(key).and_then(Option::as_ref);
        watcher.is_told()
            || !self.group.clear.is_empty()
            || self.group.rows.iter().any(|(key, after)| watcher.minds(key, before(key), after.as_ref()))
    }

    /// The account that is shown.
    pub(crate) fn present(&self) -> Arc<str> {
        Arc::clone(self.own.present.as_ref().or(self.group.present.as_ref()).unwrap_or(&self.snapshot.present))
    }

    /// Shows another account, once this is committed.
    pub(crate) fn set_present(&mut self, account: Arc<str>) {
        self.own.present = Some(account);
    }

    /// Notes in the account's journal what this commit does.
    pub(crate) fn journal(&mut self, account: &Arc<str>, what: Happened) {
        self.own.journal.push((Arc::clone(account), what));
    }

    /// Removes the account's journal.
    pub(crate) fn end_journal(&mut self, account: &Arc<str>) {
        self.own.journal.retain(|(noted, _)| noted != account);
        self.own.ended.insert(Arc::clone(account));
    }

    /// Says why a change leaves the queue.
    pub(crate) fn fate(&mut self, place: u64, fate: Fate) {
        self.own.fates.insert(place, fate);
    }

    pub(crate) fn new_place(&mut self) -> u64 {
        self.own.last_place += 1;
        self.own.last_place
    }

    pub(crate) fn new_key(&self) -> Uuid {
        random_key(self.clock)
    }

    /// An id for a settled loser: a UUIDv7 that ends in the number of the commit and the loser's place in it, so that those
    /// of one millisecond are in the order in which they lost.
    pub(crate) fn new_loser_id(&mut self) -> Uuid {
        self.own.losers += 1;
        let millis = u64::try_from(self.now().as_millisecond()).unwrap_or(0);
        let tail = (u128::from(self.number() + 1) << 24) | u128::from(self.own.losers & 0xff_ffff);
        let mut bytes = [0; 10];
        // The 12 bits before the variant, and the 62 behind it.
        bytes[..2].copy_from_slice(&((tail >> 62) as u16).to_be_bytes());
        bytes[2..].copy_from_slice(&(tail as u64 & (u64::MAX >> 2)).to_be_bytes());
        uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What is known of the service.
    pub(crate) fn service(&self) -> &Service {
        self.service
    }

    /// The time by the service's clock, as far as that is known.
    pub(crate) fn service_time(&self) -> Option<Timestamp> {
        self.service.time(self.now())
    }
}

fn unread(what: String) -> Error {
    Error::new(ErrorKind::Store, format!("a plan looked at {what} without having read it"))
}
