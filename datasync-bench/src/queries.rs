//! Queries over 100,000 rows in a redb file, each beside what redb alone takes for the same rows.

use std::{path::Path, time::Duration};

use datasync_core::{
    client::{DatasyncClient, OfflineTable},
    entity::SyncEntity,
    query::{index_keys, table_spec},
    row::{Record, Row, RowKey},
    store::{RowWrite, Store, WriteBatch},
};
use datasync_derive::SyncEntity;
use datasync_http::HttpTransport;
use datasync_redb::RedbStore;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::{ROUNDS, Result, median, timed};

const ROWS: i64 = 100_000;
/// How many rows have the same group.
const HITS: i64 = 100;
/// How many short queries make one measurement.
const QUERIES: i64 = 100;
const CACHE: usize = 8 * 1024 * 1024;
const RAW_ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// A number and an id; the number is that of a group, or of a row.
const RAW_GROUPS: TableDefinition<'_, (i64, &str), ()> = TableDefinition::new("groups");
const RAW_NUMBERS: TableDefinition<'_, (i64, &str), ()> = TableDefinition::new("numbers");

#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Part {
    id: String,
    title: String,
    text: String,
    #[sync(index)]
    group: i64,
    #[sync(index)]
    number: i64,
    weight: i64,
}

fn part(number: i64) -> Part {
    let group = number % (ROWS / HITS);
    let id = format!("019a8f00-0000-7000-8000-{number:012}");
    Part { id, title: format!("part {number}"), text: "x".repeat(120), group, number, weight: number % 100 }
}

/// The rows in a store of ours, as a pull leaves them: with nothing queued.
async fn ours(folder: &Path) -> Result<(DatasyncClient, OfflineTable<Part>)> {
    let store = RedbStore::builder().cache_size(CACHE).open(folder.join("ours.redb"))?;
    let schema = Part::SCHEMA;
    store.open(&[table_spec(&schema)]).await?;
    let numbers: Vec<i64> = (0..ROWS).collect();
    for (chunk, commit) in numbers.chunks(10_000).zip(1..) {
        let mut batch = WriteBatch { number: commit, ..WriteBatch::default() };
        for number in chunk {
            let part = part(*number);
            let body = serde_json::to_vec(&part)?.into();
            let record = Record { body, version: Some("AQ==".to_owned()), updated_at: None, deleted: false };
            let index_keys = index_keys(&schema, &part.id, &record)?;
            let row = Row { record: Some(record), ..Row::default() };
            batch.rows.push(RowWrite::Put { key: RowKey::new(Part::TABLE, part.id), row, index_keys });
        }
        store.commit(batch).await?;
    }
    let transport = HttpTransport::new("http://127.0.0.1:9")?;
    let client = DatasyncClient::builder().store(store).transport(transport).table::<Part>().build().await?;
    let table = client.offline_table();
    Ok((client, table))
}

/// The same JSON in redb alone.
struct Raw(Database);

impl Raw {
    fn fill(folder: &Path) -> Result<Raw> {
        // As much memory as a store of ours takes.
        let database = Database::builder().set_cache_size(CACHE).create(folder.join("raw.redb"))?;
        let write = database.begin_write()?;
        {
            let mut rows = write.open_table(RAW_ROWS)?;
            let (mut groups, mut numbers) = (write.open_table(RAW_GROUPS)?, write.open_table(RAW_NUMBERS)?);
            for number in 0..ROWS {
                let part = part(number);
                rows.insert(part.id.as_bytes(), serde_json::to_vec(&part)?.as_slice())?;
                groups.insert((part.group, part.id.as_str()), ())?;
                numbers.insert((number, part.id.as_str()), ())?;
            }
        }
        write.commit()?;
        Ok(Raw(database))
    }

    /// The rows with these numbers in an index, decoded.
    fn lookup(&self, index: TableDefinition<'_, (i64, &'static str), ()>, wanted: &[i64]) -> Result<Vec<Part>> {
        let read = self.0.begin_read()?;
        let (rows, index) = (read.open_table(RAW_ROWS)?, read.open_table(index)?);
        let mut found = Vec::new();
        for number in wanted {
            for entry in index.range((*number, "")..(*number + 1, ""))? {
                let (key, _) = entry?;
                let row = rows.get(key.value().1.as_bytes())?.ok_or("an entry has no row")?;
                found.push(serde_json::from_slice(row.value())?);
            }
        }
        Ok(found)
    }

    /// How many rows are like this; what is decoded of each is up to the test.
    fn count(&self, matches: impl Fn(&[u8]) -> serde_json::Result<bool>) -> Result<u64> {
        let rows = self.0.begin_read()?.open_table(RAW_ROWS)?;
        let mut count = 0;
        for entry in rows.iter()? {
            let (_, row) = entry?;
            count += u64::from(matches(row.value())?);
        }
        Ok(count)
    }
}

/// Nothing but the title is read of the row: the second field.
fn ends_with_77(row: &[u8]) -> serde_json::Result<bool> {
    #[derive(Deserialize)]
    struct Title<'t> {
        title: &'t str,
    }
    Ok(serde_json::from_slice::<Title<'_>>(row)?.title.ends_with("77"))
}

/// Nothing but the weight is read of the row: the last field.
fn weighs_77(row: &[u8]) -> serde_json::Result<bool> {
    #[derive(Deserialize)]
    struct Weight {
        weight: i64,
    }
    Ok(serde_json::from_slice::<Weight>(row)?.weight == 77)
}

/// Some group, or the numbers of some rows, of the `query`th query.
fn group(query: i64) -> i64 {
    query * 7 % (ROWS / HITS)
}

fn numbers(query: i64) -> Vec<i64> {
    (0..HITS).map(|row| (query + row * 613) % ROWS).collect()
}

/// Fails where both sides do not find as many rows as there are.
fn all(found: usize, wanted: i64) -> Result<()> {
    if found as i64 == wanted { Ok(()) } else { Err(format!("{found} rows of {wanted} were found").into()) }
}

/// Prints the table.
pub(crate) async fn print() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (_client, table) = ours(folder.path()).await?;
    let raw = Raw::fill(folder.path())?;
    let mut times: [[Vec<Duration>; 2]; 4] = Default::default();
    for _ in 0..ROUNDS {
        let [by_group, by_number, second, last] = &mut times;
        by_group[0].push(
            timed(async || {
                for query in 0..QUERIES {
                    all(table.query().filter(|part| part.group.eq(group(query))).to_vec().await?.len(), HITS)?;
                }
                Ok(())
            })
            .await?,
        );
        by_group[1].push(
            timed(async || {
                (0..QUERIES).try_for_each(|query| all(raw.lookup(RAW_GROUPS, &[group(query)])?.len(), HITS))
            })
            .await?,
        );
        by_number[0].push(
            timed(async || {
                for query in 0..QUERIES {
                    let asked = table.query().filter(|part| part.number.is_in(numbers(query)));
                    all(asked.to_vec().await?.len(), HITS)?;
                }
                Ok(())
            })
            .await?,
        );
        by_number[1].push(
            timed(async || {
                (0..QUERIES).try_for_each(|query| all(raw.lookup(RAW_NUMBERS, &numbers(query))?.len(), HITS))
            })
            .await?,
        );
        second[0].push(
            timed(async || all(table.query().filter(|part| part.title.ends_with("77")).count().await? as usize, 1_000))
                .await?,
        );
        second[1].push(timed(async || all(raw.count(ends_with_77)? as usize, 1_000)).await?);
        last[0].push(
            timed(async || all(table.query().filter(|part| part.weight.eq(77)).count().await? as usize, 1_000)).await?,
        );
        last[1].push(timed(async || all(raw.count(weighs_77)? as usize, 1_000)).await?);
    }
    let names = [
        ("100 queries by an index, 100 rows each", "the same index lookups and rows, decoded"),
        ("100 queries by a list of 100 indexed values", "the same index lookups and rows, decoded"),
        ("count by an unindexed filter on the second field", "a scan that reads that field"),
        ("count by an unindexed filter on the last of six fields", "a scan that reads that field"),
    ];
    println!("\n| over 100,000 rows in a file | here, ms | redb alone | ms | ratio |\n| --- | --- | --- | --- | --- |");
    for ((name, beside), [ours, raw]) in names.into_iter().zip(times) {
        let (ours, raw) = (median(ours), median(raw));
        println!("| {name} | {ours:.1} | {beside} | {raw:.1} | {:.2} |", ours / raw);
    }
    Ok(())
}
