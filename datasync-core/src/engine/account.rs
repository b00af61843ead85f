//! Accounts: whose rows are shown and sent (I26).
//!
//! The account that is shown is a note, and what is in memory follows the commits that change it: a write that was
//! called before a switch and is planned after it is an error, and never lands where nobody sees it.
//!
//! | the process dies … | what is left |
//! | --- | --- |
//! | before the commit of a switch | the account before, with its rows |
//! | after it | the other one; the rows of the first as they were, or gone, as the commit says |
//! | between a refused sign-in and its note | operations that are ready: the next push is refused and notes it |

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{
        Engine,
        committer::{Reads, Tx},
        journal::{Happened, JournalStep},
    },
    error::{Error, ErrorKind},
    row::{DEFAULT_ACCOUNT, RowKey},
    store::{Note, Store, StoreError},
};

/// The note with the name of the account that is shown.
const PRESENT: &str = "present";
/// What the notes of the accounts begin with; the name follows.
const ACCOUNT: &str = "account:";
/// How many notes one read of the store brings.
const CHUNK: usize = 1_000;

/// The account that is shown, as the last commit left it.
#[derive(Debug)]
pub(crate) struct Present(Mutex<Arc<str>>);

impl Present {
    /// As the store has it.
    pub(crate) async fn load(store: &dyn Store) -> Result<Present, StoreError> {
        Ok(Present(Mutex::new(stored(store).await?)))
    }

    /// Reads it again, after a commit whose outcome was not known.
    pub(crate) async fn reload(&self, store: &dyn Store) -> Result<(), StoreError> {
        self.set(stored(store).await?);
        Ok(())
    }

    pub(crate) fn get(&self) -> Arc<str> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, account: Arc<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = account;
    }
}

async fn stored(store: &dyn Store) -> Result<Arc<str>, StoreError> {
    let note = store.notes(&[PRESENT.into()]).await?.pop().flatten();
    Ok(note.and_then(|note| String::from_utf8(note.0).ok()).unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned()).into())
}

/// Every account of which the store may have something, in order: the default one first.
pub(crate) async fn all(store: &dyn Store) -> Result<Vec<Arc<str>>, StoreError> {
    let mut accounts: Vec<Arc<str>> = vec![DEFAULT_ACCOUNT.into()];
    let mut after: Option<Arc<str>> = None;
    loop {
        let notes = store.list_notes(ACCOUNT, after.as_deref(), CHUNK).await?;
        let Some((last, _)) = notes.last() else { return Ok(accounts) };
        after = Some(Arc::clone(last));
        let names = notes.iter().filter_map(|(key, _)| key.strip_prefix(ACCOUNT)).filter(|name| !name.is_empty());
        accounts.extend(names.map(Arc::from));
    }
}

fn note_of(account: &str) -> Arc<str> {
    format!("{ACCOUNT}{account}").into()
}

/// What is known of an account besides its rows.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    /// Since when, in milliseconds, the service refuses the sign-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<i64>,
}

impl Known {
    fn read(note: Option<&Note>) -> Known {
        note.and_then(|note| serde_json::from_slice(&note.0).ok()).unwrap_or_default()
    }

    fn note(&self) -> Result<Note, Error> {
        let written = serde_json::to_vec(self);
        written.map(Note).map_err(|error| Error::caused(ErrorKind::Store, "an account could not be noted", error))
    }
}

/// What it takes to know what is known of an account.
pub(crate) fn reads(account: &str) -> Reads {
    Reads::default().note(note_of(account))
}

/// Whether a sign-out has forgotten the account, of which then nothing is noted.
pub(crate) fn is_forgotten(tx: &Tx<'_>, account: &str) -> Result<bool, Error> {
    Ok(*tx.present() != *account && tx.note(&note_of(account))?.is_none())
}

/// Shows another account, and lets it send again. Pages on their way are thrown away.
pub(crate) fn switch(tx: &mut Tx<'_>, account: &Arc<str>) -> Result<bool, Error> {
    let switched = *account != tx.present();
    if switched {
        tx.set_note(&PRESENT.into(), Some(Note(account.as_bytes().to_vec())));
        tx.set_present(Arc::clone(account));
        tx.raise_generation();
        tx.journal(account, Happened::new(JournalStep::SignedIn));
    }
    let note = note_of(account);
    let (known, resumed) = (tx.note(&note)?, Known::default().note()?);
    if known.as_ref() != Some(&resumed) {
        tx.set_note(&note, Some(resumed));
    }
    Ok(switched)
}

/// Shows the default account, and forgets that this one was here if nothing of it is kept. Pages on their way are thrown
/// away.
///
/// # Errors
///
/// Another account has signed in meanwhile: that one stays.
pub(crate) fn leave(tx: &mut Tx<'_>, account: &Arc<str>, kept: bool) -> Result<(), Error> {
    if tx.present() != *account {
        let message =
            "another account has signed in meanwhile, so that this one is not shown any more: sign in to it again";
        return Err(Error::new(ErrorKind::OtherAccount, message));
    }
    if kept {
        tx.journal(account, Happened::new(JournalStep::SignedOut));
    } else {
        tx.end_journal(account);
        tx.set_note(&note_of(account), None);
    }
    if **account != *DEFAULT_ACCOUNT {
        tx.set_note(&PRESENT.into(), None);
        tx.set_present(DEFAULT_ACCOUNT.into());
    }
    tx.raise_generation();
    Ok(())
}

/// Fails if the row is not of the account that is shown.
pub(crate) fn check(tx: &Tx<'_>, key: &RowKey) -> Result<(), Error> {
    if tx.present() == key.account {
        return Ok(());
    }
    let message = format!("{key:?} belongs to an account that has signed out meanwhile: nothing was changed");
    Err(Error::new(ErrorKind::OtherAccount, message))
}

impl Engine {
    /// The account whose rows are shown and sent.
    pub(crate) fn account(&self) -> Arc<str> {
        self.committer.present().get()
    }

    /// Fails if another account is shown than the one that a push or pull began for.
    pub(crate) fn check_present(&self, account: &str) -> Result<(), Error> {
        match *self.account() == *account {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::OtherAccount, "another account has signed in meanwhile: call again")),
        }
    }

    /// Fails if requests would go out with the credentials of anybody but `account` (I26).
    pub(crate) async fn check_sign_in(&self, account: &str) -> Result<(), Error> {
        let signed_in = self.transport.account(account).await?;
        match signed_in.as_deref() {
            Some(name) if name == account => Ok(()),
            None if account.is_empty() => Ok(()),
            Some(name) => {
                let message = format!(
                    "requests are signed in as `{name}`, but the rows shown are those of {}: call \
                     `sign_in(\"{name}\")` first",
                    named(account)
                );
                Err(Error::new(ErrorKind::OtherAccount, message))
            }
            None => {
                let message = format!("nobody is signed in to send what belongs to {}", named(account));
                Err(Error::new(ErrorKind::Unauthenticated, message))
            }
        }
    }

    /// Since when the service refuses the sign-in of the account; `None` if it does not.
    pub(crate) async fn paused(&self, account: &str) -> Result<Option<Timestamp>, Error> {
        let note = self.store.notes(&[note_of(account)]).await?.pop().flatten();
        Ok(Known::read(note.as_ref()).refused.and_then(|since| Timestamp::from_millisecond(since).ok()))
    }

    /// Notes that the service has refused the sign-in: nothing is sent by itself until there is another one.
    pub(crate) async fn pause(&self, account: &str) -> Result<(), Error> {
        self.set_refused(account, |tx| Some(tx.now().as_millisecond())).await
    }

    /// The service takes the sign-in again.
    pub(crate) async fn resume(&self, account: &str) -> Result<(), Error> {
        self.set_refused(account, |_| None).await
    }

    async fn set_refused(&self, account: &str, since: fn(&Tx<'_>) -> Option<i64>) -> Result<(), Error> {
        let of: Arc<str> = account.into();
        let plan = move |tx: &mut Tx<'_>| {
            if is_forgotten(tx, &of)? {
                return Ok(());
            }
            let note = note_of(&of);
            let (known, refused) = (tx.note(&note)?, since(tx));
            if Known::read(known.as_ref()).refused.is_some() != refused.is_some() {
                let step = if refused.is_some() { JournalStep::Paused } else { JournalStep::Resumed };
                tx.journal(&of, Happened::new(step));
                tx.set_note(&note, Some(Known { refused }.note()?));
            }
            Ok(())
        };
        self.committer.commit(reads(account), plan).await
    }
}

/// An account as it is called in a message.
pub(crate) fn named(account: &str) -> String {
    if account.is_empty() { "no account".to_owned() } else { format!("`{account}`") }
}
