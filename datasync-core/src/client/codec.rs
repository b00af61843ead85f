//! Entities to stored JSON and back.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor, value::MapDeserializer},
};
use serde_json::{Value, value::RawValue};

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
    let entity: Result<E, serde_json::Error> = if plain {
        serde_json::from_slice(record.body.as_bytes())
    } else {
        read(record, |name| schema.field(name).is_some() || !SERVICE_OWNED.contains(&name))
    };
    let entity = entity.map_err(|error| {
        let filled = with_roles(record, |name| !plain && schema.field(name).is_some());
        let json = filled.and_then(|value| serde_json::to_vec(&value)).unwrap_or_default();
        let json = if plain { record.body.as_bytes() } else { &json };
        // What was read field by field has no places, but the JSON of it has.
        misfit(&schema, id, json, &serde_json::from_slice::<E>(json).err().unwrap_or(error))
    })?;
    if entity.id() != id {
        let message = format!(
            "the row `{id}` of `{}` is called `{}` by the type of the entity's id: take a `String` for its ids",
            schema.name,
            entity.id()
        );
        return Err(Error::new(ErrorKind::InvalidEntity, message).at(&schema.name, id));
    }
    Ok(entity)
}

/// The record as JSON: every field of its body, and what the service says of the row where a schema asks for it.
pub(crate) fn value(schema: Option<&TableSchema>, id: &str, record: &Record) -> Result<Value, Error> {
    let declared = |name: &str| schema.is_some_and(|schema| schema.field(name).is_some());
    let value = read(record, |name| declared(name) || !SERVICE_OWNED.contains(&name));
    value.map_err(|error| match schema {
        Some(schema) => misfit(schema, id, record.body.as_bytes(), &error),
        None => Error::new(ErrorKind::InvalidEntity, format!("the body of `{id}` is not a JSON object")),
    })
}

/// The fields with these names of a record, as a struct that has no others.
pub(crate) fn decode_part<P: DeserializeOwned>(
    table: &str,
    names: &[String],
    id: &str,
    record: &Record,
) -> Result<P, Error> {
    read(record, |name| names.iter().any(|wanted| wanted == name)).map_err(|error: serde_json::Error| {
        // The words of the error may hold what the user wrote (I21); its place does not.
        let (line, column) = (error.line(), error.column());
        let message =
            format!("the JSON of {table}/{id} does not fit the part that was asked for (line {line}, column {column})");
        Error::new(ErrorKind::InvalidEntity, message).at(table, id)
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
    Error::new(ErrorKind::InvalidEntity, message).at(&schema.name, id)
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

/// Reads the fields that are wanted, and only them: those of the body, and in their place what the service says of the row.
fn read<T: DeserializeOwned>(record: &Record, wanted: impl Fn(&str) -> bool) -> Result<T, serde_json::Error> {
    let mut roles = Vec::new();
    if let Some(version) = &record.version {
        roles.push((VERSION, serde_json::value::to_raw_value(version)?));
    }
    if let Some(time) = record.updated_at {
        roles.push((UPDATED_AT, serde_json::value::to_raw_value(&milliseconds(time))?));
    }
    roles.push((DELETED, serde_json::value::to_raw_value(&record.deleted)?));
    roles.retain(|(name, _)| wanted(name));
    let of_body = |name: &str| wanted(name) && roles.iter().all(|(role, _)| *role != name);
    let mut deserializer = serde_json::Deserializer::from_slice(record.body.as_bytes());
    let mut fields = Wanted(of_body).deserialize(&mut deserializer)?;
    fields.extend(roles.iter().map(|(name, value)| (Cow::Borrowed(*name), &**value)));
    T::deserialize(MapDeserializer::new(fields.into_iter()))
}

/// Reads an object, of which only the fields with these names are kept.
struct Wanted<F>(F);

type Fields<'de> = Vec<(Cow<'de, str>, &'de RawValue)>;

impl<'de, F: Fn(&str) -> bool> DeserializeSeed<'de> for Wanted<F> {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Wanted<F> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::new();
        while let Some(Name(name)) = map.next_key()? {
            if (self.0)(&name) {
                fields.push((name, map.next_value()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}

/// A name that is not copied where that can be avoided.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
