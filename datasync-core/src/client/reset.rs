//! Reset and sign-out: everything of a table or of an account leaves this device in one commit (I13, I20).
//!
//! | the process dies … | what is left |
//! | --- | --- |
//! | before the commit | everything |
//! | after it | none of it: no row, operation, token or settled loser. Pages on their way are of an older generation |
//! | while a sign-out pushes | what the push has done; the account is still signed in |

use std::{ops::Bound, sync::Arc, time::Duration};

use futures::future::{Either, select};

use crate::{
    client::{DatasyncClient, PendingChange, Tables, migrate, pending::strand},
    engine::{
        Engine, account,
        committer::{Reads, Tx},
        journal::{Happened, JournalStep},
        links,
        push::{self, Tries},
        scope,
    },
    error::{Context, Error, ErrorKind, SyncPhase},
    events::SyncEvent,
    report::PurgeReport,
    store::{Clear, Direction, QueuedOperation, ScanRequest},
};

/// What to reset.
#[derive(Clone, Debug)]
#[must_use]
pub struct ResetOptions {
    tables: Tables,
    force: bool,
}

impl ResetOptions {
    /// Everything that the account has on this device, also in tables that this release of the app no longer knows.
    pub fn everything() -> ResetOptions {
        ResetOptions::tables(Tables::all())
    }

    /// Only these tables.
    pub fn tables(tables: impl Into<Tables>) -> ResetOptions {
        ResetOptions { tables: tables.into(), force: false }
    }

    /// Drops unsent changes, conflicts and settled losers too.
    pub fn force(mut self) -> ResetOptions {
        self.force = true;
        self
    }
}

/// What becomes of an account's rows, and of its changes that were not sent, when it signs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pending {
    /// Everything stays in the store, and is shown again after the account's next sign-in.
    Keep,
    /// The changes are pushed first, for so long at most; then everything is removed. If something was not sent the
    /// account stays signed in, and nothing is removed.
    Push(Duration),
    /// Everything is removed, whatever was not sent.
    Discard,
}

/// Removes everything of these, and raises the generation, so that pages on their way are thrown away.
///
/// What would be lost is an error, which ends with `advice`, unless it is forced.
pub(super) async fn remove(
    engine: &Arc<Engine>,
    what: Vec<Clear>,
    force: bool,
    advice: &'static str,
    then: fn(&mut Tx<'_>, &Arc<str>) -> Result<(), Error>,
) -> Result<PurgeReport, Error> {
    let mut reads = Reads::default();
    let mut notes = Vec::new();
    let mut rows = 0;
    for clear in &what {
        rows += count(engine, clear).await.during(SyncPhase::Leave)?;
        notes.extend(scope::notes(&*engine.store, clear).await.during(SyncPhase::Leave)?);
        let quarantined = migrate::quarantined(&*engine.store, Some(&clear.account)).await.during(SyncPhase::Leave)?;
        let removed = quarantined.iter().filter(|key| clear.includes(&key.account, &key.table));
        notes.extend(removed.map(migrate::note_of));
        reads = reads.unsent(clear.clone());
    }
    let of = match what.as_slice() {
        [only] => only.table.clone(),
        _ => None,
    };
    let (tables, pulls) = (Arc::clone(&engine.tables), Arc::clone(engine));
    let plan = move |tx: &mut Tx<'_>| {
        let mut lost: Vec<PendingChange> = Vec::new();
        let mut never_there = Vec::new();
        for clear in &what {
            for QueuedOperation { key, operation } in tx.queued(clear) {
                lost.push(PendingChange::of(&key, &operation));
                if clear.table.is_some() && links::creates(operation.kind) {
                    never_there.push(key);
                }
            }
            strand(&mut lost, &tables);
            lost.extend(tx.losers(clear).iter().map(PendingChange::of_loser));
        }
        if !lost.is_empty() && !force {
            return Err(refuse(lost, advice));
        }
        for clear in &what {
            tx.clear(clear.clone());
        }
        for key in never_there {
            if let Some(table) = tables.0.get(&key.table) {
                links::park_children(tx, table, &key)?;
            }
        }
        // The first page of a scope may have come since they were listed.
        let pulled = pulls.pulled(&what);
        for note in notes.iter().chain(&pulled) {
            tx.set_note(note, None);
        }
        tx.raise_generation();
        for Clear { account, table } in &what {
            let removed = Happened::new(JournalStep::Removed);
            let removed = if let [_] = what.as_slice() { removed.rows(rows) } else { removed };
            tx.journal(account, table.iter().fold(removed, |removed, table| removed.of(table)));
        }
        if let Some(clear) = what.first() {
            then(tx, &clear.account)?;
        }
        Ok(PurgeReport { rows, dropped: lost.len() as u64 })
    };
    commit_telling(engine, of.as_ref(), rows, reads, plan).await
}

/// Commits a removal, and tells how it goes.
pub(super) async fn commit_telling(
    engine: &Arc<Engine>,
    table: Option<&Arc<str>>,
    total: u64,
    reads: Reads,
    plan: impl FnMut(&mut Tx<'_>) -> Result<PurgeReport, Error> + Send + 'static,
) -> Result<PurgeReport, Error> {
    engine.events.emit(|| SyncEvent::RemovalStarted { table: table.cloned(), total });
    let removed = traced!(engine.committer.commit(reads, plan), "remove", rows = total).await;
    let removed = removed.map_err(|error| table.into_iter().fold(error, |error, table| error.of(table)));
    let removed = removed.map_err(|error| error.during(SyncPhase::Leave));
    match &removed {
        Ok(report) => engine.events.emit(|| SyncEvent::RemovalEnded { table: table.cloned(), report: *report }),
        Err(error) => engine.events.failed(SyncPhase::Leave, table, error),
    }
    removed
}

/// Refuses to drop what is nowhere else.
pub(super) fn refuse(lost: Vec<PendingChange>, advice: &str) -> Error {
    let count = lost.len();
    let first =
        lost.first().map(|change| format!(" ({}/{}{})", change.table, change.id, if count > 1 { ", …" } else { "" }));
    let message = format!(
        "{count} change{} on this device only{} would be lost: {advice}",
        if count == 1 { " that is" } else { "s that are" },
        first.unwrap_or_default(),
    );
    Error::with_pending(message, lost)
}

async fn count(engine: &Engine, what: &Clear) -> Result<u64, Error> {
    let mut rows = 0;
    for table in engine.tables.0.keys().filter(|table| what.includes(&what.account, table)) {
        let request = ScanRequest {
            account: Arc::clone(&what.account),
            table: Arc::clone(table),
            index: None,
            ranges: vec![(Bound::Unbounded, Bound::Unbounded)],
            direction: Direction::Forward,
            after: None,
            limit: 1,
            filter: None,
        };
        rows += engine.store.count(&request).await?;
    }
    Ok(rows)
}

impl DatasyncClient {
    /// Removes everything of the account, or of some of its tables, from this device: rows, queue, delta tokens, conflicts
    /// and settled losers, in one commit. A later pull begins at the beginning and gets everything back; one that is
    /// under way ends with [`ErrorKind::Overtaken`], in other tables too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pending`] if unsent changes, conflicts or settled losers would be lost and it is not forced: nothing
    /// is changed, and [`Error::pending`] lists them. [`ErrorKind::UnknownTable`], [`ErrorKind::Store`].
    pub async fn reset(&self, options: ResetOptions) -> Result<PurgeReport, Error> {
        let ResetOptions { tables: Tables(tables), force } = options;
        let account = self.engine.account();
        let of = |table| Clear { account: Arc::clone(&account), table };
        let what = match tables {
            None => vec![of(None)],
            Some(names) => {
                let known = names.iter().map(|name| Ok(of(Some(Arc::clone(&self.engine.tables.get(name)?.name)))));
                known.collect::<Result<_, Error>>().during(SyncPhase::Leave)?
            }
        };
        remove(&self.engine, what, force, "push first, or force the reset to drop them", |_, _| Ok(())).await
    }

    /// Signs the account out: from then on what was made while nobody was signed in is shown. What becomes of the account's
    /// own rows is said by `pending`; removed rows go with their queue, tokens, conflicts and settled losers in one commit.
    /// A pull of the account that is under way ends with an error; so does a push, but for that of what was made while nobody was
    /// signed in.
    ///
    /// While nobody is signed in, [`Pending::Push`] and [`Pending::Discard`] remove what was made so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pending`] with [`Pending::Push`] if something was not sent in time, or waits for somebody:
    /// [`Error::pending`] lists it, the account stays signed in, and nothing is removed. [`ErrorKind::OtherAccount`] if
    /// another account has signed in meanwhile: that one stays, and nothing is removed. [`ErrorKind::Store`].
    ///
    /// ```
    /// # use datasync_core::{client::{DatasyncClient, Pending}, error::{Error, ErrorKind}};
    /// # use std::time::Duration;
    /// # async fn example(client: DatasyncClient, user_insists: bool) -> Result<(), Error> {
    /// match client.sign_out(Pending::Push(Duration::from_secs(10))).await {
    ///     Err(error) if error.kind() == ErrorKind::Pending && user_insists => {
    ///         client.sign_out(Pending::Discard).await?;
    ///     }
    ///     done => drop(done?),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sign_out(&self, pending: Pending) -> Result<PurgeReport, Error> {
        let account = self.engine.account();
        let everything = vec![Clear { account: Arc::clone(&account), table: None }];
        let gone: fn(&mut Tx<'_>, &Arc<str>) -> Result<(), Error> = |tx, account| account::leave(tx, account, false);
        let report = match pending {
            Pending::Keep if account.is_empty() => PurgeReport::default(),
            Pending::Keep => {
                let leaving = Arc::clone(&account);
                let plan = move |tx: &mut Tx<'_>| {
                    account::leave(tx, &leaving, true)?;
                    Ok(PurgeReport::default())
                };
                self.engine.committer.commit(Reads::default(), plan).await.during(SyncPhase::Leave)?
            }
            Pending::Discard => remove(&self.engine, everything, true, "", gone).await?,
            Pending::Push(deadline) => {
                let pushed = self.push_within(&account, deadline).await;
                let advice = "wait and sign out again, keep them, or discard them";
                remove(&self.engine, everything, false, advice, gone).await.map_err(|error| match pushed {
                    Err(cause) if error.kind() == ErrorKind::Pending => error.because(cause),
                    _ => error,
                })?
            }
        };
        if !account.is_empty() {
            self.engine.events.emit(|| SyncEvent::SignedIn { account: self.engine.account() });
        }
        Ok(report)
    }

    async fn push_within(&self, account: &Arc<str>, deadline: Duration) -> Result<(), Error> {
        let push = Box::pin(push::push(&self.engine, Arc::clone(account), None, Tries::Waiting));
        match select(push, self.engine.clock.sleep(deadline)).await {
            Either::Left((pushed, _)) => pushed.map(drop),
            Either::Right(_) => {
                let message = format!("the push did not end within {} ms", deadline.as_millis());
                Err(Error::new(ErrorKind::Unreachable, message))
            }
        }
    }
}
