//! Rows that belong to other rows: who goes first, and what becomes of a child whose parent is gone (I7, I8).
//!
//! | queued | waits for |
//! | --- | --- |
//! | insert, replace or undelete of a child | the insert or undelete of the parent that its body names |
//! | delete of a parent | every queued operation of a row that names it, or named it before |
//!
//! Nothing of it is stored with the operations: who waits for whom is asked of the rows each time. A row with queued
//! operations has an entry in an index of its own for each parent that its bodies name, so that a parent finds them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use crate::{
    body,
    engine::{
        Engine,
        committer::{Reads, Tx},
        journal,
        table::Table,
    },
    error::{Error, ErrorKind},
    row::{Body, Hold, Operation, OperationKind, ParkReason, Parked, Row, RowKey},
    store::{Cursor, Direction, KeyBytes, ScanRequest},
};

/// A field that names a row of another table, or of its own.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// The table whose rows have the field.
    pub(crate) child: Arc<str>,
    pub(crate) field: Arc<str>,
    /// The table of the row that it names.
    pub(crate) parent: Arc<str>,
    /// The index that leads from the parent to queued children.
    pub(crate) index: Arc<str>,
}

/// The links of a set of tables.
///
/// # Errors
///
/// A parent that is none of the tables.
pub(crate) fn connect(tables: &mut BTreeMap<Arc<str>, Table>) -> Result<(), Error> {
    let mut links = Vec::new();
    for table in tables.values() {
        for field in table.schema.fields.iter() {
            let Some(parent) = &field.parent else { continue };
            if !tables.contains_key(parent.as_ref()) {
                let known: Vec<&str> = tables.keys().map(AsRef::as_ref).collect();
                let message = format!(
                    "`{}.{}` belongs to the table `{parent}`, which was not added to the client; it has {}",
                    table.name,
                    field.name,
                    known.join(", ")
                );
                return Err(Error::new(ErrorKind::InvalidConfig, message));
            }
            links.push(Link {
                child: Arc::clone(&table.name),
                field: field.name.as_ref().into(),
                parent: parent.as_ref().into(),
                index: format!("parent:{}", field.name).into(),
            });
        }
    }
    for link in links {
        if let Some(table) = tables.get_mut(&link.parent) {
            table.children.push(link.clone());
        }
        if let Some(table) = tables.get_mut(&link.child) {
            table.parents.push(link);
        }
    }
    Ok(())
}

/// The entries by which parents find a row that has queued operations.
pub(crate) fn link_keys(table: &Table, row: &Row) -> Vec<(Arc<str>, KeyBytes)> {
    if row.operations.is_empty() {
        return Vec::new();
    }
    let record = row.record.as_ref().map(|record| &record.body);
    let base = row.base.as_ref().map(|base| &base.body);
    let held = row.quarantine.iter().flat_map(|held| held.record.iter().chain(&held.base)).map(|record| &record.body);
    let frozen = row.operations.iter().filter_map(|operation| operation.frozen.as_ref());
    let bodies: Vec<&Body> = record.into_iter().chain(base).chain(held).chain(frozen).collect();
    let mut keys = BTreeSet::new();
    for link in &table.parents {
        for body in &bodies {
            keys.extend(body::text(body, &link.field).map(|id| (Arc::clone(&link.index), id.into_bytes())));
        }
    }
    keys.into_iter().collect()
}

/// A scan of the entries by which a parent finds rows of a table that have queued operations, as [`link_keys`] has written them.
pub(crate) fn naming(parent: &RowKey, child: &Arc<str>, index: &Arc<str>, limit: usize) -> ScanRequest {
    let id = parent.id.as_bytes().to_vec();
    ScanRequest {
        account: Arc::clone(&parent.account),
        table: Arc::clone(child),
        index: Some(Arc::clone(index)),
        ranges: vec![(Bound::Included(id.clone()), Bound::Included(id))],
        direction: Direction::Forward,
        after: None,
        limit,
        filter: None,
    }
}

/// Whether the service has no such row before the operation.
pub(crate) fn creates(kind: OperationKind) -> bool {
    matches!(kind, OperationKind::Insert | OperationKind::Undelete)
}

/// The parents that an operation of the row names; the row itself is none.
fn named<'t>(
    table: &'t Table,
    key: &'t RowKey,
    row: &'t Row,
    operation: &'t Operation,
) -> impl Iterator<Item = RowKey> {
    let body = operation.frozen.as_ref().or(row.record.as_ref().map(|record| &record.body));
    let body = body.filter(|_| operation.kind != OperationKind::Delete);
    let parent = move |link: &Link| {
        let id = body::text(body?, &link.field)?;
        let parent = RowKey { account: Arc::clone(&key.account), table: Arc::clone(&link.parent), id: id.into() };
        (parent != *key).then_some(parent)
    };
    table.parents.iter().filter_map(parent)
}

/// What the order asks of an operation.
pub(crate) struct Judged {
    /// The row that must go before it, if there is one.
    pub(crate) blocker: Option<RowKey>,
    /// The revision of the row as it was looked at, if it may name a parent.
    pub(crate) revision: Option<u64>,
}

/// For each operation whether another row must go before it.
pub(crate) async fn judge(engine: &Engine, queued: &[(RowKey, Operation)]) -> Result<Vec<Judged>, Error> {
    let tables = &engine.tables;
    let table = |key: &RowKey| tables.0.get(&key.table).map(AsRef::as_ref);
    let linked = |key: &RowKey| table(key).is_some_and(|table: &Table| !table.parents.is_empty());
    let read = queued.iter().filter(|(key, operation)| linked(key) || operation.in_doubt());
    let rows = rows(engine, read.map(|(key, _)| key.clone()).collect()).await?;
    let mut parents = BTreeSet::new();
    for (key, operation) in queued {
        if let (Some(table), Some(row)) = (table(key), rows.get(key)) {
            parents.extend(named(table, key, row, operation));
        }
    }
    let parents = self::rows(engine, parents.into_iter().collect()).await?;
    let is_made = |row: &Row| row.operations.iter().any(|operation| creates(operation.kind));
    let is_made_first = |parent: &RowKey| parents.get(parent).is_some_and(is_made);
    let mut judged = Vec::with_capacity(queued.len());
    for (key, operation) in queued {
        let row = rows.get(key);
        let blocker = match table(key) {
            None => None,
            // The row is made again behind it, and it is that what children wait for.
            Some(_) if operation.kind == OperationKind::Delete && row.is_some_and(is_made) => None,
            Some(table) if operation.kind == OperationKind::Delete => queued_child(engine, table, key).await?,
            Some(table) => row.and_then(|row| named(table, key, row, operation).find(is_made_first)),
        };
        judged.push(Judged { blocker, revision: row.filter(|_| linked(key)).map(|row| row.revision) });
    }
    Ok(judged)
}

async fn rows(engine: &Engine, keys: Vec<RowKey>) -> Result<BTreeMap<RowKey, Row>, Error> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = engine.store.get(&keys).await?;
    Ok(keys.into_iter().zip(rows).filter_map(|(key, row)| Some((key, row?))).collect())
}

/// A row with queued operations that names this one, or did before.
async fn queued_child(engine: &Engine, table: &Table, key: &RowKey) -> Result<Option<RowKey>, Error> {
    for link in &table.children {
        // The row may name itself.
        let entries = engine.store.entries(&naming(key, &link.child, &link.index, 2)).await?;
        let child =
            |entry: Cursor| RowKey { account: Arc::clone(&key.account), table: Arc::clone(&link.child), id: entry.id };
        if let Some(child) = entries.into_iter().map(child).find(|child| child != key) {
            return Ok(Some(child));
        }
    }
    Ok(None)
}

/// The row has gone from the service, or will never get there: its queued children wait for somebody.
pub(crate) fn park_children(tx: &mut Tx<'_>, table: &Table, key: &RowKey) -> Result<(), Error> {
    for link in &table.children {
        for child in tx.children(key, link) {
            let Some(mut row) = tx.row(&child)? else { continue };
            if !names(&row, link, key) {
                continue;
            }
            let Some(operation) = row.operations.last_mut().filter(|operation| !operation.in_doubt()) else { continue };
            let parked = matches!(operation.hold, Hold::Parked(_));
            if parked || operation.kind == OperationKind::Delete {
                continue;
            }
            let message =
                format!("the {}/{} that it belongs to is gone: give it another, or discard it", key.table, key.id);
            let (reason, status, conflict) = (ParkReason::ParentGone, None, None);
            operation.hold = Hold::Parked(Parked { reason, status, message, conflict });
            row.revision += 1;
            tx.put(&child, row);
        }
    }
    Ok(())
}

/// Whether the row, as it would be sent, names the parent.
pub(crate) fn names(row: &Row, link: &Link, parent: &RowKey) -> bool {
    let id = row.record.as_ref().and_then(|record| body::text(&record.body, &link.field));
    id.is_some_and(|id| id == *parent.id)
}

/// Parks the queued children of a row if a change of it means that it is gone for good.
pub(crate) fn settle(
    tx: &mut Tx<'_>,
    table: &Table,
    key: &RowKey,
    before: Option<&Row>,
    after: &Row,
) -> Result<(), Error> {
    if table.children.is_empty() {
        return Ok(());
    }
    let there = before.is_some_and(|row| {
        row.record.is_some()
            || row.quarantine.is_some()
            || row.operations.iter().any(|operation| creates(operation.kind))
    });
    if there && after.record.is_none() && after.quarantine.is_none() && after.operations.is_empty() {
        park_children(tx, table, key)?;
    }
    Ok(())
}

/// Parks the rows that wait for each other in a circle, and returns them.
pub(crate) async fn park_cycles(
    engine: &Engine,
    blocked: &[(RowKey, Operation)],
) -> Result<Vec<(RowKey, Parked)>, Error> {
    let mut known: BTreeSet<RowKey> = BTreeSet::new();
    let mut parked = Vec::new();
    for (key, operation) in blocked {
        let mut path: Vec<(RowKey, Operation)> = vec![(key.clone(), operation.clone())];
        while let Some(last) = path.last().filter(|(key, _)| !known.contains(key)) {
            let judged = judge(engine, std::slice::from_ref(last)).await?.pop();
            let Some(next) = judged.and_then(|judged| judged.blocker) else { break };
            if let Some(start) = path.iter().position(|(key, _)| *key == next) {
                let circle = path.iter().skip(start).map(|(key, _)| key.clone()).collect();
                parked.extend(park_cycle(engine, circle).await?);
                break;
            }
            let first = rows(engine, vec![next.clone()]).await?.remove(&next);
            match first.and_then(|row| row.operations.into_iter().next()) {
                Some(operation) if !matches!(operation.hold, Hold::Parked(_)) => path.push((next, operation)),
                _ => break,
            }
        }
        known.extend(path.into_iter().map(|(key, _)| key));
    }
    Ok(parked)
}

async fn park_cycle(engine: &Engine, keys: Vec<RowKey>) -> Result<Vec<(RowKey, Parked)>, Error> {
    let names: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
    let message =
        format!("these rows belong to each other in a circle: {}; give one of them another parent", names.join(", "));
    let rows = keys.clone();
    let plan = move |tx: &mut Tx<'_>| {
        let mut parked = Vec::new();
        for key in &keys {
            let Some(mut row) = tx.row(key)? else { continue };
            let waits =
                |operation: &&mut Operation| !operation.in_doubt() && !matches!(operation.hold, Hold::Parked(_));
            let Some(operation) = row.operations.first_mut().filter(waits) else { continue };
            let (reason, status, message, conflict) = (ParkReason::Cycle, None, message.clone(), None);
            let why = Parked { reason, status, message, conflict };
            operation.hold = Hold::Parked(why.clone());
            row.revision += 1;
            tx.put(key, row);
            parked.push((key.clone(), why));
        }
        journal::note_parked(tx, &parked);
        Ok(parked)
    };
    engine.committer.commit(Reads::rows(rows), plan).await
}
