//! Arithmetic and functions. A null, or a value that a function cannot use, gives null.

use std::borrow::Cow;

use super::{
    decimal::Decimal,
    expr::{BinaryOp, Function},
    value::Value,
};

/// Arithmetic: whole numbers stay whole, also in a division, as in LINQ; they and decimals are exact. With a floating-point
/// number the result is one, and so is what has more digits than a decimal keeps. A division by a whole or decimal zero is
/// null.
pub(super) fn arithmetic(op: BinaryOp, left: &Value<'_>, right: &Value<'_>) -> Value<'static> {
    let exact = match (left, right) {
        (Value::Int(a), Value::Int(b)) => {
            if *b == 0 && matches!(op, BinaryOp::Div | BinaryOp::Mod) {
                return Value::Null;
            }
            whole(op, *a, *b).map(Value::Int)
        }
        (Value::Int(_) | Value::Decimal(_), Value::Int(_) | Value::Decimal(_)) => {
            match (left.to_decimal(), right.to_decimal()) {
                (_, Some(Decimal::ZERO)) if matches!(op, BinaryOp::Div | BinaryOp::Mod) => return Value::Null,
                (Some(a), Some(b)) => decimal(op, a, b).map(Value::Decimal),
                _ => None,
            }
        }
        _ => None,
    };
    if let Some(exact) = exact {
        return exact;
    }
    let (Some(a), Some(b)) = (left.to_f64(), right.to_f64()) else { return Value::Null };
    match op {
        BinaryOp::Add => Value::Float(a + b),
        BinaryOp::Sub => Value::Float(a - b),
        BinaryOp::Mul => Value::Float(a * b),
        BinaryOp::Div => Value::Float(a / b),
        BinaryOp::Mod => Value::Float(a % b),
        _ => Value::Null,
    }
}

fn whole(op: BinaryOp, a: i128, b: i128) -> Option<i128> {
    match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Sub => a.checked_sub(b),
        BinaryOp::Mul => a.checked_mul(b),
        BinaryOp::Div => a.checked_div(b),
        BinaryOp::Mod => a.checked_rem(b),
        _ => None,
    }
}

fn decimal(op: BinaryOp, a: Decimal, b: Decimal) -> Option<Decimal> {
    match op {
        BinaryOp::Add => a.add(b),
        BinaryOp::Sub => a.add(b.negated()),
        BinaryOp::Mul => a.mul(b),
        BinaryOp::Div => a.div(b),
        BinaryOp::Mod => a.rem(b),
        _ => None,
    }
}

pub(super) fn call<'v>(function: Function, arguments: &[Value<'v>]) -> Value<'v> {
    match arguments {
        [Value::Text(text)] => of_text(function, text),
        [Value::Text(one), Value::Text(other)] => of_two_texts(function, one, other),
        [Value::Text(text), Value::Text(from), Value::Text(to)] if function == Function::Replace => {
            owned(if from.is_empty() { text.to_string() } else { text.replace(&**from, to) })
        }
        [Value::Text(text), Value::Int(start)] if function == Function::Substring => substring(text, *start, None),
        [Value::Text(text), Value::Int(start), Value::Int(length)] if function == Function::Substring => {
            substring(text, *start, Some(*length))
        }
        [Value::Point(..), Value::Point(..)] => distance(&arguments[0], &arguments[1]),
        [number @ (Value::Int(_) | Value::Decimal(_) | Value::Float(_))] => of_number(function, number),
        [value] => of_time(function, value),
        _ => Value::Null,
    }
}

fn owned(text: String) -> Value<'static> {
    Value::Text(Cow::Owned(text))
}

/// The kilometres between two points on a sphere of 6371 km, by the spherical law of cosines, as in Datasync's
/// `geo.distance`; but for the reference's slip of taking longitude for latitude.
fn distance(one: &Value<'_>, other: &Value<'_>) -> Value<'static> {
    let (Value::Point(longitude, latitude), Value::Point(other_longitude, other_latitude)) = (one, other) else {
        return Value::Null;
    };
    let (here, there) = (latitude.to_radians(), other_latitude.to_radians());
    let between = (longitude - other_longitude).to_radians();
    let cosine = here.sin() * there.sin() + here.cos() * there.cos() * between.cos();
    // Rounding may take the cosine of a point and itself beyond 1.
    Value::Float(cosine.clamp(-1.0, 1.0).acos() * 6371.0)
}

/// Each letter becomes one letter, or stays what it is if it would become several, as in .NET.
fn cased<I: Iterator<Item = char> + Clone>(text: &str, change: impl Fn(char) -> I) -> Value<'static> {
    let one = |letter: char| {
        let mut changed = change(letter);
        match (changed.next(), changed.next()) {
            (Some(changed), None) => changed,
            _ => letter,
        }
    };
    owned(text.chars().map(one).collect())
}

fn of_text(function: Function, text: &str) -> Value<'static> {
    match function {
        Function::ToLower => cased(text, char::to_lowercase),
        Function::ToUpper => cased(text, char::to_uppercase),
        Function::Trim => owned(text.trim().to_owned()),
        Function::Length => Value::Int(characters(text)),
        _ => Value::Null,
    }
}

fn of_two_texts(function: Function, one: &str, other: &str) -> Value<'static> {
    match function {
        Function::StartsWith => Value::Bool(one.starts_with(other)),
        Function::EndsWith => Value::Bool(one.ends_with(other)),
        Function::Contains => Value::Bool(one.contains(other)),
        Function::Concat => owned(format!("{one}{other}")),
        Function::IndexOf => Value::Int(one.find(other).map_or(-1, |at| characters(&one[..at]))),
        _ => Value::Null,
    }
}

fn characters(text: &str) -> i128 {
    text.chars().count() as i128
}

fn substring(text: &str, start: i128, length: Option<i128>) -> Value<'static> {
    let start = usize::try_from(start.max(0)).unwrap_or(usize::MAX);
    let length = length.map_or(usize::MAX, |length| usize::try_from(length.max(0)).unwrap_or(usize::MAX));
    owned(text.chars().skip(start).take(length).collect())
}

/// Halves round to the even neighbour, as in .NET's `Math.Round`.
fn of_number(function: Function, number: &Value<'_>) -> Value<'static> {
    let rounded = |float: fn(f64) -> f64, decimal: fn(Decimal) -> Decimal| match number {
        Value::Int(value) => Value::Int(*value),
        Value::Decimal(value) => Value::Decimal(decimal(*value)),
        Value::Float(value) => Value::Float(float(*value)),
        _ => Value::Null,
    };
    match function {
        Function::Round => rounded(f64::round_ties_even, Decimal::round),
        Function::Floor => rounded(f64::floor, Decimal::floor),
        Function::Ceiling => rounded(f64::ceil, Decimal::ceiling),
        _ => Value::Null,
    }
}

fn of_time(function: Function, value: &Value<'_>) -> Value<'static> {
    const DAY: i64 = 24 * 60 * 60 * 1_000;
    let (date, millis) = match value {
        Value::Date(date) => (Some(*date), None),
        Value::Time(millis) => (None, Some(*millis)),
        Value::Stamp(millis) => match jiff::Timestamp::from_millisecond(*millis) {
            Ok(stamp) => (Some(jiff::tz::Offset::UTC.to_datetime(stamp).date()), Some(millis.rem_euclid(DAY))),
            Err(_) => return Value::Null,
        },
        _ => return Value::Null,
    };
    let part = match function {
        Function::Year => date.map(|date| i64::from(date.year())),
        Function::Month => date.map(|date| i64::from(date.month())),
        Function::Day => date.map(|date| i64::from(date.day())),
        Function::Hour => millis.map(|millis| millis / 3_600_000),
        Function::Minute => millis.map(|millis| millis / 60_000 % 60),
        Function::Second => millis.map(|millis| millis / 1_000 % 60),
        _ => None,
    };
    part.map_or(Value::Null, |part| Value::Int(i128::from(part)))
}
