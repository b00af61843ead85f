//! The metrics of a client, told to whatever recorder of the crate [`metrics`](https://docs.rs/metrics) the app has installed.
//!
//! | name | kind | unit | labels | what it is |
//! | --- | --- | --- | --- | --- |
//! | [`QUEUE_DEPTH`] | gauge | count | `table`, `state` | the changes that are queued, by what they wait for: `ready`, `waiting` until a time, `blocked` by another change, `conflict`, `parked`, or `paused` with the account's sign-in |
//! | [`QUEUE_LAG`] | gauge | seconds | `table` | how long ago the oldest queued change was made; 0 if nothing is queued |
//! | [`PULL_LAG`] | gauge | seconds | `table` | how long ago a pull of the table last came to its end; before the first one has, how long ago that was begun |
//!
//! They are those of the account whose push or pull it is, read from the store when a push begins and ends, and when a pull
//! has ended; [`DatasyncClient::record_metrics`](crate::client::DatasyncClient::record_metrics) reads them at any other time.
//! Every table of the client has the first two, also when nothing is queued; the third those that were pulled since the client
//! was built. A change that was made before the service has ever told the time counts in the depth and not in the lag.
//! Labels hold names of tables and nothing of any row (I21). Descriptions and units are given to the recorder when a client is
//! built, so it is to be installed before.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use metrics::{Unit, describe_gauge, gauge};

use crate::{
    client::{
        DatasyncClient, PendingChange, PendingState,
        pending::{pause, states},
    },
    engine::Engine,
    error::Error,
    store::OperationsRequest,
};

/// How many changes are queued.
pub const QUEUE_DEPTH: &str = "datasync_queue_depth";
/// How long the oldest queued change has waited.
pub const QUEUE_LAG: &str = "datasync_queue_lag_seconds";
/// How long ago a table was last pulled.
pub const PULL_LAG: &str = "datasync_pull_lag_seconds";

/// The values of the label `state`.
const STATES: [&str; 6] = ["ready", "waiting", "blocked", "conflict", "parked", "paused"];
/// How many operations are looked at together: whole rows are read for them.
const CHUNK: usize = 50;

pub(crate) fn describe() {
    describe_gauge!(QUEUE_DEPTH, Unit::Count, "changes that are queued, by what they wait for");
    describe_gauge!(QUEUE_LAG, Unit::Seconds, "how long ago the oldest queued change was made");
    describe_gauge!(PULL_LAG, Unit::Seconds, "how long ago a pull of the table last came to its end");
}

/// When each table was last pulled to the end.
#[derive(Debug, Default)]
pub(crate) struct Pulled(Mutex<BTreeMap<Arc<str>, Timestamp>>);

#[derive(Clone, Copy, Default)]
struct Queue {
    /// By the place of the state in [`STATES`].
    depth: [u64; 6],
    oldest: Option<Timestamp>,
}

impl Queue {
    fn count(&mut self, change: &PendingChange) {
        let state = match change.state {
            PendingState::Ready => 0,
            PendingState::Waiting(_) | PendingState::Throttled(_) => 1,
            PendingState::Blocked { .. } => 2,
            PendingState::Conflict(_) => 3,
            PendingState::Parked(_) => 4,
            PendingState::Paused => 5,
            // Neither is sent by this release of the app.
            PendingState::UnknownTable | PendingState::Loser => return,
        };
        self.depth[state] += 1;
        self.oldest = self.oldest.into_iter().chain(change.edited).min();
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

impl Engine {
    /// Records everything of an account. What cannot be read now stays as it was: nothing fails for a metric.
    pub(crate) async fn measure(&self, account: &Arc<str>) {
        self.record_pulls();
        let _ = self.record_queue(account).await;
    }

    /// Records the queue of an account as the store has it.
    async fn record_queue(&self, account: &Arc<str>) -> Result<(), Error> {
        let mut queues: BTreeMap<Arc<str>, Queue> =
            self.tables.0.keys().map(|table| (Arc::clone(table), Queue::default())).collect();
        let paused = self.paused(account).await?.is_some();
        let mut request = OperationsRequest { account: Arc::clone(account), tables: None, after: 0, limit: CHUNK };
        loop {
            let queued = self.store.operations(&request).await?;
            let Some(last) = queued.last() else { break };
            request.after = last.operation.place;
            let mut changes = states(self, &queued).await?;
            if paused {
                pause(&mut changes);
            }
            for change in &changes {
                if let Some(queue) = queues.get_mut(&change.table) {
                    queue.count(change);
                }
            }
        }
        let now = self.clock.now();
        let now = self.service.time(now).unwrap_or(now);
        for (table, queue) in queues {
            for (state, depth) in STATES.into_iter().zip(queue.depth) {
                gauge!(QUEUE_DEPTH, "table" => table.as_ref().to_owned(), "state" => state).set(depth as f64);
            }
            let lag = queue.oldest.map_or(0.0, |oldest| seconds(oldest, now));
            gauge!(QUEUE_LAG, "table" => table.as_ref().to_owned()).set(lag);
        }
        Ok(())
    }

    /// A pull of the table begins.
    pub(crate) fn pull_begins(&self, table: &Arc<str>) {
        let mut pulled = self.pulled.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulled.entry(Arc::clone(table)).or_insert_with(|| self.clock.now());
    }

    /// It has ended: whether at the end of what there is.
    pub(crate) async fn pull_ends(&self, account: &Arc<str>, table: &Arc<str>, whole: bool) {
        if whole {
            let mut pulled = self.pulled.0.lock().unwrap_or_else(PoisonError::into_inner);
            pulled.insert(Arc::clone(table), self.clock.now());
        }
        self.measure(account).await;
    }

    fn record_pulls(&self) {
        let now = self.clock.now();
        for (table, at) in &*self.pulled.0.lock().unwrap_or_else(PoisonError::into_inner) {
            gauge!(PULL_LAG, "table" => table.as_ref().to_owned()).set(seconds(*at, now));
        }
    }
}

impl DatasyncClient {
    /// Records the [metrics](crate::metrics) as they are now, for the account that is shown: for an app that lets a recorder be
    /// read at times of its own, or changes the queue by hand.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::error::ErrorKind::Store).
    pub async fn record_metrics(&self) -> Result<(), Error> {
        self.engine.record_queue(&self.engine.account()).await?;
        self.engine.record_pulls();
        Ok(())
    }
}
