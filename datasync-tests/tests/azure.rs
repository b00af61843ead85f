//! The loop against a service as Azure Mobile Apps has it: no extensions, PATCH for changes and to undelete, whole URLs as
//! next links.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{Arc, Mutex};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, Resolution, TableOptions as ClientTable},
    memory::MemoryStore,
    query::Dialect,
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::{DatasyncServer, DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{Fault, Note, RedbStore, RouterExchange, Wire, folder, local_rows, note_of, service_rows};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

fn router(rows: &MemoryRepository) -> axum::Router {
    let notes = TableOptions::of::<Note>().soft_delete(true).page_size(10);
    let builder = DatasyncService::builder().dialect(Dialect::Azure).extensions(false);
    builder.table(notes, rows.clone()).build().unwrap()
}

async fn device(transport: HttpTransport) -> (DatasyncClient, OfflineTable<Note>) {
    let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport).table::<Note>();
    let client = builder.build().await.unwrap();
    let table = client.offline_table();
    (client, table)
}

#[tokio::test]
async fn devices_agree_over_a_service_of_azure() {
    let rows = MemoryRepository::new();
    let server = DatasyncServer::start("127.0.0.1:0".parse().unwrap(), router(&rows)).await.unwrap();
    let transport = || {
        let builder = HttpTransport::builder(&format!("http://{}", server.address()));
        builder.dialect(Dialect::Azure).build().unwrap()
    };
    let (one, here) = device(transport()).await;
    let (_, there) = device(transport()).await;
    for number in 0..35 {
        here.insert(note_of(&format!("row-{number:02}"), "one")).await.unwrap();
    }
    assert_eq!(here.push_items().await.unwrap().pushed, 35);
    assert_eq!(there.pull_items(there.query()).await.unwrap().inserted, 35, "page after page");
    there.replace(note_of("row-03", "two")).await.unwrap();
    there.delete("row-04").await.unwrap();
    assert_eq!(there.push_items().await.unwrap().pushed, 2);
    let pulled = here.pull_items(here.query()).await.unwrap();
    assert_eq!((pulled.updated, pulled.removed), (1, 1));
    there.insert(note_of("row-04", "back again")).await.unwrap();
    assert_eq!(there.push_items().await.unwrap().pushed, 1, "an undelete by PATCH");
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(here.get("row-04").await.unwrap().unwrap().title, "back again");
    assert_eq!(local_rows(&here).await, service_rows(&rows));
    let remote = one.remote_table::<Note>().query().order_by(|note| note.title.desc()).to_vec().await.unwrap();
    assert_eq!((remote.len(), remote[0].title.as_str()), (35, "two"), "next links that are whole URLs");
}

#[tokio::test]
async fn an_undelete_of_azure_names_the_version_it_overwrites() {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(Wire::Original.lead_to(router(&rows)));
    let builder = HttpTransport::builder("http://service").dialect(Dialect::Azure).exchange(exchange.clone());
    let (_, table) = device(builder.build().unwrap()).await;
    table.insert(note_of("a", "one")).await.unwrap();
    table.push_items().await.unwrap();
    table.delete("a").await.unwrap();
    table.push_items().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    exchange.before(move |request| {
        if request.method == Method::Patch {
            log.lock().unwrap().push(request.headers.iter().any(|(name, _)| name == "if-match"));
        }
    });
    table.insert(note_of("a", "again")).await.unwrap();
    assert_eq!(table.push_items().await.unwrap().pushed, 1);
    assert_eq!(*seen.lock().unwrap(), [true]);
    assert_eq!(service_rows(&rows), [("a".to_owned(), "again".to_owned(), 0)]);
}

/// A row whose values have more than one spelling, and that leaves out what it does not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "memo")]
struct Memo {
    id: String,
    title: String,
    due: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[sync(local)]
    #[serde(default)]
    scroll: u32,
}

/// A service of memos that keeps whatever they have, and what is sent to it.
#[derive(Clone)]
struct Memos {
    rows: MemoryRepository,
    exchange: RouterExchange,
    sent: Arc<Mutex<Vec<String>>>,
    dialect: Dialect,
}

impl Memos {
    fn new(dialect: Dialect) -> Memos {
        let rows = MemoryRepository::new();
        let table = TableOptions::of::<Memo>().soft_delete(true).schemaless(true);
        let service = DatasyncService::builder().dialect(dialect).extensions(false).table(table, rows.clone());
        let exchange = RouterExchange::new(Wire::Original.lead_to(service.build().unwrap()));
        let sent = Arc::default();
        let log: Arc<Mutex<Vec<String>>> = Arc::clone(&sent);
        exchange.before(move |request| {
            if changes(request) {
                log.lock().unwrap().push(text(request));
            }
        });
        Memos { rows, exchange, sent, dialect }
    }

    async fn client(&self, store: impl Store, options: ClientTable<Memo>) -> (DatasyncClient, OfflineTable<Memo>) {
        let transport = HttpTransport::builder("http://service").retries(0).dialect(self.dialect);
        let transport = transport.exchange(self.exchange.clone()).build().unwrap();
        let builder = DatasyncClient::builder().store(store).transport(transport).table_with(options);
        let client = builder.build().await.unwrap();
        let table = client.offline_table();
        (client, table)
    }

    /// What was sent since the last time.
    fn sent(&self) -> Vec<String> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    /// Somebody else writes the row `a`.
    fn elsewhere(&self, row: serde_json::Value) {
        self.rows.seed(json!([row])).unwrap();
    }
}

fn changes(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

/// All of a change that makes it what it is.
fn text(request: &HttpRequest) -> String {
    let header = |name: &str| request.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let (guard, key) = (header("if-match").unwrap_or("-"), header("idempotency-key").unwrap_or("-"));
    let body = std::str::from_utf8(&request.body).unwrap();
    format!("{} {} {guard} {key} {body}", request.method.as_str(), request.url.path())
}

/// Verb and body.
fn short(sent: &[String]) -> Vec<String> {
    let parts = sent.iter().map(|text| text.splitn(5, ' ').collect::<Vec<_>>());
    parts.map(|parts| format!("{} {}", parts[0], parts[4])).collect()
}

fn memo(title: &str) -> Memo {
    let due = Some("2024-05-06T07:08:09Z".parse().unwrap());
    Memo { id: "a".to_owned(), title: title.to_owned(), due, place: Some("here".to_owned()), scroll: 0 }
}

#[tokio::test]
async fn a_replace_of_azure_sends_what_was_changed() {
    let memos = Memos::new(Dialect::Azure);
    let (client, table) = memos.client(MemoryStore::new(), ClientTable::new()).await;
    memos.elsewhere(
        json!({ "id": "a", "title": "one", "due": "2024-05-06T07:08:09.000Z", "place": "here", "later": [1] }),
    );
    table.pull_items(table.query()).await.unwrap();
    let push = async |memo: Memo| {
        table.replace(memo).await.unwrap();
        table.push_items().await.unwrap();
        let sent = memos.sent();
        assert!(sent.iter().all(|text| !text.contains(" - ")), "each has its version and its key: {sent:?}");
        short(&sent)
    };
    assert_eq!(push(memo("two")).await, [r#"PATCH {"title":"two"}"#], "a time that is spelled another way is the same");
    assert_eq!(push(Memo { due: None, ..memo("two") }).await, [r#"PATCH {"due":null}"#]);
    assert!(push(Memo { due: None, scroll: 3, ..memo("two") }).await.is_empty(), "a local field is not sent");
    let without = Memo { due: None, place: None, ..memo("three") };
    let whole = r#"PUT {"due":null,"id":"a","later":[1],"title":"three"}"#;
    let sorted = |sent: Vec<String>| {
        let (verb, body) = sent[0].split_once(' ').unwrap();
        format!("{verb} {}", serde_json::from_str::<serde_json::Value>(body).unwrap())
    };
    assert_eq!(sorted(push(without).await), whole, "a patch cannot take a member away");
    let plain = client.offline_table_dyn("memo").unwrap();
    let mut row = plain.get("a").await.unwrap().unwrap();
    row["later"] = json!([2]);
    plain.replace(row).await.unwrap();
    plain.push_items().await.unwrap();
    assert_eq!(short(&memos.sent()), [r#"PATCH {"later":[2]}"#], "a field that only a tool knows");
    let remote = client.remote_table::<Memo>();
    let row = remote.get("a").await.unwrap().unwrap();
    remote.replace(&row.map(|memo| Memo { title: "straight".to_owned(), ..memo })).await.unwrap();
    assert_eq!(short(&memos.sent()), [r#"PATCH {"title":"straight"}"#]);
    let stored: serde_json::Value = serde_json::from_slice(memos.rows.rows()[0].record.body.as_bytes()).unwrap();
    assert_eq!(stored, json!({ "id": "a", "title": "straight", "due": null, "place": null, "later": [2] }));
}

/// An attempt whose answer is lost, a restart, an edit and somebody else's change: the attempt is what it was.
async fn is_sent_again_as_it_was<S: Store>(open: impl Fn() -> S) {
    let memos = Memos::new(Dialect::Azure);
    {
        let (_, table) = memos.client(open(), ClientTable::new()).await;
        table.insert(memo("one")).await.unwrap();
        table.push_items().await.unwrap();
        table.replace(memo("two")).await.unwrap();
        memos.exchange.fault(|request| request.method == Method::Patch, Fault::AnswerLost);
        table.push_items().await.unwrap();
        table.replace(Memo { due: None, ..memo("two") }).await.unwrap();
    }
    let first = memos.sent();
    assert_eq!(short(&first)[1], r#"PATCH {"title":"two"}"#);
    {
        let (_, table) = memos.client(open(), ClientTable::new()).await;
        memos.exchange.fault(|request| request.method == Method::Patch, Fault::Lost);
        table.push_items().await.unwrap();
        assert_eq!(memos.sent(), first[1..], "the same bytes, key and version");
    }
    // Its migrations are a later release's.
    let migrated = ClientTable::new().migration(1, Ok);
    let (client, table) = memos.client(open(), migrated).await;
    table.push_items().await.unwrap();
    let sent = memos.sent();
    assert_eq!(sent[0], first[1]);
    let behind = short(&sent[1..]);
    assert!(behind[0].starts_with("PUT ") && behind[0].contains(r#""due":null"#), "{behind:?}");
    assert!(client.pending().await.unwrap().is_empty());
    let stored: Memo = serde_json::from_slice(memos.rows.rows()[0].record.body.as_bytes()).unwrap();
    assert_eq!(stored, Memo { due: None, ..memo("two") });
}

#[tokio::test]
async fn i05_a_patch_in_doubt_is_sent_again_as_it_was_memory() {
    let store = MemoryStore::new();
    is_sent_again_as_it_was(|| store.clone()).await;
}

#[tokio::test]
async fn i05_a_patch_in_doubt_is_sent_again_as_it_was_redb() {
    let folder = folder();
    is_sent_again_as_it_was(|| RedbStore::open(folder.path().join("store.redb")).unwrap()).await;
}

#[tokio::test]
async fn i18_a_patch_meets_a_conflict_as_a_put_does() {
    for dialect in [Dialect::Azure, Dialect::Toolkit] {
        let memos = Memos::new(dialect);
        let (client, table) = memos.client(MemoryStore::new(), ClientTable::new()).await;
        table.insert(memo("one")).await.unwrap();
        table.push_items().await.unwrap();
        table.replace(memo("ours")).await.unwrap();
        memos.elsewhere(json!({ "id": "a", "title": "theirs", "due": null, "place": "there" }));
        let verb = if dialect == Dialect::Azure { Method::Patch } else { Method::Put };
        assert_eq!(table.push_items().await.unwrap().conflicts, 1);
        assert!(memos.sent()[1].starts_with(verb.as_str()));
        let conflict = client.conflicts().await.unwrap().pop().unwrap();
        let titles = [conflict.base::<Memo>(), conflict.local(), conflict.service()];
        let titles: Vec<String> = titles.into_iter().map(|side| side.unwrap().unwrap().title).collect();
        assert_eq!(titles, ["one", "ours", "theirs"]);
        client.resolve(&conflict, Resolution::<Memo>::Keep).await.unwrap();
        assert_eq!(table.push_items().await.unwrap().pushed, 1);
        let sent = memos.sent();
        assert!(sent[0].starts_with(verb.as_str()), "{sent:?}");
        if dialect == Dialect::Azure {
            let (_, body) = sent[0].split_once('{').unwrap();
            assert_eq!(
                body, r#""due":"2024-05-06T07:08:09Z","place":"here","title":"ours"}"#,
                "over the copy just learnt"
            );
        }
        let stored: Memo = serde_json::from_slice(memos.rows.rows()[0].record.body.as_bytes()).unwrap();
        assert_eq!(stored, memo("ours"));
        // A 410: somebody has deleted what is patched.
        table.replace(memo("again")).await.unwrap();
        memos.elsewhere(json!({ "id": "a", "title": "ours", "deleted": true }));
        assert_eq!(table.push_items().await.unwrap().conflicts, 1);
        assert!(client.conflicts().await.unwrap()[0].service::<Memo>().unwrap().is_none());
    }
}
