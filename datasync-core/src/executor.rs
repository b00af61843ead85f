//! Where calls that block run.

use std::fmt;

use futures::{channel::oneshot, future::BoxFuture};

/// Runs closures that block, away from the threads that drive futures.
pub trait BlockingExecutor: fmt::Debug + Send + Sync + 'static {
    /// Runs `job`. A job that has started runs to its end, even if the returned future is dropped.
    fn execute(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// Runs each closure where it is called: for simulators and for programs that have one thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl BlockingExecutor for Inline {
    fn execute(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        job();
        Box::pin(std::future::ready(()))
    }
}

/// Runs `job` on `executor` and returns what it returned, or `None` if it panicked or was never run.
pub async fn run_blocking<T: Send + 'static>(
    executor: &dyn BlockingExecutor,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let ran = executor.execute(Box::new(move || {
        // Nobody is waiting any more if the future was dropped; the job has run all the same.
        let _ = sender.send(job());
    }));
    ran.await;
    receiver.await.ok()
}
