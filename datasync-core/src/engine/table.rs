//! What the engine knows of each table of a client.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    engine::{conflict::Rules, links::Link, migrate::Migrations, tombstones},
    error::{Error, ErrorKind},
    query::{QueryDescription, table_spec},
    row::RowKey,
    schema::{Name, TableSchema},
    store::TableSpec,
};

/// A table of a client.
pub(crate) struct Table {
    pub(crate) name: Arc<str>,
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) fingerprint: u64,
    /// The version of the schema: one more than the last migration's.
    pub(crate) version: u32,
    /// What leads to it from the older ones.
    pub(crate) migrations: Migrations,
    /// The fields that stayed on the device in an older release and that this one does not have. They are local ones of the
    /// schema: what is stored for them is never sent.
    pub(crate) retired: Vec<Name>,
    /// The query that the configuration names for the table's pulls, and its name.
    pub(crate) pulled: QueryDescription,
    pub(crate) query_id: Option<String>,
    /// Whether a change is sent although its row has no version.
    pub(crate) unversioned: bool,
    /// How its conflicts are settled.
    pub(crate) rules: Rules,
    /// The fields that name rows of other tables, and those of other tables that name rows of this one.
    pub(crate) parents: Vec<Link>,
    pub(crate) children: Vec<Link>,
}

impl Table {
    /// The table and its indexes, for the store: those that the app declares, those that lead from parents to queued children,
    /// and the one of own tombstones.
    pub(crate) fn spec(&self) -> TableSpec {
        let mut spec = table_spec(&self.schema);
        spec.indexes.extend(self.parents.iter().map(|link| Arc::clone(&link.index)));
        spec.indexes.push(tombstones::INDEX.into());
        spec
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name).field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// The tables of a client, by name.
#[derive(Debug, Default)]
pub(crate) struct Tables(pub(crate) BTreeMap<Arc<str>, Arc<Table>>);

impl Tables {
    /// Whether this release of the app has the row's table.
    pub(crate) fn has(&self, key: &RowKey) -> bool {
        self.0.contains_key(&key.table)
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Arc<Table>, Error> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(AsRef::as_ref).collect();
            let message = format!("the client has no table `{name}`; it has {}", known.join(", "));
            Error::new(ErrorKind::UnknownTable, message).of(name)
        })
    }
}
