//! What an app uses: the client, its tables, and what waits for a person.

mod account;
mod acked;
mod auto;
mod builder;
mod codec;
mod conflicts;
mod discard;
mod explain;
mod export;
mod journal;
mod losers;
mod migrate;
mod offline;
mod part;
pub(crate) mod pending;
mod progress;
mod pull;
mod purge;
mod quarantine;
mod reindex;
mod remote;
mod reset;
mod resolver;
mod row_type;
mod search;
mod stream;
mod transaction;
mod watch;
mod write;

use std::{fmt, sync::Arc};

pub use acked::Written;
pub use auto::{AutoSync, NetworkSignal, SyncReport};
pub use builder::{ClientBuilder, TableOptions};
pub use conflicts::Conflict;
pub use explain::{CopyInfo, Explanation};
pub use journal::{JournalEntry, JournalStep};
pub use offline::{DynTable, IntoQuery, OfflineQuery, OfflineTable};
pub use pending::{PendingChange, PendingPage, PendingRequest, PendingState};
pub use progress::{OpeningProgress, OpeningWork};
pub use pull::PullOptions;
pub use purge::PurgeOptions;
pub use quarantine::Quarantined;
pub use remote::{Remote, RemoteQuery, RemoteTable};
pub use reset::{Pending, ResetOptions};
pub use resolver::{ConflictResolver, Resolution, ResolverConflict};
pub use row_type::RowType;
pub use search::Rows;
pub use transaction::Tx;

use crate::{
    engine::{
        Engine,
        push::{self, Tries},
    },
    entity::SyncEntity,
    error::{Context, Error, ErrorKind, SyncPhase},
    events::EventStream,
    report::PushReport,
};

/// Which tables to push.
///
/// ```
/// use datasync_core::client::Tables;
/// let all = Tables::all();
/// let some: Tables = ["todoitem", "list"].into();
/// # let _ = (all, some);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables(Option<Vec<Arc<str>>>);

impl Tables {
    /// Every table of the client.
    #[must_use]
    pub fn all() -> Tables {
        Tables(None)
    }

    /// Their names; `None` for all.
    fn names(&self) -> Option<Vec<Arc<str>>> {
        self.0.clone()
    }
}

impl<S: Into<Arc<str>>, const N: usize> From<[S; N]> for Tables {
    fn from(names: [S; N]) -> Tables {
        Tables(Some(names.into_iter().map(Into::into).collect()))
    }
}

impl<S: Into<Arc<str>>> From<Vec<S>> for Tables {
    fn from(names: Vec<S>) -> Tables {
        Tables(Some(names.into_iter().map(Into::into).collect()))
    }
}

/// An app's tables in one local store, and the engine that synchronizes them with one service.
///
/// Clones are cheap handles of the same client.
#[derive(Clone)]
pub struct DatasyncClient {
    pub(crate) engine: Arc<Engine>,
}

impl fmt::Debug for DatasyncClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatasyncClient").field("store", &self.engine.store).finish_non_exhaustive()
    }
}

impl DatasyncClient {
    /// Begins a client: a store, a transport and at least one table.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// The table of an entity in the local store: works with no network.
    ///
    /// # Panics
    ///
    /// If the client was built without `.table::<E>()`: that is a mistake of the program, found at its first start.
    #[must_use]
    pub fn offline_table<E: SyncEntity>(&self) -> OfflineTable<E> {
        match self.engine.tables.get(&E::SCHEMA.name) {
            Ok(table) => OfflineTable::new(Arc::clone(&self.engine), Arc::clone(table)),
            Err(error) => panic!("{error}: add `.table::<…>()` to the builder"),
        }
    }

    /// The table of that name in the local store, as JSON objects, whether it was added with a type or with
    /// [`table_dyn`](ClientBuilder::table_dyn).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownTable`], which lists the tables that the client has.
    pub fn offline_table_dyn(&self, name: &str) -> Result<DynTable, Error> {
        Ok(OfflineTable::new(Arc::clone(&self.engine), Arc::clone(self.engine.tables.get(name)?)))
    }

    /// The table of an entity on the service: works only with a network, and touches nothing that is stored here.
    #[must_use]
    pub fn remote_table<E: SyncEntity>(&self) -> RemoteTable<E> {
        RemoteTable::new(Arc::clone(&self.engine))
    }

    /// Pushes what is queued in these tables at the time of the call.
    ///
    /// Ends when every such operation is done, waits until a time, or is parked. Operations that wait because an
    /// attempt failed are tried at once, but for those where the service asked for patience. A push under way is
    /// joined. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownTable`]; [`ErrorKind::Unreachable`] and [`ErrorKind::Unauthenticated`], with every operation
    /// still queued; [`ErrorKind::Store`].
    pub async fn push_tables(&self, tables: impl Into<Tables>) -> Result<PushReport, Error> {
        let Tables(tables) = tables.into();
        for table in tables.iter().flatten() {
            self.engine.tables.get(table).during(SyncPhase::Push)?;
        }
        push::push(&self.engine, self.engine.account(), tables, Tries::Waiting).await
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.engine.events.subscribe()
    }

    /// Closes the store. Every other handle of this client fails from then on, and streams and waits end with that error.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn close(&self) -> Result<(), Error> {
        self.engine.store.close().await.during(SyncPhase::Open)?;
        self.engine.committer.acks().wake_all();
        self.engine.committer.watchers().wake();
        Ok(())
    }
}

pub(crate) fn invalid_query(error: crate::query::QueryError) -> Error {
    Error::caused(ErrorKind::InvalidQuery, error.to_string(), error)
}
