//! The redb store of Datasync for Rust.
