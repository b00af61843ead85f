//! Which rows a page of changes lets go, and what is remembered for it (`docs/wire-extensions.md`).

use std::{collections::BTreeSet, sync::Arc};

use datasync_core::{
    query::{Evaluator, Expr, QueryDescription, QueryError},
    row::{Body, Record},
    schema::{DELETED, ID, TableSchema, UPDATED_AT, VERSION},
};
use serde_json::{Map, Value};

use crate::repository::{Changes, ChangesQuery, Left, Page, Place, Row, View};

/// How many changes a page looks at, at most: a filter that matches few rows costs bounded work.
const LOOKED_AT: usize = 20_000;
/// How many rows a page lets go, at most.
const LEFT: usize = 1_000;

impl View {
    /// A view of a table of this schema.
    ///
    /// # Errors
    ///
    /// If it does not fit the table.
    pub(crate) fn new(view: Expr, schema: &TableSchema) -> Result<View, QueryError> {
        let mut fields = BTreeSet::new();
        view.visit_fields(&mut |name| {
            let field = schema.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            let system = [ID, VERSION, UPDATED_AT, DELETED].into_iter().find(|known| known.eq_ignore_ascii_case(name));
            fields.insert(system.or(field.map(|field| field.name.as_ref())).unwrap_or(name).to_owned());
        });
        let query = QueryDescription { filter: Some(view), ..QueryDescription::default() };
        Ok(View { evaluator: Evaluator::new(&query, schema)?, fields })
    }

    fn has(&self, id: &str, record: &Record) -> Result<bool, QueryError> {
        Ok(self.evaluator.evaluate(id, record)?.is_some())
    }
}

fn sees(view: Option<&View>, row: &Row) -> Result<bool, QueryError> {
    view.map_or(Ok(true), |view| view.has(&row.id, &row.record))
}

/// A change after which a row may be out of views that it was in: what it was before, as far as views look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) id: Arc<str>,
    /// Whether the row was removed for good.
    pub(crate) removed: bool,
    /// The row before, with the fields that were tracked then.
    pub(crate) before: Record,
}

fn fields(record: &Record) -> Map<String, Value> {
    serde_json::from_slice(record.body.as_bytes()).unwrap_or_default()
}

impl Departure {
    /// The departure of a row that gets this record, or is removed; `None` if views see no difference.
    pub(crate) fn of(tracked: &BTreeSet<String>, row: &Row, after: Option<&Record>) -> Option<Departure> {
        let removed = after.is_none();
        if tracked.is_empty() && !removed {
            return None;
        }
        let mut old = fields(&row.record);
        if let Some(after) = after {
            let new = fields(after);
            let value = |of: &Map<String, Value>, name: &str| of.get(name).cloned().unwrap_or_default();
            let differs = |name: &String| match name.as_str() {
                ID => false,
                VERSION | UPDATED_AT => true,
                DELETED => row.record.deleted != after.deleted,
                name => value(&old, name) != value(&new, name),
            };
            if !tracked.iter().any(differs) {
                return None;
            }
        }
        // A field that is not there is there as null: it was looked at.
        let kept: Map<String, Value> =
            tracked.iter().map(|name| (name.clone(), old.remove(name).unwrap_or_default())).collect();
        let body = Body::from(Value::Object(kept).to_string().into_bytes());
        Some(Departure { id: Arc::clone(&row.id), removed, before: Record { body, ..row.record.clone() } })
    }

    /// Whether the row was in the view before. One from before the view's fields were tracked is older than every
    /// token of a caller who has the view, and nothing to him.
    fn was_in(&self, view: Option<&View>) -> Result<bool, QueryError> {
        let Some(view) = view else { return Ok(true) };
        let known = fields(&self.before);
        let tracked = |name: &String| known.contains_key(name);
        Ok(view.fields.iter().all(tracked) && view.has(&self.id, &self.before)?)
    }
}

/// A page of changes in the making: it is shown what happened in the order of the sequence.
pub(crate) struct Walk<'q> {
    query: &'q ChangesQuery,
    looked_at: usize,
    rows: Page,
    /// The place before the one at hand.
    before: Option<Place>,
    changes: Changes,
}

impl Walk<'_> {
    pub(crate) fn new(query: &ChangesQuery, horizon: u64, forgotten: u64) -> Walk<'_> {
        let (rows, left) = Default::default();
        let changes = Changes { rows, left, place: query.since, more: false, horizon, forgotten };
        Walk { query, looked_at: 0, rows: Page::new(query.limit), before: query.since, changes }
    }

    /// Whether the page ends before the next place. Asked only if there is one.
    pub(crate) fn ends(&mut self) -> bool {
        self.changes.more = self.changes.left.len() >= LEFT || self.looked_at >= LOOKED_AT;
        self.changes.more
    }

    /// Goes on to a place; the row that was changed there, and the departure from there, follow.
    pub(crate) fn to(&mut self, place: Place) {
        self.looked_at += 1;
        self.before = self.changes.place.replace(place);
    }

    /// Whether the caller may hold what left at this place.
    fn lets_go(&self) -> bool {
        self.changes.place.is_some_and(|place| place.sequence > self.query.begun)
    }

    /// Whether there was room for the row; if not, the page has ended before this place.
    pub(crate) fn changed(&mut self, row: Row) -> Result<bool, QueryError> {
        if self.query.evaluator.evaluate(&row.id, &row.record)?.is_some() {
            if !self.rows.take(row) {
                self.changes.place = self.before;
                self.changes.more = true;
                return Ok(false);
            }
        } else if self.lets_go() && sees(self.query.view.as_ref(), &row)? {
            let (version, deleted) = (row.record.version, row.record.deleted);
            self.changes.left.push(Left { id: row.id, version, deleted });
        }
        Ok(true)
    }

    /// Whether a departure from this place concerns the caller; then the row as it is now decides.
    pub(crate) fn concerns(&self, departure: &Departure) -> Result<bool, QueryError> {
        Ok(self.lets_go() && departure.was_in(self.query.view.as_ref())?)
    }

    pub(crate) fn departed(&mut self, departure: Departure, now: Option<&Row>) -> Result<(), QueryError> {
        // A row that is in the view has a place of its own, here or further on.
        if now.map_or(Ok(false), |row| sees(self.query.view.as_ref(), row))? {
            return Ok(());
        }
        let deleted = departure.removed && now.is_none();
        self.changes.left.push(Left { id: departure.id, version: None, deleted });
        Ok(())
    }

    pub(crate) fn page(self) -> Changes {
        Changes { rows: self.rows.rows, ..self.changes }
    }
}
