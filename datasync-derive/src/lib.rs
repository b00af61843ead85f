//! The derive macros of Datasync for Rust: [`SyncEntity`](macro@SyncEntity), [`SyncEnum`](macro@SyncEnum) and
//! [`SyncId`](macro@SyncId).
//!
//! Apps use them through the facade, which is where the generated code looks for the traits; a crate that depends on
//! another of the workspace's crates says so with `crate = "…"`.
//!
//! Names in JSON come from `#[serde(…)]` and from nowhere else: `rename_all` of the struct and `rename` of the field.
//! A mistake is reported where it is written, all mistakes of a type at once, and the uses of the type stay free of
//! errors that only follow from it.

mod ast;
mod attr;
mod case;
mod check;
mod ctxt;
mod expand;
mod id;
mod item;
mod members;
#[cfg(test)]
mod tests;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_macro_input};

use crate::{ast::Entity, ctxt::Ctxt};

/// Makes a struct with named fields the row of a synchronized table.
///
/// ```ignore
/// #[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
/// #[serde(rename_all = "camelCase")]
/// #[sync(table = "todoitem", index(list_id, position))]
/// pub struct TodoItem {
///     pub id: String,
///     pub title: String,
///     pub list_id: String,
///     pub position: u32,
///     #[sync(index)]
///     pub complete: bool,
///     pub updated_at: Option<Timestamp>,
///     #[sync(local)]
///     pub scroll_position: Option<u32>,
/// }
///
/// let open = TodoItem::FIELDS.complete.eq(false);
/// ```
///
/// The struct also derives serde's `Serialize` and `Deserialize`, and `Clone`. Beside it stand, with its visibility,
/// a struct `TodoItemFields` with a handle for each field that is sent, and the constant `TodoItem::FIELDS` that holds
/// them. A handle has the visibility of its field.
///
/// # Attributes of the struct
///
/// | `#[sync(…)]` | meaning |
/// | --- | --- |
/// | `table = "todoitem"` | the table's name on the wire and in the store; by default the struct's name in lower case |
/// | `fields = TodoColumns` | the name of the struct of handles; by default the struct's name and `Fields` |
/// | `index(list_id, position)` | an index over these fields in this order, named by their Rust names; may be repeated |
/// | `crate = "path"` | where the framework is found; by default `::datasync` |
///
/// # Attributes of a field
///
/// | `#[sync(…)]` | meaning |
/// | --- | --- |
/// | `id`, `version`, `updated_at`, `deleted` | the field's role, which a field of that name has without the attribute |
/// | `index` | an index over this field |
/// | `local` | the field stays on the device: it is never sent, a pull leaves it alone, and it has no handle |
/// | `parent = List` | a foreign key: the field holds the id of a row of the entity `List`, or of this one |
/// | `merge = client` | how a merge by field settles what both sides changed: `client` or `server` takes one side, `max` or `min` the greater or smaller value, `sum` adds up what each side added to a number, `union` joins the elements of sequences |
/// | `merge_with = path` | the same by a function `fn(base: Option<T>, local: T, service: T) -> T` |
/// | `edited_at` | the field holds the time of the last edit, for the policy `last-writer-wins` |
///
/// Only the id is required. On the wire the roles are called `id`, `version`, `updatedAt` and `deleted`; no other field
/// may have one of these names. The types are a `String`, a `Uuid` or a newtype with [`SyncId`](macro@SyncId) for the id, a
/// `String` for the version, a `jiff::Timestamp` or a `String` for the time of the last change and a `bool` for the mark of
/// deletion; an `Option` of each but the id.
///
/// # Kinds
///
/// What the engine can do with a field depends on its type, also through an alias, a newtype with its own
/// `FieldType` or an `Option`. A field of a type without a `FieldType` is kept and synchronized as it is, and can only
/// be tested for null. The same holds for a field with `#[serde(with = …)]` or `#[serde(serialize_with = …)]`: its JSON
/// is not that of its type. Only `with = "time::serde::rfc3339"`, and its `option`, is known to write timestamps.
///
/// # What is refused
///
/// - generic parameters, and types that are not structs with named fields;
/// - `flatten` of a field, and `transparent`, `tag`, `untagged`, `from`, `try_from`, `into`, `remote` and
///   `deny_unknown_fields` of the struct: the row would not be an object with the fields that the schema lists;
/// - different names for the two directions;
/// - `skip`, `skip_serializing` and `skip_deserializing`: the field would be lost in the local store, which `local` is
///   not. `skip_serializing_if` wants a type that may be null;
/// - a `local` field that is neither an `Option` nor has `#[serde(default)]`: what the service sends does not hold it.
#[proc_macro_derive(SyncEntity, attributes(sync))]
pub fn derive_sync_entity(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes the members of an enum values that the engine can compare, order and index.
///
/// ```ignore
/// #[derive(Clone, Copy, Debug, Serialize, Deserialize, SyncEnum)]
/// #[serde(rename_all = "lowercase")]
/// pub enum Priority {
///     Low,
///     Normal,
///     High,
/// }
/// ```
///
/// The members have no fields. They are compared in the order of their declaration, and their names are those that
/// serde gives them. `#[sync(crate = "path")]` says where the framework is found, as for
/// [`SyncEntity`](macro@SyncEntity).
#[proc_macro_derive(SyncEnum, attributes(sync))]
pub fn derive_sync_enum(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    members::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes a struct around a `String` or a `Uuid` a type of ids, for the id of an entity and for foreign keys.
///
/// ```ignore
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncId)]
/// #[serde(transparent)]
/// pub struct ListId(String);
/// ```
///
/// `#[sync(crate = "path")]` says where the framework is found, as for [`SyncEntity`](macro@SyncEntity).
#[proc_macro_derive(SyncId, attributes(sync))]
pub fn derive_sync_id(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    id::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// `SyncEntity` without the compiler around it, as the tests call it.
fn derive(input: &DeriveInput) -> TokenStream {
    let ctxt = Ctxt::default();
    let entity = Entity::new(&ctxt, input);
    if let Some(entity) = &entity {
        check::check(&ctxt, entity);
    }
    match entity {
        Some(entity) if ctxt.is_empty() => expand::entity(&entity),
        entity => {
            let errors = ctxt.into_tokens();
            let stand_in = entity.as_ref().map(expand::stand_in);
            quote!(#errors #stand_in)
        }
    }
}
