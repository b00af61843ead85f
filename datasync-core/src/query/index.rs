//! The keys of indexes, and which index a query uses.
//!
//! A key is, for each field of the index, a 0 for null, or a 1 and bytes in the order of the values, none of which is
//! the beginning of another one's. So the keys sort like the values.

use std::{ops::Bound, sync::Arc};

use serde::de::DeserializeSeed;

use super::{
    QueryDescription,
    error::QueryError,
    eval::Needed,
    expr::{BinaryOp, Expr, Function, Literal},
    value::{Value, stamp},
};
use crate::{
    row::Record,
    schema::{DELETED, FieldKind, ID, IndexSchema, TableSchema, UPDATED_AT, VERSION},
    store::{KeyBytes, TableSpec},
};

/// A text that changes whenever the name, a field or the kind of a field of the index does.
#[must_use]
pub fn index_text(index: &IndexSchema, schema: &TableSchema) -> Arc<str> {
    let fields: Vec<String> = index
        .fields
        .iter()
        .map(|name| match kind_of(name, schema) {
            Some(FieldKind::Enum(names)) => format!("{name}:enum({})", names.join(" ")),
            Some(kind) => format!("{name}:{}", kind.name()),
            None => format!("{name}:?"),
        })
        .collect();
    format!("{}({})", index.name, fields.join(",")).into()
}

/// The table and its indexes, for [`Store::open`](crate::store::Store::open).
#[must_use]
pub fn table_spec(schema: &TableSchema) -> TableSpec {
    let indexes = schema.indexes.iter().map(|index| index_text(index, schema)).collect();
    TableSpec { table: schema.name.as_ref().into(), indexes }
}

fn kind_of(name: &str, schema: &TableSchema) -> Option<FieldKind> {
    match name {
        ID | VERSION => Some(FieldKind::Text),
        UPDATED_AT => Some(FieldKind::Timestamp),
        DELETED => Some(FieldKind::Bool),
        name => schema.field(name).map(|field| field.kind.clone()),
    }
}

/// The keys of a row in all indexes of its table.
///
/// # Errors
///
/// A body that is not a JSON object.
pub fn index_keys(schema: &TableSchema, id: &str, record: &Record) -> Result<Vec<(Arc<str>, KeyBytes)>, QueryError> {
    if schema.indexes.is_empty() {
        return Ok(Vec::new());
    }
    let mut needed: Vec<(String, FieldKind)> = Vec::new();
    for name in schema.indexes.iter().flat_map(|index| index.fields.iter()) {
        if let (Some(kind), false) = (kind_of(name, schema), needed.iter().any(|(known, _)| known == name)) {
            needed.push((name.to_string(), kind));
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(record.body.as_bytes());
    let values = Needed(&needed)
        .deserialize(&mut deserializer)
        .map_err(|error| QueryError::new(format!("the row `{id}` is not a JSON object: {error}")))?;
    let value = |name: &str| match name {
        ID => Value::Text(id.to_owned()),
        VERSION => record.version.clone().map_or(Value::Null, Value::Text),
        UPDATED_AT => record.updated_at.map_or(Value::Null, |time| Value::Stamp(stamp(time))),
        DELETED => Value::Bool(record.deleted),
        name => {
            let found = needed.iter().zip(&values).find(|((known, _), _)| known == name);
            found.map_or(Value::Null, |(_, value)| value.clone())
        }
    };
    let keys = schema.indexes.iter().map(|index| {
        let mut key = KeyBytes::new();
        for name in index.fields.iter() {
            let kind = kind_of(name, schema).unwrap_or(FieldKind::Json);
            encode(&kind, &value(name), &mut key);
        }
        (index_text(index, schema), key)
    });
    Ok(keys.collect())
}

fn encode(kind: &FieldKind, value: &Value, key: &mut KeyBytes) {
    if matches!(value, Value::Null | Value::Other | Value::Point(..)) {
        return key.push(0);
    }
    key.push(1);
    match value {
        Value::Null | Value::Other | Value::Point(..) => {}
        Value::Bool(value) => key.push(u8::from(*value)),
        Value::Int(_) | Value::Float(_) if *kind != FieldKind::I64 => {
            key.extend(float_bytes(value.as_f64().unwrap_or(0.0)));
        }
        Value::Int(value) => key.extend(whole_bytes(*value)),
        // A whole number's index only orders whole numbers; the filter looks at what lies between.
        Value::Float(value) => key.extend(whole_bytes(value.floor() as i64)),
        Value::Text(text) => {
            text_bytes(text, key);
            key.extend([0, 1]);
        }
        Value::Enum(position) => key.extend(u32::try_from(*position).unwrap_or(u32::MAX).to_be_bytes()),
        Value::Stamp(millis) => key.extend(whole_bytes(*millis)),
        Value::Date(date) => {
            let days = i64::from(date.year()) * 512 + i64::from(date.month()) * 32 + i64::from(date.day());
            key.extend(whole_bytes(days));
        }
        Value::Time(time) => {
            let seconds = (i64::from(time.hour()) * 60 + i64::from(time.minute())) * 60 + i64::from(time.second());
            key.extend(whole_bytes(seconds * 1_000_000_000 + i64::from(time.subsec_nanosecond())));
        }
        Value::Uuid(uuid) => key.extend(uuid.as_bytes()),
    }
}

fn whole_bytes(value: i64) -> [u8; 8] {
    (value.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn float_bytes(value: f64) -> [u8; 8] {
    // The two zeros are one value.
    let bits = (value + 0.0).to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | (1 << 63) };
    ordered.to_be_bytes()
}

fn text_bytes(text: &str, key: &mut KeyBytes) {
    for byte in text.bytes() {
        key.push(byte);
        if byte == 0 {
            key.push(0xff);
        }
    }
}

/// The way to the rows of a query: an index or the ids, and the range in it that holds every row that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The index, by its [`index_text`]; `None` for the order of ids.
    pub index: Option<Arc<str>>,
    /// The range of keys, or of the bytes of ids.
    pub range: (Bound<KeyBytes>, Bound<KeyBytes>),
    /// Whether the rows come in the order of the query.
    pub ordered: bool,
}

/// What a conjunct says about a field.
struct Condition<'q> {
    field: &'q str,
    op: BinaryOp,
    value: &'q Literal,
    prefix: bool,
}

/// Chooses the way to the rows of a query: an equal value of the id or of an index's first field, else a range of
/// one, else an index in the query's order if it wants only the first rows, else a range of the ids.
#[must_use]
pub fn plan(query: &QueryDescription, schema: &TableSchema) -> Access {
    let mut conditions = Vec::new();
    if let Some(filter) = &query.filter {
        conjuncts(filter, &mut conditions);
    }
    if let Some(id) = conditions.iter().find_map(|condition| match condition.value {
        Literal::Text(text) if condition.field == ID && condition.op == BinaryOp::Eq && !condition.prefix => Some(text),
        _ => None,
    }) {
        let bytes = id.as_bytes().to_vec();
        return Access { index: None, range: (Bound::Included(bytes.clone()), Bound::Included(bytes)), ordered: true };
    }
    let candidates = schema.indexes.iter().filter_map(|index| {
        let first = index.fields.first()?;
        let kind = kind_of(first, schema)?;
        let of_first = conditions.iter().filter(|condition| condition.field == first);
        let (low, high) = of_first.filter_map(|condition| range(&kind, condition)).fold(
            (vec![0], None),
            |(low, high): (KeyBytes, Option<KeyBytes>), (from, to)| {
                let high = match (high, to) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
                (low.max(from), high)
            },
        );
        (low != [0] || high.is_some()).then_some((index, low, high))
    });
    let best = candidates.min_by_key(|(_, low, high)| match high {
        Some(high) if successor(low.clone()).as_ref() == Some(high) => 0,
        Some(_) => 1,
        None => 2,
    });
    let in_order = |index: &IndexSchema| match query.order.as_slice() {
        [key] => !key.descending && index.fields.len() == 1 && index.fields.first().is_some_and(|f| *f == key.field),
        _ => false,
    };
    if let Some((index, low, high)) = best {
        let equal = successor(low.clone()) == high && index.fields.len() == 1;
        let ordered = in_order(index) || (query.order.is_empty() && equal);
        let range = (Bound::Included(low), high.map_or(Bound::Unbounded, Bound::Excluded));
        return Access { index: Some(index_text(index, schema)), range, ordered };
    }
    let all = (Bound::Unbounded, Bound::Unbounded);
    if let (Some(index), Some(_)) = (schema.indexes.iter().find(|index| in_order(index)), query.top) {
        return Access { index: Some(index_text(index, schema)), range: all, ordered: true };
    }
    let by_id = query.order.first().is_none_or(|key| key.field == ID && !key.descending);
    Access { index: None, range: id_range(&conditions), ordered: by_id }
}

/// The range of ids that the conditions leave.
fn id_range(conditions: &[Condition<'_>]) -> (Bound<KeyBytes>, Bound<KeyBytes>) {
    let (mut low, mut high) = (Bound::Unbounded, Bound::Unbounded);
    for condition in conditions.iter().filter(|condition| condition.field == ID) {
        let Literal::Text(text) = condition.value else { continue };
        let bytes = text.as_bytes().to_vec();
        match condition.op {
            BinaryOp::Eq if condition.prefix => {
                high = successor(bytes.clone()).map_or(Bound::Unbounded, Bound::Excluded);
                low = Bound::Included(bytes);
            }
            BinaryOp::Gt => low = Bound::Excluded(bytes),
            BinaryOp::Ge => low = Bound::Included(bytes),
            BinaryOp::Lt => high = Bound::Excluded(bytes),
            BinaryOp::Le => high = Bound::Included(bytes),
            _ => {}
        }
    }
    (low, high)
}

fn conjuncts<'q>(expr: &'q Expr, found: &mut Vec<Condition<'q>>) {
    match expr {
        Expr::Binary(BinaryOp::And, left, right) => {
            conjuncts(left, found);
            conjuncts(right, found);
        }
        Expr::Binary(op, left, right) => match (&**left, &**right) {
            (Expr::Field(field), Expr::Literal(value)) => {
                found.push(Condition { field, op: *op, value, prefix: false });
            }
            (Expr::Literal(value), Expr::Field(field)) => {
                let op = match op {
                    BinaryOp::Lt => BinaryOp::Gt,
                    BinaryOp::Le => BinaryOp::Ge,
                    BinaryOp::Gt => BinaryOp::Lt,
                    BinaryOp::Ge => BinaryOp::Le,
                    same => *same,
                };
                found.push(Condition { field, op, value, prefix: false });
            }
            _ => {}
        },
        Expr::Call(Function::StartsWith, arguments) => {
            if let [Expr::Field(field), Expr::Literal(value)] = arguments.as_slice() {
                found.push(Condition { field, op: BinaryOp::Eq, value, prefix: true });
            }
        }
        _ => {}
    }
}

/// The first key, and the first key behind, of what a condition on the first field of an index allows.
fn range(kind: &FieldKind, condition: &Condition<'_>) -> Option<(KeyBytes, Option<KeyBytes>)> {
    if condition.prefix {
        let (FieldKind::Text, Literal::Text(text)) = (kind, condition.value) else { return None };
        let mut low = vec![1];
        text_bytes(text, &mut low);
        let high = successor(low.clone());
        return Some((low, high));
    }
    let value = match (kind, condition.value) {
        (FieldKind::Enum(names), Literal::Text(name)) => Value::Enum(names.iter().position(|known| known == name)?),
        (_, literal) => Value::of_literal(literal),
    };
    let (mut low, mut high) = (Vec::new(), Vec::new());
    encode(kind, &value, &mut low);
    let above = match (&value, kind) {
        (Value::Float(value), FieldKind::I64) => Value::Float(value.ceil()),
        _ => value.clone(),
    };
    encode(kind, &above, &mut high);
    let high = successor(high);
    match condition.op {
        BinaryOp::Eq => Some((low, high)),
        _ if value == Value::Null => None,
        BinaryOp::Lt | BinaryOp::Le => Some((vec![1], high)),
        BinaryOp::Gt | BinaryOp::Ge => Some((low, None)),
        _ => None,
    }
}

/// The smallest key that is greater than every key that begins with these bytes.
fn successor(mut bytes: KeyBytes) -> Option<KeyBytes> {
    while let Some(last) = bytes.pop() {
        if last < u8::MAX {
            bytes.push(last + 1);
            return Some(bytes);
        }
    }
    None
}
