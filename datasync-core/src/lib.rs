//! The transport-agnostic heart of Datasync for Rust.
//!
//! This crate opens no socket and no file, spawns nothing and names no async runtime.

pub mod clock;
pub mod entity;
pub mod executor;
pub mod query;
pub mod row;
pub mod schema;
pub mod store;
pub mod transport;

#[doc(hidden)]
#[allow(missing_docs)]
#[path = "private.rs"]
pub mod __private;
