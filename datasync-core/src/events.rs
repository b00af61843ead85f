//! What happens while a push or pull is under way.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{Stream, channel::mpsc};

use crate::{
    report::{PullReport, PushReport},
    row::OperationKind,
};

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SyncEvent {
    /// Another account is shown.
    SignedIn {
        /// Its name; empty if nobody is signed in.
        account: Arc<str>,
    },
    /// A push began.
    PushStarted,
    /// An operation has got its final answer.
    ItemPushed {
        /// The table.
        table: Arc<str>,
        /// The row.
        id: Arc<str>,
        /// What was sent.
        kind: OperationKind,
        /// How many operations this push has finished.
        done: u64,
        /// How many it has taken up so far.
        total: u64,
    },
    /// An attempt failed, or its answer said nothing: the operation waits, and is sent again later.
    ItemDelayed {
        /// The table.
        table: Arc<str>,
        /// The row.
        id: Arc<str>,
        /// Why.
        reason: String,
    },
    /// An operation waits for somebody: a conflict, or a refusal.
    ItemParked {
        /// The table.
        table: Arc<str>,
        /// The row.
        id: Arc<str>,
        /// Why.
        reason: String,
    },
    /// The service keeps no idempotency keys, so that a change may be made twice without anybody noticing: these fields,
    /// whose rule is `sum`, fall back to what the table says of fields without a rule. Told once, by the first push
    /// or pull.
    CannotSum {
        /// The table.
        table: Arc<str>,
        /// The fields.
        fields: Vec<String>,
    },
    /// A push has ended without an error.
    PushEnded(PushReport),
    /// A pull of a table began.
    PullStarted {
        /// The table.
        table: Arc<str>,
    },
    /// A page has come.
    PageFetched {
        /// The table.
        table: Arc<str>,
        /// How many rows it holds.
        rows: u64,
    },
    /// A page is stored, with its token.
    PageCommitted {
        /// The table.
        table: Arc<str>,
        /// How many rows this pull has stored.
        done: u64,
        /// About how many there will be, if the service said so.
        total: Option<u64>,
    },
    /// A pull has ended without an error.
    PullEnded {
        /// The table.
        table: Arc<str>,
        /// What it did.
        report: PullReport,
    },
}

/// How many events wait for a reader before further ones are left out.
const CAPACITY: usize = 1024;

#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<mpsc::Sender<SyncEvent>>>);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    pub(crate) fn subscribe(&self) -> EventStream {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        EventStream(receiver)
    }

    pub(crate) fn emit(&self, event: impl FnOnce() -> SyncEvent) {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| !reader.is_closed());
        if readers.is_empty() {
            return;
        }
        let event = event();
        for reader in readers.iter_mut() {
            // A reader that is too slow misses events; it never slows a push or pull down.
            let _ = reader.try_send(event.clone());
        }
    }
}

/// The events of a client from now on.
///
/// A reader that falls behind by more than a thousand events misses some.
#[derive(Debug)]
pub struct EventStream(mpsc::Receiver<SyncEvent>);

impl Stream for EventStream {
    type Item = SyncEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SyncEvent>> {
        Pin::new(&mut self.0).poll_next(cx)
    }
}
