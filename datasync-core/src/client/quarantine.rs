//! What could not be migrated to the schema of this release: it waits until a migration was mended, or somebody decides.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    client::{DatasyncClient, PendingChange, migrate},
    engine::{
        Engine, account,
        committer::{Reads, Tx},
        journal::{self, JournalStep},
        links,
        migrate::loser_in_present,
        scope,
    },
    error::{Context, Error, ErrorKind, SyncPhase},
    row::{Quarantine, Row, RowKey, SettledLoser},
};

/// Something that could not be migrated.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantined {
    /// The table.
    pub table: Arc<str>,
    /// The row.
    pub id: Arc<str>,
    /// Why: what the migration said, or what of the row does not fit its entity.
    pub reason: String,
    /// The version of the table's schema that it follows.
    pub schema: u32,
    /// The unsent changes of the row, which wait with it.
    pub pending: Vec<PendingChange>,
    /// The id of the settled loser, if that is what could not be migrated, and not a row.
    pub loser: Option<Uuid>,
}

impl DatasyncClient {
    /// What could not be migrated to the schema of this release: rows, which are then neither shown nor sent, and settled
    /// losers. Each start of the app tries again.
    ///
    /// A row that has no unsent changes leaves the quarantine by itself when a pull brings a copy of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn quarantined(&self) -> Result<Vec<Quarantined>, Error> {
        self.in_quarantine().await.during(SyncPhase::Read)
    }

    async fn in_quarantine(&self) -> Result<Vec<Quarantined>, Error> {
        let engine = &self.engine;
        let mut found = Vec::new();
        let keys = migrate::quarantined(&*engine.store, Some(&engine.account())).await?;
        for page in keys.chunks(1_000) {
            let rows = engine.store.get(page).await?;
            found.extend(page.iter().zip(rows).filter_map(|(key, row)| of_row(key, &row?)));
        }
        for loser in all_losers(engine).await? {
            let Some(table) = engine.tables.0.get(&loser.key.table) else { continue };
            if let Err(reason) = loser_in_present(table, &loser) {
                let (table, id) = (Arc::clone(&loser.key.table), Arc::clone(&loser.key.id));
                let (schema, loser) = (loser.schema, Some(loser.id));
                found.push(Quarantined { table, id, reason, schema, pending: Vec::new(), loser });
            }
        }
        Ok(found)
    }

    /// Drops a row that is in quarantine, with the unsent changes that wait with it; whether one that was in doubt has had
    /// its effect stays unknown. The tokens of the scopes that hold the row go too: the next pull brings what the
    /// service has. [`export`](DatasyncClient::export) it first. A settled loser is dropped with
    /// [`forget_losers`](DatasyncClient::forget_losers).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if the row is not in quarantine, [`ErrorKind::UnknownTable`] if its table is not known either;
    /// [`ErrorKind::Store`].
    pub async fn discard_quarantined(&self, table: &str, id: &str) -> Result<(), Error> {
        let key = self.kept_key(table, id);
        let (reads, tables) = (Reads::row(key.clone()), Arc::clone(&self.engine.tables));
        let plan = move |tx: &mut Tx<'_>| {
            account::check(tx, &key)?;
            let row = tx.row(&key)?.unwrap_or_default();
            let Some(Quarantine { reason, .. }) = &row.quarantine else {
                tables.get(&key.table)?;
                return Err(Error::new(ErrorKind::NotFound, format!("{key:?} is not in quarantine")));
            };
            if let Some(table) = tables.0.get(&key.table)
                && row.operations.iter().any(|operation| links::creates(operation.kind))
            {
                links::park_children(tx, table, &key)?;
            }
            scope::forget_row(tx, &key, &row);
            tx.set_note(&migrate::note_of(&key), None);
            let why = format!("it was in quarantine: {reason}");
            journal::note_rows(tx, [(&key, JournalStep::Discarded, Some(why))]);
            Ok(())
        };
        self.engine.committer.commit(reads, plan).await.at(table, id).during(SyncPhase::Decide)
    }
}

fn of_row(key: &RowKey, row: &Row) -> Option<Quarantined> {
    let held = row.quarantine.as_ref()?;
    Some(Quarantined {
        table: Arc::clone(&key.table),
        id: Arc::clone(&key.id),
        reason: held.reason.clone(),
        schema: held.schema,
        pending: row.operations.iter().map(|operation| PendingChange::of(key, operation)).collect(),
        loser: None,
    })
}

/// Every settled loser of the account, as it is stored.
pub(super) async fn all_losers(engine: &Engine) -> Result<Vec<SettledLoser>, Error> {
    let account = engine.account();
    let mut all: Vec<SettledLoser> = Vec::new();
    loop {
        let after = all.last().map(|loser| loser.id);
        let page = engine.store.losers(&account, after, 1_000).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}
