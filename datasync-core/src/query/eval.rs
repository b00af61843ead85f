//! Which rows match a query, and in which order: the meaning of the filter language, here and on the service.

use std::{cmp::Ordering, fmt, sync::Arc};

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    QueryDescription,
    compile::{Node, Slot, compile, resolve},
    error::QueryError,
    functions,
    value::{Value, stamp},
};
use crate::{
    query::BinaryOp,
    row::Record,
    schema::{FieldKind, TableSchema},
};

/// A query made ready for the rows of one table.
///
/// Comparisons with null are false, but for `eq null`, and for `ne`, which is true if exactly one side is null. Texts
/// compare by their bytes, times at their milliseconds, enums by the order of their members.
#[derive(Clone, Debug)]
pub struct Evaluator {
    filter: Option<Node>,
    order: Vec<(Slot, bool)>,
    needed: Vec<(String, FieldKind)>,
}

/// The place of a row in the order of its query: the query's keys, then the id.
#[derive(Clone, Debug)]
pub struct SortKey {
    keys: Vec<(Value, bool)>,
    id: Arc<str>,
}

impl SortKey {
    /// Whether both rows agree in all keys of the query, whatever their ids.
    #[must_use]
    pub fn agrees(&self, other: &SortKey) -> bool {
        self.keys.iter().zip(&other.keys).all(|((one, _), (other, _))| one.order(other) == Ordering::Equal)
    }
}

impl Ord for SortKey {
    fn cmp(&self, other: &SortKey) -> Ordering {
        for ((one, descending), (other, _)) in self.keys.iter().zip(&other.keys) {
            let order = one.order(other);
            if order != Ordering::Equal {
                return if *descending { order.reverse() } else { order };
            }
        }
        self.id.cmp(&other.id)
    }
}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &SortKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SortKey {
    fn eq(&self, other: &SortKey) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for SortKey {}

impl Evaluator {
    /// Checks the query against the table.
    ///
    /// # Errors
    ///
    /// A property that the table does not have, or operands that cannot be compared or computed with.
    pub fn new(query: &QueryDescription, schema: &TableSchema) -> Result<Evaluator, QueryError> {
        let mut needed = Vec::new();
        let filter = query.filter.as_ref().map(|filter| compile(filter, schema, &mut needed)).transpose()?;
        let mut order = Vec::new();
        for key in &query.order {
            order.push((resolve(&key.field, schema, &mut needed)?.0, key.descending));
        }
        for name in &query.select {
            resolve(name, schema, &mut Vec::new())?;
        }
        Ok(Evaluator { filter, order, needed })
    }

    /// The row's place in the order, or `None` if it does not match.
    ///
    /// # Errors
    ///
    /// A body that is not a JSON object.
    pub fn evaluate(&self, id: &str, record: &Record) -> Result<Option<SortKey>, QueryError> {
        let row = Row { id, record, fields: self.read(id, record)? };
        if let Some(filter) = &self.filter
            && row.value(filter) != Value::Bool(true)
        {
            return Ok(None);
        }
        let keys = self.order.iter().map(|(slot, descending)| (row.slot(slot), *descending)).collect();
        Ok(Some(SortKey { keys, id: id.into() }))
    }

    fn read(&self, id: &str, record: &Record) -> Result<Vec<Value>, QueryError> {
        if self.needed.is_empty() {
            return Ok(Vec::new());
        }
        let mut deserializer = serde_json::Deserializer::from_slice(record.body.as_bytes());
        let fields = Needed(&self.needed).deserialize(&mut deserializer);
        fields.map_err(|error| QueryError::new(format!("the row `{id}` is not a JSON object: {error}")))
    }
}

/// Reads only the fields that are needed.
pub(super) struct Needed<'n>(pub(super) &'n [(String, FieldKind)]);

impl<'de> DeserializeSeed<'de> for Needed<'_> {
    type Value = Vec<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Value>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Needed<'_> {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Value>, A::Error> {
        let mut values = vec![Value::Null; self.0.len()];
        while let Some(slot) = map.next_key_seed(Wanted(self.0))? {
            match slot.and_then(|slot| Some((values.get_mut(slot)?, self.0.get(slot)?))) {
                Some((value, (_, kind))) => *value = Value::of_json(kind, Some(map.next_value::<&RawValue>()?)),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

/// The position of a name among those that are needed.
struct Wanted<'n>(&'n [(String, FieldKind)]);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Wanted<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|(needed, _)| needed == name))
    }
}

struct Row<'r> {
    id: &'r str,
    record: &'r Record,
    fields: Vec<Value>,
}

impl Row<'_> {
    fn slot(&self, slot: &Slot) -> Value {
        match slot {
            Slot::Id => Value::Text(self.id.to_owned()),
            Slot::Version => self.record.version.clone().map_or(Value::Null, Value::Text),
            Slot::UpdatedAt => self.record.updated_at.map_or(Value::Null, |time| Value::Stamp(stamp(time))),
            Slot::Deleted => Value::Bool(self.record.deleted),
            Slot::Field(position) => self.fields.get(*position).cloned().unwrap_or(Value::Null),
        }
    }

    fn value(&self, node: &Node) -> Value {
        match node {
            Node::Slot(slot) => self.slot(slot),
            Node::Constant(value) => value.clone(),
            Node::Not(inner) => Value::Bool(!self.holds(inner)),
            Node::In(operand, values) => {
                let operand = self.value(operand);
                Value::Bool(values.iter().any(|value| equal(&operand, value)))
            }
            Node::Call(function, arguments) => {
                let arguments: Vec<Value> = arguments.iter().map(|argument| self.value(argument)).collect();
                functions::call(*function, &arguments)
            }
            Node::Binary(BinaryOp::And, left, right) => Value::Bool(self.holds(left) && self.holds(right)),
            Node::Binary(BinaryOp::Or, left, right) => Value::Bool(self.holds(left) || self.holds(right)),
            Node::Binary(op, left, right) => binary(*op, &self.value(left), &self.value(right)),
        }
    }

    fn holds(&self, node: &Node) -> bool {
        self.value(node) == Value::Bool(true)
    }
}

fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Null, Value::Null) => true,
        _ => one.compare(other) == Some(Ordering::Equal),
    }
}

fn binary(op: BinaryOp, left: &Value, right: &Value) -> Value {
    let compared = |wanted: fn(Ordering) -> bool| Value::Bool(left.compare(right).is_some_and(wanted));
    match op {
        BinaryOp::Eq => Value::Bool(equal(left, right)),
        BinaryOp::Ne => Value::Bool(!equal(left, right)),
        BinaryOp::Lt => compared(Ordering::is_lt),
        BinaryOp::Le => compared(Ordering::is_le),
        BinaryOp::Gt => compared(Ordering::is_gt),
        BinaryOp::Ge => compared(Ordering::is_ge),
        op => functions::arithmetic(op, left, right),
    }
}
