#![doc = include_str!("guide.md")]

pub use datasync_core::*;

#[cfg(feature = "derive")]
pub use datasync_derive::{SyncEntity, SyncEnum, SyncId};
#[cfg(feature = "http")]
pub use datasync_http as http;
#[cfg(feature = "redb")]
pub use datasync_redb as redb;
#[cfg(feature = "server")]
pub use datasync_server as server;

/// What most apps need: `use datasync::prelude::*`.
pub mod prelude {
    pub use datasync_core::{
        client::{
            AutoSync, Conflict, ConflictResolver, DatasyncClient, DynTable, NetworkSignal, OfflineTable, Pending,
            PullOptions, PurgeOptions, RemoteTable, ResetOptions, Resolution, ResolverConflict, TableOptions, Tables,
            Tx, Written,
        },
        config::{ConflictPolicy, SyncConfig},
        entity::SyncEntity,
        error::{Error, ErrorKind},
        events::SyncEvent,
        query::Query,
    };
    #[cfg(feature = "derive")]
    pub use datasync_derive::{SyncEntity, SyncEnum, SyncId};
    #[cfg(feature = "http")]
    pub use datasync_http::HttpTransport;
    #[cfg(feature = "redb")]
    pub use datasync_redb::RedbStore;
    /// Each entity has them. What they write asks for the crate `serde`, which the app names in its own manifest.
    #[cfg(feature = "derive")]
    pub use serde::{Deserialize, Serialize};
}
