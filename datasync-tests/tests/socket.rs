//! Push and pull over a real socket, and a service that goes away and comes back.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use datasync_core::{
    client::{DatasyncClient, OfflineTable, Tables},
    error::ErrorKind,
};
use datasync_http::HttpTransport;
use datasync_redb::RedbStore;
use datasync_server::{DatasyncServer, MemoryRepository};
use datasync_tests::{Note, Wire, local_rows, note, note_of, service, service_rows};

async fn client(folder: &std::path::Path, name: &str, address: &str) -> (DatasyncClient, OfflineTable<Note>) {
    let client = DatasyncClient::builder()
        .store(RedbStore::open(folder.join(name)).unwrap())
        .transport(HttpTransport::builder(address).retries(0).build().unwrap())
        .table::<Note>()
        .build()
        .await
        .unwrap();
    let table = client.offline_table();
    (client, table)
}

async fn two_devices_and_a_service_that_comes_and_goes(wire: Wire) {
    let folder = tempfile::tempdir().unwrap();
    let rows = MemoryRepository::new();
    let server =
        DatasyncServer::start("127.0.0.1:0".parse().unwrap(), service(&rows, 25, wire).into_router()).await.unwrap();
    let at = server.address();
    let address = format!("http://{at}");
    let (one, here) = client(folder.path(), "one.redb", &address).await;
    let (_other, there) = client(folder.path(), "other.redb", &address).await;
    here.insert_all((0..60).map(|number| note(&number.to_string()))).await.unwrap();
    assert_eq!(here.push_items().await.unwrap().pushed, 60);
    assert_eq!(there.pull_items(there.query()).await.unwrap().inserted, 60);
    assert_eq!(local_rows(&there).await, service_rows(&rows));

    server.stop(Duration::from_secs(2)).await;
    here.insert(note_of("offline", "x")).await.unwrap();
    assert_eq!(here.push_items().await.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(there.pull_items(there.query()).await.unwrap_err().kind(), ErrorKind::Unreachable);
    one.close().await.unwrap();
    assert_eq!(here.count().await.unwrap_err().kind(), ErrorKind::Store);

    // The app is started again, and so is the service.
    let server = DatasyncServer::start(at, service(&rows, 25, wire).into_router()).await.unwrap();
    let (one, here) = client(folder.path(), "one.redb", &address).await;
    assert_eq!(one.pending().await.unwrap().len(), 1);
    one.push_tables(Tables::all()).await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(local_rows(&there).await, service_rows(&rows));
    assert_eq!(local_rows(&here).await, service_rows(&rows));
    server.stop(Duration::from_secs(2)).await;
}

async fn a_remote_table_talks_to_the_service_alone(wire: Wire) {
    let folder = tempfile::tempdir().unwrap();
    let rows = MemoryRepository::new();
    let server =
        DatasyncServer::start("127.0.0.1:0".parse().unwrap(), service(&rows, 25, wire).into_router()).await.unwrap();
    let (client, here) = client(folder.path(), "one.redb", &format!("http://{}", server.address())).await;
    let remote = client.remote_table::<Note>();
    for number in 0..30 {
        remote.insert(Note { rank: number, ..note_of(&format!("{number:02}"), "x") }).await.unwrap();
    }
    assert_eq!(remote.count().await.unwrap(), 30);
    let some = remote.query().filter(|n| n.rank.ge(3)).order_by(|n| n.rank.desc()).skip(1).to_rows().await.unwrap();
    assert_eq!((some.rows.len(), some.rows[0].rank, some.total), (26, 28, Some(27)));
    let read = remote.get("05").await.unwrap().unwrap();
    let changed = remote.replace(&read.clone().map(|note| Note { title: "y".to_owned(), ..note })).await.unwrap();
    assert_eq!(remote.replace(&read).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(remote.delete(&read).await.unwrap_err().kind(), ErrorKind::Conflict);
    remote.delete(&changed).await.unwrap();
    assert!(remote.get("05").await.unwrap().is_none());
    assert_eq!(remote.insert(note_of("06", "x")).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(here.count().await.unwrap(), 0, "nothing of it is stored here");
    server.stop(Duration::from_secs(2)).await;
    assert_eq!(remote.get("06").await.unwrap_err().kind(), ErrorKind::Unreachable);
}

datasync_tests::on_both_wires! { two_devices_and_a_service_that_comes_and_goes a_remote_table_talks_to_the_service_alone }
