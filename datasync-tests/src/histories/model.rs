//! The reference model: what the service has, what the device shows and knows, and no queue.

use super::{Event, Outcome, Policy, Value};
use crate::Wire;

/// How far apart events are, in seconds: far enough for every clock to tell them apart.
pub(super) const APART: i64 = 10;

/// A state of the row on the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// How often it was changed; 0 if it was never there.
    version: usize,
    /// `None` if it is deleted, or was never there.
    live: Option<Value>,
    /// When it was changed.
    at: i64,
}

/// A change that was sent and whose answer was lost.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    change: Change,
    /// What the service made of it; `None` if it refused.
    made: Option<State>,
}

/// What the device wants of the service.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// The state that it started from.
    base: State,
    /// What it wants the row to be.
    wanted: Option<Value>,
    /// When the app made it, by the service's clock; `None` if that was not known.
    edited: Option<i64>,
}

/// The model of one device, one service and one row.
#[derive(Clone, Debug)]
pub struct Model {
    policy: Policy,
    /// Whether the service knows an attempt again.
    keys: bool,
    now: i64,
    event: usize,
    service: State,
    device: Option<Value>,
    /// The service's state that the device's row is, or started from.
    known: State,
    /// Unsent changes.
    change: Option<Change>,
    doubt: Option<Doubt>,
    parked: bool,
    /// The device has deleted the row on the service, and has not been told of anything since.
    own_tombstone: bool,
    losers: Vec<Value>,
    refused: Vec<bool>,
    loses: bool,
    time_known: bool,
    /// Values that somebody who had seen them has overwritten.
    overwritten: Vec<Value>,
}

impl Model {
    /// Nobody has the row.
    #[must_use]
    pub fn new(policy: Policy, wire: Wire) -> Model {
        Model {
            policy,
            keys: wire.extended(),
            now: 0,
            event: 0,
            service: State::default(),
            device: None,
            known: State::default(),
            change: None,
            doubt: None,
            parked: false,
            own_tombstone: false,
            losers: Vec::new(),
            refused: Vec::new(),
            loses: false,
            time_known: false,
            overwritten: Vec::new(),
        }
    }

    /// Something happens. Returns whether it changed anything.
    pub fn happens(&mut self, event: Event) -> bool {
        self.now += APART;
        self.event += 1;
        let mark = self.event;
        match event {
            Event::Insert | Event::Replace | Event::Delete => return self.write(event, mark),
            Event::TheirInsert if self.service.live.is_none() => self.store(Some(Value { here: 0, there: mark })),
            Event::TheirReplace if self.service.live.is_some() => {
                let there = self.service.live.map(|value| Value { there: mark, ..value });
                self.overwritten.extend(self.service.live);
                self.store(there);
            }
            Event::TheirDelete if self.service.live.is_some() => {
                self.overwritten.extend(self.service.live);
                self.store(None);
            }
            Event::TheirInsert | Event::TheirReplace | Event::TheirDelete => return false,
            Event::Push => self.push(),
            Event::Pull => self.pull(),
            Event::Crash => {}
            Event::LoseAnswer => self.loses = true,
        }
        true
    }

    fn store(&mut self, live: Option<Value>) {
        self.service = State { version: self.service.version + 1, live, at: self.now };
    }

    fn write(&mut self, event: Event, mark: usize) -> bool {
        let refused = match event {
            Event::Insert => self.device.is_some(),
            _ => self.device.is_none(),
        };
        self.refused.push(refused);
        if refused {
            return false;
        }
        self.overwritten.extend(self.device);
        self.device = match event {
            Event::Delete => None,
            _ => Some(Value { here: mark, there: self.device.map_or(0, |value| value.there) }),
        };
        let edited = self.time_known.then_some(self.now);
        match &mut self.change {
            Some(change) => {
                change.wanted = self.device;
                change.edited = edited;
            }
            None => self.change = Some(Change { base: self.known, wanted: self.device, edited }),
        }
        self.forget_what_never_left();
        true
    }

    /// A row that was inserted and deleted here, and was never sent, leaves nothing to send.
    fn forget_what_never_left(&mut self) {
        let Some(change) = &self.change else { return };
        if change.wanted.is_none() && change.base.live.is_none() && self.doubt.is_none() && !self.parked {
            self.change = None;
        }
    }

    fn push(&mut self) {
        if self.parked {
            return;
        }
        if self.doubt.is_some_and(|doubt| !self.retry(doubt)) {
            return;
        }
        while let Some(change) = self.change.take_if(|_| !self.parked) {
            self.time_known = true;
            let made = self.serve(&change);
            if std::mem::take(&mut self.loses) {
                self.doubt = Some(Doubt { change, made });
                return;
            }
            match made {
                Some(made) => self.succeed(change, made),
                None => {
                    self.change = Some(change);
                    self.conflict();
                }
            }
        }
    }

    /// The service does what its version allows.
    fn serve(&mut self, change: &Change) -> Option<State> {
        let allowed = match (change.base.version, change.wanted) {
            // Over the tombstone of its own deletion a device brings the row back.
            (0, Some(_)) => self.service.version == 0 || (self.own_tombstone && self.service.live.is_none()),
            // A delete of what is gone is done.
            (_, None) if self.service.live.is_none() => return Some(self.service),
            (version, _) => self.service.version == version,
        };
        if !allowed {
            return None;
        }
        self.overwritten.extend(self.service.live);
        self.store(change.wanted);
        Some(self.service)
    }

    /// Sends what is in doubt once more; whether the push goes on.
    fn retry(&mut self, doubt: Doubt) -> bool {
        self.time_known = true;
        // A change that was made is answered as it was then, if the service knows it again, or as long as nobody has changed
        // the row since; one that was refused is judged again.
        let known = doubt.made.filter(|made| self.keys || *made == self.service);
        let made = known.or_else(|| self.serve(&doubt.change));
        if std::mem::take(&mut self.loses) {
            self.doubt = Some(Doubt { made, ..doubt });
            return false;
        }
        self.doubt = None;
        match made {
            Some(made) => self.succeed(doubt.change, made),
            None => {
                // Certainly without effect: it is one with what was changed since.
                let (wanted, edited) = match self.change.take() {
                    Some(since) => (since.wanted, since.edited),
                    None => (doubt.change.wanted, doubt.change.edited),
                };
                self.change = Some(Change { wanted, edited, ..doubt.change });
                if wanted.is_none() && doubt.change.base.live.is_none() && (self.keys || self.service.live.is_none()) {
                    // Inserted and deleted again: what is there is somebody else's.
                    self.change = None;
                    self.take(self.service);
                } else {
                    self.conflict();
                }
            }
        }
        true
    }

    fn succeed(&mut self, change: Change, made: State) {
        self.own_tombstone = change.wanted.is_none();
        self.known = remembered(made);
        match &mut self.change {
            // An edit made since starts from what was made.
            Some(since) => {
                since.base = self.known;
                self.forget_what_never_left();
            }
            None => self.device = made.live,
        }
    }

    /// The device's change meets another state than the one it started from.
    fn conflict(&mut self) {
        let theirs = self.service;
        let Some(change) = self.change else { return };
        if change.wanted.is_none() && theirs.live.is_none() {
            self.take(theirs);
            return;
        }
        match self.policy {
            Policy::Park => self.parked = true,
            Policy::ServerWins => self.lose_ours(theirs),
            Policy::ClientWins => self.lose_theirs(theirs),
            Policy::LastWriterWins => match change.edited {
                Some(edited) if theirs.version > 0 && edited - theirs.at > 1 => self.lose_theirs(theirs),
                _ => self.lose_ours(theirs),
            },
            Policy::Merge => match merge(change.base.live, change.wanted, theirs.live) {
                Some(merged) => {
                    self.device = Some(merged);
                    self.change = Some(Change { base: theirs, wanted: Some(merged), edited: change.edited });
                }
                None => self.parked = true,
            },
        }
    }

    /// The service's state is taken without a loss.
    fn take(&mut self, theirs: State) {
        self.change = None;
        self.known = remembered(theirs);
        self.device = theirs.live;
    }

    fn lose_ours(&mut self, theirs: State) {
        self.losers.extend(self.device);
        self.take(theirs);
    }

    fn lose_theirs(&mut self, theirs: State) {
        if let (Some(live), Some(change)) = (theirs.live, &self.change)
            && change.base.live != Some(live)
        {
            self.losers.push(live);
        }
        if let Some(change) = &mut self.change {
            change.base = theirs;
        }
    }

    fn pull(&mut self) {
        if self.change.is_some() || self.doubt.is_some() {
            self.push();
        }
        self.time_known = true;
        if self.parked || self.doubt.is_some() {
            return;
        }
        match self.change {
            None => self.take(self.service),
            Some(change) if change.base.version != self.service.version => self.conflict(),
            Some(_) => {}
        }
        self.own_tombstone = false;
    }

    /// What is left after a push and a pull, and once more.
    #[must_use]
    pub fn settle(&mut self) -> Outcome {
        for _ in 0..2 {
            self.happens(Event::Push);
            self.happens(Event::Pull);
        }
        let mut losers = self.losers.clone();
        losers.sort_unstable();
        Outcome {
            service: self.service.live,
            device: self.device,
            parked: self.parked,
            losers,
            refused: self.refused.clone(),
        }
    }

    /// Every value that was written is somewhere, or was overwritten by a writer who had seen it (I28).
    ///
    /// # Panics
    ///
    /// If one is not.
    pub fn check_nothing_is_lost(&self, found: &Outcome, history: &[Event]) {
        let kept: Vec<Value> = found.losers.iter().chain(&found.service).chain(&found.device).copied().collect();
        let seen =
            |of: fn(&Value) -> usize, mark: usize| kept.iter().chain(&self.overwritten).any(|value| of(value) == mark);
        let mut writes = self.refused.iter();
        for (place, event) in history.iter().enumerate() {
            let mark = place + 1;
            match event {
                Event::Insert | Event::Replace if writes.next() == Some(&false) => {
                    assert!(seen(|value| value.here, mark), "the write of event {mark} is lost: {history:?} {found:?}");
                }
                Event::Delete => _ = writes.next(),
                _ => {}
            }
        }
    }
}

/// What both sides have made of a row, unless both have changed the same field, or one has deleted it.
fn merge(base: Option<Value>, ours: Option<Value>, theirs: Option<Value>) -> Option<Value> {
    let (base, ours, theirs) = (base?, ours?, theirs?);
    let field = |of: fn(&Value) -> usize| match (of(&base), of(&ours), of(&theirs)) {
        (base, ours, theirs) if ours == base || ours == theirs => Some(theirs),
        (base, ours, theirs) if theirs == base => Some(ours),
        _ => None,
    };
    Some(Value { here: field(|value| value.here)?, there: field(|value| value.there)? })
}

/// What a device remembers of a state: nothing of a row that is gone.
fn remembered(state: State) -> State {
    if state.live.is_some() { state } else { State::default() }
}
