//! The conflict function: base, this device's side, the service's copy, and what becomes of them (I14, I17, I18, I28).
//!
//! A conflict found by a push and one found by a pull end here, in the commit that stores the answer or the page. So a
//! kill leaves both or neither, and the same answer or page comes again. What loses is kept as a settled loser in that
//! commit:
//!
//! | outcome | the record becomes | what is kept |
//! | --- | --- | --- |
//! | park | stays | everything: base, local and service copy are stored with the operation |
//! | keep | stays, but for fields that this build does not know, and is sent over the version just learnt | the service's body, if it is not what the base was |
//! | take | the service's copy | this device's body, if it is not what the base was |
//! | merged by field | the merge | each body of which a field has lost: one that both sides changed, where the rule or the fallback took the other value. `sum`, `union` and a function that made a value of its own lose nothing |
//! | written by a resolver or a person | what was written, but for fields that this build does not know | nothing: who wrote it has seen both sides |
//!
//! `policy` says who wins, `merge` does it field by field.

mod merge;
mod policy;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::Timestamp;
use uuid::Uuid;

pub(crate) use self::{
    merge::{Merged, clashes},
    policy::{Readable, Rules},
};
use crate::{
    body,
    config::{CLIENT_WINS_ROUNDS, ConflictPolicy},
    engine::{
        Engine,
        acks::Fate,
        committer::{Reads, Tx},
        journal::{self, JournalStep},
        table::Table,
    },
    error::Error,
    row::{
        Body, Hold, LoserCause, OperationKind, ParkReason, Parked, Phase, Record, Row, RowKey, ServiceCopy,
        SettledLoser, Side,
    },
};

/// How many settled losers are looked at in one commit.
const AT_ONCE: usize = 1_000;

/// The sides of a conflict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides<'a> {
    pub(crate) key: &'a RowKey,
    pub(crate) kind: OperationKind,
    /// When this device's side was last edited, by the service's clock.
    pub(crate) edited: Option<Timestamp>,
    pub(crate) base: Option<&'a Record>,
    pub(crate) local: Option<&'a Record>,
    pub(crate) service: &'a ServiceCopy,
}

impl Sides<'_> {
    /// The body that both sides started from, if the service had the row.
    fn base_body(&self) -> Option<&Body> {
        self.base.filter(|base| !base.deleted).map(|base| &base.body)
    }
}

/// How a conflict ends.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Park(String),
    Keep,
    Take,
    /// As this policy would have it.
    Policy(ConflictPolicy),
    /// What a merge by field has made.
    Merged(Merged),
    /// What somebody wrote who has seen both sides.
    Written(Body),
}

/// A typed resolver without its type.
pub(crate) type Resolve = dyn Fn(&Table, &Sides<'_>) -> Outcome + Send + Sync;

/// What came of a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Both sides agree: nothing is queued any more.
    Agreed,
    /// The service's copy was taken.
    Taken,
    /// This device's side, or a merge, will be sent.
    Resent,
    /// Somebody has to decide.
    Parked,
}

/// A copy of the service with the fields that stay on this device, as this body has them.
pub(crate) fn with_local(table: &Table, copy: Record, ours: Option<&Body>) -> Record {
    let body = body::carry_local(&table.schema, &copy.body, ours);
    Record { body, ..copy }
}

/// A body with what a newer release may have written on the other side: nobody here can have meant to change a field that
/// this build does not know (I16).
fn brought_up(table: &Table, row: &Row, body: &Body, service: &ServiceCopy) -> Body {
    let ServiceCopy::Found(copy) = service else { return body.clone() };
    body::carry_unknown(&table.schema, body, row.base.as_ref().map(|base| &base.body), copy)
}

/// This device's side, brought up.
fn ours(table: &Table, row: &Row, service: &ServiceCopy) -> Option<Record> {
    let ours = row.record.as_ref()?;
    Some(Record { body: brought_up(table, row, &ours.body, service), ..ours.clone() })
}

/// Settles the conflict of a row that has one operation, not in doubt, with the copy that the service has.
pub(crate) fn settle(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, service: ServiceCopy) -> Settled {
    debug_assert!(row.operations.len() == 1 && !row.operations[0].in_doubt(), "a conflict has one operation");
    if agrees(tx, table, row, &service) {
        take(tx, table, row, &service, Fate::Stored);
        return Settled::Agreed;
    }
    let outcome = match &table.rules.resolver {
        Some(resolver) => {
            let sides = sides(key, row, row.record.as_ref(), &service);
            let outcome = catch_unwind(AssertUnwindSafe(|| resolver(table, &sides)));
            outcome.unwrap_or_else(|_| Outcome::Park("the conflict resolver panicked".to_owned()))
        }
        None => Outcome::Policy(table.rules.policy),
    };
    finish(tx, table, key, row, service, outcome)
}

/// Carries out a decision about a conflict.
pub(crate) fn finish(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    row: &mut Row,
    service: ServiceCopy,
    outcome: Outcome,
) -> Settled {
    let ours = ours(table, row, &service);
    let outcome = match outcome {
        Outcome::Policy(policy) => policy::decide(tx, table, policy, &sides(key, row, ours.as_ref(), &service)),
        outcome => outcome,
    };
    match outcome {
        Outcome::Park(message) => park(row, service, message),
        Outcome::Policy(_) => park(row, service, "no policy could settle it".to_owned()),
        Outcome::Take => {
            lose_ours(tx, table, key, row);
            take(tx, table, row, &service, Fate::Overruled);
            Settled::Taken
        }
        Outcome::Keep if tried_too_often(row) => park(row, service, too_often()),
        Outcome::Keep => {
            row.record = ours;
            keep(tx, table, key, row, service, true);
            Settled::Resent
        }
        Outcome::Merged(merged) => put_merged(tx, table, key, row, service, merged),
        Outcome::Written(written) => {
            // Fields that this build does not know are as the service has them, and local ones as they are here (I16).
            let known = service.live().or(row.record.as_ref()).map(|record| &record.body);
            let composed = body::compose(&table.schema, &written, known).and_then(|body| {
                let body = brought_up(table, row, &body, &service);
                let body = body::carry_local(&table.schema, &body, row.local());
                match tx.service_time() {
                    Some(now) => body::set_edited(&table.schema, &body, now),
                    None => Ok(body),
                }
            });
            match composed {
                Ok(body) => {
                    row.operations[0].edited = tx.service_time();
                    let merged = Merged { body, ours_lost: false, theirs_lost: false };
                    put_merged(tx, table, key, row, service, merged)
                }
                Err(error) => park(row, service, format!("the resolution is not a JSON object: {error}")),
            }
        }
    }
}

fn sides<'a>(key: &'a RowKey, row: &'a Row, local: Option<&'a Record>, service: &'a ServiceCopy) -> Sides<'a> {
    let operation = row.operations.first();
    Sides {
        key,
        kind: operation.map_or(OperationKind::Replace, |operation| operation.kind),
        edited: operation.and_then(|operation| operation.edited),
        base: row.base.as_ref(),
        local,
        service,
    }
}

/// Whether both sides want the same, and nothing has to be added up.
fn agrees(tx: &Tx<'_>, table: &Table, row: &Row, service: &ServiceCopy) -> bool {
    match (ours(table, row, service), service.live()) {
        (None, None) => true,
        (Some(ours), Some(copy)) => {
            let base = row.base.as_ref().filter(|base| !base.deleted).map(|base| &base.body);
            body::same_data(&table.schema, &ours.body, &copy.body) && !accumulates(tx, table, base, &ours.body)
        }
        _ => false,
    }
}

/// Whether a field of `ours` that differs from the base is added to what others did to it, so that equal bodies do not
/// mean that the change was made.
pub(crate) fn accumulates(tx: &Tx<'_>, table: &Table, base: Option<&Body>, ours: &Body) -> bool {
    table.rules.merges() && merge::accumulates(table, tx.service().keys(), base, ours)
}

fn tried_too_often(row: &Row) -> bool {
    row.operations[0].rounds > CLIENT_WINS_ROUNDS
}

fn too_often() -> String {
    format!("the row changed on the service before each of {CLIENT_WINS_ROUNDS} attempts")
}

fn park(row: &mut Row, service: ServiceCopy, message: String) -> Settled {
    let conflict = Some(service);
    let parked = Parked { reason: ParkReason::Conflict, status: None, message, conflict };
    row.operations[0].hold = Hold::Parked(parked);
    Settled::Parked
}

fn put_merged(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    row: &mut Row,
    service: ServiceCopy,
    merged: Merged,
) -> Settled {
    let same = service.live().is_some_and(|copy| body::same_data(&table.schema, &merged.body, &copy.body));
    if !same && tried_too_often(row) {
        return park(row, service, too_often());
    }
    let (version, updated_at) = match &row.record {
        Some(record) => (record.version.clone(), record.updated_at),
        None => (None, None),
    };
    if merged.ours_lost {
        lose_ours(tx, table, key, row);
    }
    if merged.theirs_lost {
        lose_theirs(tx, table, key, row, &service);
    }
    row.record = Some(Record { body: merged.body, version, updated_at, deleted: false });
    if same {
        let (fate, settled) =
            if merged.ours_lost { (Fate::Overruled, Settled::Taken) } else { (Fate::Stored, Settled::Agreed) };
        take(tx, table, row, &service, fate);
        return settled;
    }
    keep(tx, table, key, row, service, false);
    Settled::Resent
}

/// The service's copy becomes the record; nothing stays queued.
fn take(tx: &mut Tx<'_>, table: &Table, row: &mut Row, service: &ServiceCopy, fate: Fate) {
    row.record = service.live().map(|copy| with_local(table, copy.clone(), row.local()));
    row.operations.drain(..).for_each(|operation| tx.fate(operation.place, fate));
    row.base = None;
    row.seen = None;
}

/// This device's side will be sent, with the version that it overwrites (I18).
fn keep(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, service: ServiceCopy, theirs_lost: bool) {
    if theirs_lost {
        lose_theirs(tx, table, key, row, &service);
    }
    let operation = &mut row.operations[0];
    operation.kind = match (&row.record, &service) {
        (None, _) => OperationKind::Delete,
        (Some(_), ServiceCopy::Absent) => OperationKind::Insert,
        (Some(_), ServiceCopy::Found(copy)) if copy.deleted => OperationKind::Undelete,
        (Some(_), ServiceCopy::Found(_)) => OperationKind::Replace,
    };
    operation.version = service.version().map(str::to_owned);
    operation.key = tx.new_key();
    operation.phase = Phase::New;
    // Nobody has decided yet about what else it is parked for.
    if !matches!(&operation.hold, Hold::Parked(parked) if parked.reason != ParkReason::Conflict) {
        operation.hold = Hold::Ready;
    }
    operation.attempts = 0;
    row.base = match service {
        ServiceCopy::Found(copy) => Some(with_local(table, copy, row.local())),
        ServiceCopy::Absent => None,
    };
}

/// Whether a body has something that the base had not.
fn touched(table: &Table, row: &Row, body: &Body) -> bool {
    let base = row.base.as_ref().filter(|base| !base.deleted);
    base.is_none_or(|base| !body::same_data(&table.schema, &base.body, body))
}

fn lose_ours(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &Row) {
    if let Some(ours) = row.record.as_ref().filter(|ours| touched(table, row, &ours.body)) {
        let version = row.operations.first().and_then(|operation| operation.version.clone());
        lose(tx, table, key, Side::Local, ours.body.clone(), version, LoserCause::Conflict);
    }
}

fn lose_theirs(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &Row, service: &ServiceCopy) {
    if let Some(copy) = service.live().filter(|copy| touched(table, row, &copy.body)) {
        lose(tx, table, key, Side::Service, copy.body.clone(), copy.version.clone(), LoserCause::Conflict);
    }
}

/// Removes the settled losers whose age has passed, the oldest first. By the service's time and by this device's: of either a
/// clock may be years ahead, and one answer with a wrong time must not make them old.
pub(crate) async fn expire_losers(engine: &Engine) -> Result<(), Error> {
    let here = engine.clock.now();
    let now = engine.service.time(here).map_or(here, |there| there.min(here));
    loop {
        let oldest = engine.store.losers(&engine.account(), None, AT_ONCE).await?;
        let old = |loser: &SettledLoser| now.duration_since(loser.at).unsigned_abs() >= engine.settings.loser_age;
        let old = oldest.into_iter().take_while(|loser| loser.at <= now && old(loser));
        let old: Vec<(Uuid, RowKey)> = old.map(|loser| (loser.id, loser.key)).collect();
        if old.is_empty() {
            return Ok(());
        }
        let plan = move |tx: &mut Tx<'_>| {
            old.iter().for_each(|(id, _)| tx.remove_loser(*id));
            let keys = old.iter().map(|(_, key)| key);
            journal::note_many(tx, JournalStep::Forgotten, keys, Some("older than `loser_age`"));
            Ok(())
        };
        engine.committer.commit(Reads::default(), plan).await?;
    }
}

/// Keeps a body that lost (I28). Its time is the service's where that is known: its age is judged by that clock too.
pub(crate) fn lose(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    side: Side,
    body: Body,
    version: Option<String>,
    cause: LoserCause,
) {
    let at = tx.service_time().unwrap_or_else(|| tx.now());
    let (id, key, schema) = (tx.new_loser_id(), key.clone(), table.version);
    tx.add_loser(SettledLoser { id, key, side, body, version, at, schema, cause });
}
