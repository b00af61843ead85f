//! The operators of each kind of field.

use std::ops::Not;

use super::{Computed, Condition, Field, Filter, Operand, Source};
use crate::{
    entity::{FieldType, Point, kind},
    query::expr::{BinaryOp, Expr, Function, Literal},
};

/// A value computed by a function.
impl<E, T, S: Source> Field<E, T, S> {
    fn call<R>(self, function: Function, others: impl IntoIterator<Item = Expr>) -> Field<E, R, Computed> {
        Field::computed(self.called(function, others))
    }

    fn test(self, function: Function, text: impl Operand<E, String>) -> Filter<E> {
        Filter::new(self.called(function, [text.into_node().into()]))
    }
}

/// Texts and ids.
impl<E, T, S: Source> Field<E, T, S> {
    /// The rows whose text begins with `text`.
    #[must_use]
    pub fn starts_with(self, text: impl Operand<E, String>) -> Filter<E>
    where
        T: FieldType<Kind: kind::HasPrefix>,
    {
        self.test(Function::StartsWith, text)
    }
}

/// Texts. They compare by their bytes; the forms that ignore case compare what `tolower` makes of both sides, as in the
/// originals.
impl<E, T, S: Source> Field<E, T, S> {
    /// The rows whose text contains `text`.
    #[must_use]
    pub fn contains(self, text: impl Operand<E, String>) -> Filter<E>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.test(Function::Contains, text)
    }

    /// The rows whose text ends with `text`.
    #[must_use]
    pub fn ends_with(self, text: impl Operand<E, String>) -> Filter<E>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.test(Function::EndsWith, text)
    }

    /// The rows whose text equals `text`, whatever the case of its letters.
    #[must_use]
    pub fn eq_ignore_case(self, text: impl Operand<E, String>) -> Filter<E>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.to_lower().eq(lower(text))
    }

    /// The rows whose text contains `text`, whatever the case of its letters.
    #[must_use]
    pub fn contains_ignore_case(self, text: impl Operand<E, String>) -> Filter<E>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.to_lower().contains(lower(text))
    }

    /// The rows whose text begins with `text`, whatever the case of its letters.
    #[must_use]
    pub fn starts_with_ignore_case(self, text: impl Operand<E, String>) -> Filter<E>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.to_lower().starts_with(lower(text))
    }

    /// The rows whose text ends with `text`, whatever the case of its letters.
    #[must_use]
    pub fn ends_with_ignore_case(self, text: impl Operand<E, String>) -> Filter<E>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.to_lower().ends_with(lower(text))
    }

    /// The text in lower case.
    #[must_use]
    pub fn to_lower(self) -> Field<E, String, Computed>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.call(Function::ToLower, [])
    }

    /// The text in upper case.
    #[must_use]
    pub fn to_upper(self) -> Field<E, String, Computed>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.call(Function::ToUpper, [])
    }

    /// The text without the blanks at its ends.
    #[must_use]
    pub fn trim(self) -> Field<E, String, Computed>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.call(Function::Trim, [])
    }

    /// How many characters the text has.
    #[must_use]
    pub fn length(self) -> Field<E, i32, Computed>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.call(Function::Length, [])
    }

    /// How many characters come before the first place of `text`; −1 if it has none.
    #[must_use]
    pub fn index_of(self, text: impl Operand<E, String>) -> Field<E, i32, Computed>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.call(Function::IndexOf, [text.into_node().into()])
    }

    /// The text from its character `start` on, the first being 0.
    #[must_use]
    pub fn substring(self, start: impl Operand<E, i32>) -> Field<E, String, Computed>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.call(Function::Substring, [start.into_node().into()])
    }

    /// At most `length` characters of the text, from its character `start` on, the first being 0.
    #[must_use]
    pub fn substring_of(self, start: impl Operand<E, i32>, length: impl Operand<E, i32>) -> Field<E, String, Computed>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.call(Function::Substring, [start.into_node().into(), length.into_node().into()])
    }

    /// The text with another one behind it.
    #[must_use]
    pub fn concat(self, text: impl Operand<E, String>) -> Field<E, String, Computed>
    where
        T: FieldType<Kind: kind::IsText>,
    {
        self.call(Function::Concat, [text.into_node().into()])
    }
}

/// `tolower` of an operand, constants too, as the originals write it.
fn lower<E>(text: impl Operand<E, String>) -> Field<E, String, Computed> {
    Field::computed(Expr::Call(Function::ToLower, vec![text.into_node().into()]))
}

/// Numbers. Whole numbers stay whole, also in a division; what is computed of a null is null.
#[allow(clippy::should_implement_trait, reason = "an operator's trait says nothing of the operand that does not fit")]
impl<E, T, S: Source> Field<E, T, S> {
    fn compute(self, op: BinaryOp, number: impl Operand<E, T>) -> Field<E, T, Computed>
    where
        T: FieldType<Kind: kind::IsNumber>,
    {
        Field::computed(Expr::binary(op, self.into_expr(), number.into_node().into()))
    }

    /// The sum.
    #[must_use]
    pub fn add(self, number: impl Operand<E, T>) -> Field<E, T, Computed>
    where
        T: FieldType<Kind: kind::IsNumber>,
    {
        self.compute(BinaryOp::Add, number)
    }

    /// The difference.
    #[must_use]
    pub fn sub(self, number: impl Operand<E, T>) -> Field<E, T, Computed>
    where
        T: FieldType<Kind: kind::IsNumber>,
    {
        self.compute(BinaryOp::Sub, number)
    }

    /// The product.
    #[must_use]
    pub fn mul(self, number: impl Operand<E, T>) -> Field<E, T, Computed>
    where
        T: FieldType<Kind: kind::IsNumber>,
    {
        self.compute(BinaryOp::Mul, number)
    }

    /// The quotient.
    #[must_use]
    pub fn div(self, number: impl Operand<E, T>) -> Field<E, T, Computed>
    where
        T: FieldType<Kind: kind::IsNumber>,
    {
        self.compute(BinaryOp::Div, number)
    }

    /// What a division leaves over, with the sign of the dividend.
    #[must_use]
    pub fn rem(self, number: impl Operand<E, T>) -> Field<E, T, Computed>
    where
        T: FieldType<Kind: kind::IsNumber>,
    {
        self.compute(BinaryOp::Mod, number)
    }

    /// The nearest whole number; a half goes to the even neighbour.
    #[must_use]
    pub fn round(self) -> Field<E, T, Computed>
    where
        T: FieldType<Kind: kind::IsNumber>,
    {
        self.call(Function::Round, [])
    }

    /// The greatest whole number that is not above.
    #[must_use]
    pub fn floor(self) -> Field<E, T, Computed>
    where
        T: FieldType<Kind: kind::IsNumber>,
    {
        self.call(Function::Floor, [])
    }

    /// The smallest whole number that is not below.
    #[must_use]
    pub fn ceiling(self) -> Field<E, T, Computed>
    where
        T: FieldType<Kind: kind::IsNumber>,
    {
        self.call(Function::Ceiling, [])
    }

    /// The same number for operands of another type of numbers. The text of the query stays the same, as with a conversion
    /// that the originals' languages make by themselves.
    ///
    /// ```
    /// # use datasync_derive::SyncEntity;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    /// # #[sync(crate = "datasync_core")]
    /// # struct Film { id: String, minutes: i32 }
    /// let hours = Film::FIELDS.minutes.widen::<f64>().div(60.0);
    /// assert_eq!(hours.gt(2.5).to_string(), "((minutes div 60.0) gt 2.5)");
    /// ```
    #[must_use]
    pub fn widen<U: FieldType>(self) -> Field<E, U, Computed>
    where
        T: FieldType<Kind: kind::WidensTo<U::Kind>>,
    {
        Field::computed(self.into_expr())
    }
}

/// Timestamps and dates, in UTC.
impl<E, T, S: Source> Field<E, T, S> {
    /// The year.
    #[must_use]
    pub fn year(self) -> Field<E, i32, Computed>
    where
        T: FieldType<Kind: kind::HasDate>,
    {
        self.call(Function::Year, [])
    }

    /// The month, from 1 to 12.
    #[must_use]
    pub fn month(self) -> Field<E, i32, Computed>
    where
        T: FieldType<Kind: kind::HasDate>,
    {
        self.call(Function::Month, [])
    }

    /// The day of the month, from 1 on.
    #[must_use]
    pub fn day(self) -> Field<E, i32, Computed>
    where
        T: FieldType<Kind: kind::HasDate>,
    {
        self.call(Function::Day, [])
    }
}

/// Timestamps, in UTC, and times of day.
impl<E, T, S: Source> Field<E, T, S> {
    /// The hour, from 0 to 23.
    #[must_use]
    pub fn hour(self) -> Field<E, i32, Computed>
    where
        T: FieldType<Kind: kind::HasTime>,
    {
        self.call(Function::Hour, [])
    }

    /// The minute, from 0 to 59.
    #[must_use]
    pub fn minute(self) -> Field<E, i32, Computed>
    where
        T: FieldType<Kind: kind::HasTime>,
    {
        self.call(Function::Minute, [])
    }

    /// The second, from 0 to 59.
    #[must_use]
    pub fn second(self) -> Field<E, i32, Computed>
    where
        T: FieldType<Kind: kind::HasTime>,
    {
        self.call(Function::Second, [])
    }
}

/// Points.
impl<E, T, S: Source> Field<E, T, S> {
    /// The kilometres to another point, on a sphere of 6371 km: `geo.distance`. Only services of the Datasync Community Toolkit
    /// know it, and ours.
    ///
    /// ```
    /// # use datasync_core::entity::Point;
    /// # use datasync_derive::SyncEntity;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    /// # #[sync(crate = "datasync_core")]
    /// # struct Shop { id: String, place: Option<Point> }
    /// let near = Shop::FIELDS.place.distance(Point { longitude: -97.0, latitude: 38.0 }).lt(0.2);
    /// assert_eq!(near.to_string(), "(geo.distance(place,geography'POINT(-97 38)') lt 0.2)");
    /// ```
    #[must_use]
    pub fn distance(self, to: impl Place<E>) -> Field<E, f64, Computed>
    where
        T: FieldType<Kind: kind::IsPoint>,
    {
        self.call(Function::GeoDistance, [to.into_place()])
    }
}

/// What a point can have a distance to: a [`Point`] or a field of one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no point to measure a distance to",
    label = "expected a `Point`, or a field of one"
)]
pub trait Place<E> {
    #[doc(hidden)]
    fn into_place(self) -> Expr;
}

impl<E> Place<E> for Point {
    fn into_place(self) -> Expr {
        Expr::Literal(Literal::Point { longitude: self.longitude, latitude: self.latitude })
    }
}

impl<E, T: FieldType<Kind: kind::IsPoint>, S: Source> Place<E> for Field<E, T, S> {
    fn into_place(self) -> Expr {
        self.into_expr()
    }
}

/// Booleans: each is a condition by itself.
impl<E, T, S: Source> Field<E, T, S> {
    /// The rows whose field is true and that match `other`.
    #[must_use]
    pub fn and(self, other: impl Condition<E>) -> Filter<E>
    where
        T: FieldType<Kind: kind::IsBool>,
    {
        self.into_filter().and(other)
    }

    /// The rows whose field is true or that match `other`.
    #[must_use]
    pub fn or(self, other: impl Condition<E>) -> Filter<E>
    where
        T: FieldType<Kind: kind::IsBool>,
    {
        self.into_filter().or(other)
    }
}

impl<E, T: FieldType<Kind: kind::IsBool>, S: Source> Not for Field<E, T, S> {
    type Output = Filter<E>;

    fn not(self) -> Filter<E> {
        !self.into_filter()
    }
}
