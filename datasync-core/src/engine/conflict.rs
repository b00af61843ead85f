//! The conflict function: base, this device's side, the service's copy, and what becomes of them (I14, I17, I18).

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    body,
    config::{CLIENT_WINS_ROUNDS, ConflictPolicy},
    engine::{acks::Fate, committer::Tx, table::Table},
    row::{
        Body, Hold, LoserCause, OperationKind, ParkReason, Parked, Phase, Record, Row, RowKey, ServiceCopy,
        SettledLoser, Side,
    },
};

/// The sides of a conflict, as a typed resolver's wrapper is given them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides<'a> {
    pub(crate) key: &'a RowKey,
    pub(crate) kind: OperationKind,
    pub(crate) base: Option<&'a Record>,
    pub(crate) local: Option<&'a Record>,
    pub(crate) service: &'a ServiceCopy,
}

/// How a conflict ends.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Park(String),
    Keep,
    Take,
    Merged(Body),
}

/// A typed resolver without its type.
pub(crate) type Resolve = dyn Fn(&Sides<'_>) -> Outcome + Send + Sync;

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

/// Settles the conflict of a row that has one operation, not in doubt, with the copy that the service has.
pub(crate) fn settle(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, service: ServiceCopy) -> Settled {
    debug_assert!(row.operations.len() == 1 && !row.operations[0].in_doubt(), "a conflict has one operation");
    if agrees(table, row, &service) {
        take(tx, table, key, row, &service, false);
        return Settled::Agreed;
    }
    let outcome = decide(table, key, row, &service);
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
    match outcome {
        Outcome::Park(message) => {
            park(row, service, message);
            Settled::Parked
        }
        Outcome::Take => {
            take(tx, table, key, row, &service, true);
            Settled::Taken
        }
        Outcome::Keep => {
            keep(tx, table, key, row, service, true);
            Settled::Resent
        }
        Outcome::Merged(merged) => {
            let same = service.live().is_some_and(|copy| body::sent_equal(&table.schema, &merged, &copy.body));
            let (version, updated_at) = match &row.record {
                Some(record) => (record.version.clone(), record.updated_at),
                None => (None, None),
            };
            row.record = Some(Record { body: merged, version, updated_at, deleted: false });
            if same {
                take(tx, table, key, row, &service, false);
                return Settled::Agreed;
            }
            keep(tx, table, key, row, service, false);
            Settled::Resent
        }
    }
}

fn agrees(table: &Table, row: &Row, service: &ServiceCopy) -> bool {
    match (&row.record, service.live()) {
        (None, None) => true,
        (Some(ours), Some(copy)) => body::sent_equal(&table.schema, &ours.body, &copy.body),
        _ => false,
    }
}

fn decide(table: &Table, key: &RowKey, row: &Row, service: &ServiceCopy) -> Outcome {
    let operation = &row.operations[0];
    if let Some(resolver) = &table.resolver {
        let sides = Sides { key, kind: operation.kind, base: row.base.as_ref(), local: row.record.as_ref(), service };
        let outcome = catch_unwind(AssertUnwindSafe(|| resolver(&sides)));
        let outcome = outcome.unwrap_or_else(|_| Outcome::Park("the conflict resolver panicked".to_owned()));
        return match outcome {
            Outcome::Keep | Outcome::Merged(_) if operation.rounds >= CLIENT_WINS_ROUNDS => too_often(),
            outcome => outcome,
        };
    }
    match table.policy {
        ConflictPolicy::Park => Outcome::Park("both sides have changed the row".to_owned()),
        ConflictPolicy::ServerWins => Outcome::Take,
        ConflictPolicy::ClientWins if operation.rounds >= CLIENT_WINS_ROUNDS => too_often(),
        ConflictPolicy::ClientWins => Outcome::Keep,
    }
}

fn too_often() -> Outcome {
    Outcome::Park(format!("the row changed on the service before each of {CLIENT_WINS_ROUNDS} attempts"))
}

fn park(row: &mut Row, service: ServiceCopy, message: String) {
    let conflict = Some(service);
    let parked = Parked { reason: ParkReason::Conflict, status: None, message, conflict };
    row.operations[0].hold = Hold::Parked(parked);
}

/// The service's copy becomes the record; nothing stays queued.
fn take(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, service: &ServiceCopy, ours_lost: bool) {
    let ours = row.record.take();
    if let (true, Some(ours)) = (ours_lost, &ours) {
        let version = row.operations.first().and_then(|operation| operation.version.clone());
        lose(tx, table, key, Side::Local, ours.body.clone(), version, LoserCause::Conflict);
    }
    row.record = service.live().map(|copy| {
        let mut record = copy.clone();
        record.body = body::carry_local(&table.schema, &copy.body, ours.as_ref().map(|ours| &ours.body));
        record
    });
    let fate = if ours_lost { Fate::Overruled } else { Fate::Stored };
    row.operations.drain(..).for_each(|operation| tx.fate(operation.place, fate));
    row.base = None;
    row.seen = None;
}

/// This device's side will be sent, with the version that it overwrites (I18).
fn keep(tx: &mut Tx<'_>, table: &Table, key: &RowKey, row: &mut Row, service: ServiceCopy, theirs_lost: bool) {
    if let (true, Some(copy)) = (theirs_lost, service.live()) {
        let touched = row.base.as_ref().is_none_or(|base| !body::sent_equal(&table.schema, &base.body, &copy.body));
        if touched {
            lose(tx, table, key, Side::Service, copy.body.clone(), copy.version.clone(), LoserCause::Conflict);
        }
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
    operation.hold = Hold::Ready;
    operation.attempts = 0;
    operation.rounds += 1;
    row.base = match service {
        ServiceCopy::Found(copy) => Some(copy),
        ServiceCopy::Absent => None,
    };
}

/// Keeps a body that lost (I28).
pub(crate) fn lose(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    side: Side,
    body: Body,
    version: Option<String>,
    cause: LoserCause,
) {
    let (id, key, at, schema) = (tx.new_ordered_id(), key.clone(), tx.now(), table.version);
    let loser = SettledLoser { id, key, side, body, version, at, schema, cause };
    tx.add_loser(loser);
}
