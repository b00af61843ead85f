//! Entities: the types that an app keeps in tables.

mod field;
pub mod kind;

pub use field::{FieldType, FieldValue, IndexKey, MergeByUnion};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use crate::schema::TableSchema;

/// A type whose values are the rows of one synchronized table.
///
/// Derive it: `#[derive(SyncEntity)]` reads the fields and their `#[serde(…)]` names.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a synchronized entity",
    label = "needs `#[derive(SyncEntity)]`"
)]
pub trait SyncEntity: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The typed handles of the fields, given to the closures of a query.
    type Fields: Copy + Send + Sync + 'static;

    /// The handles themselves.
    const FIELDS: Self::Fields;

    /// The table's name on the wire and in the store; that of [`SCHEMA`](SyncEntity::SCHEMA).
    const TABLE: &'static str;

    /// What the engine knows of the table.
    const SCHEMA: TableSchema;

    /// The id of this row; empty until the row has one.
    fn id(&self) -> &str;

    /// Gives this row its id.
    fn set_id(&mut self, id: String);
}

/// A type that can be the id of an entity.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the id of a synchronized entity",
    label = "an id is a `String`",
    note = "ids are text on the wire; an empty one becomes a UUIDv7 on insert"
)]
pub trait EntityIdField {
    #[doc(hidden)]
    fn as_id(&self) -> &str;
    #[doc(hidden)]
    fn from_id(id: String) -> Self;
}

impl EntityIdField for String {
    fn as_id(&self) -> &str {
        self
    }

    fn from_id(id: String) -> String {
        id
    }
}

/// A type that can hold the version of a row: `String` or `Option<String>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the version of a synchronized entity",
    label = "a version is a `String` or an `Option<String>`"
)]
pub trait VersionField {}
impl VersionField for String {}
impl VersionField for Option<String> {}

/// A type that can hold the time of the last change on the service.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the `updatedAt` of a synchronized entity",
    label = "this is a `jiff::Timestamp`, a `String` or an `Option` of one"
)]
pub trait UpdatedAtField {}
impl UpdatedAtField for Timestamp {}
impl UpdatedAtField for Option<Timestamp> {}
impl UpdatedAtField for String {}
impl UpdatedAtField for Option<String> {}

/// A type that can hold the mark of a deleted row: `bool` or `Option<bool>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the `deleted` of a synchronized entity",
    label = "this is a `bool` or an `Option<bool>`"
)]
pub trait DeletedField {}
impl DeletedField for bool {}
impl DeletedField for Option<bool> {}

/// Why a text cannot be the id of a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{id}` cannot be an id: {reason}")]
pub struct InvalidId {
    id: String,
    reason: &'static str,
}

/// The greatest number of characters in an id.
pub const MAX_ID_LENGTH: usize = 127;

/// Checks the rule for ids: 1 to 127 ASCII letters, digits, `_`, `.`, `|`, `:` or `-`, the first a letter or digit.
///
/// As in Datasync's `EntityResolver`.
///
/// # Errors
///
/// [`InvalidId`] says which part of the rule is broken.
///
/// ```
/// assert!(datasync_core::entity::check_id("id-007").is_ok());
/// assert!(datasync_core::entity::check_id("-7").is_err());
/// ```
pub fn check_id(id: &str) -> Result<(), InvalidId> {
    let reason = if id.is_empty() {
        "it is empty"
    } else if id.len() > MAX_ID_LENGTH {
        "it is longer than 127 characters"
    } else if !id.as_bytes()[0].is_ascii_alphanumeric() {
        "it does not begin with an ASCII letter or digit"
    } else if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.|:-".contains(&byte)) {
        "only ASCII letters, digits and `_.|:-` are allowed"
    } else {
        return Ok(());
    };
    let id = id.chars().take(MAX_ID_LENGTH + 1).collect();
    Err(InvalidId { id, reason })
}
