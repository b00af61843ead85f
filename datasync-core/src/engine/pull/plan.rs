//! What the commit of a page does: its rows with its token, or nothing (I13).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::overtaken;
use crate::{
    engine::{
        committer::Tx,
        conflict::Settled,
        crossing::Request,
        journal,
        page::{self, Effect},
        scope::{Check, ScopeState},
        table::Table,
    },
    error::{Error, ErrorKind},
    query::Evaluator,
    row::{Hold, Parked, Row, RowKey, ServiceCopy},
    store::{DeltaToken, ScopeKey},
};

/// What a page brings.
pub(super) struct PagePlan {
    pub(super) table: Arc<Table>,
    pub(super) scope: ScopeKey,
    pub(super) evaluator: Arc<Evaluator>,
    pub(super) copies: BTreeMap<Arc<str>, ServiceCopy>,
    /// Rows that no longer match the query, and the version with which they do not.
    pub(super) left: BTreeMap<Arc<str>, Option<String>>,
    pub(super) state: ScopeState,
    /// The requests of rows that were fetched one by one.
    pub(super) requests: HashMap<Arc<str>, Arc<Request>>,
    pub(super) page_request: Arc<Request>,
    pub(super) expected: Option<DeltaToken>,
    pub(super) token: Option<DeltaToken>,
    /// Why the service has begun the pull again, if it has.
    pub(super) restart: Option<Check>,
    pub(super) generation: u64,
}

/// What a page has done, and the conflicts in it that wait for somebody.
pub(super) type Stored = (Vec<(Arc<str>, Effect)>, Vec<(RowKey, Parked)>);

pub(super) enum Planned {
    Stored(Stored),
    /// Answers have crossed these rows: each must be fetched by id, and the page planned again.
    Stale(Vec<Arc<str>>),
}

impl PagePlan {
    pub(super) fn key(&self, id: &Arc<str>) -> RowKey {
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

    pub(super) fn run(&self, tx: &mut Tx<'_>) -> Result<Planned, Error> {
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
