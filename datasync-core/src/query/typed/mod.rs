//! The typed front of the query language: handles of fields, filters and orders.
//!
//! `field` and `operators` make conditions of the handles that the derive generates, `operand` says what stands beside them,
//! and a [`Query`] puts conditions together.

mod field;
mod filter;
mod operand;
mod operators;
mod selection;

use std::{fmt, marker::PhantomData};

pub use field::{Computed, Field, Named, Source, constant};
pub use filter::{Condition, Filter, Order};
pub use operand::{Id, Operand, Rfc3339, UpdatedAt};
pub use operators::Place;
pub use selection::Selection;

use super::{Evaluator, QueryDescription, QueryError};
use crate::{client::RowType, entity::SyncEntity};

/// Which rows of the entity `E`, in which order and how many.
///
/// The same query serves local reads, remote reads, pulls and purges. Conditions given one after the other must all hold.
/// After the orders asked for, rows are ordered by id. It prints as the text that the clients of the originals write:
///
/// ```
/// # use datasync_core::query::Query;
/// # use datasync_derive::SyncEntity;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize, SyncEntity)]
/// # #[sync(crate = "datasync_core")]
/// # struct Film { id: String, title: String, year: i32, watched: bool }
/// let query = Query::<Film>::new()
///     .filter(|film| film.year.ge(1990).and(film.title.starts_with_ignore_case("the ")))
///     .filter(|film| !film.watched)
///     .order_by(|film| film.year.desc())
///     .then_by(|film| film.title.asc())
///     .top(20);
/// assert_eq!(
///     query.to_string(),
///     "$filter=(((year ge 1990) and startswith(tolower(title),tolower('the '))) and not(watched))\
///      &$orderby=year desc,title&$top=20"
/// );
/// let same: Query<Film> = query.to_string().parse()?;
/// # Ok::<(), datasync_core::query::QueryError>(())
/// ```
pub struct Query<E> {
    description: QueryDescription,
    marker: PhantomData<fn(&E)>,
}

impl<E> Clone for Query<E> {
    fn clone(&self) -> Self {
        Query { description: self.description.clone(), marker: PhantomData }
    }
}

impl<E> Default for Query<E> {
    fn default() -> Self {
        Query { description: QueryDescription::default(), marker: PhantomData }
    }
}

impl<E> fmt::Debug for Query<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Query").field(&self.description).finish()
    }
}

impl<E> fmt::Display for Query<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.description.fmt(f)
    }
}

impl<E: SyncEntity> Query<E> {
    /// Only the rows that match the condition made from the fields, and every earlier condition.
    #[must_use]
    pub fn filter<C: Condition<E>>(mut self, condition: impl FnOnce(E::Fields) -> C) -> Query<E> {
        self.description.and(condition(E::FIELDS).into_filter().into_expr());
        self
    }

    /// Orders by this key before all keys given so far, as in Datasync's `OrderBy`: they order the rows that agree in it.
    #[must_use]
    pub fn order_by(mut self, key: impl FnOnce(E::Fields) -> Order<E>) -> Query<E> {
        self.description.order.insert(0, key(E::FIELDS).by);
        self
    }

    /// Orders the rows that agree in all keys given so far by this key, as in Datasync's `ThenBy`.
    #[must_use]
    pub fn then_by(mut self, key: impl FnOnce(E::Fields) -> Order<E>) -> Query<E> {
        self.description.order.push(key(E::FIELDS).by);
        self
    }

    /// Asks a service for these fields only, as in Datasync's `Select`; of several calls the first holds. Rows are read into a
    /// type that has these fields by [`select`](crate::client::OfflineQuery::select) of a table's query; a query that reads
    /// whole entities asks for all fields.
    ///
    /// ```
    /// # use datasync_core::query::Query;
    /// # use datasync_derive::SyncEntity;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Clone, Serialize, Deserialize, SyncEntity)]
    /// # #[sync(crate = "datasync_core")]
    /// # struct Film { id: String, title: String, year: i32 }
    /// let query = Query::<Film>::new().select(|film| (film.title, film.id));
    /// assert_eq!(query.to_string(), "$select=id,title");
    /// ```
    #[must_use]
    pub fn select<F: Selection<E>>(mut self, fields: impl FnOnce(E::Fields) -> F) -> Query<E> {
        if self.description.select.is_empty() {
            fields(E::FIELDS).names(&mut self.description.select);
        }
        self
    }
}

impl<E> Query<E> {
    /// Every row.
    #[must_use]
    pub fn new() -> Query<E> {
        Query::default()
    }

    /// Leaves out the first `rows` rows; several calls add up, as in Datasync's `Skip`.
    #[must_use]
    pub fn skip(mut self, rows: u64) -> Query<E> {
        self.description.skip = self.description.skip.saturating_add(rows);
        self
    }

    /// At most `rows` rows; of several calls the smallest holds, as in Datasync's `Take`.
    #[must_use]
    pub fn top(mut self, rows: u64) -> Query<E> {
        self.description.top = Some(self.description.top.map_or(rows, |top| top.min(rows)));
        self
    }

    /// Also counts all rows that match, before `skip` and `top`.
    #[must_use]
    pub fn count(mut self) -> Query<E> {
        self.description.count = true;
        self
    }

    /// Asks for rows that the service has soft-deleted, too, as in Datasync's `IncludeDeletedItems`.
    #[must_use]
    pub fn include_deleted(mut self) -> Query<E> {
        self.description.include_deleted = true;
        self
    }

    /// Adds a parameter of the app's own, as in Datasync's `WithParameter`.
    ///
    /// # Errors
    ///
    /// A name or a value that is blank, or a name that begins with `$` or `__`.
    pub fn with_parameter(mut self, name: &str, value: &str) -> Result<Query<E>, QueryError> {
        self.description = self.description.with_parameter(name, value)?;
        Ok(self)
    }

    /// The query that a description says, for this table. One over JSON is checked when it is used.
    ///
    /// # Errors
    ///
    /// A property that the table does not have, or operands that cannot be compared or computed with.
    pub fn of(description: QueryDescription) -> Result<Query<E>, QueryError>
    where
        E: RowType,
    {
        if let Some(schema) = &E::SCHEMA {
            Evaluator::new(&description, schema)?;
        }
        Ok(Query { description, ..Query::default() })
    }

    /// The query without its entity type.
    #[must_use]
    pub fn into_description(self) -> QueryDescription {
        self.description
    }

    /// The query without its entity type.
    #[must_use]
    pub fn description(&self) -> &QueryDescription {
        &self.description
    }
}

/// Reads a query string that is not percent-encoded, as `$filter=year gt 1990&$orderby=title`, for this table. The property
/// names of one over JSON are checked when it is used.
impl<E: RowType> std::str::FromStr for Query<E> {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Query<E>, QueryError> {
        Query::of(text.parse()?)
    }
}
