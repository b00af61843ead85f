//! Opening a store.

use std::{path::Path, sync::Arc};

use datasync_core::{
    executor::BlockingExecutor,
    store::{StoreError, StoreErrorKind},
};
use futures::future::BoxFuture;
use redb::StorageBackend;

use crate::{open, salvage::Damaged, shared::Shared, store::RedbStore};

/// Runs blocking calls on the threads of the `blocking` crate, which needs no runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockingPool;

impl BlockingExecutor for BlockingPool {
    fn execute(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(blocking::unblock(job))
    }
}

/// How a store is opened.
#[derive(Clone, Debug)]
#[must_use]
pub struct RedbBuilder {
    cache: usize,
    executor: Arc<dyn BlockingExecutor>,
}

impl Default for RedbBuilder {
    fn default() -> Self {
        RedbBuilder { cache: 8 * 1024 * 1024, executor: Arc::new(BlockingPool) }
    }
}

impl RedbBuilder {
    /// How many bytes of the file are kept in memory; 8 MiB by default. A first pull of many rows is faster with more.
    pub fn cache_size(mut self, bytes: usize) -> RedbBuilder {
        self.cache = bytes;
        self
    }

    /// Where blocking calls run; [`BlockingPool`] by default.
    pub fn executor(mut self, executor: impl BlockingExecutor) -> RedbBuilder {
        self.executor = Arc::new(executor);
        self
    }

    /// Opens the file, or makes it if it is not there or empty. Blocks while a file that was not closed is repaired, in memory:
    /// until the first write the file is only read.
    ///
    /// # Errors
    ///
    /// [`AlreadyOpen`](datasync_core::store::StoreErrorKind::AlreadyOpen) if another process or handle has it open,
    /// [`NotAStore`](datasync_core::store::StoreErrorKind::NotAStore),
    /// [`NewerFormat`](datasync_core::store::StoreErrorKind::NewerFormat),
    /// [`Corrupted`](datasync_core::store::StoreErrorKind::Corrupted), whose [`StoreError::salvage`] exports what is left, or
    /// [`Io`](datasync_core::store::StoreErrorKind::Io). The file is left as it was then.
    pub fn open(self, path: impl AsRef<Path>) -> Result<RedbStore, StoreError> {
        let path = path.as_ref();
        let database = open::look(path, self.cache).map_err(|error| match error.kind() {
            StoreErrorKind::Corrupted => error.with_salvage(Arc::new(Damaged(path.to_owned()))),
            _ => error,
        })?;
        Ok(RedbStore::new(Shared::new(database, Some((path.to_owned(), self.cache))), self.executor))
    }

    /// Opens a store on any storage of redb's. After the storage has failed, the store must be opened again.
    ///
    /// # Errors
    ///
    /// As [`open`](RedbBuilder::open), but for `AlreadyOpen`: what guards the storage from a second writer is its own.
    pub fn open_backend(self, backend: impl StorageBackend) -> Result<RedbStore, StoreError> {
        Ok(RedbStore::new(Shared::new(open::backend(backend, self.cache)?, None), self.executor))
    }
}
