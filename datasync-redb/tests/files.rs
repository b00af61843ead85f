//! Files that are not ours, kills, and second processes: on the real disk.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]
#![allow(clippy::disallowed_methods, reason = "kills are spread over the time that opening takes")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    time::Instant,
};

mod common;

use common::{CHILD, batch, child, fill};
use datasync_core::{
    row::RowKey,
    store::{OperationsRequest, Store, StoreError, StoreErrorKind, TableSpec},
};
use datasync_redb::RedbStore;
use futures::executor::block_on;
use redb::{ReadableDatabase, TableDefinition};

fn refused(path: &Path) -> StoreErrorKind {
    let before = fs::read(path).unwrap();
    let error: StoreError = RedbStore::open(path).unwrap_err();
    assert_eq!(fs::read(path).unwrap(), before, "the file is left as it was: {error}");
    error.kind()
}

#[test]
fn a_file_that_is_not_ours_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other");
    for bytes in [&b"SQLite format 3\0 and so on"[..], b"x", b"a letter to somebody", &[0; 8192]] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(refused(&path), StoreErrorKind::NotAStore);
    }
    assert_eq!(RedbStore::open(folder.path()).unwrap_err().kind(), StoreErrorKind::NotAStore);

    let foreign = folder.path().join("foreign.redb");
    let database = redb::Database::create(&foreign).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(database);
    assert_eq!(refused(&foreign), StoreErrorKind::NotAStore);
}

#[test]
fn a_file_of_a_newer_release_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    fill(&store, 3);
    block_on(store.close()).unwrap();
    let database = redb::Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    let meta = TableDefinition::<&[u8], &[u8]>::new("meta");
    write.open_table(meta).unwrap().insert(&b"format"[..], &b"datasync store \x02"[..]).unwrap();
    write.commit().unwrap();
    assert!(database.begin_read().is_ok());
    drop(database);
    assert_eq!(refused(&path), StoreErrorKind::NewerFormat);
}

#[test]
fn a_file_that_was_cut_short_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    fill(&store, 200);
    block_on(store.close()).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in [4, 9, 64, 320, 4096, 5000, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(refused(&path), StoreErrorKind::Corrupted, "cut to {length} of {}", whole.len());
    }
}

#[test]
fn a_second_handle_and_a_second_process_get_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    fill(&store, 1);
    assert_eq!(RedbStore::open(&path).unwrap_err().kind(), StoreErrorKind::AlreadyOpen);
    let output = child("open", &path).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("child: AlreadyOpen"), "{output:?}");
    block_on(store.close()).unwrap();
    let output = child("open", &path).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("child: opened"), "{output:?}");
}

#[test]
fn i01_a_kill_while_the_file_is_made_leaves_none_or_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let kills = 60_u32;
    let begun = Instant::now();
    assert!(child("open", &folder.path().join("undisturbed.redb")).output().unwrap().status.success());
    let step = begun.elapsed() * 3 / 2 / kills;
    let (mut killed, mut unborn) = (0, 0);
    for turn in 0..10 * kills {
        // On a machine that has become slower meanwhile, until one comes to its end.
        if turn >= kills && killed < turn {
            break;
        }
        let path = folder.path().join(format!("{turn}.redb"));
        // Some begin with an empty file.
        if turn % 2 == 0 {
            fs::write(&path, "").unwrap();
        }
        let mut opening = child("open", &path).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(step * turn);
        opening.kill().unwrap();
        killed += u32::from(!opening.wait().unwrap().success());
        unborn += u32::from(fs::metadata(&path).map_or(0, |file| file.len()) == 0);
        let store = RedbStore::open(&path).unwrap();
        fill(&store, 1);
    }
    println!("{killed} killed, {unborn} of them before there was a file");
    assert!(unborn > 0 && killed > unborn, "{killed} killed, {unborn} of them before there was a file");
}

#[test]
fn i01_what_was_committed_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    for _ in 0..3 {
        let mut killed = child("commit", &path).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(killed.stdout.take().unwrap()).lines();
        let mut committed = 0;
        for line in lines {
            if let Some(number) = line.unwrap().strip_prefix("committed ") {
                committed = number.parse().unwrap();
                if committed % 50 == 37 {
                    killed.kill().unwrap();
                    break;
                }
            }
        }
        killed.wait().unwrap();
        let store = RedbStore::open(&path).unwrap();
        block_on(async {
            store.open(&[TableSpec { table: "notes".into(), indexes: Vec::new() }]).await.unwrap();
            let head = store.head().await.unwrap();
            assert!(committed > 0 && head.number >= committed, "{} of {committed}", head.number);
            let request = OperationsRequest { account: "".into(), tables: None, after: 0, limit: usize::MAX };
            let queued = store.operations(&request).await.unwrap();
            assert_eq!(queued.len() as u64, head.number, "each row with its operation");
            let keys: Vec<RowKey> = queued.into_iter().map(|queued| queued.key).collect();
            assert!(store.get(&keys).await.unwrap().iter().all(Option::is_some));
            store.close().await.unwrap();
        });
    }
}

/// Does nothing but in a child process of another test.
#[test]
fn in_a_child_process() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (what, path) = order.split_once(": ").unwrap();
    match (what, RedbStore::open(path)) {
        ("open", Ok(_)) => println!("\nchild: opened"),
        ("open", Err(error)) => println!("\nchild: {:?}", error.kind()),
        (_, store) => {
            let store = store.unwrap();
            fill(&store, 0);
            block_on(async {
                let from = store.head().await.unwrap().number;
                println!();
                for number in from + 1..from + 100_000 {
                    store.commit(batch(number)).await.unwrap();
                    println!("committed {number}");
                }
            });
        }
    }
}
