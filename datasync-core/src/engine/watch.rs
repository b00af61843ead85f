//! Who waits for which rows to change. A commit wakes those whose query the changed rows match, or matched before it.

use std::{
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

    /// Whether a row is in the result. One that cannot be judged may be.
    fn holds(&self, key: &RowKey, row: Option<&Row>) -> bool {
        let record = row.and_then(|row| row.record.as_ref());
        record.is_some_and(|record| !matches!(self.evaluator.evaluate(&key.id, record), Ok(None)))
    }
}

/// All who wait.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<Vec<Weak<Watcher>>>);

impl Watchers {
    fn list(&self) -> MutexGuard<'_, Vec<Weak<Watcher>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A commit is about to be made. Whoever waits is woken if its outcome stays unknown, or nobody says what it changed.
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
    /// It was not made.
    pub(crate) fn failed(mut self) {
        self.known = true;
    }

    /// It was made, and these are the rows before it and after it.
    pub(crate) fn made<'r>(
        mut self,
        rows: impl Iterator<Item = (&'r RowKey, Option<&'r Row>, Option<&'r Row>)> + Clone,
    ) {
        self.known = true;
        for watcher in self.watchers.list().iter().filter_map(Weak::upgrade) {
            let mut of_table = rows.clone().filter(|(key, ..)| key.table == watcher.table);
            if of_table.any(|(key, before, after)| watcher.holds(key, before) || watcher.holds(key, after)) {
                watcher.wake();
            }
        }
    }
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        if !self.known {
            self.watchers.list().iter().filter_map(Weak::upgrade).for_each(|watcher| watcher.wake());
        }
    }
}
