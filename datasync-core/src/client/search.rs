//! Local queries: a planned scan of the store, filtered where the rows lie, and ordered here.

use std::sync::Arc;

use crate::{
    client::invalid_query,
    engine::{Engine, table::Table},
    error::Error,
    query::{Access, Evaluator, FirstRows, QueryDescription, Sorted, plan},
    row::{Record, RecordRef},
    store::{RecordFilter, ScanRequest, StoreError, StoreErrorKind},
};

/// How many records one read of the store looks at.
const CHUNK: usize = 10_000;

/// The rows of a query, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rows<T> {
    /// The rows, in the query's order.
    pub rows: Vec<T>,
    /// How many rows match, before `skip` and `top`; only if the query asked with `count`.
    pub total: Option<u64>,
}

/// The records that a query wants. A row that the service has marked as deleted is shown to nobody who does not ask for it.
#[derive(Debug)]
struct Wanted {
    /// `None` where every record of the scan matches.
    filter: Option<Evaluator>,
    include_deleted: bool,
}

impl RecordFilter for Wanted {
    fn keeps(&self, id: &str, record: RecordRef<'_>) -> Result<bool, StoreError> {
        if record.deleted && !self.include_deleted {
            return Ok(false);
        }
        let Some(filter) = &self.filter else { return Ok(true) };
        filter.matches(id, record).map_err(|error| StoreError::new(StoreErrorKind::Corrupted, error.to_string()))
    }
}

/// A query made ready.
pub(super) struct Search {
    pub(super) evaluator: Evaluator,
    pub(super) access: Access,
    /// The scan; what is left to look at stands in its filter.
    pub(super) request: ScanRequest,
}

impl Search {
    fn new(account: &Arc<str>, table: &Table, query: &QueryDescription) -> Result<Search, Error> {
        Ok(Search::of(account, table, query, ready(table, query, query.top.is_some())?))
    }

    /// A search that takes an index in the query's order where there is one, although all rows are wanted.
    pub(super) fn in_order(account: &Arc<str>, table: &Table, query: &QueryDescription) -> Result<Search, Error> {
        Ok(Search::of(account, table, query, ready(table, query, true)?))
    }

    fn of(
        account: &Arc<str>,
        table: &Table,
        query: &QueryDescription,
        (evaluator, access): (Evaluator, Access),
    ) -> Search {
        let filter = (!access.exact).then(|| evaluator.clone());
        // Indexes lead to no deleted row.
        let shows_all = query.include_deleted || access.index.is_some();
        let filter: Option<Arc<dyn RecordFilter>> = match (filter, shows_all) {
            (None, true) => None,
            (filter, _) => Some(Arc::new(Wanted { filter, include_deleted: query.include_deleted })),
        };
        let request = ScanRequest {
            account: Arc::clone(account),
            table: Arc::clone(&table.name),
            index: access.index.clone(),
            ranges: access.ranges.clone(),
            direction: access.direction,
            after: None,
            limit: CHUNK,
            filter,
        };
        Search { evaluator, access, request }
    }
}

fn ready(table: &Table, query: &QueryDescription, in_order: bool) -> Result<(Evaluator, Access), Error> {
    let evaluator = Evaluator::new(query, &table.schema).map_err(invalid_query)?;
    let indexes = if query.include_deleted { &[] } else { &*table.schema.indexes };
    let access = plan(&evaluator, &table.schema, indexes, in_order);
    Ok((evaluator, access))
}

/// Which way a query takes to its rows.
pub(crate) fn explain(table: &Table, query: &QueryDescription) -> Result<Access, Error> {
    ready(table, query, query.top.is_some()).map(|(_, access)| access)
}

/// The records of a query in its order.
pub(crate) async fn search(
    engine: &Engine,
    table: &Table,
    query: &QueryDescription,
) -> Result<Rows<(Arc<str>, Record)>, Error> {
    traced!(found(engine, table, query), "query", table = table.name).await
}

async fn found(engine: &Engine, table: &Table, query: &QueryDescription) -> Result<Rows<(Arc<str>, Record)>, Error> {
    // One account from the first page to the last.
    let account = engine.account();
    let Some(top) = query.top else {
        let first = first_rows(engine, &account, table, query, usize::MAX).await?;
        let total = query.count.then_some(first.offered());
        return Ok(Rows { rows: skipped(first, query), total });
    };
    // The rows behind the first ones are counted where they lie.
    let total = if query.count { Some(count_of(engine, &account, table, query).await?) } else { None };
    let wanted = usize::try_from(query.skip.saturating_add(top)).unwrap_or(usize::MAX);
    let first = first_rows(engine, &account, table, query, wanted).await?;
    Ok(Rows { rows: skipped(first, query), total })
}

fn skipped<T>(first: FirstRows<T>, query: &QueryDescription) -> Vec<T> {
    let mut rows = first.into_vec();
    let skip = usize::try_from(query.skip).unwrap_or(usize::MAX).min(rows.len());
    rows.split_off(skip)
}

async fn first_rows(
    engine: &Engine,
    account: &Arc<str>,
    table: &Table,
    query: &QueryDescription,
    wanted: usize,
) -> Result<FirstRows<(Arc<str>, Record)>, Error> {
    let Search { evaluator, access: Access { sorted, .. }, mut request } = Search::new(account, table, query)?;
    let mut first = FirstRows::new(wanted);
    if wanted == 0 {
        return Ok(first);
    }
    // Of the first rows no more are read than are wanted, and one that tells where a group of them ends.
    let mut limit = match sorted {
        Sorted::Not => CHUNK,
        Sorted::Groups => wanted.saturating_add(1).min(CHUNK),
        Sorted::Fully => wanted.min(CHUNK),
    };
    loop {
        request.limit = limit;
        limit = (limit * 2).min(CHUNK);
        let page = engine.store.scan(&request).await?;
        for (id, record) in page.records {
            let key = evaluator.place(&id, &record).map_err(invalid_query)?;
            if sorted == Sorted::Groups && first.is_behind(&key) {
                return Ok(first);
            }
            first.offer(key, (id, record));
        }
        match page.next {
            Some(cursor) if sorted != Sorted::Fully || !first.is_full() => request.after = Some(cursor),
            _ => return Ok(first),
        }
    }
}

/// How many rows match, before `skip` and `top`.
pub(crate) async fn count(engine: &Engine, table: &Table, query: &QueryDescription) -> Result<u64, Error> {
    count_of(engine, &engine.account(), table, query).await
}

async fn count_of(engine: &Engine, account: &Arc<str>, table: &Table, query: &QueryDescription) -> Result<u64, Error> {
    let (filter, include_deleted) = (query.filter.clone(), query.include_deleted);
    let counted = QueryDescription { filter, include_deleted, ..QueryDescription::default() };
    Ok(engine.store.count(&Search::new(account, table, &counted)?.request).await?)
}
