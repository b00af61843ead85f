//! The engine: what turns local writes, answers and pages into commits.
//!
//! `change`, `conflict`, `answer` and `page` decide about one row and touch nothing else; `committer` is the only
//! caller of `Store::commit`; `push` and `pull` talk to the transport and never hold a lock while they do.

pub(crate) mod account;
pub(crate) mod acks;
pub(crate) mod answer;
pub(crate) mod change;
pub(crate) mod committer;
pub(crate) mod conflict;
pub(crate) mod crossing;
pub(crate) mod joined;
pub(crate) mod journal;
pub(crate) mod links;
pub(crate) mod lookup;
pub(crate) mod migrate;
pub(crate) mod page;
pub(crate) mod progress;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod scope;
pub(crate) mod service;
pub(crate) mod table;
pub(crate) mod tombstones;
pub(crate) mod unsent;
pub(crate) mod verify;
pub(crate) mod watch;
pub(crate) mod wave;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use crate::{
    clock::Clock,
    config::SyncSection,
    engine::{
        committer::Committer,
        crossing::Crossing,
        joined::Joined,
        service::Service,
        table::{Table, Tables},
    },
    error::Error,
    events::{Events, SyncEvent},
    report::{PullReport, PushReport},
    row::RowKey,
    store::{ScopeKey, Store},
    transport::{Capabilities, Transport, TransportError},
};

/// One run of a push, shared by the callers of its account.
pub(crate) type PushRun = Joined<Result<PushReport, Error>, push::Target>;

/// One run of a pull, shared by the callers of its scope.
pub(crate) type PullRun = Joined<Result<PullReport, Error>, ()>;

/// Everything that the handles of a client share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: SyncSection,
    pub(crate) tables: Arc<Tables>,
    pub(crate) committer: Committer,
    pub(crate) service: Arc<Service>,
    pub(crate) crossing: Arc<Crossing>,
    pub(crate) events: Events,
    pub(crate) pushing: Mutex<BTreeMap<Arc<str>, Arc<PushRun>>>,
    pub(crate) pulling: Mutex<BTreeMap<(ScopeKey, String), Arc<PullRun>>>,
    pub(crate) pull_failures: pull::Failures,
    #[cfg(feature = "metrics")]
    pub(crate) pulled: crate::metrics::Pulled,
}

impl Engine {
    pub(crate) fn key(&self, table: &Table, id: impl Into<Arc<str>>) -> RowKey {
        RowKey { account: self.account(), table: Arc::clone(&table.name), id: id.into() }
    }

    /// What the service can do; remembered for the time without a network.
    pub(crate) async fn capabilities(&self) -> Result<Capabilities, TransportError> {
        let capabilities = self.transport.capabilities().await?;
        if self.service.learn(&capabilities) && !capabilities.keys {
            for table in self.tables.0.values().filter(|table| table.rules.merges()) {
                let fields: Vec<String> = table.rules.sums().map(str::to_owned).collect();
                if !fields.is_empty() {
                    self.events.emit(|| SyncEvent::CannotSum { table: Arc::clone(&table.name), fields });
                }
            }
        }
        Ok(capabilities)
    }
}
