//! The journal, and what is said of a row (I21, I26).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{
    client::{
        DatasyncClient, JournalEntry, JournalStep, OfflineTable, Pending, PullOptions, PurgeOptions, Resolution, Tables,
    },
    clock::SystemClock,
    config::{ConflictPolicy, SyncConfig},
    query::Query,
    store::Store,
};
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault as CallFault, FaultStore, StoreCall};
use datasync_tests::{Fault, MemoryStore, Note, RedbStore, RouterExchange, Wire, client, note_of, notes, service};

struct World {
    client: DatasyncClient,
    table: OfflineTable<Note>,
    exchange: RouterExchange,
}

async fn world(store: impl Store, wire: Wire) -> World {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
    let builder = DatasyncClient::builder().store(store).transport(transport).config(SyncConfig::default());
    let client = builder.table::<Note>().build().await.unwrap();
    World { table: notes(&client), client, exchange }
}

fn is_change(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

impl World {
    async fn journal(&self) -> Vec<JournalEntry> {
        self.client.journal(None, 2_000).await.unwrap()
    }

    async fn newest(&self) -> JournalEntry {
        self.client.journal(None, 1).await.unwrap().pop().unwrap()
    }

    async fn steps(&self) -> Vec<JournalStep> {
        self.journal().await.into_iter().rev().map(|entry| entry.step).collect()
    }

    async fn elsewhere(&self, id: &str, title: &str) {
        let there = client(MemoryStore::new(), &self.exchange, ConflictPolicy::Park).await;
        let table = notes(&there);
        table.pull_items(table.query()).await.unwrap();
        table.upsert(note_of(id, title)).await.unwrap();
        table.push_items().await.unwrap();
    }
}

fn names(entry: &JournalEntry) -> (JournalStep, Option<&str>, Vec<&str>, u64) {
    (entry.step, entry.table.as_deref(), entry.ids.iter().map(|id| &**id).collect(), entry.rows)
}

async fn each_step_is_written_down(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    assert!(world.journal().await.is_empty());
    world.table.insert(note_of("a", "x")).await.unwrap();
    assert!(world.journal().await.is_empty(), "a local write is no step of sync");
    world.table.push_items().await.unwrap();
    assert_eq!(names(&world.newest().await), (JournalStep::Pushed, Some("note"), vec!["a"], 1));

    world.elsewhere("b", "theirs").await;
    world.table.pull_items(world.table.query()).await.unwrap();
    let pulled = world.newest().await;
    assert_eq!((pulled.step, pulled.rows), (JournalStep::Pulled, 1));
    assert_eq!(pulled.message.as_deref(), Some("1 added, 0 changed, 0 removed"));
    let before = world.journal().await.len();
    world.table.pull_items(world.table.query()).await.unwrap();
    assert_eq!(world.journal().await.len(), before, "a pull that changes nothing leaves no trace");

    world.table.insert(note_of("refused", "x")).await.unwrap();
    world.exchange.fault(is_change, Fault::Status(422));
    world.table.push_items().await.unwrap();
    let parked = world.newest().await;
    assert_eq!(names(&parked), (JournalStep::Parked, Some("note"), vec!["refused"], 1));
    assert!(parked.message.unwrap().starts_with("422"));
    world.client.retry("note", "refused").await.unwrap();
    world.exchange.fault(is_change, Fault::Status(503));
    world.table.push_items().await.unwrap();
    world.client.discard("note", "refused").await.unwrap();

    world.table.replace(note_of("b", "mine")).await.unwrap();
    world.elsewhere("b", "theirs again").await;
    world.table.push_items().await.unwrap();
    assert_eq!(world.newest().await.step, JournalStep::Conflict);
    let conflict = world.client.conflicts().await.unwrap().pop().unwrap();
    world.client.resolve::<Note>(&conflict, Resolution::Take).await.unwrap();
    world.table.purge_items(PurgeOptions::default().force()).await.unwrap();
    world.client.sign_in("alice").await.unwrap();
    world.client.sign_out(Pending::Keep).await.unwrap();
    use JournalStep::*;
    let expected = [Pushed, Pulled, Parked, Retried, Delayed, Discarded, Conflict, Resolved, Removed];
    assert_eq!(world.steps().await, expected);
    world.client.sign_in("alice").await.unwrap();
    assert_eq!(world.steps().await, [SignedIn, SignedOut, SignedIn], "i26: each account has its own");
    let numbers: Vec<u64> = world.journal().await.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, [2, 1, 0]);
}

async fn what_happens_again_and_again_takes_one_entry(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    world.table.push_items().await.unwrap();
    world.table.insert(note_of("a", "x")).await.unwrap();
    for _ in 0..5 {
        world.exchange.fault(is_change, Fault::Refused);
        world.table.push_items().await.unwrap_err();
    }
    let journal = world.journal().await;
    let [unsent] = journal.as_slice() else { panic!("{journal:?}") };
    assert_eq!((unsent.times, names(unsent)), (5, (JournalStep::Unsent, Some("note"), vec!["a"], 1)));
    assert!(unsent.to_string().ends_with("(5 times)"), "{unsent}");
}

async fn the_journal_is_a_ring_in_pages(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    world.table.insert_all((0..1_200).map(|number| note_of(&format!("r-{number:04}"), "x"))).await.unwrap();
    for number in 0..1_200 {
        world.client.retry("note", &format!("r-{number:04}")).await.unwrap();
    }
    let whole = world.journal().await;
    assert_eq!((whole.len(), whole[0].number, whole[999].number), (1_000, 1_199, 200));
    assert!(whole.windows(2).all(|pair| pair[0].number == pair[1].number + 1));
    let mut paged: Vec<JournalEntry> = Vec::new();
    loop {
        let page = world.client.journal(paged.last().map(|entry| entry.number), 300).await.unwrap();
        let last = page.len() < 300;
        paged.extend(page);
        if last {
            break;
        }
    }
    assert_eq!(paged, whole);
    assert!(world.client.journal(Some(0), 10).await.unwrap().is_empty());
}

async fn an_entry_is_in_the_commit_that_it_tells_of(store: impl Store, wire: Wire) {
    let store = FaultStore::new(store, SystemClock);
    let faults = store.faults().clone();
    let world = world(store, wire).await;
    world.table.insert(note_of("a", "x")).await.unwrap();
    let commits = faults.calls(StoreCall::Commit);
    world.client.retry("note", "a").await.unwrap();
    assert_eq!(faults.calls(StoreCall::Commit), commits + 1);
    assert_eq!(world.newest().await.number, 0);
    // A commit that is not made leaves neither, and the number is not used up.
    faults.next(StoreCall::Commit, CallFault::Refuse);
    world.client.discard("note", "a").await.unwrap_err();
    assert_eq!((world.journal().await.len(), world.client.pending().await.unwrap().len()), (1, 1));
    // One whose answer is lost leaves both, once.
    faults.next(StoreCall::Commit, CallFault::FailAfter);
    world.client.discard("note", "a").await.unwrap();
    assert_eq!(world.steps().await, [JournalStep::Retried, JournalStep::Discarded]);
    assert_eq!(world.newest().await.number, 1);
}

async fn what_becomes_of_settled_losers_is_written_down(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let client = client(store, &exchange, ConflictPolicy::ServerWins).await;
    let world = World { table: notes(&client), client, exchange };
    for id in ["a", "b"] {
        world.elsewhere(id, "theirs").await;
        world.table.insert(note_of(id, "mine")).await.unwrap();
    }
    world.table.push_items().await.unwrap();
    let losers = world.client.settled_losers().await.unwrap();
    let [first, second] = losers.as_slice() else { panic!("{losers:?}") };
    world.client.restore_loser(first.id).await.unwrap();
    assert_eq!(names(&world.newest().await), (JournalStep::BroughtBack, Some("note"), vec!["a"], 1));
    world.client.forget_losers([second.id]).await.unwrap();
    let forgotten = world.newest().await;
    assert_eq!(names(&forgotten), (JournalStep::Forgotten, Some("note"), vec!["b"], 1));
    assert_eq!(forgotten.message.as_deref(), Some("by hand"));
    let before = world.journal().await.len();
    world.client.forget_losers([second.id]).await.unwrap();
    assert_eq!(world.journal().await.len(), before, "it was gone");
}

async fn a_pull_that_begins_again_says_why(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    world.elsewhere("a", "theirs").await;
    let pull = async |filter: &str| {
        let query: Query<Note> = filter.parse().unwrap();
        let options = PullOptions::default().query(query).query_id("some");
        world.table.pull_items(options).await.unwrap();
    };
    let restarts = async || {
        let journal = world.journal().await;
        let restarts = journal.into_iter().filter(|entry| entry.step == JournalStep::Restarted);
        restarts.map(|entry| (entry.table.unwrap().to_string(), entry.message.unwrap())).collect::<Vec<_>>()
    };
    pull("$filter=rank eq 0").await;
    pull("$filter=rank eq 0").await;
    assert!(restarts().await.is_empty());
    pull("$filter=rank lt 5").await;
    assert_eq!(restarts().await, [("note".to_owned(), "its filter has changed".to_owned())]);
}

async fn a_row_is_explained_in_sentences(store: impl Store, wire: Wire) {
    let world = world(store, wire).await;
    let explain = async |id: &str| world.client.explain("note", id).await.unwrap();
    let absent = explain("none").await;
    assert!(!absent.is_in_sync() && absent.to_string().contains("is not known on this device"), "{absent}");

    world.table.insert(note_of("a", "marked")).await.unwrap();
    let made = explain("a").await;
    assert!(!made.is_in_sync());
    assert!(made.to_string().starts_with("note/a is not in sync."), "{made}");
    assert!(made.to_string().contains("Its insert waits to be sent: the next push sends it."), "{made}");
    world.exchange.fault(is_change, Fault::Status(503));
    world.table.push_items().await.unwrap();
    let delayed = explain("a").await;
    assert!(
        delayed.to_string().contains("whether the service has it is not known: it is sent again after"),
        "{delayed}"
    );
    assert!(delayed.last_error.as_ref().unwrap().contains("503"), "{delayed}");
    world.client.push_tables(Tables::all()).await.unwrap();
    let pushed = explain("a").await;
    assert!(pushed.is_in_sync() && pushed.last_error.is_none() && pushed.here.as_ref().unwrap().version.is_some());
    world.table.pull_items(world.table.query()).await.unwrap();
    assert!(explain("a").await.to_string().contains("It is held by the whole table."));

    world.elsewhere("a", "theirs").await;
    world.table.replace(note_of("a", "marked too")).await.unwrap();
    world.table.push_items().await.unwrap();
    let conflict = explain("a").await;
    assert!(conflict.to_string().contains("it is in conflict"), "{conflict}");
    assert!(conflict.base.is_some() && conflict.journal[0].step == JournalStep::Conflict);

    world.table.insert(note_of("b", "marked")).await.unwrap();
    world.exchange.fault(|request| request.method == Method::Post, Fault::Status(422));
    world.table.push_items().await.unwrap();
    let parked = explain("b").await;
    assert!(parked.to_string().contains("status 422): edit the row, retry it, or discard it."), "{parked}");

    world.table.delete("a").await.unwrap();
    for shown in [made, delayed, pushed, conflict, parked] {
        assert!(!format!("{shown} {shown:?}").contains("marked"), "i21: no body: {shown}");
    }
    assert!(world.client.explain("unknown", "a").await.is_err());
}

datasync_tests::on_both_stores! {
    each_step_is_written_down
    what_happens_again_and_again_takes_one_entry
    the_journal_is_a_ring_in_pages
    an_entry_is_in_the_commit_that_it_tells_of
    what_becomes_of_settled_losers_is_written_down
    a_pull_that_begins_again_says_why
    a_row_is_explained_in_sentences
}

#[tokio::test]
async fn the_number_goes_on_after_a_restart() {
    let folder = datasync_tests::folder();
    for life in 0..3 {
        let world = world(RedbStore::open(folder.path().join("store.redb")).unwrap(), Wire::Extended).await;
        world.table.upsert(note_of(&format!("r-{life}"), "x")).await.unwrap();
        world.client.retry("note", &format!("r-{life}")).await.unwrap();
        assert_eq!(world.newest().await.number, life);
        assert_eq!(world.journal().await.len() as u64, life + 1);
        world.client.close().await.unwrap();
    }
}

#[tokio::test]
async fn i20_the_journal_of_an_account_goes_with_it() {
    let world = world(MemoryStore::new(), Wire::Extended).await;
    world.client.sign_in("alice").await.unwrap();
    world.table.insert(note_of("a", "x")).await.unwrap();
    world.client.retry("note", "a").await.unwrap();
    assert_eq!(world.journal().await.len(), 2);
    world.client.sign_out(Pending::Discard).await.unwrap();
    world.client.sign_in("alice").await.unwrap();
    assert_eq!((world.steps().await, world.newest().await.number), (vec![JournalStep::SignedIn], 0));
}
