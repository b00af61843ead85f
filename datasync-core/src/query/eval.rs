//! Which rows match a query, and in which order: the meaning of the filter language, here and on the service.

use std::{cmp::Ordering, fmt, sync::Arc};

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    QueryDescription,
    compile::{Node, Slot, compile, order_key, resolve},
    error::QueryError,
    functions,
    value::{Value, stamp},
};
use crate::{
    query::BinaryOp,
    row::RecordRef,
    schema::{FieldKind, TableSchema},
};

/// A query made ready for the rows of one table.
///
/// Comparisons with null are false, but for `eq null`, and for `ne`, which is true if exactly one side is null. Texts
/// compare by their bytes, times at their milliseconds, enums by the order of their members. Whole numbers and decimals
/// compare and are computed with exactly; beside them a floating-point number is the shortest decimal that stands for it. A
/// value that does not fit the kind of its field counts as null.
#[derive(Clone, Debug)]
pub struct Evaluator {
    pub(super) filter: Option<Node>,
    /// The keys of the order, up to the id.
    pub(super) order: Vec<(Slot, bool)>,
    /// Whether rows that agree in all keys come with the greatest id first.
    pub(super) id_descending: bool,
    /// The fields that are read of a row: first those of the filter.
    pub(super) needed: Vec<(String, FieldKind)>,
    of_filter: usize,
}

/// The place of a row in the order of its query: the query's keys, then the id.
#[derive(Clone, Debug)]
pub struct SortKey {
    keys: Vec<(Value<'static>, bool)>,
    id: Arc<str>,
    id_descending: bool,
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
        let turned = |order: Ordering, descending| if descending { order.reverse() } else { order };
        for ((one, descending), (other, _)) in self.keys.iter().zip(&other.keys) {
            let order = one.order(other);
            if order != Ordering::Equal {
                return turned(order, *descending);
            }
        }
        turned(self.id.cmp(&other.id), self.id_descending)
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
    /// A property that the table does not have, operands that cannot be compared or computed with, an order by what has
    /// none, or a filter that is nested too deep.
    pub fn new(query: &QueryDescription, schema: &TableSchema) -> Result<Evaluator, QueryError> {
        let mut needed = Vec::new();
        let filter = query.filter.as_ref().map(|filter| compile(filter, schema, &mut needed)).transpose()?;
        let of_filter = needed.len();
        let (mut order, mut id_descending, mut with_id) = (Vec::new(), false, false);
        for key in &query.order {
            let slot = order_key(&key.field, schema, &mut needed)?;
            // Rows that agree in a key, or in the id, have no order that a later one could change.
            if with_id || order.iter().any(|(known, _)| *known == slot) {
                continue;
            }
            if slot == Slot::Id {
                (id_descending, with_id) = (key.descending, true);
            } else {
                order.push((slot, key.descending));
            }
        }
        for name in &query.select {
            resolve(name, schema, &mut Vec::new())?;
        }
        Ok(Evaluator { filter, order, id_descending, needed, of_filter })
    }

    /// Whether the row matches.
    ///
    /// # Errors
    ///
    /// A body that is not a JSON object.
    pub fn matches<'r>(&self, id: &str, record: impl Into<RecordRef<'r>>) -> Result<bool, QueryError> {
        let Some(filter) = &self.filter else { return Ok(true) };
        let record = record.into();
        let fields = read(&self.needed[..self.of_filter], id, record)?;
        Ok(Row { id, record, fields: &fields }.holds(filter))
    }

    /// The row's place in the order, whether or not it matches.
    ///
    /// # Errors
    ///
    /// As [`matches`](Evaluator::matches).
    pub fn place<'r>(&self, id: &str, record: impl Into<RecordRef<'r>>) -> Result<SortKey, QueryError> {
        let record = record.into();
        if self.order.is_empty() {
            return Ok(SortKey { keys: Vec::new(), id: id.into(), id_descending: self.id_descending });
        }
        let fields = read(&self.needed, id, record)?;
        Ok(self.key(&Row { id, record, fields: &fields }))
    }

    /// The row's place in the order, or `None` if it does not match.
    ///
    /// # Errors
    ///
    /// As [`matches`](Evaluator::matches).
    pub fn evaluate<'r>(&self, id: &str, record: impl Into<RecordRef<'r>>) -> Result<Option<SortKey>, QueryError> {
        let record = record.into();
        let fields = read(&self.needed, id, record)?;
        let row = Row { id, record, fields: &fields };
        let matches = self.filter.as_ref().is_none_or(|filter| row.holds(filter));
        Ok(matches.then(|| self.key(&row)))
    }

    fn key(&self, row: &Row<'_>) -> SortKey {
        let keys = self.order.iter().map(|(slot, descending)| (row.slot(*slot).into_owned(), *descending)).collect();
        SortKey { keys, id: row.id.into(), id_descending: self.id_descending }
    }
}

/// Reads some fields of a row, and nothing else: what lies behind the last of them is not looked at.
pub(super) fn read<'r>(
    needed: &[(String, FieldKind)],
    id: &str,
    record: RecordRef<'r>,
) -> Result<Vec<Value<'r>>, QueryError> {
    if needed.is_empty() {
        return Ok(Vec::new());
    }
    let behind = u32::try_from(needed.len()).ok().and_then(|count| 1_u64.checked_shl(count));
    let missing = behind.map_or(u64::MAX, |bit| bit - 1);
    let mut found = Found { needed, values: vec![Value::Null; needed.len()], missing };
    let mut deserializer = serde_json::Deserializer::from_slice(record.body);
    match deserializer.deserialize_map(&mut found) {
        // What was left unread is an error to the deserializer.
        Err(error) if found.missing != 0 => {
            // The words of the error may hold what the user wrote (I21); its place does not.
            let (line, column) = (error.line(), error.column());
            Err(QueryError::new(format!("the row `{id}` is not a JSON object (line {line}, column {column})")))
        }
        _ => Ok(found.values),
    }
}

/// The fields that are needed, and what was found of them so far.
struct Found<'n, 'de> {
    needed: &'n [(String, FieldKind)],
    values: Vec<Value<'de>>,
    /// A bit for each field that was not found yet. The last bit is nobody's: of more than 63 fields rows are read to their
    /// ends.
    missing: u64,
}

impl<'de> Visitor<'de> for &mut Found<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while self.missing != 0
            && let Some(slot) = map.next_key_seed(Wanted(self.needed))?
        {
            // Of two members of one name the first counts.
            let slot = slot.filter(|slot| *slot >= 63 || (self.missing >> slot) & 1 == 1);
            match slot.and_then(|slot| Some((slot, self.values.get_mut(slot)?, self.needed.get(slot)?))) {
                Some((slot, value, (_, kind))) => {
                    *value = Value::of_json(kind, map.next_value::<&RawValue>()?);
                    if slot < 63 {
                        self.missing &= !(1 << slot);
                    }
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
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
    record: RecordRef<'r>,
    fields: &'r [Value<'r>],
}

impl Row<'_> {
    fn slot(&self, slot: Slot) -> Value<'_> {
        match slot {
            Slot::Id => Value::Text(self.id.into()),
            Slot::Version => self.record.version.map_or(Value::Null, |version| Value::Text(version.into())),
            Slot::UpdatedAt => self.record.updated_at.map_or(Value::Null, |time| Value::Stamp(stamp(time))),
            Slot::Deleted => Value::Bool(self.record.deleted),
            Slot::Field(position) => self.fields.get(position).map_or(Value::Null, Value::borrowed),
        }
    }

    fn value<'v>(&'v self, node: &'v Node) -> Value<'v> {
        match node {
            Node::Slot(slot) => self.slot(*slot),
            Node::Constant(value) => value.borrowed(),
            Node::Not(inner) => Value::Bool(!self.holds(inner)),
            Node::In(operand, values) => {
                let operand = self.value(operand);
                let found = values.binary_search_by(|value| value.order(&operand));
                // What has no order, as a number that is none, is found anywhere.
                Value::Bool(found.is_ok_and(|at| values.get(at).is_some_and(|value| equal(&operand, value))))
            }
            Node::Call(function, arguments) => {
                // No function takes more than three.
                let mut values = [const { Value::Null }; 3];
                let mut count = 0;
                for (value, argument) in values.iter_mut().zip(arguments) {
                    *value = self.value(argument);
                    count += 1;
                }
                functions::call(*function, values.get(..count).unwrap_or_default())
            }
            Node::Binary(BinaryOp::And, left, right) => Value::Bool(self.holds(left) && self.holds(right)),
            Node::Binary(BinaryOp::Or, left, right) => Value::Bool(self.holds(left) || self.holds(right)),
            Node::Binary(op, left, right) => binary(*op, &self.value(left), &self.value(right)),
        }
    }

    fn holds(&self, node: &Node) -> bool {
        self.value(node).is_true()
    }
}

fn equal(one: &Value<'_>, other: &Value<'_>) -> bool {
    (one.is_null() && other.is_null()) || one.compare(other) == Some(Ordering::Equal)
}

fn binary(op: BinaryOp, left: &Value<'_>, right: &Value<'_>) -> Value<'static> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(fields: usize, body: &str) -> Option<Vec<i128>> {
        let needed: Vec<_> = (0..fields).map(|field| (format!("f{field}"), FieldKind::I64)).collect();
        let record = RecordRef { body: body.as_bytes(), version: None, updated_at: None, deleted: false };
        let number = |value: &Value<'_>| match value {
            Value::Int(value) => *value,
            _ => -1,
        };
        read(&needed, "1", record).ok().map(|values| values.iter().map(number).collect())
    }

    #[test]
    fn a_row_is_read_up_to_the_last_field_that_is_needed_however_many_they_are() {
        for fields in [1, 2, 3, 62, 63, 64, 65, 130] {
            let member = |field: usize| format!("\"f{field}\":{field},\"other{field}\":[{{}}]");
            let members: Vec<String> = (0..fields).map(member).collect();
            let numbers: Vec<i128> = (0..fields as i128).collect();
            let whole = format!("{{{}}}", members.join(","));
            assert_eq!(found(fields, &whole), Some(numbers.clone()));
            let backwards: Vec<String> = members.iter().rev().cloned().collect();
            assert_eq!(found(fields, &format!("{{{}}}", backwards.join(","))), Some(numbers.clone()));
            // What lies behind is not looked at, and a member that is missing is looked for up to the end.
            let cut = whole.trim_end_matches("[{}]}");
            assert_eq!(found(fields, cut), (fields <= 63).then(|| numbers.clone()), "{fields}");
            assert_eq!(found(fields + 1, cut), None);
            assert_eq!(found(fields + 1, &whole), Some([numbers, vec![-1]].concat()));
        }
        assert_eq!(found(2, r#"{"f0":1,"f0":2,"f1":3,"f1":4}"#), Some(vec![1, 3]), "of two members the first");
        assert_eq!(found(1, r#"{"f0":null,"f0":2}"#), Some(vec![-1]));
        for none in ["", "7", "[]", "{", r#"{"f0""#, r#"{"f0":"#] {
            assert_eq!(found(1, none), None, "{none}");
        }
    }
}
