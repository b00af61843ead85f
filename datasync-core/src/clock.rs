//! Time, waiting and randomness, behind one trait, so that a test can own them.

use std::{fmt, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use uuid::Uuid;

/// The source of time, waiting and randomness.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Ends after `length`.
    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()>;

    /// 64 random bits.
    fn random(&self) -> u64;
}

/// A random key of 122 bits (a UUIDv4).
#[must_use]
pub fn random_key(clock: &dyn Clock) -> Uuid {
    let bits = (u128::from(clock.random()) << 64) | u128::from(clock.random());
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

/// An id that sorts by its time (a UUIDv7).
#[must_use]
pub fn ordered_id(clock: &dyn Clock) -> Uuid {
    let millis = u64::try_from(clock.now().as_millisecond()).unwrap_or(0);
    let mut random = [0; 10];
    random[..8].copy_from_slice(&clock.random().to_be_bytes());
    random[8..].copy_from_slice(&clock.random().to_be_bytes()[..2]);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// The clock, timer and random source of the system.
#[cfg(feature = "system-clock")]
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[cfg(feature = "system-clock")]
#[allow(clippy::disallowed_methods, reason = "this is where time comes from")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            async_io::Timer::after(length).await;
        })
    }

    fn random(&self) -> u64 {
        // Without the system's random source no key would be safe to send.
        getrandom::u64().expect("the system has a random source")
    }
}
