//! Targets for a fuzzer: each takes any bytes, and fails only if what is tested is wrong.
//!
//! They are plain functions, which `query_text.rs` runs over the corpus and over changed copies of it. With `cargo fuzz` a
//! target is `fuzz_target!(|bytes: &[u8]| fuzz::filter(bytes))`, with this file by `#[path]`.

use std::borrow::Cow;

use datasync_core::{
    query::{Dialect, Evaluator, Expr, MAX_LENGTH, QueryDescription, QueryError, index_keys, plan},
    row::{Body, Record},
    schema::{FieldKind, FieldSchema, IndexSchema, Name, TableSchema},
};

const NAMES: &[Name] = &[Cow::Borrowed("A"), Cow::Borrowed("B")];
const FIELDS: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("title", FieldKind::Text, true),
    FieldSchema::new("a", FieldKind::Bool, true),
    FieldSchema::new("n", FieldKind::I64, true),
    FieldSchema::new("year", FieldKind::I64, true),
    FieldSchema::new("x", FieldKind::F64, true),
    FieldSchema::new("price", FieldKind::Decimal, true),
    FieldSchema::new("rating", FieldKind::Enum(Cow::Borrowed(NAMES)), true),
    FieldSchema::new("d", FieldKind::Date, true),
    FieldSchema::new("t", FieldKind::Time, true),
    FieldSchema::new("g", FieldKind::Uuid, true),
    FieldSchema::new("p", FieldKind::Point, true),
];
const INDEXES: &[IndexSchema] = &[
    IndexSchema::new("n", &[Cow::Borrowed("n")]),
    IndexSchema::new("title,x", &[Cow::Borrowed("title"), Cow::Borrowed("x")]),
    IndexSchema::new("price", &[Cow::Borrowed("price")]),
    IndexSchema::new("d,t", &[Cow::Borrowed("d"), Cow::Borrowed("t")]),
];
const SCHEMA: TableSchema = TableSchema::new("things", FIELDS, INDEXES);

const ROWS: [&str; 3] = [
    r#"{"id":"1"}"#,
    r#"{"id":"2","title":"milk","a":true,"n":7,"year":1994,"x":0.5,"price":19.99,"rating":"B","d":"1994-10-14",
        "t":"12:15:00","g":"29386779-34b1-464a-bb5b-4053c2ee61b3","p":{"type":"Point","coordinates":[1,2]}}"#,
    r#"{"id":"3","title":7,"a":"x","n":1e400,"year":[],"x":{},"price":"-0","rating":3,"d":"","t":"","g":"","p":0}"#,
];

fn record(body: &[u8]) -> Record {
    Record { body: Body::from(body), version: None, updated_at: None, deleted: false }
}

/// The place of an error lies in the text, at the beginning of a letter.
fn placed(error: &QueryError, text: &str) {
    let Some(at) = error.at() else { return };
    assert!(text.len() > MAX_LENGTH || text.is_char_boundary(at), "{at} is no place in {text:?}: {error}");
}

/// A filter: it is refused with a place, or what is printed of it is stable and means something or nothing.
pub(crate) fn filter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<Expr>() {
        Err(error) => placed(&error, text),
        Ok(expr) => {
            let printed = expr.to_string();
            let again = printed.parse::<Expr>();
            let again = again.unwrap_or_else(|error| panic!("{text:?} is printed as {printed:?}: {error}"));
            assert_eq!(again.to_string(), printed, "{text:?}");
            answered(&QueryDescription { filter: Some(expr), ..QueryDescription::default() });
        }
    }
}

/// A query string as it is sent, and as it is written.
pub(crate) fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = text.parse::<QueryDescription>() {
        placed(&error, text);
    }
    match QueryDescription::from_query_string(text) {
        Err(error) => placed(&error, text),
        Ok(query) => {
            let sent = query.to_query_string(Dialect::Toolkit);
            let again = QueryDescription::from_query_string(&sent);
            let again = again.unwrap_or_else(|error| panic!("{text:?} is sent as {sent:?}: {error}"));
            assert_eq!(again.to_query_string(Dialect::Toolkit), sent, "{text:?}");
            answered(&query);
        }
    }
}

/// A query that fits the table has a way to its rows, and finds the same with it as without.
fn answered(query: &QueryDescription) {
    let Ok(evaluator) = Evaluator::new(query, &SCHEMA) else { return };
    let access = plan(&evaluator, &SCHEMA, INDEXES, query.top.is_some());
    for (number, body) in ROWS.iter().enumerate() {
        let (id, record) = ((number + 1).to_string(), record(body.as_bytes()));
        let matches = evaluator.matches(&id, &record).expect("the row is a JSON object");
        let key = match &access.index {
            None => id.as_bytes().to_vec(),
            Some(index) => {
                let keys = index_keys(&SCHEMA, &id, &record).expect("the row is a JSON object");
                keys.into_iter().find(|(name, _)| name == index).expect("the index is the table's").1
            }
        };
        let reached = access.ranges.iter().any(|range| std::ops::RangeBounds::contains(range, &key));
        assert!(reached || !matches, "{query} does not lead to row {id}: {access:?}");
        assert!(!(reached && access.exact) || matches, "{query} leads to row {id}: {access:?}");
    }
}

/// The body of a row: whatever it is, it is judged or refused.
pub(crate) fn row(bytes: &[u8]) {
    let query: QueryDescription = "$filter=(n gt 1 or price lt 2.5 or title eq 'x') and x ne 0&$orderby=d,t,rating,g"
        .parse()
        .expect("the query is right");
    let evaluator = Evaluator::new(&query, &SCHEMA).expect("the query fits the table");
    let record = record(bytes);
    let judged = evaluator.evaluate("1", &record);
    let keys = index_keys(&SCHEMA, "1", &record);
    // What lies behind the fields that each of them reads is not looked at.
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(bytes) {
        let wrong = (!json.is_object(), !json.is_object());
        assert_eq!((judged.is_err(), keys.is_err()), wrong, "{:?}", String::from_utf8_lossy(bytes));
    }
    if let Err(error) = judged {
        let said = error.to_string();
        assert!(said.starts_with("the row `1` is not a JSON object (line "), "{said}");
    }
}
