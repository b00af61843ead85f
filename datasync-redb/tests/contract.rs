//! The redb store holds the contract, on a storage in memory and on a file.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_redb::RedbStore;

mod in_memory {
    use super::RedbStore;

    fn store() -> RedbStore {
        RedbStore::builder().open_backend(redb::backends::InMemoryBackend::new()).unwrap()
    }

    datasync_testkit::store_conformance!(store);
}

mod on_a_file {
    use super::RedbStore;

    fn store() -> RedbStore {
        // The folder is removed with the store's file still open, which is how it goes away in the end.
        let folder = tempfile::tempdir().unwrap();
        RedbStore::open(folder.path().join("store.redb")).unwrap()
    }

    datasync_testkit::store_conformance!(store);
}
