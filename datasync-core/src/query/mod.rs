//! Queries: which rows, in which order and how many; typed, as a tree, and as OData text.

mod description;
mod expr;
mod print;
mod typed;

pub use description::{OrderBy, QueryDescription};
pub use expr::{BinaryOp, Expr, Function, Literal};
pub use print::milliseconds;
pub use typed::{Field, Filter, Operand, Order, Query, TextField};
