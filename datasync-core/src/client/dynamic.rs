//! The offline table without a type: rows are JSON objects, for tools and bindings.

use std::{fmt, sync::Arc};

use jiff::civil;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    body,
    client::{
        DatasyncClient,
        acked::Written,
        codec, invalid_query, pull,
        search::{self, Rows},
        write,
    },
    clock::ordered_id,
    engine::{
        Engine,
        change::{self, Change},
        committer::Tx,
        pull::{ImplicitPush, pull},
        push::{self, Tries},
        table::Table,
    },
    entity::check_id,
    error::{Error, ErrorKind},
    query::{QueryDescription, is_decimal, milliseconds, timestamp},
    report::{PullReport, PushReport},
    row::{Body, Record, RowKey},
    schema::{FieldKind, FieldSchema, ID, SERVICE_OWNED, TableSchema},
};

/// A table of the local store whose rows are JSON objects: [`OfflineTable`](super::OfflineTable) for who has no type.
///
/// A row is an object with the fields of the table's schema, and those that this build does not know, which are kept. What is
/// written must fit the schema, or the entity's type where the table has one.
///
/// Numbers are those of [`serde_json::Value`], so that a decimal of more than 17 digits is shown rounded. A field that is
/// written back as it was read keeps every digit that is stored.
#[derive(Clone)]
pub struct DynTable {
    engine: Arc<Engine>,
    table: Arc<Table>,
}

impl fmt::Debug for DynTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynTable").field(&self.table.name).finish()
    }
}

impl DatasyncClient {
    /// The table of that name in the local store, whether it was added with a type or with
    /// [`table_dyn`](super::ClientBuilder::table_dyn).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownTable`], which lists the tables that the client has.
    pub fn offline_table_dyn(&self, name: &str) -> Result<DynTable, Error> {
        let table = Arc::clone(self.engine.tables.get(name)?);
        Ok(DynTable { engine: Arc::clone(&self.engine), table })
    }
}

impl DynTable {
    /// The table's fields and indexes.
    #[must_use]
    pub fn schema(&self) -> &TableSchema {
        &self.table.schema
    }

    /// The row of that id; `None` if there is none here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`], [`ErrorKind::InvalidEntity`] if what is stored is not a JSON object.
    pub async fn get(&self, id: &str) -> Result<Option<Value>, Error> {
        let rows = self.engine.store.get(&[self.key(id)]).await?;
        let record = rows.into_iter().flatten().find_map(|row| row.record);
        record.map(|record| codec::value(&self.table.schema, id, &record)).transpose()
    }

    /// Adds a row. Without an id it gets a UUIDv7.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exists`], [`ErrorKind::InvalidId`], [`ErrorKind::InvalidEntity`] if it does not fit the table,
    /// [`ErrorKind::Store`]; nothing is changed then.
    pub async fn insert(&self, row: Value) -> Result<Written<Value>, Error> {
        self.write(row, Change::Insert).await
    }

    /// Replaces the row of the object's id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], else as [`insert`](DynTable::insert).
    pub async fn replace(&self, row: Value) -> Result<Written<Value>, Error> {
        self.write(row, Change::Replace).await
    }

    /// Adds the row, or replaces the one of its id.
    ///
    /// # Errors
    ///
    /// As [`insert`](DynTable::insert), but for `Exists`.
    pub async fn upsert(&self, row: Value) -> Result<Written<Value>, Error> {
        self.write(row, Change::Upsert).await
    }

    /// Deletes the row of that id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::Store`]; nothing is changed then.
    pub async fn delete(&self, id: &str) -> Result<Written<()>, Error> {
        let (queued, _) = write::one(&self.engine, &self.table, (self.key(id), Change::Delete), apply).await?;
        Ok(Written::new((), queued))
    }

    /// Adds many rows in one commit: all of them or none.
    ///
    /// # Errors
    ///
    /// As [`insert`](DynTable::insert) for the first row that fails.
    pub async fn insert_all(&self, rows: impl IntoIterator<Item = Value>) -> Result<Vec<Written<Value>>, Error> {
        self.write_all(rows, Change::Insert).await
    }

    /// Adds or replaces many rows in one commit: all of them or none.
    ///
    /// # Errors
    ///
    /// As [`upsert`](DynTable::upsert) for the first row that fails.
    pub async fn upsert_all(&self, rows: impl IntoIterator<Item = Value>) -> Result<Vec<Written<Value>>, Error> {
        self.write_all(rows, Change::Upsert).await
    }

    /// The rows of a query in OData text, such as `$filter=rank gt 5&$orderby=title&$top=10`; of each only the fields that
    /// `$select` names, if it names any. The empty text is all rows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidQuery`], [`ErrorKind::InvalidEntity`], [`ErrorKind::Store`].
    pub async fn query(&self, query: &str) -> Result<Rows<Value>, Error> {
        let query = read_query(query)?;
        let found = search::search(&self.engine, &self.table, &query).await?;
        let mut rows = Vec::with_capacity(found.rows.len());
        for (id, record) in found.rows {
            let mut row = codec::value(&self.table.schema, &id, &record)?;
            if let (Value::Object(fields), false) = (&mut row, query.select.is_empty()) {
                fields.retain(|name, _| query.select.contains(name));
            }
            rows.push(row);
        }
        Ok(Rows { rows, total: found.total })
    }

    /// How many rows match a query in OData text, before `$skip` and `$top`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidQuery`], [`ErrorKind::Store`].
    pub async fn count(&self, query: &str) -> Result<u64, Error> {
        search::count(&self.engine, &self.table, &read_query(query)?).await
    }

    /// Pushes what is queued in this table: see [`DatasyncClient::push_tables`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn push_items(&self) -> Result<PushReport, Error> {
        let tables = Some(vec![Arc::clone(&self.table.name)]);
        push::push(&self.engine, self.engine.account(), tables, Tries::Waiting).await
    }

    /// Pulls the rows of a query in OData text that have changed since its last pull, under a name if it is given one:
    /// see [`OfflineTable::pull_items`](super::OfflineTable::pull_items).
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn pull_items(&self, query: &str, query_id: Option<&str>) -> Result<PullReport, Error> {
        let (query, query_id) = (read_query(query)?, query_id.map(str::to_owned));
        let wanted = pull::wanted(&self.table, query, query_id, None, ImplicitPush::default())?;
        pull(&self.engine, &self.table, wanted).await
    }

    fn key(&self, id: &str) -> RowKey {
        self.engine.key(&self.table, id)
    }

    async fn write(&self, mut row: Value, change: fn(Body) -> Change) -> Result<Written<Value>, Error> {
        let change = self.prepare(&mut row, change)?;
        Ok(self.as_stored(row, write::one(&self.engine, &self.table, change, apply).await?))
    }

    async fn write_all(
        &self,
        rows: impl IntoIterator<Item = Value>,
        change: fn(Body) -> Change,
    ) -> Result<Vec<Written<Value>>, Error> {
        let mut rows: Vec<Value> = rows.into_iter().collect();
        let changes = rows.iter_mut().map(|row| self.prepare(row, change)).collect::<Result<_, _>>()?;
        let stored = write::all(&self.engine, &self.table, changes, apply).await?;
        Ok(rows.into_iter().zip(stored).map(|(row, stored)| self.as_stored(row, stored)).collect())
    }

    /// The row with the time of its edit, where the table has a field for that.
    fn as_stored(&self, mut row: Value, (queued, record): write::Stored) -> Written<Value> {
        let schema = &self.table.schema;
        if let (Some(name), Some(record)) = (schema.edited_field(), record)
            && let Some(edited) = body::edited(schema, &record.body)
        {
            row[name] = milliseconds(edited).into();
        }
        Written::new(row, queued)
    }

    /// Gives the row an id if it has none, and makes it a change.
    fn prepare(&self, row: &mut Value, change: fn(Body) -> Change) -> Result<(RowKey, Change), Error> {
        let name = &self.table.name;
        let Value::Object(fields) = row else {
            return Err(Error::new(ErrorKind::InvalidEntity, format!("a row of `{name}` is a JSON object")));
        };
        if fields.get(ID).is_none_or(|id| id.is_null() || id == "") {
            fields.insert(ID.to_owned(), ordered_id(&*self.engine.clock).to_string().into());
        }
        let Some(id) = fields.get(ID).and_then(Value::as_str).map(str::to_owned) else {
            return Err(Error::new(ErrorKind::InvalidId, format!("the `{ID}` of a row of `{name}` is a text")));
        };
        check_id(&id)?;
        if self.table.rules.readable.is_none() {
            fit(&self.table.schema, &id, fields)?;
        }
        let body = Body::from(row.to_string().into_bytes());
        if let Some(readable) = self.table.rules.readable {
            readable(&id, &Record { body: body.clone(), version: None, updated_at: None, deleted: false })?;
        }
        Ok((self.key(&id), change(body)))
    }
}

/// Applies a change; what was written as it is stored keeps its bytes.
fn apply(tx: &mut Tx<'_>, table: &Table, key: &RowKey, change: &Change) -> Result<change::Applied, Error> {
    let stored = tx.row(key)?.and_then(|row| row.record);
    let (make, written): (fn(Body) -> Change, _) = match change {
        Change::Replace(body) => (Change::Replace, body),
        Change::Upsert(body) => (Change::Upsert, body),
        Change::Insert(_) | Change::Delete => return change::apply(tx, table, key, change),
    };
    let Some(stored) = stored else { return change::apply(tx, table, key, change) };
    let kept = body::keep_spelling(written, &stored.body)
        .map_err(|error| Error::caused(ErrorKind::InvalidEntity, format!("{key:?} is not a JSON object"), error))?;
    change::apply(tx, table, key, &make(kept))
}

fn read_query(text: &str) -> Result<QueryDescription, Error> {
    text.parse().map_err(invalid_query)
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
