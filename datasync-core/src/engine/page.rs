//! What a row of a page does to the local row (I12, I14).

use std::sync::Arc;

use crate::{
    body,
    engine::{
        committer::Tx,
        conflict::{Settled, lose, settle},
        links,
        table::Table,
    },
    error::Error,
    row::{Hold, LoserCause, Record, Row, RowKey, ServiceCopy, Side},
};

/// What a row of a page did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Inserted,
    Updated,
    Removed,
    Unchanged,
    Conflict(Settled),
}

/// Whether a copy that an answer has crossed must be fetched again: it may be older than what is stored.
pub(crate) fn stale(tx: &Tx<'_>, key: &RowKey, copy: &ServiceCopy) -> Result<bool, Error> {
    Ok(!same_version(&tx.row(key)?.unwrap_or_default(), copy))
}

/// Applies the service's copy of a row. `restored` says that the service may have gone back in time.
pub(crate) fn apply(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    scope: &Arc<str>,
    copy: &ServiceCopy,
    restored: bool,
) -> Result<Effect, Error> {
    let known = tx.row(key)?;
    let mut row = known.clone().unwrap_or_default();
    let effect = decide(tx, table, key, &mut row, copy, restored);
    if (row.record.is_some() || !row.operations.is_empty()) && copy.live().is_some() && !row.scopes.contains(scope) {
        row.scopes.push(Arc::clone(scope));
        row.left = false;
    }
    links::settle(tx, table, key, known.as_ref(), &row)?;
    keep(tx, key, known, row);
    Ok(effect)
}

/// A row has left the query of a scope. Its record, version, base and operations are not touched; a row that no scope
/// holds any more leaves the device, once nothing of it is queued.
pub(crate) fn leave(tx: &mut Tx<'_>, key: &RowKey, scope: &Arc<str>) -> Result<Effect, Error> {
    let known = tx.row(key)?;
    let Some(mut row) = known.clone().filter(|row| row.scopes.contains(scope)) else { return Ok(Effect::Unchanged) };
    row.scopes.retain(|held| held != scope);
    row.left = row.scopes.is_empty();
    let goes = row.left && row.operations.is_empty();
    keep(tx, key, known, row);
    Ok(if goes { Effect::Removed } else { Effect::Unchanged })
}

fn keep(tx: &mut Tx<'_>, key: &RowKey, known: Option<Row>, mut row: Row) {
    if known.as_ref() != Some(&row) {
        row.revision += 1;
        tx.put(key, row);
    }
}

fn same_version(row: &Row, copy: &ServiceCopy) -> bool {
    match (&row.record, copy) {
        (Some(record), ServiceCopy::Found(copy)) => {
            record.version.is_some() && record.version == copy.version && !copy.deleted
        }
        _ => false,
    }
}

fn decide(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, copy: &ServiceCopy, restored: bool) -> Effect {
    let Some(first) = row.operations.first_mut() else {
        if let Some(record) = row.record.as_ref().filter(|record| restored && is_lost(record, copy)) {
            lose(tx, table, key, Side::Local, record.body.clone(), record.version.clone(), LoserCause::Vanished);
        }
        return store(table, row, copy);
    };
    let from_base = match (&row.base, copy) {
        (Some(base), ServiceCopy::Found(copy)) => base.version == copy.version && base.deleted == copy.deleted,
        (None, copy) => copy.live().is_none(),
        _ => false,
    };
    if first.in_doubt() {
        match copy {
            ServiceCopy::Found(record) if !from_base => row.seen = Some(record.clone()),
            _ => {}
        }
        return Effect::Unchanged;
    }
    if let Hold::Parked(parked) = &mut first.hold
        && let Some(shown) = &mut parked.conflict
    {
        *shown = copy.clone();
        return Effect::Unchanged;
    }
    if from_base {
        return Effect::Unchanged;
    }
    Effect::Conflict(settle(tx, table, key, row, copy.clone()))
}

/// Whether a service that was restored has lost this state of a row: it has no row, or an older one. A tombstone is its
/// own, and no loss.
fn is_lost(record: &Record, copy: &ServiceCopy) -> bool {
    match copy {
        ServiceCopy::Absent => true,
        ServiceCopy::Found(copy) => record.version != copy.version && record.updated_at > copy.updated_at,
    }
}

/// A row without queued operations takes the service's copy.
fn store(table: &Table, row: &mut Row, copy: &ServiceCopy) -> Effect {
    row.tombstone = None;
    let Some(copy) = copy.live() else {
        let had = row.record.take().is_some();
        row.scopes.clear();
        return if had { Effect::Removed } else { Effect::Unchanged };
    };
    let Some(record) = &row.record else {
        row.record = Some(copy.clone());
        return Effect::Inserted;
    };
    if record.version.is_some() && record.version == copy.version {
        return Effect::Unchanged;
    }
    let body = body::carry_local(&table.schema, &copy.body, Some(&record.body));
    row.record = Some(Record { body, ..copy.clone() });
    Effect::Updated
}
