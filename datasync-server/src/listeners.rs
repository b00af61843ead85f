//! Who listens for changes, and what they are told (`docs/wire-extensions.md`).
//!
//! | what could grow | why it does not |
//! | --- | --- |
//! | what a slow listener has not read | it is told which tables have changed since it was last told, and nothing is queued for it |
//! | the number of listeners | so many have a place, the next is refused |
//! | the time that one stays | an hour; its sign-in may have been taken back |

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use datasync_core::{clock::Clock, query::options};
use futures::{
    future::{Either, pending, select},
    stream,
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    access::TableOperation,
    error::Refusal,
    router::{Table, Tables},
};

/// Where changes are told.
pub(crate) const PATH: &str = "/changes";
/// How many listen at once, at most.
const LISTENERS: usize = 1_000;
/// Changes of so long are told together.
const TOGETHER: Duration = Duration::from_millis(200);
/// After so long without a change a listener is told that it still listens.
const ALIVE: Duration = Duration::from_secs(20);
/// How long one listens, at most.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);
/// After how many seconds one that found no place may ask again.
const LATER: HeaderValue = HeaderValue::from_static("30");

/// How often each table has changed since the service was built, and the places of those who listen.
#[derive(Debug)]
pub(crate) struct Hub {
    counts: watch::Sender<Vec<u64>>,
    places: Arc<Semaphore>,
}

impl Hub {
    pub(crate) fn new(tables: usize) -> Arc<Hub> {
        Arc::new(Hub { counts: watch::Sender::new(vec![0; tables]), places: Arc::new(Semaphore::new(LISTENERS)) })
    }

    /// Tells of a change that was committed.
    pub(crate) fn tell(&self, table: usize) {
        self.counts.send_modify(|counts| {
            if let Some(count) = counts.get_mut(table) {
                *count += 1;
            }
        });
    }
}

/// In the requests of a server that can stop: the sender goes when it does.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(pub(crate) watch::Receiver<()>);

/// What the handler needs.
#[derive(Clone, Debug)]
pub(crate) struct Listeners {
    pub(crate) tables: Tables,
    pub(crate) hub: Arc<Hub>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Answers with a stream of events.
pub(crate) async fn listen(State(of): State<Listeners>, request: Request) -> Response {
    let tables = match tables(&of.tables, request.uri().query(), request.headers()).await {
        Ok(tables) => tables,
        Err(refusal) => return refusal.into_response(),
    };
    let Ok(place) = Arc::clone(&of.hub.places).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, LATER)]).into_response();
    };
    let mut counts = of.hub.counts.subscribe();
    let told = counts.borrow_and_update().clone();
    let stopping = request.extensions().get::<Stopping>().cloned();
    let until = of.clock.now().checked_add(LONGEST).unwrap_or(Timestamp::MAX);
    let last = Last::Nothing;
    let listener = Listener { counts, told, tables, clock: of.clock, stopping, until, last, _place: place };
    let events = stream::unfold(listener, Listener::next);
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(events)).into_response()
}

/// The tables that are listened to, each with its place and its path: those that are named, or all that the caller may
/// query.
async fn tables(
    known: &[(String, Arc<Table>)],
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Vec<(usize, String)>, Refusal> {
    let parameters = options(query.unwrap_or_default())?;
    let named = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("tables")).map(|(_, value)| value);
    let path = |table: &str| format!("/{}", table.trim_matches('/'));
    let named: Option<Vec<String>> = named.map(|named| named.split(',').map(path).collect());
    for name in named.iter().flatten() {
        if !known.iter().any(|(path, _)| path == name) {
            return Err(Refusal::because(StatusCode::NOT_FOUND, format!("There is no table at `{}`.", &name[1..])));
        }
    }
    let mut allowed = Vec::new();
    let mut refused = None;
    for (path, table) in known {
        if named.as_ref().is_some_and(|named| !named.contains(path)) {
            continue;
        }
        let access = &table.options.access;
        match access.authorize(&access.caller(headers), TableOperation::Query, None).await {
            true => allowed.push((table.place, path[1..].to_owned())),
            false => refused = Some(table.options.refusal()),
        }
    }
    match refused {
        Some(status) if named.is_some() || allowed.is_empty() => Err(Refusal::empty(status)),
        _ => Ok(allowed),
    }
}

/// What a listener was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Nothing,
    Changes,
    Other,
}

struct Listener {
    counts: watch::Receiver<Vec<u64>>,
    /// The counts that were told.
    told: Vec<u64>,
    tables: Vec<(usize, String)>,
    clock: Arc<dyn Clock>,
    stopping: Option<Stopping>,
    until: Timestamp,
    last: Last,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// The next piece of the stream. It is asked for when the listener has read the one before.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Listener)> {
        let last = std::mem::replace(&mut self.last, Last::Other);
        if last == Last::Nothing {
            return Some((Ok(Bytes::from_static(b"event: ready\ndata:\n\n")), self));
        }
        if last == Last::Changes {
            let pause = self.clock.sleep(TOGETHER);
            stopped(&mut self.stopping, pause).await?;
        }
        let mut alive = self.clock.sleep(ALIVE);
        loop {
            if self.clock.now() >= self.until {
                return None;
            }
            let events = self.events();
            if !events.is_empty() {
                self.last = Last::Changes;
                return Some((Ok(Bytes::from(events)), self));
            }
            let either = select(Box::pin(self.counts.changed()), &mut alive);
            let changed = match stopped(&mut self.stopping, either).await? {
                Either::Left((changed, _)) => Some(changed),
                Either::Right(_) => None,
            };
            match changed {
                Some(Ok(())) => {}
                // The service is gone.
                Some(Err(_)) => return None,
                None => return Some((Ok(Bytes::from_static(b": alive\n\n")), self)),
            }
        }
    }

    /// An event for each table that has changed since the last time.
    fn events(&mut self) -> String {
        let counts = self.counts.borrow_and_update().clone();
        let changed = self.tables.iter().filter(|(place, _)| counts.get(*place) != self.told.get(*place));
        let events = changed.map(|(_, path)| format!("event: change\ndata: {path}\n\n")).collect();
        self.told = counts;
        events
    }
}

/// What comes of a future, unless the server stops before.
async fn stopped<T>(stopping: &mut Option<Stopping>, other: impl Future<Output = T> + Unpin) -> Option<T> {
    let stops = async {
        match stopping {
            // Nothing is ever sent: it ends with its sender.
            Some(Stopping(stopping)) => drop(stopping.changed().await),
            None => pending().await,
        }
    };
    match select(Box::pin(stops), other).await {
        Either::Left(_) => None,
        Either::Right((made, _)) => Some(made),
    }
}
