//! Pulls that the service fails, each of which the journal is told of once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    engine::{
        Engine, account,
        committer::Tx,
        journal::{Happened, JournalStep},
    },
    error::{Error, ErrorKind},
    store::ScopeKey,
};

/// Of how many scopes it is remembered.
const MOST: usize = 1_000;

/// With which words the last pull of a scope has failed, if it has, and in which generation of the store.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<BTreeMap<ScopeKey, (u64, String)>>);

impl Failures {
    fn known(&self) -> MutexGuard<'_, BTreeMap<ScopeKey, (u64, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pull of the scope has succeeded.
    pub(super) fn forget(&self, scope: &ScopeKey) {
        self.known().remove(scope);
    }

    /// A pull of the scope has failed. Returns whether that is news.
    fn tell(&self, scope: &ScopeKey, generation: u64, message: &str) -> bool {
        let mut known = self.known();
        // What a reset or a sign-out has removed fails no more.
        known.retain(|_, (of, _)| *of == generation);
        if known.len() >= MOST && !known.contains_key(scope) {
            known.pop_first();
        }
        let before = known.insert(scope.clone(), (generation, message.to_owned()));
        before.is_none_or(|(_, before)| before != message)
    }
}

impl Engine {
    /// Writes into the journal that the service has failed the pull: once for each scope until that changes, so that those
    /// which fail in turn do not fill it. A network that is away is no news.
    pub(super) async fn note_pull_failure(&self, scope: &ScopeKey, error: &Error) {
        if error.kind() != ErrorKind::Service {
            return;
        }
        let Ok(head) = self.store.head().await else { return };
        let (account, table, message) = (Arc::clone(&scope.account), Arc::clone(&scope.table), error.to_string());
        if !self.pull_failures.tell(scope, head.generation, &message) {
            return;
        }
        let reads = account::reads(&account);
        let plan = move |tx: &mut Tx<'_>| {
            if !account::is_forgotten(tx, &account)? {
                let happened = Happened::new(JournalStep::PullFailed).of(&table).message(message.clone());
                tx.journal(&account, happened);
            }
            Ok(())
        };
        let _ = self.committer.commit(reads, plan).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(number: usize) -> ScopeKey {
        ScopeKey { account: "".into(), table: "t".into(), scope: format!("{number:05}").into() }
    }

    #[test]
    fn what_has_failed_is_remembered_of_so_many_scopes_and_until_a_reset() {
        let failures = Failures::default();
        assert!(failures.tell(&scope(0), 1, "down"));
        assert!(!failures.tell(&scope(0), 1, "down") && failures.tell(&scope(0), 1, "full"));
        failures.forget(&scope(0));
        assert!((0..2 * MOST).all(|number| failures.tell(&scope(number), 1, "down")));
        assert_eq!(failures.known().len(), MOST);
        assert!(!failures.tell(&scope(2 * MOST - 1), 1, "down"));
        assert!(failures.tell(&scope(2 * MOST - 1), 2, "down"), "the journal may have ended");
        assert_eq!(failures.known().len(), 1);
    }
}
