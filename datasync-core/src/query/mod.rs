//! Queries: which rows, in which order and how many; typed, as a tree, and as OData text.
//!
//! `typed` makes trees from Rust, `parse` from text; `print` makes text of them. `compile` and `eval` give them their
//! meaning, the same here and on the service; `index` finds the short way to the rows.

mod compile;
mod description;
mod error;
mod eval;
mod expr;
mod functions;
mod index;
mod lexer;
mod parse;
mod plan;
mod print;
mod typed;
mod value;

pub use description::{OrderBy, QueryDescription};
pub use error::QueryError;
pub use eval::{Evaluator, SortKey};
pub use expr::{BinaryOp, Expr, Function, Literal};
pub use index::{index_keys, index_text, table_spec};
pub use plan::{Access, KeyRange, Sorted, plan};
pub use print::{Dialect, milliseconds};
pub use typed::{
    Computed, Condition, Field, Filter, Id, Named, Operand, Order, Place, Query, Rfc3339, Selection, Source, UpdatedAt,
    constant,
};
