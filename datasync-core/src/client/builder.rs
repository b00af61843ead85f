//! Building a client: what it stores in, talks to and keeps.

use std::{collections::BTreeMap, error::Error as StdError, marker::PhantomData, sync::Arc};

use serde_json::Value;

use crate::{
    client::{
        DatasyncClient, codec, migrate,
        progress::{OpeningProgress, Told},
        pull::check_filter,
        reindex::reindex,
        resolver::{ConflictResolver, erase},
        row_type::RowType,
    },
    clock::Clock,
    config::SyncConfig,
    engine::{
        Engine,
        account::Present,
        committer::Committer,
        conflict::{Readable, Resolve, Rules},
        links,
        migrate::{Migrate, Migrations},
        service::{self, Service},
        table::{Table, Tables},
    },
    entity::SyncEntity,
    error::{Context, Error, ErrorKind, SyncPhase},
    schema::{ID, TableSchema},
    store::{Store, TableSpec},
    transport::Transport,
};

/// What code says about a table, over what the configuration says.
#[derive(Clone)]
#[must_use]
pub struct TableOptions<E> {
    resolver: Option<Arc<Resolve>>,
    migrations: Vec<(u32, Arc<Migrate>)>,
    marker: PhantomData<fn() -> E>,
}

impl<E> std::fmt::Debug for TableOptions<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("TableOptions");
        debug.field("resolver", &self.resolver.is_some()).field("migrations", &self.migrations.len()).finish()
    }
}

impl<E> Default for TableOptions<E> {
    fn default() -> Self {
        TableOptions { resolver: None, migrations: Vec::new(), marker: PhantomData }
    }
}

impl<E: RowType> TableOptions<E> {
    /// What the configuration says.
    pub fn new() -> TableOptions<E> {
        TableOptions::default()
    }

    /// Settles the table's conflicts, in place of the configured policy.
    pub fn resolver(mut self, resolver: impl ConflictResolver<E>) -> TableOptions<E> {
        self.resolver = Some(erase(resolver));
        self
    }

    /// Brings the rows that follow version `from` of the table's schema to version `from + 1`. The first schema that an app
    /// was released with is version 1; the table's own version is one more than the greatest `from`. Keep every migration
    /// that there ever was: a device may come back after years.
    ///
    /// `migration` is given the JSON of a row as it is stored, with the fields that only the service knows, and returns it as
    /// this version would have stored it. It must not change the id. It runs when [`ClientBuilder::build`] opens a
    /// store of an older release, on each row and on every other copy of it that is kept: the service's, that of a conflict,
    /// a body that lost. Those of the service lack the local fields. It may run more than once for one body,
    /// and a field that it does not change keeps its bytes.
    ///
    /// If it fails or panics, or what it returns cannot be read as the table's entity, the row goes into quarantine with everything queued
    /// for it: see [`DatasyncClient::quarantined`]. The next start tries again.
    ///
    /// Without a migration a schema may change as far as the stored JSON still fits: fields may be added that are optional
    /// or have a default, and what was stored for a field that was removed is kept and sent as it is.
    ///
    /// What the *service* sends is not migrated: it must fit the entity.
    ///
    /// ```
    /// # use datasync_core::{client::TableOptions, entity::SyncEntity};
    /// # fn example<TodoItem: SyncEntity>() -> TableOptions<TodoItem> {
    /// TableOptions::<TodoItem>::new().migration(1, |mut json| {
    ///     let minutes = json["minutes"].as_u64().ok_or("no minutes")?;
    ///     json["seconds"] = (minutes * 60).into();
    ///     Ok(json)
    /// })
    /// # }
    /// ```
    pub fn migration(
        mut self,
        from: u32,
        migration: impl Fn(Value) -> Result<Value, Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
    ) -> TableOptions<E> {
        self.migrations.push((from, Arc::new(migration)));
        self
    }
}

struct Declared {
    schema: TableSchema,
    resolver: Option<Arc<Resolve>>,
    readable: Option<Readable>,
    migrations: Vec<(u32, Arc<Migrate>)>,
}

/// Builds a [`DatasyncClient`].
#[must_use]
pub struct ClientBuilder {
    store: Option<Arc<dyn Store>>,
    transport: Option<Arc<dyn Transport>>,
    clock: Option<Arc<dyn Clock>>,
    config: SyncConfig,
    tables: Vec<Declared>,
    told: Told,
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder").field("store", &self.store).field("transport", &self.transport).finish()
    }
}

impl ClientBuilder {
    pub(crate) fn new() -> ClientBuilder {
        #[cfg(feature = "system-clock")]
        let clock: Option<Arc<dyn Clock>> = Some(Arc::new(crate::clock::SystemClock));
        #[cfg(not(feature = "system-clock"))]
        let clock = None;
        ClientBuilder {
            store: None,
            transport: None,
            clock,
            config: SyncConfig::default(),
            tables: Vec::new(),
            told: Told::default(),
        }
    }

    /// Where rows and operations are kept. Only one client may use a store at a time.
    pub fn store(mut self, store: impl Store) -> ClientBuilder {
        self.store = Some(Arc::new(store));
        self
    }

    /// The way to the service.
    pub fn transport(mut self, transport: impl Transport) -> ClientBuilder {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// The source of time, waiting and randomness; the system's by default, if the feature `system-clock` is on.
    pub fn clock(mut self, clock: impl Clock) -> ClientBuilder {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Policies and sizes.
    pub fn config(mut self, config: SyncConfig) -> ClientBuilder {
        self.config = config;
        self
    }

    /// Adds the table of an entity.
    pub fn table<E: SyncEntity>(self) -> ClientBuilder {
        self.table_with(TableOptions::<E>::new())
    }

    /// Adds the table of an entity, with options of its own.
    pub fn table_with<E: SyncEntity>(mut self, options: TableOptions<E>) -> ClientBuilder {
        let TableOptions { resolver, migrations, .. } = options;
        let readable: Readable = |id, record| codec::decode::<E>(id, record).map(drop);
        self.tables.push(Declared { schema: E::SCHEMA, resolver, readable: Some(readable), migrations });
        self
    }

    /// Adds a table that is known only at run time; its rows are JSON: see
    /// [`offline_table_dyn`](DatasyncClient::offline_table_dyn).
    ///
    /// ```
    /// use datasync_core::{
    ///     client::DatasyncClient,
    ///     schema::{FieldKind, FieldSchema, IndexSchema, TableSchema},
    /// };
    /// let fields = [
    ///     FieldSchema::of("id", FieldKind::Text, false),
    ///     FieldSchema::of("rank", FieldKind::I64, true),
    /// ];
    /// let schema = TableSchema::of("films", fields, [IndexSchema::of("rank", ["rank"])]);
    /// let builder = DatasyncClient::builder().table_dyn(schema);
    /// # drop(builder);
    /// ```
    pub fn table_dyn(self, schema: TableSchema) -> ClientBuilder {
        self.table_dyn_with(schema, TableOptions::new())
    }

    /// Adds a table that is known only at run time, with migrations and a resolver over JSON. What a migration returns and what
    /// the service sends is not compared with the schema: only what is written here is.
    pub fn table_dyn_with(mut self, schema: TableSchema, options: TableOptions<Value>) -> ClientBuilder {
        let TableOptions { resolver, migrations, .. } = options;
        self.tables.push(Declared { schema, resolver, readable: None, migrations });
        self
    }

    /// Tells how far [`build`](ClientBuilder::build) is with what takes long: the rows that are migrated, and the indexes that
    /// this release of the app has added or changed. It is called before the first row of a table and after each
    /// commit; not at all if there is nothing to do. What is done when the process dies stays done.
    pub fn on_progress(mut self, told: impl Fn(OpeningProgress) + Send + Sync + 'static) -> ClientBuilder {
        self.told = Told(Some(Arc::new(told)));
        self
    }

    /// Opens the store and checks everything. Rows of an older release of the app are migrated; indexes that were added or
    /// changed since the store was last open are built, those that were dropped are removed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if a part is missing, a table is declared twice, its schema is wrong or a migration
    /// missing, or the configuration names what does not exist; [`ErrorKind::NewerSchema`] if a newer release of the
    /// app has written the store, which is left as it was; [`ErrorKind::Store`] if the store cannot be opened.
    pub async fn build(self) -> Result<DatasyncClient, Error> {
        traced!(self.open(), "open").await.during(SyncPhase::Open)
    }

    async fn open(self) -> Result<DatasyncClient, Error> {
        #[cfg(feature = "metrics")]
        crate::metrics::describe();
        let missing = |what: &str| Error::new(ErrorKind::InvalidConfig, format!("the client has no {what}: add one"));
        let store = self.store.ok_or_else(|| missing("store"))?;
        let transport = self.transport.ok_or_else(|| missing("transport"))?;
        let clock = self.clock.ok_or_else(|| missing("clock"))?;
        if self.tables.is_empty() {
            return Err(missing("table"));
        }
        let mut tables = BTreeMap::new();
        for Declared { schema, resolver, readable, migrations } in self.tables {
            check_schema(&schema)?;
            let name: Arc<str> = schema.name.as_ref().into();
            let rules = Rules { resolver, readable, ..self.config.rules(&schema)? };
            let fingerprint = schema.fingerprint();
            let (pulled, query_id) = self.config.pulled(&name)?;
            check_filter(&schema, &pulled).map_err(|why| {
                Error::new(ErrorKind::InvalidConfig, format!("the configuration: `tables.{name}.filter`: {why}"))
            })?;
            let unversioned = self.config.tables.get(&*name).is_some_and(|section| section.unversioned);
            let migrations = Migrations(in_order(&name, migrations)?);
            let table = Table {
                name: Arc::clone(&name),
                schema: Arc::new(schema),
                fingerprint,
                version: migrations.version(),
                migrations,
                pulled,
                query_id,
                unversioned,
                rules,
                retired: Vec::new(),
                parents: Vec::new(),
                children: Vec::new(),
            };
            if tables.insert(Arc::clone(&name), table).is_some() {
                let message = format!("the table `{name}` was added twice");
                return Err(Error::new(ErrorKind::InvalidConfig, message));
            }
        }
        let names: Vec<&str> = tables.keys().map(AsRef::as_ref).collect();
        self.config.check(&names)?;
        links::connect(&mut tables)?;
        let found = migrate::look(&*store, &tables).await?;
        found.retire(&mut tables);
        let tables = tables.into_iter().map(|(name, table)| (name, Arc::new(table))).collect();
        let tables = Arc::new(Tables(tables));
        let specs: Vec<TableSpec> = tables.0.values().map(|table| table.spec()).collect();
        let outdated = store.open(&specs).await?;
        let present = Present::load(&*store).await?;
        let known = store.notes(&[service::NOTE.into()]).await?.pop().flatten();
        let service = Arc::new(Service::new(Arc::clone(&transport), known.as_ref())?);
        let (disk, time, all) = (Arc::clone(&store), Arc::clone(&clock), Arc::clone(&tables));
        let committer = Committer::new(disk, time, all, present, Arc::clone(&service));
        migrate::migrate(&*store, &committer, &tables, &found, &self.told).await?;
        for outdated in &outdated {
            if let Some(spec) = specs.iter().find(|spec| spec.table == outdated.table) {
                reindex(&*store, &committer, outdated, spec, &self.told).await?;
            }
        }
        let settings = self.config.sync;
        let engine = Engine {
            store,
            transport,
            clock,
            settings,
            tables,
            committer,
            service,
            crossing: Arc::default(),
            events: crate::events::Events::default(),
            pushing: std::sync::Mutex::default(),
            pulling: std::sync::Mutex::default(),
            pull_failures: Default::default(),
            #[cfg(feature = "metrics")]
            pulled: crate::metrics::Pulled::default(),
        };
        Ok(DatasyncClient { engine: Arc::new(engine) })
    }
}

/// The migrations from version 1 on, without a gap.
fn in_order(table: &str, mut migrations: Vec<(u32, Arc<Migrate>)>) -> Result<Vec<Arc<Migrate>>, Error> {
    migrations.sort_by_key(|(from, _)| *from);
    for (position, (from, _)) in migrations.iter().enumerate() {
        let wanted = position as u32 + 1;
        if *from != wanted {
            let what = match *from {
                0 => "has a migration from version 0, but the first version is 1".to_owned(),
                from if from < wanted => format!("has two migrations from version {from}"),
                from => format!("has a migration from version {from}, but none from version {wanted}"),
            };
            return Err(Error::new(ErrorKind::InvalidConfig, format!("the table `{table}` {what}")));
        }
    }
    Ok(migrations.into_iter().map(|(_, migration)| migration).collect())
}

fn check_schema(schema: &TableSchema) -> Result<(), Error> {
    let table = &schema.name;
    let wrong = |what: String| Err(Error::new(ErrorKind::InvalidConfig, format!("the table `{table}` {what}")));
    let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if table.is_empty()
        || table.len() > 64
        || !table.bytes().all(named)
        || table.starts_with(|c: char| !c.is_ascii_lowercase())
    {
        return wrong("must be named by 1 to 64 lower-case letters, digits and `_`, the first a letter".to_owned());
    }
    if schema.field(ID).is_none() {
        return wrong(format!("has no field `{ID}`"));
    }
    for (position, field) in schema.fields.iter().enumerate() {
        if schema.fields[..position].iter().any(|earlier| earlier.name == field.name) {
            return wrong(format!("has two fields `{}`", field.name));
        }
    }
    for index in schema.indexes.iter() {
        if let Some(name) = index.fields.iter().find(|name| schema.field(name).is_none_or(|field| field.local)) {
            return wrong(format!("has an index over `{name}`, which is not a field that is sent"));
        }
    }
    Ok(())
}
