//! The derive macros of Datasync for Rust: `SyncEntity` and `SyncEnum`.
