//! Rows in and out: names, system properties and values as the reference reads and writes them.
//!
//! A number keeps its text from the request to the answer: as a value of JSON it would be a floating-point number, and a
//! decimal would lose digits.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use datasync_core::{
    query::{Dialect, is_decimal, milliseconds, timestamp},
    row::{Body, Record},
    schema::{DELETED, FieldKind, FieldSchema, ID, UPDATED_AT, VERSION},
};
use jiff::civil;
use serde_json::{Map, Value, value::RawValue};

use crate::{error::Refusal, options::TableOptions, repository::Row};

/// The members of a row as values, which hooks look at and may change, and their texts where the values do not tell all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    pub(crate) values: Map<String, Value>,
    texts: BTreeMap<String, (Value, Box<RawValue>)>,
}

impl Members {
    /// Sets a member.
    pub(crate) fn set(&mut self, name: &str, text: Box<RawValue>) -> Result<(), serde_json::Error> {
        let value: Value = serde_json::from_str(text.get())?;
        let written = value.to_string();
        if written == text.get() {
            self.texts.remove(name);
        } else {
            self.texts.insert(name.to_owned(), (value.clone(), text));
        }
        self.values.insert(name.to_owned(), value);
        Ok(())
    }

    /// Remembers the texts of other members, for values that are the same.
    pub(crate) fn with_texts_of(mut self, other: &Members) -> Members {
        for (name, text) in &other.texts {
            self.texts.insert(name.clone(), text.clone());
        }
        self
    }

    /// The same texts for these values.
    pub(crate) fn with_values(self, values: Map<String, Value>) -> Members {
        Members { values, ..self }
    }

    /// The text of a member: that which came, unless somebody has changed the value.
    fn text(&self, name: &str, value: &Value) -> String {
        match self.texts.get(name) {
            Some((known, text)) if known == value => text.get().to_owned(),
            _ => value.to_string(),
        }
    }

    /// The object as JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut object = Object::default();
        for (name, value) in &self.values {
            object.member(name, &self.text(name, value));
        }
        object.end().into_bytes()
    }

    /// The stored row with everything that is answered of it.
    pub(crate) fn of_row(options: &TableOptions, row: &Row) -> Members {
        let mut members = Members::default();
        each(options, Dialect::Toolkit, row, |name, text| {
            // What is stored is JSON.
            if let Ok(text) = RawValue::from_string(text.to_owned()) {
                let _ = members.set(name, text);
            }
        });
        members
    }

    /// The row as it is kept: the data fields and the id.
    pub(crate) fn keep(mut self, id: &str, deleted: bool) -> Record {
        for name in [VERSION, UPDATED_AT, DELETED] {
            self.values.remove(name);
        }
        self.values.insert(ID.to_owned(), id.into());
        Record { body: Body::from(self.to_json()), version: None, updated_at: None, deleted }
    }
}

/// A JSON object that is being written.
#[derive(Default)]
struct Object(String);

impl Object {
    fn member(&mut self, name: &str, text: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&json_text(name));
        self.0.push(':');
        self.0.push_str(text);
    }

    fn end(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

fn json_text(text: &str) -> String {
    Value::from(text).to_string()
}

/// A row that a client sent.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Its id; empty if it has none.
    pub(crate) id: String,
    /// Whether it is marked as deleted.
    pub(crate) deleted: bool,
    /// The data fields of the schema.
    pub(crate) members: Members,
}

/// The members of a JSON object; of one that is given twice the last. `None` for `null`.
pub(crate) fn members(body: &[u8]) -> Result<Option<BTreeMap<String, Box<RawValue>>>, String> {
    let whole: &RawValue = serde_json::from_slice(body).map_err(|error| format!("The body is not JSON: {error}."))?;
    match whole.get() {
        "null" => Ok(None),
        object if object.starts_with('{') => {
            serde_json::from_str(object).map(Some).map_err(|error| format!("The body is not JSON: {error}."))
        }
        _ => Err("The body is not a JSON object.".to_owned()),
    }
}

/// Reads a row: names without regard to case, unknown members dropped unless the table is schemaless, missing ones the
/// default of their kind, numbers also as texts.
///
/// The error is a sentence for the client. The reference answers a body that cannot be read with 500; here it is 400.
fn read(options: &TableOptions, body: &[u8]) -> Result<Option<Sent>, String> {
    let schema = &options.schema;
    let Some(object) = members(body)? else { return Ok(None) };
    let mut sent = Sent { id: String::new(), deleted: false, members: Members::default() };
    let not_json = |error: serde_json::Error| format!("The body is not JSON: {error}.");
    for (name, text) in object {
        let is = |role: &str| name.eq_ignore_ascii_case(role);
        if is(ID) {
            let id: Option<String> =
                serde_json::from_str(text.get()).map_err(|_| "The id is not a text.".to_owned())?;
            sent.id = id.unwrap_or_default();
        } else if is(DELETED) {
            sent.deleted = text.get() == "true";
        } else if !is(VERSION) && !is(UPDATED_AT) {
            match schema.fields.iter().find(|field| field.name.eq_ignore_ascii_case(&name)) {
                Some(field) => {
                    let fitted = fit(&field.kind, &text).ok_or_else(|| {
                        format!("The value of `{}` is not of the kind {}.", field.name, field.kind.name())
                    })?;
                    sent.members.set(&field.name, fitted).map_err(not_json)?;
                }
                None if options.schemaless => sent.members.set(&name, text).map_err(not_json)?,
                None => {}
            }
        }
    }
    for field in data_fields(options) {
        // A missing member is the default of its kind: a replacement says everything.
        if sent.members.values.get(field.name.as_ref()).is_none_or(Value::is_null) {
            sent.members.values.insert(field.name.to_string(), default(&field.kind, field.nullable));
        }
    }
    Ok(Some(sent))
}

/// Reads a row that the table takes: not null, and valid.
pub(crate) fn valid(options: &TableOptions, dialect: Dialect, body: &[u8]) -> Result<Sent, Refusal> {
    let sent = read(options, body).map_err(|reason| Refusal::because(StatusCode::BAD_REQUEST, reason))?;
    let sent = sent.ok_or_else(|| Refusal::empty(StatusCode::BAD_REQUEST))?;
    let messages = options.validate.as_ref().map_or_else(Vec::new, |validate| validate(&sent.members.values));
    match messages.is_empty() {
        true => Ok(sent),
        false => Err(Refusal::invalid(messages, dialect)),
    }
}

fn data_fields(options: &TableOptions) -> impl Iterator<Item = &FieldSchema> {
    options.schema.fields.iter().filter(|field| ![ID, VERSION, UPDATED_AT, DELETED].contains(&field.name.as_ref()))
}

fn default(kind: &FieldKind, nullable: bool) -> Value {
    match kind {
        FieldKind::Bool if !nullable => Value::Bool(false),
        FieldKind::I64 | FieldKind::F64 | FieldKind::Decimal if !nullable => 0.into(),
        FieldKind::Enum(names) if !nullable => names.first().map_or(Value::Null, |name| name.as_ref().into()),
        _ => Value::Null,
    }
}

/// The JSON of a value as it is kept; `None` if it does not fit the kind.
fn fit(kind: &FieldKind, text: &RawValue) -> Option<Box<RawValue>> {
    let json = text.get();
    let own = |text: String| RawValue::from_string(text).ok();
    if json == "null" {
        return own(json.to_owned());
    }
    let string = || serde_json::from_str::<String>(json).ok();
    match kind {
        FieldKind::Bool => matches!(json, "true" | "false").then(|| text.to_owned()),
        FieldKind::I64 | FieldKind::F64 | FieldKind::Decimal => {
            let number = if json.starts_with('"') { string()? } else { json.to_owned() };
            let fits = match kind {
                FieldKind::I64 => number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok(),
                FieldKind::F64 => number.parse::<f64>().is_ok_and(f64::is_finite),
                _ => is_decimal(&number),
            };
            // A text may spell a number as JSON does not.
            let spelled = serde_json::from_str::<serde_json::Number>(&number).is_ok();
            match (fits, spelled) {
                (true, true) => own(number),
                (true, false) => own(Value::from(number.parse::<f64>().ok()?).to_string()),
                (false, _) => None,
            }
        }
        FieldKind::Enum(names) => {
            let given = string()?;
            let name = names.iter().find(|name| name.eq_ignore_ascii_case(&given))?;
            own(json_text(name))
        }
        FieldKind::Text | FieldKind::Bytes => string().map(|_| text.to_owned()),
        FieldKind::Timestamp => own(json_text(&milliseconds(timestamp(&string()?)?))),
        FieldKind::Date => own(json_text(&string()?.parse::<civil::Date>().ok()?.to_string())),
        FieldKind::Time => own(json_text(&time_of_day(string()?.parse().ok()?, Dialect::Toolkit))),
        FieldKind::Uuid => own(json_text(&uuid::Uuid::try_parse(&string()?).ok()?.as_hyphenated().to_string())),
        FieldKind::Point => {
            let place: Value = serde_json::from_str(json).ok()?;
            let degrees = place.get("coordinates")?.as_array()?;
            let is_point = place.get("type")? == "Point" && degrees.len() >= 2 && degrees.iter().all(Value::is_number);
            is_point.then(|| text.to_owned())
        }
        FieldKind::Json => Some(text.to_owned()),
    }
}

/// A time of day as a dialect writes it: Azure's has a fraction only where it is not zero.
fn time_of_day(time: civil::Time, dialect: Dialect) -> String {
    let whole = format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second());
    match (dialect, time.millisecond()) {
        (Dialect::Azure, 0) => whole,
        (_, millis) => format!("{whole}.{millis:03}"),
    }
}

/// Each member of a row as it is answered, with its JSON: every field of the schema, nulls written, then the system
/// properties.
fn each(options: &TableOptions, dialect: Dialect, row: &Row, mut member: impl FnMut(&str, &str)) {
    let mut kept: BTreeMap<String, &RawValue> = serde_json::from_slice(row.record.body.as_bytes()).unwrap_or_default();
    for field in data_fields(options) {
        let text = kept.remove(field.name.as_ref()).map_or("null", RawValue::get);
        match time(&field.kind, text) {
            Some(time) => member(&field.name, &json_text(&time_of_day(time, dialect))),
            None => member(&field.name, text),
        }
    }
    if options.schemaless {
        for (name, text) in kept {
            if ![ID, VERSION, UPDATED_AT, DELETED].contains(&name.as_str()) {
                member(&name, text.get());
            }
        }
    }
    let or_null = |text: Option<String>| text.map_or_else(|| "null".to_owned(), |text| json_text(&text));
    member(ID, &json_text(&row.id));
    member(VERSION, &or_null(row.record.version.clone()));
    member(UPDATED_AT, &or_null(row.record.updated_at.map(milliseconds)));
    member(DELETED, if row.record.deleted { "true" } else { "false" });
}

fn time(kind: &FieldKind, text: &str) -> Option<civil::Time> {
    if *kind != FieldKind::Time {
        return None;
    }
    serde_json::from_str::<String>(text).ok()?.parse().ok()
}

/// A row as it is answered: every member, or those that are selected.
pub(crate) fn answer(options: &TableOptions, dialect: Dialect, row: &Row, select: &[String]) -> Box<RawValue> {
    let mut object = Object::default();
    each(options, dialect, row, |name, text| {
        if select.is_empty() || select.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)) {
            object.member(name, text);
        }
    });
    // Members whose values are JSON make an object that is.
    RawValue::from_string(object.end()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use datasync_core::schema::TableSchema;

    use super::*;

    const FIELDS: &[FieldSchema] = &[
        FieldSchema::new("id", FieldKind::Text, false),
        FieldSchema::new("price", FieldKind::Decimal, false),
        FieldSchema::new("big", FieldKind::I64, true),
        FieldSchema::new("half", FieldKind::F64, true),
        FieldSchema::new("at", FieldKind::Time, true),
        FieldSchema::new("place", FieldKind::Point, true),
        FieldSchema::new("more", FieldKind::Json, true),
        FieldSchema::new("kind", FieldKind::Enum(Cow::Borrowed(&[Cow::Borrowed("Good")])), true),
    ];

    fn options() -> TableOptions {
        TableOptions::new(TableSchema::new("things", FIELDS, &[]))
    }

    fn kept(body: &str) -> Option<String> {
        let sent = read(&options(), body.as_bytes()).ok()??;
        let record = sent.members.keep("1", false);
        let row = Row { id: "1".into(), record, sequence: 1 };
        Some(answer(&options(), Dialect::Toolkit, &row, &[]).get().to_owned())
    }

    #[test]
    fn what_is_sent_comes_back_to_the_digit() {
        for (sent, answered) in [
            (r#""price":12345678901234567890.123456789"#, r#""price":12345678901234567890.123456789"#),
            (r#""price":"0.10""#, r#""price":0.10"#),
            (r#""price":1e3"#, r#""price":1e3"#),
            (r#""big":18446744073709551615"#, r#""big":18446744073709551615"#),
            (r#""big":"-9223372036854775808""#, r#""big":-9223372036854775808"#),
            (r#""half":1.1000000000000001"#, r#""half":1.1000000000000001"#),
            (r#""half":"+.5""#, r#""half":0.5"#),
            (r#""at":"01:02:03""#, r#""at":"01:02:03.000""#),
            (r#""more":{"n":1.10}"#, r#""more":{"n":1.10}"#),
            (
                r#""place":{"type":"Point","coordinates":[1.50,2,3]}"#,
                r#""place":{"type":"Point","coordinates":[1.50,2,3]}"#,
            ),
            (r#""KIND":"good""#, r#""kind":"Good""#),
            (r#""price":null"#, r#""price":0"#),
        ] {
            let answer = kept(&format!("{{{sent}}}")).unwrap();
            assert!(answer.contains(answered), "{sent}: {answer}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = format!(r#"{{"price":{}}}"#, "1".repeat(39));
        for body in [
            long.as_str(),
            r#"{"price":"x"}"#,
            r#"{"big":1.5}"#,
            r#"{"big":18446744073709551616}"#,
            r#"{"half":"NaN"}"#,
            r#"{"half":1e999}"#,
            r#"{"at":"25:00:00"}"#,
            r#"{"place":{"type":"Line","coordinates":[1,2]}}"#,
            r#"{"kind":"Better"}"#,
            r#"{"id":7}"#,
            r#"[]"#,
            r#"{"price":1"#,
        ] {
            assert_eq!(kept(body), None, "{body}");
        }
    }

    #[test]
    fn a_value_that_a_hook_changes_takes_its_place() {
        let mut sent = read(&options(), br#"{"price":0.10,"big":1}"#).unwrap().unwrap();
        sent.members.values.insert("big".to_owned(), 2.into());
        let json = String::from_utf8(sent.members.to_json()).unwrap();
        assert!(json.contains(r#""price":0.10"#) && json.contains(r#""big":2"#), "{json}");
        sent.members.values.insert("price".to_owned(), Value::from(0.5));
        assert!(String::from_utf8(sent.members.to_json()).unwrap().contains(r#""price":0.5"#));
    }
}
