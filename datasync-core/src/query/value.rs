//! The values that a filter compares, read from JSON by the kind of their field.

use std::{borrow::Cow, cmp::Ordering, fmt};

use jiff::{Timestamp, civil};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{decimal::Decimal, expr::Literal};
use crate::schema::FieldKind;

/// A value of a field or of an expression.
#[derive(Clone)]
pub(super) enum Value<'v> {
    Null,
    Bool(bool),
    /// A whole number. Whatever 64 bits hold, and what is computed of it, fits.
    Int(i128),
    Decimal(Decimal),
    /// Never infinite and never not a number where it was read.
    Float(f64),
    Text(Cow<'v, str>),
    /// The position of a member among the names of its enum.
    Enum(usize),
    /// Milliseconds since 1970, which is what the wire shows.
    Stamp(i64),
    Date(civil::Date),
    /// Milliseconds since midnight.
    Time(i64),
    Uuid(Uuid),
    /// Longitude and latitude in degrees.
    Point(f64, f64),
    /// Something that can only be told from null.
    Other,
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
}

pub(super) fn stamp(time: Timestamp) -> i64 {
    // The range of a timestamp in milliseconds fits.
    time.as_nanosecond().div_euclid(1_000_000) as i64
}

/// The milliseconds of a time of day, the rest cut off, as those of a timestamp are.
pub(super) fn time_of_day(time: civil::Time) -> i64 {
    let minutes = i64::from(time.hour()) * 60 + i64::from(time.minute());
    (minutes * 60 + i64::from(time.second())) * 1_000 + i64::from(time.millisecond())
}

/// Reads a point in time of any precision; without an offset it is UTC.
///
/// ```
/// use datasync_core::query::timestamp;
/// assert_eq!(timestamp("2024-01-02T03:04:05.1234567+01:00"), timestamp("2024-01-02T02:04:05.1234567"));
/// assert_eq!(timestamp("yesterday"), None);
/// ```
#[must_use]
pub fn timestamp(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| format!("{text}Z").parse().ok())
}

impl<'v> Value<'v> {
    /// Reads the JSON of a field; what does not fit its kind counts as null.
    pub(super) fn of_json(kind: &FieldKind, raw: &'v RawValue) -> Value<'v> {
        let raw = raw.get();
        let text = || text(raw);
        match kind {
            FieldKind::Bool => match raw {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            },
            FieldKind::I64 | FieldKind::F64 | FieldKind::Decimal => number(kind, &text().unwrap_or(Cow::Borrowed(raw))),
            FieldKind::Text => text().map_or(Value::Null, Value::Text),
            FieldKind::Enum(names) => text().map_or(Value::Null, |name| {
                Value::Enum(names.iter().position(|known| *known == name).unwrap_or(names.len()))
            }),
            FieldKind::Timestamp => {
                text().and_then(|text| timestamp(&text)).map_or(Value::Null, |time| Value::Stamp(stamp(time)))
            }
            FieldKind::Date => text().and_then(|text| text.parse().ok()).map_or(Value::Null, Value::Date),
            FieldKind::Time => text()
                .and_then(|text| text.parse().ok())
                .map_or(Value::Null, |time: civil::Time| Value::Time(time_of_day(time))),
            FieldKind::Uuid => text().and_then(|text| Uuid::try_parse(&text).ok()).map_or(Value::Null, Value::Uuid),
            FieldKind::Point => point(raw),
            FieldKind::Bytes | FieldKind::Json if raw == "null" => Value::Null,
            FieldKind::Bytes | FieldKind::Json => Value::Other,
        }
    }

    /// The value of a constant. A text stays a text, also where it names a member of an enum.
    pub(super) fn of_literal(literal: &Literal) -> Value<'static> {
        match literal {
            Literal::Null => Value::Null,
            Literal::Bool(value) => Value::Bool(*value),
            Literal::Int(value) | Literal::Long(value) => Value::Int(i128::from(*value)),
            // Its digits, which are what the JSON of such a field has, and not the nearest number of double precision.
            Literal::Single(value) => Value::Float(value.to_string().parse().unwrap_or(f64::from(*value))),
            Literal::Double(value) => Value::Float(*value),
            Literal::Decimal(text) => Decimal::parse(text).map_or(Value::Null, Value::Decimal),
            Literal::Text(text) => Value::Text(Cow::Owned(text.clone())),
            Literal::Timestamp(time) => Value::Stamp(stamp(*time)),
            Literal::Date(date) => Value::Date(*date),
            Literal::Time(time) => Value::Time(time_of_day(*time)),
            Literal::Uuid(uuid) => Value::Uuid(*uuid),
            Literal::Point { longitude, latitude } => Value::Point(*longitude, *latitude),
        }
    }

    /// The same value without a copy.
    pub(super) fn borrowed(&self) -> Value<'_> {
        match self {
            Value::Text(text) => Value::Text(Cow::Borrowed(text)),
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(*value),
            Value::Int(value) => Value::Int(*value),
            Value::Decimal(value) => Value::Decimal(*value),
            Value::Float(value) => Value::Float(*value),
            Value::Enum(value) => Value::Enum(*value),
            Value::Stamp(value) => Value::Stamp(*value),
            Value::Date(value) => Value::Date(*value),
            Value::Time(value) => Value::Time(*value),
            Value::Uuid(value) => Value::Uuid(*value),
            Value::Point(longitude, latitude) => Value::Point(*longitude, *latitude),
            Value::Other => Value::Other,
        }
    }

    /// The same value with a text of its own.
    pub(super) fn into_owned(self) -> Value<'static> {
        match self {
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(value),
            Value::Int(value) => Value::Int(value),
            Value::Decimal(value) => Value::Decimal(value),
            Value::Float(value) => Value::Float(value),
            Value::Enum(value) => Value::Enum(value),
            Value::Stamp(value) => Value::Stamp(value),
            Value::Date(value) => Value::Date(value),
            Value::Time(value) => Value::Time(value),
            Value::Uuid(value) => Value::Uuid(value),
            Value::Point(longitude, latitude) => Value::Point(longitude, latitude),
            Value::Other => Value::Other,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    pub(super) fn is_true(&self) -> bool {
        matches!(self, Value::Bool(true))
    }

    pub(super) fn to_f64(&self) -> Option<f64> {
        match self {
            Value::Int(value) => Some(*value as f64),
            Value::Decimal(value) => Some(value.to_f64()),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// A number as a decimal. A floating-point number is the shortest decimal that stands for it: 0.1 is 0.1.
    pub(super) fn to_decimal(&self) -> Option<Decimal> {
        match self {
            Value::Int(value) => Decimal::of_int(*value),
            Value::Decimal(value) => Some(*value),
            Value::Float(value) => Decimal::of_float(*value),
            _ => None,
        }
    }

    /// The order of two values of one kind; `None` if one is null or not a number.
    pub(super) fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Enum(a), Value::Enum(b)) => Some(a.cmp(b)),
            (Value::Stamp(a), Value::Stamp(b)) => Some(a.cmp(b)),
            (Value::Date(a), Value::Date(b)) => Some(a.cmp(b)),
            (Value::Time(a), Value::Time(b)) => Some(a.cmp(b)),
            (Value::Uuid(a), Value::Uuid(b)) => Some(a.cmp(b)),
            _ => match (self.to_decimal(), other.to_decimal()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                // What was computed and is no decimal any more.
                _ => self.to_f64()?.partial_cmp(&other.to_f64()?),
            },
        }
    }

    /// The order of an `$orderby`: nulls first, and every value has its place.
    pub(super) fn order(&self, other: &Value<'_>) -> Ordering {
        match (self, other) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Less,
            (_, Value::Null) => Ordering::Greater,
            _ => self.compare(other).unwrap_or(Ordering::Equal),
        }
    }
}

/// The text of a JSON string; `None` of anything else.
fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// The order of two values of a field of this kind; `None` where it has none.
pub(crate) fn compare_json(kind: &FieldKind, one: &RawValue, other: &RawValue) -> Option<Ordering> {
    Value::of_json(kind, one).compare(&Value::of_json(kind, other))
}

/// A GeoJSON point; whatever lies beyond longitude and latitude is not looked at, and what is none counts as null.
fn point(raw: &str) -> Value<'static> {
    #[derive(serde::Deserialize)]
    struct Point {
        r#type: String,
        coordinates: Vec<f64>,
    }
    match serde_json::from_str::<Point>(raw) {
        Ok(Point { r#type, coordinates }) if r#type == "Point" => match coordinates.as_slice() {
            [longitude, latitude, ..] => Value::Point(*longitude, *latitude),
            _ => Value::Null,
        },
        _ => Value::Null,
    }
}

/// A number, in JSON or in a text. A whole number's field may hold others, which keep their value.
fn number(kind: &FieldKind, text: &str) -> Value<'static> {
    match kind {
        FieldKind::F64 => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Value::Float(value),
            _ => Value::Null,
        },
        FieldKind::I64 => match text.parse::<i64>() {
            Ok(value) => Value::Int(i128::from(value)),
            Err(_) => Decimal::parse(text)
                .map_or(Value::Null, |value| value.to_int().map_or(Value::Decimal(value), Value::Int)),
        },
        _ => Decimal::parse(text).map_or(Value::Null, Value::Decimal),
    }
}
