//! Names of fields and members are those that serde writes.

use std::collections::BTreeSet;

use datasync_core::{
    entity::{FieldType, FieldValue, SyncEntity},
    query::Literal,
    schema::FieldKind,
};
use datasync_derive::{SyncEntity, SyncEnum};
use serde::{Deserialize, Serialize};

macro_rules! rules {
    ($($name:ident: $rule:literal, $id:literal;)*) => {$(
        mod $name {
            use super::*;

            #[derive(Clone, Debug, Serialize, Deserialize, SyncEntity, Default)]
            #[serde(rename_all = $rule)]
            #[sync(crate = "datasync_core")]
            struct Row {
                #[serde(rename = "id")]
                id: String,
                title: String,
                list_id: String,
                r#type: String,
                _hidden_away_: String,
                with2_digits: String,
                mut_über: String,
                #[serde(rename = "Explicit-Name")]
                renamed: String,
                #[sync(local)]
                #[serde(default)]
                on_device_only: String,
            }

            #[test]
            fn the_schema_has_the_names_that_serde_writes() {
                let json = serde_json::to_value(Row::default()).unwrap();
                let written: BTreeSet<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
                let schema = Row::SCHEMA;
                let known: BTreeSet<&str> = schema.fields.iter().map(|field| field.name.as_ref()).collect();
                assert_eq!(written, known);
                assert_eq!(known.len(), 9);
                assert!(written.contains(Row::FIELDS.list_id.name()));
                assert!(written.contains(Row::FIELDS.r#type.name()));
                assert_eq!(Row::FIELDS.list_id.name(), $id);
            }

            #[derive(Clone, Copy, Debug, Serialize, Deserialize, SyncEnum)]
            #[serde(rename_all = $rule)]
            #[sync(crate = "datasync_core")]
            enum Member {
                Low,
                VeryHigh,
                HTTPServer,
                ZuÜber,
                With2Digits,
                #[serde(rename = "Explicit-Name")]
                Renamed,
            }

            #[test]
            fn the_members_have_the_names_that_serde_writes() {
                use Member::*;
                let members = [Low, VeryHigh, HTTPServer, ZuÜber, With2Digits, Renamed];
                let written = members.map(|member| serde_json::to_value(member).unwrap());
                let FieldKind::Enum(names) = Member::KIND else { panic!("not an enum") };
                let known: Vec<_> = names.iter().map(|name| serde_json::Value::from(name.as_ref())).collect();
                assert_eq!(written.as_slice(), known);
                for (member, name) in members.into_iter().zip(names.iter()) {
                    assert_eq!(member.into_literal(), Literal::Text(name.to_string()));
                }
            }
        }
    )*};
}

rules! {
    lower: "lowercase", "list_id";
    upper: "UPPERCASE", "LIST_ID";
    pascal: "PascalCase", "ListId";
    camel: "camelCase", "listId";
    snake: "snake_case", "list_id";
    screaming_snake: "SCREAMING_SNAKE_CASE", "LIST_ID";
    kebab: "kebab-case", "list-id";
    screaming_kebab: "SCREAMING-KEBAB-CASE", "LIST-ID";
}

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
#[serde(rename_all(serialize = "camelCase", deserialize = "camelCase"))]
struct BothDirections {
    id: String,
    #[serde(rename(serialize = "same", deserialize = "same"))]
    renamed: String,
    list_id: String,
}

#[test]
fn a_name_written_out_for_both_directions_is_one_name() {
    let fields = BothDirections::FIELDS;
    assert_eq!((fields.id.name(), fields.renamed.name(), fields.list_id.name()), ("id", "same", "listId"));
}
