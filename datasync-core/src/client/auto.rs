//! Synchronization that goes on by itself, and for a limited time.
//!
//! | what happens | what follows |
//! | --- | --- |
//! | a local write is queued | a push, once no more than `push_after` has passed |
//! | the service tells of a change | a pull of that table |
//! | the service listens again after a break | a pull: changes in between were told to nobody |
//! | the interval has passed, or the network is back | a push and a pull |
//! | a push or pull fails | it is tried again after a wait that doubles; the network's return ends the wait |
//! | the sign-in is refused | nothing more until the app says that there is another |
//! | the future is dropped | what was sent and not answered is in doubt, as after any push that was dropped |

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{Either, select},
    pin_mut, select_biased,
    stream::BoxStream,
};
use jiff::Timestamp;

use crate::{
    client::{DatasyncClient, Tables},
    engine::{
        push::{self, backoff},
        watch::Flag,
    },
    error::{Error, ErrorKind},
    report::{PullReport, PushReport},
    transport::{ChangeNotice, TransportError},
};

/// How long changes that the service tells of are collected before they are pulled.
const TOGETHER: Duration = Duration::from_millis(100);

/// How [`DatasyncClient::run`] synchronizes.
///
/// ```
/// use std::time::Duration;
/// use datasync_core::client::{AutoSync, NetworkSignal};
/// let network = NetworkSignal::default();
/// let options = AutoSync::default().pull_every(Duration::from_secs(60)).network(&network);
/// // Where the system tells that there is a network again:
/// network.came_back();
/// # drop(options);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct AutoSync {
    tables: Tables,
    push_after: Duration,
    pull_every: Duration,
    network: NetworkSignal,
}

impl Default for AutoSync {
    /// Every table; pushes half a second after a local write, and pulls every five minutes.
    fn default() -> Self {
        AutoSync {
            tables: Tables::all(),
            push_after: Duration::from_millis(500),
            pull_every: Duration::from_secs(300),
            network: NetworkSignal::default(),
        }
    }
}

impl AutoSync {
    /// Only these tables.
    pub fn tables(mut self, tables: impl Into<Tables>) -> AutoSync {
        self.tables = tables.into();
        self
    }

    /// How long local writes are collected before they are pushed.
    pub fn push_after(mut self, wait: Duration) -> AutoSync {
        self.push_after = wait;
        self
    }

    /// How often is pulled although nobody told of a change.
    pub fn pull_every(mut self, interval: Duration) -> AutoSync {
        self.pull_every = interval;
        self
    }

    /// By what the app tells that there is a network again, or another sign-in.
    pub fn network(mut self, network: &NetworkSignal) -> AutoSync {
        self.network = network.clone();
        self
    }
}

/// Tells a running [`DatasyncClient::run`] to try at once. Clones are handles of the same signal.
#[derive(Clone, Default)]
pub struct NetworkSignal(Arc<Flag>);

impl fmt::Debug for NetworkSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkSignal")
    }
}

impl NetworkSignal {
    /// There is a network again, or another sign-in. It is remembered until the run looks.
    pub fn came_back(&self) {
        self.0.wake();
    }
}

/// What [`DatasyncClient::sync_until`] has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncReport {
    /// The push; `None` if the time was over before its end. What it had sent is then in doubt, and sent again.
    pub push: Option<PushReport>,
    /// The pulls that came to their end, by table.
    pub pulls: BTreeMap<Arc<str>, PullReport>,
    /// Whether everything was done in time.
    pub complete: bool,
}

/// What the run is waiting for, and until when.
struct Plan {
    push_at: Option<Timestamp>,
    pull_at: Timestamp,
    /// The tables to pull, if not all of them.
    told: BTreeSet<Arc<str>>,
    /// Nothing is tried before this.
    rest_until: Option<Timestamp>,
    failures: u32,
    /// The sign-in was refused.
    paused: bool,
    /// When the service is asked again to tell of changes.
    listen_at: Option<Timestamp>,
}

impl Plan {
    /// When something is to be done next; `None` while only a signal can change that.
    fn next(&self) -> Option<Timestamp> {
        let due = self.push_at.map_or(self.pull_at, |push| push.min(self.pull_at));
        let due = self.rest_until.map_or(due, |rest| rest.max(due));
        let due = self.listen_at.map_or(due, |listen| listen.min(due));
        (!self.paused).then_some(due)
    }

    fn is_resting(&self, now: Timestamp) -> bool {
        self.paused || self.rest_until.is_some_and(|rest| now < rest)
    }
}

type Notices = BoxStream<'static, Result<ChangeNotice, TransportError>>;

/// Why the run has woken.
enum Wake {
    Due,
    Written,
    Network,
    Told(Option<Result<ChangeNotice, TransportError>>),
}

impl DatasyncClient {
    /// Synchronizes for as long as the future is polled: pushes soon after local writes, and pulls at an interval, when the
    /// network comes back, and when the service tells of a change. Tables are pulled by the queries of the configuration,
    /// as by [`pull_tables`](DatasyncClient::pull_tables). The app drives it on its own runtime, and stops it by dropping it,
    /// at any time.
    ///
    /// Failures of network and service are tried again after a wait that doubles, up to an hour. After a refused sign-in
    /// nothing is tried until [`NetworkSignal::came_back`].
    ///
    /// # Errors
    ///
    /// It ends only with what no waiting mends: [`ErrorKind::Store`], [`ErrorKind::UnknownTable`],
    /// [`ErrorKind::InvalidQuery`].
    pub async fn run(&self, options: AutoSync) -> Error {
        match self.keep_in_sync(options).await {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    async fn keep_in_sync(&self, options: AutoSync) -> Result<std::convert::Infallible, Error> {
        let engine = &self.engine;
        let written = engine.committer.watchers().add_queue();
        let now = engine.clock.now();
        let mut plan = Plan {
            push_at: Some(now),
            pull_at: now,
            told: BTreeSet::new(),
            rest_until: None,
            failures: 0,
            paused: false,
            listen_at: Some(now),
        };
        let mut notices: Option<Notices> = None;
        loop {
            let now = engine.clock.now();
            if !plan.is_resting(now) {
                if plan.listen_at.is_some_and(|at| at <= now) {
                    notices = self.listen(&mut plan, options.pull_every).await;
                }
                let done = self.do_what_is_due(&options, &mut plan).await;
                self.learn(done, &mut plan)?;
            }
            match self.wait(&plan, &written, &options.network, &mut notices).await {
                Wake::Due => {}
                Wake::Written => {
                    plan.push_at = plan.push_at.or(Some(later(engine.clock.now(), options.push_after)));
                }
                Wake::Network => {
                    let now = engine.clock.now();
                    plan.told.clear();
                    (plan.failures, plan.paused, plan.rest_until) = (0, false, None);
                    (plan.push_at, plan.pull_at) = (Some(now), now);
                }
                Wake::Told(Some(Ok(ChangeNotice::Changed(table)))) => {
                    let now = engine.clock.now();
                    if plan.pull_at > later(now, TOGETHER) {
                        plan.pull_at = later(now, TOGETHER);
                        plan.told.insert(table);
                    } else if !plan.told.is_empty() {
                        plan.told.insert(table);
                    }
                }
                Wake::Told(Some(Ok(ChangeNotice::Connected))) => {
                    plan.told.clear();
                    plan.pull_at = plan.pull_at.min(engine.clock.now());
                }
                Wake::Told(_) => {
                    notices = None;
                    let wait = backoff(plan.failures, None, engine.clock.random());
                    plan.listen_at = Some(later(engine.clock.now(), wait));
                }
            }
        }
    }

    /// Asks the service to tell of changes, if it can.
    async fn listen(&self, plan: &mut Plan, again: Duration) -> Option<Notices> {
        let engine = &self.engine;
        plan.listen_at = None;
        match engine.transport.capabilities().await {
            Ok(capabilities) if capabilities.notifications => Some(engine.transport.changes(engine.account())),
            // A service that does not tell now may do so after an update.
            _ => {
                plan.listen_at = Some(later(engine.clock.now(), again));
                None
            }
        }
    }

    async fn do_what_is_due(&self, options: &AutoSync, plan: &mut Plan) -> Result<(), Error> {
        let engine = &self.engine;
        if plan.push_at.is_some_and(|at| at <= engine.clock.now()) {
            let report = push::push(engine, engine.account(), options.tables.names(), false).await?;
            let again = later(engine.clock.now(), backoff(plan.failures.max(1), None, engine.clock.random()));
            plan.push_at = (report.waiting > 0).then_some(again);
        }
        if plan.pull_at <= engine.clock.now() {
            let mut tables = options.tables.clone();
            if !plan.told.is_empty() {
                tables = options.tables.among(&plan.told, &engine.tables);
            }
            if !tables.is_none() {
                self.pull_tables(tables).await?;
            }
            plan.told.clear();
            plan.pull_at = later(engine.clock.now(), options.pull_every);
        }
        Ok(())
    }

    /// What a failure means for the next attempt.
    fn learn(&self, done: Result<(), Error>, plan: &mut Plan) -> Result<(), Error> {
        let Err(error) = done else {
            (plan.failures, plan.rest_until) = (0, None);
            return Ok(());
        };
        match error.kind() {
            ErrorKind::Unauthenticated | ErrorKind::OtherAccount => plan.paused = true,
            ErrorKind::Unreachable | ErrorKind::Service | ErrorKind::Overtaken => {
                let wait = backoff(plan.failures, None, self.engine.clock.random());
                plan.failures = plan.failures.saturating_add(1);
                plan.rest_until = Some(later(self.engine.clock.now(), wait));
            }
            _ => return Err(error),
        }
        Ok(())
    }

    async fn wait(&self, plan: &Plan, written: &Flag, network: &NetworkSignal, notices: &mut Option<Notices>) -> Wake {
        let clock = &self.engine.clock;
        let due = match plan.next() {
            Some(at) => {
                let length = Duration::try_from(at.duration_since(clock.now())).unwrap_or_default();
                clock.sleep(length)
            }
            None => futures::future::pending().boxed(),
        };
        let told = async {
            match notices {
                Some(notices) => notices.next().await,
                None => futures::future::pending().await,
            }
        };
        let (due, told) = (due.fuse(), told.fuse());
        let (written, signal) = (written.raised().fuse(), network.0.raised().fuse());
        pin_mut!(due, told, written, signal);
        select_biased! {
            () = signal => Wake::Network,
            () = written => Wake::Written,
            notice = told => Wake::Told(notice),
            () = due => Wake::Due,
        }
    }

    /// Pushes, then pulls every table by the query of the configuration, until a time: for systems that give an app a moment
    /// in the background. What is not done by then is left for the next time; nothing of it is lost.
    ///
    /// # Errors
    ///
    /// As [`pull_tables`](DatasyncClient::pull_tables), if it fails before the time is over.
    pub async fn sync_until(&self, deadline: Timestamp) -> Result<SyncReport, Error> {
        let left = Duration::try_from(deadline.duration_since(self.engine.clock.now())).unwrap_or_default();
        let mut report = SyncReport::default();
        if left.is_zero() {
            return Ok(report);
        }
        let sync = async {
            report.push = Some(push::push(&self.engine, self.engine.account(), None, true).await?);
            for table in self.engine.tables.0.keys() {
                report.pulls.extend(self.pull_tables([Arc::clone(table)]).await?);
            }
            Ok::<(), Error>(())
        };
        let done = {
            pin_mut!(sync);
            match select(sync, self.engine.clock.sleep(left)).await {
                Either::Left((done, _)) => Some(done),
                Either::Right(_) => None,
            }
        };
        report.complete = done.transpose()?.is_some();
        Ok(report)
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}
