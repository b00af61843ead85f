//! Futures that are dropped at one of their awaits.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use datasync_core::clock::{Clock, SystemClock};
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;

/// Gives way once.
pub async fn step() {
    let mut given = false;
    poll_fn(|context| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A clock whose sleeps are one step long.
#[derive(Debug)]
pub struct Steps;

impl Clock for Steps {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        step().boxed()
    }

    fn random(&self) -> u64 {
        SystemClock.random()
    }
}

/// The call's end, if it takes no more than so many polls; else it is dropped.
pub async fn within<T>(polls: usize, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    let mut left = polls;
    poll_fn(|context| {
        let Some(less) = left.checked_sub(1) else { return Poll::Ready(None) };
        left = less;
        match call.as_mut().poll(context) {
            Poll::Pending if left == 0 => Poll::Ready(None),
            ended => ended.map(Some),
        }
    })
    .await
}
