//! Conditions and orders.

use std::{fmt, marker::PhantomData, ops::Not};

use super::{Field, Source};
use crate::{
    entity::{FieldType, kind},
    query::{
        OrderBy,
        expr::{BinaryOp, Expr},
    },
};

/// A condition on the rows of the entity `E`.
///
/// It prints as the OData text of the condition.
pub struct Filter<E> {
    expr: Expr,
    marker: PhantomData<fn(&E)>,
}

impl<E> Clone for Filter<E> {
    fn clone(&self) -> Self {
        Filter::new(self.expr.clone())
    }
}

impl<E> fmt::Debug for Filter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.expr).finish()
    }
}

impl<E> fmt::Display for Filter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

impl<E> Not for Filter<E> {
    type Output = Filter<E>;

    fn not(self) -> Filter<E> {
        Filter::new(Expr::Not(Box::new(self.expr)))
    }
}

impl<E> Filter<E> {
    pub(super) fn new(expr: Expr) -> Filter<E> {
        Filter { expr, marker: PhantomData }
    }

    /// The rows that match both conditions.
    #[must_use]
    pub fn and(self, other: impl Condition<E>) -> Filter<E> {
        Filter::new(Expr::binary(BinaryOp::And, self.expr, other.into_filter().expr))
    }

    /// The rows that match one condition or both.
    #[must_use]
    pub fn or(self, other: impl Condition<E>) -> Filter<E> {
        Filter::new(Expr::binary(BinaryOp::Or, self.expr, other.into_filter().expr))
    }

    /// The tree of the condition.
    #[must_use]
    pub fn into_expr(self) -> Expr {
        self.expr
    }
}

/// What a row of `E` matches or not: a [`Filter`], or a boolean field.
#[diagnostic::on_unimplemented(
    message = "this is no condition on the rows of `{E}`",
    label = "expected a condition of the fields of `{E}`, as `….eq(…)`, or one of its boolean fields"
)]
pub trait Condition<E> {
    /// The condition as a filter.
    fn into_filter(self) -> Filter<E>;
}

impl<E> Condition<E> for Filter<E> {
    fn into_filter(self) -> Filter<E> {
        self
    }
}

impl<E, T: FieldType<Kind: kind::IsBool>, S: Source> Condition<E> for Field<E, T, S> {
    fn into_filter(self) -> Filter<E> {
        Filter::new(self.into_expr())
    }
}

/// One key of an order of the rows of `E`.
pub struct Order<E> {
    pub(super) by: OrderBy,
    marker: PhantomData<fn(&E)>,
}

impl<E> Order<E> {
    pub(super) fn new(by: OrderBy) -> Order<E> {
        Order { by, marker: PhantomData }
    }
}

impl<E> fmt::Debug for Order<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Order").field(&self.by).finish()
    }
}
