//! Offline-first data sync for Rust.

pub use datasync_core::*;
