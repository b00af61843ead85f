//! Rows, stamps and effects as bytes.

use std::sync::Arc;

use datasync_core::row::{Body, Record};
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    departures::Departure,
    repository::{Effect, Place, Row},
};

/// A row: mark of deletion, sequence, time, version with its length, body.
pub(super) fn row_bytes(row: &Row) -> Vec<u8> {
    let record = &row.record;
    let version = record.version.as_deref().unwrap_or_default().as_bytes();
    let mut bytes = Vec::with_capacity(18 + version.len() + record.body.as_bytes().len());
    bytes.push(u8::from(record.deleted));
    bytes.extend(row.sequence.to_be_bytes());
    bytes.extend(record.updated_at.map_or(0, millis).to_be_bytes());
    // A version is 24 letters of base64.
    bytes.push(version.len() as u8);
    bytes.extend(version);
    bytes.extend(record.body.as_bytes());
    bytes
}

pub(super) fn row(id: &str, bytes: &[u8]) -> Result<Row, redb::Error> {
    let read = || {
        let (deleted, rest) = bytes.split_first()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (updated_at, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first()?;
        let (version, body) = rest.split_at_checked(usize::from(*length))?;
        let record = Record {
            body: Body::from(body),
            version: Some(String::from_utf8(version.to_vec()).ok()?),
            updated_at: Some(Timestamp::from_millisecond(i64::from_be_bytes(*updated_at)).ok()?),
            deleted: *deleted != 0,
        };
        Some(Row { id: id.into(), record, sequence: u64::from_be_bytes(*sequence) })
    };
    read().ok_or_else(|| redb::Error::Corrupted(format!("the row `{id}` cannot be read")))
}

pub(super) fn millis(time: Timestamp) -> i64 {
    time.as_nanosecond().div_euclid(1_000_000) as i64
}

/// The key of an index entry: the time in the order and spelling of core's index keys, then the sequence.
pub(super) fn stamp_bytes(place: Place) -> [u8; 17] {
    let mut key = [1; 17];
    key[1..9].copy_from_slice(&(millis(place.updated_at).cast_unsigned() ^ (1 << 63)).to_be_bytes());
    key[9..].copy_from_slice(&place.sequence.to_be_bytes());
    key
}

pub(super) fn stamp(key: &[u8]) -> Result<Place, redb::Error> {
    let read = || {
        let (time, sequence) = key.get(1..)?.split_first_chunk::<8>()?;
        let millis = (u64::from_be_bytes(*time) ^ (1 << 63)).cast_signed();
        let updated_at = Timestamp::from_millisecond(millis).ok()?;
        Some(Place { updated_at, sequence: u64::from_be_bytes(sequence.try_into().ok()?) })
    };
    read().ok_or_else(|| redb::Error::Corrupted("an entry of the index cannot be read".to_owned()))
}

/// A departure: whether the row was removed, id with its length, the row before.
pub(super) fn departure_bytes(departure: Departure) -> Vec<u8> {
    let id = departure.id.as_bytes();
    let mut bytes = vec![u8::from(departure.removed)];
    // An id is at most 1024 bytes long.
    bytes.extend((id.len() as u16).to_be_bytes());
    bytes.extend(id);
    bytes.extend(row_bytes(&Row { id: departure.id, record: departure.before, sequence: 0 }));
    bytes
}

pub(super) fn departure(bytes: &[u8]) -> Result<Departure, redb::Error> {
    let read = || {
        let (removed, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (id, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let before = row(std::str::from_utf8(id).ok()?, rest).ok()?;
        Some(Departure { id: before.id, removed: *removed != 0, before: before.record })
    };
    read().ok_or_else(|| redb::Error::Corrupted("a departure cannot be read".to_owned()))
}

/// Where the effect of a key is.
pub(super) fn key_bytes(caller: &str, key: Uuid) -> Vec<u8> {
    [&key.as_bytes()[..], caller.as_bytes()].concat()
}

/// An effect: request, status, time, id with its length, row.
pub(super) fn effect_bytes(effect: &Effect) -> Vec<u8> {
    let id = effect.row.id.as_bytes();
    let mut bytes = effect.request.to_be_bytes().to_vec();
    bytes.extend(effect.status.to_be_bytes());
    bytes.extend(millis(effect.at).to_be_bytes());
    // An id is at most 1024 bytes long.
    bytes.extend((id.len() as u16).to_be_bytes());
    bytes.extend(id);
    bytes.extend(row_bytes(&effect.row));
    bytes
}

pub(super) fn effect(bytes: &[u8]) -> Result<Effect, redb::Error> {
    let read = || {
        let (request, rest) = bytes.split_first_chunk::<16>()?;
        let (status, rest) = rest.split_first_chunk::<2>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (id, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        Some(Effect {
            request: u128::from_be_bytes(*request),
            status: u16::from_be_bytes(*status),
            at: Timestamp::from_millisecond(i64::from_be_bytes(*at)).ok()?,
            row: row(std::str::from_utf8(id).ok()?, rest).ok()?,
        })
    };
    read().ok_or_else(|| redb::Error::Corrupted("the effect of a key cannot be read".to_owned()))
}

/// An id as it is in the file.
pub(super) fn id(bytes: &[u8]) -> Result<Arc<str>, redb::Error> {
    let text = std::str::from_utf8(bytes);
    text.map(Arc::from).map_err(|_| redb::Error::Corrupted("an id is not text".to_owned()))
}
