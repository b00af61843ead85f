//! What `#[derive(SyncEntity)]` and `#[derive(SyncEnum)]` make of a type.

mod ids;
mod kinds;
mod merging;
mod names;
mod written_by_serde;

use datasync_core::{
    entity::SyncEntity,
    schema::{FieldKind, FieldSchema},
};
use datasync_derive::SyncEntity;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

fn field<E: SyncEntity>(name: &str) -> FieldSchema {
    E::SCHEMA.field(name).unwrap_or_else(|| panic!("no field {name}")).clone()
}

fn index_names<E: SyncEntity>() -> Vec<(String, Vec<String>)> {
    E::SCHEMA
        .indexes
        .iter()
        .map(|index| (index.name.to_string(), index.fields.iter().map(ToString::to_string).collect()))
        .collect()
}

mod roles {
    use super::*;

    #[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
    #[serde(rename_all = "camelCase")]
    #[sync(crate = "datasync_core")]
    struct ByName {
        id: String,
        version: Option<String>,
        updated_at: Option<Timestamp>,
        deleted: bool,
    }

    #[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core", table = "notes", fields = NoteColumns)]
    struct Note {
        #[sync(id)]
        #[serde(rename = "id")]
        key: String,
        #[sync(version)]
        #[serde(rename = "version")]
        etag: String,
        #[sync(updated_at)]
        #[serde(rename = "updatedAt", skip_serializing_if = "Option::is_none")]
        changed: Option<String>,
        #[sync(deleted)]
        #[serde(rename = "deleted", default)]
        gone: Option<bool>,
        #[sync(local)]
        #[serde(rename = "oldVersion", default)]
        version: String,
    }

    #[test]
    fn a_name_gives_the_role() {
        let mut row = ByName { id: "a".into(), version: None, updated_at: None, deleted: false };
        assert_eq!(row.id(), "a");
        row.set_id("b").unwrap();
        assert_eq!(row.id, "b");
        assert_eq!(ByName::SCHEMA.name, "byname");
        assert_eq!(field::<ByName>("updatedAt"), FieldSchema::new("updatedAt", FieldKind::Timestamp, true));
        assert_eq!(field::<ByName>("deleted"), FieldSchema::new("deleted", FieldKind::Bool, false));
    }

    #[test]
    fn an_attribute_gives_the_role_and_the_names_of_table_and_handles() {
        let mut row = Note { key: "a".into(), etag: String::new(), changed: None, gone: None, version: String::new() };
        row.set_id("b").unwrap();
        assert_eq!((&*row.id(), row.key.as_str()), ("b", "b"));
        assert_eq!(Note::SCHEMA.name, "notes");
        let fields: NoteColumns = <Note as SyncEntity>::FIELDS;
        assert_eq!(fields.etag.name(), "version");
        assert_eq!(Note::SCHEMA.local_fields().collect::<Vec<_>>(), ["oldVersion"]);
    }

    #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core")]
    struct OnlyAnId {
        id: String,
    }

    #[test]
    fn an_id_is_all_that_is_required() {
        assert_eq!(OnlyAnId::SCHEMA.fields.len(), 1);
        assert!(OnlyAnId::SCHEMA.indexes.is_empty());
    }
}

#[allow(clippy::duplicated_attributes, reason = "two indexes may share a field")]
mod indexes {
    use super::*;

    #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    #[serde(rename_all = "camelCase")]
    #[sync(crate = "datasync_core", index(list_id, position), index(r#type, list_id))]
    #[sync(index(position))]
    struct Item {
        #[sync(index)]
        id: String,
        list_id: Option<Uuid>,
        #[sync(index)]
        due_at: Timestamp,
        position: u32,
        r#type: String,
    }

    #[test]
    fn an_index_is_called_after_the_wire_names_of_its_fields() {
        let expected = [
            ("id", vec!["id"]),
            ("dueAt", vec!["dueAt"]),
            ("listId,position", vec!["listId", "position"]),
            ("type,listId", vec!["type", "listId"]),
            ("position", vec!["position"]),
        ];
        let expected: Vec<(String, Vec<String>)> = expected
            .into_iter()
            .map(|(name, fields)| (name.into(), fields.into_iter().map(Into::into).collect()))
            .collect();
        assert_eq!(index_names::<Item>(), expected);
    }
}

mod placement {
    use super::*;

    #[test]
    fn an_entity_can_stand_in_a_function() {
        #[derive(Clone, Serialize, Deserialize, SyncEntity)]
        #[sync(crate = "datasync_core")]
        struct Inner {
            id: String,
        }
        assert_eq!(Inner::FIELDS.id.name(), "id");
    }

    /// Names that the generated code might take for its own.
    #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core")]
    struct Check {
        id: String,
        name: [u8; LEN],
        fields: String,
        eq: bool,
        r#const: bool,
        schema: String,
        check: u8,
    }
    const LEN: usize = 3;

    #[test]
    fn a_field_may_have_any_name() {
        assert_eq!(Check::FIELDS.eq.eq(true).to_string(), "(eq eq true)");
        assert_eq!(Check::FIELDS.r#const.name(), "const");
    }

    mod outer {
        pub(crate) mod deep {
            use super::super::*;

            #[derive(Clone, Serialize, Deserialize, SyncEntity)]
            #[sync(crate = "::datasync_core")]
            pub(in super::super) struct Deep {
                pub(in super::super) id: String,
                pub(super) note: String,
                hidden: Private,
            }

            #[derive(Clone, Serialize, Deserialize)]
            struct Private;
        }

        pub(super) fn note() -> &'static str {
            deep::Deep::FIELDS.note.name()
        }
    }

    #[test]
    fn a_handle_is_as_visible_as_its_field() {
        assert_eq!(outer::deep::Deep::FIELDS.id.name(), "id");
        assert_eq!(outer::note(), "note");
    }
}
