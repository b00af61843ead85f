//! What an app, an operator or a disk does wrong: a typed error that says what was wrong and what to do, and rows, queue
//! and token as before.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PendingChange, PendingState},
    config::ConflictPolicy,
    error::ErrorKind,
    memory::MemoryStore,
    store::{DeltaToken, ScopeKey, Store},
};
use datasync_http::HttpTransport;
use datasync_redb::RedbStore;
use datasync_server::{DatasyncServer, MemoryRepository};
use datasync_tests::{Note, RouterExchange, Wire, client, local_rows, note_of, notes, service, service_rows};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

/// All that an error must leave as it was.
type State = (Vec<(String, String, i64)>, Vec<PendingChange>, Option<DeltaToken>);

async fn state(client: &DatasyncClient, store: &dyn Store) -> State {
    let scope = ScopeKey { account: "".into(), table: "note".into(), scope: "".into() };
    let rows = local_rows(&notes(client)).await;
    (rows, client.pending().await.unwrap(), store.delta_token(&scope).await.unwrap())
}

async fn an_id_that_breaks_the_rule_is_named(wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 25, wire));
    let store = MemoryStore::new();
    let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.insert(note_of("sent", "x")).await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    table.insert(note_of("queued", "x")).await.unwrap();
    let before = state(&client, &store).await;
    let long = "x".repeat(128);
    for (id, why) in [
        ("a b", "only ASCII letters, digits and `_.|:-` are allowed"),
        ("a/b", "only ASCII letters, digits and `_.|:-` are allowed"),
        ("ü", "does not begin with an ASCII letter or digit"),
        ("-a", "does not begin with an ASCII letter or digit"),
        ("a\n", "only ASCII letters, digits and `_.|:-` are allowed"),
        (long.as_str(), "longer than 127 characters"),
    ] {
        let wrong = [
            table.insert(note_of(id, "x")).await.map(drop),
            table.insert_all([note_of("right", "x"), note_of(id, "x")]).await.map(drop),
            table.upsert(note_of(id, "x")).await.map(drop),
            client.remote_table::<Note>().insert(note_of(id, "x")).await.map(drop),
        ];
        for error in wrong.map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::InvalidId, "{error}");
            assert!(error.to_string().contains(why) && error.to_string().contains(id), "{error}");
        }
        for error in [table.replace(note_of(id, "x")).await.map(drop), table.delete(id).await.map(drop)] {
            let error = error.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidId | ErrorKind::NotFound), "{error}");
        }
        assert_eq!(table.get(id).await.unwrap(), None);
        assert_eq!(state(&client, &store).await, before, "{id:?}");
    }
    table.push_items().await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn an_unknown_table_is_named_with_those_that_there_are(wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 25, wire));
    let store = MemoryStore::new();
    let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
    notes(&client).insert(note_of("a", "x")).await.unwrap();
    let before = state(&client, &store).await;
    for error in [
        client.push_tables(["nothing"]).await.map(drop).unwrap_err(),
        client.push_tables(["note", "nothing"]).await.map(drop).unwrap_err(),
        client.retry("nothing", "a").await.unwrap_err(),
        client.discard("nothing", "a").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::UnknownTable, "{error}");
        assert!(error.to_string().contains("`nothing`; it has note"), "{error}");
    }
    assert_eq!(state(&client, &store).await, before);
    assert_eq!(client.push_tables(["note"]).await.unwrap().pushed, 1);
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Stands before the service with a certificate for this name, until the end of the test.
async fn with_certificate(service: SocketAddr, issuer: &Issuer, name: &str, until: i32) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
    let chain = vec![params.signed_by(&key, issuer).unwrap().der().clone()];
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut upstream = TcpStream::connect(service).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut upstream).await
            });
        }
    });
    format!("https://localhost:{port}")
}

async fn over_tls(store: &MemoryStore, base: &str, trusted: &[&Issuer]) -> (DatasyncClient, OfflineTable<Note>) {
    let mut transport = HttpTransport::builder(base).retries(0);
    for issuer in trusted {
        transport = transport.root_certificate(issuer.pem());
    }
    let builder = DatasyncClient::builder().store(store.clone()).transport(transport.build().unwrap());
    let client = builder.table::<Note>().build().await.unwrap();
    let table = client.offline_table();
    (client, table)
}

async fn i25_a_wrong_certificate_ends_it_before_anything_is_sent(wire: Wire) {
    let rows = MemoryRepository::new();
    let server =
        DatasyncServer::start("127.0.0.1:0".parse().unwrap(), service(&rows, 25, wire).into_router()).await.unwrap();
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let good = with_certificate(server.address(), &ours, "localhost", 2200).await;
    let of_another = with_certificate(server.address(), &ours, "elsewhere", 2200).await;
    let expired = with_certificate(server.address(), &ours, "localhost", 2021).await;
    let store = MemoryStore::new();
    let (client, table) = over_tls(&store, &good, &[&ours]).await;
    table.insert(note_of("sent", "x")).await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    table.insert(note_of("waits", "x")).await.unwrap();
    table.replace(note_of("sent", "changed")).await.unwrap();
    let before = state(&client, &store).await;
    assert!(before.2.is_some());
    for (base, trusted, why) in [
        (&good, vec![], "UnknownIssuer"),
        (&good, vec![&theirs], "UnknownIssuer"),
        (&of_another, vec![&ours], "NotValidForName"),
        (&expired, vec![&ours], "Expired"),
    ] {
        let (client, table) = over_tls(&store, base, &trusted).await;
        for error in [
            table.push_items().await.map(drop).unwrap_err(),
            table.pull_items(table.query()).await.map(drop).unwrap_err(),
            client.remote_table::<Note>().count().await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
            let text = error.to_string();
            for word in ["certificate of the service is not trusted", why, "check the address", "`root_certificate`"] {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
        assert_eq!(state(&client, &store).await, before, "{why}");
        assert!(before.1.iter().all(|change| change.state == PendingState::Ready && !change.in_doubt));
    }
    let (client, table) = over_tls(&store, &good, &[&ours]).await;
    assert_eq!(table.push_items().await.unwrap().pushed, 2);
    assert_eq!(local_rows(&table).await, service_rows(&rows));
    assert!(client.pending().await.unwrap().is_empty());
}

datasync_tests::on_both_wires! {
    an_id_that_breaks_the_rule_is_named
    an_unknown_table_is_named_with_those_that_there_are
    i25_a_wrong_certificate_ends_it_before_anything_is_sent
}

#[test]
fn a_file_of_another_program_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("foreign.redb");
    let database = redb::Database::create(&foreign).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(database);
    let service = folder.path().join("service.redb");
    drop(datasync_server::RedbDatabase::open(&service).unwrap());
    let text = folder.path().join("letter.txt");
    fs::write(&text, "Dear Jane, this is no database.").unwrap();
    let store = folder.path().join("store.redb");
    futures::executor::block_on(RedbStore::open(&store).unwrap().open(&[])).unwrap();
    for path in [&foreign, &service, &text] {
        let before = fs::read(path).unwrap();
        let error = RedbStore::open(path).unwrap_err();
        assert_eq!(error.kind(), datasync_core::store::StoreErrorKind::NotAStore);
        assert!(error.to_string().contains("choose another path"), "{error}");
        assert!(fs::read(path).unwrap() == before, "{error}");
    }
    for path in [&foreign, &store, &text] {
        let before = fs::read(path).unwrap();
        let error = datasync_server::RedbDatabase::open(path).unwrap_err().to_string();
        assert!(error.contains(&*path.to_string_lossy()) && error.contains("choose another path"), "{error}");
        assert!(fs::read(path).unwrap() == before, "{error}");
    }
}

/// Names the file of the child process, and what its service speaks.
const CHILD: &str = "DATASYNC_FULL_DISK_CHILD";
/// The largest file that the child process may write, in blocks of 512 bytes.
const LIMIT: u64 = 4096;

fn full_disk(wire: Wire) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    // The signal for a file that is too large is not wanted, only the error; the limit may be raised again.
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("trap '' XFSZ; ulimit -S -f {LIMIT}; exec \"$0\" \"$@\""));
    limited.arg(std::env::current_exe().unwrap()).args(["--exact", "in_a_child_process", "--nocapture"]);
    limited.env(CHILD, format!("{wire:?}|{}", path.display()));
    let mut running = limited.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "child: full"));
    // Somebody makes space.
    let raised = Command::new("prlimit").args(["--pid", &running.id().to_string(), "--fsize=unlimited"]).status();
    if raised.is_ok_and(|status| status.success()) {
        running.stdin.take().unwrap().write_all(b"go on\n").unwrap();
        assert!(lines.any(|line| line == "child: went on"));
    } else {
        println!("without prlimit the limit of a process cannot be raised: it is not tried whether it goes on");
        running.kill().unwrap();
    }
    running.wait().unwrap();
}

#[test]
fn i01_i13_a_full_disk_leaves_rows_queue_and_token_as_before_original() {
    full_disk(Wire::Original);
}

#[test]
fn i01_i13_a_full_disk_leaves_rows_queue_and_token_as_before_extended() {
    full_disk(Wire::Extended);
}

/// A note of 10 kB.
fn large(id: &str) -> Note {
    note_of(id, &"x".repeat(10_000))
}

async fn fill_the_disk(path: &Path, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let elsewhere = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    notes(&elsewhere).insert(large("first")).await.unwrap();
    notes(&elsewhere).push_items().await.unwrap();
    let store = RedbStore::open(path).unwrap();
    let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    table.pull_items(table.query()).await.unwrap();
    let mut written = 0;
    let error = loop {
        match table.insert(large(&format!("mine-{written}"))).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    let says_so = |error: datasync_core::error::Error| {
        assert_eq!(error.kind(), ErrorKind::Store, "{error}");
        assert!(error.to_string().contains("the disk is full") && error.to_string().contains("free some space"));
    };
    says_so(error);
    let before = state(&client, &store).await;
    assert!(written > 20 && before.1.len() == written && before.0.len() == written + 1 && before.2.is_some());

    for number in 0..50 {
        notes(&elsewhere).insert(large(&format!("theirs-{number}"))).await.unwrap();
    }
    notes(&elsewhere).push_items().await.unwrap();
    let there = service_rows(&rows);
    for _ in 0..3 {
        says_so(table.insert_all((0..50).map(|number| large(&format!("more-{number}")))).await.map(drop).unwrap_err());
        says_so(table.push_items().await.map(drop).unwrap_err());
        says_so(table.pull_items(table.query()).await.map(drop).unwrap_err());
        assert_eq!(state(&client, &store).await, before);
        assert_eq!(service_rows(&rows), there, "nothing is sent that could not be stored as sent");
    }

    println!("\nchild: full");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert_eq!(table.push_items().await.unwrap().pushed, written as u64);
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));
    assert!(client.pending().await.unwrap().is_empty());
    println!("child: went on");
}

/// Does nothing but in a child process of another test.
#[test]
fn in_a_child_process() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (wire, path) = order.split_once('|').unwrap();
    let wire = if wire == "Original" { Wire::Original } else { Wire::Extended };
    tokio::runtime::Runtime::new().unwrap().block_on(fill_the_disk(Path::new(path), wire));
}
