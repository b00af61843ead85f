//! Scripts of faults.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use datasync_core::clock::Clock;
use futures::channel::oneshot;

/// What happens to a call.
#[derive(Debug)]
pub enum Fault {
    /// It goes well.
    Pass,
    /// It does not happen, and the caller is told so.
    Refuse,
    /// It does not happen, and the caller learns nothing.
    FailBefore,
    /// It happens, and the caller learns nothing.
    FailAfter,
    /// It never ends, and does not happen.
    Hang,
    /// It happens so much later. The time is the clock's that the wrapper was given.
    Delay(Duration),
    /// It happens once the gate is opened.
    Late(Gate),
    /// It happens, and its answer is held until the gate is opened.
    Hold(Gate),
    /// It happens, and once the gate is opened the caller learns nothing.
    HoldAndLose(Gate),
    /// It does not happen, and neither does any later call: as if the process had been killed before it.
    EndBefore,
    /// It happens, and no later call does: as if the process had been killed before it learned of that.
    EndAfter,
    /// The process ends before it happens, as by a kill.
    KillBefore,
    /// The process ends after it happened, as by a kill.
    KillAfter,
}

/// Something to wait for: it is open once its other end was dropped or used.
#[derive(Debug)]
pub struct Gate(oneshot::Receiver<()>);

impl Gate {
    /// A gate, and what opens it when it is dropped.
    #[must_use]
    pub fn new() -> (Gate, oneshot::Sender<()>) {
        let (open, opened) = oneshot::channel();
        (Gate(opened), open)
    }

    pub(crate) async fn opened(self) {
        // A key that was dropped opens it too.
        let _ = self.0.await;
    }
}

/// The script of a wrapper: what happens to its next calls, and how many there were. Clones share it.
pub struct Faults<C> {
    state: Arc<Mutex<State<C>>>,
}

struct State<C> {
    script: VecDeque<(C, Fault)>,
    calls: Vec<C>,
    ended: bool,
}

impl<C> Clone for Faults<C> {
    fn clone(&self) -> Self {
        Faults { state: Arc::clone(&self.state) }
    }
}

impl<C> Default for Faults<C> {
    fn default() -> Self {
        Faults { state: Arc::new(Mutex::new(State { script: VecDeque::new(), calls: Vec::new(), ended: false })) }
    }
}

impl<C> fmt::Debug for Faults<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("left", &self.state().script.len()).finish_non_exhaustive()
    }
}

impl<C> Faults<C> {
    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many faults have not happened yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.state().script.len()
    }
}

impl<C: Copy + PartialEq> Faults<C> {
    /// The next call of this kind that no earlier fault of the script waits for meets the fault.
    pub fn next(&self, call: C, fault: Fault) {
        self.state().script.push_back((call, fault));
    }

    /// How many calls of this kind there were.
    #[must_use]
    pub fn calls(&self, call: C) -> usize {
        self.state().calls.iter().filter(|made| **made == call).count()
    }

    /// Notes a call, and takes its fault from the script.
    pub(crate) fn meet(&self, call: C) -> Fault {
        let mut state = self.state();
        state.calls.push(call);
        if state.ended {
            return Fault::Refuse;
        }
        let place = state.script.iter().position(|(wanted, _)| *wanted == call);
        let fault = place.and_then(|place| state.script.remove(place)).map_or(Fault::Pass, |(_, fault)| fault);
        state.ended = matches!(fault, Fault::EndBefore | Fault::EndAfter);
        fault
    }
}

/// What a caller is told.
pub(crate) enum Told {
    Refused,
    Nothing,
}

/// Makes a call as its fault wants it.
pub(crate) async fn make<T>(fault: Fault, clock: &dyn Clock, call: impl Future<Output = T>) -> Result<T, Told> {
    match fault {
        Fault::Pass => Ok(call.await),
        Fault::Refuse | Fault::EndBefore => Err(Told::Refused),
        Fault::EndAfter => {
            call.await;
            Err(Told::Refused)
        }
        Fault::FailBefore => Err(Told::Nothing),
        Fault::FailAfter => {
            call.await;
            Err(Told::Nothing)
        }
        Fault::Hang => futures::future::pending().await,
        Fault::Delay(length) => {
            clock.sleep(length).await;
            Ok(call.await)
        }
        Fault::Late(gate) => {
            gate.opened().await;
            Ok(call.await)
        }
        Fault::Hold(gate) => {
            let answer = call.await;
            gate.opened().await;
            Ok(answer)
        }
        Fault::HoldAndLose(gate) => {
            call.await;
            gate.opened().await;
            Err(Told::Nothing)
        }
        Fault::KillBefore => std::process::abort(),
        Fault::KillAfter => {
            call.await;
            std::process::abort()
        }
    }
}
