//! When a request is sent again: reads after what may pass, changes only if certainly nothing was sent.

use std::time::Duration;

use datasync_core::transport::{TransportError, TransportErrorKind};

/// A wait longer than this is left to the caller.
const LONGEST: Duration = Duration::from_secs(30);

/// Whether the same request may be sent again.
pub(crate) fn may_repeat(error: &TransportError, changes: bool) -> bool {
    use TransportErrorKind::{Connect, Interrupted, Server, Throttled, Timeout};
    match error.kind() {
        Connect => true,
        Interrupted | Timeout | Throttled | Server => !changes,
        _ => false,
    }
}

/// How long to wait before attempt `attempt + 1`, counted from 0; `None` if the caller should decide.
///
/// Without word from the service the wait is a random part of a time that doubles, from 200 ms on ("full jitter").
pub(crate) fn wait(attempt: u32, asked: Option<Duration>, random: u64) -> Option<Duration> {
    match asked {
        Some(asked) => (asked <= LONGEST).then_some(asked),
        None => {
            let most = Duration::from_millis(200).saturating_mul(1 << attempt.min(16)).min(LONGEST);
            Some(most.mul_f64(random as f64 / u64::MAX as f64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_waits_double_with_jitter_and_follow_retry_after() {
        assert_eq!(wait(0, None, u64::MAX), Some(Duration::from_millis(200)));
        assert_eq!(wait(2, None, u64::MAX), Some(Duration::from_millis(800)));
        assert_eq!(wait(2, None, 0), Some(Duration::ZERO));
        assert_eq!(wait(60, None, u64::MAX), Some(LONGEST));
        assert_eq!(wait(0, Some(Duration::from_secs(3)), 0), Some(Duration::from_secs(3)));
        assert_eq!(wait(0, Some(Duration::from_secs(31)), 0), None);
    }

    #[test]
    fn i10_a_change_is_repeated_only_if_nothing_was_sent() {
        use TransportErrorKind::*;
        for (kind, read, change) in [
            (Connect, true, true),
            (Interrupted, true, false),
            (Timeout, true, false),
            (Throttled, true, false),
            (Server, true, false),
            (Unauthenticated, false, false),
            (Rejected, false, false),
            (Protocol, false, false),
        ] {
            let error = TransportError::new(kind, "");
            assert_eq!((may_repeat(&error, false), may_repeat(&error, true)), (read, change), "{kind:?}");
        }
    }
}
