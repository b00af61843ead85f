//! The redb store of Datasync for Rust: rows, operations, tokens and settled losers in one file.
//!
//! ```no_run
//! use datasync_redb::RedbStore;
//! let store = RedbStore::open("todo.redb")?;
//! # Ok::<(), datasync_core::store::StoreError>(())
//! ```
//!
//! Keys and values are byte strings of this crate's own, versioned encoding; a record's body is never looked into.
//! Calls that block run on a [`BlockingExecutor`](datasync_core::executor::BlockingExecutor), by default the threads
//! of the `blocking` crate. Each commit is one durable transaction.

mod codec;
mod config;
mod error;
mod keys;
mod maintenance;
mod open;
mod pages;
mod salvage;
mod scan;
mod shared;
mod store;
mod wire;
mod write;

pub use config::{BlockingPool, RedbBuilder};
pub use maintenance::CheckReport;
pub use store::RedbStore;
