//! A filter checked against a table: names become places, operands have types that fit, and constants the type of what they
//! stand beside.

use std::borrow::Cow;

use super::{
    decimal::Decimal,
    error::QueryError,
    expr::{BinaryOp, Expr, Function, Literal},
    value::Value,
};
use crate::schema::{DELETED, FieldKind, ID, TableSchema, UPDATED_AT, VERSION};

/// How deep a filter may be. The parser takes less; conditions of a view or a pull are added to that.
const MAX_LEVELS: usize = 250;

/// Where a value of a row is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Id,
    Version,
    UpdatedAt,
    Deleted,
    /// A field of the body, by its position among those that are needed.
    Field(usize),
}

/// A checked expression.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Slot(Slot),
    Constant(Value<'static>),
    Binary(BinaryOp, Box<Node>, Box<Node>),
    Not(Box<Node>),
    /// The constants are sorted.
    In(Box<Node>, Vec<Value<'static>>),
    Call(Function, Vec<Node>),
}

/// The type of an expression.
#[derive(Clone, Debug, PartialEq)]
enum Type {
    Null,
    Bool,
    Int,
    Decimal,
    Float,
    Text,
    Enum(Cow<'static, [Cow<'static, str>]>),
    Stamp,
    Date,
    Time,
    Uuid,
    Point,
    Other,
}

impl Type {
    fn of_kind(kind: &FieldKind) -> Type {
        match kind {
            FieldKind::Bool => Type::Bool,
            FieldKind::I64 => Type::Int,
            FieldKind::F64 => Type::Float,
            FieldKind::Decimal => Type::Decimal,
            FieldKind::Text => Type::Text,
            FieldKind::Enum(names) => Type::Enum(names.clone()),
            FieldKind::Timestamp => Type::Stamp,
            FieldKind::Date => Type::Date,
            FieldKind::Time => Type::Time,
            FieldKind::Uuid => Type::Uuid,
            FieldKind::Point => Type::Point,
            FieldKind::Bytes | FieldKind::Json => Type::Other,
        }
    }

    fn of_literal(literal: &Literal) -> Type {
        match literal {
            Literal::Null => Type::Null,
            Literal::Bool(_) => Type::Bool,
            Literal::Int(_) | Literal::Long(_) => Type::Int,
            Literal::Single(_) | Literal::Double(_) => Type::Float,
            Literal::Decimal(_) => Type::Decimal,
            Literal::Text(_) => Type::Text,
            Literal::Timestamp(_) => Type::Stamp,
            Literal::Date(_) => Type::Date,
            Literal::Time(_) => Type::Time,
            Literal::Uuid(_) => Type::Uuid,
            Literal::Point { .. } => Type::Point,
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::Decimal | Type::Float)
    }

    fn name(&self) -> &'static str {
        match self {
            Type::Null => "null",
            Type::Bool => "a boolean",
            Type::Int | Type::Decimal | Type::Float => "a number",
            Type::Text => "a text",
            Type::Enum(_) => "an enum",
            Type::Stamp => "a timestamp",
            Type::Date => "a date",
            Type::Time => "a time of day",
            Type::Uuid => "a UUID",
            Type::Point => "a point",
            Type::Other => "a value without an order",
        }
    }
}

/// The place and kind of a property. Names are compared without regard to case, as the originals' service does.
pub(super) fn resolve(
    name: &str,
    schema: &TableSchema,
    needed: &mut Vec<(String, FieldKind)>,
) -> Result<(Slot, FieldKind), QueryError> {
    let is = |role: &str| name.eq_ignore_ascii_case(role);
    if is(ID) {
        return Ok((Slot::Id, FieldKind::Text));
    } else if is(VERSION) {
        return Ok((Slot::Version, FieldKind::Text));
    } else if is(UPDATED_AT) {
        return Ok((Slot::UpdatedAt, FieldKind::Timestamp));
    } else if is(DELETED) {
        return Ok((Slot::Deleted, FieldKind::Bool));
    }
    let inexact = || schema.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    let Some(field) = schema.field(name).or_else(inexact) else {
        return Err(QueryError::new(format!("`{}` has no property `{name}`", schema.name)));
    };
    let position = needed.iter().position(|(known, _)| *known == field.name).unwrap_or_else(|| {
        needed.push((field.name.to_string(), field.kind.clone()));
        needed.len() - 1
    });
    Ok((Slot::Field(position), field.kind.clone()))
}

/// Checks a filter; `needed` becomes the list of the fields that it reads.
pub(super) fn compile(
    filter: &Expr,
    schema: &TableSchema,
    needed: &mut Vec<(String, FieldKind)>,
) -> Result<Node, QueryError> {
    let mut compiler = Compiler { schema, needed, level: 0 };
    match compiler.node(filter)? {
        (node, Type::Bool | Type::Null) => Ok(node),
        (_, other) => Err(QueryError::new(format!("a filter must be a condition, but this is {}", other.name()))),
    }
}

/// Checks a key of an order.
pub(super) fn order_key(
    name: &str,
    schema: &TableSchema,
    needed: &mut Vec<(String, FieldKind)>,
) -> Result<Slot, QueryError> {
    match resolve(name, schema, needed)? {
        (_, FieldKind::Json | FieldKind::Bytes | FieldKind::Point) => {
            Err(QueryError::new(format!("`{name}` is a value without an order")))
        }
        (slot, _) => Ok(slot),
    }
}

struct Compiler<'c> {
    schema: &'c TableSchema,
    needed: &'c mut Vec<(String, FieldKind)>,
    level: usize,
}

impl Compiler<'_> {
    fn node(&mut self, expr: &Expr) -> Result<(Node, Type), QueryError> {
        if self.level == MAX_LEVELS {
            let message = format!("the filter is nested more than {MAX_LEVELS} deep: use `in` for many values");
            return Err(QueryError::new(message));
        }
        self.level += 1;
        let node = match expr {
            Expr::Field(name) => {
                let (slot, kind) = resolve(name, self.schema, self.needed)?;
                (Node::Slot(slot), Type::of_kind(&kind))
            }
            Expr::Literal(literal) => beside(literal, &Type::Null, false)?,
            Expr::Not(inner) => (Node::Not(Box::new(self.condition(inner)?)), Type::Bool),
            Expr::In(operand, values) => {
                let (operand, kind) = self.node(operand)?;
                let mut values = values.iter().map(|value| listed(value, &kind)).collect::<Result<Vec<_>, _>>()?;
                values.sort_by(Value::order);
                (Node::In(Box::new(operand), values), Type::Bool)
            }
            Expr::Binary(op, left, right) => self.binary(*op, left, right)?,
            Expr::Call(function, arguments) => self.call(*function, arguments)?,
        };
        self.level -= 1;
        Ok(node)
    }

    fn condition(&mut self, expr: &Expr) -> Result<Node, QueryError> {
        match self.node(expr)? {
            (node, Type::Bool | Type::Null) => Ok(node),
            (_, other) => Err(QueryError::new(format!(
                "`{}` must be a condition, but is {}",
                expr.without_constants(),
                other.name()
            ))),
        }
    }

    fn binary(&mut self, op: BinaryOp, left: &Expr, right: &Expr) -> Result<(Node, Type), QueryError> {
        if matches!(op, BinaryOp::And | BinaryOp::Or) {
            let (left, right) = (self.condition(left)?, self.condition(right)?);
            return Ok((Node::Binary(op, Box::new(left), Box::new(right)), Type::Bool));
        }
        let arithmetic = matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod);
        let (mut left_node, mut left_kind) = self.node(left)?;
        let (mut right_node, mut right_kind) = self.node(right)?;
        match (left, right) {
            (Expr::Literal(_), Expr::Literal(_)) => {}
            (Expr::Literal(literal), _) => (left_node, left_kind) = beside(literal, &right_kind, arithmetic)?,
            (_, Expr::Literal(literal)) => (right_node, right_kind) = beside(literal, &left_kind, arithmetic)?,
            _ => {}
        }
        let kind = if arithmetic {
            for (expr, kind) in [(left, &left_kind), (right, &right_kind)] {
                if !kind.is_number() && *kind != Type::Null {
                    let message = format!(
                        "`{}` is {}, and `{}` takes numbers",
                        expr.without_constants(),
                        kind.name(),
                        op.keyword()
                    );
                    return Err(QueryError::new(message));
                }
            }
            match (left_kind, right_kind) {
                (Type::Float, _) | (_, Type::Float) => Type::Float,
                (Type::Decimal, _) | (_, Type::Decimal) => Type::Decimal,
                _ => Type::Int,
            }
        } else if comparable(op, &left_kind, &right_kind) {
            Type::Bool
        } else {
            let (one, other) = (left_kind.name(), right_kind.name());
            let (left, right) = (left.without_constants(), right.without_constants());
            let message = format!("`{left}` is {one}, and cannot be compared with `{right}`, {other}");
            return Err(QueryError::new(message));
        };
        Ok((Node::Binary(op, Box::new(left_node), Box::new(right_node)), kind))
    }

    fn call(&mut self, function: Function, arguments: &[Expr]) -> Result<(Node, Type), QueryError> {
        let (least, most) = function.arity();
        if !(least..=most).contains(&arguments.len()) {
            return Err(QueryError::new(format!("`{}` takes {least} to {most} arguments", function.name())));
        }
        let mut nodes = Vec::with_capacity(arguments.len());
        let mut first = Type::Null;
        for (position, argument) in arguments.iter().enumerate() {
            let (node, kind) = self.node(argument)?;
            if !accepts(function, position, &kind) {
                let message =
                    format!("`{}` cannot take `{}`, {}", function.name(), argument.without_constants(), kind.name());
                return Err(QueryError::new(message));
            }
            nodes.push(node);
            if position == 0 {
                first = kind;
            }
        }
        Ok((Node::Call(function, nodes), result(function, first)))
    }
}

fn accepts(function: Function, position: usize, kind: &Type) -> bool {
    use Function::*;
    match (function, kind) {
        (_, Type::Null) => true,
        (Substring, kind) if position > 0 => *kind == Type::Int,
        (
            StartsWith | EndsWith | Contains | IndexOf | Concat | ToLower | ToUpper | Trim | Length | Substring
            | Replace,
            kind,
        ) => *kind == Type::Text,
        (Round | Floor | Ceiling, kind) => kind.is_number(),
        (Year | Month | Day, kind) => matches!(kind, Type::Stamp | Type::Date),
        (Hour | Minute | Second, kind) => matches!(kind, Type::Stamp | Type::Time),
        (GeoDistance, kind) => *kind == Type::Point,
    }
}

fn result(function: Function, first: Type) -> Type {
    use Function::*;
    match function {
        StartsWith | EndsWith | Contains => Type::Bool,
        ToLower | ToUpper | Trim | Substring | Concat | Replace => Type::Text,
        Round | Floor | Ceiling => first,
        GeoDistance => Type::Float,
        Length | IndexOf | Year | Month | Day | Hour | Minute | Second => Type::Int,
    }
}

fn comparable(op: BinaryOp, one: &Type, other: &Type) -> bool {
    let equality = matches!(op, BinaryOp::Eq | BinaryOp::Ne);
    match (one, other) {
        (Type::Null, _) | (_, Type::Null) => true,
        (Type::Other | Type::Point, _) | (_, Type::Other | Type::Point) => false,
        (one, other) if one.is_number() => other.is_number(),
        (one, other) => one == other && (equality || *one != Type::Bool),
    }
}

/// A constant beside an expression of another type: a text beside an enum is the name of a member, and a number becomes what
/// it stands beside, so that nothing of a decimal is lost and a floating-point number meets its like.
///
/// In arithmetic a number with a point beside a whole one stays what it is: that is how a division says that it is none of
/// whole numbers.
fn beside(literal: &Literal, other: &Type, arithmetic: bool) -> Result<(Node, Type), QueryError> {
    let own = Type::of_literal(literal);
    let is_number = match literal {
        Literal::Single(value) => value.is_finite(),
        Literal::Double(value) => value.is_finite(),
        Literal::Decimal(text) => Decimal::parse_exact(text).is_some(),
        _ => true,
    };
    if !is_number {
        return Err(QueryError::new("a constant is not a number, or has more than 38 digits"));
    }
    let (value, kind) = match (literal, other) {
        (Literal::Text(name), Type::Enum(names)) => {
            let position = names.iter().position(|known| known == name);
            let unknown = || QueryError::new(format!("a constant is not one of {}", names.join(", ")));
            (Value::Enum(position.ok_or_else(unknown)?), other.clone())
        }
        (_, Type::Float) if own.is_number() => {
            let float = Value::of_literal(literal).to_f64();
            (float.map_or(Value::Null, Value::Float), Type::Float)
        }
        (_, Type::Decimal | Type::Int) if own.is_number() && !(arithmetic && *other == Type::Int) => {
            let value = match exact(literal) {
                Some(value) if *other == Type::Int => value.to_int().map_or(Value::Decimal(value), Value::Int),
                Some(value) => Value::Decimal(value),
                None => Value::of_literal(literal),
            };
            (value, other.clone())
        }
        _ => (Value::of_literal(literal), own),
    };
    Ok((Node::Constant(value), kind))
}

/// A number as it is written.
fn exact(literal: &Literal) -> Option<Decimal> {
    match literal {
        Literal::Single(value) => Decimal::parse(&format!("{value:e}")),
        literal => Value::of_literal(literal).to_decimal(),
    }
}

fn listed(literal: &Literal, operand: &Type) -> Result<Value<'static>, QueryError> {
    match beside(literal, operand, false)? {
        (Node::Constant(value), kind) if comparable(BinaryOp::Eq, operand, &kind) => Ok(value),
        (_, kind) => {
            let (one, other) = (kind.name(), operand.name());
            Err(QueryError::new(format!("a constant is {one}, and the list is of {other}")))
        }
    }
}
