//! Who waits for which rows to change. A commit wakes those whose query the changed rows match, or matched before it.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use futures::task::AtomicWaker;

use crate::{
    query::Evaluator,
    row::{Row, RowKey},
};

/// Somebody who waits.
#[derive(Debug)]
pub(crate) struct Watcher {
    table: Arc<str>,
    evaluator: Evaluator,
    changed: AtomicBool,
    waker: AtomicWaker,
}

impl Watcher {
    /// Ends when a commit has, or may have, changed the result since the last time.
    pub(crate) async fn changed(&self) {
        poll_fn(|context| {
            // Registered first: a change in between is seen here or wakes.
            self.waker.register(context.waker());
            if self.changed.swap(false, Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn wake(&self) {
        self.changed.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Whether it was told of a change and has not looked since.
    pub(crate) fn is_told(&self) -> bool {
        self.changed.load(Ordering::SeqCst)
    }

    /// Whether the change of a row may change the result.
    pub(crate) fn minds(&self, key: &RowKey, before: Option<&Row>, after: Option<&Row>) -> bool {
        key.table == self.table && (self.holds(key, before) || self.holds(key, after))
    }

    /// Whether a row is in the result. One that cannot be judged may be.
    fn holds(&self, key: &RowKey, row: Option<&Row>) -> bool {
        let record = row.and_then(|row| row.record.as_ref());
        record.is_some_and(|record| !matches!(self.evaluator.evaluate(&key.id, record), Ok(None)))
    }
}

/// How many rows an inbox remembers until somebody looks; behind that only that there were too many.
const MOST_ROWS: usize = 1_000;

/// Somebody who waits for conflicts.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// The rows in conflict that commits have written; `None` if that may be any.
    changed: Mutex<Option<BTreeSet<RowKey>>>,
    waker: AtomicWaker,
}

impl Inbox {
    /// The rows that have got a conflict, or another side of one, since the last time; `None` if all must be read again.
    pub(crate) async fn changed(&self) -> Option<BTreeSet<RowKey>> {
        poll_fn(|context| {
            self.waker.register(context.waker());
            let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
            match &*changed {
                Some(rows) if rows.is_empty() => Poll::Pending,
                _ => Poll::Ready(changed.replace(BTreeSet::new())),
            }
        })
        .await
    }

    fn tell(&self, key: Option<&RowKey>) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *changed, key) {
            (Some(rows), Some(key)) if rows.len() < MOST_ROWS => drop(rows.insert(key.clone())),
            (changed, _) => *changed = None,
        }
        drop(changed);
        self.waker.wake();
    }
}

/// All who wait.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    queries: Mutex<Vec<Weak<Watcher>>>,
    inboxes: Mutex<Vec<Weak<Inbox>>>,
}

impl Watchers {
    fn list(&self) -> MutexGuard<'_, Vec<Weak<Watcher>>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inboxes(&self) -> MutexGuard<'_, Vec<Weak<Inbox>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for conflicts from now on.
    pub(crate) fn add_inbox(&self) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox { changed: Mutex::new(Some(BTreeSet::new())), waker: AtomicWaker::new() });
        let mut inboxes = self.inboxes();
        inboxes.retain(|known| known.strong_count() > 0);
        inboxes.push(Arc::downgrade(&inbox));
        inbox
    }

    /// Waits for the rows of a query from now on.
    pub(crate) fn add(&self, table: Arc<str>, evaluator: Evaluator) -> Arc<Watcher> {
        let (changed, waker) = (AtomicBool::new(false), AtomicWaker::new());
        let watcher = Arc::new(Watcher { table, evaluator, changed, waker });
        let mut list = self.list();
        list.retain(|known| known.strong_count() > 0);
        list.push(Arc::downgrade(&watcher));
        watcher
    }

    /// Has everybody look again.
    pub(crate) fn wake(&self) {
        self.list().iter().filter_map(Weak::upgrade).for_each(|watcher| watcher.wake());
        self.inboxes().iter().filter_map(Weak::upgrade).for_each(|inbox| inbox.tell(None));
    }

    /// A commit is about to be made. Whoever waits is woken if nobody says that it was made, and what it changed.
    pub(crate) fn commit(&self) -> Commit<'_> {
        Commit { watchers: self, known: false }
    }
}

/// A commit under way.
pub(crate) struct Commit<'w> {
    watchers: &'w Watchers,
    known: bool,
}

impl Commit<'_> {
    /// It was made, and these are the rows before it and after it.
    pub(crate) fn made<'r>(
        mut self,
        rows: impl Iterator<Item = (&'r RowKey, Option<&'r Row>, Option<&'r Row>)> + Clone,
    ) {
        self.known = true;
        for watcher in self.watchers.list().iter().filter_map(Weak::upgrade) {
            if rows.clone().any(|(key, before, after)| watcher.minds(key, before, after)) {
                watcher.wake();
            }
        }
        for inbox in self.watchers.inboxes().iter().filter_map(Weak::upgrade) {
            for (key, _, after) in rows.clone() {
                if after.is_some_and(|row| row.conflict().is_some()) {
                    inbox.tell(Some(key));
                }
            }
        }
    }
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        if !self.known {
            self.watchers.wake();
        }
    }
}
