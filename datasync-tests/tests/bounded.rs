//! Memory during a pull or a push does not depend on the number of rows (I15).
//!
//! A device is a process of its own, so that its peak is what it used and nobody else.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
};

use datasync_core::{
    client::{DatasyncClient, Tables},
    clock::SystemClock,
    config::SyncConfig,
};
use datasync_http::HttpTransport;
use datasync_redb::RedbStore;
use datasync_server::{DatasyncServer, MemoryRepository};
use datasync_tests::{Note, Wire, folder, note_of, service};

datasync_tests::on_both_wires! {
    i15_a_pull_or_a_push_of_many_rows_takes_the_memory_of_few
}

/// What a child process is told: the address, and how many rows.
const CHILD: &str = "DATASYNC_BOUNDED_TEST_CHILD";
/// The length of a row's text.
const LENGTH: usize = 10_000;
/// The rows of the two runs.
const FEW: usize = 400;
const MANY: usize = 2_000;

/// The most memory that this process has used so far, in KiB; `None` on a system that does not tell.
fn peak() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))?.trim().parse().ok()
}

/// Inserts rows, pushes them, and pulls them into another store.
async fn be_the_device(address: SocketAddr, rows: usize) {
    let folder = folder();
    let open = async |name: &str| {
        // A cache that the few rows fill already.
        let store = RedbStore::builder().cache_size(1 << 20).open(folder.path().join(name)).unwrap();
        let transport = HttpTransport::builder(&format!("http://{address}")).build().unwrap();
        // Small waves and pages, so that the few rows are already many of them.
        let config = SyncConfig::from_toml("[sync]\nwave_size = 20\npage_size = 20").unwrap();
        let builder = DatasyncClient::builder().store(store).transport(transport).config(config).clock(SystemClock);
        builder.table::<Note>().build().await.unwrap()
    };
    let sender = open("sender.redb").await;
    let notes = sender.offline_table::<Note>();
    for part in 0..rows / 50 {
        let part = (part * 50..part * 50 + 50).map(|number| note_of(&format!("{number:06}"), &"x".repeat(LENGTH)));
        notes.insert_all(part.collect::<Vec<_>>()).await.unwrap();
    }
    let queued = peak();
    let report = sender.push_tables(Tables::all()).await.unwrap();
    assert_eq!(report.pushed, rows as u64);
    let pushed = peak();
    drop((sender, notes));
    let receiver = open("receiver.redb").await;
    let notes = receiver.offline_table::<Note>();
    let report = notes.pull_items(notes.query()).await.unwrap();
    assert_eq!(report.inserted, rows as u64);
    assert_eq!(notes.count().await.unwrap(), rows as u64);
    println!("\npeaks {:?}", [queued, pushed, peak()].map(Option::unwrap_or_default));
}

#[tokio::test]
async fn in_a_child_process() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (address, rows) = told.split_once('|').unwrap();
    be_the_device(address.parse().unwrap(), rows.parse().unwrap()).await;
}

async fn i15_a_pull_or_a_push_of_many_rows_takes_the_memory_of_few(wire: Wire) {
    let mut peaks = Vec::new();
    for count in [FEW, MANY] {
        let rows = MemoryRepository::new();
        let server = DatasyncServer::start("127.0.0.1:0".parse().unwrap(), service(&rows, 100, wire).into_router())
            .await
            .unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "in_a_child_process", "--nocapture"]).stdout(Stdio::piped());
        command.env(CHILD, format!("{}|{count}", server.address()));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        let line = said.lines().find_map(|line| line.strip_prefix("peaks [")?.strip_suffix(']')).unwrap();
        peaks.push(line.split(", ").map(|number| number.parse::<usize>().unwrap()).collect::<Vec<_>>());
    }
    println!("peaks in KiB, {FEW} and {MANY} rows: {peaks:?}");
    let more = (MANY - FEW) * LENGTH / 1024;
    for (few, many) in peaks[0].iter().zip(&peaks[1]) {
        assert!(many.saturating_sub(*few) < more / 2, "{peaks:?}: {more} KiB more were sent");
    }
}
