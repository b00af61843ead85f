//! What the derive's output names; not part of the public API.

use std::marker::PhantomData;

pub use std::borrow::Cow;

use serde::{Serialize, de::DeserializeOwned};

use crate::{entity::FieldType, schema::FieldKind};

/// Answers `Probe::<T>::KIND` with the kind of `T` where it has one, and with `Json` where not.
///
/// The inherent constant exists only for a [`FieldType`] and is preferred over the trait's.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<T>);

impl<T: FieldType> Probe<T> {
    pub const KIND: FieldKind = T::KIND;
    pub const NULLABLE: bool = T::NULLABLE;
}

pub trait ProbeFallback {
    const KIND: FieldKind = FieldKind::Json;
    const NULLABLE: bool = true;
}

impl<T> ProbeFallback for Probe<T> {}

/// The type of the handle of a field whose JSON is not that of its type.
#[derive(Debug)]
pub struct Opaque(());

/// Calls a merge function with the values that the JSON texts stand for.
pub fn merge_json<T: Serialize + DeserializeOwned>(
    function: fn(Option<T>, T, T) -> T,
    base: Option<&str>,
    local: &str,
    service: &str,
) -> Result<String, serde_json::Error> {
    let base = base.map(serde_json::from_str).transpose()?;
    serde_json::to_string(&function(base, serde_json::from_str(local)?, serde_json::from_str(service)?))
}
