//! What an answer of the service does to the row whose operation was sent (DESIGN.md section 6).

use std::time::Duration;

use crate::{
    body,
    config::CLIENT_WINS_ROUNDS,
    engine::{
        acks::Fate,
        change::refuse,
        committer::Tx,
        conflict::{Settled, accumulates, clashes, lose, settle, with_local},
        links::{self, creates},
        migrate::{as_sent_now, copy_in_present},
        page::is_from,
        table::Table,
    },
    row::{
        Body, Hold, LoserCause, Operation, OperationKind, ParkReason, Parked, Phase, Record, Row, RowKey, ServiceCopy,
        Side, Tombstone,
    },
};

/// An answer, with everything fetched that it takes to use it.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The service did it, and this is its copy if it gave one.
    Applied(Option<Record>),
    /// The service did it, and this is what it has now.
    AppliedThenFetched(ServiceCopy),
    /// The answer said "done" and showed no copy; this is what the service has now.
    PerhapsAppliedThenFetched(ServiceCopy),
    /// The service has another version; and this is its copy if it gave one.
    Conflict(Option<ServiceCopy>),
    /// The service has another version, and this is what it has now.
    ConflictThenFetched(ServiceCopy),
    /// Nothing was sent: the row was fetched to learn what became of earlier attempts.
    Looked(ServiceCopy),
    /// The service refused for good.
    Refused { status: Option<u16>, message: String },
    /// Certainly nothing was done, and the same may be tried again.
    NotSent,
    /// The outcome is not known, or the service asked for patience.
    Unknown { wait: Duration, demanded: bool, status: Option<u16>, reason: String, exhausted: Option<String> },
}

impl Answer {
    /// The service's copy in it.
    fn copy_mut(&mut self) -> Option<&mut Record> {
        match self {
            Answer::Applied(Some(record))
            | Answer::AppliedThenFetched(ServiceCopy::Found(record))
            | Answer::PerhapsAppliedThenFetched(ServiceCopy::Found(record))
            | Answer::Conflict(Some(ServiceCopy::Found(record)))
            | Answer::ConflictThenFetched(ServiceCopy::Found(record)) => Some(record),
            _ => None,
        }
    }
}

/// What became of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The service has it, and it is gone.
    Done,
    /// It certainly had no effect, and nothing is left to send.
    Withdrawn,
    /// A conflict was found.
    Conflict(Settled),
    /// It is parked as refused.
    Parked(String),
    /// It stays in the queue, and may be sent again.
    Stays,
    /// The answer says too little: the row must be fetched by id.
    Fetch,
    /// The operation is no longer there.
    Vanished,
}

/// Applies the answer to the operation at `place`. `doubted` says whether an attempt before this one was in doubt.
pub(crate) fn apply(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    place: u64,
    doubted: bool,
    answer: &Answer,
) -> Result<Effect, crate::error::Error> {
    let Some(before) = tx.row(key)? else { return Ok(Effect::Vanished) };
    let mut row = before.clone();
    if !row.operations.first().is_some_and(|operation| operation.place == place && operation.in_doubt()) {
        return Ok(Effect::Vanished);
    }
    // Bytes of an older release are compared and merged as this one would have sent them.
    let sent = as_sent_now(table, &mut row.operations[0]);
    let mut brought = sent.is_some().then(|| answer.clone());
    if let (Some(sent), Some(copy)) = (&sent, brought.as_mut().and_then(Answer::copy_mut)) {
        copy_in_present(table, key, &row.operations[0], sent, copy);
    }
    let effect = decide(tx, table, key, &mut row, doubted, brought.as_ref().unwrap_or(answer));
    if let (Some(sent), Some(first)) = (sent, row.operations.first_mut())
        && first.place == place
        && first.in_doubt()
    {
        first.frozen = Some(sent);
    }
    if !matches!(effect, Effect::Fetch) {
        row.revision += 1;
        links::settle(tx, table, key, Some(&before), &row)?;
        tx.put(key, row);
    }
    Ok(effect)
}

fn decide(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, doubted: bool, answer: &Answer) -> Effect {
    match answer {
        Answer::Applied(None) if row.operations[0].kind != OperationKind::Delete => Effect::Fetch,
        Answer::Applied(copy) => match (&row.seen, copy) {
            (Some(seen), Some(copy)) if differ(seen.version(), copy.version.as_deref()) => Effect::Fetch,
            (Some(_), None) => Effect::Fetch,
            _ => succeed(tx, table, key, row, copy.clone().map_or(ServiceCopy::Absent, ServiceCopy::Found), false),
        },
        Answer::AppliedThenFetched(now) => succeed(tx, table, key, row, now.clone(), true),
        Answer::PerhapsAppliedThenFetched(now) => perhaps_succeed(tx, table, key, row, now),
        Answer::Looked(now) => {
            let first = &row.operations[0];
            if has_ours(table, first.kind, first.frozen.as_ref(), now) {
                return succeed(tx, table, key, row, now.clone(), true);
            }
            if !untouched(first, now) {
                return conflict(tx, table, key, row, true, now.clone());
            }
            // It certainly had no effect.
            row.seen = None;
            if refuse(tx, table, row) {
                return Effect::Stays;
            }
            row.base = None;
            Effect::Withdrawn
        }
        Answer::Conflict(None) => Effect::Fetch,
        Answer::Conflict(Some(copy)) => match &row.seen {
            Some(seen) if differ(seen.version(), copy.version()) => Effect::Fetch,
            _ => conflict(tx, table, key, row, doubted, copy.clone()),
        },
        Answer::ConflictThenFetched(now) => conflict(tx, table, key, row, doubted, now.clone()),
        Answer::Refused { status, message } => refused(tx, table, key, row, doubted, *status, message),
        Answer::NotSent => {
            let operation = &mut row.operations[0];
            operation.hold = Hold::Ready;
            if doubted {
                return Effect::Stays;
            }
            operation.phase = Phase::New;
            (operation.frozen, operation.frozen_base) = (None, None);
            if row.operations.len() > 1 && !refuse(tx, table, row) {
                return withdrawn(row);
            }
            row.operations[0].phase = Phase::New;
            meet_seen(tx, table, key, row).unwrap_or(Effect::Stays)
        }
        Answer::Unknown { wait, demanded, status, exhausted, .. } => {
            let operation = &mut row.operations[0];
            operation.attempts = operation.attempts.saturating_add(1);
            operation.hold = match exhausted {
                Some(message) => {
                    let (reason, status, message) = (ParkReason::Exhausted, *status, message.clone());
                    Hold::Parked(Parked { reason, status, message, conflict: None })
                }
                None => Hold::Wait { since: tx.now(), length: *wait, demanded: *demanded },
            };
            if exhausted.is_some() { Effect::Parked("the service failed too often".to_owned()) } else { Effect::Stays }
        }
    }
}

/// Whether two copies may be two states of a row: also where the service gives no versions.
fn differ(one: Option<&str>, other: Option<&str>) -> bool {
    one.is_none() || one != other
}

/// Inserted and deleted again, and the insert had no effect: what a pull has seen meanwhile is somebody else's row.
fn withdrawn(row: &mut Row) -> Effect {
    row.base = None;
    row.record = row.seen.take().and_then(|seen| seen.live().cloned());
    Effect::Withdrawn
}

/// An operation that certainly had no effect meets what a pull has seen since: the token is behind that already, and no later
/// page brings it again (I14).
fn meet_seen(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row) -> Option<Effect> {
    let seen = row.seen.take().filter(|seen| !is_from(row.base.as_ref(), seen))?;
    Some(Effect::Conflict(settle(tx, table, key, row, seen)))
}

/// A network that answers in the service's place says "done" too, so that the row must show it: each field that the operation
/// changed differs from what it started from. If it does and is not what was sent, the service may have changed it itself, or
/// somebody else may have written instead: then what was sent is kept as a settled loser (I28).
fn perhaps_succeed(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, now: &ServiceCopy) -> Effect {
    let operation = &row.operations[0];
    let (sent, base) = (operation.frozen.clone(), row.base.as_ref().map(|base| &base.body));
    let shown = now.live().is_some_and(|copy| {
        let moved = copy.version.is_none() || copy.version != operation.version;
        let changed = || match (&sent, base) {
            (Some(sent), Some(base)) => body::all_changed(&table.schema, base, sent, &copy.body),
            _ => false,
        };
        has_ours(table, operation.kind, sent.as_ref(), now) || (moved && (creates(operation.kind) || changed()))
    });
    if !shown {
        return conflict(tx, table, key, row, true, now.clone());
    }
    let kept_here = row.operations.len() > 1;
    if let Some(sent) = sent.filter(|sent| !kept_here && !has_ours(table, operation.kind, Some(sent), now)) {
        lose(tx, table, key, Side::Local, sent, operation.version.clone(), LoserCause::Conflict);
    }
    succeed(tx, table, key, row, now.clone(), true)
}

/// The first operation took effect; `now` is what the service has. If that was `fetched`, others may have changed it since.
fn succeed(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, now: ServiceCopy, fetched: bool) -> Effect {
    let first = row.operations.remove(0);
    tx.fate(first.place, Fate::Stored);
    let ours = row.local().cloned();
    row.seen = None;
    row.base = None;
    if first.kind == OperationKind::Delete {
        row.tombstone = Some(Tombstone { version: first.version, since: tx.now() });
    } else {
        row.tombstone = None;
    }
    let live = now.live().cloned();
    let Some(second) = row.operations.first_mut() else {
        if live.is_some() {
            row.tombstone = None;
        }
        row.record = live.map(|copy| with_local(table, copy, ours.as_ref()));
        return done(row);
    };
    let Some(copy) = live else {
        if first.kind == OperationKind::Delete {
            return Effect::Done;
        }
        // The row was ours for a moment and somebody has deleted it since: the second change meets that deletion.
        return Effect::Conflict(settle(tx, table, key, row, now));
    };
    if first.kind == OperationKind::Delete {
        // Somebody has made the row again since our delete.
        return Effect::Conflict(settle(tx, table, key, row, now));
    }
    if let Some(sent) = first.frozen.as_ref().filter(|_| fetched) {
        let meets = match &row.record {
            None => !body::same_data(&table.schema, sent, &copy.body),
            Some(ours) => clashes(table, tx.service().keys(), sent, &ours.body, &copy.body),
        };
        if meets {
            // Somebody has changed what the second operation changes too, and this device has not seen it (I28).
            let sent = Record { body: sent.clone(), version: None, updated_at: None, deleted: false };
            row.base = Some(with_local(table, sent, ours.as_ref()));
            second.kind = if row.record.is_none() { OperationKind::Delete } else { OperationKind::Replace };
            return Effect::Conflict(settle(tx, table, key, row, now));
        }
    }
    second.version = copy.version.clone();
    if second.kind != OperationKind::Delete {
        second.kind = OperationKind::Replace;
        let merged = match (&first.frozen, &row.record) {
            (Some(sent), Some(ours)) => body::merge_after_success(&table.schema, sent, &ours.body, &copy.body).ok(),
            _ => None,
        };
        if let Some((body, differs)) = merged {
            row.record = Some(Record { body, ..copy.clone() });
            if !differs {
                tx.fate(second.place, Fate::Stored);
                row.operations.clear();
                return done(row);
            }
        }
    }
    row.base = Some(with_local(table, copy, ours.as_ref()));
    Effect::Done
}

/// The last queued operation has succeeded: the scope that has waited for it goes on to hold the row.
fn done(row: &mut Row) -> Effect {
    row.left &= row.scopes.is_empty();
    Effect::Done
}

/// Whether the service has what the operation wanted.
fn has_ours(table: &Table, kind: OperationKind, frozen: Option<&Body>, copy: &ServiceCopy) -> bool {
    match (kind, frozen, copy.live()) {
        (OperationKind::Delete, _, live) => live.is_none(),
        (_, Some(sent), Some(copy)) => body::sent_equal(&table.schema, sent, &copy.body),
        _ => false,
    }
}

/// Whether a copy equal to what was sent is somebody else's, who has changed the same: then both changes are added up. A
/// service that keeps keys would have answered an earlier attempt that had an effect with a success; of another one nobody
/// knows, and then it counts as ours.
fn must_add(tx: &Tx<'_>, table: &Table, row: &Row, doubted: bool) -> bool {
    if doubted && !tx.service().keys() {
        return false;
    }
    let base = row.base.as_ref().filter(|base| !base.deleted).map(|base| &base.body);
    row.operations[0].frozen.as_ref().is_some_and(|sent| accumulates(tx, table, base, sent))
}

/// Whether the service has what the operation started from.
fn untouched(operation: &Operation, copy: &ServiceCopy) -> bool {
    match operation.kind {
        OperationKind::Insert => *copy == ServiceCopy::Absent,
        _ => copy.version().is_some() && copy.version() == operation.version.as_deref(),
    }
}

fn conflict(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, doubted: bool, copy: ServiceCopy) -> Effect {
    let first = &row.operations[0];
    if has_ours(table, first.kind, first.frozen.as_ref(), &copy) && !must_add(tx, table, row, doubted) {
        return succeed(tx, table, key, row, copy, true);
    }
    let untouched = untouched(first, &copy);
    let revives = first.kind == OperationKind::Insert
        && row.tombstone.is_some()
        && matches!(&copy, ServiceCopy::Found(copy) if copy.deleted);
    let was_insert = matches!(first.kind, OperationKind::Insert | OperationKind::Undelete);
    let withdrawn = row.record.is_none() && was_insert;
    row.seen = None;
    if withdrawn && doubted && !tx.service().keys() && copy.live().is_some() {
        // Inserted and deleted again here, and the copy may be our own row, changed by somebody: its deletion is still wanted,
        // and the policy decides.
        still_delete(tx, row);
    } else if !refuse(tx, table, row) {
        // What is there is somebody else's row.
        row.base = None;
        row.record = copy.live().cloned();
        return Effect::Withdrawn;
    }
    if revives && row.record.is_some() {
        let operation = &mut row.operations[0];
        operation.kind = OperationKind::Undelete;
        operation.version = copy.version().map(str::to_owned);
        if let (ServiceCopy::Found(tombstone), Some(ours)) = (copy, &mut row.record) {
            let before = row.base.as_ref().map(|base| &base.body);
            ours.body = body::carry_unknown(&table.schema, &ours.body, before, &tombstone);
            row.base = Some(with_local(table, tombstone, Some(&ours.body)));
        }
        return Effect::Stays;
    }
    let operation = &mut row.operations[0];
    operation.rounds += 1;
    if !untouched {
        return Effect::Conflict(settle(tx, table, key, row, copy));
    }
    // The service still has what the change started from: it had no effect, and nobody else has written anything that a policy
    // could decide about.
    if operation.rounds <= CLIENT_WINS_ROUNDS {
        return Effect::Stays;
    }
    let message = format!(
        "the service has not done it {CLIENT_WINS_ROUNDS} times, and does not say why: the row is as the change found it"
    );
    operation.rounds = 0;
    operation.hold =
        Hold::Parked(Parked { reason: ParkReason::Refused, status: None, message: message.clone(), conflict: None });
    Effect::Parked(message)
}

/// An insert that was refused and has been deleted again becomes the deletion.
fn still_delete(tx: &mut Tx<'_>, row: &mut Row) {
    let Some(second) = row.operations.pop() else { return };
    if let Some(first) = row.operations.first_mut() {
        tx.fate(second.place, Fate::Collapsed(first.place));
        let (kind, phase, hold) = (OperationKind::Delete, Phase::Refused, Hold::Ready);
        *first = Operation { kind, phase, hold, key: tx.new_key(), place: first.place, ..second };
    }
}

fn refused(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    row: &mut Row,
    doubted: bool,
    status: Option<u16>,
    message: &str,
) -> Effect {
    let parked = |message: &str| {
        let (reason, message) = (ParkReason::Refused, message.to_owned());
        Hold::Parked(Parked { reason, status, message, conflict: None })
    };
    if doubted {
        row.operations[0].hold = parked(message);
        return Effect::Parked(message.to_owned());
    }
    let edited_since = row.operations.len() > 1;
    if !refuse(tx, table, row) {
        return withdrawn(row);
    }
    if let Some(effect) = meet_seen(tx, table, key, row) {
        return effect;
    }
    // What was refused is not what would be sent: the edit made since may have mended it.
    if edited_since {
        return Effect::Stays;
    }
    row.operations[0].hold = parked(message);
    Effect::Parked(message.to_owned())
}
