//! Bodies that lost a conflict, or went with their row: they are kept until the app removes them or their age has passed.

use std::{collections::BTreeSet, sync::Arc};

use uuid::Uuid;

use crate::{
    body,
    client::{DatasyncClient, quarantine, row_type::RowType},
    engine::{
        change::{self, Change},
        committer::{Reads, Tx},
        journal::{self, JournalStep},
        migrate::loser_in_present,
    },
    error::{Context, Error, ErrorKind, SyncPhase},
    row::{Body, LoserCause, Record, RowKey, SettledLoser},
    store::Clear,
};

impl DatasyncClient {
    /// The bodies that lost conflicts which a policy, a resolver or a person settled, or went with their row when the service
    /// was restored from a backup; oldest first. After the configured `loser_age` they are removed. One that could not be
    /// migrated to this release's schema is not among them, but in [`quarantined`](DatasyncClient::quarantined).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn settled_losers(&self) -> Result<Vec<SettledLoser>, Error> {
        let mut all = quarantine::all_losers(&self.engine).await.during(SyncPhase::Read)?;
        all.retain_mut(|loser| match self.engine.tables.0.get(&loser.key.table) {
            Some(table) => loser_in_present(table, loser).map(|present| *loser = present).is_ok(),
            None => true,
        });
        Ok(all)
    }

    /// Brings a body that was lost back as a local edit: its row is replaced, or inserted if it is gone, and the next push
    /// sends it over what the service has then. The settled loser is removed in the same commit. Fields that stay on this
    /// device, and those that this build does not know, stay as the row has them. The latter come back with the body if the
    /// row is gone here, or went with a service that was restored from a backup.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such settled loser; [`ErrorKind::UnknownTable`] if the client no longer has its
    /// table; [`ErrorKind::Quarantined`] if its body could not be migrated to this release's schema; [`ErrorKind::Store`].
    pub async fn restore_loser(&self, id: Uuid) -> Result<(), Error> {
        self.bring_back(id).await.during(SyncPhase::Decide)
    }

    async fn bring_back(&self, id: Uuid) -> Result<(), Error> {
        let before = id.as_u128().checked_sub(1).map(Uuid::from_u128);
        let found = self.engine.store.losers(&self.engine.account(), before, 1).await?.pop();
        let Some(loser) = found.filter(|loser| loser.id == id) else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no settled loser {id}")));
        };
        let RowKey { table, id: row, .. } = loser.key.clone();
        let table = Arc::clone(self.engine.tables.get(&table).at(&table, &row)?);
        let loser = loser_in_present(&table, &loser).map_err(|reason| {
            let message = format!("the settled loser {id} could not be migrated to this release's schema: {reason}");
            Error::new(ErrorKind::Quarantined, message).at(&table.name, &row)
        })?;
        let (name, reads) = (Arc::clone(&table.name), Reads::row(loser.key.clone()));
        let plan = move |tx: &mut Tx<'_>| {
            let row = tx.row(&loser.key)?.unwrap_or_default();
            let mut body = body::carry_local(&table.schema, &loser.body, row.local());
            if let Some(now) = row.record.as_ref().filter(|_| loser.cause != LoserCause::Vanished) {
                body = body::carry_unknown(&table.schema, &body, Some(&body), now);
            }
            change::apply(tx, &table, &loser.key, &Change::Upsert(body))?;
            tx.remove_loser(loser.id);
            journal::note_rows(tx, [(&loser.key, JournalStep::BroughtBack, None)]);
            Ok(())
        };
        self.engine.committer.commit(reads, plan).await.at(&name, &row)
    }

    /// Removes settled losers that nobody needs any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn forget_losers(&self, ids: impl IntoIterator<Item = Uuid>) -> Result<(), Error> {
        let ids: BTreeSet<Uuid> = ids.into_iter().collect();
        let of_account = Clear { account: self.engine.account(), table: None };
        let reads = Reads::default().losers(Arc::clone(&of_account.account));
        let plan = move |tx: &mut Tx<'_>| {
            let mut losers = tx.losers(&of_account);
            losers.retain(|loser| ids.contains(&loser.id));
            let keys = losers.iter().map(|loser| &loser.key);
            journal::note_many(tx, JournalStep::Forgotten, keys, Some("by hand"));
            ids.iter().for_each(|id| tx.remove_loser(*id));
            Ok(())
        };
        self.engine.committer.commit(reads, plan).await.during(SyncPhase::Decide)
    }
}

impl SettledLoser {
    /// The body as an entity, or as JSON: `entity::<serde_json::Value>()`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEntity`] if it cannot be read as `E`.
    pub fn entity<E: RowType>(&self) -> Result<E, Error> {
        let body: &Body = &self.body;
        let record = Record { body: body.clone(), version: self.version.clone(), updated_at: None, deleted: false };
        E::of_record(None, &[], &self.key.id, &record)
    }
}
