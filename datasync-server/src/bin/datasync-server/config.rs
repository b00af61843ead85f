//! The configuration file.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use axum::Router;
use datasync_core::schema::{FieldKind, FieldSchema, ID, TableSchema};
use datasync_server::{DatasyncService, RedbDatabase, TableOptions};
use serde::Deserialize;

type Error = Box<dyn std::error::Error>;

/// ```toml
/// listen = "127.0.0.1:8080"
/// data = "service.redb"          # beside this file
/// tombstone_days = 90            # for how long it is remembered what was deleted
///
/// [tables.todoitem]
/// path = "tables/todoitem"
/// page_size = 100
/// max_top = 512000
/// soft_delete = true
/// schemaless = false
/// fields = { title = "text", complete = "bool", rating = "i64?", state = ["open", "done"] }
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Loopback unless told otherwise.
    #[serde(default = "loopback")]
    pub(crate) listen: SocketAddr,
    data: PathBuf,
    max_body: Option<usize>,
    tombstone_days: Option<u16>,
    tables: BTreeMap<String, Table>,
    #[serde(skip)]
    folder: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    path: Option<String>,
    page_size: Option<u64>,
    max_top: Option<u64>,
    /// Without it other devices never learn of a deletion.
    #[serde(default = "yes")]
    soft_delete: bool,
    #[serde(default)]
    schemaless: bool,
    #[serde(default)]
    fields: BTreeMap<String, Kind>,
}

/// The kind of a field: its name, with `?` behind it if the field may be null; or the names of an enum in their order.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Kind {
    Named(String),
    Enum(Vec<String>),
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn yes() -> bool {
    true
}

const KINDS: &[(&str, FieldKind)] = &[
    ("bool", FieldKind::Bool),
    ("i64", FieldKind::I64),
    ("f64", FieldKind::F64),
    ("decimal", FieldKind::Decimal),
    ("text", FieldKind::Text),
    ("timestamp", FieldKind::Timestamp),
    ("date", FieldKind::Date),
    ("time", FieldKind::Time),
    ("uuid", FieldKind::Uuid),
    ("bytes", FieldKind::Bytes),
    ("point", FieldKind::Point),
    ("json", FieldKind::Json),
];

impl Config {
    pub(crate) fn read(path: &Path) -> Result<Config, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("the configuration `{}` cannot be read: {error}", path.display()))?;
        let mut config: Config =
            toml::from_str(&text).map_err(|error| format!("the configuration `{}`: {error}", path.display()))?;
        config.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(config)
    }

    /// Opens the data, beside the configuration unless its path is absolute.
    pub(crate) fn open(&self) -> Result<RedbDatabase, Error> {
        let path = self.folder.join(&self.data);
        RedbDatabase::open(&path).map_err(|error| format!("the data `{}`: {error}", path.display()).into())
    }

    pub(crate) fn router(&self, database: &RedbDatabase) -> Result<Router, Error> {
        let mut builder = DatasyncService::builder();
        if let Some(bytes) = self.max_body {
            builder = builder.max_body(bytes);
        }
        if let Some(days) = self.tombstone_days {
            builder = builder.tombstone_days(days);
        }
        for (name, table) in &self.tables {
            builder = builder.table(table.options(name)?, database.table(name));
        }
        Ok(builder.build()?)
    }
}

impl Table {
    fn options(&self, name: &str) -> Result<TableOptions, Error> {
        let mut fields = vec![FieldSchema::new(ID, FieldKind::Text, false)];
        for (field, kind) in self.fields.iter().filter(|(field, _)| *field != ID) {
            let (kind, nullable) = kind.read().map_err(|error| format!("`tables.{name}.fields.{field}` {error}"))?;
            fields.push(FieldSchema::of(field.clone(), kind, nullable));
        }
        let schema = TableSchema::of(name.to_owned(), fields, []);
        let mut options = TableOptions::new(schema).soft_delete(self.soft_delete).schemaless(self.schemaless);
        if let Some(path) = &self.path {
            options = options.path(path);
        }
        if let Some(rows) = self.page_size {
            options = options.page_size(rows);
        }
        if let Some(rows) = self.max_top {
            options = options.max_top(rows);
        }
        Ok(options)
    }
}

impl Kind {
    fn read(&self) -> Result<(FieldKind, bool), String> {
        match self {
            Kind::Enum(names) if names.is_empty() => Err("is an enum without a member".to_owned()),
            Kind::Enum(names) => {
                let names: Vec<Cow<'static, str>> = names.iter().cloned().map(Cow::Owned).collect();
                Ok((FieldKind::Enum(names.into()), false))
            }
            Kind::Named(text) => {
                let (name, nullable) = text.strip_suffix('?').map_or((text.as_str(), false), |name| (name, true));
                let found = KINDS.iter().find(|(known, _)| *known == name);
                let known = || KINDS.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
                let kind = found.ok_or_else(|| format!("is `{text}`, which is none of {}", known()))?;
                Ok((kind.1.clone(), nullable))
            }
        }
    }
}
