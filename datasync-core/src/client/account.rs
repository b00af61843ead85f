//! Accounts: whose rows an app sees, and whose changes are sent (I26).

use std::sync::Arc;

use crate::{
    client::DatasyncClient,
    engine::{account, committer::Tx},
    error::{Error, ErrorKind},
    events::SyncEvent,
};

/// The longest name of an account, in bytes.
const LONGEST_NAME: usize = 256;

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
        Ok(account::all(&*self.engine.store).await?)
    }

    /// Shows the rows of this account, and sends its changes from now on; remembered over restarts.
    ///
    /// The name is the one that the transport gives to whoever is signed in: with HTTP, `AccessToken::account`. No
    /// request is needed for it, so that it works offline. A push or pull compares the two first, and one with the
    /// credentials of another account is an error and sends nothing.
    ///
    /// What belongs to the account before stays in the store as it is, and comes back with its next sign-in; a push or
    /// pull of it that is under way ends with [`ErrorKind::OtherAccount`]. So does what was made while nobody was signed
    /// in: it belongs to whoever used the app then, and this need not be the same person.
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
            return Err(Error::new(ErrorKind::InvalidAccount, message));
        }
        let name = Arc::clone(&account);
        let plan = move |tx: &mut Tx<'_>| account::switch(tx, &account);
        if self.engine.committer.commit(account::switch_reads(&name), plan).await? {
            self.engine.events.emit(|| SyncEvent::SignedIn { account: name });
        }
        Ok(())
    }
}
