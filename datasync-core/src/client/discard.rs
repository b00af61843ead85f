//! Discard: what is queued for a row is dropped, and the row goes back to what the service has.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    client::{DatasyncClient, pending::queued_row},
    engine::{
        Engine,
        acks::Fate,
        answer::{self, Answer},
        committer::{Reads, Tx},
        conflict::with_local,
        journal::{self, JournalStep},
        links, scope,
        table::Tables,
    },
    error::{Context, Error, ErrorKind, SyncPhase},
    row::{Hold, Operation, ParkReason, Parked, RowKey},
};

/// How many operations in doubt are looked at in one call.
const MAX_LOOKS: usize = 100;

impl DatasyncClient {
    /// Drops the queued changes of a row: it goes back to the service's copy that they started from. If the service never
    /// had the row, queued rows that belong to it are parked.
    ///
    /// If an attempt is in doubt the row is first fetched from the service, to learn what became of it; a push that may be
    /// sending it is waited for. An attempt that was carried out after all leaves nothing to discard.
    ///
    /// Where this release of the app no longer has the table the whole row leaves, and an attempt in doubt is not asked about: a
    /// release that has the table pulls what the service has. [`export`](DatasyncClient::export) it first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if nothing is queued for the row, [`ErrorKind::UnknownTable`] if its table is not known either;
    /// [`ErrorKind::Quarantined`]: use [`discard_quarantined`](DatasyncClient::discard_quarantined); if an attempt is in doubt and
    /// the service cannot be asked or does not answer, [`ErrorKind::Unreachable`], [`ErrorKind::Unauthenticated`],
    /// [`ErrorKind::OtherAccount`] or [`ErrorKind::Service`]; [`ErrorKind::Contended`] if pushes send the rows again all the time;
    /// [`ErrorKind::Store`].
    pub async fn discard(&self, table: &str, id: &str) -> Result<(), Error> {
        self.drop_queued(table, id, false).await.map(drop).at(table, id).during(SyncPhase::Decide)
    }

    /// Drops the queued changes of a row as [`discard`](DatasyncClient::discard) does, and if the service never had the
    /// row, those of the queued rows that belong to it, and to them. Returns how many rows there were.
    ///
    /// # Errors
    ///
    /// As there. Nothing is dropped then.
    pub async fn discard_with_children(&self, table: &str, id: &str) -> Result<u64, Error> {
        self.drop_queued(table, id, true).await.at(table, id).during(SyncPhase::Decide)
    }

    async fn drop_queued(&self, table: &str, id: &str, children: bool) -> Result<u64, Error> {
        let key = self.kept_key(table, id);
        if !self.engine.tables.has(&key) {
            return self.drop_stranded(key).await;
        }
        let mut doubtful = key.clone();
        for look in 0..MAX_LOOKS {
            match settle_doubt(&self.engine, &doubtful).await {
                // The change, or that of a child, has left the queue since it was looked at.
                Err(error) if error.kind() == ErrorKind::NotFound && (look > 0 || doubtful != key) => {}
                settled => settled?,
            }
            let (tables, reads, first) = (Arc::clone(&self.engine.tables), Reads::row(key.clone()), key.clone());
            let plan = move |tx: &mut Tx<'_>| {
                let mut dropped = BTreeSet::new();
                let doubtful = doubt(tx, &tables, &first, children, &mut BTreeSet::new())?;
                if doubtful.is_none() {
                    drop_one(tx, &tables, &first, children, &mut dropped)?;
                    journal::note_rows(tx, dropped.iter().map(|key| (key, JournalStep::Discarded, None)));
                }
                Ok((doubtful, dropped.len() as u64))
            };
            match self.engine.committer.commit(reads, plan).await? {
                (None, dropped) => return Ok(dropped),
                (Some(next), _) => doubtful = next,
            }
        }
        let message = format!("{doubtful:?} is sent again and again: discard it when the push has ended");
        Err(Error::new(ErrorKind::Contended, message))
    }
}

impl DatasyncClient {
    /// Drops a row with queued changes whose table this release does not have.
    async fn drop_stranded(&self, key: RowKey) -> Result<u64, Error> {
        let (tables, reads) = (Arc::clone(&self.engine.tables), Reads::row(key.clone()));
        let plan = move |tx: &mut Tx<'_>| {
            if tx.row(&key)?.is_none_or(|row| row.operations.is_empty()) {
                tables.get(&key.table)?;
            }
            let row = queued_row(tx, &key)?;
            scope::forget_row(tx, &key, &row);
            journal::note_rows(tx, [(&key, JournalStep::Discarded, None)]);
            Ok(1)
        };
        self.engine.committer.commit(reads, plan).await
    }
}

/// A row whose operation is in doubt, among those that would be dropped.
fn doubt(
    tx: &mut Tx<'_>,
    tables: &Tables,
    key: &RowKey,
    children: bool,
    looked: &mut BTreeSet<RowKey>,
) -> Result<Option<RowKey>, Error> {
    let Some(row) = tx.row(key)?.filter(|row| !row.operations.is_empty()) else { return Ok(None) };
    if row.operations[0].in_doubt() {
        return Ok(Some(key.clone()));
    }
    looked.insert(key.clone());
    for link in tables.get(&key.table)?.children.iter().filter(|_| children) {
        for child in tx.children(key, link) {
            let belongs = tx.row(&child)?.is_some_and(|row| links::names(&row, link, key));
            if belongs && !looked.contains(&child) {
                let found = doubt(tx, tables, &child, true, looked)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
    }
    Ok(None)
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
    let table = tables.get(&key.table)?;
    let shown = match &first.hold {
        Hold::Parked(parked) => parked.conflict.clone(),
        _ => None,
    };
    let goes_back_to = match shown {
        Some(copy) => copy.live().cloned(),
        None => row.base.clone().filter(|base| !base.deleted),
    };
    row.record = goes_back_to.map(|copy| with_local(table, copy, row.local()));
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
///
/// | the process dies … | what is left |
/// | --- | --- |
/// | before the first commit | the operation as it was |
/// | after it | the operation parked, still in doubt, so that no push sends it while its row is looked at |
/// | after the second one | its outcome |
async fn settle_doubt(engine: &Engine, key: &RowKey) -> Result<(), Error> {
    let (reads, of) = (Reads::row(key.clone()), key.clone());
    let stop = move |tx: &mut Tx<'_>| {
        let mut row = queued_row(tx, &of)?;
        let first = row.operations[0].clone();
        if !first.in_doubt() {
            return Ok(None);
        }
        let stopped = match &first.hold {
            Hold::Parked(_) => first.hold.clone(),
            _ => stopped(),
        };
        row.operations[0].hold = stopped.clone();
        tx.put(&of, row);
        Ok(Some((first, stopped)))
    };
    let Some((first, stopped)) = engine.committer.commit(reads, stop).await? else { return Ok(()) };
    if first.hold == Hold::Ready || first.hold == self::stopped() {
        // It may be on its way, also if another look has stopped it: its answer says more than a look at the row would.
        engine.await_push(&key.account).await;
    }
    let table = Arc::clone(engine.tables.get(&key.table)?);
    let looked = engine.look(key).await.map(Answer::Looked).map_err(|error| {
        let tried = || format!("asking what became of the {} of {key:?}", first.kind);
        Error::from(error).at(&key.table, &key.id).doing(first.kind).during(SyncPhase::Decide).trying(tried)
    });
    let (reads, of) = (Reads::row(key.clone()), key.clone());
    let failed = looked.as_ref().err().map(|_| first.hold.clone());
    let answer = looked.as_ref().ok().cloned();
    let plan = move |tx: &mut Tx<'_>| {
        let Some(mut row) = tx.row(&of)? else { return Ok(()) };
        let is_stopped = |operation: &&mut Operation| {
            operation.place == first.place && operation.in_doubt() && operation.hold == stopped
        };
        // One that was sent meanwhile may be on its way again: what was seen says nothing of that.
        let Some(operation) = row.operations.first_mut().filter(is_stopped) else { return Ok(()) };
        if let Some(answer) = &answer {
            return answer::apply(tx, &table, &of, first.place, true, answer).map(drop);
        }
        if let Some(before) = &failed {
            operation.hold = before.clone();
            tx.put(&of, row);
        }
        Ok(())
    };
    engine.committer.commit(reads, plan).await?;
    looked?;
    Ok(())
}

/// How an operation waits while its row is looked at; somebody sees it only if the look was cut off.
fn stopped() -> Hold {
    let message = "it was being found out what became of it: retry or discard it".to_owned();
    Hold::Parked(Parked { reason: ParkReason::Exhausted, status: None, message, conflict: None })
}
