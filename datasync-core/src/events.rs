//! What happens while a push, a pull or something else that takes long is under way, with how much is done.
//!
//! | what | begins | goes on | ends |
//! | --- | --- | --- | --- |
//! | push | [`PushStarted`](SyncEvent::PushStarted) | [`ItemPushed`](SyncEvent::ItemPushed), `ItemSettled`, `ItemParked`, `ItemDelayed` | [`PushEnded`](SyncEvent::PushEnded) |
//! | pull | [`PullStarted`](SyncEvent::PullStarted) | [`PageFetched`](SyncEvent::PageFetched), [`PageCommitted`](SyncEvent::PageCommitted), `ItemSettled`, `ItemParked` | [`PullEnded`](SyncEvent::PullEnded) |
//! | comparison with the service | [`VerifyStarted`](SyncEvent::VerifyStarted) | [`VerifyProgress`](SyncEvent::VerifyProgress) | [`VerifyEnded`](SyncEvent::VerifyEnded) |
//! | purge, reset, sign-out | [`RemovalStarted`](SyncEvent::RemovalStarted) | nothing: one commit | [`RemovalEnded`](SyncEvent::RemovalEnded) |
//!
//! The total of a push is the number of operations that it may send, as the store has them when it begins; it grows by what
//! callers who join it add, and by what becomes ready meanwhile. An operation is done when the push has nothing more to do with
//! it: it was carried out, settled or parked, or has left the queue. One that is delayed or blocked is not.
//!
//! Each of them that ends with an error ends with [`Failed`](SyncEvent::Failed). The migrations and indexes of a store that opens
//! come before there is a client: they are told to [`ClientBuilder::on_progress`](crate::client::ClientBuilder::on_progress).

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::{Stream, channel::mpsc};

use crate::{
    error::{Error, ErrorKind, SyncPhase},
    report::{PullReport, PurgeReport, PushReport, VerifyReport},
    row::{OperationKind, ParkReason, Parked, RowKey},
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
    PushStarted {
        /// How many operations it may send.
        total: u64,
    },
    /// The service has carried out an operation.
    ItemPushed {
        /// The table.
        table: Arc<str>,
        /// The row.
        id: Arc<str>,
        /// What was sent.
        kind: OperationKind,
        /// How many operations this push is done with.
        done: u64,
        /// How many it may send.
        total: u64,
    },
    /// A policy or resolver has settled a conflict. In a push it may mean that the operation is sent once more.
    ItemSettled {
        /// What has found the conflict: a push or a pull.
        phase: SyncPhase,
        /// The table.
        table: Arc<str>,
        /// The row.
        id: Arc<str>,
        /// How many operations the push is done with, or how many rows the pull has stored.
        done: u64,
        /// How many there are of them, for a pull about so many and if the service said so.
        total: Option<u64>,
    },
    /// An attempt failed, or its answer said nothing: the operation waits, and is sent again later.
    ItemDelayed {
        /// The table.
        table: Arc<str>,
        /// The row.
        id: Arc<str>,
        /// What was sent.
        kind: OperationKind,
        /// The status of the service's answer, if there was one.
        status: Option<u16>,
        /// Why, in words.
        message: String,
        /// How many operations this push is done with; this one is not among them.
        done: u64,
        /// How many it may send.
        total: u64,
    },
    /// An operation waits for somebody.
    ItemParked {
        /// What has parked it: a push or a pull.
        phase: SyncPhase,
        /// The table.
        table: Arc<str>,
        /// The row.
        id: Arc<str>,
        /// The class of the reason.
        reason: ParkReason,
        /// The status of the service's answer, if it is parked because of one.
        status: Option<u16>,
        /// Why, in words.
        message: String,
        /// As in [`ItemSettled`](SyncEvent::ItemSettled).
        done: u64,
        /// As there.
        total: Option<u64>,
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
    /// A push, a pull, a comparison or a removal has ended with an error. Whoever called it has the error too; of
    /// [`run`](crate::client::DatasyncClient::run) this is all that is told.
    Failed {
        /// What was under way.
        phase: SyncPhase,
        /// The table, if it concerns one alone.
        table: Option<Arc<str>>,
        /// The row, if it concerns one alone.
        id: Option<Arc<str>>,
        /// The class of the error, which says what to do.
        kind: ErrorKind,
        /// The status of the service's answer, if there was one.
        status: Option<u16>,
        /// The error in words.
        message: String,
    },
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
        /// How many this pull has received with it.
        done: u64,
        /// About how many there will be, if the service said so.
        total: Option<u64>,
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
    /// A comparison with the service began; that of a pull that had to begin again too.
    VerifyStarted {
        /// The table.
        table: Arc<str>,
    },
    /// A part of the rows is compared, and what differed is repaired.
    VerifyProgress {
        /// The table.
        table: Arc<str>,
        /// How many rows of the service are compared.
        done: u64,
        /// About how many there are, if the service said so.
        total: Option<u64>,
    },
    /// A comparison has ended without an error.
    VerifyEnded {
        /// The table.
        table: Arc<str>,
        /// What it found.
        report: VerifyReport,
    },
    /// A purge, a reset or a sign-out is about to remove rows from this device, all of them in one commit.
    RemovalStarted {
        /// The table; `None` for several of them.
        table: Option<Arc<str>>,
        /// About how many rows.
        total: u64,
    },
    /// They are gone.
    RemovalEnded {
        /// As when it began.
        table: Option<Arc<str>>,
        /// What it did.
        report: PurgeReport,
    },
}

#[cfg(feature = "tracing")]
fn traced() -> bool {
    tracing::enabled!(target: "datasync", tracing::Level::DEBUG)
}

#[cfg(not(feature = "tracing"))]
fn traced() -> bool {
    false
}

#[cfg(feature = "tracing")]
impl SyncEvent {
    fn trace(&self) {
        match self {
            // The name of an account may be somebody's address.
            SyncEvent::SignedIn { .. } => tracing::debug!(target: "datasync", "another account is shown"),
            event => tracing::debug!(target: "datasync", "{event:?}"),
        }
    }
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
        self.readers().push(sender);
        EventStream(receiver)
    }

    fn readers(&self) -> MutexGuard<'_, Vec<mpsc::Sender<SyncEvent>>> {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| !reader.is_closed());
        readers
    }

    pub(crate) fn failed(&self, phase: SyncPhase, table: Option<&Arc<str>>, error: &Error) {
        self.emit(|| SyncEvent::Failed {
            phase,
            table: table.cloned().or_else(|| error.table().map(Into::into)),
            id: error.id().map(Into::into),
            kind: error.kind(),
            status: error.status(),
            message: error.to_string(),
        });
    }

    pub(crate) fn parked(&self, phase: SyncPhase, key: &RowKey, parked: &Parked, done: u64, total: Option<u64>) {
        let (table, id) = (Arc::clone(&key.table), Arc::clone(&key.id));
        let Parked { reason, status, message, .. } = parked;
        let (reason, status) = (*reason, *status);
        self.emit(|| SyncEvent::ItemParked { phase, table, id, reason, status, message: message.clone(), done, total });
    }

    pub(crate) fn emit(&self, event: impl FnOnce() -> SyncEvent) {
        if self.readers().is_empty() && !traced() {
            return;
        }
        let event = event();
        #[cfg(feature = "tracing")]
        event.trace();
        for reader in self.readers().iter_mut() {
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
