//! A push: wave after wave of operations, until nothing that was asked for can be sent (DESIGN.md section 6).

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use jiff::Timestamp;

use crate::{
    engine::{
        Engine, conflict,
        joined::Requests,
        links::{self, Judged},
        progress::Progress,
        tombstones,
        wave::{self, Selected},
    },
    error::{Context, Error, ErrorKind, SyncPhase},
    events::SyncEvent,
    report::PushReport,
    row::{Hold, Operation, RowKey},
    store::{OperationsRequest, QueuedOperation},
};

/// How many operations one read of the store brings where they are counted.
const COUNTED_AT_ONCE: usize = 1_000;
/// A stored wait longer than this counts as over (I9).
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What a caller of a push wants sent.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The tables; `None` for all.
    tables: Option<Vec<Arc<str>>>,
    /// Operations queued after the call are not waited for.
    last_place: u64,
    tries: Tries,
}

impl Target {
    fn includes(&self, key: &RowKey, place: u64) -> bool {
        place <= self.last_place && self.tables.as_ref().is_none_or(|tables| tables.contains(&key.table))
    }

    /// Whether the operation may be sent for this caller. Up to the place `tried` what waits was tried already.
    fn wants(&self, key: &RowKey, operation: &Operation, now: Timestamp, tried: u64) -> bool {
        let may_be_sent = match &operation.hold {
            Hold::Ready => true,
            Hold::Parked(_) => false,
            Hold::Wait { since, length, demanded } => {
                let is_tried = self.tries == Tries::Waiting && operation.place > tried;
                wait_is_over(*since, *length, now) || (!demanded && is_tried)
            }
        };
        may_be_sent && self.includes(key, operation.place)
    }
}

/// What a push tries beside the operations that are ready; each of these tries what stands before it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tries {
    /// Nothing.
    Nothing,
    /// The sign-in, although the service has refused the last one: there may be another.
    SignIn,
    /// Operations that wait because an attempt failed: somebody asks for them.
    Waiting,
}

/// Pushes the operations of the account that are queued in `tables` now. A push of it under way is joined.
pub(crate) async fn push(
    engine: &Arc<Engine>,
    account: Arc<str>,
    tables: Option<Vec<Arc<str>>>,
    tries: Tries,
) -> Result<PushReport, Error> {
    let last_place = engine.store.head().await.during(SyncPhase::Push)?.last_place;
    let target = Target { tables, last_place, tries };
    let slot = {
        let mut pushing = engine.pushing.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pushing.entry(Arc::clone(&account)).or_default())
    };
    let shared = Arc::clone(engine);
    slot.join(target, move |requests| traced!(run(shared, account, requests), "push").boxed()).await
}

impl Engine {
    /// Waits for the end of the push of the account that is under way, if there is one.
    pub(crate) async fn await_push(&self, account: &str) {
        let slot = self.pushing.lock().unwrap_or_else(PoisonError::into_inner).get(account).cloned();
        if let Some(push) = slot.and_then(|slot| slot.running()) {
            // Whatever became of it, its answers are stored.
            let _ = push.await;
        }
    }
}

async fn run(engine: Arc<Engine>, account: Arc<str>, requests: Requests<Target>) -> Result<PushReport, Error> {
    // Whoever wrote may have gone away before its commit was made.
    engine.committer.settle().await;
    #[cfg(feature = "metrics")]
    engine.measure(&account).await;
    let paused = engine.paused(&account).await?.is_some();
    let run = Run { account: Arc::clone(&account), paused, started: engine.clock.now(), ..Run::default() };
    let pushed = waves(&engine, run, &requests).await;
    if pushed.is_err() {
        requests.fail();
    }
    if pushed.as_ref().is_err_and(Error::is_refused_sign_in) {
        engine.pause(&account).await?;
    }
    #[cfg(feature = "metrics")]
    engine.measure(&account).await;
    pushed.map_err(|error| {
        let error = error.during(SyncPhase::Push).trying(|| "pushing".to_owned());
        engine.events.failed(SyncPhase::Push, None, &error);
        error
    })
}

async fn waves(engine: &Arc<Engine>, mut run: Run, requests: &Requests<Target>) -> Result<PushReport, Error> {
    let begun = run.join(engine, requests.take()).await;
    engine.events.emit(|| SyncEvent::PushStarted { total: run.progress.total() });
    begun?;
    let mut capabilities = None;
    loop {
        engine.check_present(&run.account)?;
        let asked = requests.take();
        if !asked.is_empty() {
            run.join(engine, asked).await?;
        }
        let selected = run.select(engine).await?;
        if !selected.is_empty() {
            let able = match capabilities {
                Some(able) => able,
                None => {
                    run.check_pause()?;
                    engine.check_sign_in(&run.account).await?;
                    // A service that cannot say so now is sent one operation after the other.
                    let able = *capabilities.insert(engine.capabilities().await.unwrap_or_default());
                    for table in engine.tables.0.keys() {
                        tombstones::expire(engine, &run.account, table).await?;
                    }
                    able
                }
            };
            let answered = run.progress.answered();
            let operations = selected.len();
            let wave = wave::send(engine, &mut run.progress, selected, able);
            let again = traced!(wave, "wave", operations = operations).await?;
            let progressed = run.progress.answered() > answered;
            // What went may have been waited for by what was passed.
            run.again |= again || (run.passed > 0 && progressed);
            if run.paused && progressed {
                engine.resume(&run.account).await?;
                run.paused = false;
            }
        } else if std::mem::take(&mut run.again) || run.parks_cycles(engine).await? {
            run.begin_again(engine.clock.now());
        } else {
            run.count_waiting(engine).await?;
            if !requests.close() {
                continue;
            }
            run.progress.report.blocked = run.passed;
            let report = run.progress.report;
            if capabilities.is_some() {
                conflict::expire_losers(engine).await?;
            }
            engine.events.emit(|| SyncEvent::PushEnded(report));
            return Ok(report);
        }
    }
}

#[derive(Default)]
struct Run {
    account: Arc<str>,
    started: Timestamp,
    targets: Vec<Target>,
    /// Up to which place everything was looked at since somebody last asked for what waits: that is tried once for each who asks.
    tried: u64,
    /// When this pass began, and how far it has come.
    began: Timestamp,
    after: u64,
    /// Whether an operation that was passed may be sent after all.
    again: bool,
    /// Whether the service has refused the account's last sign-in.
    paused: bool,
    /// How many operations of this pass wait for another row.
    passed: u64,
    progress: Progress,
}

impl Run {
    /// Nothing is sent by itself with a sign-in that was refused (I9).
    fn check_pause(&self) -> Result<(), Error> {
        if self.paused && self.targets.iter().all(|target| target.tries < Tries::SignIn) {
            let message = "the service has refused the sign-in: sign in again, or push to try this one again";
            return Err(Error::new(ErrorKind::Unauthenticated, message));
        }
        Ok(())
    }

    /// Takes on what further callers ask for.
    async fn join(&mut self, engine: &Engine, asked: Vec<Target>) -> Result<(), Error> {
        let joined = self.count_joined(engine, &asked).await?;
        self.progress.joined(joined);
        if asked.iter().any(|target| target.tries == Tries::Waiting) {
            self.tried = 0;
        }
        self.targets.extend(asked);
        self.begin_again(engine.clock.now());
        Ok(())
    }

    /// How many operations may be sent for these callers that were not to be sent for earlier ones.
    async fn count_joined(&self, engine: &Engine, asked: &[Target]) -> Result<u64, Error> {
        let (account, limit, now) = (Arc::clone(&self.account), COUNTED_AT_ONCE, engine.clock.now());
        let mut request = OperationsRequest { account, tables: Some(tables(engine, asked)), after: 0, limit };
        let mut joined = 0;
        loop {
            let queued = engine.store.operations(&request).await?;
            let Some(last) = queued.last() else { return Ok(joined) };
            request.after = last.operation.place;
            for QueuedOperation { key, operation } in &queued {
                // One that this push has delayed was counted when it began.
                let delayed = matches!(operation.hold, Hold::Wait { since, .. } if since >= self.started);
                let counted = |target: &Target| {
                    target.wants(key, operation, self.started, 0) || (delayed && target.includes(key, operation.place))
                };
                let wanted = asked.iter().any(|target| target.wants(key, operation, now, 0));
                joined += u64::from(wanted && !self.targets.iter().any(counted));
            }
        }
    }

    fn begin_again(&mut self, now: Timestamp) {
        self.began = now;
        self.after = 0;
        self.passed = 0;
    }

    /// Whether rows that wait for each other in a circle were parked: what waited for them is told so.
    async fn parks_cycles(&mut self, engine: &Engine) -> Result<bool, Error> {
        if self.passed == 0 {
            return Ok(false);
        }
        let (account, limit, now) = (Arc::clone(&self.account), engine.settings.wave_size, engine.clock.now());
        let mut request = OperationsRequest { account, tables: Some(tables(engine, &self.targets)), after: 0, limit };
        let mut parked = Vec::new();
        loop {
            let queued = engine.store.operations(&request).await?;
            let Some(last) = queued.last() else { break };
            request.after = last.operation.place;
            let ready = queued.into_iter().map(|queued| (queued.key, queued.operation));
            let ready: Vec<_> = ready.filter(|(key, operation)| self.may_send(key, operation, now)).collect();
            let judged = links::judge(engine, &ready).await?;
            let blocked = ready.into_iter().zip(judged).filter(|(_, judged)| judged.blocker.is_some());
            let blocked: Vec<_> = blocked.map(|(blocked, _)| blocked).collect();
            parked.extend(links::park_cycles(engine, &blocked).await?);
        }
        parked.iter().for_each(|(key, why)| self.progress.parked(engine, key, why));
        Ok(!parked.is_empty())
    }

    /// What is left that waits, as the store has it: it was passed over, or an attempt of this push has failed.
    async fn count_waiting(&mut self, engine: &Engine) -> Result<(), Error> {
        let report = &mut self.progress.report;
        (report.waiting, report.next_try) = (0, None);
        let now = engine.clock.now();
        let (account, limit) = (Arc::clone(&self.account), engine.settings.wave_size);
        let mut request = OperationsRequest { account, tables: Some(tables(engine, &self.targets)), after: 0, limit };
        loop {
            let queued = engine.store.operations(&request).await?;
            let Some(last) = queued.last() else { return Ok(()) };
            request.after = last.operation.place;
            for QueuedOperation { key, operation } in queued {
                let Hold::Wait { since, length, .. } = operation.hold else { continue };
                // One whose wait was over when this pass began is blocked: else it would have been sent.
                let looked_at = self.began.max(since.min(now));
                let waits = !wait_is_over(since, length, looked_at);
                if waits && self.targets.iter().any(|target| target.includes(&key, operation.place)) {
                    let report = &mut self.progress.report;
                    let until = since.checked_add(length).unwrap_or(Timestamp::MAX);
                    report.waiting += 1;
                    report.next_try = Some(report.next_try.map_or(until, |known| known.min(until)));
                }
            }
        }
    }

    /// The next operations that may be sent, at most a wave of them and at most one a row.
    async fn select(&mut self, engine: &Engine) -> Result<Vec<Selected>, Error> {
        let limit = engine.settings.wave_size;
        let mut selected = Vec::new();
        while selected.is_empty() {
            let account = Arc::clone(&self.account);
            let tables = Some(tables(engine, &self.targets));
            let request = OperationsRequest { account, tables, after: self.after, limit };
            let queued = engine.store.operations(&request).await?;
            let Some(last) = queued.last() else { break };
            self.after = last.operation.place;
            let now = engine.clock.now();
            let mut rows = HashSet::new();
            let mut ready = Vec::new();
            for QueuedOperation { key, operation } in queued {
                if rows.insert(key.clone()) && self.may_send(&key, &operation, now) {
                    ready.push((key, operation));
                }
            }
            let judged = links::judge(engine, &ready).await?;
            for ((key, operation), Judged { blocker, revision }) in ready.into_iter().zip(judged) {
                if blocker.is_none() {
                    self.tried = self.tried.max(operation.place);
                    selected.push(Selected { key, operation, revision });
                    continue;
                }
                self.passed += 1;
            }
        }
        Ok(selected)
    }

    fn may_send(&self, key: &RowKey, operation: &Operation, now: Timestamp) -> bool {
        self.targets.iter().any(|target| target.wants(key, operation, now, self.tried))
    }
}

/// The tables of these callers. What is queued for one that this release of the app does not have waits for one that has it.
fn tables(engine: &Engine, targets: &[Target]) -> Vec<Arc<str>> {
    let wanted = |table: &&Arc<str>| {
        targets.iter().any(|target| target.tables.as_ref().is_none_or(|tables| tables.contains(*table)))
    };
    engine.tables.0.keys().filter(wanted).cloned().collect()
}

/// Whether a stored wait has ended: a device's clock may have been set back, or far ahead, in between (I9).
fn wait_is_over(since: Timestamp, length: Duration, now: Timestamp) -> bool {
    if since > now || length > LONGEST_WAIT {
        return true;
    }
    let waited = now.as_millisecond().saturating_sub(since.as_millisecond());
    u128::try_from(waited).is_ok_and(|waited| waited >= length.as_millis())
}

/// How long an operation waits after its `attempts`th failure: doubling, with jitter, an hour at most.
pub(crate) fn backoff(attempts: u32, asked: Option<Duration>, random: u64) -> Duration {
    if let Some(asked) = asked {
        return asked.min(LONGEST_WAIT);
    }
    let whole = Duration::from_secs(1).saturating_mul(1 << attempts.min(12)).min(LONGEST_WAIT);
    let half = whole / 2;
    half + half.mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i09_a_wait_that_no_clock_can_have_set_is_over() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let wait = Duration::from_secs(10);
        assert!(!wait_is_over(at(100), wait, at(109)));
        assert!(wait_is_over(at(100), wait, at(110)));
        assert!(wait_is_over(at(200), wait, at(100)));
        assert!(wait_is_over(at(100), Duration::from_secs(3601), at(100)));
    }

    #[test]
    fn i11_waits_grow_up_to_an_hour_and_follow_retry_after() {
        assert_eq!(backoff(0, None, u64::MAX), Duration::from_secs(1));
        assert_eq!(backoff(3, None, 0), Duration::from_secs(4));
        assert_eq!(backoff(60, None, u64::MAX), LONGEST_WAIT);
        assert_eq!(backoff(3, Some(Duration::from_secs(70)), 0), Duration::from_secs(70));
    }
}
