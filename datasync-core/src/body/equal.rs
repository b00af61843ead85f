//! When two values of a field are equal; the table is in the module above.

use std::cmp::Ordering;

use jiff::civil;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Object;
use crate::{
    query::{Decimal, timestamp},
    schema::FieldKind,
};

/// Values nested deeper than this are compared as texts.
const DEEPEST: usize = 64;

/// Whether two values of a field of this kind are equal; `None` is a field that is missing or null, and no kind is a
/// field that this build does not know.
pub(crate) fn values(kind: Option<&FieldKind>, one: Option<&RawValue>, other: Option<&RawValue>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return one.is_none() && other.is_none() };
    if one.get() == other.get() {
        return true;
    }
    let by_kind = match kind {
        Some(FieldKind::Timestamp) => {
            both(one, other, |text| Some(timestamp(text)?.as_nanosecond().div_euclid(1_000_000)))
        }
        Some(FieldKind::Time) => both(one, other, |text| {
            let time: civil::Time = text.parse().ok()?;
            Some((time.hour(), time.minute(), time.second(), time.millisecond()))
        }),
        Some(FieldKind::Date) => both(one, other, |text| text.parse::<civil::Date>().ok()),
        Some(FieldKind::Uuid) => both(one, other, |text| Uuid::try_parse(text).ok()),
        Some(FieldKind::I64 | FieldKind::Decimal) => numbers(one, other).map(Ordering::is_eq),
        Some(FieldKind::F64) => float(one).zip(float(other)).map(|(one, other)| one == other),
        _ => None,
    };
    by_kind.unwrap_or_else(|| json(one, other, 0))
}

/// Whether two texts have the same meaning; `None` if one of them has none.
fn both<T: PartialEq>(one: &RawValue, other: &RawValue, read: impl Fn(&str) -> Option<T>) -> Option<bool> {
    Some(read(&unquoted(one)?)? == read(&unquoted(other)?)?)
}

pub(crate) fn unquoted(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// The number that a value spells, also inside quotes; `None` of more digits than are kept.
pub(crate) fn number(raw: &RawValue) -> Option<Decimal> {
    match unquoted(raw) {
        Some(quoted) => Decimal::parse_exact(&quoted),
        None => Decimal::parse_exact(raw.get()),
    }
}

/// The order of two numbers, to the digit.
pub(crate) fn numbers(one: &RawValue, other: &RawValue) -> Option<Ordering> {
    Some(number(one)?.cmp(&number(other)?))
}

/// The floating-point number that a value spells, perhaps with more digits than it has.
pub(crate) fn float(raw: &RawValue) -> Option<f64> {
    match unquoted(raw) {
        Some(quoted) => quoted.parse().ok(),
        None => raw.get().parse().ok(),
    }
}

/// Equality of JSON: numbers by value, texts by their characters, members in any order.
pub(crate) fn json(one: &RawValue, other: &RawValue, depth: usize) -> bool {
    if one.get() == other.get() {
        return true;
    }
    let (Some(first), Some(second)) = (one.get().bytes().next(), other.get().bytes().next()) else { return false };
    match (first, second) {
        (b'{' | b'[', _) if depth >= DEEPEST => false,
        (b'{', b'{') => {
            let (Ok(one), Ok(other)) = (object(one), object(other)) else { return false };
            one.names().chain(other.names()).all(|name| match (one.raw(name), other.raw(name)) {
                (Some(one), Some(other)) => json(one, other, depth + 1),
                _ => false,
            })
        }
        (b'[', b'[') => {
            let (Some(one), Some(other)) = (elements(one), elements(other)) else { return false };
            one.len() == other.len() && one.iter().zip(&other).all(|(one, other)| json(one, other, depth + 1))
        }
        (b'"', b'"') => unquoted(one).is_some_and(|one| unquoted(other).is_some_and(|other| one == other)),
        (b'-' | b'0'..=b'9', b'-' | b'0'..=b'9') => numbers(one, other).is_some_and(Ordering::is_eq),
        _ => false,
    }
}

fn object(raw: &RawValue) -> Result<Object<'_>, serde_json::Error> {
    serde_json::from_str(raw.get())
}

/// The elements of an array; `None` if it is none.
pub(crate) fn elements(raw: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(raw.get()).ok()
}
