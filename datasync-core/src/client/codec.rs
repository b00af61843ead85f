//! Entities to stored JSON and back.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor, value::MapDeserializer},
};
use serde_json::value::RawValue;

use crate::{
    entity::SyncEntity,
    error::{Error, ErrorKind},
    query::milliseconds,
    row::{Body, Record},
    schema::{DELETED, SERVICE_OWNED, UPDATED_AT, VERSION},
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
    let entity = entity.map_err(|error| unreadable(&schema.name, id, &error))?;
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

/// The fields with these names of a record, as a struct that has no others.
pub(crate) fn decode_part<P: DeserializeOwned>(
    table: &str,
    names: &[&str],
    id: &str,
    record: &Record,
) -> Result<P, Error> {
    read(record, |name| names.contains(&name)).map_err(|error| unreadable(table, id, &error))
}

fn unreadable(table: &str, id: &str, error: &serde_json::Error) -> Error {
    // The words of the error may hold what the user wrote (I21); its place does not.
    let (line, column) = (error.line(), error.column());
    let message = format!(
        "the JSON of {table}/{id} does not fit its entity (line {line}, column {column}): were fields added or changed \
         without a default?"
    );
    Error::new(ErrorKind::InvalidEntity, message).at(table, id)
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
