//! Results row by row, a page of which is in memory.
//!
//! | what | is held |
//! | --- | --- |
//! | a page of the store or of the service | its rows |
//! | an index gives the whole order | nothing else |
//! | an index gives the order but for rows that agree in its keys | place and id of the rows of one such group |
//! | no index gives the order | place and id of each row that matches, or of the first ones if only these are wanted |
//!
//! A page is read as its table is then: a row that is changed meanwhile is shown as it is when its page is read, or not at all
//! if it no longer matches; what is added behind the place of the stream is shown, what is added before it is not.

use std::{collections::VecDeque, sync::Arc};

use futures::{
    StreamExt,
    stream::{BoxStream, unfold},
};

use crate::{
    client::{invalid_query, part::Reader, search::Search},
    engine::{Engine, table::Table},
    error::{Context, Error, SyncPhase},
    query::{QueryDescription, SortKey, Sorted},
    row::{Record, RowKey},
    store::ScanRequest,
    transport::{Page, PageRequest},
};

/// How many rows one read of the store looks at, and how many bodies are kept.
const PAGE: usize = 1_000;

/// The rows of a local query, in its order.
struct Local {
    engine: Arc<Engine>,
    account: Arc<str>,
    table: Arc<Table>,
    query: QueryDescription,
    search: Search,
    /// Where the scan goes on; `None` at its end.
    request: Option<ScanRequest>,
    /// Rows that agree in what the scan orders by, so that their order is not known yet.
    group: Vec<(SortKey, Arc<str>, Option<Record>)>,
    /// The next rows; of some only the id was kept.
    ready: VecDeque<(Arc<str>, Option<Record>)>,
    skip: u64,
    left: u64,
    /// How many rows the next read looks at: few where few are wanted, and more if these are not found at once.
    limit: usize,
}

impl Local {
    fn new(engine: Arc<Engine>, table: Arc<Table>, query: QueryDescription) -> Result<Local, Error> {
        let account = engine.account();
        let search = Search::in_order(&account, &table, &query)?;
        let request = Some(search.request.clone());
        let (skip, left) = (query.skip, query.top.unwrap_or(u64::MAX));
        let (group, ready) = (Vec::new(), VecDeque::new());
        let mut local = Local { engine, account, table, query, search, request, group, ready, skip, left, limit: PAGE };
        if local.search.access.sorted == Sorted::Fully {
            local.limit = local.wanted().clamp(1, PAGE);
        }
        Ok(local)
    }

    async fn next(&mut self) -> Result<Option<(Arc<str>, Record)>, Error> {
        while self.left > 0 {
            match self.ready.pop_front() {
                Some((id, Some(record))) => {
                    self.left -= 1;
                    return Ok(Some((id, record)));
                }
                Some((id, None)) => self.fetch(id).await?,
                None if self.request.is_none() && self.group.is_empty() => break,
                None if self.request.is_none() => self.release_group(),
                None => self.scan().await?,
            }
        }
        Ok(None)
    }

    /// How many rows are still wanted, those that are left out at the start included.
    fn wanted(&self) -> usize {
        usize::try_from(self.skip.saturating_add(self.left)).unwrap_or(usize::MAX)
    }

    async fn scan(&mut self) -> Result<(), Error> {
        let wanted = self.wanted();
        let sorted = self.search.access.sorted;
        let Some(request) = &mut self.request else { return Ok(()) };
        request.limit = self.limit;
        self.limit = (self.limit * 2).min(PAGE);
        let page = self.engine.store.scan(request).await?;
        match page.next {
            Some(cursor) => request.after = Some(cursor),
            None => self.request = None,
        }
        for (id, record) in page.records {
            if sorted == Sorted::Fully {
                self.release(id, Some(record));
                continue;
            }
            let key = self.search.evaluator.place(&id, &record).map_err(invalid_query)?;
            if sorted == Sorted::Groups && self.group.last().is_some_and(|(last, ..)| !last.agrees(&key)) {
                self.release_group();
            }
            let record = (self.group.len() < PAGE).then_some(record);
            self.group.push((key, id, record));
            if self.group.len() >= wanted.saturating_mul(2).saturating_add(PAGE) {
                self.group.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
                self.group.truncate(wanted);
            }
        }
        Ok(())
    }

    fn release_group(&mut self) {
        let mut group = std::mem::take(&mut self.group);
        group.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
        for (_, id, record) in group {
            self.release(id, record);
        }
    }

    fn release(&mut self, id: Arc<str>, record: Option<Record>) {
        if self.skip > 0 {
            self.skip -= 1;
        } else {
            self.ready.push_back((id, record));
        }
    }

    /// Reads the next rows of which only the id was kept; those that no longer match are left out.
    async fn fetch(&mut self, first: Arc<str>) -> Result<(), Error> {
        let mut ids = vec![first];
        while ids.len() < PAGE
            && let Some((id, None)) = self.ready.front()
        {
            ids.push(Arc::clone(id));
            self.ready.pop_front();
        }
        let key = |id: &Arc<str>| RowKey {
            account: Arc::clone(&self.account),
            table: Arc::clone(&self.table.name),
            id: Arc::clone(id),
        };
        let keys: Vec<RowKey> = ids.iter().map(key).collect();
        let rows = self.engine.store.get(&keys).await?;
        for (id, row) in ids.into_iter().zip(rows).rev() {
            let Some(record) = row.and_then(|row| row.record) else { continue };
            let shown = self.query.include_deleted || !record.deleted;
            if shown && self.search.evaluator.matches(&id, &record).map_err(invalid_query)? {
                self.ready.push_front((id, Some(record)));
            }
        }
        Ok(())
    }
}

/// The rows of a local query. A row that cannot be read is an item of its own; any other error is the last item.
pub(crate) fn local<P: 'static>(
    engine: Arc<Engine>,
    table: Arc<Table>,
    query: QueryDescription,
    mut reader: Reader<P>,
) -> BoxStream<'static, Result<P, Error>> {
    let name = Arc::clone(&table.name);
    let begun = reader.prepare(query, &table.schema, false).and_then(|query| Local::new(engine, table, query));
    let rows = unfold(Some(begun.map(|local| (local, reader))), |local| async {
        let (mut local, reader) = match local? {
            Ok(local) => local,
            Err(error) => return Some((Err(error), None)),
        };
        match local.next().await {
            Ok(Some((id, record))) => Some((reader.read(&id, &record), Some(Ok((local, reader))))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    rows.map(move |row: Result<_, Error>| row.of(&name).during(SyncPhase::Read)).boxed()
}

/// The pages of a remote query.
pub(crate) struct Pages {
    engine: Arc<Engine>,
    request: PageRequest,
    ended: bool,
}

impl Pages {
    pub(crate) fn new(engine: Arc<Engine>, request: PageRequest) -> Pages {
        Pages { engine, request, ended: false }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Page>, Error> {
        if self.ended {
            return Ok(None);
        }
        let fetch = self.engine.transport.fetch_page(&self.request);
        let mut page = traced!(fetch, "remote", table = self.request.table).await.map_err(|error| {
            let table = &self.request.table;
            let tried = || format!("querying `{table}` on the service");
            Error::from(error).of(table).during(SyncPhase::Remote).trying(tried)
        })?;
        self.request.token = page.token.take();
        self.request.first = false;
        self.ended = !page.more;
        Ok(Some(page))
    }
}

/// The rows of a remote query, in the order of the service. A row that cannot be read is an item of its own; any other error is
/// the last item.
pub(crate) fn remote<P: 'static>(
    table: &'static str,
    begun: Result<(Pages, Reader<P>), Error>,
) -> BoxStream<'static, Result<P, Error>> {
    let rows = unfold(Some((begun, VecDeque::new())), |state| async {
        let (begun, mut rows) = state?;
        let (mut pages, reader) = match begun {
            Ok(begun) => begun,
            Err(error) => return Some((Err(error), None)),
        };
        while rows.is_empty() {
            match pages.next().await {
                Ok(Some(page)) => rows = page.rows.into(),
                Ok(None) => return None,
                Err(error) => return Some((Err(error), None)),
            }
        }
        let row = rows.pop_front()?;
        Some((reader.read(&row.id, &row.record), Some((Ok((pages, reader)), rows))))
    });
    rows.map(move |row: Result<_, Error>| row.of(table).during(SyncPhase::Remote)).boxed()
}
