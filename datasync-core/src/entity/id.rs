//! The types of ids.

use std::{borrow::Cow, sync::Arc};

use uuid::Uuid;

use super::InvalidId;

/// What names a row: a text, or a value of a type of ids.
pub trait RowId: Sync {
    /// The id as it stands on the wire and in the store; empty for one that is not given yet.
    fn as_text(&self) -> Cow<'_, str>;
}

impl RowId for str {
    fn as_text(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl RowId for String {
    fn as_text(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl RowId for Arc<str> {
    fn as_text(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

/// Lower case with dashes, as .NET's `Guid` is on the wire; the nil UUID is an id that is not given yet.
impl RowId for Uuid {
    fn as_text(&self) -> Cow<'_, str> {
        if self.is_nil() { Cow::Borrowed("") } else { Cow::Owned(self.to_string()) }
    }
}

impl<T: RowId + ?Sized> RowId for &T {
    fn as_text(&self) -> Cow<'_, str> {
        T::as_text(self)
    }
}

/// A type that can be the id of an entity: `String`, [`Uuid`], or a newtype of either.
///
/// `#[derive(SyncId)]` makes one of a newtype; it then can also be the type of a foreign key. Written out:
///
/// ```
/// use std::borrow::Cow;
/// use datasync_core::entity::{EntityId, RowId};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// #[serde(transparent)]
/// struct ListId(String);
///
/// impl RowId for ListId {
///     fn as_text(&self) -> Cow<'_, str> {
///         self.0.as_text()
///     }
/// }
///
/// impl EntityId for ListId {
///     fn from_text(id: &str) -> Option<ListId> {
///         String::from_text(id).map(ListId)
///     }
/// }
/// ```
///
/// An id of the type [`Uuid`] is written in lower case with dashes. A row whose id a service spells otherwise cannot be read
/// into such an entity, which is an error that says so: take a `String` for the ids of such a service.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the id of a synchronized entity",
    label = "an id is a `String`, a `Uuid` or a newtype of one with `#[derive(SyncId)]`",
    note = "ids are text on the wire; one that is empty becomes a UUIDv7 on insert"
)]
pub trait EntityId: RowId + Sized {
    /// The id whose text this is; `None` if the type has none, or spells it otherwise.
    fn from_text(id: &str) -> Option<Self>;

    // What derived entities call: all by one trait, so that a type that is no id is one mistake.

    #[doc(hidden)]
    fn id_text(&self) -> Cow<'_, str> {
        self.as_text()
    }

    #[doc(hidden)]
    fn parse_id(id: &str) -> Result<Self, InvalidId> {
        Self::from_text(id).ok_or_else(|| InvalidId::of_another_type(id))
    }
}

impl EntityId for String {
    fn from_text(id: &str) -> Option<String> {
        Some(id.to_owned())
    }
}

impl EntityId for Uuid {
    fn from_text(id: &str) -> Option<Uuid> {
        Uuid::try_parse(id).ok().filter(|uuid| uuid.as_text() == id)
    }
}
