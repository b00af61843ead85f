//! The JSON of an entity, field by field. Values that are not looked into keep their bytes.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
    ser::{SerializeMap, Serializer},
};
use serde_json::{Value, value::RawValue};

use crate::{
    row::Body,
    schema::{DELETED, FieldKind, ID, SERVICE_OWNED, TableSchema},
};

/// A JSON object whose values are kept as the text that came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    pub(crate) fn parse(body: &'a Body) -> Result<Object<'a>, serde_json::Error> {
        serde_json::from_slice(body.as_bytes())
    }

    /// The value of a field; `None` if it is missing or null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value).filter(|value| value.get() != "null")
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.names().any(|key| key == name)
    }

    fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    fn set(&mut self, name: &str, value: Option<&'a RawValue>) {
        match (self.0.iter_mut().find(|(key, _)| key == name), value) {
            (Some(slot), Some(value)) => slot.1 = value,
            (None, Some(value)) => self.0.push((name.to_owned(), value)),
            (Some(_), None) => self.0.retain(|(key, _)| key != name),
            (None, None) => {}
        }
    }

    fn to_body(&self) -> Body {
        let mut bytes = Vec::new();
        // Texts that were parsed from JSON are JSON again.
        if serde_json::to_writer(&mut bytes, self).is_err() {
            bytes.clear();
        }
        Body::from(bytes)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut object = Object::default();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if object.has(&name) {
                        object.set(&name, Some(value));
                    } else {
                        object.0.push((name, value));
                    }
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A field that holds text, as an id is written in JSON; `None` if it is missing, null or of another kind.
pub(crate) fn text(body: &Body, name: &str) -> Option<String> {
    let value = Object::parse(body).ok()?.get(name)?;
    serde_json::from_str(value.get()).ok()
}

fn is_local(schema: &TableSchema, name: &str) -> bool {
    schema.field(name).is_some_and(|field| field.local)
}

fn is_service_owned(name: &str) -> bool {
    SERVICE_OWNED.contains(&name)
}

/// Whether a field belongs to what is sent and compared.
fn is_sent(schema: &TableSchema, name: &str) -> bool {
    name != ID && !is_service_owned(name) && !is_local(schema, name)
}

/// The body of a local write: the fields that the app wrote, and of the stored body those that this build does not
/// know (I16).
pub(crate) fn compose(schema: &TableSchema, written: &Body, stored: Option<&Body>) -> Result<Body, serde_json::Error> {
    let Some(stored) = stored else { return Ok(written.clone()) };
    let stored = Object::parse(stored)?;
    let mut object = Object::parse(written)?;
    let mut changed = false;
    for (name, value) in &stored.0 {
        if schema.field(name).is_none() && !is_service_owned(name) && !object.has(name) {
            object.set(name, Some(value));
            changed = true;
        }
    }
    Ok(if changed { object.to_body() } else { written.clone() })
}

/// The service's body with the local fields of the stored one (I16).
pub(crate) fn carry_local(schema: &TableSchema, service: &Body, stored: Option<&Body>) -> Body {
    let Some(stored) = stored else { return service.clone() };
    if schema.local_fields().next().is_none() {
        return service.clone();
    }
    let (Ok(stored), Ok(mut object)) = (Object::parse(stored), Object::parse(service)) else {
        return service.clone();
    };
    for name in schema.local_fields() {
        object.set(name, stored.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value));
    }
    object.to_body()
}

/// What is sent of a record: neither local fields nor those that the service owns.
pub(crate) fn sendable(schema: &TableSchema, body: &Body, undelete: bool) -> Result<Body, serde_json::Error> {
    let mut object = Object::parse(body)?;
    object.retain(|name| name == ID || is_sent(schema, name));
    let no: Box<RawValue>;
    if undelete {
        no = RawValue::from_string("false".to_owned())?;
        object.set(DELETED, Some(&no));
        return Ok(object.to_body());
    }
    Ok(object.to_body())
}

/// Whether two bodies agree in every field that is sent; a missing field is a null one.
///
/// Bodies that are not JSON objects agree with nothing.
pub(crate) fn sent_equal(schema: &TableSchema, one: &Body, other: &Body) -> bool {
    let (Ok(one), Ok(other)) = (Object::parse(one), Object::parse(other)) else { return false };
    one.names()
        .chain(other.names())
        .filter(|name| is_sent(schema, name))
        .all(|name| value_equal(schema, name, one.get(name), other.get(name)))
}

fn value_equal(schema: &TableSchema, name: &str, one: Option<&RawValue>, other: Option<&RawValue>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return one.is_none() && other.is_none() };
    if one.get() == other.get() {
        return true;
    }
    let (Ok(one), Ok(other)) = (serde_json::from_str(one.get()), serde_json::from_str(other.get())) else {
        return false;
    };
    if let (Some(FieldKind::Timestamp), Value::String(one), Value::String(other)) =
        (schema.field(name).map(|field| &field.kind), &one, &other)
        && let (Ok(one), Ok(other)) = (one.parse::<jiff::Timestamp>(), other.parse::<jiff::Timestamp>())
    {
        return one.as_nanosecond().div_euclid(1_000_000) == other.as_nanosecond().div_euclid(1_000_000);
    }
    json_equal(&one, &other)
}

/// Equality of JSON values, with numbers compared by value.
fn json_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || (!(a.is_i64() && b.is_i64()) && a.as_f64() == b.as_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| json_equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| json_equal(a, b)))
        }
        _ => one == other,
    }
}

/// The merge after a success with a second operation queued: a field that the second operation did not change takes
/// the service's value, one that it changed stays. Also says whether anything still differs from the service.
pub(crate) fn merge_after_success(
    schema: &TableSchema,
    sent: &Body,
    local: &Body,
    service: &Body,
) -> Result<(Body, bool), serde_json::Error> {
    let (sent, local, service) = (Object::parse(sent)?, Object::parse(local)?, Object::parse(service)?);
    let mut merged = service.clone();
    let mut differs = false;
    for name in local.names().chain(sent.names().filter(|name| !local.has(name))) {
        let ours = local.get(name);
        if is_local(schema, name) {
            merged.set(name, ours);
        } else if is_sent(schema, name) && !value_equal(schema, name, ours, sent.get(name)) {
            differs |= !value_equal(schema, name, ours, service.get(name));
            merged.set(name, local.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value));
        }
    }
    Ok((merged.to_body(), differs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::FieldSchema;

    const FIELDS: &[FieldSchema] = &[
        FieldSchema::new("id", FieldKind::Text, false),
        FieldSchema::new("title", FieldKind::Text, false),
        FieldSchema::new("seen", FieldKind::Timestamp, true),
        FieldSchema::local("scroll", FieldKind::I64, true),
    ];
    const SCHEMA: TableSchema = TableSchema::new("t", FIELDS, &[]);

    fn body(text: &str) -> Body {
        Body::from(text.as_bytes())
    }

    fn text(body: &Body) -> &str {
        std::str::from_utf8(body.as_bytes()).unwrap()
    }

    #[test]
    fn i16_unknown_fields_survive_a_local_write() {
        let written = compose(
            &SCHEMA,
            &body(r#"{"id":"1","title":"b"}"#),
            Some(&body(r#"{"id":"1","title":"a","extra":1.10,"scroll":3,"version":"x"}"#)),
        );
        assert_eq!(text(&written.unwrap()), r#"{"id":"1","title":"b","extra":1.10}"#);
    }

    #[test]
    fn i16_local_fields_survive_a_copy_of_the_service_and_are_never_sent() {
        let stored = body(r#"{"id":"1","title":"a","scroll":3}"#);
        let carried = carry_local(&SCHEMA, &body(r#"{"id":"1","title":"s","extra":[]}"#), Some(&stored));
        assert_eq!(text(&carried), r#"{"id":"1","title":"s","extra":[],"scroll":3}"#);
        let with_roles = body(r#"{"id":"1","title":"a","scroll":3,"version":"v","updatedAt":null,"deleted":true}"#);
        assert_eq!(text(&sendable(&SCHEMA, &with_roles, false).unwrap()), r#"{"id":"1","title":"a"}"#);
        assert_eq!(text(&sendable(&SCHEMA, &with_roles, true).unwrap()), r#"{"id":"1","title":"a","deleted":false}"#);
    }

    #[test]
    fn sent_fields_are_compared_by_meaning() {
        let one =
            body(r#"{"id":"1","title":"\u0061","seen":"2024-01-01T00:00:00.1239Z","n":1,"none":null,"scroll":1}"#);
        let other =
            body(r#"{"title":"a","seen":"2024-01-01T01:00:00.123+01:00","n":1.0,"version":"x","deleted":false}"#);
        assert!(sent_equal(&SCHEMA, &one, &other));
        assert!(!sent_equal(&SCHEMA, &one, &body(r#"{"title":"b","seen":"2024-01-01T00:00:00.123Z","n":1}"#)));
        assert!(!sent_equal(&SCHEMA, &body("[]"), &body("[]")));
    }

    #[test]
    fn after_a_success_the_second_change_keeps_only_its_own_fields() {
        let sent = body(r#"{"id":"1","title":"a","seen":null,"rest":1}"#);
        let local = body(r#"{"id":"1","title":"b","seen":null,"rest":1,"scroll":7}"#);
        let service = body(r#"{"id":"1","title":"A","seen":"2024-01-01T00:00:00Z","rest":2,"version":"2"}"#);
        let (merged, differs) = merge_after_success(&SCHEMA, &sent, &local, &service).unwrap();
        assert!(differs);
        let expected = r#"{"id":"1","title":"b","seen":"2024-01-01T00:00:00Z","rest":2,"version":"2","scroll":7}"#;
        assert_eq!(text(&merged), expected);
        let (_, differs) = merge_after_success(&SCHEMA, &sent, &sent, &service).unwrap();
        assert!(!differs);
    }
}
