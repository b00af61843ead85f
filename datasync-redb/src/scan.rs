//! Scans: some of the records of a table, by id or by index.

use std::{ops::Bound, sync::Arc};

use datasync_core::{
    row::RowKey,
    store::{Cursor, Direction, LinkedRequest, ScanPage, ScanRequest, StoreError, StoreErrorKind},
};
use redb::ReadTransaction;

use crate::{
    codec,
    error::{corrupted, failed},
    keys,
    shared::Shared,
    store::{INDEX, ROWS},
};

/// A table for reading. Before the first `open` a store has none.
macro_rules! table {
    ($transaction:expr, $definition:expr) => {
        match $transaction.open_table($definition) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
    };
}
pub(crate) use table;

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn prefixed(prefix: &[u8], bytes: &[u8]) -> Vec<u8> {
    [prefix, bytes].concat()
}

fn as_slices(bounds: &Bounds) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice))
}

pub(crate) fn scan_ids(request: &ScanRequest, transaction: &ReadTransaction) -> Result<Option<ScanPage>, StoreError> {
    let rows = table!(transaction, ROWS);
    let prefix = keys::table(&request.account, &request.table);
    let mut low = match &request.range.0 {
        Bound::Included(id) => Bound::Included(prefixed(&prefix, id)),
        Bound::Excluded(id) => Bound::Excluded(prefixed(&prefix, id)),
        Bound::Unbounded => Bound::Included(prefix.clone()),
    };
    let mut high = match &request.range.1 {
        Bound::Included(id) => Bound::Included(prefixed(&prefix, id)),
        Bound::Excluded(id) => Bound::Excluded(prefixed(&prefix, id)),
        Bound::Unbounded => keys::behind(prefix.clone()).map_or(Bound::Unbounded, Bound::Excluded),
    };
    if let Some(after) = &request.after {
        let after = Bound::Excluded(prefixed(&prefix, after.id.as_bytes()));
        match request.direction {
            Direction::Forward => low = after,
            Direction::Backward => high = after,
        }
    }
    let bounds = (low, high);
    if is_empty(&bounds) {
        return Ok(Some(ScanPage::default()));
    }
    let mut page = ScanPage::default();
    let mut range = rows.range::<&[u8]>(as_slices(&bounds)).map_err(failed)?;
    loop {
        let entry = match request.direction {
            Direction::Forward => range.next(),
            Direction::Backward => range.next_back(),
        };
        let Some(entry) = entry else { return Ok(Some(page)) };
        let (key, value) = entry.map_err(failed)?;
        let Some(record) = codec::decode_record(value.value())? else { continue };
        if page.records.len() == request.limit {
            page.next = page.records.last().map(|(id, _)| Cursor { key: Vec::new(), id: Arc::clone(id) });
            return Ok(Some(page));
        }
        let id = key.value().get(prefix.len()..).unwrap_or_default();
        let id = std::str::from_utf8(id).map_err(|_| corrupted("an id is not UTF-8"))?;
        page.records.push((id.into(), record));
    }
}

/// redb takes a range whose start lies behind its end for a mistake of the program.
fn is_empty(bounds: &Bounds) -> bool {
    match bounds {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
    }
}

pub(crate) fn scan_index(
    shared: &Shared,
    request: &ScanRequest,
    index: &str,
    transaction: &ReadTransaction,
) -> Result<Option<ScanPage>, StoreError> {
    let Some(number) = shared.index_number(&request.table, index) else {
        let message = format!("`{}` has no index `{index}`", request.table);
        return Err(StoreError::new(StoreErrorKind::Unsupported, message));
    };
    let entries = table!(transaction, INDEX);
    let rows = table!(transaction, ROWS);
    let prefix = keys::index(number, &request.account);
    // Every entry of a key begins with the key and its end; every entry of a greater key is behind all of those.
    let whole = |key: &[u8]| prefixed(&prefixed(&prefix, &keys::escaped(key)), &[0, 1]);
    let behind = |key: Vec<u8>| keys::behind(key).map_or(Bound::Unbounded, Bound::Included);
    let mut low = match &request.range.0 {
        Bound::Included(key) => Bound::Included(whole(key)),
        Bound::Excluded(key) => behind(whole(key)),
        Bound::Unbounded => Bound::Included(prefix.clone()),
    };
    let before = |key: Vec<u8>| keys::behind(key).map_or(Bound::Unbounded, Bound::Excluded);
    let mut high = match &request.range.1 {
        Bound::Included(key) => before(whole(key)),
        Bound::Excluded(key) => Bound::Excluded(whole(key)),
        Bound::Unbounded => before(prefix.clone()),
    };
    if let Some(after) = &request.after {
        let after = Bound::Excluded(keys::entry(number, &request.account, &after.key, &after.id));
        match request.direction {
            Direction::Forward => low = after,
            Direction::Backward => high = after,
        }
    }
    let bounds = (low, high);
    if is_empty(&bounds) {
        return Ok(Some(ScanPage::default()));
    }
    let mut page = ScanPage::default();
    let mut last = None;
    let mut range = entries.range::<&[u8]>(as_slices(&bounds)).map_err(failed)?;
    loop {
        let entry = match request.direction {
            Direction::Forward => range.next(),
            Direction::Backward => range.next_back(),
        };
        let Some(entry) = entry else { return Ok(Some(page)) };
        let (key, _) = entry.map_err(failed)?;
        let (index_key, id) = keys::read_entry(key.value(), prefix.len())?;
        let id: Arc<str> = id.into();
        let (account, table) = (Arc::clone(&request.account), Arc::clone(&request.table));
        let row_key = RowKey { account, table, id: Arc::clone(&id) };
        let row = rows.get(keys::row(&row_key).as_slice()).map_err(failed)?;
        let row = row.ok_or_else(|| corrupted("an entry of an index has no row"))?;
        let Some(record) = codec::decode_record(row.value())? else { continue };
        if page.records.len() == request.limit {
            page.next = last;
            return Ok(Some(page));
        }
        page.records.push((Arc::clone(&id), record));
        last = Some(Cursor { key: index_key, id });
    }
}

/// The ids of the entries of one key of an index.
pub(crate) fn linked(
    shared: &Shared,
    request: &LinkedRequest,
    transaction: &ReadTransaction,
) -> Result<Option<Vec<Arc<str>>>, StoreError> {
    let Some(number) = shared.index_number(&request.table, &request.index) else {
        let message = format!("`{}` has no index `{}`", request.table, request.index);
        return Err(StoreError::new(StoreErrorKind::Unsupported, message));
    };
    let entries = table!(transaction, INDEX);
    let prefix = keys::entry(number, &request.account, &request.key, "");
    let start = match &request.after {
        Some(after) => Bound::Excluded(keys::entry(number, &request.account, &request.key, after)),
        None => Bound::Included(prefix.clone()),
    };
    let mut ids = Vec::new();
    for entry in entries.range::<&[u8]>((start.as_ref().map(Vec::as_slice), Bound::Unbounded)).map_err(failed)? {
        let (key, _) = entry.map_err(failed)?;
        let Some(id) = key.value().strip_prefix(prefix.as_slice()).filter(|_| ids.len() < request.limit) else { break };
        ids.push(std::str::from_utf8(id).map_err(|_| corrupted("an id is not UTF-8"))?.into());
    }
    Ok(Some(ids))
}
