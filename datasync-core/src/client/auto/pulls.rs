//! The pulls of a run, each table in a lane of its own: one that cannot be pulled holds no other up.

use std::{collections::BTreeMap, sync::Arc};

use futures::{
    FutureExt,
    future::{BoxFuture, FusedFuture},
    stream::{FuturesUnordered, StreamExt},
};
use jiff::Timestamp;

use super::lane::Lane;
use crate::{
    client::{DatasyncClient, Tables, pull::pull_configured},
    error::Error,
    report::PullReport,
};

/// A pull that has come to its end, and whether it has left something for the next one.
pub(super) type Pulled = (Arc<str>, Result<bool, Error>);

pub(super) struct Pulls {
    tables: BTreeMap<Arc<str>, Lane>,
    under_way: FuturesUnordered<BoxFuture<'static, Pulled>>,
    at_once: usize,
}

impl Pulls {
    pub(super) fn new(client: &DatasyncClient, tables: &Tables) -> Pulls {
        let all = || client.engine.tables.0.keys().cloned().collect();
        let tables = tables.names().unwrap_or_else(all).into_iter().map(|name| (name, Lane::default())).collect();
        Pulls { tables, under_way: FuturesUnordered::new(), at_once: client.engine.settings.parallel_pulls }
    }

    /// The lane of a table, if it is among those of the run.
    pub(super) fn lane(&mut self, table: &str) -> Option<&mut Lane> {
        self.tables.get_mut(table)
    }

    pub(super) fn lanes(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.tables.values_mut()
    }

    /// When the next one is to begin; `None` while there are as many under way as may be.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let room = self.under_way.len() < self.at_once;
        self.tables.values().filter_map(Lane::next).min().filter(|_| room)
    }

    /// Begins those that are wanted by now, first the ones that have waited longest.
    /// Each pushes its table before, unless a push waits after a failure: that wait is for all of them.
    pub(super) fn begin(&mut self, client: &DatasyncClient, now: Timestamp, push: &Lane) {
        while self.under_way.len() < self.at_once {
            let wanted = self.tables.iter_mut().filter(|(_, lane)| lane.is_wanted_by(now));
            let Some((table, lane)) = wanted.min_by_key(|(_, lane)| lane.next()) else { return };
            lane.begin();
            let (client, table, pushes) = (client.clone(), Arc::clone(table), push.failures() == 0);
            let pull = async move {
                let pulled = match pushes {
                    true => client.pull_tables([Arc::clone(&table)]).await,
                    false => pull_alone(&client, &table).await.map(|pulled| [pulled].into()),
                };
                (table, pulled.map(|reports| reports.values().any(|report| report.more)))
            };
            self.under_way.push(pull.boxed());
        }
    }

    /// Waits for the next one that comes to its end.
    pub(super) fn ended(&mut self) -> impl FusedFuture<Output = Pulled> + Unpin {
        self.under_way.select_next_some()
    }

    /// Drops what is under way; every table is wanted again at this time.
    pub(super) fn give_up(&mut self, again: Timestamp) {
        self.under_way.clear();
        for lane in self.lanes() {
            lane.given_up(again);
        }
    }
}

async fn pull_alone(client: &DatasyncClient, table: &str) -> Result<(Arc<str>, PullReport), Error> {
    pull_configured(&client.engine, Arc::clone(client.engine.tables.get(table)?)).await
}
