//! Queries: the tree of a filter and its OData text.

mod expr;
mod print;

pub use expr::{BinaryOp, Expr, Function, Literal};
pub use print::milliseconds;
