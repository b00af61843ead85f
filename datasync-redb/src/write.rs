//! The one place that writes: a batch becomes one transaction, or nothing.

use std::{collections::BTreeMap, error::Error as _};

use datasync_core::store::{Clear, Head, RowWrite, StoreError, StoreErrorKind, WriteBatch};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageError, WriteTransaction};

use crate::{
    codec,
    error::{corrupted, failed, of_io},
    keys,
    shared::{Shared, index_name},
    store::{
        FORMAT, INDEX, INDEXED, INDEXES, LOSERS, META, META_FORMAT, META_HEAD, NOTES, QUEUE, ROWS, TOKENS, decode_head,
        encode_head, encode_indexed,
    },
};

/// Finds out what became of a commit that failed: the file, opened again, says whether it happened.
pub(crate) fn settle(shared: &Shared, batch: &WriteBatch, failure: StoreError) -> Result<(), StoreError> {
    // What is on the disk is known only of a file that was opened again.
    if !shared.can_be_reopened() {
        return Err(failure);
    }
    let head = shared.read(|database| {
        let read = database.begin_read().map_err(failed)?;
        let meta = read.open_table(META).map_err(failed)?;
        let head = meta.get(META_HEAD).map_err(failed)?;
        head.map_or(Ok(Head::default()), |head| decode_head(head.value()))
    });
    match head {
        Ok(head) if (head.number, head.id) == (batch.number, batch.id) => Ok(()),
        Ok(head) if head.number < batch.number => {
            let cause = failure.source().and_then(|source| source.downcast_ref::<redb::CommitError>());
            Err(match cause {
                Some(redb::CommitError::Storage(StorageError::Io(io))) => {
                    of_io(io, "the commit failed").with_source(failure)
                }
                _ => StoreError::new(StoreErrorKind::Io, "the commit failed: try again").with_source(failure),
            })
        }
        _ => Err(failure),
    }
}

pub(crate) fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(Durability::Immediate).map_err(failed)?;
    Ok(transaction)
}

pub(crate) fn commit(shared: &Shared, database: &Database, batch: &WriteBatch) -> Result<(), StoreError> {
    let transaction = begin(database)?;
    {
        let mut meta = transaction.open_table(META).map_err(failed)?;
        let mut head = match meta.get(META_HEAD).map_err(failed)? {
            Some(bytes) => decode_head(bytes.value())?,
            None => Head::default(),
        };
        if batch.number != head.number + 1 {
            let message = format!("commit {} was wanted, but {} is next", batch.number, head.number + 1);
            return Err(StoreError::new(StoreErrorKind::Superseded, message));
        }
        head.number = batch.number;
        head.id = batch.id;
        head.generation = batch.generation.unwrap_or(head.generation);
        meta.insert(META_HEAD, encode_head(&head).as_slice()).map_err(failed)?;
        meta.insert(META_FORMAT, FORMAT).map_err(failed)?;
        for everything in &batch.clear {
            clear(&transaction, everything)?;
        }
        write_rows(shared, &transaction, batch)?;
        write_rest(&transaction, batch)?;
        write_indexed(&transaction, batch)?;
    }
    transaction.commit().map_err(|error| {
        let message = format!("the commit failed, and may have happened: {error}");
        StoreError::new(StoreErrorKind::OutcomeUnknown, message).with_source(error)
    })
}

/// Removes an account, or one of its tables, with everything that points to its rows.
fn clear(transaction: &WriteTransaction, clear: &Clear) -> Result<(), StoreError> {
    let prefix = match &clear.table {
        Some(table) => keys::table(&clear.account, table),
        None => keys::account(&clear.account),
    };
    let end = keys::behind(prefix.clone()).ok_or_else(|| corrupted("an account has no end"))?;
    let range = prefix.as_slice()..end.as_slice();
    let mut rows = transaction.open_table(ROWS).map_err(failed)?;
    let mut index = transaction.open_table(INDEX).map_err(failed)?;
    let mut queue = transaction.open_table(QUEUE).map_err(failed)?;
    for entry in rows.extract_from_if::<&[u8], _>(range.clone(), |_, _| true).map_err(failed)? {
        let (key, value) = entry.map_err(failed)?;
        let name = keys::read_row(key.value())?;
        let links = codec::decode_links(value.value())?;
        for (number, index_key) in links.index_keys {
            let entry = keys::entry(number, &name.account, &index_key, &name.id);
            index.remove(entry.as_slice()).map_err(failed)?;
        }
        for place in links.places {
            queue.remove(place.to_be_bytes().as_slice()).map_err(failed)?;
        }
    }
    let mut tokens = transaction.open_table(TOKENS).map_err(failed)?;
    tokens.retain_in::<&[u8], _>(range, |_, _| false).map_err(failed)?;
    let mut losers = transaction.open_table(LOSERS).map_err(failed)?;
    let mut gone = Vec::new();
    for entry in losers.iter().map_err(failed)? {
        let (id, value) = entry.map_err(failed)?;
        let key = codec::decode_loser_key(value.value())?;
        if clear.includes(&key.account, &key.table) {
            gone.push(id.value().to_vec());
        }
    }
    for id in gone {
        losers.remove(id.as_slice()).map_err(failed)?;
    }
    Ok(())
}

fn write_rows(shared: &Shared, transaction: &WriteTransaction, batch: &WriteBatch) -> Result<(), StoreError> {
    let mut rows = transaction.open_table(ROWS).map_err(failed)?;
    let mut index = transaction.open_table(INDEX).map_err(failed)?;
    let mut queue = transaction.open_table(QUEUE).map_err(failed)?;
    // In the order of the keys, which is the cheapest for a tree.
    let mut writes = BTreeMap::new();
    for write in &batch.rows {
        let (RowWrite::Put { key, .. } | RowWrite::Remove { key }) = write;
        writes.insert(keys::row(key), write);
    }
    let mut added = BTreeMap::new();
    for (bytes, write) in &writes {
        let before = match write {
            RowWrite::Remove { .. } => rows.remove(bytes.as_slice()).map_err(failed)?,
            RowWrite::Put { key, row, index_keys } => {
                let mut numbered = Vec::with_capacity(index_keys.len());
                for (name, index_key) in index_keys {
                    let Some(number) = shared.index_number(&key.table, name) else {
                        let message = format!("`{}` has no index `{name}`: open the store with it", key.table);
                        return Err(StoreError::new(StoreErrorKind::Unsupported, message));
                    };
                    numbered.push((number, index_key));
                    added.insert(keys::entry(number, &key.account, index_key, &key.id), None);
                }
                for operation in &row.operations {
                    queue.insert(operation.place.to_be_bytes().as_slice(), bytes.as_slice()).map_err(failed)?;
                }
                let value = codec::encode_row(row, &numbered);
                rows.insert(bytes.as_slice(), value.as_slice()).map_err(failed)?
            }
        };
        let Some(before) = before else { continue };
        let links = codec::decode_links(before.value())?;
        let (RowWrite::Put { key, .. } | RowWrite::Remove { key }) = write;
        for (number, index_key) in links.index_keys {
            added.entry(keys::entry(number, &key.account, &index_key, &key.id)).or_insert(Some(()));
        }
        for place in links.places {
            let kept = matches!(write, RowWrite::Put { row, .. } if row.operations.iter().any(|o| o.place == place));
            if !kept {
                queue.remove(place.to_be_bytes().as_slice()).map_err(failed)?;
            }
        }
    }
    for (entry, removed) in added {
        match removed {
            None => index.insert(entry.as_slice(), [].as_slice()).map_err(failed)?,
            Some(()) => index.remove(entry.as_slice()).map_err(failed)?,
        };
    }
    Ok(())
}

fn write_rest(transaction: &WriteTransaction, batch: &WriteBatch) -> Result<(), StoreError> {
    let mut tokens = transaction.open_table(TOKENS).map_err(failed)?;
    for (scope, token) in &batch.tokens {
        let key = keys::scope(scope);
        match token {
            Some(token) => tokens.insert(key.as_slice(), token.0.as_bytes()).map_err(failed)?,
            None => tokens.remove(key.as_slice()).map_err(failed)?,
        };
    }
    let mut notes = transaction.open_table(NOTES).map_err(failed)?;
    for (key, note) in &batch.notes {
        match note {
            Some(note) => notes.insert(key.as_bytes(), note.0.as_slice()).map_err(failed)?,
            None => notes.remove(key.as_bytes()).map_err(failed)?,
        };
    }
    let mut losers = transaction.open_table(LOSERS).map_err(failed)?;
    for id in &batch.remove_losers {
        losers.remove(id.as_bytes().as_slice()).map_err(failed)?;
    }
    for loser in &batch.add_losers {
        losers.insert(loser.id.as_bytes().as_slice(), codec::encode_loser(loser).as_slice()).map_err(failed)?;
    }
    Ok(())
}

/// Once all rows of a table are in its indexes, nothing that is shown is in the others: they are forgotten.
///
/// In memory they stay known until the file is opened again, for a commit that fails here changes nothing there.
fn write_indexed(transaction: &WriteTransaction, batch: &WriteBatch) -> Result<(), StoreError> {
    let mut indexed = transaction.open_table(INDEXED).map_err(failed)?;
    let mut numbers = transaction.open_table(INDEXES).map_err(failed)?;
    for table in &batch.indexed {
        let spec = &table.spec;
        indexed.insert(spec.table.as_bytes(), encode_indexed(table).as_slice()).map_err(failed)?;
        if table.done.is_none() {
            let of_table = index_name(&spec.table, "");
            let kept: Vec<Vec<u8>> = spec.indexes.iter().map(|index| index_name(&spec.table, index)).collect();
            let is_kept = |name: &[u8]| !name.starts_with(&of_table) || kept.iter().any(|kept| kept == name);
            numbers.retain(|name, _| is_kept(name)).map_err(failed)?;
        }
    }
    Ok(())
}
