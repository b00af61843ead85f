//! Conformance suites for the stores and transports of Datasync for Rust.
