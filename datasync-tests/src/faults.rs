//! Faults between a client and the way to a service, by a script.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use datasync_http::{Exchange, ExchangeError, ExchangeErrorKind, HttpRequest, HttpResponse, HttpStream};
use futures::{StreamExt, stream};

use crate::Way;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It goes well.
    None,
    /// It does not reach the service.
    Lost,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// No connection is made.
    Refused,
    /// The service answers with this status.
    Status(u16),
}

/// Whether a request is meant.
pub type Wanted = fn(&HttpRequest) -> bool;

/// The way to a service, under a script of faults.
#[derive(Clone)]
pub struct RouterExchange {
    way: Way,
    script: Arc<Mutex<VecDeque<(Wanted, Fault)>>>,
    /// How many requests were made.
    pub requests: Arc<AtomicUsize>,
    before: Arc<Mutex<Option<Hook>>>,
    after: Arc<Mutex<Option<AnswerHook>>>,
}

/// Something that is done before a request reaches the service.
pub type Hook = Box<dyn FnMut(&HttpRequest) + Send>;

/// Something that is done to an answer before it reaches the client.
pub type AnswerHook = Box<dyn FnMut(&mut HttpResponse) + Send>;

impl std::fmt::Debug for RouterExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RouterExchange")
    }
}

impl RouterExchange {
    /// A way without faults.
    #[must_use]
    pub fn new(way: Way) -> RouterExchange {
        let (script, requests, before, after) = Default::default();
        RouterExchange { way, script, requests, before, after }
    }

    /// The next request that is meant meets the fault.
    pub fn fault(&self, wanted: Wanted, fault: Fault) {
        self.script.lock().expect("no test panicked").push_back((wanted, fault));
    }

    /// Runs before each request reaches the service.
    pub fn before(&self, hook: impl FnMut(&HttpRequest) + Send + 'static) {
        *self.before.lock().expect("no test panicked") = Some(Box::new(hook));
    }

    /// Runs on each whole answer of the service, and on those that the script gives in its place; it may change them.
    pub fn after(&self, hook: impl FnMut(&mut HttpResponse) + Send + 'static) {
        *self.after.lock().expect("no test panicked") = Some(Box::new(hook));
    }

    /// Forgets the rest of the script.
    pub fn clear_faults(&self) {
        self.script.lock().expect("no test panicked").clear();
    }

    /// How many faults of the script have not happened yet.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.script.lock().expect("no test panicked").len()
    }

    fn next_fault(&self, request: &HttpRequest) -> Fault {
        let mut script = self.script.lock().expect("no test panicked");
        match script.front() {
            Some((wanted, _)) if wanted(request) => script.pop_front().map_or(Fault::None, |(_, fault)| fault),
            _ => Fault::None,
        }
    }

    /// What the script has for the request: the head of an answer in place of the service's, or whether that is lost.
    fn meet(&self, request: &HttpRequest) -> Result<(Option<HttpResponse>, bool), ExchangeError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(hook) = &mut *self.before.lock().expect("no test panicked") {
            hook(request);
        }
        match self.next_fault(request) {
            Fault::None => Ok((None, false)),
            Fault::AnswerLost => Ok((None, true)),
            Fault::Status(status) => Ok((Some(HttpResponse { status, headers: Vec::new(), body: Vec::new() }), false)),
            Fault::Lost => Err(ExchangeError::new(ExchangeErrorKind::Interrupted)),
            Fault::Refused => Err(ExchangeError::new(ExchangeErrorKind::Connect)),
        }
    }
}

#[async_trait]
impl Exchange for RouterExchange {
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError> {
        let (answer, lost) = self.meet(&request)?;
        let mut answer = match answer {
            Some(answer) => answer,
            None => self.way.send(request, max_body).await?,
        };
        if let Some(hook) = &mut *self.after.lock().expect("no test panicked") {
            hook(&mut answer);
        }
        if lost { Err(ExchangeError::new(ExchangeErrorKind::Interrupted)) } else { Ok(answer) }
    }

    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError> {
        let (answer, lost) = self.meet(&request)?;
        let answer = match answer {
            Some(head) => HttpStream { head, body: stream::empty().boxed() },
            None => self.way.stream(request).await?,
        };
        if lost { Err(ExchangeError::new(ExchangeErrorKind::Interrupted)) } else { Ok(answer) }
    }
}
