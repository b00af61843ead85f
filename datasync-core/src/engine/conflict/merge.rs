//! The merge of two bodies, field by field, on the base that both started from.
//!
//! | this device | the service | the field gets |
//! | --- | --- | --- |
//! | as in the base | anything | the service's value |
//! | changed | as in the base | this device's value |
//! | changed | changed, `sum` or a function | what the rule makes, also of equal values: both have added to the base |
//! | changed | changed to the same | that value |
//! | changed | changed, another rule | what the rule says |
//! | changed | changed, no rule, or one that cannot be used | what the table's fallback says; `park` parks the row |
//!
//! A rule cannot be used on values that it does not fit: `sum` on a null or beyond the range of the field, or without a
//! service that keeps keys; `union` on what is no array. Without a base every field counts as null in it. Values that the
//! merge does not make keep their spelling. Fields that this build does not know are merged like others (I16); local
//! fields are this device's, the fields of the service are the service's, and the time of the edit is the later one.

use std::panic::catch_unwind;

use serde_json::value::RawValue;

use super::policy::Verdict;
use crate::{
    body::{self, Object},
    engine::table::Table,
    query::{Decimal, compare_json, timestamp},
    row::{Body, Record},
    schema::{FieldKind, MergeFunction, MergeRule},
};

/// What a merge came to.
#[derive(Clone, Debug)]
pub(crate) struct Merged {
    pub(crate) body: Body,
    /// Whether a value of this device was left out.
    pub(crate) ours_lost: bool,
    /// Whether a value of the service was left out.
    pub(crate) theirs_lost: bool,
}

/// A merge to be made.
pub(super) struct ByField<'a> {
    pub(super) table: &'a Table,
    /// Whether the service keeps keys, without which nothing can be summed up.
    pub(super) keys: bool,
    pub(super) base: Option<&'a Body>,
    pub(super) ours: &'a Body,
    pub(super) theirs: &'a Body,
}

/// The values of one field.
#[derive(Clone, Copy)]
struct Values<'a> {
    base: Option<&'a RawValue>,
    ours: Option<&'a RawValue>,
    theirs: Option<&'a RawValue>,
}

/// What a field gets.
enum Choice {
    Ours,
    Theirs,
    Made(Box<RawValue>),
}

/// The three bodies, read.
struct Bodies<'a> {
    base: Object<'a>,
    ours: Object<'a>,
    theirs: Object<'a>,
}

impl<'a> Bodies<'a> {
    fn read(base: Option<&'a Body>, ours: &'a Body, theirs: &'a Body) -> Result<Bodies<'a>, serde_json::Error> {
        let base = base.map(Object::parse).transpose()?.unwrap_or_default();
        Ok(Bodies { base, ours: Object::parse(ours)?, theirs: Object::parse(theirs)? })
    }

    fn values(&self, name: &str) -> Values<'a> {
        Values { base: self.base.get(name), ours: self.ours.get(name), theirs: self.theirs.get(name) }
    }

    /// The names of the fields that one side has or had, each once: the service's first.
    fn names(&self) -> Vec<&str> {
        let more = self.ours.names().filter(|name| !self.theirs.has(name));
        self.theirs.names().chain(more).collect()
    }
}

impl Table {
    fn equal(&self, name: &str, one: Option<&RawValue>, other: Option<&RawValue>) -> bool {
        body::field_equal(&self.schema, name, one, other)
    }

    /// The rule of a field, if it can be used now.
    fn rule(&self, name: &str, keys: bool) -> Option<MergeRule> {
        self.rules.fields.get(name).copied().filter(|rule| keys || !matches!(rule, MergeRule::Sum))
    }

    /// Whether changes of the field are added to each other, so that equal values do not mean one change.
    fn adds(&self, name: &str, keys: bool) -> bool {
        matches!(self.rule(name, keys), Some(MergeRule::Sum | MergeRule::With(_)))
    }
}

impl ByField<'_> {
    /// Merges; or says why somebody has to decide.
    pub(super) fn run(&self, fallback: &Verdict) -> Result<Merged, String> {
        let schema = &self.table.schema;
        let bodies = Bodies::read(self.base, self.ours, self.theirs)
            .map_err(|error| format!("one side is not a JSON object: {error}"))?;
        let (mut ours_lost, mut theirs_lost) = (false, false);
        let mut open: Vec<&str> = Vec::new();
        let mut choices: Vec<(&str, Choice)> = Vec::new();
        for name in bodies.names() {
            if body::is_local(schema, name) {
                choices.push((name, Choice::Ours));
                continue;
            }
            if !body::is_sent(schema, name) {
                continue;
            }
            let values = bodies.values(name);
            if schema.edited_field() == Some(name) {
                choices.extend(later(values).then_some((name, Choice::Ours)));
                continue;
            }
            if self.table.equal(name, values.ours, values.base) {
                continue;
            }
            if self.table.equal(name, values.theirs, values.base) {
                choices.push((name, Choice::Ours));
                continue;
            }
            let equal = self.table.equal(name, values.ours, values.theirs);
            if equal && !self.table.adds(name, self.keys) {
                continue;
            }
            let choice = match self.by_rule(name, values)? {
                Some(choice) => choice,
                None if equal => continue,
                None => match fallback {
                    Verdict::Ours => Choice::Ours,
                    Verdict::Theirs => Choice::Theirs,
                    Verdict::Open => {
                        open.push(name);
                        continue;
                    }
                },
            };
            ours_lost |= matches!(choice, Choice::Theirs) && !equal;
            theirs_lost |= matches!(choice, Choice::Ours) && !equal;
            choices.push((name, choice));
        }
        if !open.is_empty() {
            return Err(self.undecided(&open));
        }
        let mut merged = bodies.theirs.clone();
        for (name, choice) in &choices {
            match choice {
                Choice::Ours => merged.set(name, bodies.ours.raw(name)),
                Choice::Theirs => {}
                Choice::Made(value) => merged.set(name, Some(value)),
            }
        }
        Ok(Merged { body: merged.to_body(), ours_lost, theirs_lost })
    }

    fn undecided(&self, open: &[&str]) -> String {
        let unsummed: Vec<&str> = self.table.rules.sums().filter(|name| !self.keys && open.contains(name)).collect();
        let fields = open.join("`, `");
        if unsummed.is_empty() {
            return format!("both sides have changed `{fields}`");
        }
        let unsummed = unsummed.join("`, `");
        format!("both sides have changed `{fields}`; `{unsummed}` cannot be summed up: the service keeps no keys")
    }

    /// What the field's rule says; `None` if it has none that can be used.
    fn by_rule(&self, name: &str, values: Values<'_>) -> Result<Option<Choice>, String> {
        let kind = self.table.schema.field(name).map(|field| &field.kind);
        Ok(match self.table.rule(name, self.keys) {
            None => None,
            Some(MergeRule::Client) => Some(Choice::Ours),
            Some(MergeRule::Server) => Some(Choice::Theirs),
            Some(MergeRule::Max) => Some(ordered(kind, values, true)),
            Some(MergeRule::Min) => Some(ordered(kind, values, false)),
            Some(MergeRule::Sum) => sum(kind, values).map(Choice::Made),
            Some(MergeRule::Union) => union(values).map(Choice::Made),
            Some(MergeRule::With(function)) => {
                let made = call(function, values)
                    .ok_or_else(|| format!("the function that merges `{name}` failed on what both sides have"))?;
                // A function that chose one side's value let the other one's go.
                Some(match Some(&*made).filter(|made| made.get() != "null") {
                    made if self.table.equal(name, made, values.ours) => Choice::Ours,
                    made if self.table.equal(name, made, values.theirs) => Choice::Theirs,
                    _ => Choice::Made(made),
                })
            }
        })
    }
}

/// Whether this device's edit is the later one.
fn later(values: Values<'_>) -> bool {
    let time = |value: Option<&RawValue>| timestamp(&body::unquoted(value?)?);
    time(values.ours) > time(values.theirs)
}

/// The greater or the smaller value; a value before a null, and the service's before an equal one.
fn ordered(kind: Option<&FieldKind>, values: Values<'_>, greatest: bool) -> Choice {
    let ours_first = match (values.ours, values.theirs, kind) {
        (Some(ours), Some(theirs), Some(kind)) => {
            let order = match kind {
                FieldKind::I64 | FieldKind::Decimal => body::numbers(ours, theirs),
                kind => compare_json(kind, ours, theirs),
            };
            order.is_some_and(|order| if greatest { order.is_gt() } else { order.is_lt() })
        }
        (Some(_), None, _) => true,
        _ => false,
    };
    if ours_first { Choice::Ours } else { Choice::Theirs }
}

/// The base and what each side has added to it.
fn sum(kind: Option<&FieldKind>, values: Values<'_>) -> Option<Box<RawValue>> {
    let (ours, theirs) = (values.ours?, values.theirs?);
    let common = values.base.map_or(Some(Decimal::ZERO), body::number)?;
    let added = body::number(ours)?.add(common.negated());
    let exact = added.and_then(|added| added.add(body::number(theirs)?));
    // As many places as the longest spelling has: money stays money.
    let places = |raw: &RawValue| raw.get().split_once('.').map_or(0, |(_, behind)| behind.trim_end_matches('"').len());
    let text = match (kind?, exact) {
        (FieldKind::I64, Some(sum)) => i64::try_from(sum.to_int()?).ok()?.to_string(),
        (FieldKind::F64, None) => {
            let common = values.base.map_or(Some(0.0), body::float)?;
            let sum = body::float(ours)? + body::float(theirs)? - common;
            sum.is_finite().then(|| format!("{sum:?}"))?
        }
        (_, sum) => sum?.to_text(places(ours).max(places(theirs))),
    };
    let quoted = theirs.get().starts_with('"');
    RawValue::from_string(if quoted { format!("\"{text}\"") } else { text }).ok()
}

/// The elements that either side has, less those of the base that one of them took away.
fn union(values: Values<'_>) -> Option<Box<RawValue>> {
    fn read(value: Option<&RawValue>) -> Option<Vec<&RawValue>> {
        value.map_or(Some(Vec::new()), body::elements)
    }
    let (base, ours, theirs) = (read(values.base)?, read(values.ours)?, read(values.theirs)?);
    let within = |set: &[&RawValue], element: &RawValue| set.iter().any(|known| body::same_json(known, element, 0));
    let mut united: Vec<&RawValue> = Vec::new();
    for element in theirs.iter().filter(|element| within(&ours, element) || !within(&base, element)) {
        if !within(&united, element) {
            united.push(element);
        }
    }
    for element in ours.iter().filter(|element| !within(&base, element)) {
        if !within(&united, element) {
            united.push(element);
        }
    }
    serde_json::value::to_raw_value(&united).ok()
}

fn call(function: MergeFunction, values: Values<'_>) -> Option<Box<RawValue>> {
    let text = |value: Option<&RawValue>| value.map_or("null", RawValue::get).to_owned();
    let (base, ours, theirs) = (values.base.map(RawValue::get), text(values.ours), text(values.theirs));
    let made = catch_unwind(|| function.call(base, &ours, &theirs)).ok()?;
    RawValue::from_string(made.ok()?).ok()
}

/// Whether a field of `ours` that differs from the base is one whose changes are added to each other.
pub(super) fn accumulates(table: &Table, keys: bool, base: Option<&Body>, ours: &Body) -> bool {
    let Ok(bodies) = Bodies::read(base, ours, ours) else { return false };
    let mut adding = table.rules.fields.keys().filter(|name| table.adds(name, keys));
    adding.any(|name| !table.equal(name, bodies.ours.get(name), bodies.base.get(name)))
}

/// Whether both sides have changed a field, and not to the same.
pub(crate) fn clashes(table: &Table, keys: bool, base: &Body, ours: &Body, theirs: &Body) -> bool {
    let Ok(bodies) = Bodies::read(Some(base), ours, theirs) else { return true };
    let edited = table.schema.edited_field();
    let mut sent = bodies.names().into_iter().filter(|name| {
        let added = table.rules.merges() && table.adds(name, keys);
        let Values { base, ours, theirs } = bodies.values(name);
        body::is_sent(&table.schema, name)
            && Some(*name) != edited
            && !table.equal(name, ours, base)
            && !table.equal(name, theirs, base)
            && (added || !table.equal(name, ours, theirs))
    });
    sent.next().is_some()
}

/// The merge, if the entity of its table can be read from it: a sum may be too large for its field, and two values may
/// not go together.
pub(super) fn readable(table: &Table, id: &str, merged: Merged) -> Result<Merged, String> {
    let Some(readable) = table.rules.readable else { return Ok(merged) };
    let record = Record { body: merged.body.clone(), version: None, updated_at: None, deleted: false };
    match readable(id, &record) {
        Ok(()) => Ok(merged),
        Err(error) => Err(format!("the merge cannot be read as an entity: {error}")),
    }
}
