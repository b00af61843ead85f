//! The service side of Datasync for Rust: an axum router over a repository.
