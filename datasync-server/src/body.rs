//! Rows in and out: names, system properties and values as the reference reads and writes them.

use axum::http::StatusCode;
use datasync_core::{
    query::milliseconds,
    row::{Body, Record},
    schema::{DELETED, FieldKind, ID, UPDATED_AT, VERSION},
};
use serde_json::{Map, Value};

use crate::{error::Refusal, options::TableOptions, repository::Row};

/// A row that a client sent.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Its id; empty if it has none.
    pub(crate) id: String,
    /// Whether it is marked as deleted.
    pub(crate) deleted: bool,
    /// The data fields of the schema, and the id.
    pub(crate) fields: Map<String, Value>,
}

/// Reads a row: names without regard to case, unknown members dropped unless the table is schemaless, missing ones the
/// default of their kind, numbers also as texts.
///
/// The error is a sentence for the client. The reference answers a body that cannot be read with 500; here it is 400.
fn read(options: &TableOptions, body: &[u8]) -> Result<Option<Sent>, String> {
    let schema = &options.schema;
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("The body is not JSON: {error}."))?;
    let object = match value {
        Value::Null => return Ok(None),
        Value::Object(object) => object,
        _ => return Err("The body is not a JSON object.".to_owned()),
    };
    let mut sent = Sent { id: String::new(), deleted: false, fields: Map::new() };
    for (name, value) in object {
        let is = |role: &str| name.eq_ignore_ascii_case(role);
        if is(ID) {
            sent.id = match value {
                Value::String(id) => id,
                Value::Null => String::new(),
                _ => return Err("The id is not a text.".to_owned()),
            };
        } else if is(DELETED) {
            sent.deleted = value == Value::Bool(true);
        } else if !is(VERSION) && !is(UPDATED_AT) {
            let field = schema.fields.iter().find(|field| field.name.eq_ignore_ascii_case(&name));
            match field {
                Some(field) if !field.local => {
                    let value = fit(&field.kind, value).ok_or_else(|| {
                        format!("The value of `{}` is not of the kind {}.", field.name, field.kind.name())
                    })?;
                    sent.fields.insert(field.name.to_string(), value);
                }
                None if options.schemaless => {
                    sent.fields.insert(name, value);
                }
                _ => {}
            }
        }
    }
    for field in schema.fields.iter().filter(|field| !field.local && is_data(&field.name)) {
        // A missing member is the default of its kind: a replacement says everything.
        let missing = sent.fields.get(field.name.as_ref()).is_none_or(Value::is_null);
        if missing {
            sent.fields.insert(field.name.to_string(), default(&field.kind, field.nullable));
        }
    }
    Ok(Some(sent))
}

/// Reads a row that the table takes: not null, and valid.
pub(crate) fn valid(options: &TableOptions, body: &[u8]) -> Result<Sent, Refusal> {
    let sent = read(options, body).map_err(|reason| Refusal::because(StatusCode::BAD_REQUEST, reason))?;
    let sent = sent.ok_or_else(|| Refusal::empty(StatusCode::BAD_REQUEST))?;
    let messages = options.validate.as_ref().map_or_else(Vec::new, |validate| validate(&sent.fields));
    match messages.is_empty() {
        true => Ok(sent),
        false => Err(Refusal::invalid(messages)),
    }
}

fn is_data(name: &str) -> bool {
    ![ID, VERSION, UPDATED_AT, DELETED].contains(&name)
}

fn default(kind: &FieldKind, nullable: bool) -> Value {
    match kind {
        FieldKind::Bool if !nullable => Value::Bool(false),
        FieldKind::I64 | FieldKind::F64 | FieldKind::Decimal if !nullable => 0.into(),
        FieldKind::Enum(names) if !nullable => names.first().map_or(Value::Null, |name| name.as_ref().into()),
        _ => Value::Null,
    }
}

/// The value as it is kept; `None` if it does not fit the kind.
fn fit(kind: &FieldKind, value: Value) -> Option<Value> {
    match (kind, value) {
        (_, Value::Null) => Some(Value::Null),
        (FieldKind::Bool, value @ Value::Bool(_)) => Some(value),
        (FieldKind::I64, value @ Value::Number(_)) if value.as_i64().is_some() => Some(value),
        (FieldKind::F64 | FieldKind::Decimal, value @ Value::Number(_)) => Some(value),
        (FieldKind::I64, Value::String(text)) => text.parse::<i64>().ok().map(Value::from),
        (FieldKind::F64 | FieldKind::Decimal, Value::String(text)) => {
            text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Value::from)
        }
        (FieldKind::Enum(names), Value::String(text)) => {
            names.iter().find(|name| name.eq_ignore_ascii_case(&text)).map(|name| name.as_ref().into())
        }
        (FieldKind::Text | FieldKind::Bytes, value @ Value::String(_)) => Some(value),
        (FieldKind::Timestamp, Value::String(text)) => {
            let time = text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}Z").parse()).ok()?;
            Some(milliseconds(time).into())
        }
        (FieldKind::Date, Value::String(text)) => text.parse::<jiff::civil::Date>().ok().map(|_| text.into()),
        (FieldKind::Time, Value::String(text)) => text.parse::<jiff::civil::Time>().ok().map(|_| text.into()),
        (FieldKind::Uuid, Value::String(text)) => {
            Some(uuid::Uuid::try_parse(&text).ok()?.as_hyphenated().to_string().into())
        }
        (FieldKind::Point, value @ Value::Object(_)) => Some(value),
        (FieldKind::Json, value) => Some(value),
        _ => None,
    }
}

/// The row as it is kept: the data fields and the id, as JSON.
pub(crate) fn keep(id: &str, mut fields: Map<String, Value>, deleted: bool) -> Record {
    for name in [VERSION, UPDATED_AT, DELETED] {
        fields.remove(name);
    }
    fields.insert(ID.to_owned(), id.into());
    // A map of JSON values is always JSON.
    let body = Body::from(serde_json::to_vec(&fields).unwrap_or_default());
    Record { body, version: None, updated_at: None, deleted }
}

/// The row as it is answered: every field of the schema, nulls written, and the system properties.
pub(crate) fn write(options: &TableOptions, row: &Row) -> Map<String, Value> {
    let mut kept: Map<String, Value> = serde_json::from_slice(row.record.body.as_bytes()).unwrap_or_default();
    let mut object = Map::new();
    for field in options.schema.fields.iter().filter(|field| !field.local && is_data(&field.name)) {
        let value = kept.remove(field.name.as_ref()).unwrap_or(Value::Null);
        object.insert(field.name.to_string(), value);
    }
    if options.schemaless {
        object.extend(kept);
    }
    object.insert(ID.to_owned(), row.id.as_ref().into());
    object.insert(VERSION.to_owned(), row.record.version.clone().into());
    object.insert(UPDATED_AT.to_owned(), row.record.updated_at.map(milliseconds).into());
    object.insert(DELETED.to_owned(), row.record.deleted.into());
    object
}
