//! What the derive's output names; not part of the public API.

use std::marker::PhantomData;

pub use std::borrow::Cow;

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
