//! What happens while a push, a pull or something else that takes long is under way, with how much is done.
//!
//! | what | begins | goes on | ends |
//! | --- | --- | --- | --- |
//! | push | [`PushStarted`](SyncEvent::PushStarted) | [`ItemPushed`](SyncEvent::ItemPushed), `ItemDelayed`, `ItemParked` | [`PushEnded`](SyncEvent::PushEnded) |
//! | pull | [`PullStarted`](SyncEvent::PullStarted) | [`PageFetched`](SyncEvent::PageFetched), [`PageCommitted`](SyncEvent::PageCommitted), `ItemParked` | [`PullEnded`](SyncEvent::PullEnded) |
//! | comparison with the service | [`VerifyStarted`](SyncEvent::VerifyStarted) | [`VerifyProgress`](SyncEvent::VerifyProgress) | [`VerifyEnded`](SyncEvent::VerifyEnded) |
//! | purge, reset, sign-out | [`RemovalStarted`](SyncEvent::RemovalStarted) | nothing: one commit | [`RemovalEnded`](SyncEvent::RemovalEnded) |
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
    /// A push, a pull, a comparison or a removal has ended with an error. Whoever called it has the error too; of
    /// [`run`](crate::client::DatasyncClient::run) this is all that is told.
    Failed {
        /// What was under way.
        phase: SyncPhase,
        /// The table; `None` for a push of several.
        table: Option<Arc<str>>,
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
            table: table.cloned(),
            kind: error.kind(),
            status: error.status(),
            message: error.to_string(),
        });
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
