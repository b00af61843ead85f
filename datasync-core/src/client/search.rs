//! Local queries: a planned scan of the store, filtered and ordered by the evaluator.

use std::sync::Arc;

use crate::{
    client::invalid_query,
    engine::{Engine, table::Table},
    error::Error,
    query::{Access, Evaluator, QueryDescription, SortKey, plan},
    row::{DEFAULT_ACCOUNT, Record},
    store::{Direction, ScanRequest},
};

/// How many records one read of the store brings.
const CHUNK: usize = 1_000;

/// The rows of a query, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// The rows, in the query's order.
    pub rows: Vec<T>,
    /// How many rows match, before `skip` and `top`; only if the query asked with `count`.
    pub total: Option<u64>,
}

fn scan(table: &Table, access: Access) -> ScanRequest {
    ScanRequest {
        account: DEFAULT_ACCOUNT.into(),
        table: Arc::clone(&table.name),
        index: access.index,
        range: access.range,
        direction: Direction::Forward,
        after: None,
        limit: CHUNK,
    }
}

/// A row that the service has marked as deleted is shown to nobody who does not ask for it.
fn wanted(query: &QueryDescription, record: &Record) -> bool {
    query.include_deleted || !record.deleted
}

/// The records of a query in its order.
pub(crate) async fn search(
    engine: &Engine,
    table: &Table,
    query: &QueryDescription,
) -> Result<Rows<(Arc<str>, Record)>, Error> {
    let evaluator = Evaluator::new(query, &table.schema).map_err(invalid_query)?;
    let access = plan(query, &table.schema);
    let skip = usize::try_from(query.skip).unwrap_or(usize::MAX);
    let top = query.top.map_or(usize::MAX, |top| usize::try_from(top).unwrap_or(usize::MAX));
    let enough = if access.ordered && !query.count { skip.saturating_add(top) } else { usize::MAX };
    let ordered = access.ordered;
    let mut request = scan(table, access);
    let mut found: Vec<(SortKey, Arc<str>, Record)> = Vec::new();
    while found.len() < enough {
        let page = engine.store.scan(&request).await?;
        for (id, record) in page.records.into_iter().filter(|(_, record)| wanted(query, record)) {
            if let Some(key) = evaluator.evaluate(&id, &record).map_err(invalid_query)? {
                found.push((key, id, record));
            }
        }
        match page.next {
            Some(cursor) => request.after = Some(cursor),
            None => break,
        }
    }
    let total = query.count.then_some(found.len() as u64);
    if !ordered {
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    }
    let rows = found.into_iter().skip(skip).take(top).map(|(_, id, record)| (id, record)).collect();
    Ok(Rows { rows, total })
}

/// How many rows match, before `skip` and `top`.
pub(crate) async fn count(engine: &Engine, table: &Table, query: &QueryDescription) -> Result<u64, Error> {
    let (filter, include_deleted) = (query.filter.clone(), query.include_deleted);
    let counted = QueryDescription { filter, count: true, include_deleted, ..QueryDescription::default() };
    let evaluator = Evaluator::new(&counted, &table.schema).map_err(invalid_query)?;
    let access = plan(&counted, &table.schema);
    let mut request = scan(table, access);
    let mut total = 0;
    loop {
        let page = engine.store.scan(&request).await?;
        for (id, record) in page.records.iter().filter(|(_, record)| wanted(query, record)) {
            total += u64::from(evaluator.evaluate(id, record).map_err(invalid_query)?.is_some());
        }
        match page.next {
            Some(cursor) => request.after = Some(cursor),
            None => return Ok(total),
        }
    }
}
