//! What a row of a page does to the local row (I12, I14).

use std::sync::Arc;

use crate::{
    body,
    engine::{
        committer::Tx,
        conflict::{Settled, lose, settle},
        links, migrate,
        table::Table,
    },
    error::Error,
    row::{Hold, LoserCause, Record, Row, RowKey, ServiceCopy, SettledLoser, Side},
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

/// Whether what an answer has crossed, that a row has left a scope with this version, may be older than what is stored.
pub(crate) fn stale_departure(
    tx: &Tx<'_>,
    key: &RowKey,
    scope: &Arc<str>,
    version: Option<&str>,
) -> Result<bool, Error> {
    let held = tx.row(key)?.filter(|row| row.scopes.contains(scope));
    let stored = held.and_then(|row| row.record).and_then(|record| record.version);
    Ok(version.is_some() && stored.is_some() && stored.as_deref() != version)
}

/// Applies the service's copy of a row, and says whether anything of the row was written. `restored` says that the service may
/// have gone back in time.
pub(crate) fn apply(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    scope: &Arc<str>,
    copy: &ServiceCopy,
    restored: bool,
) -> Result<(Effect, bool), Error> {
    let known = tx.row(key)?;
    let mut row = known.clone().unwrap_or_default();
    let effect = match row.quarantine {
        Some(_) => in_quarantine(tx, table, key, &mut row, copy),
        None => decide(tx, table, key, &mut row, copy, restored),
    };
    if (row.record.is_some() || !row.operations.is_empty()) && copy.live().is_some() {
        row.left = false;
        if !row.scopes.contains(scope) {
            row.scopes.push(Arc::clone(scope));
        }
    }
    links::settle(tx, table, key, known.as_ref(), &row)?;
    Ok((effect, keep(tx, key, known, row)))
}

/// A row has left the query of a scope. Its record, version, base and operations are not touched; a row that no scope
/// holds any more leaves the device, once nothing of it is queued. What is queued `returns` the row to the query, for all that
/// is known: the last scope goes on to hold it once that has succeeded.
pub(crate) fn leave(
    tx: &mut Tx<'_>,
    key: &RowKey,
    scope: &Arc<str>,
    returns: impl FnOnce(&Row) -> bool,
) -> Result<Effect, Error> {
    let known = tx.row(key)?;
    let Some(mut row) = known.clone().filter(|row| row.scopes.contains(scope)) else { return Ok(Effect::Unchanged) };
    row.left = row.scopes.iter().all(|held| held == scope);
    if !row.left || row.operations.is_empty() || !returns(&row) {
        row.scopes.retain(|held| held != scope);
    }
    let goes = row.left && row.operations.is_empty();
    keep(tx, key, known, row);
    Ok(if goes { Effect::Removed } else { Effect::Unchanged })
}

fn keep(tx: &mut Tx<'_>, key: &RowKey, known: Option<Row>, mut row: Row) -> bool {
    let changed = known.unwrap_or_default() != row;
    if changed {
        row.revision += 1;
        tx.put(key, row);
    }
    changed
}

fn is_same_state(base: Option<&Record>, copy: &Record) -> bool {
    // Where the service gives no versions, its time says as much as it can.
    let same = |base: &Record| {
        base.version == copy.version
            && base.deleted == copy.deleted
            && (base.version.is_some() || base.updated_at == copy.updated_at)
    };
    base.map_or(copy.deleted, same)
}

/// Whether the service has what a change started from, which was certainly not made yet.
pub(crate) fn is_from(base: Option<&Record>, copy: &ServiceCopy) -> bool {
    match copy {
        ServiceCopy::Found(copy) => is_same_state(base, copy),
        ServiceCopy::Absent => base.is_none_or(|base| base.deleted && base.version.is_none()),
    }
}

/// Whether what the service has may be what became of a change in doubt, or of the row since. A tombstone where nothing was
/// known of a row may be that of the row which the change made; and a row that is gone may be that row.
fn tells_more(base: Option<&Record>, copy: &ServiceCopy) -> bool {
    base.is_none() || !is_from(base, copy)
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
    if first.in_doubt() {
        if tells_more(row.base.as_ref(), copy) {
            row.seen = Some(copy.clone());
            if restored {
                lose_base(tx, table, key, row, copy);
            }
        }
        return Effect::Unchanged;
    }
    if let Hold::Parked(parked) = &mut first.hold
        && let Some(shown) = &mut parked.conflict
    {
        *shown = copy.clone();
        return Effect::Unchanged;
    }
    if is_from(row.base.as_ref(), copy) {
        return Effect::Unchanged;
    }
    if restored {
        lose_base(tx, table, key, row, copy);
    }
    Effect::Conflict(settle(tx, table, key, row, copy.clone()))
}

/// What a restored service has lost and a queued change started from is kept: the outcome of the change may not have it (I28).
fn lose_base(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &Row, copy: &ServiceCopy) {
    if let Some(base) = row.base.as_ref().filter(|base| !base.deleted && is_lost(base, copy)) {
        lose(tx, table, key, Side::Local, base.body.clone(), base.version.clone(), LoserCause::Vanished);
    }
}

/// A row in quarantine becomes what the service has, if nothing of it is queued.
fn in_quarantine(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, copy: &ServiceCopy) -> Effect {
    if let Some(first) = row.operations.first() {
        let base = row.quarantine.as_ref().and_then(|held| held.base.as_ref());
        if first.in_doubt() && tells_more(base, copy) {
            row.seen = Some(copy.clone());
        }
        return Effect::Unchanged;
    }
    let Some(held) = &mut row.quarantine else { return Effect::Unchanged };
    let Some(copy) = copy.live() else {
        (row.quarantine, row.tombstone) = (None, None);
        row.scopes.clear();
        return Effect::Removed;
    };
    let fits = |record: &Record| migrate::fits(table, &key.id, record).is_ok();
    let old = held.record.take().unwrap_or_else(|| copy.clone());
    let mut record = Record { body: body::carry_local(&table.schema, &copy.body, Some(&old.body)), ..copy.clone() };
    if !fits(&record) {
        record.body = copy.body.clone();
    }
    if !fits(&record) {
        // Neither does it fit this release: it waits with what only this device has of the row.
        let newer = Record { body: body::fill(&copy.body, &old.body, |_| true), ..copy.clone() };
        held.record = Some(if old.version == copy.version { old } else { newer });
        return Effect::Unchanged;
    }
    if body::has_local(&table.schema, &old.body, &record.body) {
        let (id, at, cause) = (tx.new_loser_id(), tx.now(), LoserCause::Quarantined);
        let (key, body, version, schema) = (key.clone(), old.body, old.version, held.schema);
        tx.add_loser(SettledLoser { id, key, side: Side::Local, body, version, at, schema, cause });
    }
    (row.quarantine, row.tombstone) = (None, None);
    row.record = Some(record);
    Effect::Inserted
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
