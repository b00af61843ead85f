//! Random rows: values of every kind, and what ought not to be in a field of that kind.

use std::borrow::Cow;

use datasync_core::schema::{FieldKind, FieldSchema, IndexSchema, Name, TableSchema};

use super::random::Random;

/// The members of the enum, in their order.
pub(super) const GRADES: &[Name] = &[Cow::Borrowed("low"), Cow::Borrowed("Medium"), Cow::Borrowed("high")];

/// The fields, one of each kind.
pub(super) const FIELDS: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("text", FieldKind::Text, true),
    FieldSchema::new("whole", FieldKind::I64, true),
    FieldSchema::new("float", FieldKind::F64, true),
    FieldSchema::new("price", FieldKind::Decimal, true),
    FieldSchema::new("done", FieldKind::Bool, true),
    FieldSchema::new("grade", FieldKind::Enum(Cow::Borrowed(GRADES)), true),
    FieldSchema::new("seen", FieldKind::Timestamp, true),
    FieldSchema::new("day", FieldKind::Date, true),
    FieldSchema::new("hour", FieldKind::Time, true),
    FieldSchema::new("key", FieldKind::Uuid, true),
    FieldSchema::new("place", FieldKind::Point, true),
    FieldSchema::new("more", FieldKind::Json, true),
    FieldSchema::new("bytes", FieldKind::Bytes, true),
];

macro_rules! indexes {
    ($($name:literal [$($field:literal),*])*) => {
        &[$(IndexSchema::new($name, &[$(Cow::Borrowed($field)),*])),*]
    };
}

/// An index of every field that can have one, and some of several.
const INDEXES: &[IndexSchema] = indexes! {
    "text" ["text"]
    "whole" ["whole"]
    "float" ["float"]
    "price" ["price"]
    "done" ["done"]
    "seen" ["seen"]
    "day" ["day"]
    "hour" ["hour"]
    "key" ["key"]
    "grade,whole" ["grade", "whole"]
    "done,price,text" ["done", "price", "text"]
    "text,seen" ["text", "seen"]
};

/// The table without indexes.
pub(super) const PLAIN: TableSchema = TableSchema::new("thing", FIELDS, &[]);
/// The table with indexes.
pub(super) const INDEXED: TableSchema = TableSchema::new("thing", FIELDS, INDEXES);

/// JSON values of a field, as they may be stored.
#[must_use]
pub(super) fn values(field: &str) -> &'static [&'static str] {
    match field {
        "text" => &[
            r#""""#,
            r#""a""#,
            r#""A""#,
            r#""ab""#,
            r#""b'c""#,
            r#""é""#,
            r#""\u00c4x""#,
            r#""a\u0000b""#,
            r#""😀!""#,
            r#""%_&+#""#,
            r#"" x ""#,
            r#""zz top""#,
            r#""The end""#,
            "7",
            "true",
            "[]",
        ],
        "whole" => &[
            "0",
            "-0",
            "1",
            "-1",
            "2",
            "3",
            "7",
            "42",
            "9007199254740993",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "1.5",
            "1e2",
            r#""3""#,
            r#""x""#,
            "false",
        ],
        "float" => {
            &["0.0", "-0.0", "0.1", "0.5", "1.5", "2", "-2.5", "1e300", "1e-7", "9007199254740992", "1e400", r#""0.5""#]
        }
        "price" => &[
            "0",
            "0.10",
            "0.1",
            "0.3",
            "-7.25",
            "19.99",
            "1e3",
            "9007199254740993",
            "9007199254740992.5",
            "12345678901234567890.0123456789",
            "12345678901234567890.0123456788",
            r#""19.990""#,
            r#""cheap""#,
        ],
        "done" => &["true", "false", r#""true""#, "1"],
        "grade" => &[r#""low""#, r#""Medium""#, r#""high""#, r#""other""#, r#""LOW""#, "2"],
        "seen" => &[
            r#""2024-02-29T12:30:45.123Z""#,
            r#""2024-02-29T12:30:45.1239Z""#,
            r#""2024-02-29T14:30:45.123+02:00""#,
            r#""2024-02-29T12:30:45""#,
            r#""1969-12-31T23:59:59.9999Z""#,
            r#""1970-01-01T00:00:00Z""#,
            r#""soon""#,
            "0",
        ],
        "day" => &[r#""2024-02-29""#, r#""2023-12-31""#, r#""1999-01-01""#, r#""29.2.2024""#],
        "hour" => &[
            r#""00:00:00""#,
            r#""12:15:00""#,
            r#""12:15:00.000""#,
            r#""12:15:00.0009""#,
            r#""23:59:59.999""#,
            r#""25:00""#,
        ],
        "key" => &[
            r#""29386779-34b1-464a-bb5b-4053c2ee61b3""#,
            r#""29386779-34B1-464A-BB5B-4053C2EE61B3""#,
            r#""00000000-0000-0000-0000-000000000001""#,
            r#""ffffffff-ffff-4fff-bfff-ffffffffffff""#,
            r#""no""#,
        ],
        "place" => &[
            r#"{"type":"Point","coordinates":[-97,38]}"#,
            r#"{"type":"Point","coordinates":[13.4,52.5,34]}"#,
            r#"{"coordinates":[0,0],"type":"Point"}"#,
            r#"{"type":"Line","coordinates":[1,2]}"#,
            "[1,2]",
        ],
        "more" => &[r#"{"a":1}"#, "[]", "0", r#""x""#],
        _ => &[r#""AQID""#, r#""""#],
    }
}

/// A random body. A field may be missing, null, of another type, or there twice.
pub(super) fn body(random: &mut Random, id: &str) -> Vec<u8> {
    let mut members = vec![format!(r#""id":"{id}""#)];
    for field in &FIELDS[1..] {
        let times = if random.chance(10) { 0 } else { 1 + usize::from(random.chance(2)) };
        for _ in 0..times {
            let value = if random.chance(12) { "null" } else { random.pick(values(&field.name)) };
            members.push(format!(r#""{}":{value}"#, field.name));
        }
    }
    // Members come in any order.
    for place in (1..members.len()).rev() {
        members.swap(place, random.below(place + 1));
    }
    format!("{{{}}}", members.join(",")).into_bytes()
}
