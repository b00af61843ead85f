//! The JSON of an entity, field by field. Values that are not looked into keep their bytes.
//!
//! # When two bodies are equal
//!
//! An answered copy that is equal to what was sent settles a conflict (DESIGN.md section 6), a write that leaves a row equal
//! queues nothing, and a merge asks of each field whether a side has changed it. All of them ask here.
//!
//! | what differs | equal? | why |
//! | --- | --- | --- |
//! | `version`, `updatedAt`, `deleted` | yes | the service owns them. A copy with `deleted: true` is no live row, and so equal to none |
//! | `id` | yes | bodies of one row are compared |
//! | a field marked local | yes | it is never sent |
//! | the field of the edit's time | no for what was sent; yes between two sides of a conflict | the same edit made twice is one edit |
//! | a field that is missing here and null there | yes | serde and services leave nulls out as they like |
//! | a field that is missing here and has its type's default there (`0`, `""`, `[]`) | no | a service may have another default |
//! | the order of members, spaces, `\u0061` for `a` | yes | it is the same JSON |
//! | the order or number of the elements of an array | no | it may mean something |
//! | `1.10`, `1.1`, `11e-1`, `"1.1"` in a field that is a number | yes | one number, however it is spelled |
//! | `9007199254740993` and `9007199254740992`, digits behind the 17th of a decimal | no | numbers are compared to the last digit; of more than 38 digits by their texts |
//! | two spellings of the same 64-bit number in a floating-point field | yes | the field has no further digits |
//! | times that differ below the millisecond, or in the offset (`+01:00`; none is UTC) | yes | services keep 0 to 7 decimals, the wire shows 3 |
//! | UUIDs that differ in case, `10:00` and `10:00:00.000` in a field that is a time | yes | one value |
//! | texts that differ in case, composition (é) or spaces | no | nobody knows what they mean |
//! | anything in a field that this build does not know | as JSON: numbers by value, texts by their characters | its kind is not known |
//! | a body that is no JSON object | no | it agrees with nothing |

mod equal;
mod object;
mod rewrite;

use jiff::Timestamp;
use serde_json::value::RawValue;

pub(crate) use self::{
    equal::{elements, float, json as same_json, number, numbers, unquoted},
    object::Object,
    rewrite::rewrite,
};
use crate::{
    query::{milliseconds, timestamp},
    row::{Body, Record},
    schema::{DELETED, ID, SERVICE_OWNED, TableSchema},
};

/// A field that holds text, as an id is written in JSON; `None` if it is missing, null or of another kind.
pub(crate) fn text(body: &Body, name: &str) -> Option<String> {
    let value = Object::parse(body).ok()?.get(name)?;
    serde_json::from_str(value.get()).ok()
}

pub(crate) fn is_local(schema: &TableSchema, name: &str) -> bool {
    schema.field(name).is_some_and(|field| field.local)
}

fn is_service_owned(name: &str) -> bool {
    SERVICE_OWNED.contains(&name)
}

/// Whether a field belongs to what is sent and compared.
pub(crate) fn is_sent(schema: &TableSchema, name: &str) -> bool {
    name != ID && !is_service_owned(name) && !is_local(schema, name)
}

/// The body of a local write: the fields that the app wrote, and of the stored body those that this build does not
/// know (I16).
pub(crate) fn compose(schema: &TableSchema, written: &Body, stored: Option<&Body>) -> Result<Body, serde_json::Error> {
    let Some(stored) = stored else { return Ok(written.clone()) };
    let stored = Object::parse(stored)?;
    let mut object = Object::parse(written)?;
    let mut changed = false;
    for (name, value) in stored.members() {
        if schema.field(name).is_none() && !is_service_owned(name) && !object.has(name) {
            object.set(name, Some(value));
            changed = true;
        }
    }
    Ok(if changed { object.to_body() } else { written.clone() })
}

/// A body that is to lie over a copy of the service: the fields that this build does not know are as the copy has them, but
/// for those that differ from the base, which a tool has changed on this device (I16). A tombstone may be stripped: it adds
/// fields, and takes none away.
pub(crate) fn carry_unknown(schema: &TableSchema, body: &Body, base: Option<&Body>, copy: &Record) -> Body {
    let base = base.map_or(Ok(Object::default()), Object::parse);
    let (Ok(ours), Ok(base), Ok(service)) = (Object::parse(body), base, Object::parse(&copy.body)) else {
        return body.clone();
    };
    let known = |name: &str| schema.field(name).is_some() || is_service_owned(name);
    let mut carried = ours.clone();
    for name in ours.names().chain(service.names()).filter(|name| !known(name)) {
        let newest = service.raw(name);
        if (newest.is_some() || !copy.deleted) && field_equal(schema, name, ours.get(name), base.get(name)) {
            carried.set(name, newest);
        }
    }
    carried.to_body()
}

/// The written body with the stored text of each field that reads the same: who only sees [`serde_json::Value`]s has
/// not changed the digits that they do not show.
pub(crate) fn keep_spelling(written: &Body, stored: &Body) -> Result<Body, serde_json::Error> {
    let (mut object, stored) = (Object::parse(written)?, Object::parse(stored)?);
    for (name, kept) in stored.members() {
        let Some(value) = object.raw(name) else { continue };
        let read = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get());
        if kept.get() != value.get() && read(kept)? == read(value)? {
            object.set(name, Some(kept));
        }
    }
    Ok(object.to_body())
}

/// The service's body with the local fields of the stored one (I16).
pub(crate) fn carry_local(schema: &TableSchema, service: &Body, stored: Option<&Body>) -> Body {
    let Some(stored) = stored else { return service.clone() };
    if schema.local_fields().next().is_none() {
        return service.clone();
    }
    let (Ok(stored), Ok(mut object)) = (Object::parse(stored), Object::parse(service)) else {
        return service.clone();
    };
    for name in schema.local_fields() {
        object.set(name, stored.raw(name));
    }
    object.to_body()
}

/// The field of a JSON object whose value is at this place, counted as serde_json counts.
pub(crate) fn field_at(json: &[u8], line: usize, column: usize) -> Option<String> {
    let object: Object<'_> = serde_json::from_slice(json).ok()?;
    let lines = json.split_inclusive(|byte| *byte == b'\n');
    let at = lines.take(line.checked_sub(1)?).map(<[u8]>::len).sum::<usize>() + column;
    let within = |text: &RawValue| {
        let start = text.get().as_ptr().addr() - json.as_ptr().addr();
        (start..=start + text.get().len()).contains(&at)
    };
    object.members().find(|(_, text)| within(text)).map(|(name, _)| name.to_owned())
}

/// A body with those fields of another one that it does not have, of all or of these names.
pub(crate) fn fill(body: &Body, other: &Body, names: impl Fn(&str) -> bool) -> Body {
    let (Ok(mut object), Ok(other)) = (Object::parse(body), Object::parse(other)) else { return body.clone() };
    let mut filled = false;
    for (name, value) in other.members() {
        if names(name) && !object.has(name) {
            object.set(name, Some(value));
            filled = true;
        }
    }
    if filled { object.to_body() } else { body.clone() }
}

/// Whether a body has a value of a local field that `other` does not have.
pub(crate) fn has_local(schema: &TableSchema, body: &Body, other: &Body) -> bool {
    let (Ok(body), Ok(other)) = (Object::parse(body), Object::parse(other)) else { return true };
    schema.local_fields().any(|name| body.get(name).is_some() && other.get(name).is_none())
}

/// What is sent of a record: neither local fields nor those that the service owns. The edit's time is cut to `now`, the
/// service's time, so that a clock that is ahead gives no edit an advantage for longer than that.
pub(crate) fn sendable(
    schema: &TableSchema,
    body: &Body,
    undelete: bool,
    now: Option<Timestamp>,
) -> Result<Body, serde_json::Error> {
    let cut = match (edited(schema, body), now) {
        (Some(edited), Some(now)) if edited > now => Some(set_edited(schema, body, now)?),
        _ => None,
    };
    let mut object = Object::parse(cut.as_ref().unwrap_or(body))?;
    object.retain(|name| name == ID || is_sent(schema, name));
    let no: Box<RawValue>;
    if undelete {
        no = RawValue::from_string("false".to_owned())?;
        object.set(DELETED, Some(&no));
        return Ok(object.to_body());
    }
    Ok(object.to_body())
}

/// What a replace by `body` started from, as it would be sent. It is spelled like `body` where both mean the same, so that
/// what differs between the two as texts is what was changed.
pub(crate) fn started_from(schema: &TableSchema, base: &Body, body: &Body) -> Result<Body, serde_json::Error> {
    let (mut base, body) = (Object::parse(base)?, Object::parse(body)?);
    base.retain(|name| name == ID || is_sent(schema, name));
    let names: Vec<String> = base.names().chain(body.names()).map(str::to_owned).collect();
    for name in names {
        if field_equal(schema, &name, base.get(&name), body.get(&name)) {
            base.set(&name, body.raw(&name));
        }
    }
    Ok(base.to_body())
}

/// Whether two bodies agree in every field that is sent.
pub(crate) fn sent_equal(schema: &TableSchema, one: &Body, other: &Body) -> bool {
    agree(schema, one, other, |name| is_sent(schema, name))
}

/// Whether two bodies agree in every field that is sent, whenever they were edited.
pub(crate) fn same_data(schema: &TableSchema, one: &Body, other: &Body) -> bool {
    let edited = schema.edited_field();
    agree(schema, one, other, |name| is_sent(schema, name) && Some(name) != edited)
}

/// Whether every sent field in which `sent` differs from the base is another one than the base's in the copy too.
pub(crate) fn all_changed(schema: &TableSchema, base: &Body, sent: &Body, copy: &Body) -> bool {
    let (Ok(base), Ok(sent), Ok(copy)) = (Object::parse(base), Object::parse(sent), Object::parse(copy)) else {
        return false;
    };
    let mut names = base.names().chain(sent.names()).filter(|name| is_sent(schema, name));
    names.all(|name| {
        field_equal(schema, name, base.get(name), sent.get(name))
            || !field_equal(schema, name, base.get(name), copy.get(name))
    })
}

fn agree(schema: &TableSchema, one: &Body, other: &Body, judged: impl Fn(&str) -> bool) -> bool {
    let (Ok(one), Ok(other)) = (Object::parse(one), Object::parse(other)) else { return false };
    let mut names = one.names().chain(other.names()).filter(|name| judged(name));
    names.all(|name| field_equal(schema, name, one.get(name), other.get(name)))
}

/// Whether two values of a field are equal; `None` is missing or null.
pub(crate) fn field_equal(schema: &TableSchema, name: &str, one: Option<&RawValue>, other: Option<&RawValue>) -> bool {
    equal::values(schema.field(name).map(|field| &field.kind), one, other)
}

/// When a body was edited, by its own field for that.
pub(crate) fn edited(schema: &TableSchema, body: &Body) -> Option<Timestamp> {
    let object = Object::parse(body).ok()?;
    timestamp(&unquoted(object.get(schema.edited_field()?)?)?)
}

/// The body with the time of its edit, where its table has a field for that.
pub(crate) fn set_edited(schema: &TableSchema, body: &Body, time: Timestamp) -> Result<Body, serde_json::Error> {
    let Some(name) = schema.edited_field() else { return Ok(body.clone()) };
    let mut object = Object::parse(body)?;
    let time = RawValue::from_string(serde_json::to_string(&milliseconds(time))?)?;
    object.set(name, Some(&time));
    Ok(object.to_body())
}

/// The merge after a success with a second operation queued: a field that the second operation did not change takes
/// the service's value, one that it changed stays. Also says whether anything still differs from the service.
pub(crate) fn merge_after_success(
    schema: &TableSchema,
    sent: &Body,
    local: &Body,
    service: &Body,
) -> Result<(Body, bool), serde_json::Error> {
    let (sent, local, service) = (Object::parse(sent)?, Object::parse(local)?, Object::parse(service)?);
    let mut merged = service.clone();
    let mut differs = false;
    for name in local.names().chain(sent.names().filter(|name| !local.has(name))) {
        let ours = local.get(name);
        if is_local(schema, name) {
            merged.set(name, ours);
        } else if is_sent(schema, name) && !field_equal(schema, name, ours, sent.get(name)) {
            differs |= !field_equal(schema, name, ours, service.get(name));
            merged.set(name, local.raw(name));
        }
    }
    Ok((merged.to_body(), differs))
}

#[cfg(test)]
mod tests;
