//! Synchronization that goes on by itself, and for a limited time.
//!
//! | what happens | what follows |
//! | --- | --- |
//! | a local write is queued | a push, once no more than `push_after` has passed |
//! | the service tells of a change | a pull of that table |
//! | the service listens again after a break | a pull: changes in between were told to nobody |
//! | the interval has passed, or the network is back | a push and a pull |
//! | a change waits after a failure | a push tries it again when its wait is over |
//! | a push or the pull of a table fails | that one is tried again after a wait that doubles; the network's return ends the wait |
//! | the sign-in is refused | nothing more until the app says that there is another |
//! | another account signs in | everything, at once |
//! | the future is dropped | what was sent and not answered is in doubt, as after any push that was dropped |

mod lane;
mod pulls;
mod run;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::{Either, select},
    pin_mut, stream,
};
use jiff::Timestamp;

use self::run::Run;
use crate::{
    client::{DatasyncClient, Tables},
    engine::{
        push::{self, Tries},
        watch::Flag,
    },
    error::{Error, ErrorKind},
    report::{PullReport, PushReport},
};

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

    /// How long local writes are collected before they are pushed: an hour at most.
    pub fn push_after(mut self, wait: Duration) -> AutoSync {
        self.push_after = wait;
        self
    }

    /// How often is pulled although nobody told of a change: from a second to a year. It is also the longest wait after
    /// failures.
    pub fn pull_every(mut self, interval: Duration) -> AutoSync {
        self.pull_every = interval;
        self
    }

    /// By what the app tells that there is a network again, or another sign-in.
    pub fn network(mut self, network: &NetworkSignal) -> AutoSync {
        self.network = network.clone();
        self
    }

    fn check(&self) -> Result<(), Error> {
        let range = |name: &str, value: Duration, least: Duration, most: Duration| {
            let message = || format!("`{name}` is {value:?}: it must be from {least:?} to {most:?}");
            let fits = (least..=most).contains(&value);
            fits.then_some(()).ok_or_else(|| Error::new(ErrorKind::InvalidConfig, message()))
        };
        range("push_after", self.push_after, Duration::ZERO, Duration::from_secs(3_600))?;
        range("pull_every", self.pull_every, Duration::from_secs(1), Duration::from_secs(365 * 86_400))
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

impl DatasyncClient {
    /// Synchronizes for as long as the future is polled: pushes soon after local writes, and pulls at an interval, when the
    /// network comes back, and when the service tells of a change. Tables are pulled by the queries of the configuration,
    /// as by [`pull_tables`](DatasyncClient::pull_tables). The app drives it on its own runtime, and stops it by dropping it,
    /// at any time.
    ///
    /// After failures of network and service it is tried again after a wait that doubles, up to the interval of pulls. After a
    /// refused sign-in nothing is tried until [`NetworkSignal::came_back`] or another account signs in. Each failure is a
    /// [`SyncEvent::Failed`](crate::events::SyncEvent::Failed), and that of a pull by the service is in the journal.
    ///
    /// # Errors
    ///
    /// It ends only with what no waiting mends: [`ErrorKind::Store`], but for a disk that is full or fails,
    /// [`ErrorKind::UnknownTable`], [`ErrorKind::InvalidConfig`] if an interval is out of its range.
    pub async fn run(&self, options: AutoSync) -> Error {
        if let Err(error) = options.check() {
            return error;
        }
        Run::new(self, options).go_on().await
    }

    /// Pushes, then pulls every table by the query of the configuration, until a time: for systems that give an app a moment
    /// in the background. What is not done by then is left for the next time; nothing of it is lost.
    ///
    /// # Errors
    ///
    /// That of the push if the service cannot be reached or refuses the sign-in; else that of the first table whose pull the
    /// service failed, after the others were pulled. None if the time was over before.
    pub async fn sync_until(&self, deadline: Timestamp) -> Result<SyncReport, Error> {
        let left = Duration::try_from(deadline.duration_since(self.engine.clock.now())).unwrap_or_default();
        let mut report = SyncReport::default();
        if left.is_zero() {
            return Ok(report);
        }
        let sync = async {
            report.push = Some(push::push(&self.engine, self.engine.account(), None, Tries::Waiting).await?);
            let tables: Vec<Arc<str>> = self.engine.tables.0.keys().cloned().collect();
            let pulls = tables.into_iter().map(|table| self.pull_tables([table]));
            let mut pulls = stream::iter(pulls).buffered(self.engine.settings.parallel_pulls);
            let mut failed = None;
            while let Some(pulled) = pulls.next().await {
                match pulled {
                    Ok(pulled) => report.pulls.extend(pulled),
                    Err(error) if error.kind() == ErrorKind::Service => _ = failed.get_or_insert(error),
                    Err(error) => return Err(error),
                }
            }
            failed.map_or(Ok(()), Err)
        };
        let done = {
            pin_mut!(sync);
            match select(sync, self.engine.clock.sleep(left)).await {
                Either::Left((done, _)) => Some(done),
                Either::Right(_) => None,
            }
        };
        report.complete = done.transpose()?.is_some() && report.pulls.values().all(|pull| !pull.more);
        Ok(report)
    }
}
