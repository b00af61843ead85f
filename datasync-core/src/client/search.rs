//! Local queries: a planned scan of the store, filtered and ordered by the evaluator.

use std::sync::Arc;

use crate::{
    client::invalid_query,
    engine::{Engine, table::Table},
    error::Error,
    query::{Access, Evaluator, KeyRange, QueryDescription, SortKey, Sorted, plan},
    row::Record,
    store::ScanRequest,
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

fn scan(account: &Arc<str>, table: &Table, access: &Access, range: KeyRange) -> ScanRequest {
    ScanRequest {
        account: Arc::clone(account),
        table: Arc::clone(&table.name),
        index: access.index.clone(),
        range,
        direction: access.direction,
        after: None,
        limit: CHUNK,
        filter: None,
    }
}

/// A row that the service has marked as deleted is shown to nobody who does not ask for it.
fn is_wanted(query: &QueryDescription, record: &Record) -> bool {
    query.include_deleted || !record.deleted
}

/// The rows found so far; no more of them are kept than are wanted, or a little more.
struct Found {
    rows: Vec<(SortKey, Arc<str>, Record)>,
    sorted: Sorted,
    /// How many rows are wanted, those that are skipped included.
    wanted: usize,
    total: u64,
}

impl Found {
    fn push(&mut self, key: SortKey, id: Arc<str>, record: Record) {
        self.total += 1;
        if self.sorted == Sorted::Fully && self.rows.len() >= self.wanted {
            return;
        }
        self.rows.push((key, id, record));
        if self.sorted == Sorted::Not && self.rows.len() >= self.wanted.saturating_mul(2).saturating_add(CHUNK) {
            self.cut();
        }
    }

    /// Whether every row that comes later is behind those that are wanted.
    fn is_enough(&self) -> bool {
        match (self.sorted, self.wanted.checked_sub(1).and_then(|last| self.rows.get(last)), self.rows.last()) {
            _ if self.wanted == 0 => true,
            (Sorted::Fully, Some(_), _) => true,
            (Sorted::Groups, Some(last), Some(newest)) => !newest.0.agrees(&last.0),
            _ => false,
        }
    }

    fn cut(&mut self) {
        if self.sorted != Sorted::Fully {
            self.rows.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        }
        self.rows.truncate(self.wanted);
    }
}

/// The records of a query in its order.
pub(crate) async fn search(
    engine: &Engine,
    table: &Table,
    query: &QueryDescription,
) -> Result<Rows<(Arc<str>, Record)>, Error> {
    // One account from the first page to the last.
    let account = engine.account();
    let evaluator = Evaluator::new(query, &table.schema).map_err(invalid_query)?;
    let access = plan(query, &table.schema);
    let skip = usize::try_from(query.skip).unwrap_or(usize::MAX);
    let top = query.top.map_or(usize::MAX, |top| usize::try_from(top).unwrap_or(usize::MAX));
    let wanted = skip.saturating_add(top);
    let mut found = Found { rows: Vec::new(), sorted: access.sorted, wanted, total: 0 };
    let enough = |found: &Found| !query.count && found.is_enough();
    // Of the first rows no more are read than are wanted, and one that tells where they end.
    let mut limit = if access.sorted == Sorted::Not { CHUNK } else { wanted.saturating_add(1).min(CHUNK) };
    'ranges: for range in &access.ranges {
        let mut request = scan(&account, table, &access, range.clone());
        loop {
            if enough(&found) {
                break 'ranges;
            }
            request.limit = limit;
            limit = (limit * 2).min(CHUNK);
            let page = engine.store.scan(&request).await?;
            for (id, record) in page.records.into_iter().filter(|(_, record)| is_wanted(query, record)) {
                if let Some(key) = evaluator.evaluate(&id, &record).map_err(invalid_query)? {
                    found.push(key, id, record);
                }
            }
            match page.next {
                Some(cursor) => request.after = Some(cursor),
                None => break,
            }
        }
    }
    found.cut();
    let total = query.count.then_some(found.total);
    let rows = found.rows.into_iter().skip(skip).map(|(_, id, record)| (id, record)).collect();
    Ok(Rows { rows, total })
}

/// How many rows match, before `skip` and `top`.
pub(crate) async fn count(engine: &Engine, table: &Table, query: &QueryDescription) -> Result<u64, Error> {
    let (filter, include_deleted) = (query.filter.clone(), query.include_deleted);
    let counted = QueryDescription { filter, count: true, include_deleted, ..QueryDescription::default() };
    let account = engine.account();
    let evaluator = Evaluator::new(&counted, &table.schema).map_err(invalid_query)?;
    let access = plan(&counted, &table.schema);
    let mut total = 0;
    for range in &access.ranges {
        let mut request = scan(&account, table, &access, range.clone());
        loop {
            let page = engine.store.scan(&request).await?;
            for (id, record) in page.records.iter().filter(|(_, record)| is_wanted(query, record)) {
                total += u64::from(evaluator.evaluate(id, record).map_err(invalid_query)?.is_some());
            }
            match page.next {
                Some(cursor) => request.after = Some(cursor),
                None => break,
            }
        }
    }
    Ok(total)
}
