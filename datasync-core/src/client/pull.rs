//! Pulls as an app asks for them, and the comparison with the service.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, stream};

use crate::{
    client::{
        DatasyncClient, Tables,
        offline::{IntoQuery, OfflineQuery, OfflineTable},
        row_type::RowType,
    },
    config::MAX_PAGE_SIZE,
    engine::{
        Engine,
        pull::{self, ImplicitPush, Wanted},
        push::{self, Tries},
        scope,
        table::Table,
        verify,
    },
    entity::check_id,
    error::{Context, Error, ErrorKind, SyncPhase},
    query::{Evaluator, Query, QueryDescription},
    report::{PullReport, VerifyReport},
    schema::{ID, SERVICE_OWNED, TableSchema},
};

/// What to pull: a query, and how.
#[derive(Clone, Debug)]
#[must_use]
pub struct PullOptions<E> {
    query: Query<E>,
    query_id: Option<String>,
    page_size: Option<u32>,
    push: ImplicitPush,
}

impl<E> Default for PullOptions<E> {
    fn default() -> Self {
        PullOptions { query: Query::new(), query_id: None, page_size: None, push: ImplicitPush::default() }
    }
}

impl<E> PullOptions<E> {
    /// Pulls the rows of this query; every row of the table by default.
    pub fn query(mut self, query: impl IntoQuery<E>) -> PullOptions<E> {
        self.query = query.into_query();
        self
    }

    /// Gives the query a name, as in Datasync's `QueryId`: if its filter changes, the pull begins again, and the rows that
    /// are no longer in it leave this device. The rule for ids holds.
    pub fn query_id(mut self, id: impl Into<String>) -> PullOptions<E> {
        self.query_id = Some(id.into());
        self
    }

    /// How many rows a page holds at most, 1 to 10,000; the configured number by default.
    pub fn page_size(mut self, rows: u32) -> PullOptions<E> {
        self.page_size = Some(rows);
        self
    }

    /// Pushes every table first, and not only the pulled one, if that has pending changes; as in Datasync's
    /// `PushOtherTables`.
    pub fn push_other_tables(mut self) -> PullOptions<E> {
        self.push = ImplicitPush::All;
        self
    }

    /// Pushes nothing first: the pull goes on around what is queued.
    pub fn no_push(mut self) -> PullOptions<E> {
        self.push = ImplicitPush::Nothing;
        self
    }

    fn wanted(self, table: &Table) -> Result<Wanted, Error> {
        let PullOptions { query, query_id, page_size, push } = self;
        if page_size.is_some_and(|rows| !(1..=MAX_PAGE_SIZE).contains(&rows)) {
            let message = format!("a page of a pull holds 1 to {MAX_PAGE_SIZE} rows");
            return Err(Error::new(ErrorKind::InvalidQuery, message));
        }
        wanted(table, query.into_description(), query_id, page_size, push)
    }
}

fn wanted(
    table: &Table,
    query: QueryDescription,
    query_id: Option<String>,
    page_size: Option<u32>,
    push: ImplicitPush,
) -> Result<Wanted, Error> {
    check_filter(&table.schema, &query).map_err(|why| Error::new(ErrorKind::InvalidQuery, why))?;
    if let Some(id) = &query_id {
        check_id(id)?;
    }
    Ok(Wanted { query, query_id, page_size, push })
}

/// Whether a service can be asked by the filter: it has neither unknown fields nor those that stay on the device.
pub(super) fn check_filter(schema: &TableSchema, query: &QueryDescription) -> Result<(), String> {
    let mut refused = None;
    if let Some(filter) = &query.filter {
        filter.visit_fields(&mut |name| match schema.field(name) {
            Some(field) if field.local => {
                refused = Some(format!("`{name}` stays on the device, so that the service cannot be asked by it"));
            }
            None if name != ID && !SERVICE_OWNED.contains(&name) => {
                refused = Some(format!("`{}` has no property `{name}`", schema.name));
            }
            _ => {}
        });
    }
    match refused {
        Some(why) => Err(why),
        None => Evaluator::new(query, schema).map(drop).map_err(|error| error.to_string()),
    }
}

impl<E> From<Query<E>> for PullOptions<E> {
    fn from(query: Query<E>) -> Self {
        PullOptions::default().query(query)
    }
}

impl<E> From<OfflineQuery<E>> for PullOptions<E> {
    fn from(query: OfflineQuery<E>) -> Self {
        PullOptions::default().query(query)
    }
}

impl<E: RowType> OfflineTable<E> {
    /// Pulls the rows of a query that have changed since its last pull; pending changes of the table are pushed first.
    ///
    /// Order, `skip` and `top` of the query are not looked at. A pull of the same query under way is joined.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unreachable`] and [`ErrorKind::Unauthenticated`], [`ErrorKind::Service`], [`ErrorKind::Overtaken`],
    /// [`ErrorKind::InvalidQuery`], [`ErrorKind::Store`]. Pages that were stored stay, and the next pull goes on
    /// behind them.
    pub async fn pull_items(&self, options: impl Into<PullOptions<E>>) -> Result<PullReport, Error> {
        let wanted = options.into().wanted(&self.table).of(&self.table.name).during(SyncPhase::Pull)?;
        pull::pull(&self.engine, &self.table, wanted).await
    }

    /// Compares the rows of a query that was pulled with the service, by id and version, and repairs what differs: rows
    /// that were hard-deleted, or left the query, on a service that does not tell. It costs one request for each thousand
    /// rows, and one for each row that differs. Rows with unsent changes are left alone, and no token moves.
    ///
    /// # Errors
    ///
    /// As [`pull_items`](OfflineTable::pull_items); what was repaired so far stays.
    pub async fn verify_items(&self, options: impl Into<PullOptions<E>>) -> Result<VerifyReport, Error> {
        let wanted = options.into().wanted(&self.table).of(&self.table.name).during(SyncPhase::Verify)?;
        let query = scope::pulled(&wanted.query);
        let account = self.engine.account();
        let signed_in = self.engine.check_sign_in(&account).await;
        signed_in.of(&self.table.name).during(SyncPhase::Verify)?;
        let scope = scope::scope(account, &self.table, &query, wanted.query_id.as_deref());
        let verified = verify::verify(&self.engine, &self.table, &scope, &query, false).await;
        verified.map_err(|error| {
            let tried = || format!("comparing `{}` with the service", self.table.name);
            error.of(&self.table.name).during(SyncPhase::Verify).trying(tried)
        })
    }
}

impl DatasyncClient {
    /// Pushes these tables, then pulls each by the query that the configuration names for it (`[tables.<name>]` with
    /// `filter` and `query_id`; every row without it), several at once. Returns what each pull has done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownTable`]; that of the push if the service cannot be reached or refuses the sign-in; else that of
    /// the first table whose pull failed, as [`OfflineTable::pull_items`], after the others were pulled.
    pub async fn pull_tables(&self, tables: impl Into<Tables>) -> Result<BTreeMap<Arc<str>, PullReport>, Error> {
        let Tables(names) = tables.into();
        let known = &self.engine.tables;
        let chosen: Vec<Arc<Table>> = match &names {
            None => known.0.values().cloned().collect(),
            Some(names) => {
                let known = names.iter().map(|name| known.get(name).cloned());
                known.collect::<Result<_, Error>>().during(SyncPhase::Pull)?
            }
        };
        let account = self.engine.account();
        // A sign-in that was refused is tried with the first page and not with operations.
        if self.engine.paused(&account).await.during(SyncPhase::Pull)?.is_none() {
            push::push(&self.engine, account, names, Tries::Nothing).await?;
        }
        let pulls = chosen.into_iter().map(|table| pull_configured(&self.engine, table));
        let done: Vec<_> = stream::iter(pulls).buffered(self.engine.settings.parallel_pulls).collect().await;
        done.into_iter().collect()
    }
}

/// Pulls a table by the query of the configuration, and pushes nothing before it.
pub(super) async fn pull_configured(engine: &Arc<Engine>, table: Arc<Table>) -> Result<(Arc<str>, PullReport), Error> {
    let (query, query_id) = (table.pulled.clone(), table.query_id.clone());
    let wanted =
        wanted(&table, query, query_id, None, ImplicitPush::Nothing).of(&table.name).during(SyncPhase::Pull)?;
    Ok((Arc::clone(&table.name), pull::pull(engine, &table, wanted).await?))
}
