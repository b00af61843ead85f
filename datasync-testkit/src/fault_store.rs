//! A store that fails on command.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use datasync_core::{
    clock::Clock,
    row::{Row, RowKey, SettledLoser},
    store::{
        DeltaToken, Head, LinkedRequest, Note, OperationsRequest, QueuedOperation, ScanPage, ScanRequest, ScopeKey,
        Store, StoreError, StoreErrorKind, TableSpec, WriteBatch,
    },
};
use uuid::Uuid;

use crate::faults::{Faults, Told, make};

/// What is called of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreCall {
    /// Any read: head, rows, scans, operations, tokens, scopes and losers.
    Read,
    /// A commit.
    Commit,
}

/// A store that meets the faults of a script.
///
/// A commit whose outcome is lost fails with [`StoreErrorKind::OutcomeUnknown`], everything else with
/// [`StoreErrorKind::Io`].
#[derive(Clone, Debug)]
pub struct FaultStore<S> {
    inner: S,
    faults: Faults<StoreCall>,
    clock: Arc<dyn Clock>,
    records: Arc<AtomicUsize>,
}

impl<S: Store> FaultStore<S> {
    /// Wraps a store; the clock is for delays.
    pub fn new(inner: S, clock: impl Clock) -> FaultStore<S> {
        FaultStore { inner, faults: Faults::default(), clock: Arc::new(clock), records: Arc::default() }
    }

    /// The script.
    pub fn faults(&self) -> &Faults<StoreCall> {
        &self.faults
    }

    /// How many records scans have brought so far.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records.load(Ordering::SeqCst)
    }

    async fn call<T>(
        &self,
        call: StoreCall,
        made: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = self.faults.meet(call);
        match make(fault, &*self.clock, made).await {
            Ok(answer) => answer,
            Err(Told::Nothing) if call == StoreCall::Commit => {
                Err(StoreError::new(StoreErrorKind::OutcomeUnknown, "the script lost the outcome"))
            }
            Err(_) => Err(StoreError::new(StoreErrorKind::Io, "the script refused it")),
        }
    }
}

#[async_trait]
impl<S: Store> Store for FaultStore<S> {
    async fn open(&self, tables: &[TableSpec]) -> Result<Vec<Arc<str>>, StoreError> {
        self.inner.open(tables).await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.call(StoreCall::Read, self.inner.head()).await
    }

    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, StoreError> {
        self.call(StoreCall::Read, self.inner.get(keys)).await
    }

    async fn scan(&self, request: &ScanRequest) -> Result<ScanPage, StoreError> {
        let page = self.call(StoreCall::Read, self.inner.scan(request)).await?;
        self.records.fetch_add(page.records.len(), Ordering::SeqCst);
        Ok(page)
    }

    async fn operations(&self, request: &OperationsRequest) -> Result<Vec<QueuedOperation>, StoreError> {
        self.call(StoreCall::Read, self.inner.operations(request)).await
    }

    async fn delta_token(&self, scope: &ScopeKey) -> Result<Option<DeltaToken>, StoreError> {
        self.call(StoreCall::Read, self.inner.delta_token(scope)).await
    }

    async fn scopes(&self, account: &str, table: &str) -> Result<Vec<ScopeKey>, StoreError> {
        self.call(StoreCall::Read, self.inner.scopes(account, table)).await
    }

    async fn linked(&self, request: &LinkedRequest) -> Result<Vec<Arc<str>>, StoreError> {
        self.call(StoreCall::Read, self.inner.linked(request)).await
    }

    async fn notes(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Note>>, StoreError> {
        self.call(StoreCall::Read, self.inner.notes(keys)).await
    }

    async fn list_notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Arc<str>, Note)>, StoreError> {
        self.call(StoreCall::Read, self.inner.list_notes(prefix, after, limit)).await
    }

    async fn losers(&self, account: &str, after: Option<Uuid>, limit: usize) -> Result<Vec<SettledLoser>, StoreError> {
        self.call(StoreCall::Read, self.inner.losers(account, after, limit)).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.call(StoreCall::Commit, self.inner.commit(batch)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}
