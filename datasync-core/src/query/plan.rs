//! Which way a query takes to its rows: the ids or one index, and the ranges in it that hold every row that matches.

use std::{fmt, ops::Bound, sync::Arc};

use super::{
    OrderBy, QueryDescription,
    expr::{BinaryOp, Expr, Function, Literal},
    index::{encode, index_text, kind_of, text_bytes},
    value::Value,
};
use crate::{
    schema::{FieldKind, ID, IndexSchema, TableSchema},
    store::{Direction, KeyBytes},
};

/// More ranges than this are one: a long list of values is not worth as many reads.
const MOST_RANGES: usize = 256;

/// A range of keys of an index, or of the bytes of ids.
pub type KeyRange = (Bound<KeyBytes>, Bound<KeyBytes>);

/// The way to the rows of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The index, by its [`index_text`]; `None` for the order of ids.
    pub index: Option<Arc<str>>,
    /// The ranges, in the order in which they are read; none overlaps another.
    pub ranges: Vec<KeyRange>,
    /// The direction of the scan.
    pub direction: Direction,
    /// Whether the rows come in the order of the query.
    pub sorted: Sorted,
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
        match (&self.index, whole) {
            (None, true) => f.write_str("all rows")?,
            (None, false) => write!(f, "{} ranges of ids", self.ranges.len())?,
            (Some(index), true) => write!(f, "the whole index {index}")?,
            (Some(index), false) => write!(f, "{} ranges of the index {index}", self.ranges.len())?,
        }
        f.write_str(match (self.sorted, self.direction) {
            (Sorted::Not, _) => ", then sorted",
            (_, Direction::Forward) => ", in order",
            (_, Direction::Backward) => ", in order from the end",
        })
    }
}

/// What a conjunct says about a field.
struct Condition<'q> {
    field: &'q str,
    test: Test<'q>,
}

enum Test<'q> {
    Compare(BinaryOp, &'q Literal),
    Prefix(&'q str),
    OneOf(&'q [Literal]),
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
/// else an index in the query's order if it wants only the first rows, else all rows.
#[must_use]
pub fn plan(query: &QueryDescription, schema: &TableSchema) -> Access {
    let mut conditions = Vec::new();
    if let Some(filter) = &query.filter {
        conjuncts(filter, &mut conditions);
    }
    let ids = by_id(query, &conditions);
    let indexes = schema.indexes.iter().filter_map(|index| by_index(query, schema, index, &conditions));
    let best = indexes.fold(ids, |best, other| if other.rank < best.rank { other } else { best });
    best.access
}

fn conjuncts<'q>(expr: &'q Expr, found: &mut Vec<Condition<'q>>) {
    match expr {
        Expr::Binary(BinaryOp::And, left, right) => {
            conjuncts(left, found);
            conjuncts(right, found);
        }
        Expr::Binary(op, left, right) => match (&**left, &**right) {
            (Expr::Field(field), Expr::Literal(value)) => {
                found.push(Condition { field, test: Test::Compare(*op, value) });
            }
            (Expr::Literal(value), Expr::Field(field)) => {
                let op = match op {
                    BinaryOp::Lt => BinaryOp::Gt,
                    BinaryOp::Le => BinaryOp::Ge,
                    BinaryOp::Gt => BinaryOp::Lt,
                    BinaryOp::Ge => BinaryOp::Le,
                    same => *same,
                };
                found.push(Condition { field, test: Test::Compare(op, value) });
            }
            _ => {}
        },
        Expr::In(operand, values) => {
            if let Expr::Field(field) = &**operand {
                found.push(Condition { field, test: Test::OneOf(values) });
            }
        }
        Expr::Call(Function::StartsWith, arguments) => {
            if let [Expr::Field(field), Expr::Literal(Literal::Text(text))] = arguments.as_slice() {
                found.push(Condition { field, test: Test::Prefix(text) });
            }
        }
        _ => {}
    }
}

/// The keys of the order, without the id at its end, which is there anyway.
fn keys(query: &QueryDescription) -> &[OrderBy] {
    match query.order.as_slice() {
        [keys @ .., last] if last.field == ID && !last.descending => keys,
        keys => keys,
    }
}

/// The way over the ids.
fn by_id(query: &QueryDescription, conditions: &[Condition<'_>]) -> Candidate {
    let (sorted, direction) = match keys(query) {
        [] => (Sorted::Fully, Direction::Forward),
        [key] if key.field == ID => (Sorted::Fully, Direction::Backward),
        _ => (Sorted::Not, Direction::Forward),
    };
    let (mut low, mut high) = (Bound::Unbounded, Bound::Unbounded);
    let mut points: Option<Vec<KeyBytes>> = None;
    for condition in conditions.iter().filter(|condition| condition.field == ID) {
        match condition.test {
            Test::Compare(op, Literal::Text(text)) => {
                let bytes = text.as_bytes().to_vec();
                match op {
                    BinaryOp::Eq => points = Some(vec![bytes]),
                    BinaryOp::Gt => low = Bound::Excluded(bytes),
                    BinaryOp::Ge => low = Bound::Included(bytes),
                    BinaryOp::Lt => high = Bound::Excluded(bytes),
                    BinaryOp::Le => high = Bound::Included(bytes),
                    _ => {}
                }
            }
            Test::Prefix(text) => {
                high = successor(text.as_bytes().to_vec()).map_or(Bound::Unbounded, Bound::Excluded);
                low = Bound::Included(text.as_bytes().to_vec());
            }
            Test::OneOf(values) if points.is_none() && values.len() <= MOST_RANGES => {
                let text = |value: &Literal| match value {
                    Literal::Text(text) => Some(text.as_bytes().to_vec()),
                    _ => None,
                };
                points = Some(values.iter().filter_map(text).collect());
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
            points.into_iter().map(|id| (Bound::Included(id.clone()), Bound::Included(id))).collect()
        }
        None => vec![(low, high)],
    };
    if direction == Direction::Backward {
        ranges.reverse();
    }
    Candidate { access: Access { index: None, ranges, direction, sorted }, rank: (rank, 0) }
}

/// The way over an index, if it leads anywhere.
fn by_index(
    query: &QueryDescription,
    schema: &TableSchema,
    index: &IndexSchema,
    conditions: &[Condition<'_>],
) -> Option<Candidate> {
    let mut prefixes = vec![KeyBytes::new()];
    let mut bound = 0;
    let mut part: Option<(KeyBytes, Option<KeyBytes>)> = None;
    for name in index.fields.iter() {
        let kind = kind_of(name, schema)?;
        let of_field = || conditions.iter().filter(|condition| condition.field == name);
        if let Some(points) = of_field().filter_map(|condition| points(&kind, condition)).min_by_key(Vec::len)
            && prefixes.len() * points.len() <= MOST_RANGES
        {
            let joined = |prefix: &KeyBytes| points.iter().map(|point| [prefix.as_slice(), point].concat()).collect();
            prefixes = prefixes.iter().flat_map::<Vec<KeyBytes>, _>(joined).collect();
            bound += 1;
            continue;
        }
        for (low, high) in of_field().filter_map(|condition| range(&kind, condition)) {
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
    let (sorted, direction) = order(query, index, bound, prefixes.len());
    let rank = match &part {
        _ if bound == index.fields.len() => POINTS,
        Some((_, Some(_))) => CLOSED,
        Some((_, None)) if bound == 0 => OPEN,
        _ if bound > 0 => CLOSED,
        _ if sorted != Sorted::Not && query.top.is_some() => IN_ORDER,
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
    let access = Access { index: Some(index_text(index, schema)), ranges, direction, sorted };
    // Of two ways of one rank the one that fixes more fields, then the one that needs no sorting.
    let unsorted = usize::from(sorted == Sorted::Not);
    Some(Candidate { access, rank: (rank, (index.fields.len() - bound) * 2 + unsorted) })
}

/// Whether the entries of an index come in the order of the query, given that its first `bound` fields have single values
/// in each of `prefixes` ranges.
fn order(query: &QueryDescription, index: &IndexSchema, bound: usize, prefixes: usize) -> (Sorted, Direction) {
    let not = (Sorted::Not, Direction::Forward);
    let (fixed, free) = index.fields.split_at(bound);
    let wanted = keys(query);
    if prefixes > 1 {
        // The ranges of several values follow one another in the order of the values.
        return match (wanted, fixed, free) {
            ([key], [field], []) if key.field == *field && !key.descending => (Sorted::Fully, Direction::Forward),
            _ => not,
        };
    }
    // A field with one value orders nothing.
    let wanted: Vec<&OrderBy> = wanted.iter().filter(|key| !fixed.iter().any(|field| *field == key.field)).collect();
    let Some(first) = wanted.first() else {
        return if free.is_empty() { (Sorted::Fully, Direction::Forward) } else { not };
    };
    let follows = wanted.len() <= free.len()
        && wanted.iter().zip(free).all(|(key, field)| key.field == *field && key.descending == first.descending);
    match (follows, first.descending) {
        (false, _) => not,
        (true, false) if wanted.len() == free.len() => (Sorted::Fully, Direction::Forward),
        (true, false) => (Sorted::Groups, Direction::Forward),
        // From the end, rows that agree come with the greatest id first.
        (true, true) => (Sorted::Groups, Direction::Backward),
    }
}

/// The keys of the single values that a condition allows.
fn points(kind: &FieldKind, condition: &Condition<'_>) -> Option<Vec<KeyBytes>> {
    let point = |literal: &Literal| {
        let value = value(kind, literal)?;
        // Such a value lies between two keys.
        if matches!((&value, kind), (Value::Float(_), FieldKind::I64)) {
            return None;
        }
        let mut key = KeyBytes::new();
        encode(kind, &value, &mut key);
        Some(key)
    };
    match condition.test {
        Test::Compare(BinaryOp::Eq, literal) => Some(vec![point(literal)?]),
        Test::OneOf(values) => values.iter().map(point).collect(),
        _ => None,
    }
}

fn value(kind: &FieldKind, literal: &Literal) -> Option<Value> {
    match (kind, literal) {
        (FieldKind::Enum(names), Literal::Text(name)) => {
            Some(Value::Enum(names.iter().position(|known| known == name)?))
        }
        (_, literal) => Some(Value::of_literal(literal)),
    }
}

/// The first key, and the first key behind, of what a condition on a field allows.
fn range(kind: &FieldKind, condition: &Condition<'_>) -> Option<(KeyBytes, Option<KeyBytes>)> {
    let (op, literal) = match condition.test {
        Test::Compare(op, literal) => (op, literal),
        Test::Prefix(text) if *kind == FieldKind::Text => {
            let mut low = vec![1];
            text_bytes(text, &mut low);
            let high = successor(low.clone());
            return Some((low, high));
        }
        _ => return None,
    };
    let value = value(kind, literal)?;
    let (mut low, mut high) = (Vec::new(), Vec::new());
    encode(kind, &value, &mut low);
    let above = match (&value, kind) {
        (Value::Float(value), FieldKind::I64) => Value::Float(value.ceil()),
        _ => value.clone(),
    };
    encode(kind, &above, &mut high);
    let exact = low == high && !matches!(kind, FieldKind::F64 | FieldKind::Decimal);
    let high = successor(high);
    match op {
        BinaryOp::Eq => Some((low, high)),
        _ if value == Value::Null => None,
        // Different numbers of these kinds may share a key: they are left to the filter.
        BinaryOp::Lt if exact => Some((vec![1], Some(low))),
        BinaryOp::Gt if exact => Some((high.unwrap_or(low), None)),
        BinaryOp::Lt | BinaryOp::Le => Some((vec![1], high)),
        BinaryOp::Gt | BinaryOp::Ge => Some((low, None)),
        _ => None,
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
