//! Answers that cross: which rows changed while a page was on its way (DESIGN.md section 8).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::row::RowKey;

/// Remembers, while requests for rows are on their way, which rows were changed by an answer since they left.
#[derive(Debug, Default)]
pub(crate) struct Crossing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    requests: BTreeSet<u64>,
    /// When each row was changed, and by which request, if it was a page that stored it.
    changed: HashMap<RowKey, (u64, Option<u64>)>,
    by_time: BTreeMap<u64, RowKey>,
}

/// A request on its way; forgotten when it is dropped.
#[derive(Debug)]
pub(crate) struct Request {
    crossing: Arc<Crossing>,
    sent: u64,
    /// The page that this request is for: what the page itself stores does not cross it.
    page: u64,
}

impl Crossing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request for rows leaves now.
    pub(crate) fn request(self: &Arc<Self>) -> Request {
        let mut state = self.state();
        state.next += 1;
        let sent = state.next;
        state.requests.insert(sent);
        Request { crossing: Arc::clone(self), sent, page: sent }
    }

    /// An answer with a newer state of the row has come, and is about to be stored.
    pub(crate) fn changed(&self, key: &RowKey) {
        self.mark(key, None);
    }

    fn mark(&self, key: &RowKey, page: Option<u64>) {
        let mut state = self.state();
        if state.requests.is_empty() {
            return;
        }
        state.next += 1;
        let now = state.next;
        if let Some((before, _)) = state.changed.insert(key.clone(), (now, page)) {
            state.by_time.remove(&before);
        }
        state.by_time.insert(now, key.clone());
    }
}

impl Request {
    /// A request for a single row of this page leaves now.
    pub(crate) fn again(&self) -> Request {
        let mut request = self.crossing.request();
        request.page = self.page;
        request
    }

    /// A row of this page is about to be stored. A plan may say so more than once.
    pub(crate) fn stores(&self, key: &RowKey) {
        self.crossing.mark(key, Some(self.page));
    }

    /// Whether an answer for the row, or another page with it, has come since this request left.
    pub(crate) fn crossed(&self, key: &RowKey) -> bool {
        let state = self.crossing.state();
        state.changed.get(key).is_some_and(|(changed, page)| *changed > self.sent && *page != Some(self.page))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut state = self.crossing.state();
        state.requests.remove(&self.sent);
        let oldest = state.requests.first().copied().unwrap_or(u64::MAX);
        while let Some((time, _)) = state.by_time.first_key_value().filter(|(time, _)| **time < oldest) {
            let time = *time;
            if let Some(key) = state.by_time.remove(&time) {
                state.changed.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_crosses_the_requests_that_left_before_it() {
        let crossing = Arc::new(Crossing::default());
        let key = RowKey::new("t", "1");
        crossing.changed(&key);
        let before = crossing.request();
        assert!(!before.crossed(&key));
        crossing.changed(&key);
        let after = crossing.request();
        assert!(before.crossed(&key));
        assert!(!after.crossed(&key));
        after.stores(&key);
        assert!(!after.crossed(&key) && !after.again().crossed(&key), "what a page stores does not cross it");
        drop((before, after));
        assert!(crossing.state().changed.is_empty() && crossing.state().by_time.is_empty());
    }
}
