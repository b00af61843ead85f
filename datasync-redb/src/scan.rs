//! Scans: some of the records of a table, by id or by index.

use std::{
    cmp::Ordering,
    ops::{Bound, ControlFlow},
};

use datasync_core::{
    row::{RecordRef, RowKey},
    store::{Cursor, Direction, KeyRange, ScanPage, ScanRequest, StoreError, StoreErrorKind},
};
use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable};

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

/// Leaves of a range what lies behind a place, in the direction of a scan.
fn go_on(direction: Direction, (low, high): &mut Bounds, after: Vec<u8>) {
    let (bound, beyond) = match direction {
        Direction::Forward => (low, Ordering::Greater),
        Direction::Backward => (high, Ordering::Less),
    };
    match bound {
        Bound::Included(key) | Bound::Excluded(key) if (*key).cmp(&after) == beyond => {}
        bound => *bound = Bound::Excluded(after),
    }
}

/// What of a table or an index a range of a scan covers, from its cursor on.
fn of_ids(request: &ScanRequest, range: &KeyRange, prefix: &[u8]) -> Bounds {
    let low = match &range.0 {
        Bound::Included(id) => Bound::Included(prefixed(prefix, id)),
        Bound::Excluded(id) => Bound::Excluded(prefixed(prefix, id)),
        Bound::Unbounded => Bound::Included(prefix.to_vec()),
    };
    let high = match &range.1 {
        Bound::Included(id) => Bound::Included(prefixed(prefix, id)),
        Bound::Excluded(id) => Bound::Excluded(prefixed(prefix, id)),
        Bound::Unbounded => keys::behind(prefix.to_vec()).map_or(Bound::Unbounded, Bound::Excluded),
    };
    let mut bounds = (low, high);
    if let Some(after) = &request.after {
        go_on(request.direction, &mut bounds, prefixed(prefix, after.id.as_bytes()));
    }
    bounds
}

fn of_index(request: &ScanRequest, range: &KeyRange, number: u32, prefix: &[u8]) -> Bounds {
    // Every entry of a key begins with the key and its end; every entry of a greater key is behind all of those.
    let whole = |key: &[u8]| prefixed(&prefixed(prefix, &keys::escaped(key)), &[0, 1]);
    let behind = |key: Vec<u8>| keys::behind(key).map_or(Bound::Unbounded, Bound::Included);
    let low = match &range.0 {
        Bound::Included(key) => Bound::Included(whole(key)),
        Bound::Excluded(key) => behind(whole(key)),
        Bound::Unbounded => Bound::Included(prefix.to_vec()),
    };
    let before = |key: Vec<u8>| keys::behind(key).map_or(Bound::Unbounded, Bound::Excluded);
    let high = match &range.1 {
        Bound::Included(key) => before(whole(key)),
        Bound::Excluded(key) => Bound::Excluded(whole(key)),
        Bound::Unbounded => before(prefix.to_vec()),
    };
    let mut bounds = (low, high);
    if let Some(after) = &request.after {
        go_on(request.direction, &mut bounds, keys::entry(number, &request.account, &after.key, &after.id));
    }
    bounds
}

/// redb takes a range whose start lies behind its end for a mistake of the program.
fn is_empty(bounds: &Bounds) -> bool {
    match bounds {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
    }
}

type Bytes = ReadOnlyTable<&'static [u8], &'static [u8]>;
type Entry<'e> = (AccessGuard<'e, &'static [u8]>, AccessGuard<'e, &'static [u8]>);

/// The entries of a table within bounds, in the direction of the scan.
fn entries<'t>(
    table: &'t Bytes,
    bounds: &Bounds,
    direction: Direction,
) -> Result<impl Iterator<Item = Result<Entry<'t>, StoreError>>, StoreError> {
    let mut range = match is_empty(bounds) {
        true => None,
        false => Some(table.range::<&[u8]>(as_slices(bounds)).map_err(failed)?),
    };
    let next = move || {
        let range = range.as_mut()?;
        let entry = match direction {
            Direction::Forward => range.next(),
            Direction::Backward => range.next_back(),
        };
        entry.map(|entry| entry.map_err(failed))
    };
    Ok(std::iter::from_fn(next))
}

fn text(id: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(id).map_err(|_| corrupted("an id is not UTF-8"))
}

/// Shows each record of a scan with its index key and id, in order, until `look` says that it is enough.
fn walk(
    shared: &Shared,
    request: &ScanRequest,
    transaction: &ReadTransaction,
    mut look: impl FnMut(&[u8], &str, RecordRef<'_>) -> Result<ControlFlow<()>, StoreError>,
) -> Result<Option<()>, StoreError> {
    let rows = table!(transaction, ROWS);
    let mut row_key = keys::table(&request.account, &request.table);
    let prefix = row_key.len();
    let Some(index) = &request.index else {
        for range in &request.ranges {
            for entry in entries(&rows, &of_ids(request, range, &row_key), request.direction)? {
                let (key, value) = entry?;
                let Some(record) = codec::decode_record(value.value())? else { continue };
                let id = text(key.value().get(prefix..).unwrap_or_default())?;
                if look(&[], id, record)?.is_break() {
                    return Ok(Some(()));
                }
            }
        }
        return Ok(Some(()));
    };
    let number = number(shared, &request.table, index)?;
    let index_prefix = keys::index(number, &request.account);
    let index = table!(transaction, INDEX);
    for range in &request.ranges {
        for entry in entries(&index, &of_index(request, range, number, &index_prefix), request.direction)? {
            let entry = entry?;
            let (index_key, id) = keys::split_entry(entry.0.value(), index_prefix.len())?;
            row_key.truncate(prefix);
            row_key.extend_from_slice(id);
            let row = rows.get(row_key.as_slice()).map_err(failed)?;
            let row = row.ok_or_else(|| corrupted("an entry of an index has no row"))?;
            let Some(record) = codec::decode_record(row.value())? else { continue };
            if look(index_key, text(id)?, record)?.is_break() {
                return Ok(Some(()));
            }
        }
    }
    Ok(Some(()))
}

fn number(shared: &Shared, table: &str, index: &str) -> Result<u32, StoreError> {
    shared.index_number(table, index).ok_or_else(|| {
        let message = format!("`{table}` has no index `{index}`");
        StoreError::new(StoreErrorKind::Unsupported, message)
    })
}

fn keeps(request: &ScanRequest, id: &str, record: RecordRef<'_>) -> Result<bool, StoreError> {
    request.filter.as_ref().map_or(Ok(true), |filter| filter.keeps(id, record))
}

pub(crate) fn scan(
    shared: &Shared,
    request: &ScanRequest,
    transaction: &ReadTransaction,
) -> Result<Option<ScanPage>, StoreError> {
    let mut page = ScanPage::default();
    let mut looked_at = 0;
    let mut last: Option<(Vec<u8>, String)> = None;
    walk(shared, request, transaction, |escaped, id, record| {
        if looked_at == request.limit {
            page.next = match last.take() {
                Some((escaped, id)) => Some(Cursor { key: keys::unescaped(&escaped)?, id: id.into() }),
                None => None,
            };
            return Ok(ControlFlow::Break(()));
        }
        looked_at += 1;
        if keeps(request, id, record)? {
            page.records.push((id.into(), record.to_record()));
        }
        if looked_at == request.limit {
            last = Some((escaped.to_vec(), id.to_owned()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Some(page))
}

pub(crate) fn count(
    shared: &Shared,
    request: &ScanRequest,
    transaction: &ReadTransaction,
) -> Result<Option<u64>, StoreError> {
    let mut count = 0;
    if let (Some(index), None) = (&request.index, &request.filter) {
        let number = number(shared, &request.table, index)?;
        let (index, prefix) = (table!(transaction, INDEX), keys::index(number, &request.account));
        for range in &request.ranges {
            for entry in entries(&index, &of_index(request, range, number, &prefix), request.direction)? {
                entry?;
                count += 1;
            }
        }
        return Ok(Some(count));
    }
    walk(shared, request, transaction, |_, id, record| {
        count += u64::from(keeps(request, id, record)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Some(count))
}

/// The keys of the rows of a table in all accounts, behind one of them. What lies between is jumped over.
pub(crate) fn keys_of(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    table: &str,
    after: Option<&RowKey>,
    limit: usize,
) -> Result<Vec<RowKey>, StoreError> {
    let mut found = Vec::new();
    let mut start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(keys::row(after)));
    loop {
        let mut jump = None;
        for entry in rows.range::<&[u8]>((start.as_ref().map(Vec::as_slice), Bound::Unbounded)).map_err(failed)? {
            if found.len() >= limit {
                return Ok(found);
            }
            let (bytes, _) = entry.map_err(failed)?;
            let key = keys::read_row(bytes.value())?;
            if *key.table == *table {
                found.push(key);
                continue;
            }
            let own = keys::table(&key.account, table);
            jump = if bytes.value() < own.as_slice() { Some(own) } else { keys::behind(keys::account(&key.account)) };
            break;
        }
        match jump {
            Some(next) => start = Bound::Included(next),
            None => return Ok(found),
        }
    }
}

/// The entries of an index that a scan of it goes over.
pub(crate) fn entries_of(
    shared: &Shared,
    request: &ScanRequest,
    transaction: &ReadTransaction,
) -> Result<Option<Vec<Cursor>>, StoreError> {
    let Some(index) = &request.index else {
        return Err(StoreError::new(StoreErrorKind::Unsupported, "entries are those of an index, and none is named"));
    };
    let number = number(shared, &request.table, index)?;
    let (index, prefix) = (table!(transaction, INDEX), keys::index(number, &request.account));
    let mut found = Vec::new();
    for range in &request.ranges {
        for entry in entries(&index, &of_index(request, range, number, &prefix), request.direction)? {
            if found.len() == request.limit {
                return Ok(Some(found));
            }
            let entry = entry?;
            let (key, id) = keys::split_entry(entry.0.value(), prefix.len())?;
            found.push(Cursor { key: keys::unescaped(key)?, id: text(id)?.into() });
        }
    }
    Ok(Some(found))
}
