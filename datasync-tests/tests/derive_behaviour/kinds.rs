//! The kind of a field, and the type of its handle.

use std::collections::BTreeMap;

use datasync_core::{
    entity::{FieldType, SyncEntity},
    query::{Field, Query},
    schema::{FieldKind, FieldSchema},
};
use datasync_derive::{SyncEntity, SyncEnum};
use jiff::{Timestamp, civil};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

type Maybe<T> = Option<T>;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, SyncEnum)]
#[serde(rename_all = "lowercase")]
#[sync(crate = "datasync_core")]
enum Priority {
    Low,
    Normal,
    High,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Cents(i64);

impl FieldType for Cents {
    type Kind = datasync_core::entity::kind::WholeNumbers;
    const KIND: FieldKind = FieldKind::I64;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Address {
    street: String,
}

mod shout {
    pub(super) fn serialize<S: serde::Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text.to_uppercase())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Kinds {
    id: String,
    done: bool,
    tiny: i8,
    unsigned: u32,
    long: i64,
    short_float: f32,
    float: f64,
    at: Timestamp,
    day: civil::Date,
    hour: civil::Time,
    uuid: Uuid,
    optional: Option<i64>,
    alias: Maybe<bool>,
    newtype: Cents,
    optional_newtype: Option<Cents>,
    priority: Priority,
    optional_priority: Option<Priority>,
    tags: Vec<String>,
    map: BTreeMap<String, i64>,
    address: Address,
    optional_address: Option<Address>,
    children: Vec<Self>,
    parent: Option<Box<Self>>,
    #[serde(serialize_with = "shout::serialize")]
    loud: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_out: Option<i64>,
    #[sync(local)]
    place: Option<u32>,
    #[sync(local)]
    #[serde(default)]
    drafts: Vec<String>,
}

#[test]
fn a_kind_comes_from_the_type() {
    let priority = || FieldKind::Enum(vec!["low".into(), "normal".into(), "high".into()].into());
    let expected = [
        ("id", FieldKind::Text, false),
        ("done", FieldKind::Bool, false),
        ("tiny", FieldKind::I64, false),
        ("unsigned", FieldKind::I64, false),
        ("long", FieldKind::I64, false),
        ("short_float", FieldKind::F64, false),
        ("float", FieldKind::F64, false),
        ("at", FieldKind::Timestamp, false),
        ("day", FieldKind::Date, false),
        ("hour", FieldKind::Time, false),
        ("uuid", FieldKind::Uuid, false),
        ("optional", FieldKind::I64, true),
        ("alias", FieldKind::Bool, true),
        ("newtype", FieldKind::I64, false),
        ("optional_newtype", FieldKind::I64, true),
        ("priority", priority(), false),
        ("optional_priority", priority(), true),
        ("tags", FieldKind::Json, true),
        ("map", FieldKind::Json, true),
        ("address", FieldKind::Json, true),
        ("optional_address", FieldKind::Json, true),
        ("children", FieldKind::Json, true),
        ("parent", FieldKind::Json, true),
        ("loud", FieldKind::Json, true),
        ("left_out", FieldKind::I64, true),
    ];
    let mut expected: Vec<_> = expected.map(|(name, kind, null)| FieldSchema::new(name, kind, null)).into();
    expected.push(FieldSchema::local("place", FieldKind::I64, true));
    expected.push(FieldSchema::local("drafts", FieldKind::Json, true));
    assert_eq!(Kinds::SCHEMA.fields.as_ref(), expected);
}

#[test]
fn a_handle_has_the_type_of_its_field() {
    let _: Field<Kinds, Maybe<bool>> = Kinds::FIELDS.alias;
    let _: Field<Kinds, Vec<Kinds>> = Kinds::FIELDS.children;
    let _: Field<Kinds, datasync_core::__private::Opaque> = Kinds::FIELDS.loud;
    let query = Query::<Kinds>::new().filter(|row| row.priority.ge(Priority::Normal)).order_by(|row| row.at.asc());
    assert_eq!(query.description().order.len(), 1);
    assert_eq!(Kinds::FIELDS.address.is_null().to_string(), "(address eq null)");
    assert_eq!(Kinds::FIELDS.loud.is_null().to_string(), "(loud eq null)");
}
