//! A pull: page after page since the token of a scope, each stored with its token (DESIGN.md section 8).
//!
//! | the process dies, or the pull is dropped … | what is left |
//! | --- | --- |
//! | while a page is on its way | the pages before it, with their token |
//! | during the commit of a page | the page with its token, or neither |
//! | between two pages | the next pull goes on behind the last stored page |

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures::{FutureExt, future::join};

use crate::{
    engine::{
        Engine,
        committer::{Reads, Tx},
        conflict::Settled,
        crossing::Request,
        joined::Requests,
        page::{self, Effect},
        push,
        table::Table,
    },
    error::{Error, ErrorKind},
    events::SyncEvent,
    query::QueryDescription,
    report::PullReport,
    row::{RowKey, ServiceCopy},
    store::{DeltaToken, OperationsRequest, ScopeKey},
    transport::{Page, PageRequest, Purpose, TransportError},
};

/// The scope of a query: its query id if it was given one, else a hash of its normalized filter.
pub(crate) fn scope(account: Arc<str>, table: &Table, query: &QueryDescription, query_id: Option<&str>) -> ScopeKey {
    let scope = match (query_id, &query.filter) {
        (Some(id), _) => format!("q:{id}"),
        (None, None) => String::new(),
        (None, Some(filter)) => format!("f:{:032x}", hash(&filter.to_string())),
    };
    ScopeKey { account, table: Arc::clone(&table.name), scope: scope.into() }
}

/// FNV-1a of 128 bits: short, the same in every release, and wide enough that two filters never meet.
fn hash(text: &str) -> u128 {
    text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// Pulls the rows of the query. Pending changes of the table are pushed first; a pull of the scope that is under way
/// is joined.
pub(crate) async fn pull(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    query: &QueryDescription,
    query_id: Option<&str>,
) -> Result<PullReport, Error> {
    if pending(engine, &table.name).await? {
        // Whatever becomes of single operations, the pull goes on; an error here is the network's or the sign-in's.
        push::push(engine, Some(vec![Arc::clone(&table.name)]), false).await?;
    }
    let scope = scope(engine.account(), table, query, query_id);
    let slot = {
        let mut pulling = engine.pulling.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(pulling.entry(scope.clone()).or_default())
    };
    let query = QueryDescription { filter: query.filter.clone(), ..QueryDescription::default() };
    let run = Run { engine: Arc::clone(engine), table: Arc::clone(table), scope, query, report: PullReport::default() };
    slot.join((), move |requests| run.all(requests).boxed()).await
}

async fn pending(engine: &Engine, table: &Arc<str>) -> Result<bool, Error> {
    let tables = Some(vec![Arc::clone(table)]);
    let request = OperationsRequest { account: engine.account(), tables, after: 0, limit: 1 };
    Ok(!engine.store.operations(&request).await?.is_empty())
}

struct Run {
    engine: Arc<Engine>,
    table: Arc<Table>,
    scope: ScopeKey,
    query: QueryDescription,
    report: PullReport,
}

/// A page, and the request that it answers.
type Fetched = (Page, Request);

impl Run {
    /// Passes until each caller has seen at least one request that left after its call.
    async fn all(mut self, requests: Requests<()>) -> Result<PullReport, Error> {
        let table = Arc::clone(&self.table.name);
        self.engine.events.emit(|| SyncEvent::PullStarted { table: Arc::clone(&table) });
        loop {
            requests.take();
            match self.pass().await {
                Err(error) if error.kind() == ErrorKind::Overtaken && requests.waiting() => continue,
                other => other?,
            }
            if requests.close() {
                let report = self.report;
                self.engine.events.emit(|| SyncEvent::PullEnded { table, report });
                return Ok(report);
            }
        }
    }

    /// From the stored token to the end.
    async fn pass(&mut self) -> Result<(), Error> {
        let generation = self.engine.store.head().await?.generation;
        let mut stored = self.engine.store.delta_token(&self.scope).await?;
        let mut total = None;
        let mut done = 0;
        let mut next = Some(self.fetch(true, stored.clone()).await?);
        let mut pages = 0;
        while let Some((page, request)) = next.take() {
            pages += 1;
            let rows = page.rows.len() as u64;
            let table = &self.table.name;
            self.engine.events.emit(|| SyncEvent::PageFetched { table: Arc::clone(table), rows });
            total = total.or(page.total);
            let more = page.more && pages < self.engine.settings.max_pages;
            let token = page.token.clone().or_else(|| stored.clone());
            let storing = self.store_page(page, request, stored, generation);
            let fetching = async {
                match more {
                    true => self.fetch(false, token.clone()).await.map(Some),
                    false => Ok(None),
                }
            };
            let (effects, fetched) = join(storing, fetching).await;
            let effects = effects?;
            stored = token;
            done += rows;
            self.report.pages += 1;
            self.report.received += rows;
            self.count(&effects);
            let table = &self.table.name;
            self.engine.events.emit(|| SyncEvent::PageCommitted { table: Arc::clone(table), done, total });
            next = fetched?;
        }
        Ok(())
    }

    fn count(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Inserted => self.report.inserted += 1,
                Effect::Updated => self.report.updated += 1,
                Effect::Removed => self.report.removed += 1,
                Effect::Unchanged => {}
                Effect::Conflict(Settled::Parked) => self.report.conflicts += 1,
                Effect::Conflict(_) => self.report.settled += 1,
            }
        }
    }

    async fn fetch(&self, first: bool, token: Option<DeltaToken>) -> Result<Fetched, Error> {
        let request = self.engine.crossing.request();
        let page = PageRequest {
            account: Arc::clone(&self.scope.account),
            table: Arc::clone(&self.table.name),
            purpose: Purpose::Pull,
            query: self.query.clone(),
            token,
            first,
            page_size: self.engine.settings.page_size,
            overlap: self.engine.settings.pull_overlap,
            include_deleted: true,
        };
        Ok((self.engine.transport.fetch_page(&page).await?, request))
    }

    /// Stores a page with its token in one commit (I13).
    async fn store_page(
        &self,
        page: Page,
        request: Request,
        expected: Option<DeltaToken>,
        generation: u64,
    ) -> Result<Vec<Effect>, Error> {
        let mut requests = HashMap::new();
        let mut copies = BTreeMap::new();
        // Ordered by id, which is the cheapest order for a store; of a row that came twice the later state counts.
        for row in page.rows {
            copies.insert(row.id, ServiceCopy::Found(row.record));
        }
        let page_request = Arc::new(request);
        let token = page.token.or_else(|| expected.clone());
        loop {
            let plan = PagePlan {
                engine: Arc::clone(&self.engine),
                table: Arc::clone(&self.table),
                scope: self.scope.clone(),
                copies: copies.clone(),
                requests: requests.clone(),
                page_request: Arc::clone(&page_request),
                expected: expected.clone(),
                token: token.clone(),
                generation,
            };
            let rows = copies.keys().map(|id| plan.key(id)).collect();
            let reads = Reads::rows(rows).token(self.scope.clone());
            match self.engine.committer.commit(reads, move |tx| plan.run(tx)).await? {
                Planned::Stored(effects) => return Ok(effects),
                Planned::Stale(ids) => {
                    for id in ids {
                        let request = Arc::new(self.engine.crossing.request());
                        let copy = self.fetch_row(&id).await?;
                        copies.insert(Arc::clone(&id), copy);
                        requests.insert(id, request);
                    }
                }
            }
        }
    }

    async fn fetch_row(&self, id: &Arc<str>) -> Result<ServiceCopy, TransportError> {
        let account = Arc::clone(&self.scope.account);
        let key = RowKey { account, table: Arc::clone(&self.table.name), id: Arc::clone(id) };
        self.engine.fetch(&key).await
    }
}

struct PagePlan {
    engine: Arc<Engine>,
    table: Arc<Table>,
    scope: ScopeKey,
    copies: BTreeMap<Arc<str>, ServiceCopy>,
    /// The requests of rows that were fetched one by one.
    requests: HashMap<Arc<str>, Arc<Request>>,
    page_request: Arc<Request>,
    expected: Option<DeltaToken>,
    token: Option<DeltaToken>,
    generation: u64,
}

enum Planned {
    Stored(Vec<Effect>),
    /// Answers have crossed these rows: each must be fetched by id, and the page planned again.
    Stale(Vec<Arc<str>>),
}

impl PagePlan {
    fn key(&self, id: &Arc<str>) -> RowKey {
        let (account, table) = (Arc::clone(&self.scope.account), Arc::clone(&self.table.name));
        RowKey { account, table, id: Arc::clone(id) }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Planned, Error> {
        if tx.token(&self.scope)? != self.expected || tx.generation() != self.generation {
            let message = format!("the pull of `{}` was overtaken by a purge or reset: pull again", self.table.name);
            return Err(Error::new(ErrorKind::Overtaken, message));
        }
        let mut stale = Vec::new();
        for (id, copy) in &self.copies {
            let request = self.requests.get(id).unwrap_or(&self.page_request);
            let key = self.key(id);
            if request.crossed(&key) && page::stale(tx, &key, copy)? {
                stale.push(Arc::clone(id));
            }
        }
        if !stale.is_empty() {
            return Ok(Planned::Stale(stale));
        }
        let mut effects = Vec::with_capacity(self.copies.len());
        for (id, copy) in &self.copies {
            let key = self.key(id);
            let effect = page::apply(tx, &self.table, &key, &self.scope.scope, copy)?;
            if effect != Effect::Unchanged {
                // For the pages of other scopes that are on their way.
                self.engine.crossing.changed(&key);
            }
            effects.push(effect);
        }
        if self.token != self.expected {
            tx.set_token(&self.scope, self.token.clone());
        }
        Ok(Planned::Stored(effects))
    }
}
