//! What `#[derive(SyncEntity)]` and `#[derive(SyncEnum)]` make of a type.

use std::collections::{BTreeMap, BTreeSet};

use datasync_core::{
    entity::{FieldType, FieldValue, SyncEntity},
    query::{Field, Literal, Query},
    schema::{FieldKind, FieldSchema},
};
use datasync_derive::{SyncEntity, SyncEnum};
use jiff::{Timestamp, civil};
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

mod names {
    use super::*;

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

mod kinds {
    use super::*;

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

/// What the derive tells the engine of parents, rules of merging and the time of an edit.
mod merging {
    use datasync_core::schema::{MergeFunction, MergeRule};

    use super::*;

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
}

mod ids {
    use datasync_core::{
        entity::{EntityId, RowId},
        query::Id,
    };
    use datasync_derive::SyncId;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncId)]
    #[sync(crate = "datasync_core")]
    struct ShelfId(Uuid);

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncId)]
    #[serde(transparent)]
    #[sync(crate = "datasync_core")]
    struct BookId {
        text: String,
    }

    #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core")]
    struct Shelf {
        id: ShelfId,
    }

    #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core")]
    struct Book {
        #[sync(index)]
        id: BookId,
        #[sync(index, parent = Shelf)]
        shelf: Option<ShelfId>,
        #[sync(parent = Self)]
        sequel_of: Option<BookId>,
    }

    #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core")]
    struct Plain {
        id: Uuid,
    }

    const UUID: Uuid = Uuid::from_u128(0x0192_3c5a_0000_7000_8000_0000_0000_00ff);
    const TEXT: &str = "01923c5a-0000-7000-8000-0000000000ff";

    #[test]
    fn an_id_is_its_text_and_an_empty_or_nil_one_is_not_given_yet() {
        let mut plain = Plain { id: Uuid::nil() };
        assert_eq!(plain.id(), "");
        plain.set_id(TEXT).unwrap();
        assert_eq!((plain.id, &*plain.id()), (UUID, TEXT));
        let mut shelf = Shelf { id: ShelfId(Uuid::nil()) };
        assert_eq!(shelf.id(), "");
        shelf.set_id(TEXT).unwrap();
        assert_eq!((&shelf.id, &*shelf.id()), (&ShelfId(UUID), TEXT));
        let mut book = Book { id: BookId { text: String::new() }, shelf: None, sequel_of: None };
        assert_eq!(book.id(), "");
        book.set_id("x").unwrap();
        assert_eq!(book.id(), "x");
    }

    #[test]
    fn an_id_that_the_type_would_spell_otherwise_is_refused() {
        let mut plain = Plain { id: UUID };
        for id in ["x", "", "01923C5A-0000-7000-8000-0000000000FF", "01923c5a00007000800000000000000000ff"] {
            let error = plain.set_id(id).unwrap_err();
            assert!(error.to_string().contains("lower case with dashes"), "{error}");
        }
        assert_eq!(plain.id, UUID, "it is as it was");
    }

    #[test]
    fn ids_are_texts_on_the_wire_and_foreign_keys_have_the_kind_of_what_they_wrap() {
        assert_eq!(field::<Plain>("id"), FieldSchema::new("id", FieldKind::Text, false));
        assert_eq!(field::<Book>("id").kind, FieldKind::Text);
        assert_eq!(field::<Book>("shelf").kind, FieldKind::Uuid);
        assert_eq!(field::<Book>("sequel_of").kind, FieldKind::Text);
        assert_eq!(field::<Book>("sequel_of").parent.as_deref(), Some("book"));
        let _: Field<Book, Id<BookId>> = Book::FIELDS.id;
        assert_eq!(serde_json::to_string(&BookId { text: "x".into() }).unwrap(), r#""x""#);
    }

    #[test]
    fn a_filter_takes_ids_in_every_form() {
        assert_eq!(Plain::FIELDS.id.eq(UUID).to_string(), format!("(id eq '{TEXT}')"));
        assert_eq!(Shelf::FIELDS.id.eq(ShelfId(UUID)).to_string(), format!("(id eq '{TEXT}')"));
        assert_eq!(Shelf::FIELDS.id.gt("a").to_string(), "(id gt 'a')");
        let key = Book::FIELDS.shelf.eq(ShelfId(UUID)).and(Book::FIELDS.sequel_of.eq(Book::FIELDS.id));
        assert_eq!(key.to_string(), format!("((shelf eq cast({TEXT},Edm.Guid)) and (sequel_of eq id))"));
        let some = Book::FIELDS.id.is_in([BookId { text: "a".into() }, BookId { text: "b'".into() }]);
        assert_eq!(some.to_string(), "id in ('a','b''')");
        assert_eq!(ShelfId::from_text(TEXT), Some(ShelfId(UUID)));
        assert_eq!((&&ShelfId(UUID)).as_text(), TEXT);
    }
}

mod written_by_serde {
    use time::OffsetDateTime;

    use super::*;

    #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    #[sync(crate = "datasync_core")]
    struct Row {
        id: String,
        #[serde(rename = "updatedAt", with = "time::serde::rfc3339::option", default)]
        updated_at: Option<OffsetDateTime>,
        #[sync(index, edited_at, merge = max)]
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        #[serde(with = "::time::serde::rfc3339::option", default)]
        maybe: Option<OffsetDateTime>,
        #[serde(with = "time::serde::timestamp")]
        seconds: OffsetDateTime,
        bare: OffsetDateTime,
    }

    #[test]
    fn only_a_module_that_is_known_to_write_timestamps_makes_one() {
        assert_eq!(field::<Row>("updatedAt"), FieldSchema::new("updatedAt", FieldKind::Timestamp, true));
        assert_eq!((field::<Row>("at").kind, field::<Row>("at").edited_at), (FieldKind::Timestamp, true));
        assert_eq!(field::<Row>("maybe"), FieldSchema::new("maybe", FieldKind::Timestamp, true));
        assert_eq!(field::<Row>("seconds").kind, FieldKind::Json);
        assert_eq!(field::<Row>("bare").kind, FieldKind::Json);
        let start = OffsetDateTime::UNIX_EPOCH;
        for (filter, name) in [
            (Row::FIELDS.updated_at.gt(start), "updatedAt"),
            (Row::FIELDS.at.gt(start), "at"),
            (Row::FIELDS.maybe.gt(start), "maybe"),
            (Row::FIELDS.at.gt(Row::FIELDS.maybe), ""),
        ] {
            let expected = match name {
                "" => "(at gt maybe)".to_owned(),
                name => format!("({name} gt cast(1970-01-01T00:00:00.000Z,Edm.DateTimeOffset))"),
            };
            assert_eq!(filter.to_string(), expected);
        }
        assert_eq!(Row::FIELDS.maybe.eq(None).to_string(), "(maybe eq null)");
    }
}
