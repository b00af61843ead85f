//! Discard: what is queued for a row is dropped, and the row goes back to what the service has.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    body,
    client::{DatasyncClient, pending::queued_row},
    engine::{
        Engine,
        acks::Fate,
        answer::{self, Answer, Effect},
        committer::{Reads, Tx},
        links,
        table::Tables,
    },
    error::{Error, ErrorKind},
    row::{Hold, Phase, Record, RowKey},
};

impl DatasyncClient {
    /// Drops the queued changes of a row: it goes back to the service's copy that they started from. If the service never
    /// had the row, queued rows that belong to it are parked.
    ///
    /// If an attempt is in doubt the row is first fetched from the service, to learn what became of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if nothing is queued for the row; [`ErrorKind::Unreachable`] if an attempt is in doubt
    /// and the service cannot be asked; [`ErrorKind::Pending`] if the operation is being sent at the moment.
    pub async fn discard(&self, table: &str, id: &str) -> Result<(), Error> {
        self.drop_queued(table, id, false).await.map(drop)
    }

    /// Drops the queued changes of a row as [`discard`](DatasyncClient::discard) does, and if the service never had the
    /// row, those of the queued rows that belong to it, and to them. Returns how many rows there were.
    ///
    /// # Errors
    ///
    /// As there. Nothing is dropped then.
    pub async fn discard_with_children(&self, table: &str, id: &str) -> Result<u64, Error> {
        self.drop_queued(table, id, true).await
    }

    async fn drop_queued(&self, table: &str, id: &str, children: bool) -> Result<u64, Error> {
        let key = self.pending_key(table, id)?;
        settle_doubt(&self.engine, &key).await?;
        let (tables, reads) = (Arc::clone(&self.engine.tables), Reads::row(key.clone()));
        let plan = move |tx: &mut Tx<'_>| {
            let mut dropped = BTreeSet::new();
            drop_one(tx, &tables, &key, children, &mut dropped)?;
            Ok(dropped.len() as u64)
        };
        self.engine.committer.commit(reads, plan).await
    }
}

fn drop_one(
    tx: &mut Tx<'_>,
    tables: &Tables,
    key: &RowKey,
    children: bool,
    dropped: &mut BTreeSet<RowKey>,
) -> Result<(), Error> {
    let Some(before) = tx.row(key)? else { return Ok(()) };
    let mut row = before.clone();
    let Some(first) = row.operations.first() else { return Ok(()) };
    if first.in_doubt() {
        let message = format!("{key:?} is being sent: discard it when the push has ended");
        return Err(Error::new(ErrorKind::Pending, message));
    }
    let table = tables.get(&key.table)?;
    let shown = match &first.hold {
        Hold::Parked(parked) => parked.conflict.clone(),
        _ => None,
    };
    row.record = match shown {
        Some(copy) => copy.live().map(|copy| {
            let ours = row.record.as_ref().map(|ours| &ours.body);
            Record { body: body::carry_local(&table.schema, &copy.body, ours), ..copy.clone() }
        }),
        None => row.base.take().filter(|base| !base.deleted),
    };
    row.base = None;
    row.seen = None;
    row.operations.drain(..).for_each(|operation| tx.fate(operation.place, Fate::Discarded));
    row.revision += 1;
    dropped.insert(key.clone());
    if children && row.record.is_none() {
        for link in &table.children {
            for child in tx.children(key, link) {
                let belongs = tx.row(&child)?.is_some_and(|row| links::names(&row, link, key));
                if belongs && !dropped.contains(&child) {
                    drop_one(tx, tables, &child, true, dropped)?;
                }
            }
        }
    }
    links::settle(tx, table, key, Some(&before), &row)?;
    tx.put(key, row);
    Ok(())
}

/// Learns the outcome of an operation in doubt by fetching its row (I5).
async fn settle_doubt(engine: &Engine, key: &RowKey) -> Result<(), Error> {
    let read = Reads::row(key.clone());
    let wanted = key.clone();
    let first = engine.committer.commit(read, move |tx| Ok(queued_row(tx, &wanted)?.operations[0].clone())).await?;
    if first.phase != Phase::InDoubt {
        return Ok(());
    }
    let copy = engine.fetch(key).await?;
    let table = Arc::clone(engine.tables.get(&key.table)?);
    let (reads, key) = (Reads::row(key.clone()), key.clone());
    let answer = Answer::ConflictThenFetched(copy);
    let plan = move |tx: &mut Tx<'_>| answer::apply(tx, &table, &key, first.place, true, &answer);
    let effect: Effect = engine.committer.commit(reads, plan).await?;
    drop(effect);
    Ok(())
}
