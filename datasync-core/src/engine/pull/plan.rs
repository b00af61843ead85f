//! How a page is stored: its rows with its token in one commit, or nothing (I13).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Run, overtaken};
use crate::{
    engine::{
        committer::{Reads, Tx},
        conflict::Settled,
        crossing::Request,
        journal,
        page::{self, Effect},
        scope::{Check, ScopeState},
        table::Table,
        verify,
    },
    error::{Error, ErrorKind},
    query::Evaluator,
    row::{Hold, Parked, Row, RowKey, ServiceCopy},
    store::{DeltaToken, ScopeKey},
    transport::{Page, TransportError},
};

impl Run {
    /// Stores a page with its token in one commit (I13).
    pub(super) async fn store_page(
        &self,
        page: Page,
        request: Request,
        expected: Option<DeltaToken>,
        generation: u64,
    ) -> Result<Stored, Error> {
        let mut requests = HashMap::new();
        let mut copies = BTreeMap::new();
        // Ordered by id, which is the cheapest order for a store; of a row that came twice the later state counts.
        for row in page.rows {
            copies.insert(row.id, ServiceCopy::Found(row.record));
        }
        let mut left = BTreeMap::new();
        for stub in page.stubs {
            // A row that is in the page too has come back since it left, or leaves again with a later page.
            match copies.contains_key(&stub.id) {
                true => {}
                false if stub.removed => _ = copies.insert(stub.id, ServiceCopy::Absent),
                false => _ = left.insert(stub.id, stub.version),
            }
        }
        let evaluator = Arc::new(Evaluator::new(&self.query, &self.table.schema).map_err(verify::invalid)?);
        let (page_request, restart) = (Arc::new(request), page.restart.map(Check::from));
        let token = page.token.or_else(|| expected.clone());
        loop {
            let plan = PagePlan {
                table: Arc::clone(&self.table),
                scope: self.scope.clone(),
                evaluator: Arc::clone(&evaluator),
                copies: copies.clone(),
                left: left.clone(),
                state: self.state.clone(),
                requests: requests.clone(),
                page_request: Arc::clone(&page_request),
                expected: expected.clone(),
                token: token.clone(),
                restart,
                generation,
            };
            let rows = copies.keys().chain(left.keys()).map(|id| plan.key(id)).collect();
            let reads = Reads::rows(rows).token(self.scope.clone()).note(ScopeState::key(&self.scope));
            match self.engine.committer.commit(reads, move |tx| plan.run(tx)).await? {
                Planned::Stored(stored) => return Ok(stored),
                Planned::Stale(ids) => {
                    for id in ids {
                        let request = Arc::new(page_request.again());
                        let copy = self.fetch_row(&id).await?;
                        match (left.get(&id), &copy) {
                            (None, _) => _ = copies.insert(Arc::clone(&id), copy),
                            // A later page tells what has become of the row since it left.
                            (Some(version), ServiceCopy::Found(now)) if now.version != *version => {
                                left.remove(&id);
                            }
                            (Some(_), _) => {}
                        }
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

/// What a page brings.
struct PagePlan {
    table: Arc<Table>,
    scope: ScopeKey,
    evaluator: Arc<Evaluator>,
    copies: BTreeMap<Arc<str>, ServiceCopy>,
    /// Rows that no longer match the query, and the version with which they do not.
    left: BTreeMap<Arc<str>, Option<String>>,
    state: ScopeState,
    /// The requests of rows that were fetched one by one.
    requests: HashMap<Arc<str>, Arc<Request>>,
    page_request: Arc<Request>,
    expected: Option<DeltaToken>,
    token: Option<DeltaToken>,
    /// Why the service has begun the pull again, if it has.
    restart: Option<Check>,
    generation: u64,
}

/// What a page has done, and the conflicts in it that wait for somebody.
pub(super) type Stored = (Vec<(Arc<str>, Effect)>, Vec<(RowKey, Parked)>);

enum Planned {
    Stored(Stored),
    /// Answers have crossed these rows: each must be fetched by id, and the page planned again.
    Stale(Vec<Arc<str>>),
}

impl PagePlan {
    fn key(&self, id: &Arc<str>) -> RowKey {
        let (account, table) = (Arc::clone(&self.scope.account), Arc::clone(&self.table.name));
        RowKey { account, table, id: Arc::clone(id) }
    }

    fn request(&self, id: &Arc<str>) -> &Request {
        self.requests.get(id).unwrap_or(&self.page_request)
    }

    /// Whether what is queued for a row that has left the query with this version brings it back: it was made of that version,
    /// and what becomes of it is told by a later page; or it matches the query, and so is not what has left.
    fn returns(&self, id: &Arc<str>, row: &Row, version: &Option<String>) -> bool {
        let matches = |record| self.evaluator.evaluate(id, record).is_ok_and(|found| found.is_some());
        row.base.as_ref().is_some_and(|base| base.version == *version) || row.record.as_ref().is_some_and(matches)
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Planned, Error> {
        if tx.present() != self.scope.account {
            let message = format!("the pull of `{}` ended because another account has signed in", self.table.name);
            return Err(Error::new(ErrorKind::OtherAccount, message));
        }
        if tx.token(&self.scope)? != self.expected || tx.generation() != self.generation {
            return Err(overtaken(&self.table.name));
        }
        let mut stale = Vec::new();
        for (id, copy) in &self.copies {
            let key = self.key(id);
            if self.request(id).crossed(&key) && page::stale(tx, &key, copy)? {
                stale.push(Arc::clone(id));
            }
        }
        for (id, version) in &self.left {
            let key = self.key(id);
            let scope = &self.scope.scope;
            if self.request(id).crossed(&key) && page::stale_departure(tx, &key, scope, version.as_deref())? {
                stale.push(Arc::clone(id));
            }
        }
        if !stale.is_empty() {
            return Ok(Planned::Stale(stale));
        }
        let mut effects = Vec::with_capacity(self.copies.len());
        let mut parked = Vec::new();
        let restored = self.state.check.is_some_and(Check::may_have_lost);
        for (id, version) in &self.left {
            let returns = |row: &Row| version.is_some() && self.returns(id, row, version);
            effects.push((Arc::clone(id), page::leave(tx, &self.key(id), &self.scope.scope, returns)?));
        }
        for (id, copy) in &self.copies {
            let key = self.key(id);
            let (effect, written) = page::apply(tx, &self.table, &key, &self.scope.scope, copy, restored)?;
            if written {
                // For the pages of other scopes that are on their way. A copy that is only kept as seen or shown counts too.
                self.page_request.stores(&key);
            }
            if effect == Effect::Conflict(Settled::Parked)
                && let Some(row) = tx.row(&key)?
                && let Some(Hold::Parked(why)) = row.operations.into_iter().next().map(|operation| operation.hold)
            {
                parked.push((key, why));
            }
            effects.push((Arc::clone(id), effect));
        }
        if let Some(why) = self.restart {
            tx.journal(&self.scope.account, journal::begun_again(&self.table.name, why));
        }
        journal::note_page(tx, &self.scope.account, &self.table.name, &effects);
        if self.token != self.expected {
            tx.set_token(&self.scope, self.token.clone());
        }
        let state = self.state.to_note();
        let key = ScopeState::key(&self.scope);
        if tx.note(&key)?.as_ref() != Some(&state) {
            tx.set_note(&key, Some(state));
        }
        Ok(Planned::Stored((effects, parked)))
    }
}
