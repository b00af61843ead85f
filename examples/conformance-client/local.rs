//! The data sets in redb stores, and local queries over them.

use std::{borrow::Cow, collections::HashMap, error::Error, fs, path::PathBuf};

use datasync::{
    client::{DatasyncClient, OfflineTable},
    entity::{InvalidId, SyncEntity},
    http::HttpTransport,
    memory::MemoryStore,
    query::{Query, QueryDescription, index_keys, table_spec},
    redb::RedbStore,
    row::{Record, Row, RowKey},
    schema::{FieldKind, FieldSchema, IndexSchema, Name, TableSchema},
    store::{RowWrite, Store, WriteBatch},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const fn names<const N: usize>(names: &'static [Name; N]) -> Cow<'static, [Name]> {
    Cow::Borrowed(names)
}

const RATINGS: Cow<'static, [Name]> = names(&[
    Cow::Borrowed("Unrated"),
    Cow::Borrowed("G"),
    Cow::Borrowed("PG"),
    Cow::Borrowed("PG13"),
    Cow::Borrowed("NC17"),
    Cow::Borrowed("R"),
]);
const INDEXES: &[IndexSchema] = &[
    IndexSchema::new("year", &[Cow::Borrowed("year")]),
    IndexSchema::new("rating_duration", &[Cow::Borrowed("rating"), Cow::Borrowed("duration")]),
    IndexSchema::new("title", &[Cow::Borrowed("title")]),
];

/// A row of any shape, and a table of it.
macro_rules! table {
    ($name:ident, $table:literal, $indexes:expr, [$($field:literal $kind:expr, $nullable:literal;)*]) => {
        #[derive(Clone, Serialize, Deserialize)]
        #[serde(transparent)]
        struct $name(Map<String, Value>);

        impl SyncEntity for $name {
            type Fields = ();
            const FIELDS: () = ();
            const TABLE: &'static str = $table;
            const SCHEMA: TableSchema = {
                const OF: &[FieldSchema] = &[
                    FieldSchema::new("id", FieldKind::Text, false),
                    $(FieldSchema::new($field, $kind, $nullable),)*
                ];
                TableSchema::new($table, OF, $indexes)
            };

            fn id(&self) -> Cow<'_, str> {
                self.0.get("id").and_then(Value::as_str).unwrap_or_default().into()
            }

            fn set_id(&mut self, id: &str) -> std::result::Result<(), InvalidId> {
                self.0.insert("id".to_owned(), id.into());
                Ok(())
            }
        }
    };
}

table!(ToolkitMovie, "movies", INDEXES, [
    "title" FieldKind::Text, false;
    "duration" FieldKind::I64, false;
    "rating" FieldKind::Enum(RATINGS), false;
    "releaseDate" FieldKind::Date, false;
    "bestPictureWinner" FieldKind::Bool, false;
    "year" FieldKind::I64, false;
]);
table!(AzureMovie, "movies", INDEXES, [
    "title" FieldKind::Text, false;
    "duration" FieldKind::I64, false;
    "rating" FieldKind::Text, true;
    "releaseDate" FieldKind::Timestamp, false;
    "bestPictureWinner" FieldKind::Bool, false;
    "year" FieldKind::I64, false;
]);
table!(ToolkitKitchenSink, "kitchensink", &[], [
    "stringValue" FieldKind::Text, true;
    "pointValue" FieldKind::Point, true;
    "dateOnlyValue" FieldKind::Date, true;
    "timeOnlyValue" FieldKind::Time, true;
]);
table!(AzureDateTime, "datetime", &[], [
    "dateOnly" FieldKind::Date, true;
    "timeOnly" FieldKind::Time, true;
]);

/// A store and its one table.
struct Table<E> {
    table: OfflineTable<E>,
    _client: DatasyncClient,
}

impl<E: SyncEntity> Table<E> {
    /// The store with the rows in it.
    async fn fill(store: impl Store + Clone, rows: &[Value]) -> Result<Table<E>> {
        let schema = E::SCHEMA;
        store.open(&[table_spec(&schema)]).await?;
        let mut batch = WriteBatch { number: 1, ..WriteBatch::default() };
        for row in rows {
            let id = row["id"].as_str().ok_or("a row of the data has no id")?;
            let deleted = row["deleted"] == true;
            let body = serde_json::to_vec(row)?.into();
            let record = Record { body, version: Some("AQ==".to_owned()), updated_at: None, deleted };
            let index_keys = index_keys(&schema, id, &record)?;
            let row = Row { record: Some(record), ..Row::default() };
            batch.rows.push(RowWrite::Put { key: RowKey::new(schema.name.as_ref(), id), row, index_keys });
        }
        store.commit(batch).await?;
        // Never used: a local query needs no network.
        let transport = HttpTransport::new("http://localhost")?;
        let client = DatasyncClient::builder().store(store).transport(transport).table::<E>().build().await?;
        Ok(Table { table: client.offline_table(), _client: client })
    }

    async fn query(&self, description: QueryDescription) -> Result<Value> {
        let rows = self.table.query().with(Query::of(description)?).to_rows().await?;
        let ids: Vec<Cow<'_, str>> = rows.rows.iter().map(SyncEntity::id).collect();
        Ok(json!({ "ids": ids, "total": rows.total }))
    }
}

enum Filled {
    ToolkitMovies(Table<ToolkitMovie>),
    AzureMovies(Table<AzureMovie>),
    ToolkitKitchenSink(Table<ToolkitKitchenSink>),
    AzureDateTime(Table<AzureDateTime>),
}

/// Version 2 of Azure's protocol spells `$count` so. A local query always counts.
fn without_inlinecount(text: &str) -> String {
    let kept = text.split('&').filter(|part| !part.starts_with("$inlinecount="));
    kept.collect::<Vec<_>>().join("&")
}

/// The data sets, each in a store that is made when it is first asked for.
pub(crate) struct Local {
    data: PathBuf,
    folder: TempDir,
    memory: bool,
    filled: HashMap<(String, String), Filled>,
}

impl Local {
    pub(crate) fn new(data: PathBuf, memory: bool) -> Result<Local> {
        Ok(Local { data, folder: tempfile::tempdir()?, memory, filled: HashMap::new() })
    }

    /// Runs a local query.
    pub(crate) async fn query(&mut self, text: &str, dataset: &str, schema: &str) -> Result<Value> {
        let text = text.trim_start_matches('?');
        let text = if schema == "azure" { without_inlinecount(text) } else { text.to_owned() };
        let encoded = ["%20", "%27", "%28"].iter().any(|escape| text.contains(escape));
        let description = if encoded { QueryDescription::from_query_string(&text)? } else { text.parse()? };
        let key = (dataset.to_owned(), schema.to_owned());
        if !self.filled.contains_key(&key) {
            let filled = self.fill(dataset, schema).await?;
            self.filled.insert(key.clone(), filled);
        }
        match self.filled.get(&key) {
            Some(Filled::ToolkitMovies(table)) => table.query(description).await,
            Some(Filled::AzureMovies(table)) => table.query(description).await,
            Some(Filled::ToolkitKitchenSink(table)) => table.query(description).await,
            Some(Filled::AzureDateTime(table)) => table.query(description).await,
            None => Err("there is no such data set".into()),
        }
    }

    fn read(&self, file: &str, member: &str) -> Result<Vec<Value>> {
        let path = self.data.join(file);
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let whole: Value = serde_json::from_slice(&bytes)?;
        Ok(whole[member].as_array().cloned().unwrap_or_default())
    }

    async fn make<E: SyncEntity>(&self, path: PathBuf, rows: &[Value]) -> Result<Table<E>> {
        match self.memory {
            true => Table::fill(MemoryStore::new(), rows).await,
            false => Table::fill(RedbStore::open(path)?, rows).await,
        }
    }

    async fn fill(&self, dataset: &str, schema: &str) -> Result<Filled> {
        let path = self.folder.path().join(format!("{dataset}-{schema}.redb"));
        Ok(match (dataset, schema) {
            ("movies" | "softmovies", "ct" | "azure") => {
                let mut rows = self.read("movies.json", "movies")?;
                for row in rows.iter_mut().filter(|row| dataset == "softmovies" && row["rating"] == "R") {
                    row["deleted"] = true.into();
                }
                if schema == "ct" {
                    return Ok(Filled::ToolkitMovies(self.make(path, &rows).await?));
                }
                for row in &mut rows {
                    row["rating"] = row["mpaaRating"].take();
                    row["releaseDate"] = match row["releaseDate"].as_str() {
                        Some(day) => format!("{day}T00:00:00.000Z").into(),
                        None => Value::Null,
                    };
                }
                Filled::AzureMovies(self.make(path, &rows).await?)
            }
            ("datetime365", "ct") => {
                let rows = self.read("datetime365.json", "rows")?;
                let row = |day: &Value| json!({ "id": day["ct_id"], "dateOnlyValue": day["date"], "timeOnlyValue": day["time"] });
                Filled::ToolkitKitchenSink(self.make(path, &rows.iter().map(row).collect::<Vec<_>>()).await?)
            }
            ("datetime365", "azure") => {
                let rows = self.read("datetime365.json", "rows")?;
                let row =
                    |day: &Value| json!({ "id": day["azure_id"], "dateOnly": day["date"], "timeOnly": day["time"] });
                Filled::AzureDateTime(self.make(path, &rows.iter().map(row).collect::<Vec<_>>()).await?)
            }
            ("countries", "ct" | "azure") => {
                let rows = self.read("countries.json", "countries")?;
                let row = |country: &Value| {
                    let point = json!({ "type": "Point", "coordinates": [country["lon"], country["lat"]] });
                    json!({ "id": country["id"], "stringValue": country["name"], "pointValue": point })
                };
                Filled::ToolkitKitchenSink(self.make(path, &rows.iter().map(row).collect::<Vec<_>>()).await?)
            }
            _ => return Err(format!("there is no data set `{dataset}` with the schema `{schema}`").into()),
        })
    }
}
