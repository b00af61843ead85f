//! The handles of fields, and what is computed of them.

use std::{fmt, marker::PhantomData};

use super::{Filter, Operand, Order};
use crate::{
    entity::{FieldType, FieldValue, kind},
    query::{
        OrderBy,
        expr::{BinaryOp, Expr, Function, Literal},
    },
};

/// The handle of one field of the entity `E`, whose values have the type `T`; or, with `S` = [`Computed`], what is computed
/// of fields.
///
/// `TodoItem::FIELDS.title` is one, and a query's closures are given all of them. Each offers the operators of its kind:
///
/// | kind | operators, beside `is_null` and `is_not_null` |
/// | --- | --- |
/// | all that can be compared | `eq`, `ne`, `is_in`, and, but for booleans, `lt`, `le`, `gt`, `ge` |
/// | text | `contains`, `starts_with`, `ends_with`, `eq_ignore_case` and so on, `to_lower`, `to_upper`, `trim`, `length`, `index_of`, `substring`, `concat` |
/// | number | `add`, `sub`, `mul`, `div`, `rem`, `round`, `floor`, `ceiling`, `widen` |
/// | timestamp, date | `year`, `month`, `day` |
/// | timestamp, time | `hour`, `minute`, `second` |
/// | boolean | it is a condition by itself: `and`, `or`, `!` |
/// | point | `distance` |
/// | id | `starts_with` |
///
/// An operand is a value of the field's type, or another field of the same kind:
///
/// ```
/// # use datasync_core::{entity::SyncEntity, query::Query};
/// # use datasync_derive::SyncEntity;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize, SyncEntity)]
/// # #[sync(crate = "datasync_core")]
/// # struct Film { id: String, title: String, year: i32, minutes: i32, watched: bool, note: Option<String> }
/// let long = Film::FIELDS.minutes.div(60).ge(3);
/// assert_eq!(long.to_string(), "((minutes div 60) ge 3)");
/// let own = Film::FIELDS.note.eq_ignore_case(Film::FIELDS.title).and(!Film::FIELDS.watched);
/// assert_eq!(own.to_string(), "((tolower(note) eq tolower(title)) and not(watched))");
/// ```
///
/// A field of a type without a [`FieldType`] can only be tested for null. Only a field itself, not what is computed of fields,
/// gives an order, as in the originals.
pub struct Field<E, T, S = Named> {
    source: S,
    marker: PhantomData<fn(&E) -> Box<T>>,
}

/// The source of a handle: the name of its field.
#[derive(Clone, Copy, Debug)]
pub struct Named(&'static str);

/// The source of a computed value: its expression.
#[derive(Clone, Debug)]
pub struct Computed(Expr);

/// Where the value of a [`Field`] comes from: [`Named`] or [`Computed`].
pub trait Source: sealed::Sealed {
    #[doc(hidden)]
    fn into_expr(self) -> Expr;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Named {}
    impl Sealed for super::Computed {}
}

impl Source for Named {
    fn into_expr(self) -> Expr {
        Expr::Field(self.0.to_owned())
    }
}

impl Source for Computed {
    fn into_expr(self) -> Expr {
        self.0
    }
}

impl<E, T, S: Clone> Clone for Field<E, T, S> {
    fn clone(&self) -> Self {
        Field { source: self.source.clone(), marker: PhantomData }
    }
}

impl<E, T, S: Copy> Copy for Field<E, T, S> {}

impl<E, T, S: fmt::Debug> fmt::Debug for Field<E, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Field").field(&self.source).finish()
    }
}

/// A constant that stands where a field could: to the left of an operator.
///
/// ```
/// # use datasync_core::query::constant;
/// # use datasync_derive::SyncEntity;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize, SyncEntity)]
/// # #[sync(crate = "datasync_core")]
/// # struct Film { id: String, year: i32 }
/// assert_eq!(constant(2000).sub(Film::FIELDS.year).gt(5).to_string(), "((2000 sub year) gt 5)");
/// ```
#[must_use]
pub fn constant<E, T: FieldValue>(value: T) -> Field<E, T, Computed> {
    Field::computed(Expr::Literal(value.into_literal()))
}

impl<E, T> Field<E, T> {
    /// A handle; the derive makes them.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str) -> Field<E, T> {
        Field { source: Named(name), marker: PhantomData }
    }

    /// The field's name in JSON and in queries.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.source.0
    }
}

impl<E, T> Field<E, T> {
    /// Smallest value first, nulls before all.
    #[must_use]
    pub fn asc(self) -> Order<E>
    where
        T: FieldType<Kind: kind::Sortable>,
    {
        Order::new(OrderBy { field: self.name().to_owned(), descending: false })
    }

    /// Greatest value first, nulls after all.
    #[must_use]
    pub fn desc(self) -> Order<E>
    where
        T: FieldType<Kind: kind::Sortable>,
    {
        Order::new(OrderBy { field: self.name().to_owned(), descending: true })
    }
}

impl<E, T> Field<E, T, Computed> {
    pub(super) fn computed(expr: Expr) -> Field<E, T, Computed> {
        Field { source: Computed(expr), marker: PhantomData }
    }
}

/// Comparisons.
impl<E, T, S: Source> Field<E, T, S> {
    pub(super) fn into_expr(self) -> Expr {
        self.source.into_expr()
    }

    fn compare(self, op: BinaryOp, value: impl Operand<E, T>) -> Filter<E> {
        Filter::new(Expr::binary(op, self.into_expr(), value.into_node().into()))
    }

    /// The function of this value and of others.
    pub(super) fn called(self, function: Function, others: impl IntoIterator<Item = Expr>) -> Expr {
        Expr::Call(function, std::iter::once(self.into_expr()).chain(others).collect())
    }

    /// The rows whose field equals `value`.
    #[must_use]
    pub fn eq(self, value: impl Operand<E, T>) -> Filter<E> {
        self.compare(BinaryOp::Eq, value)
    }

    /// The rows whose field differs from `value`; a null differs from every value.
    #[must_use]
    pub fn ne(self, value: impl Operand<E, T>) -> Filter<E> {
        self.compare(BinaryOp::Ne, value)
    }

    /// The rows whose field is less than `value`; a null is not.
    #[must_use]
    pub fn lt(self, value: impl Operand<E, T>) -> Filter<E>
    where
        T: FieldType<Kind: kind::Ordered>,
    {
        self.compare(BinaryOp::Lt, value)
    }

    /// The rows whose field is at most `value`; a null is not.
    #[must_use]
    pub fn le(self, value: impl Operand<E, T>) -> Filter<E>
    where
        T: FieldType<Kind: kind::Ordered>,
    {
        self.compare(BinaryOp::Le, value)
    }

    /// The rows whose field is greater than `value`; a null is not.
    #[must_use]
    pub fn gt(self, value: impl Operand<E, T>) -> Filter<E>
    where
        T: FieldType<Kind: kind::Ordered>,
    {
        self.compare(BinaryOp::Gt, value)
    }

    /// The rows whose field is at least `value`; a null is not.
    #[must_use]
    pub fn ge(self, value: impl Operand<E, T>) -> Filter<E>
    where
        T: FieldType<Kind: kind::Ordered>,
    {
        self.compare(BinaryOp::Ge, value)
    }

    /// The rows whose field equals one of `values`; none if there are no values.
    #[must_use]
    pub fn is_in<V: Operand<E, T, Node = Literal>>(self, values: impl IntoIterator<Item = V>) -> Filter<E> {
        let values: Vec<Literal> = values.into_iter().map(Operand::into_node).collect();
        // The language has no empty list.
        Filter::new(match values.as_slice() {
            [] => Expr::Literal(Literal::Bool(false)),
            _ => Expr::In(Box::new(self.into_expr()), values),
        })
    }

    /// The rows whose field is null or missing. A field that is no `Option` is missing from rows that were written before the
    /// entity had it.
    #[must_use]
    pub fn is_null(self) -> Filter<E> {
        Filter::new(Expr::binary(BinaryOp::Eq, self.into_expr(), Expr::Literal(Literal::Null)))
    }

    /// The rows whose field is not null.
    #[must_use]
    pub fn is_not_null(self) -> Filter<E> {
        Filter::new(Expr::binary(BinaryOp::Ne, self.into_expr(), Expr::Literal(Literal::Null)))
    }
}
