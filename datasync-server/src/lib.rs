//! The service side of Datasync for Rust: an axum router over a [`Repository`].
//!
//! It speaks the protocol of the Datasync Community Toolkit: verbs, preconditions, statuses and the order of checks;
//! what goes beyond is written down in `docs/wire-extensions.md`. Whatever a client sends gets an answer, never a panic.
//!
//! ```
//! use datasync_core::schema::{FieldKind, FieldSchema, TableSchema};
//! use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
//!
//! const FIELDS: &[FieldSchema] =
//!     &[FieldSchema::new("id", FieldKind::Text, false), FieldSchema::new("title", FieldKind::Text, false)];
//! let films = TableOptions::new(TableSchema::new("film", FIELDS, &[])).soft_delete(true);
//! let router: axum::Router = DatasyncService::builder().table(films, MemoryRepository::new()).build()?;
//! # let _ = router;
//! # Ok::<(), datasync_server::ServiceConfigError>(())
//! ```

mod access;
mod body;
mod departures;
mod error;
mod handlers;
mod head;
mod listeners;
mod memory;
mod options;
mod page;
mod preconditions;
#[cfg(feature = "redb")]
mod redb;
mod repository;
mod router;
mod serve;

pub use access::{AccessControl, TableOperation};
pub use memory::{MemoryRepository, MemorySnapshot, Stamping};
pub use options::{ServiceConfigError, TableOptions};
#[cfg(feature = "redb")]
pub use redb::{RedbDatabase, RedbRepository};
pub use repository::{
    Action, Change, Changes, ChangesQuery, Effect, Forget, Idempotency, KEYS_KEPT, Left, Place, Repository,
    RepositoryError, Row, RowQuery, Selection, View, WriteOutcome,
};
pub use router::{DatasyncService, ServiceBuilder};
pub use serve::DatasyncServer;

/// A time as HTTP's dates are made from.
fn system_time(time: jiff::Timestamp) -> std::time::SystemTime {
    let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
    std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis)
}
