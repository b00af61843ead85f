//! How far a push is, and what is told of its operations.

use std::sync::Arc;

use crate::{
    engine::{
        Engine,
        answer::{Answer, Effect},
        conflict::Settled,
    },
    error::SyncPhase,
    events::SyncEvent,
    report::PushReport,
    row::{Hold, OperationKind, Parked, RowKey},
};

/// What a push has done so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) report: PushReport,
    /// Operations that were made and taken back here, and never had an effect.
    withdrawn: u64,
    done: u64,
    /// How many operations might be sent for the callers when they called.
    asked: u64,
}

impl Progress {
    /// How many operations have got a final answer.
    pub(crate) fn answered(&self) -> u64 {
        let report = &self.report;
        report.pushed + report.settled + report.conflicts + report.parked + self.withdrawn
    }

    /// How many operations there are to send.
    pub(crate) fn total(&self) -> u64 {
        // What becomes ready meanwhile is sent too.
        self.asked.max(self.done)
    }

    /// So many operations are to be sent for a caller, and were not before.
    pub(crate) fn joined(&mut self, operations: u64) {
        self.asked += operations;
    }

    /// So many operations have left the queue before they were sent.
    pub(crate) fn left(&mut self, operations: u64) {
        self.done += operations;
    }

    /// An operation was parked before it was sent.
    pub(crate) fn parked(&mut self, engine: &Engine, key: &RowKey, parked: &Parked) {
        self.report.parked += 1;
        self.done += 1;
        self.tell_parked(engine, key, parked);
    }

    /// An answer is stored; `hold` is what it has left of the operation.
    pub(crate) fn answer(
        &mut self,
        engine: &Engine,
        (key, kind): (&RowKey, OperationKind),
        answer: &Answer,
        effect: &Effect,
        hold: Option<&Hold>,
    ) {
        let stays = matches!(effect, Effect::Stays | Effect::Fetch | Effect::Conflict(Settled::Resent));
        self.done += u64::from(!stays);
        let (report, done, total) = (&mut self.report, self.done, self.asked.max(self.done));
        let (table, id) = (Arc::clone(&key.table), Arc::clone(&key.id));
        match (effect, answer) {
            (Effect::Done, _) => {
                report.pushed += 1;
                engine.events.emit(|| SyncEvent::ItemPushed { table, id, kind, done, total });
            }
            (Effect::Withdrawn, _) => self.withdrawn += 1,
            (Effect::Conflict(Settled::Parked), _) => report.conflicts += 1,
            (Effect::Conflict(_), _) => {
                report.settled += 1;
                let (phase, total) = (SyncPhase::Push, Some(total));
                engine.events.emit(|| SyncEvent::ItemSettled { phase, table, id, done, total });
            }
            (Effect::Parked(_), _) => report.parked += 1,
            (Effect::Stays, Answer::Unknown { status, reason, .. }) => {
                let (status, message) = (*status, reason.clone());
                engine.events.emit(|| SyncEvent::ItemDelayed { table, id, kind, status, message, done, total });
            }
            (Effect::Stays | Effect::Fetch | Effect::Vanished, _) => {}
        }
        if let (Effect::Conflict(Settled::Parked) | Effect::Parked(_), Some(Hold::Parked(parked))) = (effect, hold) {
            self.tell_parked(engine, key, parked);
        }
    }

    fn tell_parked(&self, engine: &Engine, key: &RowKey, parked: &Parked) {
        engine.events.parked(SyncPhase::Push, key, parked, self.done, Some(self.total()));
    }
}
