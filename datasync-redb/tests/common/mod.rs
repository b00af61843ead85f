//! Stores of some rows, and child processes that work on them.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{path::Path, process::Command};

use datasync_core::{
    row::{Body, Hold, Operation, OperationKind, Phase, Record, Row, RowKey},
    store::{RowWrite, Store, TableSpec, WriteBatch},
};
use datasync_redb::RedbStore;
use futures::executor::block_on;
use uuid::Uuid;

/// Names the file that a child process works on, and what it does there.
pub(crate) const CHILD: &str = "DATASYNC_REDB_TEST_CHILD";

pub(crate) fn batch(number: u64) -> WriteBatch {
    let record = Record {
        body: Body::from(format!("{{\"id\":\"{number}\"}}").into_bytes()),
        version: None,
        updated_at: None,
        deleted: false,
    };
    let operation = Operation {
        place: number,
        key: Uuid::from_u128(u128::from(number)),
        kind: OperationKind::Insert,
        phase: Phase::New,
        hold: Hold::Ready,
        version: None,
        frozen: None,
        frozen_base: None,
        fingerprint: 0,
        schema: 1,
        edited: None,
        attempts: 0,
        rounds: 0,
    };
    let row = Row { record: Some(record), operations: vec![operation], ..Row::default() };
    let key = RowKey::new("notes", format!("{number:08}"));
    let rows = vec![RowWrite::Put { key, row, index_keys: Vec::new() }];
    WriteBatch { number, id: Uuid::from_u128(u128::from(number)), rows, ..WriteBatch::default() }
}

pub(crate) fn fill(store: &RedbStore, commits: u64) {
    block_on(async {
        store.open(&[TableSpec { table: "notes".into(), indexes: Vec::new() }]).await.unwrap();
        for number in 1..=commits {
            store.commit(batch(number)).await.unwrap();
        }
    });
}

pub(crate) fn child(what: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "in_a_child_process", "--nocapture"]);
    command.env(CHILD, format!("{what}: {}", path.display()));
    command
}
