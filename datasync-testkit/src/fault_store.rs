//! A store that fails on command.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use datasync_core::{
    clock::Clock,
    row::{RecordRef, Row, RowKey, SettledLoser},
    store::{
        Cursor, DeltaToken, Head, KeysRequest, Note, OperationsRequest, Outdated, QueuedOperation, RecordFilter,
        ScanPage, ScanRequest, ScopeKey, Store, StoreError, StoreErrorKind, TableSpec, WriteBatch,
    },
};
use uuid::Uuid;

use crate::faults::{Faults, Told, make};

/// What is called of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreCall {
    /// Its opening.
    Open,
    /// Any read: head, rows, scans, counts, operations, tokens, scopes and losers.
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

    /// How many records scans and counts have looked at so far. A count that looks only at the entries of an index looks at
    /// none.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records.load(Ordering::SeqCst)
    }

    /// The request, which then counts the records that it looks at.
    fn counted(&self, request: &ScanRequest) -> ScanRequest {
        let counting = Counting { filter: request.filter.clone(), records: Arc::clone(&self.records) };
        ScanRequest { filter: Some(Arc::new(counting)), ..request.clone() }
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

/// Counts what it is shown.
#[derive(Debug)]
struct Counting {
    filter: Option<Arc<dyn RecordFilter>>,
    records: Arc<AtomicUsize>,
}

impl RecordFilter for Counting {
    fn keeps(&self, id: &str, record: RecordRef<'_>) -> Result<bool, StoreError> {
        self.records.fetch_add(1, Ordering::SeqCst);
        self.filter.as_ref().map_or(Ok(true), |filter| filter.keeps(id, record))
    }
}

#[async_trait]
impl<S: Store> Store for FaultStore<S> {
    async fn open(&self, tables: &[TableSpec]) -> Result<Vec<Outdated>, StoreError> {
        self.call(StoreCall::Open, self.inner.open(tables)).await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.call(StoreCall::Read, self.inner.head()).await
    }

    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, StoreError> {
        self.call(StoreCall::Read, self.inner.get(keys)).await
    }

    async fn scan(&self, request: &ScanRequest) -> Result<ScanPage, StoreError> {
        self.call(StoreCall::Read, self.inner.scan(&self.counted(request))).await
    }

    async fn count(&self, request: &ScanRequest) -> Result<u64, StoreError> {
        if request.index.is_some() && request.filter.is_none() {
            return self.call(StoreCall::Read, self.inner.count(request)).await;
        }
        self.call(StoreCall::Read, self.inner.count(&self.counted(request))).await
    }

    async fn keys(&self, request: &KeysRequest) -> Result<Vec<RowKey>, StoreError> {
        self.call(StoreCall::Read, self.inner.keys(request)).await
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

    async fn entries(&self, request: &ScanRequest) -> Result<Vec<Cursor>, StoreError> {
        self.call(StoreCall::Read, self.inner.entries(request)).await
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
