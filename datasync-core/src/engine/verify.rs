//! Verify: the rows of a scope against the service, by id and version (DESIGN.md section 8).
//!
//! The service is asked for ids and versions alone, in the order of the ids. A difference is only a suspicion: the list may
//! be older than what was answered, pushed or pulled since. So rows with queued operations, and rows that have changed since
//! the list was asked for, are left out, and every other is fetched by id before anything of it is changed.
//!
//! | a local row that the list does not have | is |
//! | --- | --- |
//! | the scope holds it | a suspicion |
//! | no scope holds it, it matches the query and was pushed | one too: it was made here, and what became of it before a page has shown it was told to nobody |
//! | other scopes hold it, or it was never pushed | no business of this one |
//!
//! | the process dies … | what is left |
//! | --- | --- |
//! | anywhere | the rows repaired so far; the next verify finds the rest. No token has moved |

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    engine::{
        Engine, account,
        committer::{Reads, Tx},
        crossing::Request,
        journal::{Happened, JournalStep},
        lookup::{Walk, endless},
        page::{self, Effect},
        pull::overtaken,
        table::Table,
    },
    error::{Error, ErrorKind, SyncPhase},
    events::SyncEvent,
    query::{BinaryOp, Evaluator, Expr, Literal, OrderBy, QueryDescription, QueryError},
    report::VerifyReport,
    row::{Row, RowKey, ServiceCopy},
    schema::{ID, VERSION},
    store::{Direction, ScanRequest, ScopeKey},
    transport::{PageRequest, Purpose},
};

/// How many rows are compared at once.
const CHUNK: usize = 1_000;

/// The version of each id.
type Versions = BTreeMap<Arc<str>, Option<String>>;

/// A part of the service's rows.
struct Listed {
    versions: Versions,
    /// Whether there are more behind them.
    more: bool,
    /// How many rows the query has, if the service was asked and said so.
    count: Option<u64>,
}

/// Compares the rows of a scope with the service, and repairs what differs. `restored` says that the service may have lost
/// rows: their bodies are then kept.
pub(crate) async fn verify(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    scope: &ScopeKey,
    query: &QueryDescription,
    restored: bool,
) -> Result<VerifyReport, Error> {
    let generation = engine.store.head().await?.generation;
    let run = Run { generation, ..Run::new(engine, table, scope, query, restored)? };
    engine.events.emit(|| SyncEvent::VerifyStarted { table: Arc::clone(&table.name) });
    let verified = traced!(run.all(), "verify", table = table.name).await;
    match &verified {
        Ok(report) => {
            engine.events.emit(|| SyncEvent::VerifyEnded { table: Arc::clone(&table.name), report: *report });
        }
        Err(error) => engine.events.failed(SyncPhase::Verify, Some(&table.name), error),
    }
    verified
}

/// Whether the device has rows of the query that were pushed and that no page has shown yet.
pub(crate) async fn has_unseen(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    scope: &ScopeKey,
    query: &QueryDescription,
) -> Result<bool, Error> {
    let run = Run::new(engine, table, scope, query, false)?;
    let mut scan = Some(run.scan(None, None));
    while let Some(rows) = run.next_rows(&mut scan).await? {
        for (key, row) in &rows {
            if run.is_unseen(key, row)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Asks for each of these rows by id, and repairs those that differ. The body of one that the service does not have is kept: a
/// scope that has no token yet cannot tell a row that was removed from one that a restored service has lost.
pub(crate) async fn repair_unseen(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    scope: &ScopeKey,
    query: &QueryDescription,
) -> Result<VerifyReport, Error> {
    let generation = engine.store.head().await?.generation;
    let run = Run { generation, ..Run::new(engine, table, scope, query, true)? };
    let mut report = VerifyReport::default();
    let mut scan = Some(run.scan(None, None));
    loop {
        let request = Arc::new(engine.crossing.request());
        let Some(rows) = run.next_rows(&mut scan).await? else { return Ok(report) };
        let mut suspects = BTreeSet::new();
        for (key, row) in rows {
            if run.is_unseen(&key, &row)? {
                suspects.insert(key.id);
            }
        }
        run.repair(suspects, &request, &mut report).await?;
    }
}

struct Run<'r> {
    engine: &'r Arc<Engine>,
    table: &'r Arc<Table>,
    scope: &'r ScopeKey,
    query: &'r QueryDescription,
    evaluator: Arc<Evaluator>,
    restored: bool,
    /// That of the store when it began: what is repaired after a reset would bring rows back.
    generation: u64,
}

impl<'r> Run<'r> {
    fn new(
        engine: &'r Arc<Engine>,
        table: &'r Arc<Table>,
        scope: &'r ScopeKey,
        query: &'r QueryDescription,
        restored: bool,
    ) -> Result<Run<'r>, Error> {
        let evaluator = Arc::new(Evaluator::new(query, &table.schema).map_err(invalid)?);
        Ok(Run { engine, table, scope, query, evaluator, restored, generation: 0 })
    }

    async fn all(&self) -> Result<VerifyReport, Error> {
        let mut report = VerifyReport::default();
        let mut after: Option<Arc<str>> = None;
        let mut total = None;
        loop {
            // From before the list on: whatever changes later is no business of this list.
            let request = Arc::new(self.engine.crossing.request());
            let Listed { mut versions, more, count } = self.list(after.as_ref()).await?;
            total = total.or(count);
            report.compared += versions.len() as u64;
            let upto = if more { versions.last_key_value().map(|(id, _)| Arc::clone(id)) } else { None };
            let mut scan = Some(self.scan(after.as_ref(), upto.as_ref()));
            while let Some(rows) = self.next_rows(&mut scan).await? {
                let suspects = self.compare(rows, &mut versions)?;
                self.repair(suspects, &request, &mut report).await?;
            }
            self.repair(versions.into_keys().collect(), &request, &mut report).await?;
            let (table, done) = (&self.table.name, report.compared);
            self.engine.events.emit(|| SyncEvent::VerifyProgress { table: Arc::clone(table), done, total });
            match upto {
                Some(upto) => after = Some(upto),
                None => return Ok(report),
            }
        }
    }

    /// The next rows of the query; with the first ones, how many there are.
    async fn list(&self, after: Option<&Arc<str>>) -> Result<Listed, Error> {
        let mut query = self.query.clone();
        query.count = after.is_none();
        if let Some(after) = after {
            let behind = Expr::Literal(Literal::Text(after.as_ref().to_owned()));
            query.and(Expr::binary(BinaryOp::Gt, Expr::Field(ID.to_owned()), behind));
        }
        query.order = vec![OrderBy { field: ID.to_owned(), descending: false }];
        query.select = vec![ID.to_owned(), VERSION.to_owned()];
        query.top = Some(CHUNK as u64);
        let request = PageRequest {
            account: Arc::clone(&self.scope.account),
            table: Arc::clone(&self.table.name),
            purpose: Purpose::Query,
            query,
            token: None,
            first: true,
            page_size: CHUNK as u32,
            overlap: std::time::Duration::ZERO,
            include_deleted: false,
        };
        let mut walk = Walk::new(request);
        let (mut versions, mut received, mut count) = (Versions::new(), 0, None);
        loop {
            let page = self.engine.transport.fetch_page(&walk.request).await?;
            count = count.or(page.total);
            let brought = page.rows.len();
            // Not the ids: a row comes twice where another one was made before it between two pages.
            received += brought;
            versions.extend(page.rows.into_iter().map(|row| (row.id, row.record.version)));
            if after.is_some_and(|after| versions.contains_key(after)) {
                // It does not look at where the list is to begin.
                return Err(endless(&self.table.name).into());
            }
            // A service may cut pages shorter than was asked for; what its link leads to is the rest of this list.
            let more = received >= CHUNK;
            if more || !page.more {
                return Ok(Listed { more, versions, count });
            }
            walk.on(page.token, brought > 0)?;
        }
    }

    /// A scan of the rows here between two ids.
    fn scan(&self, after: Option<&Arc<str>>, upto: Option<&Arc<str>>) -> ScanRequest {
        let bytes = |id: &Arc<str>| id.as_bytes().to_vec();
        let low = after.map_or(Bound::Unbounded, |id| Bound::Excluded(bytes(id)));
        let high = upto.map_or(Bound::Unbounded, |id| Bound::Included(bytes(id)));
        ScanRequest {
            account: Arc::clone(&self.scope.account),
            table: Arc::clone(&self.table.name),
            index: None,
            ranges: vec![(low, high)],
            direction: Direction::Forward,
            after: None,
            filter: None,
            limit: CHUNK,
        }
    }

    /// The next rows of a scan; `None` behind its end.
    async fn next_rows(&self, scan: &mut Option<ScanRequest>) -> Result<Option<Vec<(RowKey, Row)>>, Error> {
        let Some(request) = scan else { return Ok(None) };
        let page = self.engine.store.scan(request).await?;
        match page.next {
            Some(next) => request.after = Some(next),
            None => *scan = None,
        }
        let keys: Vec<RowKey> = page.records.into_iter().map(|(id, _)| self.key(&id)).collect();
        let rows = self.engine.store.get(&keys).await?;
        Ok(Some(keys.into_iter().zip(rows).filter_map(|(key, row)| Some((key, row?))).collect()))
    }

    /// Takes what is here out of `listed`, and returns what does not agree.
    fn compare(&self, rows: Vec<(RowKey, Row)>, listed: &mut Versions) -> Result<BTreeSet<Arc<str>>, Error> {
        let mut suspects = BTreeSet::new();
        for (key, row) in rows {
            let held = row.scopes.contains(&self.scope.scope);
            let version = row.record.as_ref().and_then(|record| record.version.as_ref());
            let differs = match listed.remove(&key.id) {
                _ if !row.operations.is_empty() => false,
                Some(listed) => !held || listed.is_none() || listed.as_ref() != version,
                None => held || self.is_unseen(&key, &row)?,
            };
            if differs {
                suspects.insert(key.id);
            }
        }
        Ok(suspects)
    }

    /// Whether a row of the query was made here and pushed, and no page has shown it yet.
    fn is_unseen(&self, key: &RowKey, row: &Row) -> Result<bool, Error> {
        let pushed = row.record.as_ref().filter(|record| record.version.is_some());
        match pushed.filter(|_| row.scopes.is_empty() && row.operations.is_empty()) {
            Some(record) => Ok(self.evaluator.evaluate(&key.id, record).map_err(invalid)?.is_some()),
            None => Ok(false),
        }
    }

    fn key(&self, id: &Arc<str>) -> RowKey {
        let (account, table) = (Arc::clone(&self.scope.account), Arc::clone(&self.table.name));
        RowKey { account, table, id: Arc::clone(id) }
    }

    async fn repair(
        &self,
        suspects: BTreeSet<Arc<str>>,
        listed: &Arc<Request>,
        report: &mut VerifyReport,
    ) -> Result<(), Error> {
        let fetches = suspects.into_iter().map(|id| async move {
            let key = self.key(&id);
            let request = listed.again();
            let copy = self.engine.fetch(&key).await?;
            Ok::<_, Error>((key, request, copy))
        });
        let mut fetches = stream::iter(fetches).buffered(self.engine.settings.parallel_operations);
        while let Some((key, request, copy)) = fetches.try_next().await? {
            let (table, scope) = (Arc::clone(self.table), Arc::clone(&self.scope.scope));
            let (evaluator, listed, restored) = (Arc::clone(&self.evaluator), Arc::clone(listed), self.restored);
            let (reads, generation) = (Reads::row(key.clone()), self.generation);
            let plan = move |tx: &mut Tx<'_>| {
                account::check(tx, &key)?;
                if tx.generation() != generation {
                    return Err(overtaken(&table.name));
                }
                let queued = tx.row(&key)?.is_some_and(|row| !row.operations.is_empty());
                if queued || request.crossed(&key) || listed.crossed(&key) {
                    return Ok(None);
                }
                listed.stores(&key);
                let effect = repair_one(tx, &table, &key, &scope, &copy, &evaluator, restored)?;
                if !matches!(effect, Effect::Unchanged) {
                    tx.journal(&key.account, Happened::new(JournalStep::Repaired).row(&key));
                }
                Ok(Some(effect))
            };
            match self.engine.committer.commit(reads, plan).await? {
                None => report.skipped += 1,
                Some(Effect::Inserted) => report.added += 1,
                Some(Effect::Updated) => report.updated += 1,
                Some(Effect::Removed) => report.removed += 1,
                Some(_) => {}
            }
        }
        Ok(())
    }
}

pub(crate) fn invalid(error: QueryError) -> Error {
    Error::caused(ErrorKind::InvalidQuery, error.to_string(), error)
}

fn repair_one(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    scope: &Arc<str>,
    copy: &ServiceCopy,
    evaluator: &Evaluator,
    restored: bool,
) -> Result<Effect, Error> {
    let matches = match copy.live() {
        Some(record) => evaluator.evaluate(&key.id, record).map_err(invalid)?.is_some(),
        None => true,
    };
    if matches {
        return Ok(page::apply(tx, table, key, scope, copy, restored)?.0);
    }
    let held = tx.row(key)?.is_some_and(|row| row.scopes.contains(scope));
    if !held {
        return Ok(Effect::Unchanged);
    }
    // Of a row that other scopes hold too, the newer state is kept.
    let (effect, _) = page::apply(tx, table, key, scope, copy, restored)?;
    match page::leave(tx, key, scope, |_| false)? {
        Effect::Removed => Ok(Effect::Removed),
        _ => Ok(effect),
    }
}
