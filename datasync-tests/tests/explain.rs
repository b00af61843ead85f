//! Each sentence that is said of a row, with what it is said of.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{
    client::{DatasyncClient, Explanation, OfflineTable, PullOptions, Resolution, TableOptions, Tables},
    config::ConflictPolicy,
    query::Query,
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::MemoryRepository;
use datasync_tests::{Fault, MemoryStore, Note, RouterExchange, Wire, client, note_of, notes, service};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct List {
    id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Item {
    id: String,
    #[sync(parent = List)]
    list_id: String,
}

struct World<S> {
    store: S,
    client: DatasyncClient,
    table: OfflineTable<Note>,
    exchange: RouterExchange,
}

impl<S: Store + Clone> World<S> {
    async fn new(store: S, wire: Wire) -> World<S> {
        let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
        let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
        World { store, table: notes(&client), client, exchange }
    }

    fn transport(&self) -> HttpTransport {
        HttpTransport::builder("http://service").retries(0).exchange(self.exchange.clone()).build().unwrap()
    }

    async fn elsewhere(&self, id: &str) {
        let there = client(MemoryStore::new(), &self.exchange, ConflictPolicy::Park).await;
        let table = notes(&there);
        table.pull_items(table.query()).await.unwrap();
        table.replace(note_of(id, "theirs")).await.unwrap();
        table.push_items().await.unwrap();
    }

    /// The next change meets this.
    async fn pushed_into(&self, fault: Fault) {
        self.exchange.fault(is_change, fault);
        // A refused sign-in is an error of the push, and everything else a state of the operation.
        let _ = self.client.push_tables(Tables::all()).await;
        assert_eq!(self.exchange.faults_left(), 0);
    }

    /// What is said of a note.
    async fn says(&self, id: &str, in_sync: bool, sentences: &[&str]) -> Explanation {
        says(&self.client, "note", id, in_sync, sentences).await
    }
}

fn is_change(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

/// The beginnings of all sentences but for the journal's: whatever is said must be expected, and the other way round.
async fn says(client: &DatasyncClient, table: &str, id: &str, in_sync: bool, sentences: &[&str]) -> Explanation {
    let explained = client.explain(table, id).await.unwrap();
    let text = explained.to_string();
    let said: Vec<&str> = text.lines().filter(|line| !line.starts_with("- ")).collect();
    let is = if in_sync { "is in sync." } else { "is not in sync." };
    assert!(said[0].starts_with(&format!("{table}/{id}")) && said[0].ends_with(is), "{text}");
    assert_eq!(explained.is_in_sync(), in_sync, "{text}");
    assert_eq!(said.len() - 1, sentences.len(), "{sentences:?}: {text}");
    for (said, expected) in said[1..].iter().zip(sentences) {
        // What stands for a time or a version is left out.
        let mut rest = *said;
        for part in expected.split('…') {
            let place = rest.find(part).unwrap_or_else(|| panic!("`{expected}` is not what is said: {text}"));
            rest = &rest[place + part.len()..];
        }
    }
    assert!(!text.contains("marked"), "no body: {text}");
    explained
}

const VERSION: &str = "Here it has version …, changed there at ….";
const NO_VERSION: &str = "Here it has no version of the service.";
const MADE_HERE: &str = "It was made here, and no pull has brought it yet.";
const UNPULLED: &str = "No pull has brought it: it stays until one does, or a purge.";
const STARTED: &str = "The changes started from version …, changed there at ….";
const DOUBT: &str = "was sent, and whether the service has it is not known: ";
const FAILURE: &str = "The last failure: ….";

async fn rows_that_are_in_sync(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let none = world.client.explain("note", "none").await.unwrap();
    assert!(!none.is_known() && !none.is_in_sync());
    let unknown = "is not known on this device: nothing of it was pulled, and nothing is queued.\n";
    assert_eq!(none.to_string(), format!("note/none {unknown}"));
    world.table.insert(note_of("a", "marked")).await.unwrap();
    world.says("a", false, &[NO_VERSION, MADE_HERE, "Its insert waits to be sent: the next push sends it."]).await;
    world.table.push_items().await.unwrap();
    world.says("a", true, &[VERSION, UNPULLED]).await;
    world.table.pull_items(world.table.query()).await.unwrap();
    world.says("a", true, &[VERSION, "It is held by the whole table."]).await;
    let low = PullOptions::default().query(Query::<Note>::new().filter(|note| note.rank.lt(5))).query_id("low");
    world.table.pull_items(low).await.unwrap();
    world.says("a", true, &[VERSION, "It is held by the whole table, `…low…`."]).await;

    world.table.delete("a").await.unwrap();
    let gone = "It is not on this device.";
    let held = "It is held by the whole table, `…low…`.";
    world.says("a", false, &[gone, held, "Its delete waits to be sent: the next push sends it.", STARTED]).await;
    world.table.push_items().await.unwrap();
    world.says("a", true, &["It was deleted here, and the service has confirmed that at ….", held]).await;
}

async fn rows_in_doubt(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.insert(note_of("a", "marked")).await.unwrap();
    world.table.push_items().await.unwrap();
    world.table.pull_items(world.table.query()).await.unwrap();
    world.table.replace(note_of("a", "marked too")).await.unwrap();
    world.pushed_into(Fault::Lost).await;
    let held = "It is held by the whole table.";
    let waits = format!("Its replace {DOUBT}it is sent again after …, or by an explicit push.");
    let explained = world.says("a", false, &[VERSION, held, &waits, STARTED, FAILURE]).await;
    assert!(explained.last_error.is_some());

    world.table.replace(note_of("a", "marked again")).await.unwrap();
    let behind = "Its replace waits to be sent: it goes after the change before it.";
    world.says("a", false, &[VERSION, held, &waits, behind, STARTED, FAILURE]).await;

    world.elsewhere("a").await;
    world.table.pull_items(PullOptions::default().no_push()).await.unwrap();
    let met = "A pull has met version …, changed there at …: it is looked at when the outcome of the attempt is known.";
    world.says("a", false, &[VERSION, held, &waits, behind, STARTED, met, FAILURE]).await;
}

async fn rows_that_the_service_asks_to_wait(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.exchange.after(|response| {
        if response.status == 503 {
            response.headers.push(("retry-after".to_owned(), "600".to_owned()));
        }
    });
    world.table.insert(note_of("a", "marked")).await.unwrap();
    world.pushed_into(Fault::Status(503)).await;
    let throttled = format!("Its insert {DOUBT}the service has asked not to be sent it before ….");
    world.says("a", false, &[NO_VERSION, MADE_HERE, &throttled, FAILURE]).await;
    let report = world.client.push_tables(Tables::all()).await.unwrap();
    assert_eq!((report.pushed, report.waiting), (0, 1), "as it says, also an explicit push waits");
}

async fn rows_that_wait_for_somebody(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.insert(note_of("a", "marked")).await.unwrap();
    world.table.push_items().await.unwrap();
    world.elsewhere("a").await;
    world.table.replace(note_of("a", "marked too")).await.unwrap();
    world.table.push_items().await.unwrap();
    let conflict = "Its replace waits to be sent: it is in conflict (…): resolve it, or discard it.";
    world.says("a", false, &[VERSION, UNPULLED, conflict, STARTED]).await;

    world.table.insert(note_of("b", "marked")).await.unwrap();
    world.pushed_into(Fault::Status(422)).await;
    let parked = "Its insert waits to be sent: it is parked (…, status 422): edit the row, retry it, or discard it.";
    world.says("b", false, &[NO_VERSION, MADE_HERE, parked, FAILURE]).await;

    world.table.insert(note_of("c", "marked")).await.unwrap();
    world.pushed_into(Fault::Status(401)).await;
    let paused = "Its insert …: the service refuses the sign-in since …: sign in again, or push.";
    let explained = world.says("c", false, &[NO_VERSION, MADE_HERE, paused, FAILURE]).await;
    assert!(explained.paused.is_some());
}

async fn rows_that_failed_more_than_once(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.insert(note_of("a", "marked")).await.unwrap();
    world.table.push_items().await.unwrap();
    world.table.replace(note_of("a", "marked too")).await.unwrap();
    for failures in 1..=3 {
        world.pushed_into(if failures < 3 { Fault::Lost } else { Fault::Status(503) }).await;
        let after =
            if failures > 1 { format!("not known after {failures} failures: ") } else { "not known: ".to_owned() };
        let waits = format!(
            "Its replace was sent, and whether the service has it is {after}it is sent again after …, or by an explicit push."
        );
        let reason = if failures < 3 { FAILURE } else { "The last failure: …503…." };
        world.says("a", false, &[VERSION, UNPULLED, &waits, STARTED, reason]).await;
    }

    // Looked at, it had no effect; and then there is no network.
    world.exchange.fault(is_change, Fault::Status(412));
    world.pushed_into(Fault::Refused).await;
    let failed = "Its replace failed 3 times: the next push sends it.";
    let explained = world.says("a", false, &[VERSION, UNPULLED, failed, STARTED, FAILURE]).await;
    assert_eq!((explained.changes[0].attempts, explained.changes[0].in_doubt), (3, false));
    world.client.push_tables(Tables::all()).await.unwrap();
    world.says("a", true, &[VERSION, UNPULLED]).await;
}

async fn rows_of_which_a_body_has_lost(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    for id in ["a", "b", "c"] {
        world.table.insert(note_of(id, "marked")).await.unwrap();
        world.table.push_items().await.unwrap();
        world.elsewhere(id).await;
        world.table.replace(note_of(id, "marked too")).await.unwrap();
    }
    world.table.push_items().await.unwrap();
    let settled = async |id: &str, resolution: Resolution<Note>| {
        let conflict = world.client.conflicts().await.unwrap().into_iter().find(|conflict| conflict.id() == id);
        world.client.resolve(&conflict.unwrap(), resolution).await.unwrap();
    };
    let kept = "at …, and is kept: restore it, or forget it.";
    settled("a", Resolution::Take).await;
    let ours = format!("A body of this device lost a conflict {kept}");
    let explained = world.says("a", true, &[VERSION, UNPULLED, &ours]).await;
    assert_eq!(explained.losers, world.client.settled_losers().await.unwrap(), "those of this row");
    settled("b", Resolution::Keep).await;
    let theirs = format!("A body of the service lost a conflict {kept}");
    let waits = "Its replace waits to be sent: the next push sends it.";
    world.says("b", false, &[VERSION, UNPULLED, waits, STARTED, &theirs]).await;

    world.client.restore_loser(explained.losers[0].id).await.unwrap();
    let restored = world.says("a", false, &[VERSION, UNPULLED, waits, STARTED]).await;
    assert!(restored.losers.is_empty());
}

async fn rows_of_an_account(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.insert(note_of("a", "marked")).await.unwrap();
    world.client.sign_in("alice").await.unwrap();
    let explained = world.client.explain("note", "a").await.unwrap();
    assert!(explained.to_string().starts_with("note/a of the account `alice` is not known"), "{explained}");
}

async fn rows_that_go_after_others(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let builder = DatasyncClient::builder().store(world.store.clone()).transport(world.transport());
    let client = builder.table::<List>().table::<Item>().build().await.unwrap();
    client.offline_table::<List>().insert(List { id: "l".to_owned() }).await.unwrap();
    let item = Item { id: "i".to_owned(), list_id: "l".to_owned() };
    client.offline_table::<Item>().insert(item).await.unwrap();
    let after = "Its insert waits to be sent: it goes after what list/l has queued.";
    says(&client, "item", "i", false, &[NO_VERSION, MADE_HERE, after]).await;

    let unknown = "Its insert waits to be sent: this release of the app has no table `list`: one that has it sends it, \
                   unless it is discarded.";
    let earlier = World::new(world.store.clone(), wire).await;
    says(&earlier.client, "list", "l", false, &[NO_VERSION, MADE_HERE, unknown]).await;
    assert!(earlier.client.explain("nothing", "l").await.is_err(), "no such table, and nothing is kept of the row");
}

async fn rows_in_quarantine(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    world.table.insert(note_of("a", "marked")).await.unwrap();
    let options = TableOptions::<Note>::new().migration(1, |_| Err("there is no name for that".into()));
    let builder = DatasyncClient::builder().store(world.store.clone()).transport(world.transport());
    let later = builder.table_with(options).build().await.unwrap();
    let refused =
        "It could not be migrated to this release, and is neither shown nor sent: …there is no name for that….";
    let parked = "Its insert waits to be sent: it is parked (…): edit the row, retry it, or discard it.";
    let gone = "It is not on this device.";
    says(&later, "note", "a", false, &[gone, refused, parked]).await;
}

datasync_tests::on_both_stores! {
    rows_that_are_in_sync
    rows_in_doubt
    rows_that_the_service_asks_to_wait
    rows_that_wait_for_somebody
    rows_that_failed_more_than_once
    rows_of_which_a_body_has_lost
    rows_of_an_account
    rows_that_go_after_others
    rows_in_quarantine
}
