//! A pull: page after page since the token of a scope, each stored with its token (DESIGN.md section 8).
//!
//! | the process dies, or the pull is dropped … | what is left |
//! | --- | --- |
//! | while a page is on its way | the pages before it, with their token |
//! | during the commit of a page | the page with its token, or neither |
//! | between two pages | the next pull goes on behind the last stored page |

mod failures;
mod plan;

use std::sync::{Arc, PoisonError};

use futures::{FutureExt, future::join};

pub(crate) use self::failures::Failures;
use crate::{
    engine::{
        Engine,
        committer::{Reads, Tx},
        conflict::{self, Settled},
        crossing::Request,
        joined::Requests,
        journal,
        page::Effect,
        push::{self, Tries},
        scope::{self, Check, ScopeState},
        table::Table,
        tombstones, verify,
    },
    error::{Context, Error, ErrorKind, SyncPhase},
    events::SyncEvent,
    query::QueryDescription,
    report::PullReport,
    row::{Parked, RowKey},
    store::{Clear, DeltaToken, OperationsRequest, ScopeKey},
    transport::{Page, PageRequest, Purpose, Restart},
};

/// What a pull is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) query: QueryDescription,
    pub(crate) query_id: Option<String>,
    /// How many rows a page holds; `None` for the configured number.
    pub(crate) page_size: Option<u32>,
    pub(crate) push: ImplicitPush,
}

/// What is pushed before a pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ImplicitPush {
    /// Nothing.
    Nothing,
    /// The table, if it has pending changes.
    #[default]
    Table,
    /// Every table, if the pulled one has pending changes.
    All,
}

/// Pulls the rows of the query. Pending changes of the table are pushed first; a pull of the scope that is under way
/// is joined.
pub(crate) async fn pull(engine: &Arc<Engine>, table: &Arc<Table>, wanted: Wanted) -> Result<PullReport, Error> {
    let account = engine.account();
    // A sign-in that was refused is tried with the first page and not with operations.
    if wanted.push != ImplicitPush::Nothing
        && pending(engine, &account, &table.name).await.of(&table.name).during(SyncPhase::Pull)?
        && engine.paused(&account).await.of(&table.name).during(SyncPhase::Pull)?.is_none()
    {
        let tables = (wanted.push == ImplicitPush::Table).then(|| vec![Arc::clone(&table.name)]);
        // Whatever becomes of single operations, the pull goes on; an error here is the network's or the sign-in's.
        push::push(engine, Arc::clone(&account), tables, Tries::Nothing).await?;
    }
    let query = scope::pulled(&wanted.query);
    let scope = scope::scope(account, table, &query, wanted.query_id.as_deref());
    // Callers who name the same scope and mean another query do not share a run.
    let slot = {
        let mut pulling = engine.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        pulling.retain(|_, slot| Arc::strong_count(slot) > 1);
        Arc::clone(pulling.entry((scope.clone(), query.to_string())).or_default())
    };
    let page_size = wanted.page_size.unwrap_or(engine.settings.page_size);
    let state = ScopeState::default();
    let report = PullReport::default();
    let run = Run { engine: Arc::clone(engine), table: Arc::clone(table), scope, query, page_size, state, report };
    let name = Arc::clone(&table.name);
    slot.join((), move |requests| traced!(run.all(requests), "pull", table = name).boxed()).await
}

impl Engine {
    /// What is remembered of the scopes of these whose pulls are under way.
    pub(crate) fn pulled(&self, what: &[Clear]) -> Vec<Arc<str>> {
        let pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |scope: &&ScopeKey| what.iter().any(|clear| clear.includes(&scope.account, &scope.table));
        pulling.keys().map(|(scope, _)| scope).filter(of).map(ScopeState::key).collect()
    }
}

async fn pending(engine: &Engine, account: &Arc<str>, table: &Arc<str>) -> Result<bool, Error> {
    let tables = Some(vec![Arc::clone(table)]);
    let request = OperationsRequest { account: Arc::clone(account), tables, after: 0, limit: 1 };
    Ok(!engine.store.operations(&request).await?.is_empty())
}

struct Run {
    engine: Arc<Engine>,
    table: Arc<Table>,
    scope: ScopeKey,
    query: QueryDescription,
    page_size: u32,
    /// What is remembered of the scope, with what the page at hand adds to it.
    state: ScopeState,
    report: PullReport,
}

/// A page, and the request that it answers.
type Fetched = (Page, Request);

impl Run {
    /// The whole pull.
    async fn all(mut self, requests: Requests<()>) -> Result<PullReport, Error> {
        let table = Arc::clone(&self.table.name);
        self.engine.events.emit(|| SyncEvent::PullStarted { table: Arc::clone(&table) });
        #[cfg(feature = "metrics")]
        self.engine.pull_begins(&table);
        let pulled = self.passes(&requests).await;
        #[cfg(feature = "metrics")]
        self.engine.pull_ends(&self.scope.account, &table, pulled.as_ref().is_ok_and(|report| !report.more)).await;
        match &pulled {
            Ok(report) => {
                self.engine.pull_failures.forget(&self.scope);
                self.engine.events.emit(|| SyncEvent::PullEnded { table, report: *report });
            }
            Err(error) => {
                self.engine.events.failed(SyncPhase::Pull, Some(&table), error);
                self.engine.note_pull_failure(&self.scope, error).await;
            }
        }
        pulled
    }

    /// Passes until each caller has seen at least one request that left after its call.
    async fn passes(&mut self, requests: &Requests<()>) -> Result<PullReport, Error> {
        let table = Arc::clone(&self.table.name);
        loop {
            requests.take();
            match self.pass().await {
                // Whoever has called since the reset or purge is not overtaken by it.
                Err(error) if error.kind() == ErrorKind::Overtaken && !requests.close() => continue,
                Err(error) => {
                    requests.fail();
                    if error.is_refused_sign_in() {
                        self.engine.pause(&self.scope.account).await?;
                    }
                    let tried = || format!("pulling `{table}`");
                    return Err(error.of(&table).during(SyncPhase::Pull).trying(tried));
                }
                Ok(()) => {}
            }
            if requests.close() {
                let report = self.report;
                conflict::expire_losers(&self.engine).await?;
                tombstones::expire(&self.engine, &self.scope.account, &table).await?;
                return Ok(report);
            }
        }
    }

    /// From the stored token to the end, and a check of the rows if the scope was begun again.
    async fn pass(&mut self) -> Result<(), Error> {
        let account = Arc::clone(&self.scope.account);
        self.engine.check_present(&account)?;
        self.engine.check_sign_in(&account).await?;
        let paused = self.engine.paused(&account).await?.is_some();
        if self.table.rules.sums().next().is_some() {
            // A page may find a conflict before anything was pushed. A service that cannot say so now has no page either.
            self.engine.capabilities().await?;
        }
        // A pull that was dropped may have left a page on its way into the store: its token is the one to go on from.
        self.engine.committer.settle().await;
        let generation = self.engine.store.head().await?.generation;
        let mut stored = self.begin(generation).await?;
        let mut total = None;
        let mut done = 0;
        let mut next = Some(self.fetch(1, stored.clone()).await?);
        if paused {
            self.engine.resume(&account).await?;
        }
        let mut pages = 0;
        let mut complete = true;
        while let Some((page, request)) = next.take() {
            pages += 1;
            let rows = page.rows.len() as u64;
            let table = &self.table.name;
            total = total.or(page.total);
            done += rows;
            self.engine.events.emit(|| SyncEvent::PageFetched { table: Arc::clone(table), rows, done, total });
            let more = page.more && pages < self.engine.settings.max_pages;
            complete = !page.more;
            if let Some(restart) = page.restart {
                self.state = ScopeState::begin(&self.query, self.state.check, self.engine.clock.now());
                self.state.must_check(restart.into());
            }
            let token = page.token.clone().or_else(|| stored.clone());
            let storing = async {
                let (effects, parked) = self.store_page(page, request, stored, generation).await?;
                // The next page may be long in coming.
                self.tell(&effects, &parked, done, total);
                Ok::<_, Error>(effects)
            };
            let fetching = async {
                match more {
                    true => self.fetch(pages + 1, token.clone()).await.map(Some),
                    false => Ok(None),
                }
            };
            let (effects, fetched) = join(storing, fetching).await;
            let effects = effects?;
            stored = token;
            self.report.pages += 1;
            self.report.received += rows;
            self.count(effects);
            next = fetched?;
        }
        self.report.more = !complete;
        match self.state.check {
            Some(check) if complete => self.check(check, generation).await,
            _ => Ok(()),
        }
    }

    /// The token to begin with. A scope whose query has changed, or that is too old, begins again.
    async fn begin(&mut self, generation: u64) -> Result<Option<DeltaToken>, Error> {
        let stored = self.engine.store.delta_token(&self.scope).await?;
        let key = ScopeState::key(&self.scope);
        let note = self.engine.store.notes(std::slice::from_ref(&key)).await?.pop().flatten();
        let state = ScopeState::read(note.as_ref())?;
        let now = self.engine.clock.now();
        let resync_after = self.engine.settings.full_resync_after;
        let why = match (&stored, state) {
            (Some(_), Some(state)) => match state.outdated(&self.query, resync_after, now) {
                None => {
                    self.state = state;
                    return Ok(stored);
                }
                Some(why) => {
                    self.state = ScopeState::begin(&self.query, state.check, now);
                    why
                }
            },
            (_, state) => {
                // What a purge has left of a scope: nobody tells what had gone before, nor of a restore since.
                let forgotten = stored.is_none().then_some(state.is_some());
                let check = state.and_then(|state| state.check);
                self.state = ScopeState::begin(&self.query, check, now);
                match (forgotten, check) {
                    (Some(true), None) => self.state.must_check(Check::Restored),
                    (Some(false), _) if self.has_unseen().await? => self.state.must_check(Check::Unseen),
                    _ => {}
                }
                return Ok(stored);
            }
        };
        self.state.must_check(why);
        if self.was_restored(&stored).await? {
            self.state.must_check(Check::Restored);
        }
        let why = self.state.check.unwrap_or(why);
        let (scope, note, table) = (self.scope.clone(), self.state.to_note(), Arc::clone(&self.table.name));
        let plan = move |tx: &mut Tx<'_>| {
            if tx.token(&scope)? != stored || tx.generation() != generation {
                return Err(overtaken(&table));
            }
            tx.set_token(&scope, None);
            tx.set_note(&key, Some(note.clone()));
            tx.journal(&scope.account, journal::begun_again(&table, why));
            Ok(())
        };
        self.engine.committer.commit(Reads::default().token(self.scope.clone()), plan).await?;
        Ok(None)
    }

    async fn has_unseen(&self) -> Result<bool, Error> {
        verify::has_unseen(&self.engine, &self.table, &self.scope, &self.query).await
    }

    /// Whether the service was restored since the token was made: with the token goes what tells so.
    async fn was_restored(&self, token: &Option<DeltaToken>) -> Result<bool, Error> {
        let (page, _) = self.fetch(1, token.clone()).await?;
        Ok(page.restart == Some(Restart::Restored))
    }

    /// Compares the rows of a scope that was begun again with the service: what was not seen has left it.
    async fn check(&mut self, check: Check, generation: u64) -> Result<(), Error> {
        let (engine, table, scope, query) = (&self.engine, &self.table, &self.scope, &self.query);
        let drift = match check {
            Check::Unseen => verify::repair_unseen(engine, table, scope, query).await?,
            check => verify::verify(engine, table, scope, query, check.may_have_lost()).await?,
        };
        self.report.removed += drift.removed;
        self.report.updated += drift.updated;
        self.report.inserted += drift.added;
        let mut checked = self.state.clone();
        checked.check = None;
        let (key, before, after) = (ScopeState::key(&self.scope), self.state.to_note(), checked.to_note());
        let table = Arc::clone(&self.table.name);
        let plan = move |tx: &mut Tx<'_>| {
            if tx.note(&key)?.as_ref() != Some(&before) || tx.generation() != generation {
                return Err(overtaken(&table));
            }
            tx.set_note(&key, Some(after.clone()));
            Ok(())
        };
        let reads = Reads::default().note(ScopeState::key(&self.scope));
        self.engine.committer.commit(reads, plan).await?;
        self.state = checked;
        Ok(())
    }

    /// Tells of a page that is stored.
    fn tell(&self, effects: &[(Arc<str>, Effect)], parked: &[(RowKey, Parked)], done: u64, total: Option<u64>) {
        let (table, events, phase) = (&self.table.name, &self.engine.events, SyncPhase::Pull);
        parked.iter().for_each(|(key, why)| events.parked(phase, key, why, done, total));
        for (id, effect) in effects {
            if matches!(effect, Effect::Conflict(settled) if *settled != Settled::Parked) {
                let (table, id) = (Arc::clone(table), Arc::clone(id));
                events.emit(|| SyncEvent::ItemSettled { phase, table, id, done, total });
            }
        }
        events.emit(|| SyncEvent::PageCommitted { table: Arc::clone(table), done, total });
    }

    fn count(&mut self, effects: Vec<(Arc<str>, Effect)>) {
        for (_, effect) in effects {
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

    async fn fetch(&self, page: u32, token: Option<DeltaToken>) -> Result<Fetched, Error> {
        let request = self.engine.crossing.request();
        let wanted = PageRequest {
            account: Arc::clone(&self.scope.account),
            table: Arc::clone(&self.table.name),
            purpose: Purpose::Pull,
            query: self.query.clone(),
            token,
            first: page == 1,
            page_size: self.page_size,
            overlap: self.engine.settings.pull_overlap,
            include_deleted: true,
        };
        let fetched = traced!(self.engine.transport.fetch_page(&wanted), "fetch", page = page)
            .await
            .map_err(|error| Error::from(error).trying(|| format!("fetching page {page} of `{}`", self.table.name)))?;
        Ok((fetched, request))
    }
}

pub(crate) fn overtaken(table: &str) -> Error {
    let message = format!("what was asked of `{table}` was overtaken by a purge or reset: ask again");
    Error::new(ErrorKind::Overtaken, message)
}
