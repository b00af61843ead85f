//! A filter checked against a table: names become places, and operands have types that fit.

use super::{
    error::QueryError,
    expr::{BinaryOp, Expr, Function, Literal},
    value::Value,
};
use crate::schema::{DELETED, FieldKind, ID, TableSchema, UPDATED_AT, VERSION};

/// Where a value of a row is found.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    Constant(Value),
    Binary(BinaryOp, Box<Node>, Box<Node>),
    Not(Box<Node>),
    In(Box<Node>, Vec<Value>),
    Call(Function, Vec<Node>),
}

/// The type of an expression.
#[derive(Clone, Debug, PartialEq)]
enum Type {
    Null,
    Bool,
    Number,
    Text,
    Enum(FieldKind),
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
            FieldKind::I64 | FieldKind::F64 | FieldKind::Decimal => Type::Number,
            FieldKind::Text => Type::Text,
            FieldKind::Enum(_) => Type::Enum(kind.clone()),
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
            Literal::Int(_) | Literal::Long(_) | Literal::Single(_) | Literal::Double(_) | Literal::Decimal(_) => {
                Type::Number
            }
            Literal::Text(_) => Type::Text,
            Literal::Timestamp(_) => Type::Stamp,
            Literal::Date(_) => Type::Date,
            Literal::Time(_) => Type::Time,
            Literal::Uuid(_) => Type::Uuid,
            Literal::Point { .. } => Type::Point,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Type::Null => "null",
            Type::Bool => "a boolean",
            Type::Number => "a number",
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
    let mut compiler = Compiler { schema, needed };
    let (node, kind) = compiler.node(filter)?;
    match kind {
        Type::Bool | Type::Null => Ok(node),
        other => Err(QueryError::new(format!("a filter must be a condition, but this is {}", other.name()))),
    }
}

struct Compiler<'c> {
    schema: &'c TableSchema,
    needed: &'c mut Vec<(String, FieldKind)>,
}

impl Compiler<'_> {
    fn node(&mut self, expr: &Expr) -> Result<(Node, Type), QueryError> {
        match expr {
            Expr::Field(name) => {
                let (slot, kind) = resolve(name, self.schema, self.needed)?;
                Ok((Node::Slot(slot), Type::of_kind(&kind)))
            }
            Expr::Literal(literal) => Ok((Node::Constant(Value::of_literal(literal)), Type::of_literal(literal))),
            Expr::Not(inner) => {
                let inner = self.condition(inner)?;
                Ok((Node::Not(Box::new(inner)), Type::Bool))
            }
            Expr::In(operand, values) => {
                let (operand, kind) = self.node(operand)?;
                let values = values.iter().map(|value| constant(value, &kind)).collect::<Result<_, _>>()?;
                Ok((Node::In(Box::new(operand), values), Type::Bool))
            }
            Expr::Binary(op, left, right) => self.binary(*op, left, right),
            Expr::Call(function, arguments) => self.call(*function, arguments),
        }
    }

    fn condition(&mut self, expr: &Expr) -> Result<Node, QueryError> {
        match self.node(expr)? {
            (node, Type::Bool | Type::Null) => Ok(node),
            (_, other) => Err(QueryError::new(format!("`{expr}` must be a condition, but is {}", other.name()))),
        }
    }

    fn binary(&mut self, op: BinaryOp, left: &Expr, right: &Expr) -> Result<(Node, Type), QueryError> {
        let both = |left, right, kind| Ok((Node::Binary(op, Box::new(left), Box::new(right)), kind));
        match op {
            BinaryOp::And | BinaryOp::Or => both(self.condition(left)?, self.condition(right)?, Type::Bool),
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod => {
                let (left_node, left_kind) = self.node(left)?;
                let (right_node, right_kind) = self.node(right)?;
                for (expr, kind) in [(left, &left_kind), (right, &right_kind)] {
                    if !matches!(kind, Type::Number | Type::Null) {
                        let message = format!("`{expr}` is {}, and `{}` takes numbers", kind.name(), op.keyword());
                        return Err(QueryError::new(message));
                    }
                }
                both(left_node, right_node, Type::Number)
            }
            _ => {
                let (left_node, left_kind) = self.operand(left, right)?;
                let (right_node, right_kind) = self.operand(right, left)?;
                if !comparable(op, &left_kind, &right_kind) {
                    let (one, other) = (left_kind.name(), right_kind.name());
                    let message = format!("`{left}` is {one}, and cannot be compared with `{right}`, {other}");
                    return Err(QueryError::new(message));
                }
                both(left_node, right_node, Type::Bool)
            }
        }
    }

    /// An operand of a comparison: a text beside an enum is the name of a member.
    fn operand(&mut self, expr: &Expr, beside: &Expr) -> Result<(Node, Type), QueryError> {
        if let (Expr::Literal(literal @ Literal::Text(_)), Expr::Field(name)) = (expr, beside) {
            let (_, kind) = resolve(name, self.schema, self.needed)?;
            if matches!(kind, FieldKind::Enum(_)) {
                let kind = Type::of_kind(&kind);
                return Ok((Node::Constant(constant(literal, &kind)?), kind));
            }
        }
        self.node(expr)
    }

    fn call(&mut self, function: Function, arguments: &[Expr]) -> Result<(Node, Type), QueryError> {
        let (least, most) = function.arity();
        if !(least..=most).contains(&arguments.len()) {
            return Err(QueryError::new(format!("`{}` takes {least} to {most} arguments", function.name())));
        }
        let mut nodes = Vec::with_capacity(arguments.len());
        for (position, argument) in arguments.iter().enumerate() {
            let (node, kind) = self.node(argument)?;
            if !accepts(function, position, &kind) {
                let message = format!("`{}` cannot take `{argument}`, {}", function.name(), kind.name());
                return Err(QueryError::new(message));
            }
            nodes.push(node);
        }
        Ok((Node::Call(function, nodes), result(function)))
    }
}

fn accepts(function: Function, position: usize, kind: &Type) -> bool {
    use Function::*;
    match (function, kind) {
        (_, Type::Null) => true,
        (Substring, Type::Number) => position > 0,
        (Substring, Type::Text) => position == 0,
        (StartsWith | EndsWith | Contains | IndexOf | Concat | ToLower | ToUpper | Trim | Length, kind) => {
            *kind == Type::Text
        }
        (Round | Floor | Ceiling, kind) => *kind == Type::Number,
        (Year | Month | Day, kind) => matches!(kind, Type::Stamp | Type::Date),
        (Hour | Minute | Second, kind) => matches!(kind, Type::Stamp | Type::Time),
        (GeoDistance, kind) => *kind == Type::Point,
        _ => false,
    }
}

fn result(function: Function) -> Type {
    use Function::*;
    match function {
        StartsWith | EndsWith | Contains => Type::Bool,
        ToLower | ToUpper | Trim | Substring | Concat => Type::Text,
        _ => Type::Number,
    }
}

fn comparable(op: BinaryOp, one: &Type, other: &Type) -> bool {
    let equality = matches!(op, BinaryOp::Eq | BinaryOp::Ne);
    match (one, other) {
        (Type::Null, _) | (_, Type::Null) => true,
        (Type::Other | Type::Point, _) | (_, Type::Other | Type::Point) => false,
        (one, other) => one == other && (equality || *one != Type::Bool),
    }
}

fn constant(literal: &Literal, beside: &Type) -> Result<Value, QueryError> {
    if let (Literal::Text(name), Type::Enum(FieldKind::Enum(names))) = (literal, beside) {
        let position = names.iter().position(|known| known == name);
        return position
            .map(Value::Enum)
            .ok_or_else(|| QueryError::new(format!("`{name}` is not one of {}", names.join(", "))));
    }
    match Type::of_literal(literal) {
        kind if kind == Type::Null || kind == *beside => Ok(Value::of_literal(literal)),
        kind => Err(QueryError::new(format!("`{literal}` is {}, and the list is of {}", kind.name(), beside.name()))),
    }
}
