//! What the derive tells the engine of parents, rules of merging and the time of an edit.

use std::collections::BTreeSet;

use datasync_core::{
    entity::SyncEntity,
    schema::{MergeFunction, MergeRule},
};
use datasync_derive::SyncEntity;
use jiff::{Timestamp, civil};
use serde::{Deserialize, Serialize};

use crate::field;

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "shelves")]
struct Shelf {
    id: String,
    #[sync(parent = Self)]
    above: Option<String>,
    #[sync(parent = Book)]
    favourite: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[serde(rename_all = "camelCase")]
#[sync(crate = "datasync_core")]
struct Book {
    id: String,
    #[sync(index, parent = Shelf)]
    shelf_id: String,
    #[sync(merge = client)]
    note: String,
    #[sync(merge = server)]
    address: Vec<u8>,
    #[sync(merge = max)]
    read_until: Option<u32>,
    #[sync(merge = min)]
    due: civil::Date,
    #[sync(merge = sum)]
    copies: i64,
    #[sync(merge = union)]
    tags: Option<BTreeSet<String>>,
    #[sync(merge_with = longer)]
    title: String,
    #[sync(merge_with = Self::both)]
    places: Vec<u32>,
    #[sync(edited_at)]
    changed_at: Option<Timestamp>,
}

impl Book {
    fn both(base: Option<Vec<u32>>, local: Vec<u32>, service: Vec<u32>) -> Vec<u32> {
        base.unwrap_or_default().into_iter().chain(local).chain(service).collect()
    }
}

fn longer(_: Option<String>, local: String, service: String) -> String {
    if local.len() > service.len() { local } else { service }
}

#[test]
fn a_parent_is_the_name_of_its_table_also_where_tables_are_parents_of_one_another() {
    assert_eq!(field::<Book>("shelfId").parent.as_deref(), Some("shelves"));
    assert_eq!(field::<Shelf>("above").parent.as_deref(), Some("shelves"));
    assert_eq!(field::<Shelf>("favourite").parent.as_deref(), Some("book"));
    assert_eq!(field::<Book>("note").parent, None);
}

#[test]
fn each_rule_stands_in_the_schema() {
    for (name, rule) in [
        ("note", MergeRule::Client),
        ("address", MergeRule::Server),
        ("readUntil", MergeRule::Max),
        ("due", MergeRule::Min),
        ("copies", MergeRule::Sum),
        ("tags", MergeRule::Union),
    ] {
        assert_eq!(field::<Book>(name).merge, Some(rule), "{name}");
    }
    assert_eq!(field::<Book>("shelfId").merge, None);
    assert!(field::<Book>("changedAt").edited_at && !field::<Book>("note").edited_at);
}

#[test]
fn a_function_is_called_with_the_values_of_the_json() {
    let function = |name: &str| match field::<Book>(name).merge {
        Some(MergeRule::With(function)) => function,
        other => panic!("{other:?}"),
    };
    let merged = function("title").call(None, r#""a""#, r#""b\u00e9""#).unwrap();
    assert_eq!(merged, r#""bé""#);
    let merged = function("places").call(Some("[1]"), "[2]", "[3]").unwrap();
    assert_eq!(merged, "[1,2,3]");
    assert!(function("places").call(None, "[2]", r#""x""#).is_err());
    assert_eq!(format!("{:?}", function("title")), "MergeFunction");
    let upper: fn(Option<&str>, &str, &str) -> _ = |_, local, _| Ok(local.to_uppercase());
    assert_eq!(MergeFunction::new(upper).call(None, "a", "b").unwrap(), "A");
}

#[test]
fn the_fingerprint_says_nothing_of_parents_and_rules() {
    let mut plain = Book::SCHEMA;
    let of = Book::SCHEMA.fingerprint();
    for field in plain.fields.to_mut() {
        (field.parent, field.merge, field.edited_at) = (None, None, false);
    }
    assert_ne!(plain, Book::SCHEMA);
    assert_eq!(plain.fingerprint(), of);
    plain.fields.to_mut()[1].nullable = true;
    assert_ne!(plain.fingerprint(), of);
}
