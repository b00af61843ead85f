//! The transport-agnostic heart of Datasync for Rust.
//!
//! This crate opens no socket and no file, spawns nothing and names no async runtime. It has the entities and their
//! schema, queries, the operations queue, the conflict policies, the delta tokens, the engine that pushes and pulls,
//! an in-memory store, and the traits for backends: [`Store`](store::Store), [`Transport`](transport::Transport),
//! [`Clock`](clock::Clock) and [`BlockingExecutor`](executor::BlockingExecutor).

#[macro_use]
mod trace;

mod body;
pub mod client;
pub mod clock;
pub mod config;
mod engine;
pub mod entity;
pub mod error;
pub mod events;
pub mod executor;
pub mod export;
pub mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod query;
pub mod report;
pub mod row;
pub mod schema;
mod secrets;
pub mod store;
pub mod transport;

#[doc(hidden)]
#[allow(missing_docs)]
#[path = "private.rs"]
pub mod __private;
