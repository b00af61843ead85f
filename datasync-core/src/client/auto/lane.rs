//! When something is done next, and what its failures put off.

use std::time::Duration;

use jiff::Timestamp;

/// One of the things that a run does again and again, each by itself: none of them waits for another.
#[derive(Debug, Default)]
pub(super) struct Lane {
    at: Option<Timestamp>,
    under_way: bool,
    failures: u32,
    not_before: Option<Timestamp>,
}

impl Lane {
    /// When it is to begin; `None` while it is not wanted, or under way.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let at = self.at.filter(|_| !self.under_way)?;
        Some(at.max(self.not_before.unwrap_or(Timestamp::MIN)))
    }

    /// Whether it is wanted by then.
    pub(super) fn is_wanted_by(&self, time: Timestamp) -> bool {
        self.next().is_some_and(|next| next <= time)
    }

    /// It is wanted at this time, or earlier if it is already; while it is under way, once more.
    pub(super) fn want(&mut self, at: Timestamp) {
        self.at = Some(self.at.map_or(at, |known| known.min(at)));
    }

    /// It is wanted at this time, whatever failed before.
    pub(super) fn want_in_any_case(&mut self, at: Timestamp) {
        (self.failures, self.not_before) = (0, None);
        self.want(at);
    }

    /// It begins.
    pub(super) fn begin(&mut self) {
        (self.at, self.under_way) = (None, true);
    }

    /// It has come to its end, and is wanted again at this time.
    pub(super) fn ended(&mut self, again: Option<Timestamp>) {
        (self.under_way, self.failures, self.not_before) = (false, 0, None);
        if let Some(again) = again {
            self.want(again);
        }
    }

    /// It has come to its end, and it is not known yet whether it has failed.
    pub(super) fn rests(&mut self) {
        self.under_way = false;
    }

    /// It has failed so many times before this time.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// It has failed: it is tried again after the wait.
    pub(super) fn failed(&mut self, now: Timestamp, wait: Duration) {
        (self.under_way, self.failures) = (false, self.failures.saturating_add(1));
        self.not_before = Some(later(now, wait));
        self.want(now);
    }

    /// It was given up, and is wanted again at this time.
    pub(super) fn given_up(&mut self, again: Timestamp) {
        self.under_way = false;
        self.want_in_any_case(again);
    }
}

pub(super) fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}
