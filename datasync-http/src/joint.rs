//! What several callers need at the same time is asked for once.

use std::sync::{Mutex, PoisonError};

use futures::{
    FutureExt,
    future::{BoxFuture, WeakShared},
};

/// A question that is under way, for all who want its answer. It belongs to them: whoever is left polls it on, so that nobody
/// waits for a caller that has stopped, and with the last of them it is given up.
pub(crate) struct Joint<T: Clone>(Mutex<Option<WeakShared<BoxFuture<'static, T>>>>);

impl<T: Clone> Default for Joint<T> {
    fn default() -> Self {
        Joint(Mutex::new(None))
    }
}

impl<T: Clone> Joint<T> {
    /// The answer of the question under way, or else of this one; `None` if none is under way and this one is not asked.
    pub(crate) async fn ask(&self, question: impl FnOnce() -> Option<BoxFuture<'static, T>>) -> Option<T> {
        let asked = {
            let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // One that has its answer says nothing of what has changed since.
            let joined = under_way.as_ref().and_then(WeakShared::upgrade).filter(|asked| asked.peek().is_none());
            match joined {
                Some(asked) => asked,
                None => {
                    let asked = question()?.shared();
                    *under_way = asked.downgrade();
                    asked
                }
            }
        };
        Some(asked.await)
    }
}
