//! The journal: what sync did, written in the commits in which it did it. A ring of notes for each account.
//!
//! | the process dies … | what is left |
//! | --- | --- |
//! | before the commit of a change | neither the change nor its entry |
//! | after it | both; the next entry has the next number |
//!
//! An entry names tables and ids, and what a service or a transport says of itself; never a body (I21).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{
        answer::{Answer, Effect},
        committer::Tx,
        conflict::Settled,
        page,
        scope::Check,
    },
    error::Error,
    row::{Parked, RowKey},
    store::{Note, Store},
};

/// How many entries an account keeps.
pub(crate) const ENTRIES: u64 = 1_000;
/// How many ids an entry names.
const IDS: usize = 100;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JournalStep {
    /// The service has carried changes out.
    Pushed,
    /// Conflicts were settled by a policy or a resolver.
    Settled,
    /// Conflicts wait for somebody.
    Conflict,
    /// Changes were parked.
    Parked,
    /// Changes wait until a time, because an attempt failed.
    Delayed,
    /// Changes were not sent: no connection could be made, or the sign-in was refused.
    Unsent,
    /// A page of a pull was stored.
    Pulled,
    /// The service has failed a pull.
    PullFailed,
    /// A pull began again from the start, and then compares the rows with the service.
    Restarted,
    /// Rows that differed from the service were repaired.
    Repaired,
    /// Rows were removed from this device by a purge, a reset or a sign-out.
    Removed,
    /// Changes were made ready again by hand.
    Retried,
    /// Conflicts were resolved by hand.
    Resolved,
    /// Changes, or rows in quarantine, were discarded by hand.
    Discarded,
    /// Rows could not be migrated to the schema of this release.
    Quarantined,
    /// A settled loser was brought back as an edit.
    BroughtBack,
    /// Settled losers were removed, by hand or because of their age.
    Forgotten,
    /// Rows were moved into the account.
    Adopted,
    /// The account has signed in.
    SignedIn,
    /// The account has signed out.
    SignedOut,
    /// The service has refused the sign-in: the account is paused.
    Paused,
    /// The service takes the sign-in again.
    Resumed,
}

impl fmt::Display for JournalStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JournalStep::Pushed => "pushed",
            JournalStep::Settled => "conflict settled",
            JournalStep::Conflict => "conflict",
            JournalStep::Parked => "parked",
            JournalStep::Delayed => "delayed",
            JournalStep::Unsent => "not sent",
            JournalStep::Pulled => "pulled",
            JournalStep::PullFailed => "pull failed",
            JournalStep::Restarted => "pull begun again",
            JournalStep::Repaired => "repaired",
            JournalStep::Removed => "removed from this device",
            JournalStep::Retried => "made ready again",
            JournalStep::Resolved => "conflict resolved",
            JournalStep::Discarded => "discarded",
            JournalStep::Quarantined => "in quarantine",
            JournalStep::BroughtBack => "settled loser brought back",
            JournalStep::Forgotten => "settled losers removed",
            JournalStep::Adopted => "moved into the account",
            JournalStep::SignedIn => "signed in",
            JournalStep::SignedOut => "signed out",
            JournalStep::Paused => "sign-in refused",
            JournalStep::Resumed => "sign-in accepted",
        })
    }
}

/// An entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalEntry {
    /// Its number: one more than that of the entry before.
    pub number: u64,
    /// When it happened; the last time, if it happened again and again.
    pub at: Timestamp,
    /// How many times it happened in a row.
    pub times: u64,
    /// What happened.
    pub step: JournalStep,
    /// The table, if it concerns one.
    pub table: Option<Arc<str>>,
    /// The rows, at most a hundred of them; a page of a pull names those in conflict only.
    pub ids: Vec<Arc<str>>,
    /// How many rows, or settled losers, there were.
    pub rows: u64,
    /// More about it, for people; never a body.
    pub message: Option<String>,
}

impl fmt::Display for JournalEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at, self.step)?;
        match (&self.table, self.ids.as_slice()) {
            (Some(table), [id]) if self.rows == 1 => write!(f, " {table}/{id}")?,
            (Some(table), _) if self.rows > 0 => write!(f, " {} of {table}", self.rows)?,
            (Some(table), _) => write!(f, " {table}")?,
            (None, _) if self.rows > 0 => write!(f, " ({})", self.rows)?,
            (None, _) => {}
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        if self.times > 1 {
            write!(f, " ({} times)", self.times)?;
        }
        Ok(())
    }
}

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    number: u64,
    at: i64,
    times: u64,
    #[serde(flatten)]
    what: Happened,
}

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Happened {
    step: JournalStep,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ids: Vec<String>,
    #[serde(default)]
    rows: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Happened {
    pub(crate) fn new(step: JournalStep) -> Happened {
        Happened { step, table: None, ids: Vec::new(), rows: 0, message: None }
    }

    pub(crate) fn of(mut self, table: &str) -> Happened {
        self.table = Some(table.to_owned());
        self
    }

    pub(crate) fn row(self, key: &RowKey) -> Happened {
        let ids = vec![key.id.as_ref().to_owned()];
        Happened { ids, rows: 1, ..self.of(&key.table) }
    }

    pub(crate) fn rows(mut self, rows: u64) -> Happened {
        self.rows = rows;
        self
    }

    pub(crate) fn message(mut self, message: impl Into<String>) -> Happened {
        self.message = Some(message.into());
        self
    }
}

fn prefix(account: &str) -> String {
    // With the length, no account's keys begin like those of another.
    format!("journal:{}:{account}:", account.len())
}

fn slot(account: &str, number: u64) -> Arc<str> {
    format!("{}{:03}", prefix(account), number % ENTRIES).into()
}

fn next_key(account: &str) -> Arc<str> {
    format!("{}next", prefix(account)).into()
}

/// Where an account's journal goes on.
#[derive(Clone, Debug)]
struct Cursor {
    next: u64,
    last: Option<Stored>,
}

/// What a commit adds to the journals, and what they are after it.
#[derive(Debug, Default)]
pub(crate) struct Additions {
    pub(crate) notes: Vec<(Arc<str>, Option<Note>)>,
    cursors: BTreeMap<Arc<str>, Cursor>,
}

/// Where the journals go on, as the last commit left them.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<BTreeMap<Arc<str>, Cursor>>);

impl Journal {
    fn cursors(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Cursor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the store again the next time: what a commit has done is not known.
    pub(crate) fn forget(&self) {
        self.cursors().clear();
    }

    /// The commit that these belong to was made.
    pub(crate) fn stored(&self, additions: Additions) {
        self.cursors().extend(additions.cursors);
    }

    async fn cursor(&self, store: &dyn Store, account: &Arc<str>) -> Result<Cursor, Error> {
        if let Some(cursor) = self.cursors().get(account) {
            return Ok(cursor.clone());
        }
        let next = next(store, account).await?;
        let last = read(store, account, next.saturating_sub(1)..next).await?.pop();
        Ok(Cursor { next, last })
    }

    /// The notes of these entries; the journals of the accounts in `ended` begin anew.
    pub(crate) async fn additions(
        &self,
        store: &dyn Store,
        now: Timestamp,
        ended: &BTreeSet<Arc<str>>,
        entries: &[(Arc<str>, Happened)],
    ) -> Result<Additions, Error> {
        let mut additions = Additions::default();
        for account in ended {
            let next = self.cursor(store, account).await?.next;
            let kept = (0..next.min(ENTRIES)).map(|number| (slot(account, number), None));
            additions.notes.extend(kept.chain([(next_key(account), None)]));
            additions.cursors.insert(Arc::clone(account), Cursor { next: 0, last: None });
        }
        let mut written: BTreeMap<Arc<str>, Note> = BTreeMap::new();
        for (account, what) in entries {
            let mut cursor = match additions.cursors.get(account) {
                Some(cursor) => cursor.clone(),
                None => self.cursor(store, account).await?,
            };
            let again = cursor.last.take().filter(|last| last.what == *what);
            let entry = match again {
                // What happens again and again takes one entry, so that it pushes nothing else out.
                Some(last) => Stored { at: now.as_millisecond(), times: last.times + 1, ..last },
                None => Stored { number: cursor.next, at: now.as_millisecond(), times: 1, what: what.clone() },
            };
            cursor.next = entry.number + 1;
            let bytes = serde_json::to_vec(&entry).unwrap_or_default();
            written.insert(slot(account, entry.number), Note(bytes));
            written.insert(next_key(account), Note(cursor.next.to_string().into_bytes()));
            cursor.last = Some(entry);
            additions.cursors.insert(Arc::clone(account), cursor);
        }
        additions.notes.retain(|(key, _)| !written.contains_key(key));
        additions.notes.extend(written.into_iter().map(|(key, note)| (key, Some(note))));
        Ok(additions)
    }
}

/// The number of the account's next entry.
async fn next(store: &dyn Store, account: &str) -> Result<u64, Error> {
    let note = store.notes(&[next_key(account)]).await?.pop().flatten();
    Ok(note.and_then(|note| String::from_utf8(note.0).ok()?.parse().ok()).unwrap_or(0))
}

async fn read(store: &dyn Store, account: &str, numbers: std::ops::Range<u64>) -> Result<Vec<Stored>, Error> {
    let keys: Vec<Arc<str>> = numbers.clone().map(|number| slot(account, number)).collect();
    let notes = store.notes(&keys).await?;
    // One that another release wrote, and this one cannot read, is left out.
    let entries = notes.into_iter().filter_map(|note| serde_json::from_slice::<Stored>(&note?.0).ok());
    Ok(entries.filter(|entry| numbers.contains(&entry.number)).collect())
}

/// At most `limit` entries with numbers below `before`, newest first.
pub(crate) async fn newest(
    store: &dyn Store,
    account: &str,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<JournalEntry>, Error> {
    let next = next(store, account).await?;
    let end = before.map_or(next, |before| before.min(next));
    let oldest = next.saturating_sub(ENTRIES);
    let begin = end.saturating_sub(u64::try_from(limit).unwrap_or(u64::MAX)).max(oldest);
    let entries = read(store, account, begin..end.max(begin)).await?;
    Ok(entries.into_iter().rev().map(shown).collect())
}

fn shown(stored: Stored) -> JournalEntry {
    let Stored { number, at, times, what } = stored;
    JournalEntry {
        number,
        at: Timestamp::from_millisecond(at).unwrap_or_default(),
        times,
        step: what.step,
        table: what.table.map(Into::into),
        ids: what.ids.into_iter().map(Into::into).collect(),
        rows: what.rows,
        message: what.message,
    }
}

/// Notes rows under what became of them, so many to an entry.
pub(crate) fn note_rows<'k>(
    tx: &mut Tx<'_>,
    rows: impl IntoIterator<Item = (&'k RowKey, JournalStep, Option<String>)>,
) {
    type Group = (JournalStep, Arc<str>, Arc<str>, Option<String>);
    let mut alike: BTreeMap<Group, Vec<String>> = BTreeMap::new();
    for (key, step, message) in rows {
        let group = (step, Arc::clone(&key.account), Arc::clone(&key.table), message);
        alike.entry(group).or_default().push(key.id.as_ref().to_owned());
    }
    for ((step, account, table, message), ids) in alike {
        for part in ids.chunks(IDS) {
            let (table, message) = (Some(table.as_ref().to_owned()), message.clone());
            let (ids, rows) = (part.to_vec(), part.len() as u64);
            tx.journal(&account, Happened { step, table, ids, rows, message });
        }
    }
}

/// Notes what may be very many rows: one entry for each table, with the first ids.
pub(crate) fn note_many<'k>(
    tx: &mut Tx<'_>,
    step: JournalStep,
    keys: impl IntoIterator<Item = &'k RowKey>,
    why: Option<&str>,
) {
    let mut of_tables: BTreeMap<(&Arc<str>, &Arc<str>), Happened> = BTreeMap::new();
    for RowKey { account, table, id } in keys {
        let entry = of_tables.entry((account, table)).or_insert_with(|| {
            let message = why.map(str::to_owned);
            Happened { message, ..Happened::new(step).of(table) }
        });
        entry.rows += 1;
        if entry.ids.len() < IDS && entry.ids.iter().all(|noted| **noted != **id) {
            entry.ids.push(id.as_ref().to_owned());
        }
    }
    for ((account, _), entry) in of_tables {
        tx.journal(account, entry);
    }
}

/// Notes operations that were parked before they were sent.
pub(crate) fn note_parked(tx: &mut Tx<'_>, parked: &[(RowKey, Parked)]) {
    note_rows(tx, parked.iter().map(|(key, why)| (key, JournalStep::Parked, Some(why.message.clone()))));
}

/// What an answer has done, as far as it is worth a note.
pub(crate) fn of_answer(
    answer: &Answer,
    effect: &Effect,
    unsent: Option<&str>,
) -> Option<(JournalStep, Option<String>)> {
    Some(match (effect, answer) {
        (Effect::Withdrawn | Effect::Fetch | Effect::Vanished, _) => return None,
        (Effect::Done, _) => (JournalStep::Pushed, None),
        (Effect::Conflict(Settled::Parked), _) => (JournalStep::Conflict, None),
        (Effect::Conflict(_), _) => (JournalStep::Settled, None),
        (Effect::Parked(reason), Answer::Refused { status: Some(status), .. }) => {
            (JournalStep::Parked, Some(format!("{status}: {reason}")))
        }
        (Effect::Parked(reason), _) => (JournalStep::Parked, Some(reason.clone())),
        (Effect::Stays, Answer::NotSent) => (JournalStep::Unsent, Some(unsent?.to_owned())),
        (Effect::Stays, Answer::Unknown { reason, .. }) => (JournalStep::Delayed, Some(reason.clone())),
        (Effect::Stays, _) => return None,
    })
}

/// A pull of the table begins again.
pub(crate) fn begun_again(table: &str, why: Check) -> Happened {
    Happened::new(JournalStep::Restarted).of(table).message(why.to_string())
}

/// What a page of a pull has changed; nothing if it has changed nothing.
pub(crate) fn note_page(tx: &mut Tx<'_>, account: &Arc<str>, table: &str, effects: &[(Arc<str>, page::Effect)]) {
    use page::Effect::{Conflict, Inserted, Removed, Unchanged, Updated};
    let count = |wanted: fn(&page::Effect) -> bool| effects.iter().filter(|(_, effect)| wanted(effect)).count();
    let [added, changed, removed] = [
        count(|effect| matches!(effect, Inserted)),
        count(|effect| matches!(effect, Updated)),
        count(|effect| matches!(effect, Removed)),
    ];
    if effects.iter().all(|(_, effect)| matches!(effect, Unchanged)) {
        return;
    }
    let message = format!("{added} added, {changed} changed, {removed} removed");
    let rows = (added + changed + removed) as u64;
    tx.journal(account, Happened::new(JournalStep::Pulled).of(table).rows(rows).message(message));
    let conflicts: Vec<(RowKey, JournalStep)> = effects
        .iter()
        .filter_map(|(id, effect)| {
            let key = RowKey { account: Arc::clone(account), table: table.into(), id: Arc::clone(id) };
            match effect {
                Conflict(Settled::Parked) => Some((key, JournalStep::Conflict)),
                Conflict(_) => Some((key, JournalStep::Settled)),
                _ => None,
            }
        })
        .collect();
    note_rows(tx, conflicts.iter().map(|(key, step)| (key, *step, Some("found by a pull".to_owned()))));
}
