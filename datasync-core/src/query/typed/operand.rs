//! What stands beside a field in a comparison or a computation.

use std::marker::PhantomData;

use super::{Field, Source};
use crate::{
    entity::{EntityId, FieldType, FieldValue, kind},
    query::expr::{Expr, Literal},
    schema::FieldKind,
};

/// What a field of type `T` of the entity `E` can be compared or computed with: a value of the type, or another field of the
/// same kind.
#[diagnostic::on_unimplemented(
    message = "a field of type `{T}` cannot be compared or computed with `{Self}`",
    label = "expected a value of type `{T}`, or a field of its kind",
    note = "`widen` lets a number take those of another type, only an `Option` takes `None`, and a field that the engine cannot \
            compare has `is_null` and `is_not_null` alone"
)]
pub trait Operand<E, T> {
    /// [`Literal`] for a value, [`Expr`] for a field.
    type Node: Into<Expr>;

    /// The part of an expression that stands for it.
    fn into_node(self) -> Self::Node;
}

impl<E, T: FieldValue> Operand<E, T> for T {
    type Node = Literal;

    fn into_node(self) -> Literal {
        self.into_literal()
    }
}

impl<E, T: FieldValue + Clone> Operand<E, T> for &T {
    type Node = Literal;

    fn into_node(self) -> Literal {
        self.clone().into_literal()
    }
}

impl<E, T: FieldValue> Operand<E, Option<T>> for T {
    type Node = Literal;

    fn into_node(self) -> Literal {
        self.into_literal()
    }
}

impl<E, T: FieldValue + Clone> Operand<E, Option<T>> for &T {
    type Node = Literal;

    fn into_node(self) -> Literal {
        self.clone().into_literal()
    }
}

impl<E, T: FieldValue> Operand<E, Option<T>> for Option<T> {
    type Node = Literal;

    fn into_node(self) -> Literal {
        self.map_or(Literal::Null, FieldValue::into_literal)
    }
}

impl<E> Operand<E, String> for &str {
    type Node = Literal;

    fn into_node(self) -> Literal {
        Literal::Text(self.to_owned())
    }
}

impl<E> Operand<E, Option<String>> for &str {
    type Node = Literal;

    fn into_node(self) -> Literal {
        Literal::Text(self.to_owned())
    }
}

impl<E, T, U, S> Operand<E, T> for Field<E, U, S>
where
    T: FieldType,
    U: FieldType<Kind: kind::ComparesWith<T::Kind>>,
    S: Source,
{
    type Node = Expr;

    fn into_node(self) -> Expr {
        self.into_expr()
    }
}

/// The type of the handle of an id whose own type is `T`: ids compare as texts, whatever their type.
#[derive(Debug)]
pub struct Id<T>(PhantomData<T>);

impl<T> FieldType for Id<T> {
    type Kind = kind::Ids;
    const KIND: FieldKind = FieldKind::Text;
}

impl<E, T: EntityId> Operand<E, Id<T>> for T {
    type Node = Literal;

    fn into_node(self) -> Literal {
        Literal::Text(self.as_text().into_owned())
    }
}

impl<E, T: EntityId> Operand<E, Id<T>> for &T {
    type Node = Literal;

    fn into_node(self) -> Literal {
        Literal::Text(self.as_text().into_owned())
    }
}

impl<E, T> Operand<E, Id<T>> for &str {
    type Node = Literal;

    fn into_node(self) -> Literal {
        Literal::Text(self.to_owned())
    }
}

/// The type of the handle of the time of a row's last change, whose own type is `T`: it compares as a timestamp, also where the
/// entity keeps its text.
#[derive(Debug)]
pub struct UpdatedAt<T>(PhantomData<T>);

impl<T: FieldType> FieldType for UpdatedAt<T> {
    type Kind = kind::Timestamps;
    const KIND: FieldKind = FieldKind::Timestamp;
    const NULLABLE: bool = T::NULLABLE;
}

impl<E, T, V: FieldValue<Kind = kind::Timestamps>> Operand<E, UpdatedAt<T>> for V {
    type Node = Literal;

    fn into_node(self) -> Literal {
        self.into_literal()
    }
}

/// The type of the handle of a field of type `T` that serde writes as RFC 3339 text by one of the modules that the derive
/// knows: `time::serde::rfc3339` and its `option`.
#[derive(Debug)]
pub struct Rfc3339<T>(PhantomData<T>);
