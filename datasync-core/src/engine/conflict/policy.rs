//! Which policy holds for a table, and whom it lets win.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{
    Outcome, Resolve, Sides,
    merge::{self, ByField},
};
use crate::{
    body,
    config::ConflictPolicy,
    engine::{committer::Tx, table::Table},
    error::Error,
    row::{Record, ServiceCopy},
    schema::MergeRule,
};

/// Two edits that lie no further apart count as made at once: the wire shows seconds, and clocks are read over a network.
const AT_ONCE: SignedDuration = SignedDuration::from_secs(1);

/// Whether a record can be read as the entity of its table.
pub(crate) type Readable = fn(id: &str, record: &Record) -> Result<(), Error>;

/// How the conflicts of a table are settled.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) policy: ConflictPolicy,
    /// Who wins where a merge has no rule; never `merge`.
    pub(crate) fallback: ConflictPolicy,
    /// The rules of single fields.
    pub(crate) fields: BTreeMap<String, MergeRule>,
    /// In place of the policy.
    pub(crate) resolver: Option<Arc<Resolve>>,
    /// What a merge must be, if the table has a type.
    pub(crate) readable: Option<Readable>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("policy", &self.policy).field("fallback", &self.fallback).finish_non_exhaustive()
    }
}

impl Rules {
    /// Whether the rules of the fields are used without anybody asking for it.
    pub(crate) fn merges(&self) -> bool {
        self.resolver.is_none() && self.policy == ConflictPolicy::Merge
    }

    /// The fields that are summed up.
    pub(crate) fn sums(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(|(_, rule)| matches!(rule, MergeRule::Sum)).map(|(name, _)| name.as_str())
    }
}

/// Who wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ours,
    Theirs,
    /// Nobody: somebody has to decide.
    Open,
}

pub(super) fn decide(tx: &Tx<'_>, table: &Table, policy: ConflictPolicy, sides: &Sides<'_>) -> Outcome {
    if policy == ConflictPolicy::Merge {
        return by_field(tx, table, sides);
    }
    match verdict(table, policy, sides, tx.service_time()) {
        Verdict::Ours => Outcome::Keep,
        Verdict::Theirs => Outcome::Take,
        Verdict::Open => Outcome::Park("both sides have changed the row".to_owned()),
    }
}

fn verdict(table: &Table, policy: ConflictPolicy, sides: &Sides<'_>, now: Option<Timestamp>) -> Verdict {
    match policy {
        ConflictPolicy::Park | ConflictPolicy::Merge => Verdict::Open,
        ConflictPolicy::ClientWins => Verdict::Ours,
        ConflictPolicy::ServerWins => Verdict::Theirs,
        ConflictPolicy::LastWriterWins => {
            // An edit cannot be later than now: a clock that was ahead is cut to the service's time.
            let ours = sides.edited.map(|edited| now.map_or(edited, |now| edited.min(now)));
            match (ours, written(table, sides)) {
                (Some(ours), Some(theirs)) if ours.duration_since(theirs) > AT_ONCE => Verdict::Ours,
                _ => Verdict::Theirs,
            }
        }
    }
}

/// When the service's side was written: by the row's own field for that, or else when it arrived. A tombstone, and a copy
/// whose writer has left that field as it was, have no time of their own.
fn written(table: &Table, sides: &Sides<'_>) -> Option<Timestamp> {
    let ServiceCopy::Found(copy) = sides.service else { return None };
    let edited = |record: &Record| body::edited(&table.schema, &record.body);
    let own = edited(copy).filter(|own| !copy.deleted && sides.base.and_then(edited) != Some(*own));
    own.or(copy.updated_at)
}

fn by_field(tx: &Tx<'_>, table: &Table, sides: &Sides<'_>) -> Outcome {
    let fallback = verdict(table, table.rules.fallback, sides, tx.service_time());
    let base = sides.base_body();
    let same = |record: &Record| base.is_some_and(|base| body::same_data(&table.schema, base, &record.body));
    let (ours, theirs) = match (sides.local, sides.service.live()) {
        (Some(ours), Some(theirs)) => (ours, theirs),
        // One side deleted the row. If the other did not change it, only one has changed it at all.
        (Some(ours), None) if same(ours) => return Outcome::Take,
        (None, Some(theirs)) if same(theirs) => return Outcome::Keep,
        _ => {
            return match fallback {
                Verdict::Ours => Outcome::Keep,
                Verdict::Theirs => Outcome::Take,
                Verdict::Open => Outcome::Park("one side has deleted what the other has changed".to_owned()),
            };
        }
    };
    let keys = tx.service().keys();
    let merge = ByField { table, keys, base, ours: &ours.body, theirs: &theirs.body };
    let merged = merge.run(&fallback).and_then(|merged| merge::readable(table, &sides.key.id, merged));
    match merged {
        Ok(merged) => Outcome::Merged(merged),
        Err(reason) => Outcome::Park(reason),
    }
}
