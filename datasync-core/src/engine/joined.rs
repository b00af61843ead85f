//! One run that several callers share: whoever is left polls it on, and it ends with its last caller.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

/// What later callers ask of a run under way.
pub(crate) struct Requests<R>(Arc<Mutex<Asked<R>>>);

struct Asked<R> {
    new: Vec<R>,
    closed: bool,
}

impl<R> Clone for Requests<R> {
    fn clone(&self) -> Self {
        Requests(Arc::clone(&self.0))
    }
}

impl<R> Requests<R> {
    fn asked(&self) -> MutexGuard<'_, Asked<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was asked since the last time.
    pub(crate) fn take(&self) -> Vec<R> {
        std::mem::take(&mut self.asked().new)
    }

    /// Ends the run because it has failed, for all who have asked: later callers start another one.
    pub(crate) fn fail(&self) {
        self.asked().closed = true;
    }

    /// Ends the run if nobody has asked for more since; later callers then start another one.
    pub(crate) fn close(&self) -> bool {
        let mut asked = self.asked();
        asked.closed |= asked.new.is_empty();
        asked.closed
    }
}

struct Running<T: Clone, R> {
    run: WeakShared<BoxFuture<'static, T>>,
    requests: Requests<R>,
}

/// The run under way, if there is one.
pub(crate) struct Joined<T: Clone, R>(Mutex<Option<Running<T, R>>>);

impl<T: Clone, R> Default for Joined<T, R> {
    fn default() -> Self {
        Joined(Mutex::new(None))
    }
}

impl<T: Clone, R> fmt::Debug for Joined<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Joined")
    }
}

impl<T: Clone + Send + 'static, R: Send + 'static> Joined<T, R> {
    /// The run under way, if there is one; whoever has it polls it on.
    pub(crate) fn running(&self) -> Option<Shared<BoxFuture<'static, T>>> {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().and_then(|running| running.run.upgrade()).filter(|run| run.peek().is_none())
    }

    /// Adds `request` to the run under way, or makes one that begins with it.
    pub(crate) fn join(
        &self,
        request: R,
        start: impl FnOnce(Requests<R>) -> BoxFuture<'static, T>,
    ) -> Shared<BoxFuture<'static, T>> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Running { run, requests }) = &*running
            && let Some(run) = run.upgrade()
            && run.peek().is_none()
        {
            let mut asked = requests.asked();
            if !asked.closed {
                asked.new.push(request);
                return run;
            }
        }
        let requests = Requests(Arc::new(Mutex::new(Asked { new: vec![request], closed: false })));
        let run = start(requests.clone()).shared();
        // A run that has not been polled to its end can always be downgraded.
        *running = run.downgrade().map(|run| Running { run, requests });
        run
    }
}
