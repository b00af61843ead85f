//! The values that a filter compares, read from JSON by the kind of their field.

use std::cmp::Ordering;

use jiff::{Timestamp, civil};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::expr::Literal;
use crate::schema::FieldKind;

/// A value of a field or of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// The position of a member among the names of its enum.
    Enum(usize),
    /// Milliseconds since 1970, which is what the wire shows.
    Stamp(i64),
    Date(civil::Date),
    Time(civil::Time),
    Uuid(Uuid),
    /// Longitude and latitude in degrees.
    Point(f64, f64),
    /// Something that can only be told from null.
    Other,
}

pub(super) fn stamp(time: Timestamp) -> i64 {
    // The range of a timestamp in milliseconds fits.
    time.as_nanosecond().div_euclid(1_000_000) as i64
}

impl Value {
    /// Reads the JSON of a field; what does not fit its kind counts as null.
    pub(super) fn of_json(kind: &FieldKind, raw: Option<&RawValue>) -> Value {
        let Some(raw) = raw.map(RawValue::get).filter(|raw| *raw != "null") else { return Value::Null };
        let text = || serde_json::from_str::<String>(raw).ok();
        match kind {
            FieldKind::Bool => match raw {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            },
            FieldKind::I64 | FieldKind::F64 | FieldKind::Decimal => {
                let quoted = if raw.starts_with('"') { text() } else { None };
                number(quoted.as_deref().unwrap_or(raw))
            }
            FieldKind::Text => text().map_or(Value::Null, Value::Text),
            FieldKind::Enum(names) => text().map_or(Value::Null, |name| {
                Value::Enum(names.iter().position(|known| *known == name).unwrap_or(names.len()))
            }),
            FieldKind::Timestamp => {
                text().and_then(|text| text.parse().ok()).map_or(Value::Null, |time| Value::Stamp(stamp(time)))
            }
            FieldKind::Date => text().and_then(|text| text.parse().ok()).map_or(Value::Null, Value::Date),
            FieldKind::Time => text().and_then(|text| text.parse().ok()).map_or(Value::Null, Value::Time),
            FieldKind::Uuid => text().and_then(|text| Uuid::try_parse(&text).ok()).map_or(Value::Null, Value::Uuid),
            FieldKind::Point => point(raw),
            FieldKind::Bytes | FieldKind::Json => Value::Other,
        }
    }

    /// The value of a constant. A text stays a text, also where it names a member of an enum.
    pub(super) fn of_literal(literal: &Literal) -> Value {
        match literal {
            Literal::Null => Value::Null,
            Literal::Bool(value) => Value::Bool(*value),
            Literal::Int(value) | Literal::Long(value) => Value::Int(*value),
            Literal::Single(value) => Value::Float(f64::from(*value)),
            Literal::Double(value) => Value::Float(*value),
            Literal::Decimal(text) => number(text),
            Literal::Text(text) => Value::Text(text.clone()),
            Literal::Timestamp(time) => Value::Stamp(stamp(*time)),
            Literal::Date(date) => Value::Date(*date),
            Literal::Time(time) => Value::Time(*time),
            Literal::Uuid(uuid) => Value::Uuid(*uuid),
            Literal::Point { longitude, latitude } => Value::Point(*longitude, *latitude),
        }
    }

    pub(super) fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The order of two values of one kind; `None` if one is null or not a number.
    pub(super) fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Enum(a), Value::Enum(b)) => Some(a.cmp(b)),
            (Value::Stamp(a), Value::Stamp(b)) => Some(a.cmp(b)),
            (Value::Date(a), Value::Date(b)) => Some(a.cmp(b)),
            (Value::Time(a), Value::Time(b)) => Some(a.cmp(b)),
            (Value::Uuid(a), Value::Uuid(b)) => Some(a.cmp(b)),
            _ => self.as_f64()?.partial_cmp(&other.as_f64()?),
        }
    }

    /// The order of an `$orderby`: nulls first, and every value has its place.
    pub(super) fn order(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Less,
            (_, Value::Null) => Ordering::Greater,
            _ => self.compare(other).unwrap_or(Ordering::Equal),
        }
    }
}

/// The order of two values of a field of this kind; `None` where it has none.
pub(crate) fn compare_json(kind: &FieldKind, one: &RawValue, other: &RawValue) -> Option<Ordering> {
    Value::of_json(kind, Some(one)).compare(&Value::of_json(kind, Some(other)))
}

/// A GeoJSON point; whatever lies beyond longitude and latitude is not looked at, and what is none counts as null.
fn point(raw: &str) -> Value {
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

fn number(text: &str) -> Value {
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(value), _) => Value::Int(value),
        (_, Ok(value)) => Value::Float(value),
        _ => Value::Null,
    }
}
