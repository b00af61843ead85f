//! Full disks, damage, copies and space: on the real disk.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use common::{CHILD, batch, child, fill};
use datasync_core::{
    row::RowKey,
    store::{OperationsRequest, RowWrite, Store, StoreErrorKind, TableSpec, WriteBatch},
};
use datasync_redb::{CheckReport, RedbStore};
use futures::executor::block_on;
use uuid::Uuid;

/// The largest file that a child process may write, in blocks of 512 bytes.
const LIMIT: u64 = 4096;

async fn queued(store: &RedbStore) -> u64 {
    let request = OperationsRequest { account: "".into(), tables: None, after: 0, limit: usize::MAX };
    store.operations(&request).await.unwrap().len() as u64
}

fn specs() -> [TableSpec; 1] {
    [TableSpec { table: "notes".into(), indexes: Vec::new() }]
}

/// A row of 10 kB.
fn large(number: u64) -> WriteBatch {
    let mut batch = batch(number);
    for write in &mut batch.rows {
        if let RowWrite::Put { row, .. } = write
            && let Some(record) = &mut row.record
        {
            record.body = format!(r#"{{"text":"{}"}}"#, "x".repeat(10_000)).into_bytes().into();
        }
    }
    batch
}

#[test]
fn i01_a_full_disk_leaves_rows_and_queue_as_before_and_the_store_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let inner = child("fill the disk", &path);
    // The signal for a file that is too large is not wanted, only the error; the limit may be raised again.
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("trap '' XFSZ; ulimit -S -f {LIMIT}; exec \"$0\" \"$@\""));
    limited.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        limited.env(name, value.unwrap());
    }
    let mut running = limited.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines().map(Result::unwrap);
    let full = lines.find_map(|line| line.strip_prefix("child: full after ").map(str::to_owned)).unwrap();
    let committed: u64 = full.parse().unwrap();
    assert!(committed > 50, "{committed}");
    // Somebody makes space.
    let raised = Command::new("prlimit").args(["--pid", &running.id().to_string(), "--fsize=unlimited"]).status();
    let raised = raised.is_ok_and(|status| status.success());
    if raised {
        running.stdin.take().unwrap().write_all(b"go on\n").unwrap();
        assert!(lines.any(|line| line == "child: went on"));
    } else {
        println!("without prlimit the limit of a process cannot be raised: it is not tried whether it goes on");
        running.kill().unwrap();
    }
    running.wait().unwrap();

    let store = RedbStore::open(&path).unwrap();
    block_on(async {
        store.open(&specs()).await.unwrap();
        let expected = committed + u64::from(raised);
        assert_eq!(store.head().await.unwrap().number, expected);
        assert_eq!(queued(&store).await, expected);
        assert_eq!(store.check().await.unwrap().operations, expected);
        store.commit(large(expected + 1)).await.unwrap();
    });
}

/// In the child: commits until the disk is full, looks that all is as before, and goes on when it is told to.
fn fill_the_disk(path: &Path) {
    let store = RedbStore::open(path).unwrap();
    println!();
    block_on(async {
        store.open(&specs()).await.unwrap();
        let mut number = 1;
        let error = loop {
            match store.commit(large(number)).await {
                Ok(()) => number += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), StoreErrorKind::Full, "{error}");
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(store.head().await.unwrap().number, number - 1);
        assert_eq!(queued(&store).await, number - 1);
        assert_eq!(store.commit(large(number)).await.unwrap_err().kind(), StoreErrorKind::Full);
        assert_eq!(queued(&store).await, number - 1);
        println!("child: full after {}", number - 1);
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        store.commit(large(number)).await.unwrap();
        println!("child: went on");
        store.close().await.unwrap();
    });
}

#[test]
fn a_backup_is_the_store_of_one_moment_and_never_half_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let copy = folder.path().join("copy.redb");
    let store = RedbStore::open(&path).unwrap();
    fill(&store, 200);
    let before = block_on(store.head()).unwrap();
    let (backed_up, ()) = block_on(async {
        let writes = async {
            for number in 201..=260 {
                store.commit(batch(number)).await.unwrap();
            }
        };
        futures::join!(store.backup(&copy), writes)
    });
    backed_up.unwrap();
    let restored = RedbStore::open(&copy).unwrap();
    block_on(async {
        assert!(restored.open(&specs()).await.unwrap().is_empty());
        let head = restored.head().await.unwrap();
        assert!((before.number..=260).contains(&head.number));
        assert_eq!(queued(&restored).await, head.number, "each row with its operation");
        assert_eq!(restored.check().await.unwrap().rows, head.number);
        assert_eq!(store.head().await.unwrap().number, 260);
        let again = store.backup(&copy).await.unwrap_err();
        assert!(again.kind() == StoreErrorKind::Io && again.to_string().contains("name a new file"), "{again}");
    });

    for _ in 0..5 {
        let target = folder.path().join("killed.redb");
        block_on(store.close()).unwrap();
        let mut copying = child("back up", &path);
        let mut running = copying.env("DATASYNC_REDB_TEST_TARGET", &target).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "child: begins"));
        running.kill().unwrap();
        running.wait().unwrap();
        if target.exists() {
            let whole = RedbStore::open(&target).unwrap();
            assert_eq!(block_on(whole.check()).unwrap().rows, 260, "if it is there it is whole");
            fs::remove_file(&target).unwrap();
        }
    }
}

#[test]
fn compact_gives_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    block_on(async {
        store.open(&specs()).await.unwrap();
        for number in 1..=300 {
            store.commit(large(number)).await.unwrap();
        }
        let rows = (1..=299).map(|number| RowWrite::Remove { key: RowKey::new("notes", format!("{number:08}")) });
        let removal =
            WriteBatch { number: 301, id: Uuid::from_u128(301), rows: rows.collect(), ..WriteBatch::default() };
        store.commit(removal).await.unwrap();
        let before = fs::metadata(&path).unwrap().len();
        assert!(store.compact().await.unwrap());
        let after = fs::metadata(&path).unwrap().len();
        assert!(after * 2 < before, "{before} became {after}");
        assert_eq!((queued(&store).await, store.check().await.unwrap().rows), (1, 1));
        store.commit(batch(302)).await.unwrap();
    });
}

#[test]
fn a_store_that_no_client_has_opened_yet_is_whole_and_can_be_copied() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open(folder.path().join("store.redb")).unwrap();
    let copy = folder.path().join("copy.redb");
    assert_eq!(block_on(store.check()).unwrap(), CheckReport::default());
    block_on(store.backup(&copy)).unwrap();
    assert!(block_on(RedbStore::open(copy).unwrap().open(&specs())).unwrap().is_empty());
}

#[test]
fn damage_is_found_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    fill(&store, 300);
    assert_eq!(block_on(store.check()).unwrap().rows, 300);
    block_on(store.close()).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut found = 0;
    for turn in 0..60 {
        let mut damaged = whole.clone();
        let at = 4096 + turn * (whole.len() - 4096) / 60;
        // Greater bytes would name a page of 4 GB, which a debug build of redb fills with zeros one by one.
        damaged[at..(at + 64).min(whole.len())].fill(0x15);
        fs::write(&path, &damaged).unwrap();
        let checked = RedbStore::open(&path).and_then(|store| block_on(store.check()));
        match checked {
            // What is not used may be anything.
            Ok(report) => assert_eq!(report.rows, 300, "the byte {at}"),
            Err(error) => {
                found += 1;
                assert_eq!(error.kind(), StoreErrorKind::Corrupted, "the byte {at}: {error}");
            }
        }
    }
    assert!(found > 5, "{found}");
}

/// Does nothing but in a child process of another test.
#[test]
fn in_a_child_process() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (what, path) = order.split_once(": ").unwrap();
    match what {
        "fill the disk" => fill_the_disk(Path::new(path)),
        _ => {
            let target = std::env::var_os("DATASYNC_REDB_TEST_TARGET").unwrap();
            let store = RedbStore::open(path).unwrap();
            println!("\nchild: begins");
            block_on(store.backup(target)).unwrap();
        }
    }
}
