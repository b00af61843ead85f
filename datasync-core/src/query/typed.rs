//! The typed front of the query language: handles of fields, filters and orders.

use std::{fmt, marker::PhantomData};

use super::expr::{BinaryOp, Expr, Function, Literal};
use crate::entity::{FieldValue, SyncEntity};

/// The handle of one field of the entity `E`, whose values have the type `T`.
///
/// `TodoItem::FIELDS.title` is one, and a query's closures are given all of them.
pub struct Field<E, T> {
    name: &'static str,
    marker: PhantomData<fn(&E) -> Box<T>>,
}

impl<E, T> Clone for Field<E, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E, T> Copy for Field<E, T> {}

impl<E, T> fmt::Debug for Field<E, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Field").field(&self.name).finish()
    }
}

/// A value that a field of type `T` can be compared with.
#[diagnostic::on_unimplemented(
    message = "a field of type `{T}` cannot be compared with `{Self}`",
    label = "expected a value of type `{T}`"
)]
pub trait Operand<T> {
    /// The constant that stands for the value.
    fn into_literal(self) -> Literal;
}

impl<T: FieldValue> Operand<T> for T {
    fn into_literal(self) -> Literal {
        FieldValue::into_literal(self)
    }
}

impl<T: FieldValue> Operand<Option<T>> for T {
    fn into_literal(self) -> Literal {
        FieldValue::into_literal(self)
    }
}

impl<T: FieldValue> Operand<Option<T>> for Option<T> {
    fn into_literal(self) -> Literal {
        self.map_or(Literal::Null, FieldValue::into_literal)
    }
}

impl Operand<String> for &str {
    fn into_literal(self) -> Literal {
        Literal::Text(self.to_owned())
    }
}

impl Operand<Option<String>> for &str {
    fn into_literal(self) -> Literal {
        Literal::Text(self.to_owned())
    }
}

/// A type of a field that holds text: `String` or `Option<String>`.
pub trait TextField {}
impl TextField for String {}
impl TextField for Option<String> {}

macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident => $op:ident;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(self, value: impl Operand<T>) -> Filter<E> {
            Filter::new(Expr::binary(BinaryOp::$op, self.expr(), Expr::Literal(value.into_literal())))
        }
    )*};
}

impl<E, T> Field<E, T> {
    /// A handle; the derive makes them.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str) -> Field<E, T> {
        Field { name, marker: PhantomData }
    }

    /// The field's name in JSON and in queries.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    fn expr(self) -> Expr {
        Expr::Field(self.name.to_owned())
    }

    comparisons! {
        /// The rows whose field equals `value`.
        eq => Eq;
        /// The rows whose field differs from `value`; a null differs from every value.
        ne => Ne;
        /// The rows whose field is less than `value`; a null is not.
        lt => Lt;
        /// The rows whose field is at most `value`; a null is not.
        le => Le;
        /// The rows whose field is greater than `value`; a null is not.
        gt => Gt;
        /// The rows whose field is at least `value`; a null is not.
        ge => Ge;
    }

    /// The rows whose field is null.
    #[must_use]
    pub fn is_null(self) -> Filter<E> {
        Filter::new(Expr::binary(BinaryOp::Eq, self.expr(), Expr::Literal(Literal::Null)))
    }

    /// The rows whose field equals one of `values`; none if there are no values.
    #[must_use]
    pub fn is_in<V: Operand<T>>(self, values: impl IntoIterator<Item = V>) -> Filter<E> {
        Filter::new(Expr::In(Box::new(self.expr()), values.into_iter().map(Operand::into_literal).collect()))
    }

    /// Smallest value first, nulls before all.
    #[must_use]
    pub fn asc(self) -> Order<E> {
        Order { by: super::OrderBy { field: self.name.into(), descending: false }, marker: PhantomData }
    }

    /// Greatest value first, nulls after all.
    #[must_use]
    pub fn desc(self) -> Order<E> {
        Order { by: super::OrderBy { field: self.name.into(), descending: true }, marker: PhantomData }
    }
}

impl<E, T: TextField> Field<E, T> {
    fn call(self, function: Function, text: &str) -> Filter<E> {
        Filter::new(Expr::Call(function, vec![self.expr(), Expr::Literal(Literal::Text(text.to_owned()))]))
    }

    /// The rows whose text contains `text`, compared exactly.
    #[must_use]
    pub fn contains(self, text: &str) -> Filter<E> {
        self.call(Function::Contains, text)
    }

    /// The rows whose text begins with `text`, compared exactly.
    #[must_use]
    pub fn starts_with(self, text: &str) -> Filter<E> {
        self.call(Function::StartsWith, text)
    }

    /// The rows whose text ends with `text`, compared exactly.
    #[must_use]
    pub fn ends_with(self, text: &str) -> Filter<E> {
        self.call(Function::EndsWith, text)
    }
}

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

impl<E> std::ops::Not for Filter<E> {
    type Output = Filter<E>;

    fn not(self) -> Filter<E> {
        Filter::new(Expr::Not(Box::new(self.expr)))
    }
}

impl<E> Filter<E> {
    fn new(expr: Expr) -> Filter<E> {
        Filter { expr, marker: PhantomData }
    }

    /// The rows that match both conditions.
    #[must_use]
    pub fn and(self, other: Filter<E>) -> Filter<E> {
        Filter::new(Expr::binary(BinaryOp::And, self.expr, other.expr))
    }

    /// The rows that match one condition or both.
    #[must_use]
    pub fn or(self, other: Filter<E>) -> Filter<E> {
        Filter::new(Expr::binary(BinaryOp::Or, self.expr, other.expr))
    }

    /// The tree of the condition.
    #[must_use]
    pub fn into_expr(self) -> Expr {
        self.expr
    }
}

/// One key of an order of the rows of `E`.
pub struct Order<E> {
    pub(super) by: super::OrderBy,
    marker: PhantomData<fn(&E)>,
}

impl<E> fmt::Debug for Order<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Order").field(&self.by).finish()
    }
}

/// Which rows of the entity `E`, in which order and how many.
///
/// The same query serves local reads, remote reads, pulls and purges. Conditions given one after the other must all
/// hold; orders given one after the other refine each other. After the orders asked for, rows are ordered by id.
pub struct Query<E> {
    description: super::QueryDescription,
    marker: PhantomData<fn(&E)>,
}

impl<E> Clone for Query<E> {
    fn clone(&self) -> Self {
        Query { description: self.description.clone(), marker: PhantomData }
    }
}

impl<E> Default for Query<E> {
    fn default() -> Self {
        Query { description: super::QueryDescription::default(), marker: PhantomData }
    }
}

impl<E> fmt::Debug for Query<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Query").field(&self.description).finish()
    }
}

impl<E> fmt::Display for Query<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.description.fmt(f)
    }
}

impl<E: SyncEntity> Query<E> {
    /// Every row.
    #[must_use]
    pub fn new() -> Query<E> {
        Query::default()
    }

    /// Only the rows that match the condition made from the fields, and every earlier condition.
    #[must_use]
    pub fn filter(mut self, condition: impl FnOnce(E::Fields) -> Filter<E>) -> Query<E> {
        self.description.and(condition(E::FIELDS).into_expr());
        self
    }

    /// Orders by this key, after the keys given before.
    #[must_use]
    pub fn order_by(mut self, key: impl FnOnce(E::Fields) -> Order<E>) -> Query<E> {
        self.description.order.push(key(E::FIELDS).by);
        self
    }

    /// Leaves out the first `rows` rows; several calls add up, as in Datasync's `Skip`.
    #[must_use]
    pub fn skip(mut self, rows: u64) -> Query<E> {
        self.description.skip = self.description.skip.saturating_add(rows);
        self
    }

    /// At most `rows` rows; of several calls the smallest holds, as in Datasync's `Take`.
    #[must_use]
    pub fn top(mut self, rows: u64) -> Query<E> {
        self.description.top = Some(self.description.top.map_or(rows, |top| top.min(rows)));
        self
    }

    /// Also counts all rows that match, before `skip` and `top`.
    #[must_use]
    pub fn count(mut self) -> Query<E> {
        self.description.count = true;
        self
    }

    /// The query that a description says, for this table.
    ///
    /// # Errors
    ///
    /// A property that the table does not have, or operands that cannot be compared or computed with.
    pub fn of(description: super::QueryDescription) -> Result<Query<E>, super::QueryError> {
        super::Evaluator::new(&description, &E::SCHEMA)?;
        Ok(Query { description, ..Query::default() })
    }

    /// The query without its entity type.
    #[must_use]
    pub fn into_description(self) -> super::QueryDescription {
        self.description
    }

    /// The query without its entity type.
    #[must_use]
    pub fn description(&self) -> &super::QueryDescription {
        &self.description
    }
}

/// Reads a query string that is not percent-encoded, as `$filter=year gt 1990&$orderby=title`, for this table.
impl<E: SyncEntity> std::str::FromStr for Query<E> {
    type Err = super::QueryError;

    fn from_str(text: &str) -> Result<Query<E>, super::QueryError> {
        Query::of(text.parse()?)
    }
}
