//! Queries: which rows, in which order and how many; typed, as a tree, and as OData text.
//!
//! `typed` makes trees from Rust, `parse` and `options` from text; `print` makes text of them. `compile` and `eval` give them
//! their meaning, the same here and on the service; `index` and `plan` find the short way to the rows, and `first` keeps the
//! first of them.

mod compile;
mod decimal;
mod description;
mod error;
mod eval;
mod expr;
mod first;
mod functions;
mod index;
mod lexer;
mod options;
mod parse;
mod plan;
mod print;
mod typed;
mod value;

pub(crate) use decimal::Decimal;
pub use decimal::is_decimal;
pub use description::{OrderBy, QueryDescription};
pub use error::QueryError;
pub use eval::{Evaluator, SortKey};
pub use expr::{BinaryOp, Expr, Function, Literal};
pub use first::FirstRows;
pub use index::{index_keys, index_text, table_spec};
pub use options::options;
pub use parse::MAX_LENGTH;
pub use plan::{Access, Sorted, plan};
pub use print::{Dialect, milliseconds};
pub use typed::{
    Computed, Condition, Field, Filter, Id, Named, Operand, Order, Place, Query, Rfc3339, Selection, Source, UpdatedAt,
    constant,
};
pub(crate) use value::compare_json;

pub use crate::store::KeyRange;
pub use value::timestamp;
