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
    use std::cell::RefCell;

    use super::RedbStore;

    thread_local! {
        /// The folders of a test, which runs on a thread of its own: they are removed when it ends.
        static FOLDERS: RefCell<Vec<tempfile::TempDir>> = const { RefCell::new(Vec::new()) };
    }

    fn store() -> RedbStore {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(folder.path().join("store.redb")).unwrap();
        FOLDERS.with_borrow_mut(|folders| folders.push(folder));
        store
    }

    datasync_testkit::store_conformance!(store);
}
