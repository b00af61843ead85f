//! Purge: rows leave this device, and nothing that was not sent leaves with them unless that is asked for (I20).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::Uuid;

use crate::{
    client::{
        offline::IntoQuery,
        pending::{PendingChange, PendingState, queued},
        search::search,
    },
    engine::{
        Engine,
        acks::Fate,
        committer::{Reads, Tx},
        table::Table,
    },
    entity::SyncEntity,
    error::Error,
    query::{Query, QueryDescription},
    report::PurgeReport,
    row::{OperationKind, Row, RowKey, SettledLoser, Side},
    store::ScopeKey,
};

/// What to purge; by default the whole table, if nothing in it waits to be sent.
#[derive(Clone, Debug)]
#[must_use]
pub struct PurgeOptions<E> {
    pub(crate) query: Query<E>,
    pub(crate) force: bool,
}

impl<E: SyncEntity> Default for PurgeOptions<E> {
    fn default() -> Self {
        PurgeOptions { query: Query::new(), force: false }
    }
}

impl<E: SyncEntity> PurgeOptions<E> {
    /// Only the rows of this query. Rows that were deleted here and not yet pushed belong to a purge of the whole
    /// table only.
    pub fn query(mut self, query: impl IntoQuery<E>) -> PurgeOptions<E> {
        self.query = query.into_query();
        self
    }

    /// Drops unsent changes, conflicts and settled losers of the rows too.
    pub fn force(mut self) -> PurgeOptions<E> {
        self.force = true;
        self
    }
}

/// Nothing is lost if the process dies: rows, operations, losers and tokens go in one commit.
pub(crate) async fn purge(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    query: QueryDescription,
    force: bool,
) -> Result<PurgeReport, Error> {
    let whole = query == QueryDescription::default();
    let mut ids: BTreeSet<Arc<str>> = search(engine, table, &query).await?.rows.into_iter().map(|(id, _)| id).collect();
    if whole {
        let queued = queued(engine, engine.account(), Some(vec![Arc::clone(&table.name)])).await?;
        ids.extend(queued.into_iter().map(|queued| queued.key.id));
    }
    let losers = losers(engine, table, if whole { None } else { Some(&ids) }).await?;
    if !losers.is_empty() && !force {
        let pending = losers.iter().map(lost).collect();
        return Err(refuse(table, pending));
    }
    let rows: Vec<RowKey> = ids.iter().map(|id| engine.key(table, Arc::clone(id))).collect();
    let tokens = engine.store.scopes(&engine.account(), &table.name).await?;
    let plan = Plan {
        table: Arc::clone(table),
        rows: rows.clone(),
        scopes: tokens,
        losers: losers.iter().map(|loser| loser.id).collect(),
        whole,
        force,
    };
    engine.committer.commit(Reads::rows(rows), move |tx| plan.run(tx)).await
}

struct Plan {
    table: Arc<Table>,
    rows: Vec<RowKey>,
    scopes: Vec<ScopeKey>,
    losers: Vec<Uuid>,
    whole: bool,
    force: bool,
}

impl Plan {
    fn run(&self, tx: &mut Tx<'_>) -> Result<PurgeReport, Error> {
        let mut report = PurgeReport::default();
        let mut found: BTreeMap<&RowKey, Row> = BTreeMap::new();
        for key in &self.rows {
            if let Some(row) = tx.row(key)? {
                found.insert(key, row);
            }
        }
        let pending: Vec<PendingChange> = found
            .iter()
            .flat_map(|(key, row)| row.operations.iter().map(|operation| PendingChange::of(key, operation)))
            .collect();
        if !pending.is_empty() && !self.force {
            return Err(refuse(&self.table, pending));
        }
        let mut held: BTreeSet<Arc<str>> = BTreeSet::new();
        for (key, row) in found {
            report.rows += u64::from(row.record.is_some());
            report.dropped += row.operations.len() as u64;
            row.operations.iter().for_each(|operation| tx.fate(operation.place, Fate::Purged));
            held.extend(row.scopes);
            tx.put(key, Row::default());
        }
        for scope in &self.scopes {
            if self.whole || held.contains(&scope.scope) {
                tx.set_token(scope, None);
            }
        }
        for loser in &self.losers {
            tx.remove_loser(*loser);
        }
        Ok(report)
    }
}

fn refuse(table: &Table, pending: Vec<PendingChange>) -> Error {
    let count = pending.len();
    let message = format!(
        "`{}` has {count} unsent change{}: push first, or force the purge to drop them",
        table.name,
        if count == 1 { "" } else { "s" }
    );
    Error::with_pending(message, pending)
}

fn lost(loser: &SettledLoser) -> PendingChange {
    PendingChange {
        table: Arc::clone(&loser.key.table),
        id: Arc::clone(&loser.key.id),
        kind: OperationKind::Replace,
        state: PendingState::Loser,
        in_doubt: false,
    }
}

/// The losers of this device in the table, or in these of its rows.
async fn losers(engine: &Engine, table: &Table, ids: Option<&BTreeSet<Arc<str>>>) -> Result<Vec<SettledLoser>, Error> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = engine.store.losers(&engine.account(), after, 1_000).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.id);
        found.extend(page.into_iter().filter(|loser| {
            loser.side == Side::Local
                && loser.key.table == table.name
                && ids.is_none_or(|ids| ids.contains(&loser.key.id))
        }));
    }
}
