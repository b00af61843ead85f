//! Accounts: whose rows an app sees, and whose changes are sent (I26).

use std::sync::{Arc, PoisonError};

use crate::{
    client::DatasyncClient,
    engine::{
        account,
        acks::Fate,
        committer::{Reads, Tx},
        journal::{Happened, JournalStep},
    },
    error::{Context, Error, ErrorKind, SyncPhase},
    events::SyncEvent,
    report::AdoptReport,
    row::{DEFAULT_ACCOUNT, Hold, OperationKind, Phase, Row, RowKey},
    store::OperationsRequest,
};

/// The longest name of an account, in bytes.
const LONGEST_NAME: usize = 256;
/// How many rows one commit moves.
const ADOPTED_AT_ONCE: usize = 1_000;

impl DatasyncClient {
    /// The account whose rows are shown and sent; empty while nobody is signed in.
    #[must_use]
    pub fn account(&self) -> Arc<str> {
        self.engine.account()
    }

    /// The accounts of which this store has something, in order; the first has the empty name, and holds what was made
    /// while nobody was signed in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn accounts(&self) -> Result<Vec<Arc<str>>, Error> {
        account::all(&*self.engine.store).await.during(SyncPhase::Read)
    }

    /// Shows the rows of this account, and sends its changes from now on; remembered over restarts.
    ///
    /// The name is the one that the transport gives to whoever is signed in: with HTTP, `AccessToken::account`. No
    /// request is needed for it, so that it works offline. A push or pull compares the two first, and one with the
    /// credentials of another account is an error and sends nothing.
    ///
    /// What belongs to the account before stays in the store as it is, and comes back with its next sign-in; a push or
    /// pull of it that is under way ends with [`ErrorKind::OtherAccount`]. So does what was made while nobody was signed
    /// in: it belongs to whoever used the app then, and this need not be the same person; [`adopt`](DatasyncClient::adopt)
    /// moves it if it is.
    ///
    /// To sign in to the account that is shown already tries again what was paused because the service refused its
    /// last sign-in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidAccount`] if the name is empty, longer than 256 bytes, or has control characters;
    /// [`ErrorKind::Store`].
    pub async fn sign_in(&self, account: impl Into<Arc<str>>) -> Result<(), Error> {
        let account = account.into();
        if account.is_empty() || account.len() > LONGEST_NAME || account.contains(char::is_control) {
            let message = "the name of an account has 1 to 256 bytes and no control characters";
            return Err(Error::new(ErrorKind::InvalidAccount, message).during(SyncPhase::Decide));
        }
        let name = Arc::clone(&account);
        let plan = move |tx: &mut Tx<'_>| account::switch(tx, &account);
        let switched = self.engine.committer.commit(account::reads(&name), plan).await;
        if switched.during(SyncPhase::Decide)? {
            // Of the accounts before it nothing is kept but what still runs.
            let mut pushing = self.engine.pushing.lock().unwrap_or_else(PoisonError::into_inner);
            pushing.retain(|_, run| Arc::strong_count(run) > 1);
            drop(pushing);
            self.engine.events.emit(|| SyncEvent::SignedIn { account: name });
        } else {
            // A run may wait for it.
            self.engine.committer.watchers().wake();
        }
        Ok(())
    }

    /// Moves the rows that were made while nobody was signed in, and never sent, to the account that is signed in; the next
    /// push sends them. To be called when the app knows, or has asked, that they are the user's.
    ///
    /// A row stays where it is if an attempt to send it was made whose outcome is not known, if it came from a service, if
    /// the account has a row of its id, or if this release of the app does not have its table. Rows are moved one by one or
    /// many at once, each whole; a call that was cut is made again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidAccount`] if nobody is signed in; [`ErrorKind::OtherAccount`] if somebody signs in or out
    /// meanwhile; [`ErrorKind::Store`].
    pub async fn adopt(&self) -> Result<AdoptReport, Error> {
        self.take_in().await.during(SyncPhase::Decide)
    }

    async fn take_in(&self) -> Result<AdoptReport, Error> {
        let account = self.engine.account();
        if account.is_empty() {
            return Err(Error::new(ErrorKind::InvalidAccount, "nobody is signed in to take the rows: sign in first"));
        }
        let mut report = AdoptReport::default();
        let mut request =
            OperationsRequest { account: DEFAULT_ACCOUNT.into(), tables: None, after: 0, limit: ADOPTED_AT_ONCE };
        loop {
            let queued = self.engine.store.operations(&request).await?;
            let Some(last) = queued.last() else { return Ok(report) };
            request.after = last.operation.place;
            let of = |key: &RowKey| RowKey { account: Arc::clone(&account), ..key.clone() };
            let pairs: Vec<(RowKey, RowKey)> = queued.into_iter().map(|item| (of(&item.key), item.key)).collect();
            let rows = pairs.iter().flat_map(|(to, from)| [to.clone(), from.clone()]).collect();
            let (account, tables) = (Arc::clone(&account), Arc::clone(&self.engine.tables));
            let plan = move |tx: &mut Tx<'_>| {
                let mut report = AdoptReport::default();
                for (to, from) in &pairs {
                    account::check(tx, to)?;
                    match tables.has(to) && adopt(tx, to, from)? {
                        true => report.moved += 1,
                        false => report.left += 1,
                    }
                }
                if report.moved > 0 {
                    tx.journal(&account, Happened::new(JournalStep::Adopted).rows(report.moved));
                }
                Ok(report)
            };
            let AdoptReport { moved, left } = self.engine.committer.commit(Reads::rows(rows), plan).await?;
            report.moved += moved;
            report.left += left;
        }
    }
}

/// Moves one row; false if it must stay.
fn adopt(tx: &mut Tx<'_>, to: &RowKey, from: &RowKey) -> Result<bool, Error> {
    let Some(mut row) = tx.row(from)? else { return Ok(false) };
    let made_here = row.quarantine.is_none() && row.tombstone.is_none() && row.base.is_none();
    let [operation] = row.operations.as_mut_slice() else { return Ok(false) };
    if !made_here || operation.kind != OperationKind::Insert || operation.in_doubt() || tx.row(to)?.is_some() {
        return Ok(false);
    }
    tx.fate(operation.place, Fate::Adopted);
    operation.place = tx.new_place();
    operation.key = tx.new_key();
    operation.phase = Phase::New;
    operation.hold = Hold::Ready;
    operation.attempts = 0;
    operation.rounds = 0;
    row.revision += 1;
    tx.put(from, Row::default());
    tx.put(to, row);
    Ok(true)
}
