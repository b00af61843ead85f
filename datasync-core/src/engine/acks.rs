//! What became of changes that have left the queue, for those who wait for the service.
//!
//! A change is known by its row and its place in the queue. While it is queued its row says what it waits for. Once it has
//! left, nothing that is stored tells whether the service has it. So each commit in which changes leave the queue says here
//! why, before it is made; and who waits is woken after it. Nothing is remembered while nobody holds a change that could
//! be asked about.
//!
//! | the commit … | what a waiter finds |
//! | --- | --- |
//! | is made | the row without the change, and the reason if the service does not have it |
//! | is not made | the row with the change; a reason that was said too early is not looked at, and corrected later |
//! | may have been made | one of the two, when it looks at the row |

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures::channel::oneshot;

use crate::{
    row::{Row, RowKey},
    store::Clear,
};

/// Why a change has left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The service has it, or already had the same, or has nothing left to learn from it.
    Stored,
    /// It has become a part of the change of this place, which was queued before it.
    Collapsed(u64),
    /// A conflict ended with the service's copy.
    Overruled,
    /// The row was deleted here before its insert was sent.
    Withdrawn,
    /// Somebody discarded it.
    Discarded,
    /// A forced purge dropped it.
    Purged,
    /// Its row was moved to the account that has signed in.
    Adopted,
    /// It was dropped in another way, or with everything of its table or account.
    Dropped,
}

/// Held by whoever may still ask what became of a change.
pub(crate) type Held = Arc<()>;

/// The reasons, and who waits.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    held: Held,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Changes that left the queue without the service having them, by place.
    lost: BTreeMap<u64, Fate>,
    /// Changes that have become a part of another one, and its place.
    joined: BTreeMap<u64, u64>,
    /// What was removed as a whole, and the last place that was queued then.
    cleared: Vec<(Clear, u64)>,
    waiting: BTreeMap<RowKey, Vec<oneshot::Sender<()>>>,
}

/// What a commit does to the queue.
pub(crate) struct Changes<'c> {
    pub(crate) before: &'c BTreeMap<RowKey, Option<Row>>,
    pub(crate) after: &'c BTreeMap<RowKey, Option<Row>>,
    pub(crate) fates: &'c BTreeMap<u64, Fate>,
    pub(crate) clear: &'c [Clear],
    /// The places that the commit has given away.
    pub(crate) created: Range<u64>,
}

impl Acks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be taken before the change is committed, so that nothing is forgotten.
    pub(crate) fn hold(&self) -> Held {
        Arc::clone(&self.held)
    }

    /// A commit with these changes is about to be made.
    pub(crate) fn commit<'a>(&'a self, changes: &Changes<'a>) -> Commit<'a> {
        let mut state = self.state();
        if Arc::strong_count(&self.held) == 1 {
            *state = State { waiting: std::mem::take(&mut state.waiting), ..State::default() };
        } else {
            state.note(changes);
        }
        let cleared = state.cleared.len();
        Commit { acks: self, rows: changes.after, clear: changes.clear, cleared }
    }

    /// Why a change that is no longer queued has left, if the service does not have it.
    pub(crate) fn lost(&self, key: &RowKey, place: u64) -> Option<Fate> {
        let state = self.state();
        let cleared = |(clear, last): &(Clear, u64)| place <= *last && clear.includes(&key.account, &key.table);
        let cleared = || state.cleared.iter().any(cleared).then_some(Fate::Dropped);
        state.lost.get(&place).copied().or_else(cleared)
    }

    /// The change that a change has become a part of, or itself.
    pub(crate) fn stands_for(&self, place: u64) -> u64 {
        let state = self.state();
        std::iter::successors(Some(place), |place| state.joined.get(place).copied()).last().unwrap_or(place)
    }

    /// Waits for the next commit that changes the row, from now on.
    pub(crate) fn wait(self: &Arc<Self>, key: &RowKey) -> Wait {
        let (sender, told) = oneshot::channel();
        self.state().waiting.entry(key.clone()).or_default().push(sender);
        Wait { acks: Arc::downgrade(self), key: key.clone(), told }
    }

    /// Has everybody look again.
    pub(crate) fn wake_all(&self) {
        self.state().waiting.clear();
    }
}

impl State {
    fn note(&mut self, changes: &Changes<'_>) {
        let queued = |row: Option<&Option<Row>>, place| {
            row.and_then(Option::as_ref).is_some_and(|row| row.operations.iter().any(|queued| queued.place == place))
        };
        for (key, before) in changes.before {
            for operation in before.iter().flat_map(|row| &row.operations) {
                if changes.after.contains_key(key) && !queued(changes.after.get(key), operation.place) {
                    self.left(operation.place, changes.fates);
                }
            }
        }
        let kept = || {
            let queued = changes.after.values().flatten().flat_map(|row| &row.operations);
            queued.map(|queued| queued.place).filter(|place| changes.created.contains(place))
        };
        if kept().count() as u64 != changes.created.end - changes.created.start {
            // Queued and gone again in one commit.
            let kept: BTreeSet<u64> = kept().collect();
            let gone = changes.created.clone().filter(|place| !kept.contains(place));
            gone.for_each(|place| self.left(place, changes.fates));
        }
        self.cleared.extend(changes.clear.iter().map(|clear| (clear.clone(), changes.created.start.saturating_sub(1))));
    }

    fn left(&mut self, place: u64, fates: &BTreeMap<u64, Fate>) {
        match fates.get(&place).copied().unwrap_or(Fate::Dropped) {
            Fate::Stored => _ = self.lost.remove(&place),
            Fate::Collapsed(into) => _ = self.joined.insert(place, into),
            fate => _ = self.lost.insert(place, fate),
        }
    }
}

/// A commit under way; whoever waits for its rows looks again when it is dropped.
pub(crate) struct Commit<'a> {
    acks: &'a Acks,
    rows: &'a BTreeMap<RowKey, Option<Row>>,
    clear: &'a [Clear],
    /// How much was cleared with it, and before it.
    cleared: usize,
}

impl Commit<'_> {
    /// It is certain that it was not made.
    pub(crate) fn not_made(&self) {
        let kept = self.cleared.saturating_sub(self.clear.len());
        self.acks.state().cleared.truncate(kept);
    }
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        let mut state = self.acks.state();
        if state.waiting.is_empty() {
            return;
        }
        let (rows, clear) = (self.rows, self.clear);
        state.waiting.retain(|key, _| {
            !rows.contains_key(key) && !clear.iter().any(|clear| clear.includes(&key.account, &key.table))
        });
    }
}

/// Somebody who waits; forgotten when it is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    acks: Weak<Acks>,
    key: RowKey,
    told: oneshot::Receiver<()>,
}

impl Wait {
    /// Ends when the row may have changed, or the client is gone.
    pub(crate) async fn told(mut self) {
        // It is told by letting go of the other end.
        let _ = (&mut self.told).await;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.told.close();
        let Some(acks) = self.acks.upgrade() else { return };
        let mut state = acks.state();
        if let Some(waiting) = state.waiting.get_mut(&self.key) {
            waiting.retain(|sender| !sender.is_canceled());
            if waiting.is_empty() {
                state.waiting.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn row(places: &[u64]) -> Option<Row> {
        let operation = |place: &u64| crate::row::Operation {
            place: *place,
            key: uuid::Uuid::nil(),
            kind: crate::row::OperationKind::Replace,
            phase: crate::row::Phase::New,
            hold: crate::row::Hold::Ready,
            version: None,
            frozen: None,
            frozen_base: None,
            fingerprint: 0,
            schema: 1,
            edited: None,
            attempts: 0,
            rounds: 0,
        };
        Some(Row { operations: places.iter().map(operation).collect(), ..Row::default() })
    }

    type Rows = BTreeMap<RowKey, Option<Row>>;

    fn commit(acks: &Acks, before: &Rows, after: &Rows, fates: &[(u64, Fate)], created: Range<u64>) {
        let fates = fates.iter().copied().collect();
        drop(acks.commit(&Changes { before, after, fates: &fates, clear: &[], created }));
    }

    #[test]
    fn what_leaves_the_queue_without_a_reason_was_dropped() {
        let (acks, key) = (Arc::new(Acks::default()), RowKey::new("t", "1"));
        let held = acks.hold();
        let rows = |places: &[u64]| Rows::from([(key.clone(), row(places))]);
        commit(&acks, &rows(&[1, 2]), &rows(&[2]), &[(1, Fate::Stored)], 5..5);
        assert_eq!(acks.lost(&key, 1), None);
        commit(&acks, &rows(&[2]), &rows(&[]), &[], 5..5);
        assert_eq!(acks.lost(&key, 2), Some(Fate::Dropped));
        commit(&acks, &rows(&[]), &rows(&[6]), &[(5, Fate::Withdrawn)], 5..8);
        assert_eq!((acks.lost(&key, 5), acks.lost(&key, 6)), (Some(Fate::Withdrawn), None));
        assert_eq!(acks.lost(&key, 7), Some(Fate::Dropped), "made and gone in one commit");
        commit(&acks, &rows(&[2]), &rows(&[]), &[(2, Fate::Stored)], 8..8);
        assert_eq!(acks.lost(&key, 2), None, "the commit that dropped it was not made");
        drop(held);
        commit(&acks, &rows(&[]), &rows(&[]), &[], 8..8);
        assert_eq!(acks.lost(&key, 5), None, "nobody can ask any more");
    }

    #[test]
    fn who_waits_is_woken_by_its_own_row_and_forgotten_when_dropped() {
        let (acks, key) = (Arc::new(Acks::default()), RowKey::new("t", "1"));
        let rows = |id| Rows::from([(RowKey::new("t", id), None)]);
        let dropped = acks.wait(&key);
        let mut told = Box::pin(acks.wait(&key).told());
        drop(dropped);
        assert_eq!(acks.state().waiting[&key].len(), 1);
        commit(&acks, &rows("2"), &rows("2"), &[], 1..1);
        assert!(told.as_mut().now_or_never().is_none());
        commit(&acks, &rows("1"), &rows("1"), &[], 1..1);
        assert!(told.now_or_never().is_some() && acks.state().waiting.is_empty());
    }
}
