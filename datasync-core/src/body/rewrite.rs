//! A body that goes through a function of the app.

use serde_json::{Map, Value, value::RawValue};

use super::Object;
use crate::{row::Body, schema::ID};

/// The body with its fields as `change` makes them. A field whose value stays the same keeps its bytes, under another name
/// too: a `Value` holds no more than 64 bits of a number.
///
/// # Errors
///
/// What `change` says; else why the body, or what became of it, cannot be the body of this row.
pub(crate) fn rewrite(body: &Body, change: impl FnOnce(Value) -> Result<Value, String>) -> Result<Body, String> {
    let before = Object::parse(body).map_err(|_| "the row is not a JSON object".to_owned())?;
    let mut values = Map::new();
    for (name, text) in before.members() {
        let value = serde_json::from_str(text.get()).map_err(|_| format!("the field `{name}` cannot be read"))?;
        values.insert(name.to_owned(), value);
    }
    let Value::Object(after) = change(Value::Object(values.clone()))? else {
        return Err("a migration did not return a JSON object".to_owned());
    };
    if after.get(ID) != values.get(ID) {
        return Err(format!("a migration changed the `{ID}`"));
    }
    let text = |name: &str| before.raw(name).map(RawValue::to_owned);
    let mut made: Vec<(String, Box<RawValue>)> = Vec::with_capacity(after.len());
    for (name, value) in &after {
        let moved = || values.iter().find(|(known, was)| *was == value && !after.contains_key(*known));
        let kept =
            if values.get(name) == Some(value) { text(name) } else { moved().and_then(|(known, _)| text(known)) };
        let written = kept.map_or_else(|| serde_json::value::to_raw_value(value), Ok);
        made.push((name.clone(), written.map_err(|error| error.to_string())?));
    }
    let mut object = Object::default();
    made.iter().for_each(|(name, text)| object.set(name, Some(text)));
    Ok(object.to_body())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(body: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Result<String, String> {
        let made = rewrite(&Body::from(body.as_bytes()), |mut value| {
            change(value.as_object_mut().unwrap());
            Ok(value)
        });
        made.map(|body| String::from_utf8(body.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn i16_what_a_migration_does_not_change_keeps_its_bytes() {
        let body =
            r#"{"id":"1","exact":0.12345678901234567890,"big":123456789012345678901234567890,"n":1.10,"e":"\u0041"}"#;
        assert_eq!(
            rewritten(body, |fields| {
                let exact = fields.remove("exact").unwrap();
                fields.insert("precise".to_owned(), exact);
                fields.insert("n".to_owned(), 2.into());
            })
            .unwrap(),
            r#"{"big":123456789012345678901234567890,"e":"\u0041","id":"1","n":2,"precise":0.12345678901234567890}"#
        );
    }

    #[test]
    fn what_cannot_be_the_row_any_more_is_an_error() {
        assert!(rewritten("[1]", |_| {}).unwrap_err().contains("JSON object"));
        assert!(rewritten(r#"{"id":"1"}"#, |fields| _ = fields.remove("id")).unwrap_err().contains("`id`"));
        assert!(rewritten(r#"{"id":"1","n":1e999}"#, |_| {}).unwrap_err().contains("`n`"));
        let body = Body::from(&br#"{"id":"1"}"#[..]);
        assert!(rewrite(&body, |_| Ok(Value::Null)).unwrap_err().contains("JSON object"));
        assert_eq!(rewrite(&body, |_| Err("no".to_owned())).unwrap_err(), "no");
    }
}
