//! A disk that fails: an error of its own, and rows and queue as they were, or as they would be.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use common::{batch, fill};
use datasync_core::store::{OperationsRequest, Store, StoreErrorKind, TableSpec};
use datasync_redb::RedbStore;
use futures::executor::block_on;
use redb::StorageBackend;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Writes,
    Syncs,
    Growth,
}

/// A file on a disk that fails when it is told to.
#[derive(Debug)]
struct Disk {
    file: File,
    broken: Broken,
    fails: Arc<AtomicBool>,
}

impl Disk {
    fn meets(&self, broken: Broken) -> io::Result<()> {
        match broken == self.broken && self.fails.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the disk does not answer")),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.meets(Broken::Growth)?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.meets(Broken::Syncs)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.meets(Broken::Writes)?;
        self.file.write_all_at(data, offset)
    }
}

async fn queued(store: &RedbStore) -> u64 {
    let request = OperationsRequest { account: "".into(), tables: None, after: 0, limit: usize::MAX };
    store.operations(&request).await.unwrap().len() as u64
}

#[test]
fn i01_a_disk_that_fails_leaves_rows_and_queue_whole() {
    for broken in [Broken::Writes, Broken::Syncs, Broken::Growth] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let fails = Arc::new(AtomicBool::new(false));
        let store = RedbStore::builder().open_backend(Disk { file, broken, fails: Arc::clone(&fails) }).unwrap();
        fill(&store, 10);
        fails.store(true, Ordering::SeqCst);
        // A file grows now and then only.
        let mut number = 11;
        let error = loop {
            match block_on(store.commit(batch(number))) {
                Ok(()) => number += 1,
                Err(error) => break error,
            }
            assert!(number < 100_000, "{broken:?}: nothing failed");
        };
        assert!(matches!(error.kind(), StoreErrorKind::Io | StoreErrorKind::OutcomeUnknown), "{broken:?}: {error}");
        assert!(error.to_string().contains("the disk does not answer"), "{broken:?}: {error}");
        let again = block_on(store.commit(batch(number))).unwrap_err();
        assert!(matches!(again.kind(), StoreErrorKind::Io | StoreErrorKind::OutcomeUnknown), "{broken:?}: {again}");
        assert!(again.to_string().contains("open it again"), "{broken:?}: {again}");
        drop(store);

        let store = RedbStore::open(&path).unwrap();
        block_on(async {
            store.open(&[TableSpec { table: "notes".into(), indexes: Vec::new() }]).await.unwrap();
            let head = store.head().await.unwrap().number;
            let unknown = error.kind() == StoreErrorKind::OutcomeUnknown;
            assert!(head == number - 1 || (unknown && head == number), "{broken:?}: {head} of {number}: {error}");
            assert_eq!((queued(&store).await, store.check().await.unwrap().rows), (head, head), "{broken:?}");
            store.commit(batch(head + 1)).await.unwrap();
        });
    }
}
