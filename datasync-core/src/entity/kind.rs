//! The kinds of fields as types: what the compiler knows of [`FieldKind`](crate::schema::FieldKind).
//!
//! They have no values. A [`FieldType`](super::FieldType) names one of them, and what can be said of a field in a filter
//! hangs on it.

use std::marker::PhantomData;

/// `true` or `false`.
#[derive(Debug)]
pub enum Bool {}
/// Whole numbers.
#[derive(Debug)]
pub enum Whole {}
/// Floating-point numbers.
#[derive(Debug)]
pub enum Float {}
/// Decimal numbers.
#[derive(Debug)]
pub enum Decimal {}
/// Texts.
#[derive(Debug)]
pub enum Text {}
/// The members of the enum `T`.
#[derive(Debug)]
pub struct Enum<T>(PhantomData<T>);
/// Points in time.
#[derive(Debug)]
pub enum Timestamp {}
/// Dates.
#[derive(Debug)]
pub enum Date {}
/// Times of day.
#[derive(Debug)]
pub enum Time {}
/// UUIDs.
#[derive(Debug)]
pub enum Uuid {}
/// Points on the earth.
#[derive(Debug)]
pub enum Point {}
