//! A transport that fails on command.

use std::sync::Arc;

use async_trait::async_trait;
use datasync_core::{
    clock::Clock,
    transport::{
        Capabilities, ChangeNotice, Page, PageRequest, PushOperation, PushOutcome, RowRequest, ServiceRow, Transport,
        TransportError, TransportErrorKind,
    },
};
use futures::stream::BoxStream;
use jiff::SignedDuration;

use crate::faults::{Faults, Told, make};

/// What is called of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportCall {
    /// A page of a pull or a query.
    FetchPage,
    /// One row.
    Fetch,
    /// Operations, one or many.
    Push,
    /// What the service can do.
    Capabilities,
    /// Who is signed in.
    Account,
}

/// A transport that meets the faults of a script.
///
/// A call that is refused fails with [`TransportErrorKind::Connect`], one whose outcome is lost with
/// [`TransportErrorKind::Interrupted`]; a push fails so for each of its operations.
#[derive(Clone, Debug)]
pub struct FaultTransport<T> {
    inner: T,
    faults: Faults<TransportCall>,
    clock: Arc<dyn Clock>,
}

impl<T: Transport> FaultTransport<T> {
    /// Wraps a transport; the clock is for delays.
    pub fn new(inner: T, clock: impl Clock) -> FaultTransport<T> {
        FaultTransport { inner, faults: Faults::default(), clock: Arc::new(clock) }
    }

    /// The script.
    pub fn faults(&self) -> &Faults<TransportCall> {
        &self.faults
    }

    async fn call<A>(&self, call: TransportCall, made: impl Future<Output = A>) -> Result<A, TransportError> {
        let fault = self.faults.meet(call);
        make(fault, &*self.clock, made).await.map_err(|told| match told {
            Told::Refused => TransportError::new(TransportErrorKind::Connect, "the script refused it"),
            Told::Nothing => TransportError::new(TransportErrorKind::Interrupted, "the script lost the answer"),
        })
    }
}

#[async_trait]
impl<T: Transport> Transport for FaultTransport<T> {
    async fn capabilities(&self) -> Result<Capabilities, TransportError> {
        self.call(TransportCall::Capabilities, self.inner.capabilities()).await?
    }

    async fn account(&self, wanted: &str) -> Result<Option<Arc<str>>, TransportError> {
        self.call(TransportCall::Account, self.inner.account(wanted)).await?
    }

    async fn fetch_page(&self, request: &PageRequest) -> Result<Page, TransportError> {
        self.call(TransportCall::FetchPage, self.inner.fetch_page(request)).await?
    }

    async fn fetch(&self, request: &RowRequest) -> Result<Option<ServiceRow>, TransportError> {
        self.call(TransportCall::Fetch, self.inner.fetch(request)).await?
    }

    fn clock_offset(&self) -> Option<SignedDuration> {
        self.inner.clock_offset()
    }

    fn changes(&self, account: Arc<str>) -> BoxStream<'static, Result<ChangeNotice, TransportError>> {
        self.inner.changes(account)
    }

    async fn push(&self, operations: &[PushOperation]) -> Vec<PushOutcome> {
        match self.call(TransportCall::Push, self.inner.push(operations)).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let failed = |_| PushOutcome::Failed(TransportError::new(error.kind(), error.to_string()));
                operations.iter().map(failed).collect()
            }
        }
    }
}
