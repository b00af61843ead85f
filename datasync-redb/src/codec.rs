//! The bytes of a row, an operation and a settled loser. The first byte of a value names the encoding.

use std::{sync::Arc, time::Duration};

use datasync_core::{
    row::{
        Body, Hold, LoserCause, Operation, OperationKind, ParkReason, Parked, Phase, Quarantine, Record, RecordRef,
        Row, RowKey, ServiceCopy, SettledLoser, Side, Tombstone,
    },
    store::{KeyBytes, StoreError},
};
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    error::corrupted,
    wire::{Reader, Writer},
};

/// The encoding that this release writes.
const ENCODING: u8 = 1;
/// What stands for a row that a pull has met no more at the service.
const GONE: u8 = 2;

/// What of a row stands elsewhere too: its entries in indexes, and its places in the queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Links {
    pub(crate) index_keys: Vec<(u32, KeyBytes)>,
    pub(crate) places: Vec<u64>,
}

pub(crate) fn encode_row(row: &Row, index_keys: &[(u32, &KeyBytes)]) -> Vec<u8> {
    let mut out = Writer::default();
    out.byte(ENCODING);
    out.number(index_keys.len() as u64);
    for (index, key) in index_keys {
        out.number(u64::from(*index));
        out.bytes(key);
    }
    out.number(row.operations.len() as u64);
    row.operations.iter().for_each(|operation| out.number(operation.place));
    out.option(row.record.as_ref(), record);
    out.number(row.revision);
    out.number(u64::from(row.schema));
    out.number(row.scopes.len() as u64);
    row.scopes.iter().for_each(|scope| out.text(scope));
    out.byte(u8::from(row.left));
    out.option(row.base.as_ref(), record);
    seen(&mut out, row.seen.as_ref());
    out.option(row.tombstone.as_ref(), |out, tombstone| {
        out.option(tombstone.version.as_ref(), |out, version| out.text(version));
        time(out, tombstone.since);
    });
    out.option(row.quarantine.as_ref(), |out, quarantine| {
        out.number(u64::from(quarantine.schema));
        out.text(&quarantine.reason);
        out.option(quarantine.record.as_ref(), record);
        out.option(quarantine.base.as_ref(), record);
        seen(out, quarantine.seen.as_ref());
        out.option(quarantine.conflict.as_ref(), service_copy);
    });
    row.operations.iter().for_each(|each| operation(&mut out, each));
    out.0
}

fn begin(bytes: &[u8]) -> Result<Reader<'_>, StoreError> {
    let mut reader = Reader(bytes);
    match reader.byte()? {
        ENCODING => Ok(reader),
        other => Err(corrupted(format!("there is no encoding {other}"))),
    }
}

fn links(reader: &mut Reader<'_>) -> Result<Links, StoreError> {
    let index_keys = reader.list(|reader| Ok((reader.small()?, reader.bytes()?.to_vec())))?;
    let places = reader.list(Reader::number)?;
    Ok(Links { index_keys, places })
}

pub(crate) fn decode_links(bytes: &[u8]) -> Result<Links, StoreError> {
    links(&mut begin(bytes)?)
}

/// The record alone and without a copy, which is all that a scan looks at.
pub(crate) fn decode_record(bytes: &[u8]) -> Result<Option<RecordRef<'_>>, StoreError> {
    let mut reader = begin(bytes)?;
    for _ in 0..reader.number()? {
        reader.small()?;
        reader.bytes()?;
    }
    for _ in 0..reader.number()? {
        reader.number()?;
    }
    reader.option(read_record_ref)
}

pub(crate) fn decode_row(bytes: &[u8]) -> Result<Row, StoreError> {
    let mut reader = begin(bytes)?;
    let places = links(&mut reader)?.places;
    let record = reader.option(read_record)?;
    let revision = reader.number()?;
    let schema = reader.small()?;
    let scopes = reader.list(|reader| Ok(Arc::from(reader.text()?)))?;
    let left = reader.byte()? != 0;
    let base = reader.option(read_record)?;
    let seen = read_seen(&mut reader)?;
    let tombstone = reader.option(|reader| {
        let version = reader.option(|reader| Ok(reader.text()?.to_owned()))?;
        Ok(Tombstone { version, since: read_time(reader)? })
    })?;
    let quarantine = reader.option(|reader| {
        Ok(Quarantine {
            schema: reader.small()?,
            reason: reader.text()?.to_owned(),
            record: reader.option(read_record)?,
            base: reader.option(read_record)?,
            seen: read_seen(reader)?,
            conflict: reader.option(read_service_copy)?,
        })
    })?;
    let mut operations = Vec::with_capacity(places.len());
    for place in places {
        operations.push(read_operation(&mut reader, place)?);
    }
    reader.end()?;
    Ok(Row { record, base, seen, tombstone, scopes, left, revision, schema, quarantine, operations })
}

fn record(out: &mut Writer, record: &Record) {
    out.bytes(record.body.as_bytes());
    out.option(record.version.as_ref(), |out, version| out.text(version));
    out.option(record.updated_at.as_ref(), |out, at| time(out, *at));
    out.byte(u8::from(record.deleted));
}

fn read_record(reader: &mut Reader<'_>) -> Result<Record, StoreError> {
    read_record_ref(reader).map(RecordRef::to_record)
}

fn read_record_ref<'b>(reader: &mut Reader<'b>) -> Result<RecordRef<'b>, StoreError> {
    Ok(RecordRef {
        body: reader.bytes()?,
        version: reader.option(Reader::text)?,
        updated_at: reader.option(read_time)?,
        deleted: reader.byte()? != 0,
    })
}

/// Seconds and nanoseconds: a timestamp is kept as exactly as it came.
fn time(out: &mut Writer, time: Timestamp) {
    out.0.extend(time.as_second().to_be_bytes());
    out.0.extend(time.subsec_nanosecond().to_be_bytes());
}

fn read_time(reader: &mut Reader<'_>) -> Result<Timestamp, StoreError> {
    let wrong = || corrupted("a time is out of range");
    let seconds = reader.take(8)?.try_into().map(i64::from_be_bytes).map_err(|_| wrong())?;
    let nanoseconds = reader.take(4)?.try_into().map(i32::from_be_bytes).map_err(|_| wrong())?;
    Timestamp::new(seconds, nanoseconds).map_err(|_| wrong())
}

fn read_uuid(reader: &mut Reader<'_>) -> Result<Uuid, StoreError> {
    Uuid::from_slice(reader.take(16)?).map_err(|_| corrupted("a key is not a UUID"))
}

/// An operation without its place, which stands at the head of the row.
fn operation(out: &mut Writer, operation: &Operation) {
    out.0.extend(operation.key.as_bytes());
    out.byte(match operation.kind {
        OperationKind::Insert => 0,
        OperationKind::Replace => 1,
        OperationKind::Undelete => 2,
        OperationKind::Delete => 3,
    });
    out.byte(match operation.phase {
        Phase::New => 0,
        Phase::InDoubt => 1,
        Phase::Refused => 2,
    });
    out.option(operation.version.as_ref(), |out, version| out.text(version));
    match (&operation.frozen, &operation.frozen_base) {
        (None, _) => out.byte(0),
        (Some(body), None) => {
            out.byte(1);
            out.bytes(body.as_bytes());
        }
        (Some(body), Some(base)) => {
            out.byte(2);
            out.bytes(body.as_bytes());
            out.bytes(base.as_bytes());
        }
    }
    out.0.extend(operation.fingerprint.to_be_bytes());
    out.number(u64::from(operation.schema));
    out.option(operation.edited.as_ref(), |out, at| time(out, *at));
    out.number(u64::from(operation.attempts));
    out.number(u64::from(operation.rounds));
    match &operation.hold {
        Hold::Ready => out.byte(0),
        Hold::Wait { since, length, demanded } => {
            out.byte(1);
            time(out, *since);
            out.number(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
            out.byte(u8::from(*demanded));
        }
        Hold::Parked(parked) => {
            out.byte(2);
            out.byte(match parked.reason {
                ParkReason::Conflict => 0,
                ParkReason::Refused => 1,
                ParkReason::Exhausted => 2,
                ParkReason::ParentGone => 3,
                ParkReason::Cycle => 4,
                ParkReason::Quarantined => 5,
            });
            out.option(parked.status.as_ref(), |out, status| out.number(u64::from(*status)));
            out.text(&parked.message);
            out.option(parked.conflict.as_ref(), service_copy);
        }
    }
}

/// What a pull has met, in the bytes of an optional record and one more mark.
fn seen(out: &mut Writer, copy: Option<&ServiceCopy>) {
    match copy {
        Some(ServiceCopy::Absent) => out.byte(GONE),
        Some(ServiceCopy::Found(found)) => out.option(Some(found), record),
        None => out.option(None, record),
    }
}

fn read_seen(reader: &mut Reader<'_>) -> Result<Option<ServiceCopy>, StoreError> {
    if reader.0.first() == Some(&GONE) {
        reader.byte()?;
        return Ok(Some(ServiceCopy::Absent));
    }
    Ok(reader.option(read_record)?.map(ServiceCopy::Found))
}

fn service_copy(out: &mut Writer, copy: &ServiceCopy) {
    match copy {
        ServiceCopy::Absent => out.byte(0),
        ServiceCopy::Found(found) => {
            out.byte(1);
            record(out, found);
        }
    }
}

fn read_service_copy(reader: &mut Reader<'_>) -> Result<ServiceCopy, StoreError> {
    match reader.byte()? {
        0 => Ok(ServiceCopy::Absent),
        1 => Ok(ServiceCopy::Found(read_record(reader)?)),
        other => Err(corrupted(format!("there is no copy {other}"))),
    }
}

fn read_operation(reader: &mut Reader<'_>, place: u64) -> Result<Operation, StoreError> {
    let key = read_uuid(reader)?;
    let kind = match reader.byte()? {
        0 => OperationKind::Insert,
        1 => OperationKind::Replace,
        2 => OperationKind::Undelete,
        3 => OperationKind::Delete,
        other => return Err(corrupted(format!("there is no kind of operation {other}"))),
    };
    let phase = match reader.byte()? {
        0 => Phase::New,
        1 => Phase::InDoubt,
        2 => Phase::Refused,
        other => return Err(corrupted(format!("there is no phase {other}"))),
    };
    let version = reader.option(|reader| Ok(reader.text()?.to_owned()))?;
    let (frozen, frozen_base) = match reader.byte()? {
        0 => (None, None),
        1 => (Some(Body::from(reader.bytes()?)), None),
        2 => (Some(Body::from(reader.bytes()?)), Some(Body::from(reader.bytes()?))),
        other => return Err(corrupted(format!("there are no frozen bytes {other}"))),
    };
    let fingerprint = reader.take(8)?.try_into().map_err(|_| corrupted("a fingerprint is cut"))?;
    let fingerprint = u64::from_be_bytes(fingerprint);
    let schema = reader.small()?;
    let edited = reader.option(read_time)?;
    let (attempts, rounds) = (reader.small()?, reader.small()?);
    let hold = match reader.byte()? {
        0 => Hold::Ready,
        1 => Hold::Wait {
            since: read_time(reader)?,
            length: Duration::from_millis(reader.number()?),
            demanded: reader.byte()? != 0,
        },
        2 => Hold::Parked(read_parked(reader)?),
        other => return Err(corrupted(format!("there is no hold {other}"))),
    };
    Ok(Operation {
        place,
        key,
        kind,
        phase,
        hold,
        version,
        frozen,
        frozen_base,
        fingerprint,
        schema,
        edited,
        attempts,
        rounds,
    })
}

fn read_parked(reader: &mut Reader<'_>) -> Result<Parked, StoreError> {
    let reason = match reader.byte()? {
        0 => ParkReason::Conflict,
        1 => ParkReason::Refused,
        2 => ParkReason::Exhausted,
        3 => ParkReason::ParentGone,
        4 => ParkReason::Cycle,
        5 => ParkReason::Quarantined,
        other => return Err(corrupted(format!("there is no reason {other}"))),
    };
    let status = reader.option(|reader| u16::try_from(reader.number()?).map_err(|_| corrupted("a status is wrong")))?;
    let message = reader.text()?.to_owned();
    let conflict = reader.option(read_service_copy)?;
    Ok(Parked { reason, status, message, conflict })
}

pub(crate) fn encode_loser(loser: &SettledLoser) -> Vec<u8> {
    let mut out = Writer::default();
    out.byte(ENCODING);
    out.text(&loser.key.account);
    out.text(&loser.key.table);
    out.text(&loser.key.id);
    out.byte(u8::from(loser.side == Side::Service));
    out.bytes(loser.body.as_bytes());
    out.option(loser.version.as_ref(), |out, version| out.text(version));
    time(&mut out, loser.at);
    out.number(u64::from(loser.schema));
    out.byte(match loser.cause {
        LoserCause::Conflict => 0,
        LoserCause::Vanished => 1,
        LoserCause::Quarantined => 2,
    });
    out.0
}

pub(crate) fn decode_loser_key(bytes: &[u8]) -> Result<RowKey, StoreError> {
    read_loser_key(&mut begin(bytes)?)
}

fn read_loser_key(reader: &mut Reader<'_>) -> Result<RowKey, StoreError> {
    Ok(RowKey { account: reader.text()?.into(), table: reader.text()?.into(), id: reader.text()?.into() })
}

pub(crate) fn decode_loser(id: Uuid, bytes: &[u8]) -> Result<SettledLoser, StoreError> {
    let mut reader = begin(bytes)?;
    let key = read_loser_key(&mut reader)?;
    let side = if reader.byte()? == 0 { Side::Local } else { Side::Service };
    let body = Body::from(reader.bytes()?);
    let version = reader.option(|reader| Ok(reader.text()?.to_owned()))?;
    let at = read_time(&mut reader)?;
    let schema = reader.small()?;
    let cause = match reader.byte()? {
        0 => LoserCause::Conflict,
        1 => LoserCause::Vanished,
        2 => LoserCause::Quarantined,
        other => return Err(corrupted(format!("there is no cause {other}"))),
    };
    reader.end()?;
    Ok(SettledLoser { id, key, side, body, version, at, schema, cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Row {
        let record = |text: &str| Record {
            body: Body::from(text.as_bytes()),
            version: Some("v1".to_owned()),
            updated_at: Some(Timestamp::new(1_700_000_000, 123_456_789).unwrap()),
            deleted: false,
        };
        let operation = |place, hold| Operation {
            place,
            key: Uuid::from_u128(7),
            kind: OperationKind::Undelete,
            phase: Phase::InDoubt,
            hold,
            version: Some("v0".to_owned()),
            frozen: Some(Body::from(&b"{}"[..])),
            frozen_base: (place > 9).then(|| Body::from(&b"{\"n\":1}"[..])),
            fingerprint: u64::MAX,
            schema: 200,
            edited: Some(Timestamp::UNIX_EPOCH),
            attempts: 3,
            rounds: 2,
        };
        let since = Timestamp::UNIX_EPOCH;
        Row {
            record: Some(record("{\"id\":\"1\"}")),
            base: Some(record("base")),
            seen: Some(ServiceCopy::Found(Record { version: None, updated_at: None, deleted: true, ..record("") })),
            tombstone: Some(Tombstone { version: None, since }),
            scopes: vec!["".into(), "q:é".into()],
            left: true,
            revision: 300,
            schema: 3,
            quarantine: Some(Quarantine {
                schema: 2,
                reason: "no title".to_owned(),
                record: Some(record("old")),
                base: Some(record("older")),
                seen: Some(ServiceCopy::Absent),
                conflict: Some(ServiceCopy::Absent),
            }),
            operations: vec![
                operation(9, Hold::Wait { since, length: Duration::from_millis(1500), demanded: true }),
                operation(
                    1 << 40,
                    Hold::Parked(Parked {
                        reason: ParkReason::Conflict,
                        status: Some(412),
                        message: "both".to_owned(),
                        conflict: Some(ServiceCopy::Found(record("service"))),
                    }),
                ),
            ],
        }
    }

    #[test]
    fn a_row_comes_back_as_it_was() {
        let key = vec![1, 0, 255];
        let bytes = encode_row(&sample(), &[(7, &key)]);
        assert_eq!(decode_row(&bytes).unwrap(), sample());
        assert_eq!(decode_record(&bytes).unwrap().map(RecordRef::to_record), sample().record);
        assert_eq!(decode_links(&bytes).unwrap(), Links { index_keys: vec![(7, key)], places: vec![9, 1 << 40] });
        assert_eq!(decode_row(&encode_row(&Row::default(), &[])).unwrap(), Row::default());
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic() {
        let bytes = encode_row(&sample(), &[(7, &vec![1, 2])]);
        for length in 0..bytes.len() {
            assert!(decode_row(&bytes[..length]).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                let _ = decode_row(&bytes);
                let _ = decode_record(&bytes);
                let _ = decode_links(&bytes);
            }
        }
        assert!(decode_row(&[2]).is_err());
    }
}
