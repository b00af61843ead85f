//! Synchronization that goes on by itself, and for a limited time.
//!
//! | what happens | what follows |
//! | --- | --- |
//! | a local write is queued | a push, once no more than `push_after` has passed |
//! | the service tells of a change | a pull of that table |
//! | the service listens again after a break | a pull: changes in between were told to nobody |
//! | the interval has passed, or the network is back | a push and a pull |
//! | a change waits after a failure | a push looks at it again, less often the longer nothing comes of it |
//! | a push or a pull fails | that one is tried again after a wait that doubles; the network's return ends the wait |
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

/// When one of the two is done next, and what its failures put off.
#[derive(Default)]
struct Lane {
    at: Option<Timestamp>,
    failures: u32,
    not_before: Option<Timestamp>,
}

impl Lane {
    fn next(&self) -> Option<Timestamp> {
        Some(self.at?.max(self.not_before.unwrap_or(Timestamp::MIN)))
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.next().is_some_and(|next| next <= now)
    }

    /// It is wanted at this time, or earlier if it is already.
    fn want(&mut self, at: Timestamp) {
        self.at = Some(self.at.map_or(at, |known| known.min(at)));
    }

    /// It is wanted at this time, whatever failed before.
    fn want_in_any_case(&mut self, at: Timestamp) {
        (self.failures, self.not_before) = (0, None);
        self.want(at);
    }

    fn done(&mut self, again: Option<Timestamp>) {
        *self = Lane { at: again, ..Lane::default() };
    }
}

/// What the run is waiting for, and until when.
#[derive(Default)]
struct Plan {
    push: Lane,
    pull: Lane,
    /// The tables to pull, if not all of them.
    told: BTreeSet<Arc<str>>,
    /// The sign-in was refused.
    paused: bool,
    /// When the service is asked (again) to tell of changes.
    listen: Lane,
}

impl Plan {
    /// When something is to be done next; `None` while only a signal can change that.
    fn next(&self) -> Option<Timestamp> {
        let lanes = [&self.push, &self.pull, &self.listen].map(Lane::next);
        lanes.into_iter().flatten().min().filter(|_| !self.paused)
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
    /// After failures of network and service it is tried again after a wait that doubles, up to the interval of pulls. After a
    /// refused sign-in nothing is tried until [`NetworkSignal::came_back`].
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
        let mut plan = Plan::default();
        for lane in [&mut plan.push, &mut plan.pull, &mut plan.listen] {
            lane.want(engine.clock.now());
        }
        let mut notices: Option<Notices> = None;
        loop {
            if !plan.paused {
                if plan.listen.is_due(engine.clock.now()) {
                    notices = self.listen(&mut plan, options.pull_every).await;
                }
                self.do_what_is_due(&options, &mut plan).await?;
            }
            if plan.paused {
                // Its credentials are those that were refused.
                notices = None;
            }
            let wake = self.wait(&plan, &written, &options.network, &mut notices).await;
            let now = engine.clock.now();
            match wake {
                Wake::Due => {}
                Wake::Written => plan.push.want(later(now, options.push_after)),
                Wake::Network => {
                    plan.told.clear();
                    plan.paused = false;
                    plan.push.want_in_any_case(now);
                    plan.pull.want_in_any_case(now);
                    if notices.is_none() {
                        plan.listen.want_in_any_case(now);
                    }
                }
                Wake::Told(Some(Ok(ChangeNotice::Changed(table)))) => {
                    // A pull of all tables that is due by then brings this one too.
                    let soon = later(now, TOGETHER);
                    if !plan.told.is_empty() || plan.pull.at.is_none_or(|at| at > soon) {
                        plan.told.insert(table);
                    }
                    plan.pull.want(soon);
                }
                Wake::Told(Some(Ok(ChangeNotice::Connected))) => {
                    plan.told.clear();
                    plan.pull.want(now);
                    plan.listen.failures = 0;
                }
                Wake::Told(_) => {
                    notices = None;
                    plan.listen.want(now);
                    self.put_off(&mut plan.listen, options.pull_every);
                }
            }
        }
    }

    /// Asks the service to tell of changes, if it can.
    async fn listen(&self, plan: &mut Plan, again: Duration) -> Option<Notices> {
        let engine = &self.engine;
        plan.listen.at = None;
        match engine.transport.capabilities().await {
            Ok(capabilities) if capabilities.notifications => Some(engine.transport.changes(engine.account())),
            // A service that does not tell now may do so after an update.
            _ => {
                plan.listen.done(Some(later(engine.clock.now(), again)));
                None
            }
        }
    }

    async fn do_what_is_due(&self, options: &AutoSync, plan: &mut Plan) -> Result<(), Error> {
        let engine = &self.engine;
        if plan.push.is_due(engine.clock.now()) {
            match push::push(engine, engine.account(), options.tables.names(), false).await {
                Ok(report) => {
                    // What waits is looked at again, and less often the longer nothing comes of it; a local write ends the wait.
                    let stuck = report.waiting > 0 && report.pushed == 0;
                    let failures = if stuck { plan.push.failures.saturating_add(1) } else { 0 };
                    let wait = backoff(failures.max(1), None, engine.clock.random()).min(options.pull_every);
                    let at = (report.waiting > 0).then(|| later(engine.clock.now(), wait));
                    plan.push = Lane { at, failures, not_before: None };
                }
                Err(error) => plan.paused |= self.failed(error, &mut plan.push, options.pull_every)?,
            }
        }
        if !plan.paused && plan.pull.is_due(engine.clock.now()) {
            let mut tables = options.tables.clone();
            if !plan.told.is_empty() {
                tables = options.tables.among(&plan.told, &engine.tables);
            }
            let pulled = if tables.is_none() { Ok(()) } else { self.pull_tables(tables).await.map(drop) };
            match pulled {
                Ok(()) => {
                    plan.told.clear();
                    plan.pull.done(Some(later(engine.clock.now(), options.pull_every)));
                }
                Err(error) => plan.paused |= self.failed(error, &mut plan.pull, options.pull_every)?,
            }
        }
        Ok(())
    }

    /// What a failure means for the next attempt; true if none is to be made until the app says so.
    fn failed(&self, error: Error, lane: &mut Lane, longest: Duration) -> Result<bool, Error> {
        match error.kind() {
            ErrorKind::Unauthenticated | ErrorKind::OtherAccount => return Ok(true),
            ErrorKind::Unreachable | ErrorKind::Service | ErrorKind::Overtaken => self.put_off(lane, longest),
            _ => return Err(error),
        }
        Ok(false)
    }

    fn put_off(&self, lane: &mut Lane, longest: Duration) {
        let wait = backoff(lane.failures, None, self.engine.clock.random()).min(longest);
        lane.failures = lane.failures.saturating_add(1);
        lane.not_before = Some(later(self.engine.clock.now(), wait));
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
