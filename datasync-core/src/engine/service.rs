//! What is known of the service between its answers: how far its clock is ahead, whether it keeps keys, and for how long
//! it remembers deletions.
//!
//! Each is needed before the service is asked: an edit is stamped with the service's time where there is no network, a merge
//! that a kill has cut must come to the same after it, and a pull removes old tombstones. So they are remembered in a note,
//! which rides in the next commit after they have changed.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    store::Note,
    transport::{Capabilities, Transport},
};

/// Under which key the note is kept.
pub(crate) const NOTE: &str = "service";
/// For how long deletions are remembered of services that do not say for how long they do.
const TOMBSTONE_PERIOD: Duration = Duration::from_secs(90 * 24 * 3_600);
/// The wire shows seconds: a smaller change of the offset says nothing.
const NOTEWORTHY: SignedDuration = SignedDuration::from_secs(2);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// How many milliseconds the service's clock is ahead of this device's.
    offset: Option<i64>,
    /// Whether the service keeps idempotency keys.
    keys: bool,
    /// For how long it remembers what was deleted, if it says so.
    tombstones: Option<Duration>,
}

/// What is known of the service.
pub(crate) struct Service {
    transport: Arc<dyn Transport>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stored: Known,
    keys: bool,
    tombstones: Option<Duration>,
    asked: bool,
    /// When a change was last made, since the start.
    applied: Option<Timestamp>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl Service {
    /// What the note says, until the service itself has answered.
    ///
    /// # Errors
    ///
    /// A note that cannot be read.
    pub(crate) fn new(transport: Arc<dyn Transport>, note: Option<&Note>) -> Result<Service, Error> {
        let read = |note: &Note| serde_json::from_slice::<Known>(&note.0);
        let stored = note.map(read).transpose().map_err(|error| {
            Error::caused(ErrorKind::Store, "what is remembered of the service cannot be read", error)
        })?;
        let stored = stored.unwrap_or_default();
        let state = State { stored, keys: stored.keys, tombstones: stored.tombstones, asked: false, applied: None };
        Ok(Service { transport, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by the service's clock when this device's shows `now`, by what was last learnt; `None` if no answer has ever
    /// told.
    pub(crate) fn time(&self, now: Timestamp) -> Option<Timestamp> {
        let stored = || self.state().stored.offset.map(SignedDuration::from_millis);
        now.checked_add(self.transport.clock_offset().or_else(stored)?).ok()
    }

    /// Whether the service keeps keys, as last learnt.
    pub(crate) fn keys(&self) -> bool {
        self.state().keys
    }

    /// For how long it is remembered what was deleted.
    pub(crate) fn tombstone_period(&self) -> Duration {
        self.state().tombstones.unwrap_or(TOMBSTONE_PERIOD)
    }

    /// What the service says that it can do. Returns whether this is the first time since the start.
    pub(crate) fn learn(&self, capabilities: &Capabilities) -> bool {
        let mut state = self.state();
        (state.keys, state.tombstones) = (capabilities.keys, capabilities.tombstones);
        !std::mem::replace(&mut state.asked, true)
    }

    /// The service has made a change.
    pub(crate) fn applied(&self, now: Timestamp) {
        self.state().applied = Some(now);
    }

    /// Whether the service has made a change of anybody since then.
    pub(crate) fn applied_since(&self, then: Option<Timestamp>) -> bool {
        then.is_some_and(|then| self.state().applied.is_some_and(|applied| applied > then))
    }

    /// The note to store, if what is stored is no longer true.
    pub(crate) fn news(&self) -> Option<Note> {
        let offset = self.transport.clock_offset();
        let state = self.state();
        let (keys, tombstones) = (state.keys, state.tombstones);
        let known = Known { offset: offset.map_or(state.stored.offset, millis), keys, tombstones };
        let moved = match (known.offset, state.stored.offset) {
            (Some(now), Some(stored)) => SignedDuration::from_millis(now.saturating_sub(stored)).abs() >= NOTEWORTHY,
            (now, stored) => now != stored,
        };
        // Numbers are always JSON.
        let learnt = (keys, tombstones) != (state.stored.keys, state.stored.tombstones);
        (moved || learnt).then(|| Note(serde_json::to_vec(&known).unwrap_or_default()))
    }

    /// A commit has stored this note.
    pub(crate) fn stored(&self, note: &Note) {
        if let Ok(known) = serde_json::from_slice(&note.0) {
            self.state().stored = known;
        }
    }
}

fn millis(offset: SignedDuration) -> Option<i64> {
    i64::try_from(offset.as_millis()).ok()
}
