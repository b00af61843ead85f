//! What a local write does to a row and its queue: the collapse table (I3, I5, I6).
//!
//! | queued | then insert | then replace | then delete |
//! | --- | --- | --- | --- |
//! | insert | error: exists | insert, new body | nothing left to send |
//! | replace | error: exists | replace, new body, first base | delete, first base |
//! | delete | replace, first base | error: not found | error: not found |
//!
//! An undelete collapses like an insert: without it the service has no row. Behind an operation in doubt the change is
//! queued instead, and collapses with the one that is queued there already.
//!
//! A row that is deleted and made again before the service hears of it was never gone there: it keeps the fields that this
//! build does not know (I16), of the body that the deletion would have met.

use crate::{
    body,
    engine::{account, acks::Fate, committer::Tx, conflict::with_local, links, migrate, table::Table},
    error::{Error, ErrorKind, SyncPhase},
    row::{Body, Hold, Operation, OperationKind, ParkReason, Phase, Record, Row, RowKey},
};

/// A local write.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Insert(Body),
    Replace(Body),
    Upsert(Body),
    Delete,
}

impl Change {
    /// What it wants to be done.
    pub(crate) fn kind(&self) -> OperationKind {
        match self {
            Change::Insert(_) => OperationKind::Insert,
            Change::Replace(_) | Change::Upsert(_) => OperationKind::Replace,
            Change::Delete => OperationKind::Delete,
        }
    }
}

/// What a local write has made.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    /// Place and kind of what is queued for the row; `None` if that is nothing.
    pub(crate) queued: Option<(u64, OperationKind)>,
    /// The row as the app sees it.
    pub(crate) record: Option<Record>,
}

/// Applies a local write.
pub(crate) fn apply(tx: &mut Tx<'_>, table: &Table, key: &RowKey, change: &Change) -> Result<Applied, Error> {
    written(tx, table, key, change)
        .map_err(|error| error.at(&key.table, &key.id).doing(change.kind()).during(SyncPhase::Write))
}

fn written(tx: &mut Tx<'_>, table: &Table, key: &RowKey, change: &Change) -> Result<Applied, Error> {
    account::check(tx, key)?;
    let before = tx.row(key)?;
    let mut row = before.clone().unwrap_or_default();
    if row.quarantine.is_some() {
        return Err(Error::quarantined(key));
    }
    match (change, &row.record) {
        (Change::Insert(_), Some(_)) => {
            let message = format!("{key:?} exists: use `replace` or `upsert`");
            return Err(Error::new(ErrorKind::Exists, message));
        }
        (Change::Replace(_) | Change::Delete, None) => {
            return Err(Error::new(ErrorKind::NotFound, format!("{key:?} does not exist")));
        }
        (Change::Insert(body) | Change::Upsert(body), None) => {
            let body = match unsent_deletion(table, &row) {
                Some(deleted) => composed(table, body, &deleted).map_err(|error| no_object(key, error))?,
                None => body.clone(),
            };
            let body = stamped(tx, table, key, &body)?;
            insert(tx, table, &mut row, body);
        }
        (Change::Replace(body) | Change::Upsert(body), Some(record)) => {
            let body = composed(table, body, &record.body).map_err(|error| no_object(key, error))?;
            let unchanged = body::same_data(&table.schema, &body, &record.body);
            let body = match (unchanged, body::edited(&table.schema, &record.body)) {
                (true, None) => body,
                (true, Some(edited)) => {
                    body::set_edited(&table.schema, &body, edited).map_err(|error| no_object(key, error))?
                }
                (false, _) => stamped(tx, table, key, &body)?,
            };
            replace(tx, table, &mut row, body, unchanged);
        }
        (Change::Delete, Some(_)) => delete(tx, table, &mut row),
    }
    row.revision += 1;
    links::settle(tx, table, key, before.as_ref(), &row)?;
    let queued = row.operations.last().map(|queued| (queued.place, queued.kind));
    let applied = Applied { queued, record: row.record.clone() };
    tx.put(key, row);
    Ok(applied)
}

/// The written body with what this build cannot have written: the stored fields that it does not know, and those that only
/// an older release had.
fn composed(table: &Table, written: &Body, stored: &Body) -> Result<Body, serde_json::Error> {
    let body = body::compose(&table.schema, written, Some(stored))?;
    Ok(match &*table.retired {
        [] => body,
        retired => body::fill(&body, stored, |name| retired.iter().any(|known| known == name)),
    })
}

/// What a deletion would meet that is queued and was not sent: the body that is in doubt before it, or the base.
fn unsent_deletion(table: &Table, row: &Row) -> Option<Body> {
    row.operations.last().filter(|deletion| !deletion.in_doubt())?;
    let base = row.base.as_ref().map(|base| &base.body);
    let mut first = row.operations[0].clone();
    migrate::as_sent_now(table, &mut first);
    match (first.frozen, base) {
        (Some(sent), base @ Some(_)) => Some(body::carry_local(&table.schema, &sent, base)),
        (Some(sent), None) => Some(sent),
        (None, base) => base.cloned(),
    }
}

/// The body with the time of this edit, where its table has a field for that: the service's time, as far as it is known.
fn stamped(tx: &Tx<'_>, table: &Table, key: &RowKey, body: &Body) -> Result<Body, Error> {
    let time = tx.service_time().unwrap_or_else(|| tx.now());
    body::set_edited(&table.schema, body, time).map_err(|error| no_object(key, error))
}

fn no_object(key: &RowKey, error: serde_json::Error) -> Error {
    Error::caused(ErrorKind::InvalidEntity, format!("{key:?} is not a JSON object"), error)
}

fn insert(tx: &mut Tx<'_>, table: &Table, row: &mut Row, body: Body) {
    row.left = false;
    row.record = Some(Record { body, version: None, updated_at: None, deleted: false });
    row.base.take_if(|base| base.deleted && base.version.is_none());
    match row.operations.last_mut() {
        None => queue(tx, table, row, OperationKind::Insert, None),
        Some(operation) if operation.in_doubt() => queue(tx, table, row, OperationKind::Insert, None),
        // The row is absent here although something is queued: that can only be a delete.
        Some(operation) => {
            operation.kind = OperationKind::Replace;
            edited(tx, operation);
        }
    }
}

fn replace(tx: &mut Tx<'_>, table: &Table, row: &mut Row, body: Body, unchanged: bool) {
    let Some(record) = &mut row.record else { return };
    let before = record.clone();
    record.body = body;
    match row.operations.last_mut() {
        // What is queued does not send it: an edit that was refused stays refused, and no younger.
        _ if unchanged => {}
        None => {
            let version = before.version.clone();
            row.base = Some(before);
            queue(tx, table, row, OperationKind::Replace, version);
        }
        Some(operation) if operation.in_doubt() => queue(tx, table, row, OperationKind::Replace, None),
        Some(operation) => edited(tx, operation),
    }
}

fn delete(tx: &mut Tx<'_>, table: &Table, row: &mut Row) {
    let Some(before) = row.record.take() else { return };
    // A deletion may come to nothing: then the row is back with what stays on this device.
    row.base = row.base.take().map(|base| with_local(table, base, Some(&before.body)));
    let behind = row.operations.len() > 1;
    if row.base.is_none() && row.operations.last().is_some_and(Operation::in_doubt) {
        // Its insert may come to be refused, and this deletion to nothing.
        row.base = Some(Record { version: None, updated_at: None, deleted: true, ..before.clone() });
    }
    let Some(operation) = row.operations.last_mut() else {
        let version = before.version.clone();
        row.base = Some(before);
        return queue(tx, table, row, OperationKind::Delete, version);
    };
    match operation.kind {
        _ if operation.in_doubt() => queue(tx, table, row, OperationKind::Delete, None),
        // The service has a row of this id, so that there is something to decide about.
        OperationKind::Insert | OperationKind::Undelete if is_conflict(operation) => {
            operation.kind = OperationKind::Delete;
            edited(tx, operation);
        }
        OperationKind::Insert | OperationKind::Undelete => {
            tx.fate(operation.place, Fate::Withdrawn);
            row.operations.pop();
            if !behind {
                row.base = None;
            }
        }
        OperationKind::Replace | OperationKind::Delete => {
            operation.kind = OperationKind::Delete;
            edited(tx, operation);
        }
    }
}

fn is_conflict(operation: &Operation) -> bool {
    matches!(&operation.hold, Hold::Parked(parked) if parked.reason == ParkReason::Conflict)
}

/// An edit makes a parked operation ready again, but for a conflict: that waits for its resolution.
fn edited(tx: &mut Tx<'_>, operation: &mut Operation) {
    if matches!(operation.hold, Hold::Parked(_)) && !is_conflict(operation) {
        operation.hold = Hold::Ready;
        operation.attempts = 0;
    }
    operation.rounds = 0;
    if operation.phase == Phase::Refused {
        operation.key = tx.new_key();
    }
    operation.edited = tx.service_time();
}

fn queue(tx: &mut Tx<'_>, table: &Table, row: &mut Row, kind: OperationKind, version: Option<String>) {
    row.operations.push(Operation {
        place: tx.new_place(),
        key: tx.new_key(),
        kind,
        phase: Phase::New,
        hold: Hold::Ready,
        version,
        frozen: None,
        frozen_base: None,
        fingerprint: table.fingerprint,
        schema: table.version,
        edited: tx.service_time(),
        attempts: 0,
        rounds: 0,
    });
}

/// Makes the first operation refused: it is no longer frozen, and collapses with the second one.
///
/// Returns false if nothing is left to send.
pub(crate) fn refuse(tx: &mut Tx<'_>, table: &Table, row: &mut Row) -> bool {
    let second = (row.operations.len() > 1).then(|| row.operations.remove(1));
    let Some(first) = row.operations.first_mut() else { return false };
    (first.frozen, first.frozen_base) = (None, None);
    first.phase = Phase::Refused;
    first.key = tx.new_key();
    first.hold = Hold::Ready;
    let Some(second) = second else { return true };
    tx.fate(second.place, Fate::Collapsed(first.place));
    // It may be parked for a parent that is gone.
    first.hold = second.hold;
    first.edited = second.edited;
    first.attempts = 0;
    use OperationKind::{Delete, Insert, Replace, Undelete};
    match (first.kind, second.kind) {
        (Insert | Undelete, Delete) => {
            tx.fate(first.place, Fate::Withdrawn);
            tx.fate(second.place, Fate::Stored);
            row.operations.clear();
            return false;
        }
        (Replace, Delete) => first.kind = Delete,
        (Delete, Insert | Replace | Undelete) => {
            first.kind = Replace;
            if let (Some(ours), Some(base)) = (&mut row.record, &row.base)
                && let Ok(body) = composed(table, &ours.body, &base.body)
            {
                ours.body = body;
            }
        }
        _ => {}
    }
    true
}
