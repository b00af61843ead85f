//! Why a row is, or is not, as the service has it.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

use crate::{
    client::{
        DatasyncClient, JournalEntry, JournalStep, PendingChange, PendingState,
        pending::{pause, states},
        quarantine,
    },
    engine::journal,
    error::Error,
    row::{LoserCause, Record, RowKey, ServiceCopy, SettledLoser, Side},
    store::QueuedOperation,
};

/// How many entries of the journal are shown.
const SHOWN: usize = 5;

/// A state of a row, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyInfo {
    /// The service's version; `None` if the service has never seen it.
    pub version: Option<String>,
    /// When the service last changed it.
    pub updated_at: Option<Timestamp>,
    /// Whether it is a deletion.
    pub deleted: bool,
    /// The length of its body.
    pub bytes: usize,
}

impl CopyInfo {
    fn of(record: &Record) -> CopyInfo {
        CopyInfo {
            version: record.version.clone(),
            updated_at: record.updated_at,
            deleted: record.deleted,
            bytes: record.body.as_bytes().len(),
        }
    }
}

impl fmt::Display for CopyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "version {version}")?,
            None => f.write_str("no version of the service")?,
        }
        if let Some(time) = self.updated_at {
            write!(f, ", changed there at {time}")?;
        }
        if self.deleted { f.write_str(", a deletion") } else { Ok(()) }
    }
}

/// What is known of a row and of its way to the service. Its `Display` says it in plain sentences; neither shows a body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The account; empty if nobody is signed in.
    pub account: Arc<str>,
    /// The table.
    pub table: Arc<str>,
    /// The row.
    pub id: Arc<str>,
    /// What the app sees; `None` if there is no such row here.
    pub here: Option<CopyInfo>,
    /// The service's copy that the queued changes started from.
    pub base: Option<CopyInfo>,
    /// The service's copy that a pull met while the outcome of an attempt was not known.
    pub seen: Option<CopyInfo>,
    /// Since when the service confirms that this device has deleted it, until a pull shows that.
    pub deleted: Option<Timestamp>,
    /// The scopes that hold it, by their names in the store; an empty one is the whole table.
    pub scopes: Vec<Arc<str>>,
    /// Its queued changes, in the order of their sending.
    pub changes: Vec<PendingChange>,
    /// Why it could not be migrated to this release of the app.
    pub quarantine: Option<String>,
    /// What of it lost a conflict or went with its row, and is kept until somebody decides or its age has passed; oldest first.
    pub losers: Vec<SettledLoser>,
    /// Since when the service refuses the account's sign-in.
    pub paused: Option<Timestamp>,
    /// Why it was not sent the last time, by the journal.
    pub last_error: Option<String>,
    /// The newest entries of the journal that name it, newest first.
    pub journal: Vec<JournalEntry>,
    /// Whether the service gives rows of its table no versions.
    unversioned: bool,
}

impl Explanation {
    /// Whether this device keeps anything of such a row. Of an id that is misspelt it does not.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.here.is_some()
            || self.deleted.is_some()
            || self.quarantine.is_some()
            || !(self.scopes.is_empty() && self.changes.is_empty() && self.losers.is_empty() && self.journal.is_empty())
    }

    /// Whether nothing of it waits to be sent and it is not held back: as far as this device knows, the service has the same.
    /// Never of a row that is not [known](Explanation::is_known).
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let answered = self.unversioned || self.here.as_ref().is_none_or(|here| here.version.is_some());
        self.is_known() && self.changes.is_empty() && self.quarantine.is_none() && answered
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.table, self.id)?;
        if !self.account.is_empty() {
            write!(f, " of the account `{}`", self.account)?;
        }
        if !self.is_known() {
            return writeln!(f, " is not known on this device: nothing of it was pulled, and nothing is queued.");
        }
        writeln!(f, " {}.", if self.is_in_sync() { "is in sync" } else { "is not in sync" })?;
        match (&self.here, &self.deleted) {
            (Some(here), _) => writeln!(f, "Here it has {here}.")?,
            (None, Some(since)) => writeln!(f, "It was deleted here, and the service has confirmed that at {since}.")?,
            (None, None) => writeln!(f, "It is not on this device.")?,
        }
        match (self.scopes.as_slice(), &self.here) {
            ([], Some(here)) if here.version.is_none() => {
                writeln!(f, "It was made here, and no pull has brought it yet.")?
            }
            ([], Some(_)) => writeln!(f, "No pull has brought it: it stays until one does, or a purge.")?,
            ([], None) => {}
            (scopes, _) => {
                let name = |scope: &Arc<str>| match scope.as_ref() {
                    "" => "the whole table".to_owned(),
                    scope => format!("`{scope}`"),
                };
                writeln!(f, "It is held by {}.", scopes.iter().map(name).collect::<Vec<_>>().join(", "))?;
            }
        }
        if let Some(reason) = &self.quarantine {
            writeln!(f, "It could not be migrated to this release, and is neither shown nor sent: {reason}.")?;
        }
        for change in &self.changes {
            self.explain(f, change)?;
        }
        if let Some(base) = &self.base {
            writeln!(f, "The changes started from {base}.")?;
        }
        if let Some(seen) = &self.seen {
            writeln!(f, "A pull has met {seen}: it is looked at when the outcome of the attempt is known.")?;
        }
        for loser in &self.losers {
            let what = match (loser.cause, loser.side) {
                (LoserCause::Conflict, Side::Local) => "A body of this device lost a conflict",
                (LoserCause::Conflict, Side::Service) => "A body of the service lost a conflict",
                (LoserCause::Vanished, _) => "A body went with a service that was restored",
                (LoserCause::Quarantined, _) => {
                    "A body that could not be migrated gave way to a newer one of the service"
                }
            };
            writeln!(f, "{what} at {}, and is kept: restore it, or forget it.", loser.at)?;
        }
        if let Some(error) = &self.last_error {
            writeln!(f, "The last failure: {error}.")?;
        }
        for entry in &self.journal {
            writeln!(f, "- {entry}")?;
        }
        Ok(())
    }
}

impl Explanation {
    fn explain(&self, f: &mut fmt::Formatter<'_>, change: &PendingChange) -> fmt::Result {
        let PendingChange { kind, attempts, .. } = change;
        match (change.in_doubt, attempts) {
            (true, 0 | 1) => write!(f, "Its {kind} was sent, and whether the service has it is not known: ")?,
            (true, attempts) => write!(
                f,
                "Its {kind} was sent, and whether the service has it is not known after {attempts} failures: "
            )?,
            (false, 0) => write!(f, "Its {kind} waits to be sent: ")?,
            (false, 1) => write!(f, "Its {kind} failed once: ")?,
            (false, attempts) => write!(f, "Its {kind} failed {attempts} times: ")?,
        }
        match &change.state {
            PendingState::Ready => writeln!(f, "the next push sends it."),
            PendingState::Waiting(until) => writeln!(f, "it is sent again after {until}, or by an explicit push."),
            PendingState::Throttled(until) => writeln!(f, "the service has asked not to be sent it before {until}."),
            PendingState::Blocked { table, id } if *table == self.table && *id == self.id => {
                writeln!(f, "it goes after the change before it.")
            }
            PendingState::Blocked { table, id } => writeln!(f, "it goes after what {table}/{id} has queued."),
            PendingState::Conflict(why) => writeln!(f, "it is in conflict ({why}): resolve it, or discard it."),
            PendingState::Parked(why) => {
                let status = change.status.map(|status| format!(", status {status}")).unwrap_or_default();
                writeln!(f, "it is parked ({why}{status}): edit the row, retry it, or discard it.")
            }
            PendingState::Paused => match self.paused {
                Some(since) => writeln!(f, "the service refuses the sign-in since {since}: sign in again, or push."),
                None => writeln!(f, "the service refuses the sign-in: sign in again, or push."),
            },
            PendingState::UnknownTable => writeln!(
                f,
                "this release of the app has no table `{}`: one that has it sends it, unless it is discarded.",
                self.table
            ),
            PendingState::Loser => writeln!(f, "it lost a conflict."),
        }
    }
}

impl DatasyncClient {
    /// Why a row is, or is not, as the service has it: what is kept of it, what is queued and what that waits for, what
    /// of it has lost, and what the journal says. Needs no network.
    ///
    /// ```
    /// # use datasync_core::{client::DatasyncClient, error::Error};
    /// # async fn example(client: DatasyncClient) -> Result<(), Error> {
    /// println!("{}", client.explain("todoitem", "milk").await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownTable`](crate::error::ErrorKind::UnknownTable) if this release does not have the table, and nothing is
    /// kept of the row; [`ErrorKind::Store`](crate::error::ErrorKind::Store).
    pub async fn explain(&self, table: &str, id: &str) -> Result<Explanation, Error> {
        let key = self.kept_key(table, id);
        let row = self.engine.store.get(std::slice::from_ref(&key)).await?.pop().flatten();
        if row.is_none() {
            self.engine.tables.get(table)?;
        }
        let row = row.unwrap_or_default();
        let RowKey { account, table, id } = key.clone();
        let queued = |operation: &_| QueuedOperation { key: key.clone(), operation: Clone::clone(operation) };
        let mut changes = states(&self.engine, &row.operations.iter().map(queued).collect::<Vec<_>>()).await?;
        let paused = self.engine.paused(&account).await?;
        if paused.is_some() {
            pause(&mut changes);
        }
        let mut losers = quarantine::all_losers(&self.engine).await?;
        losers.retain(|loser| loser.key == key);
        let mut journal = journal::newest(&*self.engine.store, &account, None, journal::ENTRIES as usize).await?;
        journal.retain(|entry| entry.table.as_ref() == Some(&table) && entry.ids.contains(&id));
        let failed = |entry: &&JournalEntry| {
            matches!(entry.step, JournalStep::Delayed | JournalStep::Parked | JournalStep::Unsent)
        };
        let last_error = journal.iter().find(failed).and_then(|entry| entry.message.clone());
        journal.truncate(SHOWN);
        let unversioned = self.engine.tables.0.get(&table).is_some_and(|table| table.unversioned);
        Ok(Explanation {
            account,
            table,
            id,
            here: row.record.as_ref().map(CopyInfo::of),
            base: row.base.as_ref().filter(|base| base.version.is_some() || !base.deleted).map(CopyInfo::of),
            seen: row.seen.as_ref().map(|seen| match seen {
                ServiceCopy::Found(seen) => CopyInfo::of(seen),
                ServiceCopy::Absent => CopyInfo { version: None, updated_at: None, deleted: true, bytes: 0 },
            }),
            deleted: row.tombstone.as_ref().map(|tombstone| tombstone.since),
            scopes: row.scopes,
            last_error: last_error.filter(|_| !changes.is_empty()),
            changes,
            quarantine: row.quarantine.map(|quarantine| quarantine.reason),
            losers,
            paused,
            journal,
            unversioned,
        })
    }
}
