//! Times that a module of serde writes.

use datasync_core::schema::{FieldKind, FieldSchema};
use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::field;

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
