//! The transport-agnostic heart of Datasync for Rust.
//!
//! This crate opens no socket and no file, spawns nothing and names no async runtime.

pub mod query;
