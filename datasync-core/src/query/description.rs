//! A whole query without its entity type, and its OData text.

use std::fmt;

use super::expr::{BinaryOp, Expr};

/// A whole query: what the options of an OData query string say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryDescription {
    /// Which rows; `None` for all.
    pub filter: Option<Expr>,
    /// In which order, the first key first; rows that agree in all keys are ordered by id.
    pub order: Vec<OrderBy>,
    /// How many rows to leave out at the start.
    pub skip: u64,
    /// How many rows at most.
    pub top: Option<u64>,
    /// The wire names of the properties to answer; empty for all.
    pub select: Vec<String>,
    /// Whether to count the rows that match, before `skip` and `top`.
    pub count: bool,
}

/// One key of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderBy {
    /// The wire name of the property.
    pub field: String,
    /// Whether the greatest value comes first.
    pub descending: bool,
}

impl QueryDescription {
    /// Adds a condition that must hold too.
    pub fn and(&mut self, condition: Expr) {
        self.filter = Some(match self.filter.take() {
            Some(first) => Expr::binary(BinaryOp::And, first, condition),
            None => condition,
        });
    }
}

/// The text of the query as the clients of the originals write it, without percent-encoding.
impl fmt::Display for QueryDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = Vec::new();
        if let Some(filter) = &self.filter {
            options.push(format!("$filter={filter}"));
        }
        if !self.order.is_empty() {
            let keys: Vec<String> = self.order.iter().map(OrderBy::to_string).collect();
            options.push(format!("$orderby={}", keys.join(",")));
        }
        if self.skip > 0 {
            options.push(format!("$skip={}", self.skip));
        }
        if let Some(top) = self.top {
            options.push(format!("$top={top}"));
        }
        if !self.select.is_empty() {
            let mut names = self.select.clone();
            names.sort();
            options.push(format!("$select={}", names.join(",")));
        }
        if self.count {
            options.push("$count=true".to_owned());
        }
        f.write_str(&options.join("&"))
    }
}

impl fmt::Display for OrderBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        if self.descending {
            f.write_str(" desc")?;
        }
        Ok(())
    }
}
