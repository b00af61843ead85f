//! Damaged files: what can still be read of them is exported, and they are never written to.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use common::batch;
use datasync_core::{
    export,
    row::{LoserCause, RowKey, SettledLoser, Side},
    store::{KeysRequest, RowWrite, Salvaged, Store, StoreError, StoreErrorKind, TableSpec, WriteBatch},
};
use datasync_redb::RedbStore;
use futures::executor::block_on;
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

/// How many rows there are; every tenth is of 9 kB, every fifth has a queued operation.
const ROWS: u64 = 600;

struct File {
    folder: TempDir,
    /// The bytes of the file, closed and as a kill leaves them.
    closed: Vec<u8>,
    killed: Vec<u8>,
    /// What an export of it has.
    lines: BTreeSet<String>,
}

fn write(number: u64, round: u64) -> RowWrite {
    let mut write = batch(number).rows.remove(0);
    if let RowWrite::Put { row, .. } = &mut write {
        let text = if number.is_multiple_of(10) { "x".repeat(9_000) } else { format!("round {round}") };
        let record = row.record.as_mut().unwrap();
        record.body = format!(r#"{{"id":"{number}","text":"{text}","round":{round}}}"#).into_bytes().into();
        row.revision = round;
        if !number.is_multiple_of(5) {
            row.operations.clear();
        }
    }
    write
}

fn loser(number: u64) -> SettledLoser {
    SettledLoser {
        id: Uuid::from_u128(u128::from(number)),
        key: RowKey::new("notes", number.to_string()),
        side: Side::Local,
        body: format!(r#"{{"id":"{number}"}}"#).into_bytes().into(),
        version: None,
        at: Timestamp::UNIX_EPOCH,
        schema: 1,
        cause: LoserCause::Conflict,
    }
}

/// A store with a history: every row was written three times, and a third of them is gone.
fn made() -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.redb");
    let store = RedbStore::open(&path).unwrap();
    let (mut lines, mut killed) = (BTreeSet::new(), Vec::new());
    block_on(async {
        store.open(&[TableSpec { table: "notes".into(), indexes: Vec::new() }]).await.unwrap();
        let mut number = 0;
        let mut commit = |rows: Vec<RowWrite>, add_losers| {
            number += 1;
            let batch = WriteBatch { number, id: Uuid::from_u128(7), rows, add_losers, ..WriteBatch::default() };
            store.commit(batch)
        };
        for round in 1..=3 {
            for part in 0..10 {
                let numbers = (ROWS * 3 / 2) * part / 10..(ROWS * 3 / 2) * (part + 1) / 10;
                commit(numbers.clone().map(|number| write(number, round)).collect(), Vec::new()).await.unwrap();
            }
        }
        let gone = |number: u64| RowWrite::Remove { key: RowKey::new("notes", format!("{number:08}")) };
        let removed = (0..ROWS * 3 / 2).filter(|number| number % 3 == 1).map(gone).collect();
        commit(removed, (0..90).map(loser).collect()).await.unwrap();
        let all = KeysRequest { table: "notes".into(), after: None, limit: usize::MAX };
        let keys = store.keys(&all).await.unwrap();
        for (key, row) in keys.iter().zip(store.get(&keys).await.unwrap()) {
            let row = row.unwrap();
            lines.insert(export::row(key, &row));
            lines.extend(row.operations.iter().map(|operation| export::operation(key, operation)));
        }
        lines.extend(store.losers("", None, usize::MAX).await.unwrap().iter().map(export::loser));
        killed = fs::read(&path).unwrap();
        store.close().await.unwrap();
    });
    assert_eq!(lines.iter().filter(|line| line.contains(r#""kind":"row""#)).count() as u64, ROWS);
    let closed = fs::read(&path).unwrap();
    File { folder, closed, killed, lines }
}

/// What is salvaged of these bytes, line by line; those that are certain first.
fn salvaged(file: &File, bytes: &[u8]) -> (Salvaged, BTreeSet<String>, Vec<String>) {
    let path: PathBuf = file.folder.path().join("damaged.redb");
    let to = file.folder.path().join("rescued.jsonl");
    fs::write(&path, bytes).unwrap();
    let report = RedbStore::salvage(&path, &to).unwrap();
    assert!(fs::read(&path).unwrap() == bytes, "the damaged file was written to");
    let text = fs::read_to_string(&to).unwrap();
    fs::remove_file(&to).unwrap();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let (mut certain, mut uncertain) = (BTreeSet::new(), Vec::new());
    for line in text.lines() {
        let json: Value = serde_json::from_str(line).unwrap();
        *kinds.entry(json["kind"].as_str().unwrap().to_owned()).or_default() += 1;
        match line.strip_prefix(r#"{"certain":false,"#) {
            Some(rest) => uncertain.push(format!("{{{rest}")),
            None => assert!(certain.insert(line.to_owned()), "twice: {line}"),
        }
    }
    let of = |kind: &str| kinds.get(kind).copied().unwrap_or_default();
    assert_eq!((report.rows, report.operations, report.losers), (of("row"), of("operation"), of("loser")));
    assert_eq!(report.uncertain > 0, !uncertain.is_empty());
    (report, certain, uncertain)
}

#[test]
fn all_of_a_whole_file_is_salvaged_and_nothing_else() {
    let file = made();
    for bytes in [&file.closed, &file.killed] {
        let (report, certain, uncertain) = salvaged(&file, bytes);
        assert!(certain == file.lines && uncertain.is_empty());
        assert_eq!((report.rows, report.operations, report.losers, report.uncertain), (ROWS, ROWS / 5, 90, 0));
    }
}

#[test]
fn damage_anywhere_costs_only_what_lies_there() {
    let file = made();
    let (turns, mut harmless, mut worst) = (120, 0, u64::MAX);
    for turn in 0..turns {
        let at = turn * file.closed.len() / turns;
        let mut damaged = file.closed.clone();
        let end = (at + [1, 64, 4096][turn % 3]).min(damaged.len());
        damaged[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        let (report, certain, uncertain) = salvaged(&file, &damaged);
        assert!(certain.is_subset(&file.lines), "the byte {at}: what is certain is as it was");
        harmless += u64::from(certain.len() == file.lines.len());
        // A row of 9 kB is a page of its own, and some forty of the others share one.
        let found = certain.iter().chain(&uncertain).filter(|line| line.contains(r#""kind":"row""#)).count() as u64;
        assert_eq!(found, report.rows);
        let right = file.lines.iter().filter(|line| certain.contains(*line) || uncertain.contains(line)).count() as u64;
        worst = worst.min(right);
        // Rows of earlier rounds may come back with a page that shows them, never as if they were certain.
        assert!(uncertain.len() as u64 <= ROWS * 3 + 90, "{}", uncertain.len());
    }
    let lines = file.lines.len() as u64;
    println!("{harmless} of {turns} harmless; at worst {worst} of {lines} lines as they were");
    assert!(worst * 10 >= lines * 8, "{worst} of {lines}");
    assert!(harmless > 0 && harmless < turns as u64);
}

#[test]
fn the_pages_of_a_file_that_was_cut_short_are_salvaged() {
    let file = made();
    let mut before = 0;
    for part in 0..=20 {
        let length = file.closed.len() * part / 20;
        let (report, certain, _) = salvaged(&file, &file.closed[..length]);
        assert!(certain.is_subset(&file.lines));
        if part >= 19 {
            assert!(report.rows * 10 > ROWS * 7, "{} rows of {length} bytes", report.rows);
        }
        before = before.max(report.rows);
    }
    assert!(before >= ROWS);
    // Without its beginning nothing leads to the pages, but they are there.
    let mut headless = file.closed.clone();
    headless[..4096].fill(0);
    let (report, certain, uncertain) = salvaged(&file, &headless);
    assert!(certain.is_empty() && report.rows >= ROWS && report.losers >= 90);
    let right = file.lines.iter().filter(|line| uncertain.contains(line)).count();
    assert_eq!(right, file.lines.len(), "the newest state of each row is found");
}

#[test]
fn the_error_of_a_damaged_file_salvages_it() {
    let file = made();
    let path = file.folder.path().join("short.redb");
    fs::write(&path, &file.closed[..file.closed.len() - 4096]).unwrap();
    let before = fs::read(&path).unwrap();
    let error = RedbStore::open(&path).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupted);
    assert!(error.to_string().contains("`salvage` of this error exports"), "{error}");
    let to = file.folder.path().join("rescued.jsonl");
    let mut told = Vec::new();
    let salvaged = error.salvage_telling(&to, |progress| told.push(progress)).unwrap();
    assert!(salvaged.rows * 10 > ROWS * 7, "{salvaged:?}");
    assert!(told.len() > 2 && told.is_sorted_by_key(|progress| progress.done), "{told:?}");
    assert!(told.iter().all(|progress| progress.total == told[0].total && progress.done <= progress.total), "{told:?}");
    assert_eq!(told.last().map(|last| last.done), Some(told[0].total));
    assert_eq!(
        fs::read_to_string(&to).unwrap().lines().count() as u64,
        salvaged.rows + salvaged.operations + salvaged.losers
    );
    let again = error.salvage(&to).unwrap_err();
    assert!(again.kind() == StoreErrorKind::Io && again.to_string().contains("name a new file"), "{again}");
    assert_eq!(fs::read(&path).unwrap(), before);
    let nothing = StoreError::new(StoreErrorKind::Io, "something else").salvage(&to).unwrap_err();
    assert_eq!(nothing.kind(), StoreErrorKind::Unsupported);
}

#[test]
fn damage_that_is_found_while_the_store_is_used_can_be_salvaged_too() {
    let file = made();
    let path = file.folder.path().join("used.redb");
    let mut found = 0;
    for turn in 0..40 {
        let mut damaged = file.closed.clone();
        let at = 4096 + turn * (damaged.len() - 4096) / 40;
        let end = (at + 256).min(damaged.len());
        damaged[at..end].fill(0x15);
        fs::write(&path, &damaged).unwrap();
        let Err(error) = RedbStore::open(&path).and_then(|store| block_on(store.check())) else { continue };
        found += 1;
        let to = file.folder.path().join(format!("rescued-{turn}.jsonl"));
        let salvaged = error.salvage(&to).unwrap();
        assert!(salvaged.rows * 10 > ROWS * 7, "{salvaged:?}");
    }
    assert!(found > 5, "{found}");
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn a_file_that_is_only_looked_at_is_left_byte_by_byte() {
    let file = made();
    let path = file.folder.path().join("looked.redb");
    for whole in [&file.closed, &file.killed] {
        fs::write(&path, whole).unwrap();
        let store = RedbStore::open(&path).unwrap();
        let head = block_on(store.head()).unwrap();
        let all = KeysRequest { table: "notes".into(), after: None, limit: usize::MAX };
        let keys = block_on(store.keys(&all)).unwrap();
        assert_eq!((head.number, keys.len() as u64), (31, ROWS));
        assert_eq!(RedbStore::open(&path).unwrap_err().kind(), StoreErrorKind::AlreadyOpen);
        assert!(bytes(&path) == *whole);
        drop(store);
        assert!(bytes(&path) == *whole);
        // The first write opens it.
        let store = RedbStore::open(&path).unwrap();
        assert_eq!(block_on(store.head()).unwrap(), head);
        let batch = WriteBatch { number: 32, id: Uuid::from_u128(8), rows: vec![write(1, 4)], ..WriteBatch::default() };
        block_on(store.commit(batch)).unwrap();
        assert_eq!(RedbStore::open(&path).unwrap_err().kind(), StoreErrorKind::AlreadyOpen);
        assert_eq!(block_on(store.check()).unwrap().rows, ROWS + 1);
        block_on(store.close()).unwrap();
        assert!(bytes(&path) != *whole);
        let store = RedbStore::open(&path).unwrap();
        assert_eq!(block_on(store.head()).unwrap().number, 32);
    }
}
