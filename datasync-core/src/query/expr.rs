//! The tree of a filter: what the printer prints, the parser builds and the evaluator walks.

use std::fmt;

use jiff::{Timestamp, civil};
use uuid::Uuid;

/// A node of a filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A property of the entity, by its wire name.
    Field(String),
    /// A constant.
    Literal(Literal),
    /// Two operands joined by an operator.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// Logical negation.
    Not(Box<Expr>),
    /// True if the operand equals one of the constants.
    In(Box<Expr>, Vec<Literal>),
    /// A function call.
    Call(Function, Vec<Expr>),
}

impl From<Literal> for Expr {
    fn from(literal: Literal) -> Expr {
        Expr::Literal(literal)
    }
}

impl Expr {
    /// Joins two expressions by `op`.
    #[must_use]
    pub fn binary(op: BinaryOp, left: Expr, right: Expr) -> Expr {
        Expr::Binary(op, Box::new(left), Box::new(right))
    }

    /// The expression with `…` in place of its constants: for errors, which may end in a log (I21).
    pub(super) fn without_constants(&self) -> Expr {
        let boxed = |inner: &Expr| Box::new(inner.without_constants());
        match self {
            Expr::Literal(_) => Expr::Field("…".to_owned()),
            Expr::Field(_) => self.clone(),
            Expr::Binary(op, left, right) => Expr::Binary(*op, boxed(left), boxed(right)),
            Expr::Not(inner) => Expr::Not(boxed(inner)),
            Expr::In(operand, _) => Expr::In(boxed(operand), Vec::new()),
            Expr::Call(function, arguments) => {
                Expr::Call(*function, arguments.iter().map(Expr::without_constants).collect())
            }
        }
    }

    /// Calls `visit` for each property that the expression names, left to right, repeats included.
    pub fn visit_fields<'e>(&'e self, visit: &mut impl FnMut(&'e str)) {
        match self {
            Expr::Field(name) => visit(name),
            Expr::Literal(_) => {}
            Expr::Binary(_, left, right) => {
                left.visit_fields(visit);
                right.visit_fields(visit);
            }
            Expr::Not(inner) | Expr::In(inner, _) => inner.visit_fields(visit),
            Expr::Call(_, arguments) => {
                for argument in arguments {
                    argument.visit_fields(visit);
                }
            }
        }
    }
}

/// An operator with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are OData's own")]
pub enum BinaryOp {
    Or,
    And,
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
}

impl BinaryOp {
    /// Every operator, in no particular order.
    pub const ALL: [BinaryOp; 13] = {
        use BinaryOp::*;
        [Or, And, Eq, Ne, Gt, Ge, Lt, Le, Add, Sub, Mul, Div, Mod]
    };

    /// The keyword of the operator in OData text.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            BinaryOp::Or => "or",
            BinaryOp::And => "and",
            BinaryOp::Eq => "eq",
            BinaryOp::Ne => "ne",
            BinaryOp::Gt => "gt",
            BinaryOp::Ge => "ge",
            BinaryOp::Lt => "lt",
            BinaryOp::Le => "le",
            BinaryOp::Add => "add",
            BinaryOp::Sub => "sub",
            BinaryOp::Mul => "mul",
            BinaryOp::Div => "div",
            BinaryOp::Mod => "mod",
        }
    }

    /// How tightly the operator binds; a higher number binds tighter.
    #[must_use]
    pub(crate) fn precedence(self) -> u8 {
        match self {
            BinaryOp::Or => 1,
            BinaryOp::And => 2,
            BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Gt | BinaryOp::Ge | BinaryOp::Lt | BinaryOp::Le => 3,
            BinaryOp::Add | BinaryOp::Sub => 4,
            BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod => 5,
        }
    }
}

/// A function of the filter language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are OData's own")]
pub enum Function {
    StartsWith,
    EndsWith,
    Contains,
    ToLower,
    ToUpper,
    Trim,
    Length,
    IndexOf,
    Substring,
    Concat,
    /// Known to Azure's local stores; services do not take it.
    Replace,
    Round,
    Floor,
    Ceiling,
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    GeoDistance,
}

impl Function {
    /// Every function, in no particular order.
    pub const ALL: [Function; 21] = {
        use Function::*;
        [
            StartsWith,
            EndsWith,
            Contains,
            ToLower,
            ToUpper,
            Trim,
            Length,
            IndexOf,
            Substring,
            Concat,
            Replace,
            Round,
            Floor,
            Ceiling,
            Year,
            Month,
            Day,
            Hour,
            Minute,
            Second,
            GeoDistance,
        ]
    };

    /// The name of the function in OData text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Function::StartsWith => "startswith",
            Function::EndsWith => "endswith",
            Function::Contains => "contains",
            Function::ToLower => "tolower",
            Function::ToUpper => "toupper",
            Function::Trim => "trim",
            Function::Length => "length",
            Function::IndexOf => "indexof",
            Function::Substring => "substring",
            Function::Concat => "concat",
            Function::Replace => "replace",
            Function::Round => "round",
            Function::Floor => "floor",
            Function::Ceiling => "ceiling",
            Function::Year => "year",
            Function::Month => "month",
            Function::Day => "day",
            Function::Hour => "hour",
            Function::Minute => "minute",
            Function::Second => "second",
            Function::GeoDistance => "geo.distance",
        }
    }

    /// The least and the greatest number of arguments.
    #[must_use]
    pub fn arity(self) -> (usize, usize) {
        match self {
            Function::StartsWith
            | Function::EndsWith
            | Function::Contains
            | Function::IndexOf
            | Function::Concat
            | Function::GeoDistance => (2, 2),
            Function::Substring => (2, 3),
            Function::Replace => (3, 3),
            _ => (1, 1),
        }
    }
}

/// A constant of a filter. Its `Debug` output says of what kind it is and never shows it; `Display` prints it.
#[derive(Clone, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number of up to 32 bits: digits alone.
    Int(i64),
    /// A whole number of 64 bits: digits and `L`.
    Long(i64),
    /// A number of single precision: its shortest text and `f`.
    Single(f32),
    /// A number of double precision: always with a point or an exponent.
    Double(f64),
    /// A decimal number, as its text without the suffix `M`.
    Decimal(String),
    /// A text, or the name of an enum member.
    Text(String),
    /// A point in time, printed in UTC with milliseconds.
    Timestamp(Timestamp),
    /// A date without a time.
    Date(civil::Date),
    /// A time of day.
    Time(civil::Time),
    /// A UUID.
    Uuid(Uuid),
    /// A place on the earth, in degrees.
    Point {
        /// East is positive.
        longitude: f64,
        /// North is positive.
        latitude: f64,
    },
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Literal::Null => "Null",
            Literal::Bool(_) => "Bool",
            Literal::Int(_) => "Int",
            Literal::Long(_) => "Long",
            Literal::Single(_) => "Single",
            Literal::Double(_) => "Double",
            Literal::Decimal(_) => "Decimal",
            Literal::Text(_) => "Text",
            Literal::Timestamp(_) => "Timestamp",
            Literal::Date(_) => "Date",
            Literal::Time(_) => "Time",
            Literal::Uuid(_) => "Uuid",
            Literal::Point { .. } => "Point",
        })
    }
}
