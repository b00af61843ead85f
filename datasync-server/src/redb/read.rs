//! Reads: one range, in the order of the ids or of the stamps; the rest is filtered, and no more rows are kept than wanted.

use std::{borrow::Cow, ops::Bound, sync::Arc};

use datasync_core::{
    query::{FirstRows, KeyRange, QueryError, Sorted, plan},
    schema::{IndexSchema, Name, TableSchema, UPDATED_AT},
    store::Direction,
};
use redb::{ReadOnlyTable, ReadTransaction, TableError, TableHandle};
use uuid::Uuid;

use super::{Names, SERVICE, bytes, marks::Marks, rows};
use crate::{
    departures::Walk,
    repository::{Changes, ChangesQuery, Effect, Page, Row, RowQuery, Selection},
};

type BytesTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// What the planner is told of the file: the stamps are an index.
const STAMPS: &[IndexSchema] = &[IndexSchema::new("stamps", &[Cow::Borrowed(UPDATED_AT)] as &[Name])];

/// The redb table, if anything was ever written to it.
fn open(read: &ReadTransaction, name: &str) -> Result<Option<BytesTable>, redb::Error> {
    match read.open_table(bytes(name)) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn row(read: &ReadTransaction, names: &Names, id: &str) -> Result<Option<Row>, redb::Error> {
    let Some(table) = open(read, &names.rows)? else { return Ok(None) };
    let found = table.get(id.as_bytes())?;
    found.map(|found| rows::row(id, found.value())).transpose()
}

pub(super) fn effect(
    read: &ReadTransaction,
    names: &Names,
    caller: &str,
    key: Uuid,
) -> Result<Option<Effect>, redb::Error> {
    let Some(table) = open(read, &names.keys)? else { return Ok(None) };
    let found = table.get(&rows::key_bytes(caller, key)[..])?;
    found.map(|found| rows::effect(found.value())).transpose()
}

fn evaluated(error: QueryError) -> redb::Error {
    redb::Error::Corrupted(error.to_string())
}

/// Offers a row to the first ones, if it is wanted. Their ids are kept, and the rows are read when it is known which: `$skip`
/// may leave out many.
fn offer(first: &mut FirstRows<Arc<str>>, query: &RowQuery, row: &Row) -> Result<(), redb::Error> {
    if row.record.deleted && !query.include_deleted {
        return Ok(());
    }
    if let Some(key) = query.evaluator.evaluate(&row.id, &row.record).map_err(evaluated)? {
        first.offer(key, Arc::clone(&row.id));
    }
    Ok(())
}

pub(super) fn query(read: &ReadTransaction, names: &Names, query: &RowQuery) -> Result<Selection, redb::Error> {
    let skip = usize::try_from(query.description.skip).unwrap_or(usize::MAX);
    let most = skip.saturating_add(query.limit).saturating_add(1);
    let mut first = FirstRows::new(most);
    let schema = TableSchema::new("rows", &[], STAMPS);
    // A page holds only the first rows, so that an index in the query's order is worth its while.
    let access = plan(&query.evaluator, &schema, STAMPS, true);
    let Some(table) = open(read, &names.rows)? else {
        return Ok(Selection { total: query.description.count.then_some(0), ..Selection::default() });
    };
    let enough = |first: &FirstRows<Arc<str>>| first.is_full() && !query.description.count;
    let stamps = match access.index {
        Some(_) => open(read, &names.stamps)?,
        None => None,
    };
    let backward = access.direction == Direction::Backward;
    let mut full_at: Option<Vec<u8>> = None;
    'ranges: for range in access.ranges.iter().filter(|range| !is_empty(range)) {
        let source = stamps.as_ref().unwrap_or(&table).range::<&[u8]>(as_slices(range))?;
        let mut entries = Entries { source, backward };
        while let Some(entry) = entries.next() {
            let (key, value) = entry?;
            let row = match &stamps {
                None => {
                    if access.sorted == Sorted::Fully && enough(&first) {
                        break 'ranges;
                    }
                    rows::row(&rows::id(key.value())?, value.value())?
                }
                Some(_) => {
                    let stamp = key.value().get(..9).unwrap_or_default();
                    // Rows of one time come in the order of their sequences, and not of their ids: all are looked at.
                    if access.sorted != Sorted::Not && full_at.as_deref().is_some_and(|full_at| stamp != full_at) {
                        break 'ranges;
                    }
                    let id = rows::id(value.value())?;
                    let Some(row) = table.get(id.as_bytes())? else { continue };
                    let row = rows::row(&id, row.value())?;
                    offer(&mut first, query, &row)?;
                    if full_at.is_none() && enough(&first) {
                        full_at = Some(stamp.to_vec());
                    }
                    continue;
                }
            };
            offer(&mut first, query, &row)?;
        }
    }
    selection(&table, first, query, skip)
}

/// The entries of a range, in one direction or the other.
struct Entries<'r> {
    source: redb::Range<'r, &'static [u8], &'static [u8]>,
    backward: bool,
}

type Entry<'r> = (redb::AccessGuard<'r, &'static [u8]>, redb::AccessGuard<'r, &'static [u8]>);

impl<'r> Entries<'r> {
    fn next(&mut self) -> Option<Result<Entry<'r>, redb::StorageError>> {
        if self.backward { self.source.next_back() } else { self.source.next() }
    }
}

/// Conditions that contradict each other leave a range that redb would not take.
fn is_empty(range: &KeyRange) -> bool {
    match range {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        _ => false,
    }
}

fn as_slices((from, to): &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice))
}

fn selection(
    table: &BytesTable,
    first: FirstRows<Arc<str>>,
    query: &RowQuery,
    skip: usize,
) -> Result<Selection, redb::Error> {
    let total = query.description.count.then_some(first.offered());
    let kept = first.into_vec();
    let wanted = kept.get(skip..).unwrap_or_default();
    let mut page = Page::new(query.limit);
    for id in wanted {
        let Some(row) = table.get(id.as_bytes())? else { continue };
        if !page.take(rows::row(id, row.value())?) {
            break;
        }
    }
    let more = wanted.len() > page.rows.len();
    Ok(Selection { rows: page.rows, more, total })
}

pub(super) fn changes(read: &ReadTransaction, names: &Names, query: &ChangesQuery) -> Result<Changes, redb::Error> {
    let (table, stamps) = (open(read, &names.rows)?, open(read, &names.stamps)?);
    let departures = open(read, &names.departures)?;
    let marks = match open(read, SERVICE.name())? {
        Some(service) => Marks::read(&service, names)?,
        None => Marks::default(),
    };
    let mut walk = Walk::new(query, marks.last.map_or(0, |last| last.sequence), marks.forgotten);
    let (Some(table), Some(stamps)) = (table, stamps) else { return Ok(walk.page()) };
    let row = |id: &str| table.get(id.as_bytes())?.map(|found| rows::row(id, found.value())).transpose();
    let from = query.since.map(rows::stamp_bytes);
    let range = (from.as_ref().map_or(Bound::Unbounded, |from| Bound::Excluded(&from[..])), Bound::Unbounded);
    let mut changed = stamps.range::<&[u8]>(range)?;
    let mut departed = departures.as_ref().map(|departures| departures.range::<&[u8]>(range)).transpose()?;
    let mut next_departed = || departed.as_mut().and_then(Iterator::next).transpose();
    let (mut change, mut departure) = (changed.next().transpose()?, next_departed()?);
    loop {
        let key = |entry: &Option<Entry<'_>>| entry.as_ref().map(|(key, _)| key.value().to_vec());
        let (at, from) = (key(&change), key(&departure));
        let Some(place) = at.iter().chain(&from).min() else { break };
        if walk.ends() {
            break;
        }
        walk.to(rows::stamp(place)?);
        if at.as_ref() == Some(place)
            && let Some((_, id)) = &change
        {
            if let Some(row) = row(&rows::id(id.value())?)?
                && !walk.changed(row).map_err(evaluated)?
            {
                break;
            }
            change = changed.next().transpose()?;
        }
        if from.as_ref() == Some(place)
            && let Some((_, left)) = &departure
        {
            let left = rows::departure(left.value())?;
            if walk.concerns(&left).map_err(evaluated)? {
                let now = row(&left.id)?;
                walk.departed(left, now.as_ref()).map_err(evaluated)?;
            }
            departure = next_departed()?;
        }
    }
    Ok(walk.page())
}
