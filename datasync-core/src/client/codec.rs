//! Entities to stored JSON and back.

use serde_json::Value;

use crate::{
    body,
    entity::SyncEntity,
    error::{Error, ErrorKind},
    query::milliseconds,
    row::{Body, Record},
    schema::{DELETED, SERVICE_OWNED, TableSchema, UPDATED_AT, VERSION},
};

pub(crate) fn encode<E: SyncEntity>(entity: &E) -> Result<Body, Error> {
    match serde_json::to_vec(entity) {
        Ok(bytes) if bytes.first() == Some(&b'{') => Ok(Body::from(bytes)),
        Ok(_) => {
            let message = format!("`{}` is not written as a JSON object", E::SCHEMA.name);
            Err(Error::new(ErrorKind::InvalidEntity, message))
        }
        Err(_) => {
            let message = format!("an entity of `{}` cannot be written as JSON", E::SCHEMA.name);
            Err(Error::new(ErrorKind::InvalidEntity, message))
        }
    }
}

/// The entity of a record; fields that hold what the service says of a row are filled in.
pub(crate) fn decode<E: SyncEntity>(id: &str, record: &Record) -> Result<E, Error> {
    let schema = E::SCHEMA;
    let plain = SERVICE_OWNED.iter().all(|name| schema.field(name).is_none());
    let entity = if plain {
        serde_json::from_slice(record.body.as_bytes())
    } else {
        with_roles(record, |name| schema.field(name).is_some()).and_then(serde_json::from_value)
    };
    entity.map_err(|error| {
        let filled = with_roles(record, |name| !plain && schema.field(name).is_some());
        let json = filled.and_then(|value| serde_json::to_vec(&value)).unwrap_or_default();
        let json = if plain { record.body.as_bytes() } else { &json };
        // A value has no places, but its JSON has.
        misfit(&schema, id, json, &serde_json::from_slice::<E>(json).err().unwrap_or(error))
    })
}

/// The error of stored JSON that is no entity. The words of `error` may hold what the user wrote (I21); its place, and the
/// names of fields, do not.
fn misfit(schema: &TableSchema, id: &str, json: &[u8], error: &serde_json::Error) -> Error {
    let (line, column) = (error.line(), error.column());
    let words = error.to_string();
    let missing = words.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let known = |name: &str| schema.field(name).is_some();
    let what = match (body::field_at(json, line, column), missing) {
        (Some(name), _) if known(&name) => format!("at the field `{name}`, line {line}, column {column}"),
        (None, Some(name)) if known(name) => format!("it has no field `{name}`"),
        _ => format!("line {line}, column {column}"),
    };
    let message = format!(
        "the JSON of {}/{id} does not fit its entity ({what}): make the field optional or give it a default, or register a \
         migration",
        schema.name
    );
    Error::new(ErrorKind::InvalidEntity, message)
}

fn with_roles(record: &Record, declared: impl Fn(&str) -> bool) -> Result<Value, serde_json::Error> {
    let mut object: serde_json::Map<String, Value> = serde_json::from_slice(record.body.as_bytes())?;
    if let (Some(version), true) = (&record.version, declared(VERSION)) {
        object.insert(VERSION.to_owned(), version.clone().into());
    }
    if let (Some(time), true) = (record.updated_at, declared(UPDATED_AT)) {
        object.insert(UPDATED_AT.to_owned(), milliseconds(time).into());
    }
    if declared(DELETED) {
        object.insert(DELETED.to_owned(), record.deleted.into());
    }
    Ok(Value::Object(object))
}
