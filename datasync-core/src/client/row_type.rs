//! What rows are read into and written from: entities, or JSON for who has no type.

use std::borrow::Cow;

use jiff::civil;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    body,
    client::codec,
    clock::{Clock, ordered_id},
    engine::{
        change::{self, Applied, Change},
        committer::Tx,
        table::Table,
    },
    entity::{SyncEntity, check_id},
    error::{Error, ErrorKind},
    query::{is_decimal, milliseconds, timestamp},
    row::{Body, Record, RowKey, ServiceCopy},
    schema::{FieldKind, FieldSchema, ID, SERVICE_OWNED, TableSchema},
};

/// What the rows of a local table are read into and written from: each [`SyncEntity`], and [`serde_json::Value`] for who has
/// no type. No other type can be one.
///
/// As JSON a row is an object with the fields of the table's schema, and those that this build does not know, which are kept.
/// What is written must fit the schema, or the entity's type where the table has one. Numbers are those of
/// [`serde_json::Value`], so that a decimal of more than 17 digits is shown rounded; a field that is written back as it was read
/// keeps every digit that is stored.
pub trait RowType: Form {}

impl<T: Form> RowType for T {}

/// What a merge that somebody wrote is put together with.
#[derive(Clone, Copy, Debug)]
pub struct MergedWith<'a> {
    /// The row.
    pub id: &'a str,
    /// What this device has, or had before it deleted the row.
    pub ours: Option<&'a Body>,
    /// What the service has.
    pub service: Option<&'a Body>,
}

impl<'a> MergedWith<'a> {
    pub(crate) fn of(id: &'a str, ours: Option<&'a Record>, service: &'a ServiceCopy) -> MergedWith<'a> {
        MergedWith { id, ours: ours.map(|ours| &ours.body), service: service.live().map(|copy| &copy.body) }
    }
}

/// How a type stands for rows.
pub trait Form: Clone + Send + Sync + 'static {
    /// The table, where the type is one table's.
    const SCHEMA: Option<TableSchema>;
    /// Whether values show fewer digits than what is stored.
    const ROUNDS: bool;

    /// The id; empty until the row has one.
    fn row_id(&self) -> Result<Cow<'_, str>, Error>;

    fn set_row_id(&mut self, id: &str) -> Result<(), Error>;

    /// The body, checked: with the entity of the table where that has one, else with its schema.
    fn to_body(&self, schema: &TableSchema, readable: Option<Readable>) -> Result<Body, Error>;

    /// The body of a row of which somebody has seen both sides.
    fn merged(self, schema: &TableSchema, readable: Option<Readable>, with: MergedWith<'_>) -> Result<Body, Error>;

    /// A row, or only these fields of it if there are any and the type does not ask for all.
    fn of_record(schema: Option<&TableSchema>, select: &[String], id: &str, record: &Record) -> Result<Self, Error>;

    /// The row that was written with the time of its edit, where its table has a field for that.
    fn with_edit(self, schema: &TableSchema, record: &Record) -> Self;
}

/// Whether a record can be read as the entity of its table.
type Readable = fn(id: &str, record: &Record) -> Result<(), Error>;

impl<E: SyncEntity> Form for E {
    const SCHEMA: Option<TableSchema> = Some(<E as SyncEntity>::SCHEMA);
    const ROUNDS: bool = false;

    fn row_id(&self) -> Result<Cow<'_, str>, Error> {
        Ok(self.id())
    }

    fn set_row_id(&mut self, id: &str) -> Result<(), Error> {
        Ok(self.set_id(id)?)
    }

    fn to_body(&self, _: &TableSchema, _: Option<Readable>) -> Result<Body, Error> {
        codec::encode(self)
    }

    fn merged(mut self, _: &TableSchema, _: Option<Readable>, with: MergedWith<'_>) -> Result<Body, Error> {
        self.set_id(with.id)?;
        codec::encode(&self)
    }

    fn of_record(_: Option<&TableSchema>, _: &[String], id: &str, record: &Record) -> Result<E, Error> {
        codec::decode(id, record)
    }

    fn with_edit(self, schema: &TableSchema, record: &Record) -> E {
        match schema.edited_field() {
            Some(_) => codec::decode(&self.id(), record).unwrap_or(self),
            None => self,
        }
    }
}

impl Form for Value {
    const SCHEMA: Option<TableSchema> = None;
    const ROUNDS: bool = true;

    fn row_id(&self) -> Result<Cow<'_, str>, Error> {
        match self.as_object().ok_or_else(no_object)?.get(ID) {
            None | Some(Value::Null) => Ok(Cow::Borrowed("")),
            Some(Value::String(id)) => Ok(Cow::Borrowed(id)),
            Some(_) => Err(Error::new(ErrorKind::InvalidId, format!("the `{ID}` of a row is a text"))),
        }
    }

    fn set_row_id(&mut self, id: &str) -> Result<(), Error> {
        self.as_object_mut().ok_or_else(no_object)?.insert(ID.to_owned(), id.into());
        Ok(())
    }

    fn to_body(&self, schema: &TableSchema, readable: Option<Readable>) -> Result<Body, Error> {
        let fields = self.as_object().ok_or_else(no_object)?;
        let id = self.row_id()?;
        let body = Body::from(self.to_string().into_bytes());
        match readable {
            Some(readable) => {
                let record = Record { body: body.clone(), version: None, updated_at: None, deleted: false };
                readable(&id, &record)?;
            }
            None => fit(schema, &id, fields)?,
        }
        Ok(body)
    }

    fn merged(mut self, schema: &TableSchema, readable: Option<Readable>, with: MergedWith<'_>) -> Result<Body, Error> {
        self.set_row_id(with.id)?;
        let ours = with.ours.and_then(|ours| serde_json::from_slice::<Map<String, Value>>(ours.as_bytes()).ok());
        // The service's side lacks the fields that stay on this device, which a merge does not change.
        for name in schema.local_fields() {
            if let Some(kept) = ours.as_ref().and_then(|ours| ours.get(name)) {
                self[name] = kept.clone();
            }
        }
        let mut body = self.to_body(schema, readable)?;
        for stored in [with.ours, with.service].into_iter().flatten() {
            body = body::keep_spelling(&body, stored).map_err(|_| no_object())?;
        }
        Ok(body)
    }

    fn of_record(schema: Option<&TableSchema>, select: &[String], id: &str, record: &Record) -> Result<Value, Error> {
        let mut row = codec::value(schema, id, record)?;
        if let (Value::Object(fields), false) = (&mut row, select.is_empty()) {
            fields.retain(|name, _| select.contains(name));
        }
        Ok(row)
    }

    fn with_edit(mut self, schema: &TableSchema, record: &Record) -> Value {
        if let (Some(name), Some(edited)) = (schema.edited_field(), body::edited(schema, &record.body)) {
            self[name] = milliseconds(edited).into();
        }
        self
    }
}

/// Gives the row an id if it has none, a UUIDv7, and checks the one that it has.
pub(crate) fn give_id<E: RowType>(row: &mut E, clock: &dyn Clock) -> Result<String, Error> {
    if row.row_id()?.is_empty() {
        row.set_row_id(&ordered_id(clock).to_string())?;
    }
    let id = row.row_id()?.into_owned();
    check_id(&id)?;
    Ok(id)
}

/// Applies a change of a row that was written as `E`.
pub(crate) fn apply<E: RowType>(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    change: &Change,
) -> Result<Applied, Error> {
    let (make, written): (fn(Body) -> Change, _) = match change {
        Change::Replace(body) if E::ROUNDS => (Change::Replace, body),
        Change::Upsert(body) if E::ROUNDS => (Change::Upsert, body),
        _ => return change::apply(tx, table, key, change),
    };
    let Some(stored) = tx.row(key)?.and_then(|row| row.record) else {
        return change::apply(tx, table, key, change);
    };
    let kept = body::keep_spelling(written, &stored.body)
        .map_err(|error| Error::caused(ErrorKind::InvalidEntity, format!("{key:?} is not a JSON object"), error))?;
    change::apply(tx, table, key, &make(kept))
}

fn no_object() -> Error {
    Error::new(ErrorKind::InvalidEntity, "a row is a JSON object")
}

/// Checks that the fields are of the kinds that the schema says.
fn fit(schema: &TableSchema, id: &str, fields: &Map<String, Value>) -> Result<(), Error> {
    for field in schema.fields.iter().filter(|field| !SERVICE_OWNED.contains(&&*field.name)) {
        let value = fields.get(&*field.name).unwrap_or(&Value::Null);
        if !fits(field, value) {
            // The value is what the user wrote, and stands in no message (I21).
            let null = if value.is_null() { ", and not null or missing" } else { "" };
            let message =
                format!("`{}` of {}/{id} must be {}{null}", field.name, schema.name, kind_in_words(&field.kind));
            return Err(Error::new(ErrorKind::InvalidEntity, message));
        }
    }
    Ok(())
}

fn fits(field: &FieldSchema, value: &Value) -> bool {
    let text = |read: fn(&str) -> bool| value.as_str().is_some_and(read);
    match &field.kind {
        _ if value.is_null() => field.nullable,
        FieldKind::Bool => value.is_boolean(),
        FieldKind::I64 => value.is_i64(),
        FieldKind::F64 => value.is_number(),
        FieldKind::Decimal => value.is_number() || text(is_decimal),
        FieldKind::Text | FieldKind::Bytes => value.is_string(),
        FieldKind::Enum(names) => value.as_str().is_some_and(|text| names.iter().any(|name| name == text)),
        FieldKind::Timestamp => text(|text| timestamp(text).is_some()),
        FieldKind::Date => text(|text| text.parse::<civil::Date>().is_ok()),
        FieldKind::Time => text(|text| text.parse::<civil::Time>().is_ok()),
        FieldKind::Uuid => text(|text| text.parse::<Uuid>().is_ok()),
        FieldKind::Point => value.is_object(),
        FieldKind::Json => true,
    }
}

fn kind_in_words(kind: &FieldKind) -> String {
    let words = match kind {
        FieldKind::Bool => "true or false",
        FieldKind::I64 => "a whole number of 64 bits",
        FieldKind::F64 => "a number",
        FieldKind::Decimal => "a decimal number",
        FieldKind::Text => "a text",
        FieldKind::Enum(names) => return format!("one of {}", names.join(", ")),
        FieldKind::Timestamp => "a time as RFC 3339 text",
        FieldKind::Date => "a date as text, yyyy-mm-dd",
        FieldKind::Time => "a time of day as text, hh:mm:ss",
        FieldKind::Uuid => "a UUID as text",
        FieldKind::Bytes => "base64 text",
        FieldKind::Point => "a GeoJSON point",
        FieldKind::Json => "JSON",
    };
    words.to_owned()
}
