//! What a store keeps, as JSON that people and scripts can read: each row, operation and settled loser on a line of its own.
//!
//! | line | has |
//! | --- | --- |
//! | `"kind":"row"` | `account`, `table`, `id`, `schema`, `revision`, `scopes`, `left`, `record`, `base`, `seen`, `tombstone`, `quarantine` |
//! | `"kind":"operation"` | `account`, `table`, `id`, `place`, `key`, `operation`, `phase`, `hold`, `version`, `frozen`, `fingerprint`, `schema`, `edited`, `attempts`, `rounds` |
//! | `"kind":"loser"` | `account`, `table`, `id`, `loser`, `side`, `cause`, `at`, `version`, `schema`, `body` |
//!
//! A body is the JSON object that is stored, byte by byte; one that is damaged is a JSON string of what is left of it.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::row::{
    Body, Hold, LoserCause, Operation, OperationKind, ParkReason, Parked, Phase, Quarantine, Record, Row, RowKey,
    ServiceCopy, SettledLoser, Side,
};

/// A row as a line of JSON, without its operations.
#[must_use]
pub fn row(key: &RowKey, row: &Row) -> String {
    line(&RowLine {
        kind: "row",
        of: Of::from(key),
        schema: row.schema,
        revision: row.revision,
        scopes: row.scopes.iter().map(AsRef::as_ref).collect(),
        left: row.left,
        record: row.record.as_ref().map(RecordLine::from),
        base: row.base.as_ref().map(RecordLine::from),
        seen: row.seen.as_ref().map(ServiceLine::from),
        tombstone: row.tombstone.as_ref().map(|tombstone| TombstoneLine {
            version: tombstone.version.as_deref(),
            since: tombstone.since.to_string(),
        }),
        quarantine: row.quarantine.as_ref().map(QuarantineLine::from),
    })
}

/// An operation as a line of JSON.
#[must_use]
pub fn operation(key: &RowKey, operation: &Operation) -> String {
    line(&OperationLine {
        kind: "operation",
        of: Of::from(key),
        place: operation.place,
        key: operation.key.to_string(),
        operation: name_of_kind(operation.kind),
        phase: match operation.phase {
            Phase::New => "new",
            Phase::InDoubt => "in-doubt",
            Phase::Refused => "refused",
        },
        hold: HoldLine::from(&operation.hold),
        version: operation.version.as_deref(),
        frozen: operation.frozen.as_ref().map(Text),
        fingerprint: format!("{:016x}", operation.fingerprint),
        schema: operation.schema,
        edited: operation.edited.map(|edited| edited.to_string()),
        attempts: operation.attempts,
        rounds: operation.rounds,
    })
}

/// A settled loser as a line of JSON.
#[must_use]
pub fn loser(loser: &SettledLoser) -> String {
    line(&LoserLine {
        kind: "loser",
        of: Of::from(&loser.key),
        loser: loser.id.to_string(),
        side: match loser.side {
            Side::Local => "local",
            Side::Service => "service",
        },
        cause: match loser.cause {
            LoserCause::Conflict => "conflict",
            LoserCause::Vanished => "vanished",
            LoserCause::Quarantined => "quarantined",
        },
        at: loser.at.to_string(),
        version: loser.version.as_deref(),
        schema: loser.schema,
        body: Text(&loser.body),
    })
}

fn line(line: &impl Serialize) -> String {
    // Text, numbers and parsed JSON can always be written.
    serde_json::to_string(line).unwrap_or_default()
}

fn name_of_kind(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Insert => "insert",
        OperationKind::Replace => "replace",
        OperationKind::Undelete => "undelete",
        OperationKind::Delete => "delete",
    }
}

/// A body: as it is if it is a JSON object, else as text.
struct Text<'r>(&'r Body);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_slice::<&RawValue>(self.0.as_bytes()) {
            Ok(json) if json.get().starts_with('{') => json.serialize(serializer),
            _ => serializer.serialize_str(&String::from_utf8_lossy(self.0.as_bytes())),
        }
    }
}

#[derive(Serialize)]
struct Of<'r> {
    account: &'r str,
    table: &'r str,
    id: &'r str,
}

impl<'r> From<&'r RowKey> for Of<'r> {
    fn from(key: &'r RowKey) -> Of<'r> {
        Of { account: &key.account, table: &key.table, id: &key.id }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordLine<'r> {
    version: Option<&'r str>,
    updated_at: Option<String>,
    deleted: bool,
    body: Text<'r>,
}

impl<'r> From<&'r Record> for RecordLine<'r> {
    fn from(record: &'r Record) -> RecordLine<'r> {
        RecordLine {
            version: record.version.as_deref(),
            updated_at: record.updated_at.map(|at| at.to_string()),
            deleted: record.deleted,
            body: Text(&record.body),
        }
    }
}

/// What the service has, in a conflict or as a pull has met it; a row that the service does not have is the word `absent`.
#[derive(Serialize)]
#[serde(untagged)]
enum ServiceLine<'r> {
    Found(RecordLine<'r>),
    Absent(&'static str),
}

impl<'r> From<&'r ServiceCopy> for ServiceLine<'r> {
    fn from(copy: &'r ServiceCopy) -> ServiceLine<'r> {
        match copy {
            ServiceCopy::Found(record) => ServiceLine::Found(record.into()),
            ServiceCopy::Absent => ServiceLine::Absent("absent"),
        }
    }
}

#[derive(Serialize)]
struct RowLine<'r> {
    kind: &'static str,
    #[serde(flatten)]
    of: Of<'r>,
    schema: u32,
    revision: u64,
    scopes: Vec<&'r str>,
    left: bool,
    record: Option<RecordLine<'r>>,
    base: Option<RecordLine<'r>>,
    seen: Option<ServiceLine<'r>>,
    tombstone: Option<TombstoneLine<'r>>,
    quarantine: Option<QuarantineLine<'r>>,
}

#[derive(Serialize)]
struct TombstoneLine<'r> {
    version: Option<&'r str>,
    since: String,
}

#[derive(Serialize)]
struct QuarantineLine<'r> {
    schema: u32,
    reason: &'r str,
    record: Option<RecordLine<'r>>,
    base: Option<RecordLine<'r>>,
    seen: Option<ServiceLine<'r>>,
    conflict: Option<ServiceLine<'r>>,
}

impl<'r> From<&'r Quarantine> for QuarantineLine<'r> {
    fn from(held: &'r Quarantine) -> QuarantineLine<'r> {
        QuarantineLine {
            schema: held.schema,
            reason: &held.reason,
            record: held.record.as_ref().map(RecordLine::from),
            base: held.base.as_ref().map(RecordLine::from),
            seen: held.seen.as_ref().map(ServiceLine::from),
            conflict: held.conflict.as_ref().map(ServiceLine::from),
        }
    }
}

#[derive(Serialize)]
struct OperationLine<'r> {
    kind: &'static str,
    #[serde(flatten)]
    of: Of<'r>,
    place: u64,
    key: String,
    operation: &'static str,
    phase: &'static str,
    hold: HoldLine<'r>,
    version: Option<&'r str>,
    frozen: Option<Text<'r>>,
    fingerprint: String,
    schema: u32,
    edited: Option<String>,
    attempts: u32,
    rounds: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
enum HoldLine<'r> {
    Ready,
    #[serde(rename_all = "camelCase")]
    Waiting {
        since: String,
        milliseconds: u64,
        demanded: bool,
    },
    Parked {
        reason: &'static str,
        status: Option<u16>,
        message: &'r str,
        conflict: Option<ServiceLine<'r>>,
    },
}

impl<'r> From<&'r Hold> for HoldLine<'r> {
    fn from(hold: &'r Hold) -> HoldLine<'r> {
        match hold {
            Hold::Ready => HoldLine::Ready,
            Hold::Wait { since, length, demanded } => HoldLine::Waiting {
                since: since.to_string(),
                milliseconds: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
                demanded: *demanded,
            },
            Hold::Parked(Parked { reason, status, message, conflict }) => HoldLine::Parked {
                reason: match reason {
                    ParkReason::Conflict => "conflict",
                    ParkReason::Refused => "refused",
                    ParkReason::Exhausted => "exhausted",
                    ParkReason::ParentGone => "parent-gone",
                    ParkReason::Cycle => "cycle",
                    ParkReason::Quarantined => "quarantined",
                },
                status: *status,
                message,
                conflict: conflict.as_ref().map(ServiceLine::from),
            },
        }
    }
}

#[derive(Serialize)]
struct LoserLine<'r> {
    kind: &'static str,
    #[serde(flatten)]
    of: Of<'r>,
    loser: String,
    side: &'static str,
    cause: &'static str,
    at: String,
    version: Option<&'r str>,
    schema: u32,
    body: Text<'r>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_body_keeps_its_bytes_and_a_damaged_one_is_text() {
        let line = |bytes: &[u8]| line(&Text(&Body::from(bytes)));
        assert_eq!(
            line(br#"{"exact":1.10,"big":123456789012345678901234567890}"#),
            r#"{"exact":1.10,"big":123456789012345678901234567890}"#
        );
        assert_eq!(line(br#"{"title":"mi"#), r#""{\"title\":\"mi""#);
        assert_eq!(line(b"\"text\""), r#""\"text\"""#);
        assert_eq!(line(b"{\xff}"), "\"{\u{fffd}}\"");
    }

    #[test]
    fn lines_have_everything() {
        let key = RowKey { account: "me".into(), table: "note".into(), id: "1".into() };
        let record = |body: &[u8]| Record {
            body: Body::from(body),
            version: Some("v".to_owned()),
            updated_at: None,
            deleted: false,
        };
        let change = Operation {
            place: 7,
            key: Uuid::nil(),
            kind: OperationKind::Replace,
            phase: Phase::InDoubt,
            hold: Hold::Wait { since: Timestamp::UNIX_EPOCH, length: Duration::from_secs(2), demanded: true },
            version: Some("v".to_owned()),
            frozen: Some(Body::from(&b"{}"[..])),
            frozen_base: None,
            fingerprint: 255,
            schema: 1,
            edited: None,
            attempts: 3,
            rounds: 0,
        };
        let held = Quarantine {
            schema: 1,
            reason: "no title".to_owned(),
            record: Some(record(br#"{"n":1}"#)),
            conflict: Some(ServiceCopy::Absent),
            ..Quarantine::default()
        };
        let stored = Row { schema: 2, scopes: vec!["".into()], quarantine: Some(held), ..Row::default() };
        assert_eq!(
            row(&key, &stored),
            r#"{"kind":"row","account":"me","table":"note","id":"1","schema":2,"revision":0,"scopes":[""],"left":false,"record":null,"base":null,"seen":null,"tombstone":null,"quarantine":{"schema":1,"reason":"no title","record":{"version":"v","updatedAt":null,"deleted":false,"body":{"n":1}},"base":null,"seen":null,"conflict":"absent"}}"#
        );
        assert_eq!(
            operation(&key, &change),
            r#"{"kind":"operation","account":"me","table":"note","id":"1","place":7,"key":"00000000-0000-0000-0000-000000000000","operation":"replace","phase":"in-doubt","hold":{"state":"waiting","since":"1970-01-01T00:00:00Z","milliseconds":2000,"demanded":true},"version":"v","frozen":{},"fingerprint":"00000000000000ff","schema":1,"edited":null,"attempts":3,"rounds":0}"#
        );
    }
}
