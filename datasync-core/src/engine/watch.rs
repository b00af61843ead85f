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
    row::{Hold, Operation, Row, RowKey},
};

/// Something that one waits for and others tell of; remembered until it is looked at.
#[derive(Debug, Default)]
pub(crate) struct Flag {
    raised: AtomicBool,
    waker: AtomicWaker,
}

impl Flag {
    /// Ends when it was raised since the last time.
    pub(crate) async fn raised(&self) {
        poll_fn(|context| {
            // Registered first: what comes in between is seen here or wakes.
            self.waker.register(context.waker());
            if self.raised.swap(false, Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub(crate) fn wake(&self) {
        self.raised.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

/// Somebody who waits.
#[derive(Debug)]
pub(crate) struct Watcher {
    table: Arc<str>,
    evaluator: Evaluator,
    flag: Flag,
}

impl Watcher {
    /// Ends when a commit has, or may have, changed the result since the last time.
    pub(crate) async fn changed(&self) {
        self.flag.raised().await;
    }

    fn wake(&self) {
        self.flag.wake();
    }

    /// Whether it was told of a change and has not looked since.
    pub(crate) fn is_told(&self) -> bool {
        self.flag.raised.load(Ordering::SeqCst)
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
    /// Those who wait for local writes that are to be sent.
    queues: Mutex<Vec<Weak<Flag>>>,
}

impl Watchers {
    fn list(&self) -> MutexGuard<'_, Vec<Weak<Watcher>>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inboxes(&self) -> MutexGuard<'_, Vec<Weak<Inbox>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Weak<Flag>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for local writes that are to be sent from now on.
    pub(crate) fn add_queue(&self) -> Arc<Flag> {
        let flag = Arc::<Flag>::default();
        let mut queues = self.queues();
        queues.retain(|known| known.strong_count() > 0);
        queues.push(Arc::downgrade(&flag));
        flag
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
        let watcher = Arc::new(Watcher { table, evaluator, flag: Flag::default() });
        let mut list = self.list();
        list.retain(|known| known.strong_count() > 0);
        list.push(Arc::downgrade(&watcher));
        watcher
    }

    /// Has everybody look again.
    pub(crate) fn wake(&self) {
        self.list().iter().filter_map(Weak::upgrade).for_each(|watcher| watcher.wake());
        self.inboxes().iter().filter_map(Weak::upgrade).for_each(|inbox| inbox.tell(None));
        self.queues().iter().filter_map(Weak::upgrade).for_each(|queue| queue.wake());
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
        let queues = self.watchers.queues();
        if !queues.is_empty() && rows.clone().any(|(_, before, after)| has_more_to_send(before, after)) {
            queues.iter().filter_map(Weak::upgrade).for_each(|queue| queue.wake());
        }
        drop(queues);
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

/// Whether a change of a row is one that a push has to know of: a new operation, another body of one that is ready, one that
/// somebody has made ready, or one that waits from now on.
fn has_more_to_send(before: Option<&Row>, after: Option<&Row>) -> bool {
    let Some(after) = after else { return false };
    after.operations.iter().any(|operation| {
        let known = before.and_then(|row| row.operations.iter().find(|known| known.place == operation.place));
        let known_hold = known.map(|known| &known.hold);
        match &operation.hold {
            Hold::Parked(_) => false,
            Hold::Wait { .. } => known_hold != Some(&operation.hold),
            Hold::Ready if matches!(known_hold, Some(Hold::Parked(_))) => true,
            // What a push takes up, and what it gives back because there is no network, is its own affair.
            Hold::Ready if operation.in_doubt() || known.is_some_and(Operation::in_doubt) => false,
            Hold::Ready => known_hold != Some(&Hold::Ready) || before.map(|row| &row.record) != Some(&after.record),
        }
    })
}
