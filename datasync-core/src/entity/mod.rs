//! Entities: the types that an app keeps in tables.

mod field;
mod id;
pub mod kind;
#[cfg(feature = "chrono")]
mod of_chrono;
#[cfg(feature = "rust_decimal")]
mod of_decimal;
#[cfg(feature = "time")]
mod of_time;
mod point;
mod roles;

use std::borrow::Cow;

pub use field::{FieldType, FieldValue, IndexKey, MergeByUnion};
pub use id::{EntityId, RowId};
pub use point::Point;
pub use roles::{DeletedField, UpdatedAtField, VersionField};
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
    fn id(&self) -> Cow<'_, str>;

    /// Gives this row its id.
    ///
    /// # Errors
    ///
    /// A text that is no id of the type that this entity has for ids.
    fn set_id(&mut self, id: &str) -> Result<(), InvalidId>;
}

/// Why a text cannot be the id of a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{id}` cannot be an id: {reason}")]
pub struct InvalidId {
    id: String,
    reason: &'static str,
}

impl InvalidId {
    /// An id that the type of an entity's ids does not have.
    pub(crate) fn of_another_type(id: &str) -> InvalidId {
        let id = id.chars().take(MAX_ID_LENGTH + 1).collect();
        InvalidId { id, reason: "the type of the entity's id has no such value; a UUID is in lower case with dashes" }
    }
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
