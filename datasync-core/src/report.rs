//! What a push, a pull and a purge have done.

use jiff::Timestamp;

/// What a push has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushReport {
    /// Operations that the service has carried out.
    pub pushed: u64,
    /// Conflicts that a policy or resolver settled.
    pub settled: u64,
    /// Conflicts that wait for somebody.
    pub conflicts: u64,
    /// Operations that the service refused, or failed at too often: they wait for somebody.
    pub parked: u64,
    /// Operations that wait at the end of the push because an attempt failed, now or before: they are tried again later.
    pub waiting: u64,
    /// When the first of those that wait may be tried again.
    pub next_try: Option<Timestamp>,
    /// Operations that wait for another row, which waits itself or is parked.
    pub blocked: u64,
}

/// What a pull has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullReport {
    /// Pages received.
    pub pages: u64,
    /// Rows in those pages.
    pub received: u64,
    /// Rows that are new here.
    pub inserted: u64,
    /// Rows that have changed.
    pub updated: u64,
    /// Rows that are gone.
    pub removed: u64,
    /// Conflicts found and settled by a policy or resolver.
    pub settled: u64,
    /// Conflicts found that wait for somebody.
    pub conflicts: u64,
    /// Whether the service has more: the pull has ended after as many pages as the configuration allows, and the next one
    /// goes on behind them.
    pub more: bool,
}

/// What a comparison with the service has found and repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Rows of the service that were compared.
    pub compared: u64,
    /// Rows that were missing here.
    pub added: u64,
    /// Rows that had another version here.
    pub updated: u64,
    /// Rows that the service no longer has, or that have left the query.
    pub removed: u64,
    /// Rows that were left alone, because they have unsent changes or changed meanwhile.
    pub skipped: u64,
}

/// What a purge, a reset or a sign-out has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PurgeReport {
    /// Rows that are gone from this device.
    pub rows: u64,
    /// Unsent changes and settled losers that were dropped with them; 0 unless the purge was forced.
    pub dropped: u64,
}

/// What [`adopt`](crate::client::DatasyncClient::adopt) has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdoptReport {
    /// Rows that belong to the account from now on.
    pub moved: u64,
    /// Changes that stay apart: see there.
    pub left: u64,
}
