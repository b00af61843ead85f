//! Purge: rows leave this device, and nothing that is nowhere else leaves with them unless that is asked for (I20).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    client::{
        offline::IntoQuery,
        pending::PendingChange,
        reset::{self, refuse},
        search::search,
    },
    engine::{
        Engine,
        acks::Fate,
        committer::{Reads, Tx},
        journal::{Happened, JournalStep},
        links,
        table::Table,
    },
    error::Error,
    query::{Query, QueryDescription},
    report::PurgeReport,
    row::{Row, RowKey, SettledLoser},
    store::{Clear, ScopeKey},
};

/// What the error of a refused purge says to do.
const ADVICE: &str = "push first, or force the purge to drop them";

/// What to purge; by default the whole table, if nothing in it waits to be sent.
#[derive(Clone, Debug)]
#[must_use]
pub struct PurgeOptions<E> {
    pub(crate) query: Query<E>,
    pub(crate) force: bool,
}

impl<E> Default for PurgeOptions<E> {
    fn default() -> Self {
        PurgeOptions { query: Query::new(), force: false }
    }
}

impl<E> PurgeOptions<E> {
    /// Only the rows of this query; with `top`, only so many of them, the first in its order. Rows that were deleted here
    /// and not yet pushed belong to a purge of the whole table only.
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
    let account = engine.account();
    let of_table = Clear { account: Arc::clone(&account), table: Some(Arc::clone(&table.name)) };
    if query == QueryDescription::default() {
        let removed = reset::remove(engine, vec![of_table], force, ADVICE, |_, _| Ok(())).await;
        return removed.map_err(|error| error.of(&table.name));
    }
    let found = search(engine, table, &query).await?.rows.into_iter();
    let key = |id| RowKey { account: Arc::clone(&account), table: Arc::clone(&table.name), id };
    let rows: Vec<RowKey> = found.map(|(id, _)| key(id)).collect();
    let total = rows.len() as u64;
    let tokens = engine.store.scopes(&account, &table.name).await?.into_iter().collect();
    let reads = Reads::rows(rows.clone()).losers(account);
    let (crossing, purged) = (Arc::clone(&engine.crossing), rows.clone());
    let plan = Plan { table: Arc::clone(table), rows, tokens, of_table, force };
    // A comparison that is on its way must not bring them back: neither if nobody waits for the commit any more, nor if it
    // begins while that is made.
    let planned = move |tx: &mut Tx<'_>| {
        plan.rows.iter().for_each(|key| crossing.changed(key));
        plan.run(tx)
    };
    let done = reset::commit_telling(engine, Some(&table.name), total, reads, planned).await;
    purged.iter().for_each(|key| engine.crossing.changed(key));
    done
}

struct Plan {
    table: Arc<Table>,
    rows: Vec<RowKey>,
    /// The scopes that had a token shortly before.
    tokens: BTreeSet<ScopeKey>,
    of_table: Clear,
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
        let mut losers = tx.losers(&self.of_table);
        losers.retain(|loser| found.contains_key(&loser.key));
        let queued =
            found.iter().flat_map(|(key, row)| row.operations.iter().map(|queued| PendingChange::of(key, queued)));
        let lost: Vec<PendingChange> = queued.chain(losers.iter().map(PendingChange::of_loser)).collect();
        report.dropped = lost.len() as u64;
        if !lost.is_empty() && !self.force {
            return Err(refuse(lost, ADVICE));
        }
        let mut held: BTreeSet<ScopeKey> = BTreeSet::new();
        for (key, row) in found {
            report.rows += u64::from(row.record.is_some());
            row.operations.iter().for_each(|operation| tx.fate(operation.place, Fate::Purged));
            held.extend(row.scopes.iter().map(|scope| ScopeKey {
                account: Arc::clone(&key.account),
                table: Arc::clone(&key.table),
                scope: Arc::clone(scope),
            }));
            tx.put(key, Row::default());
            if row.operations.iter().any(|operation| links::creates(operation.kind)) {
                links::park_children(tx, &self.table, key)?;
            }
        }
        for SettledLoser { id, .. } in losers {
            tx.remove_loser(id);
        }
        for scope in held {
            if !self.tokens.contains(&scope) {
                // Its first pull is under way, and has no token yet by which it would learn of this.
                tx.raise_generation();
            }
            tx.set_token(&scope, None);
        }
        if report.rows > 0 {
            let removed = Happened::new(JournalStep::Removed).of(&self.table.name).rows(report.rows);
            tx.journal(&self.of_table.account, removed);
        }
        Ok(report)
    }
}
