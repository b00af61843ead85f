//! App updates: what an older release of the app has stored becomes what this one can read (I23).
//!
//! | of a row | what becomes of it |
//! | --- | --- |
//! | record, base, seen copy, the copy of a conflict | go through the migrations, all of them or none |
//! | new and refused operations | have no bytes of their own: they send the record |
//! | an operation in doubt | keeps its bytes, key and schema; a copy of the bytes is migrated whenever they are compared |
//! | settled losers | are migrated when they are read |
//!
//! If one of these bodies cannot be migrated the row goes into quarantine with all of them: nothing of it is shown or sent,
//! and nothing is dropped. Each start of the app tries again.
//!
//! | happens to a row in quarantine | what follows |
//! | --- | --- |
//! | a migration that was mended | it is what it would have been, its operations ready |
//! | a local write, retry or discard | an error that names the way out |
//! | a copy of the service, and nothing is queued | the copy is the record, with the local fields; what it lacks of the old record is kept as a settled loser |
//! | a copy of the service, and something is queued | is left to the answers of the service; one in doubt keeps it as seen |
//! | the service deletes it, or it leaves its scopes, and nothing is queued | it goes, as any row |
//! | discard of the quarantine, purge | it goes, with the tokens of its scopes: the next pull brings the service's copy |

use std::{
    error::Error as StdError,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    body,
    engine::table::Table,
    error::Error,
    row::{Body, Hold, Operation, ParkReason, Parked, Quarantine, Record, Row, RowKey, ServiceCopy, SettledLoser},
    transport::Secrets,
};

/// One migration, without the type of its table.
pub(crate) type Migrate = dyn Fn(Value) -> Result<Value, Box<dyn StdError + Send + Sync>> + Send + Sync;

/// What leads from the bodies of older releases to those of this one.
#[derive(Clone, Default)]
pub(crate) struct Migrations(pub(crate) Vec<Arc<Migrate>>);

/// Whether a record can be read as the entity of its table.
pub(crate) fn fits(table: &Table, id: &str, record: &Record) -> Result<(), Error> {
    table.rules.readable.map_or(Ok(()), |readable| readable(id, record))
}

impl Migrations {
    /// The version of the schema that the last step leads to.
    pub(crate) fn version(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// A body of an older schema in the present one.
    pub(crate) fn present(&self, body: &Body, schema: u32) -> Result<Body, String> {
        let from = schema.max(1) as usize - 1;
        let steps = self.0.get(from..).unwrap_or_default();
        if steps.is_empty() {
            return Ok(body.clone());
        }
        body::rewrite(body, |mut value| {
            for (number, step) in steps.iter().enumerate() {
                let number = from + number + 1;
                value = catch_unwind(AssertUnwindSafe(|| step(value)))
                    .map_err(|_| format!("the migration from schema {number} panicked"))?
                    .map_err(|error| {
                        // A library that the migration calls may repeat what it was given (I21).
                        let mut given = Secrets::default();
                        given.add_json(body.as_bytes());
                        given.hide(&format!("the migration from schema {number} failed: {error}"))
                    })?;
            }
            Ok(value)
        })
    }
}

/// Whether a row follows an older schema and is not in quarantine for it.
pub(crate) fn is_older(table: &Table, row: &Row) -> bool {
    row.quarantine.is_none() && row.schema.max(1) < table.version
}

/// Brings a row to the present schema, or into quarantine.
pub(crate) fn bring(table: &Table, key: &RowKey, row: &mut Row) {
    let held = take_out(row);
    match migrated(table, key, &held) {
        Ok(brought) => put_back(row, brought),
        Err(reason) => {
            for operation in &mut row.operations {
                let (reason, message) = (ParkReason::Quarantined, reason.clone());
                operation.hold = Hold::Parked(Parked { reason, status: None, message, conflict: None });
            }
            row.quarantine = Some(Quarantine { reason, ..held });
        }
    }
}

/// Tries once more to bring what a row has in quarantine to the present schema. False if nothing has changed.
pub(crate) fn release(table: &Table, key: &RowKey, row: &mut Row) -> bool {
    let Some(held) = row.quarantine.take() else { return false };
    // A copy that a pull has met since follows the schema of its time.
    let outdated = row.schema.max(1) < table.version;
    if let Some(ServiceCopy::Found(seen)) = &mut row.seen
        && let Ok(body) = table.migrations.present(&seen.body, row.schema)
    {
        seen.body = body;
    }
    match migrated(table, key, &held) {
        Ok(brought) => {
            let conflict = brought.conflict.clone();
            put_back(row, brought);
            for operation in &mut row.operations {
                operation.hold = Hold::Ready;
                operation.attempts = 0;
            }
            if let (Some(conflict), Some(operation)) = (conflict, row.operations.first_mut()) {
                let message = "both sides have changed the row".to_owned();
                let (reason, conflict) = (ParkReason::Conflict, Some(conflict));
                operation.hold = Hold::Parked(Parked { reason, status: None, message, conflict });
            }
            true
        }
        Err(reason) => {
            let changed = outdated || reason != held.reason;
            row.quarantine = Some(Quarantine { reason, ..held });
            changed
        }
    }
}

/// Puts the bytes that an operation in doubt would have sent today in the place of those that it has sent, and returns these;
/// `None` if they are the same. What cannot be migrated agrees with nothing.
pub(crate) fn as_sent_now(table: &Table, operation: &mut Operation) -> Option<Body> {
    if operation.schema.max(1) >= table.version {
        return None;
    }
    let sent = operation.frozen.take()?;
    operation.frozen = table.migrations.present(&sent, operation.schema).ok();
    Some(sent)
}

/// Brings the copy in an answer to bytes of an older release to the present schema, if it shows what was `sent` as it was
/// sent: by a service that was not updated, or gives an answer again that it has given before its update.
pub(crate) fn copy_in_present(table: &Table, key: &RowKey, operation: &Operation, sent: &Body, copy: &mut Record) {
    let equal = |body: &Body| body::sent_equal(&table.schema, body, &copy.body);
    let as_sent = equal(sent) && !operation.frozen.as_ref().is_some_and(equal);
    let fits_now = |record: &Record| fits(table, &key.id, record).is_ok();
    if !as_sent && fits_now(copy) {
        return;
    }
    if let Ok(body) = table.migrations.present(&copy.body, operation.schema) {
        let present = Record { body, ..copy.clone() };
        if fits_now(&present) {
            *copy = present;
        }
    }
}

/// A settled loser in the present schema.
pub(crate) fn loser_in_present(table: &Table, loser: &SettledLoser) -> Result<SettledLoser, String> {
    if loser.schema.max(1) >= table.version {
        return Ok(loser.clone());
    }
    let body = table.migrations.present(&loser.body, loser.schema)?;
    let record = Record { body: body.clone(), version: None, updated_at: None, deleted: false };
    fits(table, &loser.key.id, &record).map_err(|error| error.to_string())?;
    Ok(SettledLoser { body, schema: table.version, ..loser.clone() })
}

/// Takes everything out of a row that follows its schema.
fn take_out(row: &mut Row) -> Quarantine {
    let conflict = row.operations.iter_mut().find_map(|operation| match &mut operation.hold {
        Hold::Parked(parked) => parked.conflict.take(),
        _ => None,
    });
    Quarantine {
        schema: row.schema.max(1),
        reason: String::new(),
        record: row.record.take(),
        base: row.base.take(),
        seen: row.seen.take(),
        conflict,
    }
}

/// The reverse of [`take_out`].
fn put_back(row: &mut Row, brought: Quarantine) {
    row.record = brought.record;
    row.base = brought.base;
    // What a pull has met since is newer.
    row.seen = row.seen.take().or(brought.seen);
    if let Some(Hold::Parked(parked)) = row.operations.first_mut().map(|operation| &mut operation.hold) {
        parked.conflict = brought.conflict;
    }
}

/// The same in the present schema.
fn migrated(table: &Table, key: &RowKey, held: &Quarantine) -> Result<Quarantine, String> {
    let present = |record: &Record| -> Result<Record, String> {
        Ok(Record { body: table.migrations.present(&record.body, held.schema)?, ..record.clone() })
    };
    let optional = |record: &Option<Record>| record.as_ref().map(present).transpose();
    let record = optional(&held.record)?;
    if let Some(record) = &record {
        fits(table, &key.id, record).map_err(|error| error.to_string())?;
    }
    let copy = |copy: &Option<ServiceCopy>| {
        Ok::<_, String>(match copy {
            Some(ServiceCopy::Found(copy)) => Some(ServiceCopy::Found(present(copy)?)),
            other => other.clone(),
        })
    };
    let (base, seen, conflict) = (optional(&held.base)?, copy(&held.seen)?, copy(&held.conflict)?);
    Ok(Quarantine { schema: table.version, reason: String::new(), record, base, seen, conflict })
}
