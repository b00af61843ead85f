//! The types of fields.

use std::collections::{BTreeSet, HashSet, VecDeque};

use jiff::{Timestamp, civil};
use uuid::Uuid;

use super::kind;
use crate::{query::Literal, schema::FieldKind};

/// A type of a field that the engine can compare, order and index.
///
/// A field of another type is kept and synchronized as it is, and can only be tested for null.
#[diagnostic::on_unimplemented(
    message = "the engine cannot compare values of type `{Self}`",
    label = "a field of this type is kept and synchronized, and can only be tested for null",
    note = "numbers, texts, booleans, timestamps, dates, times and UUIDs can be compared, and an `Option` of each; an enum \
            needs `#[derive(SyncEnum)]`, and a `time::OffsetDateTime` needs `#[serde(with = \"time::serde::rfc3339\")]`"
)]
pub trait FieldType {
    /// The kind as a type, which says what a filter can do with a field; see [`kind`].
    type Kind;
    /// How values of the type are compared.
    const KIND: FieldKind;
    /// Whether values of the type may be null.
    const NULLABLE: bool = false;
}

/// A type whose values can stand in a filter.
pub trait FieldValue: FieldType {
    /// The constant that stands for the value.
    fn into_literal(self) -> Literal;
}

impl<T: FieldType> FieldType for Option<T> {
    type Kind = T::Kind;
    const KIND: FieldKind = T::KIND;
    const NULLABLE: bool = true;
}

macro_rules! field_types {
    ($($type:ty: $kind:ident => $schema:expr, $value:ident => $literal:expr;)*) => {$(
        impl FieldType for $type {
            type Kind = kind::$kind;
            const KIND: FieldKind = $schema;
        }
        impl FieldValue for $type {
            fn into_literal(self) -> Literal {
                let $value = self;
                $literal
            }
        }
    )*};
}

field_types! {
    bool: Booleans => FieldKind::Bool, value => Literal::Bool(value);
    i8: WholeNumbers => FieldKind::I64, value => Literal::Int(value.into());
    i16: WholeNumbers => FieldKind::I64, value => Literal::Int(value.into());
    i32: WholeNumbers => FieldKind::I64, value => Literal::Int(value.into());
    i64: WholeNumbers => FieldKind::I64, value => Literal::Long(value);
    u8: WholeNumbers => FieldKind::I64, value => Literal::Int(value.into());
    u16: WholeNumbers => FieldKind::I64, value => Literal::Int(value.into());
    u32: WholeNumbers => FieldKind::I64, value => Literal::Long(value.into());
    u64: WholeNumbers => FieldKind::I64, value => {
        i64::try_from(value).map_or_else(|_| Literal::Decimal(value.to_string()), Literal::Long)
    };
    f32: Floats => FieldKind::F64, value => Literal::Single(value);
    f64: Floats => FieldKind::F64, value => Literal::Double(value);
    String: Texts => FieldKind::Text, value => Literal::Text(value);
    char: Texts => FieldKind::Text, value => Literal::Text(value.to_string());
    Timestamp: Timestamps => FieldKind::Timestamp, value => Literal::Timestamp(value);
    civil::Date: Dates => FieldKind::Date, value => Literal::Date(value);
    civil::Time: TimesOfDay => FieldKind::Time, value => Literal::Time(value);
    Uuid: Uuids => FieldKind::Uuid, value => Literal::Uuid(value);
}

/// A type that an index can order.
#[diagnostic::on_unimplemented(
    message = "a field of type `{Self}` cannot be indexed",
    label = "this type has no order that an index keeps",
    note = "booleans, whole numbers of up to 64 bits with a sign, texts, ids, enums, dates, times and UUIDs can be indexed, \
            and an `Option` of each"
)]
pub trait IndexKey: FieldType {}
macro_rules! index_keys { ($($type:ty),*) => { $(impl IndexKey for $type {})* } }
index_keys!(bool, i8, i16, i32, i64, u8, u16, u32, String, char, Timestamp, civil::Date, civil::Time, Uuid);
impl<T: IndexKey> IndexKey for Option<T> {}

/// A type whose JSON is an array, the elements of which a merge can join.
#[diagnostic::on_unimplemented(
    message = "`merge = union` joins the elements of two sequences, and `{Self}` is none",
    label = "a `Vec`, a `VecDeque`, a `HashSet`, a `BTreeSet` or an `Option` of one merges so"
)]
pub trait MergeByUnion {}
impl<T> MergeByUnion for Vec<T> {}
impl<T> MergeByUnion for VecDeque<T> {}
impl<T, S> MergeByUnion for HashSet<T, S> {}
impl<T> MergeByUnion for BTreeSet<T> {}
impl<T: MergeByUnion> MergeByUnion for Option<T> {}

/// A date from its parts, if there is one.
#[cfg(any(feature = "chrono", feature = "time"))]
pub(super) fn date(year: i32, month: u32, day: u32) -> Option<civil::Date> {
    civil::Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

/// A time of day from its parts, if there is one.
#[cfg(any(feature = "chrono", feature = "time"))]
pub(super) fn time(hour: u32, minute: u32, second: u32, nanosecond: u32) -> Option<civil::Time> {
    let [hour, minute, second] = [hour, minute, second].map(|part| i8::try_from(part).ok());
    civil::Time::new(hour?, minute?, second?, i32::try_from(nanosecond).ok()?).ok()
}
