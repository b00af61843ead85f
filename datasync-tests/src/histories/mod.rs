//! Every history of one row, up to a length: what happens here, there and between, under every policy, with a service that
//! has the extensions or has not, against a reference model that has a map and no queue.
//!
//! A history is run on a real client over the real codec and the real router, then settled (a push and a pull, twice) and
//! compared with the model in what the service has, what the device shows, what waits in the inbox and what was kept as a
//! settled loser. Besides, no value that was written may have disappeared from everywhere (I28).
//!
//! Two rules leave histories out, which a test at length 3 checks: an event of the other side that changes nothing leads to
//! what the history without it leads to; and events of the two sides commute where nothing is sent between them, so that only
//! the order with this device's first is run. Under last-writer-wins only a crash and a lost answer commute with what the
//! other side does: of two writes the time decides.

mod device;
mod model;

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

pub use device::run;
pub use model::Model;

use crate::Wire;

/// Something that happens to the row, or between device and service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// The app inserts the row.
    Insert,
    /// The app replaces it.
    Replace,
    /// The app deletes it.
    Delete,
    /// Somebody else inserts it.
    TheirInsert,
    /// Somebody else replaces it.
    TheirReplace,
    /// Somebody else deletes it.
    TheirDelete,
    /// The app pushes.
    Push,
    /// The app pulls.
    Pull,
    /// The app is killed and started again.
    Crash,
    /// The next change that is sent is done, and its answer is lost.
    LoseAnswer,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 10] = [
        Event::Insert,
        Event::Replace,
        Event::Delete,
        Event::TheirInsert,
        Event::TheirReplace,
        Event::TheirDelete,
        Event::Push,
        Event::Pull,
        Event::Crash,
        Event::LoseAnswer,
    ];

    fn is_theirs(self) -> bool {
        matches!(self, Event::TheirInsert | Event::TheirReplace | Event::TheirDelete)
    }

    /// Whether, under this policy, it may as well happen before what the other side has just done.
    fn commutes(self, policy: Policy) -> bool {
        match self {
            Event::Crash | Event::LoseAnswer => true,
            Event::Insert | Event::Replace | Event::Delete => policy != Policy::LastWriterWins,
            _ => false,
        }
    }
}

/// A policy, by its name in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// `park`
    Park,
    /// `client-wins`
    ClientWins,
    /// `server-wins`
    ServerWins,
    /// `merge`, with the fallback `park`
    Merge,
    /// `last-writer-wins`
    LastWriterWins,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 5] =
        [Policy::Park, Policy::ClientWins, Policy::ServerWins, Policy::Merge, Policy::LastWriterWins];

    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::Park => "park",
            Policy::ClientWins => "client-wins",
            Policy::ServerWins => "server-wins",
            Policy::Merge => "merge",
            Policy::LastWriterWins => "last-writer-wins",
        }
    }
}

/// The row's fields: this device writes the first, others write the second. Values are unique in a history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// Written here, by the event of this number; 0 for never.
    pub here: usize,
    /// Written there.
    pub there: usize,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.here, self.there)
    }
}

/// What is left when a history is settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the service has.
    pub service: Option<Value>,
    /// What the device shows.
    pub device: Option<Value>,
    /// Whether a conflict waits for somebody.
    pub parked: bool,
    /// The bodies that are kept as settled losers, in order of their values.
    pub losers: Vec<Value>,
    /// For each local write whether it was refused with a typed error.
    pub refused: Vec<bool>,
}

/// Whether a history stands for itself: see the rules of this module.
#[must_use]
pub fn is_canonical(policy: Policy, wire: Wire, history: &[Event]) -> bool {
    swapped(policy, history).is_none() && {
        let mut model = Model::new(policy, wire);
        history.iter().all(|event| {
            let changed = model.happens(*event);
            changed || !event.is_theirs()
        })
    }
}

/// The history that stands for this one: which of its events, in order.
#[must_use]
pub fn canonical(policy: Policy, wire: Wire, history: &[Event]) -> Vec<usize> {
    let mut model = Model::new(policy, wire);
    let events = history.iter().enumerate();
    let mut kept: Vec<(usize, Event)> = events.map(|(place, event)| (place, *event)).collect();
    kept.retain(|(_, event)| model.happens(*event) || !event.is_theirs());
    let (mut places, mut events): (Vec<usize>, Vec<Event>) = kept.into_iter().unzip();
    while let Some(at) = swapped(policy, &events) {
        events.swap(at, at + 1);
        places.swap(at, at + 1);
    }
    places
}

/// Where an event of the other side stands before one that is to stand before it.
fn swapped(policy: Policy, history: &[Event]) -> Option<usize> {
    history.windows(2).position(|pair| pair[0].is_theirs() && pair[1].commutes(policy))
}

/// All histories of a length, in order.
pub fn all(length: usize) -> impl Iterator<Item = Vec<Event>> {
    let count = Event::ALL.len().pow(length as u32);
    (0..count).map(move |mut number| {
        let mut history = Vec::with_capacity(length);
        for _ in 0..length {
            history.push(Event::ALL[number % Event::ALL.len()]);
            number /= Event::ALL.len();
        }
        history
    })
}

/// Runs all histories of these lengths under every policy with such a service, on so many threads. Returns how many were run
/// and how many were left out.
///
/// # Panics
///
/// At the first history whose outcome is not the model's.
#[must_use]
pub fn exhaust(lengths: std::ops::RangeInclusive<usize>, wire: Wire, threads: usize) -> (usize, usize) {
    let (run_so_far, left_out) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (lengths, run_so_far, left_out) = (lengths.clone(), &run_so_far, &left_out);
            scope.spawn(move || {
                for history in lengths.flat_map(all).skip(thread).step_by(threads) {
                    for policy in Policy::ALL {
                        if is_canonical(policy, wire, &history) {
                            agree(policy, wire, &history);
                            run_so_far.fetch_add(1, Ordering::Relaxed);
                        } else {
                            left_out.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    (run_so_far.into_inner(), left_out.into_inner())
}

/// Runs a history and compares it with what the model says.
///
/// # Panics
///
/// If they do not agree, or a value has disappeared.
pub fn agree(policy: Policy, wire: Wire, history: &[Event]) {
    let found = run(policy, wire, history);
    let (model, expected) = foretold(policy, wire, history);
    assert_eq!(found, expected, "{policy:?} {wire:?} {history:?}");
    model.check_nothing_is_lost(&found, history);
}

/// The model after a history, and what it says is left when that is settled.
#[must_use]
pub fn foretold(policy: Policy, wire: Wire, history: &[Event]) -> (Model, Outcome) {
    let mut model = Model::new(policy, wire);
    for event in history {
        model.happens(*event);
    }
    let outcome = model.settle();
    (model, outcome)
}
