//! Which way a query takes to its rows: the ids or one index, and the ranges in it that hold every row that matches.

use std::{borrow::Cow, fmt, ops::Bound, sync::Arc};

use super::{
    compile::{Node, Slot},
    eval::Evaluator,
    expr::{BinaryOp, Function},
    index::{encode, index_text, text_bytes},
    value::Value,
};
use crate::{
    schema::{DELETED, ID, IndexSchema, TableSchema, UPDATED_AT, VERSION},
    store::{Direction, KeyBytes, KeyRange},
};

/// More ranges than this are one: a long list of values is not worth as many reads.
const MOST_RANGES: usize = 256;

/// The way to the rows of a query. Its `Display` says it in words; its `Debug` output does not show the ranges.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// The index, by its [`index_text`]; `None` for the order of ids.
    pub index: Option<Arc<str>>,
    /// The ranges, in the order in which they are read; none overlaps another.
    pub ranges: Vec<KeyRange>,
    /// The direction of the scan.
    pub direction: Direction,
    /// Whether the rows come in the order of the query.
    pub sorted: Sorted,
    /// Whether the ranges hold only rows that match, so that the filter need not look at them.
    pub exact: bool,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys hold constants of the query (I21).
        let Access { index, ranges, direction, sorted, exact } = self;
        f.debug_struct("Access")
            .field("index", index)
            .field("ranges", &ranges.len())
            .field("direction", direction)
            .field("sorted", sorted)
            .field("exact", exact)
            .finish()
    }
}

/// Whether rows come in the order of their query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sorted {
    /// No.
    Not,
    /// By the query's keys, but rows that agree in all of them in any order.
    Groups,
    /// Yes.
    Fully,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.ranges == [(Bound::Unbounded, Bound::Unbounded)];
        let ranges = match self.ranges.len() {
            1 => "1 range".to_owned(),
            more => format!("{more} ranges"),
        };
        match (&self.index, whole) {
            (None, true) => f.write_str("all rows")?,
            (None, false) => write!(f, "{ranges} of ids")?,
            (Some(index), true) => write!(f, "the whole index {index}")?,
            (Some(index), false) => write!(f, "{ranges} of the index {index}")?,
        }
        if !self.exact {
            f.write_str(", filtered")?;
        }
        f.write_str(match (self.sorted, self.direction) {
            (Sorted::Not, _) => ", then sorted",
            (_, Direction::Forward) => ", in order",
            (_, Direction::Backward) => ", in order from the end",
        })
    }
}

/// What a conjunct says about a place of a row.
struct Condition<'q> {
    slot: Slot,
    test: Test<'q>,
}

enum Test<'q> {
    Compare(BinaryOp, &'q Value<'static>),
    Prefix(&'q str),
    OneOf(Vec<Cow<'q, Value<'static>>>),
}

/// What the filter says: every condition must hold, and perhaps more.
struct Conditions<'q> {
    list: Vec<Condition<'q>>,
    /// Whether nothing else must hold.
    all: bool,
}

impl Conditions<'_> {
    fn of(&self, slot: Slot) -> impl Iterator<Item = (usize, &Test<'_>)> {
        let of_slot = self.list.iter().enumerate().filter(move |(_, condition)| condition.slot == slot);
        of_slot.map(|(place, condition)| (place, &condition.test))
    }

    /// Whether ranges that hold these conditions hold only rows that match.
    fn are(&self, used: &[usize]) -> bool {
        self.all && used.len() == self.list.len()
    }
}

/// A way, and how good it is; less is better.
struct Candidate {
    access: Access,
    rank: (u8, usize),
}

/// Points in an index or among the ids.
const POINTS: u8 = 0;
/// Between two keys.
const CLOSED: u8 = 1;
/// From a key on, or up to one.
const OPEN: u8 = 2;
/// Everything, but in the order that is wanted, and only the first rows are.
const IN_ORDER: u8 = 3;
/// Everything.
const WHOLE: u8 = 4;

/// Chooses the way to the rows of a query: single values of the ids or of an index's first fields, else a range of one,
/// else, if only the first rows are wanted, an index in the query's order, else all rows. The indexes are over fields of the
/// schema.
#[must_use]
pub fn plan(query: &Evaluator, schema: &TableSchema, indexes: &[IndexSchema], first_rows: bool) -> Access {
    let mut conditions = Conditions { list: Vec::new(), all: true };
    if let Some(filter) = &query.filter {
        conjuncts(filter, &mut conditions);
    }
    let ids = by_id(query, &conditions);
    let indexes = indexes.iter().filter_map(|index| by_index(query, schema, index, &conditions, first_rows));
    let best = indexes.fold(ids, |best, other| if other.rank < best.rank { other } else { best });
    best.access
}

fn conjuncts<'q>(node: &'q Node, found: &mut Conditions<'q>) {
    if let Node::Binary(BinaryOp::And, left, right) = node {
        conjuncts(left, found);
        conjuncts(right, found);
        return;
    }
    if let Some((slot, values)) = alternatives(node) {
        found.list.push(Condition { slot, test: Test::OneOf(values) });
        return;
    }
    let condition = match node {
        Node::Binary(op, left, right) => match (&**left, &**right) {
            (Node::Slot(slot), Node::Constant(value)) => Some((*slot, Test::Compare(*op, value))),
            (Node::Constant(value), Node::Slot(slot)) => {
                let op = match op {
                    BinaryOp::Lt => BinaryOp::Gt,
                    BinaryOp::Le => BinaryOp::Ge,
                    BinaryOp::Gt => BinaryOp::Lt,
                    BinaryOp::Ge => BinaryOp::Le,
                    same => *same,
                };
                Some((*slot, Test::Compare(op, value)))
            }
            _ => None,
        },
        Node::Call(Function::StartsWith, arguments) => match arguments.as_slice() {
            [Node::Slot(slot), Node::Constant(Value::Text(text))] => Some((*slot, Test::Prefix(text))),
            _ => None,
        },
        _ => None,
    };
    match condition {
        Some((slot, test)) => found.list.push(Condition { slot, test }),
        None => found.all = false,
    }
}

/// The values that a condition allows for one place: of `eq`, `in`, a boolean, and of such joined by `or`.
fn alternatives(node: &Node) -> Option<(Slot, Vec<Cow<'_, Value<'static>>>)> {
    // A boolean that is not this is the other one, or null.
    let unlike = |value: bool| vec![Cow::Owned(Value::Null), Cow::Owned(Value::Bool(!value))];
    match node {
        Node::Slot(slot) => Some((*slot, vec![Cow::Owned(Value::Bool(true))])),
        Node::Not(inner) => match &**inner {
            Node::Slot(slot) => Some((*slot, unlike(true))),
            _ => None,
        },
        Node::In(operand, values) => match &**operand {
            Node::Slot(slot) => Some((*slot, values.iter().map(Cow::Borrowed).collect())),
            _ => None,
        },
        Node::Binary(BinaryOp::Or, left, right) => {
            let ((slot, mut values), (other, more)) = (alternatives(left)?, alternatives(right)?);
            values.extend(more);
            (slot == other).then_some((slot, values))
        }
        Node::Binary(op, left, right) => match (op, &**left, &**right) {
            (BinaryOp::Eq, Node::Slot(slot), Node::Constant(value))
            | (BinaryOp::Eq, Node::Constant(value), Node::Slot(slot)) => Some((*slot, vec![Cow::Borrowed(value)])),
            (BinaryOp::Ne, Node::Slot(slot), Node::Constant(Value::Bool(value)))
            | (BinaryOp::Ne, Node::Constant(Value::Bool(value)), Node::Slot(slot)) => Some((*slot, unlike(*value))),
            _ => None,
        },
        _ => None,
    }
}

/// The way over the ids.
fn by_id(query: &Evaluator, conditions: &Conditions<'_>) -> Candidate {
    let sorted = if query.order.is_empty() { Sorted::Fully } else { Sorted::Not };
    let backward = query.order.is_empty() && query.id_descending;
    let direction = if backward { Direction::Backward } else { Direction::Forward };
    let mut used = Vec::new();
    let mut points: Option<Vec<KeyBytes>> = None;
    let (mut low, mut high) = (Bound::Unbounded, Bound::Unbounded);
    for (place, test) in conditions.of(Slot::Id) {
        let mut narrow = |from: Bound<KeyBytes>, to: Bound<KeyBytes>| {
            used.push(place);
            low = later(std::mem::replace(&mut low, Bound::Unbounded), from);
            high = earlier(std::mem::replace(&mut high, Bound::Unbounded), to);
        };
        match test {
            Test::Compare(op, Value::Text(text)) => {
                let id = text.as_bytes().to_vec();
                match op {
                    BinaryOp::Gt => narrow(Bound::Excluded(id), Bound::Unbounded),
                    BinaryOp::Ge => narrow(Bound::Included(id), Bound::Unbounded),
                    BinaryOp::Lt => narrow(Bound::Unbounded, Bound::Excluded(id)),
                    BinaryOp::Le => narrow(Bound::Unbounded, Bound::Included(id)),
                    _ => {}
                }
            }
            Test::Compare(BinaryOp::Ne, Value::Null) => used.push(place),
            Test::Prefix(text) => {
                let from = text.as_bytes().to_vec();
                let to = successor(from.clone()).map_or(Bound::Unbounded, Bound::Excluded);
                narrow(Bound::Included(from), to);
            }
            Test::OneOf(values) if points.is_none() && values.len() <= MOST_RANGES => {
                used.push(place);
                let id = |value: &Cow<'_, Value<'static>>| match &**value {
                    Value::Text(text) => Some(text.as_bytes().to_vec()),
                    _ => None,
                };
                points = Some(values.iter().filter_map(id).collect());
            }
            _ => {}
        }
    }
    let rank = match (&points, &low, &high) {
        (Some(_), ..) => POINTS,
        (None, Bound::Unbounded, Bound::Unbounded) => WHOLE,
        (None, Bound::Unbounded, _) | (None, _, Bound::Unbounded) => OPEN,
        _ => CLOSED,
    };
    let mut ranges = match points {
        Some(mut points) => {
            points.sort_unstable();
            points.dedup();
            let within = |id: &KeyBytes| std::ops::RangeBounds::contains(&(low.as_ref(), high.as_ref()), id);
            points.retain(within);
            points.into_iter().map(|id| (Bound::Included(id.clone()), Bound::Included(id))).collect()
        }
        None => vec![(low, high)],
    };
    if direction == Direction::Backward {
        ranges.reverse();
    }
    let exact = conditions.are(&used);
    Candidate { access: Access { index: None, ranges, direction, sorted, exact }, rank: (rank, 0) }
}

/// The greater of two lower bounds.
fn later(one: Bound<KeyBytes>, other: Bound<KeyBytes>) -> Bound<KeyBytes> {
    let at = |bound: &Bound<KeyBytes>| match bound {
        Bound::Unbounded => None,
        Bound::Included(key) => Some((key.clone(), 0)),
        Bound::Excluded(key) => Some((key.clone(), 1)),
    };
    if at(&other) > at(&one) { other } else { one }
}

/// The lesser of two upper bounds.
fn earlier(one: Bound<KeyBytes>, other: Bound<KeyBytes>) -> Bound<KeyBytes> {
    let at = |bound: &Bound<KeyBytes>| match bound {
        Bound::Unbounded => (1, KeyBytes::new(), 0),
        Bound::Included(key) => (0, key.clone(), 1),
        Bound::Excluded(key) => (0, key.clone(), 0),
    };
    if at(&other) < at(&one) { other } else { one }
}

/// The place of a field, if the query looks at it.
fn slot_of(query: &Evaluator, name: &str) -> Option<Slot> {
    match name {
        ID => Some(Slot::Id),
        VERSION => Some(Slot::Version),
        UPDATED_AT => Some(Slot::UpdatedAt),
        DELETED => Some(Slot::Deleted),
        name => query.needed.iter().position(|(needed, _)| needed == name).map(Slot::Field),
    }
}

/// The way over an index, if it leads anywhere.
fn by_index(
    query: &Evaluator,
    schema: &TableSchema,
    index: &IndexSchema,
    conditions: &Conditions<'_>,
    first_rows: bool,
) -> Option<Candidate> {
    let fields: Vec<Option<Slot>> = index.fields.iter().map(|name| slot_of(query, name)).collect();
    let mut used = Vec::new();
    let mut prefixes = vec![KeyBytes::new()];
    let mut bound = 0;
    let mut part: Option<(KeyBytes, Option<KeyBytes>)> = None;
    for slot in fields.iter().map_while(|slot| *slot) {
        let points = conditions.of(slot).filter_map(|(place, test)| Some((place, points(test)?)));
        if let Some((place, points)) = points.min_by_key(|(_, points)| points.len())
            && prefixes.len() * points.len() <= MOST_RANGES
        {
            used.push(place);
            let joined = |prefix: &KeyBytes| points.iter().map(|point| [prefix.as_slice(), point].concat()).collect();
            prefixes = prefixes.iter().flat_map::<Vec<KeyBytes>, _>(joined).collect();
            bound += 1;
            continue;
        }
        for (place, (low, high)) in conditions.of(slot).filter_map(|(place, test)| Some((place, range(test)?))) {
            used.push(place);
            part = Some(match part {
                None => (low, high),
                Some((first, last)) => {
                    let last = match (last, high) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    };
                    (first.max(low), last)
                }
            });
        }
        break;
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    let (sorted, direction) = order(query, &fields, bound, prefixes.len());
    let rank = match &part {
        _ if bound == fields.len() => POINTS,
        Some((_, Some(_))) => CLOSED,
        Some((_, None)) if bound == 0 => OPEN,
        _ if bound > 0 => CLOSED,
        _ if sorted != Sorted::Not && first_rows => IN_ORDER,
        _ => return None,
    };
    let of_prefix = |prefix: KeyBytes| match &part {
        None if prefix.is_empty() => (Bound::Unbounded, Bound::Unbounded),
        None => {
            let high = successor(prefix.clone()).map_or(Bound::Unbounded, Bound::Excluded);
            (Bound::Included(prefix), high)
        }
        Some((low, high)) => {
            let high = match high {
                Some(high) => Some([prefix.as_slice(), high].concat()),
                None => successor(prefix.clone()),
            };
            let low = [prefix.as_slice(), low].concat();
            (Bound::Included(low), high.map_or(Bound::Unbounded, Bound::Excluded))
        }
    };
    let mut ranges: Vec<KeyRange> = prefixes.into_iter().map(of_prefix).collect();
    if direction == Direction::Backward {
        ranges.reverse();
    }
    let exact = conditions.are(&used);
    let access = Access { index: Some(index_text(index, schema)), ranges, direction, sorted, exact };
    // Of two ways of one rank the one that fixes more fields, then the one that needs no sorting.
    let unsorted = usize::from(sorted == Sorted::Not);
    Some(Candidate { access, rank: (rank, (fields.len() - bound) * 2 + unsorted) })
}

/// Whether the entries of an index come in the order of the query, given that its first `bound` fields have single values
/// in each of `prefixes` ranges.
fn order(query: &Evaluator, fields: &[Option<Slot>], bound: usize, prefixes: usize) -> (Sorted, Direction) {
    let not = (Sorted::Not, Direction::Forward);
    let (fixed, free) = fields.split_at(bound);
    if prefixes > 1 {
        // The ranges of several values follow one another in the order of the values.
        return match (query.order.as_slice(), fixed, free) {
            ([(slot, false)], [Some(field)], []) if slot == field && !query.id_descending => {
                (Sorted::Fully, Direction::Forward)
            }
            _ => not,
        };
    }
    // A field with one value orders nothing.
    let wanted: Vec<(Slot, bool)> =
        query.order.iter().copied().filter(|(slot, _)| !fixed.contains(&Some(*slot))).collect();
    let descending = wanted.first().map_or(query.id_descending, |(_, descending)| *descending);
    let follows = wanted.len() <= free.len()
        && wanted.iter().zip(free).all(|((slot, down), field)| Some(*slot) == *field && *down == descending);
    if !follows || wanted.is_empty() && !free.is_empty() {
        return not;
    }
    // Entries of one key come by their ids, in the direction of the scan.
    let sorted = match wanted.len() == free.len() && descending == query.id_descending {
        true => Sorted::Fully,
        false => Sorted::Groups,
    };
    (sorted, if descending { Direction::Backward } else { Direction::Forward })
}

fn key_of(value: &Value<'_>) -> KeyBytes {
    let mut key = KeyBytes::new();
    encode(value, &mut key);
    key
}

/// The keys of the single values that a condition allows.
fn points(test: &Test<'_>) -> Option<Vec<KeyBytes>> {
    match test {
        Test::OneOf(values) => Some(values.iter().map(|value| key_of(value)).collect()),
        _ => None,
    }
}

/// The first key, and the first key behind, of what a condition on a field allows.
fn range(test: &Test<'_>) -> Option<(KeyBytes, Option<KeyBytes>)> {
    // Every key of a value begins with a 1, that of null is a 0.
    let values = || vec![1];
    match test {
        Test::Prefix(text) => {
            let mut low = values();
            text_bytes(text, &mut low);
            let high = successor(low.clone());
            Some((low, high))
        }
        Test::Compare(BinaryOp::Ne, Value::Null) => Some((values(), None)),
        Test::Compare(_, Value::Null) => None,
        Test::Compare(op, value) => {
            let key = key_of(value);
            match op {
                BinaryOp::Lt => Some((values(), Some(key))),
                BinaryOp::Le => Some((values(), successor(key))),
                BinaryOp::Gt => successor(key).map(|behind| (behind, None)),
                BinaryOp::Ge => Some((key, None)),
                _ => None,
            }
        }
        Test::OneOf(_) => None,
    }
}

/// The smallest key that is greater than every key that begins with these bytes.
fn successor(mut bytes: KeyBytes) -> Option<KeyBytes> {
    while let Some(last) = bytes.pop() {
        if last < u8::MAX {
            bytes.push(last + 1);
            return Some(bytes);
        }
    }
    None
}
