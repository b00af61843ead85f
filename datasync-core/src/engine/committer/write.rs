//! A group that is planned becomes a batch of the store, and what became of the batch is found out.

use std::{cmp::Ordering, sync::Arc};

use super::{MAX_ROUNDS, Overlay};
use crate::{
    engine::{links, table::Tables, tombstones},
    error::{Error, ErrorKind},
    query::index_keys,
    store::{Head, RowWrite, Store, StoreError, StoreErrorKind, WriteBatch},
};

/// Commits the group as `next`. False if another commit took that number: then everything must be planned again.
pub(super) async fn commit(store: &dyn Store, tables: &Tables, group: &Overlay, next: Head) -> Result<bool, Error> {
    let mut lost = false;
    for _ in 0..MAX_ROUNDS {
        match store.commit(batch(tables, group, next)?).await {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == StoreErrorKind::Superseded && !lost => return Ok(false),
            // What took the number of a batch that was sent before may be that batch.
            Err(error) if matches!(error.kind(), StoreErrorKind::Superseded | StoreErrorKind::OutcomeUnknown) => {
                lost = true;
                let head = store.head().await.map_err(|error| {
                    let message = "the answer of the commit was lost, and the store cannot be asked what became of it: \
                                   read what you wrote before you write it again";
                    StoreError::new(StoreErrorKind::OutcomeUnknown, message).with_source(error)
                })?;
                match head.number.cmp(&next.number) {
                    Ordering::Less => {}
                    Ordering::Equal => return Ok(head.id == next.id),
                    Ordering::Greater => {
                        let message = "the answer of the commit was lost, and others have written since: \
                                       read what you wrote before you write it again";
                        return Err(StoreError::new(StoreErrorKind::OutcomeUnknown, message).with_source(error).into());
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::new(StoreErrorKind::OutcomeUnknown, "the store keeps losing its answers").into())
}

fn batch(tables: &Tables, group: &Overlay, next: Head) -> Result<WriteBatch, Error> {
    let mut rows = Vec::with_capacity(group.rows.len());
    for (key, row) in &group.rows {
        let key = key.clone();
        rows.push(match row {
            None => RowWrite::Remove { key },
            Some(row) => {
                let mut index_keys = match (&row.record, tables.0.get(&key.table)) {
                    (Some(record), Some(table)) => index_keys(&table.schema, &key.id, record).map_err(|error| {
                        let message = format!("{key:?} cannot be indexed: {error}");
                        Error::caused(ErrorKind::InvalidEntity, message, error)
                    })?,
                    _ => Vec::new(),
                };
                if let Some(table) = tables.0.get(&key.table) {
                    index_keys.extend(links::link_keys(table, row));
                    index_keys.extend(tombstones::index_key(row));
                }
                RowWrite::Put { key, row: row.clone(), index_keys }
            }
        });
    }
    Ok(WriteBatch {
        number: next.number,
        id: next.id,
        clear: group.clear.clone(),
        rows,
        tokens: group.tokens.iter().map(|(scope, token)| (scope.clone(), token.clone())).collect(),
        notes: group.notes.iter().map(|(key, note)| (Arc::clone(key), note.clone())).collect(),
        add_losers: group.add_losers.clone(),
        remove_losers: group.remove_losers.iter().copied().collect(),
        generation: group.raise_generation.then_some(next.generation),
        indexed: group.indexed.clone(),
    })
}
