//! The memory store holds the contract.

datasync_testkit::store_conformance!(datasync_core::memory::MemoryStore::new);
