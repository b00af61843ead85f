//! Arithmetic and functions. A null, or a value that a function cannot use, gives null.

use super::{
    expr::{BinaryOp, Function},
    value::Value,
};

/// Arithmetic: whole numbers stay whole, also in a division, as in LINQ; what overflows becomes a float.
pub(super) fn arithmetic(op: BinaryOp, left: &Value, right: &Value) -> Value {
    if let (Value::Int(a), Value::Int(b)) = (left, right) {
        let whole = match op {
            BinaryOp::Add => a.checked_add(*b),
            BinaryOp::Sub => a.checked_sub(*b),
            BinaryOp::Mul => a.checked_mul(*b),
            BinaryOp::Div if *b == 0 => return Value::Null,
            BinaryOp::Div => a.checked_div(*b),
            BinaryOp::Mod if *b == 0 => return Value::Null,
            BinaryOp::Mod => a.checked_rem(*b),
            _ => None,
        };
        if let Some(whole) = whole {
            return Value::Int(whole);
        }
    }
    let (Some(a), Some(b)) = (left.as_f64(), right.as_f64()) else { return Value::Null };
    match op {
        BinaryOp::Add => Value::Float(a + b),
        BinaryOp::Sub => Value::Float(a - b),
        BinaryOp::Mul => Value::Float(a * b),
        BinaryOp::Div => Value::Float(a / b),
        BinaryOp::Mod => Value::Float(a % b),
        _ => Value::Null,
    }
}

pub(super) fn call(function: Function, arguments: &[Value]) -> Value {
    match arguments {
        [Value::Text(text)] => of_text(function, text),
        [Value::Text(one), Value::Text(other)] => of_two_texts(function, one, other),
        [Value::Text(text), Value::Int(start)] if function == Function::Substring => substring(text, *start, None),
        [Value::Text(text), Value::Int(start), Value::Int(length)] if function == Function::Substring => {
            substring(text, *start, Some(*length))
        }
        [Value::Point(..), Value::Point(..)] => distance(&arguments[0], &arguments[1]),
        [number @ (Value::Int(_) | Value::Float(_))] => of_number(function, number),
        [value] => of_time(function, value),
        _ => Value::Null,
    }
}

/// The kilometres between two points on a sphere of 6371 km, by the spherical law of cosines, as in Datasync's
/// `geo.distance`; but for the reference's slip of taking longitude for latitude.
fn distance(one: &Value, other: &Value) -> Value {
    let (Value::Point(longitude, latitude), Value::Point(other_longitude, other_latitude)) = (one, other) else {
        return Value::Null;
    };
    let (here, there) = (latitude.to_radians(), other_latitude.to_radians());
    let between = (longitude - other_longitude).to_radians();
    let cosine = here.sin() * there.sin() + here.cos() * there.cos() * between.cos();
    // Rounding may take the cosine of a point and itself beyond 1.
    Value::Float(cosine.clamp(-1.0, 1.0).acos() * 6371.0)
}

fn of_text(function: Function, text: &str) -> Value {
    match function {
        Function::ToLower => Value::Text(text.to_lowercase()),
        Function::ToUpper => Value::Text(text.to_uppercase()),
        Function::Trim => Value::Text(text.trim().to_owned()),
        Function::Length => Value::Int(characters(text)),
        _ => Value::Null,
    }
}

fn of_two_texts(function: Function, one: &str, other: &str) -> Value {
    match function {
        Function::StartsWith => Value::Bool(one.starts_with(other)),
        Function::EndsWith => Value::Bool(one.ends_with(other)),
        Function::Contains => Value::Bool(one.contains(other)),
        Function::Concat => Value::Text(format!("{one}{other}")),
        Function::IndexOf => Value::Int(one.find(other).map_or(-1, |at| characters(&one[..at]))),
        _ => Value::Null,
    }
}

fn characters(text: &str) -> i64 {
    i64::try_from(text.chars().count()).unwrap_or(i64::MAX)
}

fn substring(text: &str, start: i64, length: Option<i64>) -> Value {
    let start = usize::try_from(start).unwrap_or(0);
    let length = length.map_or(usize::MAX, |length| usize::try_from(length).unwrap_or(0));
    Value::Text(text.chars().skip(start).take(length).collect())
}

/// Halves round to the even neighbour, as in .NET's `Math.Round`.
fn of_number(function: Function, number: &Value) -> Value {
    let rounded: fn(f64) -> f64 = match function {
        Function::Round => f64::round_ties_even,
        Function::Floor => f64::floor,
        Function::Ceiling => f64::ceil,
        _ => return Value::Null,
    };
    match number {
        Value::Float(value) => Value::Float(rounded(*value)),
        whole => whole.clone(),
    }
}

fn of_time(function: Function, value: &Value) -> Value {
    let (date, time) = match value {
        Value::Date(date) => (Some(*date), None),
        Value::Time(time) => (None, Some(*time)),
        Value::Stamp(millis) => match jiff::Timestamp::from_millisecond(*millis) {
            Ok(stamp) => {
                let utc = jiff::tz::Offset::UTC.to_datetime(stamp);
                (Some(utc.date()), Some(utc.time()))
            }
            Err(_) => return Value::Null,
        },
        _ => return Value::Null,
    };
    let part = match function {
        Function::Year => date.map(|date| i64::from(date.year())),
        Function::Month => date.map(|date| i64::from(date.month())),
        Function::Day => date.map(|date| i64::from(date.day())),
        Function::Hour => time.map(|time| i64::from(time.hour())),
        Function::Minute => time.map(|time| i64::from(time.minute())),
        Function::Second => time.map(|time| i64::from(time.second())),
        _ => None,
    };
    part.map_or(Value::Null, Value::Int)
}
