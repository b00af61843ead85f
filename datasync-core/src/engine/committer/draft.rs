//! Changes that are planned and not committed: what a transaction sees of its own writes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Committer, Overlay, Parts, Snapshot, Tx};
use crate::{
    error::Error,
    row::{Record, Row, RowKey},
};

/// Rows as they were read, and changes on them.
pub(crate) struct Draft {
    read: Snapshot,
    own: Overlay,
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (read, written) = (self.read.rows.len(), self.own.rows.len());
        f.debug_struct("Draft").field("read", &read).field("written", &written).finish()
    }
}

impl Draft {
    /// Nothing read, for the account that is shown.
    pub(crate) fn new(present: Arc<str>) -> Draft {
        let (rows, tokens, notes, queued, losers) = Default::default();
        let (children, wanted, head) = Default::default();
        let read = Snapshot { rows, tokens, notes, queued, losers, children, wanted, head, present };
        Draft { read, own: Overlay::default() }
    }

    /// Adds a row as the store has it.
    pub(crate) fn read(&mut self, key: RowKey, row: Option<Row>) {
        self.read.rows.insert(key, row);
    }

    pub(crate) fn has_read(&self, key: &RowKey) -> bool {
        self.read.rows.contains_key(key)
    }

    /// The records as they were read.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (&RowKey, Option<&Record>)> {
        self.read.rows.iter().map(|(key, row)| (key, row.as_ref().and_then(|row| row.record.as_ref())))
    }

    /// The record of a row that was read, with the changes so far.
    pub(crate) fn record(&self, key: &RowKey) -> Option<&Record> {
        let row = self.own.rows.get(key).or_else(|| self.read.rows.get(key));
        row?.as_ref()?.record.as_ref()
    }

    /// The rows of a table that were changed, as they are now.
    pub(crate) fn written(&self, table: &str) -> BTreeMap<Arc<str>, Option<Record>> {
        let of_table = self.own.rows.iter().filter(|(key, _)| *key.table == *table);
        let record = |row: &Option<Row>| row.as_ref().and_then(|row| row.record.clone());
        of_table.map(|(key, row)| (Arc::clone(&key.id), record(row))).collect()
    }

    /// Plans on what earlier plans leave. One that fails changes nothing.
    pub(crate) fn plan<T>(
        &mut self,
        committer: &Committer,
        plan: impl FnOnce(&mut Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let own = Overlay { last_place: self.own.last_place, ..Overlay::default() };
        let Parts { tables, clock, service, .. } = &*committer.parts;
        let mut tx = Tx { snapshot: &self.read, group: &self.own, own, tables, clock: &**clock, service };
        let planned = plan(&mut tx)?;
        let own = tx.own;
        self.own.absorb(own);
        Ok(planned)
    }
}
