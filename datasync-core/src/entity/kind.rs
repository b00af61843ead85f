//! The kinds of fields as types: what the compiler knows of [`FieldKind`](crate::schema::FieldKind).
//!
//! They have no values. A [`FieldType`](super::FieldType) names one of them, and what can be said of a field in a filter
//! hangs on it.

use std::marker::PhantomData;

/// `true` or `false`.
#[derive(Debug)]
pub enum Booleans {}
/// Whole numbers.
#[derive(Debug)]
pub enum WholeNumbers {}
/// Floating-point numbers.
#[derive(Debug)]
pub enum Floats {}
/// Decimal numbers.
#[derive(Debug)]
pub enum Decimals {}
/// Texts.
#[derive(Debug)]
pub enum Texts {}
/// The members of the enum `T`.
#[derive(Debug)]
pub struct Members<T>(PhantomData<T>);
/// Points in time.
#[derive(Debug)]
pub enum Timestamps {}
/// Dates.
#[derive(Debug)]
pub enum Dates {}
/// Times of day.
#[derive(Debug)]
pub enum TimesOfDay {}
/// UUIDs.
#[derive(Debug)]
pub enum Uuids {}
/// Points on the earth.
#[derive(Debug)]
pub enum Points {}
/// Ids of rows.
#[derive(Debug)]
pub enum Ids {}

/// A kind whose values `lt`, `le`, `gt` and `ge` can compare.
#[diagnostic::on_unimplemented(
    message = "the values of this field have no order",
    label = "`lt`, `le`, `gt` and `ge` need one; use `eq`, `ne` or `is_null`"
)]
pub trait Ordered {}
impl Ordered for WholeNumbers {}
impl Ordered for Floats {}
impl Ordered for Decimals {}
impl Ordered for Texts {}
impl<T> Ordered for Members<T> {}
impl Ordered for Timestamps {}
impl Ordered for Dates {}
impl Ordered for TimesOfDay {}
impl Ordered for Uuids {}
impl Ordered for Ids {}

/// A kind by whose values rows can be ordered.
#[diagnostic::on_unimplemented(
    message = "rows cannot be ordered by this field",
    label = "the values of this field have no order"
)]
pub trait Sortable {}
impl Sortable for Booleans {}
impl Sortable for WholeNumbers {}
impl Sortable for Floats {}
impl Sortable for Decimals {}
impl Sortable for Texts {}
impl<T> Sortable for Members<T> {}
impl Sortable for Timestamps {}
impl Sortable for Dates {}
impl Sortable for TimesOfDay {}
impl Sortable for Uuids {}
impl Sortable for Ids {}

/// The kind of texts.
#[diagnostic::on_unimplemented(message = "this field holds no text", label = "only a text has this operator")]
pub trait IsText {}
impl IsText for Texts {}

/// A kind of texts that can be asked how they begin.
#[diagnostic::on_unimplemented(message = "this field holds no text", label = "only a text or an id has this operator")]
pub trait HasPrefix {}
impl HasPrefix for Texts {}
impl HasPrefix for Ids {}

/// A kind of numbers.
#[diagnostic::on_unimplemented(message = "this field holds no number", label = "only a number has this operator")]
pub trait IsNumber {}
impl IsNumber for WholeNumbers {}
impl IsNumber for Floats {}
impl IsNumber for Decimals {}

/// The kind of conditions.
#[diagnostic::on_unimplemented(
    message = "this field is no condition",
    label = "only a boolean is one by itself: compare it, as in `.eq(…)`"
)]
pub trait IsBool {}
impl IsBool for Booleans {}

/// The kind of places.
#[diagnostic::on_unimplemented(message = "this field holds no point", label = "only a `Point` has a distance")]
pub trait IsPoint {}
impl IsPoint for Points {}

/// A kind with a year, a month and a day.
#[diagnostic::on_unimplemented(
    message = "the values of this field have no year, month and day",
    label = "only a timestamp or a date has them"
)]
pub trait HasDate {}
impl HasDate for Timestamps {}
impl HasDate for Dates {}

/// A kind with an hour, a minute and a second.
#[diagnostic::on_unimplemented(
    message = "the values of this field have no hour, minute and second",
    label = "only a timestamp or a time of day has them"
)]
pub trait HasTime {}
impl HasTime for Timestamps {}
impl HasTime for TimesOfDay {}

/// A kind whose values can be compared with those of the kind `K`.
#[diagnostic::on_unimplemented(
    message = "a field of `{K}` cannot be compared with a field of `{Self}`",
    label = "a comparison needs two fields of one kind that has an equality",
    note = "points only have a `distance`"
)]
pub trait ComparesWith<K> {}
impl ComparesWith<Booleans> for Booleans {}
impl ComparesWith<WholeNumbers> for WholeNumbers {}
impl ComparesWith<Floats> for WholeNumbers {}
impl ComparesWith<Decimals> for WholeNumbers {}
impl ComparesWith<WholeNumbers> for Floats {}
impl ComparesWith<Floats> for Floats {}
impl ComparesWith<Decimals> for Floats {}
impl ComparesWith<WholeNumbers> for Decimals {}
impl ComparesWith<Floats> for Decimals {}
impl ComparesWith<Decimals> for Decimals {}
impl ComparesWith<Texts> for Texts {}
impl ComparesWith<Ids> for Texts {}
impl ComparesWith<Texts> for Ids {}
impl ComparesWith<Ids> for Ids {}
impl<T> ComparesWith<Members<T>> for Members<T> {}
impl ComparesWith<Timestamps> for Timestamps {}
impl ComparesWith<Dates> for Dates {}
impl ComparesWith<TimesOfDay> for TimesOfDay {}
impl ComparesWith<Uuids> for Uuids {}

/// A kind of numbers each of which is also one of the kind `K`.
#[diagnostic::on_unimplemented(
    message = "not all `{Self}` are `{K}`",
    label = "whole numbers widen to every kind of number, others to their own"
)]
pub trait WidensTo<K> {}
impl WidensTo<WholeNumbers> for WholeNumbers {}
impl WidensTo<Floats> for WholeNumbers {}
impl WidensTo<Decimals> for WholeNumbers {}
impl WidensTo<Floats> for Floats {}
impl WidensTo<Decimals> for Decimals {}
