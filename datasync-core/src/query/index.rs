//! The keys of indexes.
//!
//! A key is, for each field of the index, a 0 for null, or a 1 and bytes in the order of the values, none of which is
//! the beginning of another one's. So the keys sort like the values.

use std::sync::Arc;

use super::{
    decimal::Decimal,
    error::QueryError,
    eval::read,
    value::{Value, stamp},
};
use crate::{
    row::Record,
    schema::{DELETED, FieldKind, ID, IndexSchema, TableSchema, UPDATED_AT, VERSION},
    store::{KeyBytes, TableSpec},
};

/// A text that changes whenever the name, a field or the encoding of a field of the index does.
#[must_use]
pub fn index_text(index: &IndexSchema, schema: &TableSchema) -> Arc<str> {
    let fields: Vec<String> = index
        .fields
        .iter()
        .map(|name| match kind_of(name, schema) {
            Some(FieldKind::Enum(names)) => format!("{name}:enum({})", names.join(" ")),
            Some(FieldKind::I64 | FieldKind::Decimal) => format!("{name}:number"),
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

pub(super) fn kind_of(name: &str, schema: &TableSchema) -> Option<FieldKind> {
    match name {
        ID | VERSION => Some(FieldKind::Text),
        UPDATED_AT => Some(FieldKind::Timestamp),
        DELETED => Some(FieldKind::Bool),
        name => schema.field(name).map(|field| field.kind.clone()),
    }
}

/// The keys of a row in all indexes of its table. A row that the service has marked as deleted is in none: only queries that
/// ask for such rows see it, and those do not use indexes.
///
/// # Errors
///
/// A body that is not a JSON object.
pub fn index_keys(schema: &TableSchema, id: &str, record: &Record) -> Result<Vec<(Arc<str>, KeyBytes)>, QueryError> {
    if schema.indexes.is_empty() || record.deleted {
        return Ok(Vec::new());
    }
    let mut needed: Vec<(String, FieldKind)> = Vec::new();
    for name in schema.indexes.iter().flat_map(|index| index.fields.iter()) {
        let is_role = [ID, VERSION, UPDATED_AT, DELETED].contains(&&**name);
        if let (Some(kind), false) = (kind_of(name, schema), is_role || needed.iter().any(|(known, _)| known == name)) {
            needed.push((name.to_string(), kind));
        }
    }
    let values = read(&needed, id, record.into())?;
    let value = |name: &str| match name {
        ID => Value::Text(id.into()),
        VERSION => record.version.as_deref().map_or(Value::Null, |version| Value::Text(version.into())),
        UPDATED_AT => record.updated_at.map_or(Value::Null, |time| Value::Stamp(stamp(time))),
        DELETED => Value::Bool(record.deleted),
        name => {
            let found = needed.iter().zip(&values).find(|((known, _), _)| known == name);
            found.map_or(Value::Null, |(_, value)| value.borrowed())
        }
    };
    let keys = schema.indexes.iter().map(|index| {
        let mut key = KeyBytes::new();
        for name in index.fields.iter() {
            encode(&value(name), &mut key);
        }
        (index_text(index, schema), key)
    });
    Ok(keys.collect())
}

/// The key of a value of a field. All values of a field have one encoding, and those that are equal one key.
pub(super) fn encode(value: &Value<'_>, key: &mut KeyBytes) {
    key.push(u8::from(!value.is_null()));
    match value {
        // Points and the like can only be told from null.
        Value::Null | Value::Other | Value::Point(..) => {}
        Value::Bool(value) => key.push(u8::from(*value)),
        Value::Int(_) | Value::Decimal(_) => value.to_decimal().unwrap_or(Decimal::ZERO).write_key(key),
        Value::Float(value) => key.extend(float_bytes(*value)),
        Value::Text(text) => {
            text_bytes(text, key);
            key.extend([0, 1]);
        }
        Value::Enum(position) => key.extend(u32::try_from(*position).unwrap_or(u32::MAX).to_be_bytes()),
        Value::Stamp(millis) | Value::Time(millis) => key.extend(whole_bytes(*millis)),
        Value::Date(date) => {
            let days = i64::from(date.year()) * 512 + i64::from(date.month()) * 32 + i64::from(date.day());
            key.extend(whole_bytes(days));
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

pub(super) fn text_bytes(text: &str, key: &mut KeyBytes) {
    for byte in text.bytes() {
        key.push(byte);
        if byte == 0 {
            key.push(0xff);
        }
    }
}
