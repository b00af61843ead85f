//! A whole query without its entity type, and its OData text.

use std::{collections::BTreeMap, fmt};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    error::QueryError,
    expr::{BinaryOp, Expr},
    print::{Dialect, Spelled},
};

/// A whole query: what the options of an OData query string say.
#[derive(Clone, Default, PartialEq)]
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
    /// Whether soft-deleted rows are wanted too.
    pub include_deleted: bool,
    /// What else stands in the query string, by its names; none begins with `$` or `__`.
    pub parameters: BTreeMap<String, String>,
}

/// The parameter that asks for soft-deleted rows.
pub(super) const INCLUDE_DELETED: &str = "__includedeleted";
/// What RFC 3986 leaves as it is in a value, as in .NET's `Uri.EscapeDataString`.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One key of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderBy {
    /// The wire name of the property.
    pub field: String,
    /// Whether the greatest value comes first.
    pub descending: bool,
}

/// Without the constants of the filter and the values of the parameters (I21).
impl fmt::Debug for QueryDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QueryDescription { filter, order, skip, top, select, count, include_deleted, parameters } = self;
        f.debug_struct("QueryDescription")
            .field("filter", filter)
            .field("order", order)
            .field("skip", skip)
            .field("top", top)
            .field("select", select)
            .field("count", count)
            .field("include_deleted", include_deleted)
            .field("parameters", &parameters.keys())
            .finish()
    }
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

impl QueryDescription {
    /// Adds a parameter of the app's own, as in Datasync's `WithParameter`.
    ///
    /// # Errors
    ///
    /// A name or a value that is blank, or a name that begins with `$` or `__`.
    pub fn with_parameter(mut self, name: &str, value: &str) -> Result<QueryDescription, QueryError> {
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() || value.is_empty() {
            return Err(QueryError::new("a parameter needs a name and a value that are not blank"));
        }
        if name.starts_with('$') || name.starts_with("__") {
            return Err(QueryError::new(format!(
                "`{name}` cannot be a parameter: `$` and `__` are the protocol's own"
            )));
        }
        self.parameters.insert(name.to_owned(), value.to_owned());
        Ok(self)
    }

    /// The text of the query in the spelling of a dialect, without percent-encoding.
    #[must_use]
    pub fn to_text(&self, dialect: Dialect) -> String {
        self.write(dialect, str::to_owned)
    }

    /// The query string as the clients of the originals send it, percent-encoded; without a `?`.
    #[must_use]
    pub fn to_query_string(&self, dialect: Dialect) -> String {
        self.write(dialect, |value| utf8_percent_encode(value, VALUE).to_string())
    }

    /// The options in the order of the originals' clients.
    fn write(&self, dialect: Dialect, encode: impl Fn(&str) -> String) -> String {
        let mut options = Vec::new();
        if let Some(filter) = &self.filter {
            options.push(format!("$filter={}", encode(&Spelled(filter, dialect).to_string())));
        }
        if !self.order.is_empty() {
            // The blank before `desc` is left to the URL, as in .NET.
            let key = |key: &OrderBy| encode(&key.field) + if key.descending { " desc" } else { "" };
            let keys: Vec<String> = self.order.iter().map(key).collect();
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
            let names: Vec<String> = names.iter().map(|name| encode(name)).collect();
            options.push(format!("$select={}", names.join(",")));
        }
        if self.count {
            options.push("$count=true".to_owned());
        }
        let mut parameters: BTreeMap<&str, &str> =
            self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if self.include_deleted {
            parameters.insert(INCLUDE_DELETED, "true");
        }
        options.extend(parameters.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))));
        options.join("&")
    }
}

/// The text of the query as the clients of the originals write it, without percent-encoding.
impl fmt::Display for QueryDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.write(Dialect::default(), str::to_owned))
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
