//! Once faults stop, every queue drains or parks and every pull ends, in a bounded number of rounds (I24).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use datasync_core::{
    client::{DatasyncClient, PendingChange, PendingState, ResetOptions, Tables},
    clock::Clock as _,
    config::SyncConfig,
    entity::SyncEntity,
    error::{Error, ErrorKind},
    query::Dialect,
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::{AccessToken, HttpRequest, HttpTransport, Method};
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{Fault, MemoryStore, RedbStore, RouterExchange, StillClock, Wire, folder};
use serde::{Deserialize, Serialize};

datasync_tests::on_both_stores! {
    i24_once_faults_stop_queues_drain_or_park_and_pulls_end
    i24_a_paused_queue_ends_each_call_and_drains_after_a_sign_in
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Shelf {
    id: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Book {
    id: String,
    title: String,
    #[sync(merge = sum)]
    copies: i64,
    #[sync(parent = Shelf)]
    shelf: Option<String>,
}

const POLICIES: [&str; 5] = ["park", "client-wins", "server-wins", "merge", "last-writer-wins"];
const FAULTS: [Fault; 8] = [
    Fault::None,
    Fault::Lost,
    Fault::AnswerLost,
    Fault::Refused,
    Fault::Status(401),
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(503),
];
/// Rows of each table that two devices write to.
const IDS: usize = 4;
/// Rounds of a push and a pull in which all must be done: one sends what waited and meets what the others did, one more sends
/// what a policy or a collapse has made of that.
const ROUNDS: usize = 2;

/// The service, and how it is spoken to.
struct World {
    shelves: MemoryRepository,
    books: MemoryRepository,
    wire: Wire,
    dialect: Dialect,
}

impl World {
    fn exchange(&self) -> RouterExchange {
        let service = DatasyncService::builder()
            .extensions(self.wire.extended())
            .dialect(self.dialect)
            .table(TableOptions::of::<Shelf>().soft_delete(true).page_size(4), self.shelves.clone())
            .table(TableOptions::of::<Book>().soft_delete(true).page_size(4), self.books.clone());
        RouterExchange::new(self.wire.lead_to(service.build().unwrap()))
    }

    async fn device(&self, store: impl Store, exchange: &RouterExchange, policy: &str) -> DatasyncClient {
        let config = SyncConfig::from_toml(&format!("[sync]\nconflict = '{policy}'")).unwrap();
        let transport = HttpTransport::builder("http://service").retries(0).dialect(self.dialect);
        let transport = transport.exchange(exchange.clone()).build().unwrap();
        let builder = DatasyncClient::builder().store(store).transport(transport).config(config);
        builder.table::<Shelf>().table::<Book>().build().await.unwrap()
    }
}

async fn pull(device: &DatasyncClient) -> Result<(), Error> {
    let (shelves, books) = (device.offline_table::<Shelf>(), device.offline_table::<Book>());
    shelves.pull_items(shelves.query()).await?;
    books.pull_items(books.query()).await.map(drop)
}

/// Writes or deletes one of the rows.
async fn edit(device: &DatasyncClient, draw: impl Fn(usize) -> usize) {
    let (shelves, books) = (device.offline_table::<Shelf>(), device.offline_table::<Book>());
    let (of_a_book, deletes, id) = (draw(3) > 0, draw(5) == 0, draw(IDS).to_string());
    let title = draw(5).to_string();
    match (of_a_book, deletes) {
        (false, false) => drop(shelves.upsert(Shelf { id, name: title }).await.unwrap()),
        (false, true) if shelves.get(&id).await.unwrap().is_some() => drop(shelves.delete(&id).await.unwrap()),
        (true, false) => {
            let copies = books.get(&id).await.unwrap().map_or(0, |book| book.copies) + 1;
            let shelf = (draw(4) > 0).then(|| draw(IDS).to_string());
            drop(books.upsert(Book { id, title, copies, shelf }).await.unwrap());
        }
        (true, true) if books.get(&id).await.unwrap().is_some() => drop(books.delete(&id).await.unwrap()),
        _ => {}
    }
}

/// Whether it waits for a person.
fn is_parked(state: &PendingState) -> bool {
    matches!(state, PendingState::Conflict(_) | PendingState::Parked(_))
}

/// Those that go on although nothing is so that `ends` them: a block must end at something else.
fn going_on(all: &[PendingChange], ends: fn(&PendingState) -> bool) -> Vec<&PendingChange> {
    fn has_ended(change: &PendingChange, all: &[PendingChange], steps: usize, ends: fn(&PendingState) -> bool) -> bool {
        let PendingState::Blocked { table, id } = &change.state else { return ends(&change.state) };
        let mut others = all.iter().filter(|other| other.table == *table && other.id == *id);
        steps > 0 && others.any(|other| has_ended(other, all, steps - 1, ends))
    }
    all.iter().filter(|change| !has_ended(change, all, all.len(), ends)).collect()
}

/// The rows here are the service's, but for those of which something waits.
async fn agrees<E: SyncEntity + PartialEq + fmt::Debug>(
    device: &DatasyncClient,
    rows: &MemoryRepository,
    pending: &[PendingChange],
    case: &str,
) {
    let table = device.offline_table::<E>();
    let waits = |row: &E| pending.iter().any(|change| *change.table == *E::SCHEMA.name && *change.id == *row.id());
    let live = rows.rows().into_iter().filter(|row| !row.record.deleted);
    let there = live.map(|row| serde_json::from_slice::<E>(row.record.body.as_bytes()).unwrap());
    let there: Vec<E> = there.filter(|row| !waits(row)).collect();
    let here = table.query().to_vec().await.unwrap();
    let here: Vec<E> = here.into_iter().filter(|row| !waits(row)).collect();
    assert_eq!(here, there, "{case}");
    let report = table.verify_items(table.query()).await.unwrap();
    assert_eq!((report.added, report.updated, report.removed), (0, 0, 0), "{case}");
}

/// What ends a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    SignIn,
    Push,
    Pull,
}

fn is_change(request: &HttpRequest) -> bool {
    request.method != Method::Get
}

async fn i24_a_paused_queue_ends_each_call_and_drains_after_a_sign_in(store: impl Store + Clone, wire: Wire) {
    for ends in [Ends::SignIn, Ends::Push, Ends::Pull] {
        a_paused_queue_drains(store.clone(), wire, ends).await;
    }
}

async fn a_paused_queue_drains(store: impl Store, wire: Wire, ends: Ends) {
    let world =
        World { shelves: MemoryRepository::new(), books: MemoryRepository::new(), wire, dialect: Dialect::Toolkit };
    let exchange = world.exchange();
    let token = || async { Ok(Some(AccessToken::new("token").account("ann"))) };
    let transport = HttpTransport::builder("http://service").retries(0).token_provider(token);
    let transport = transport.exchange(exchange.clone()).build().unwrap();
    let builder = DatasyncClient::builder().store(store).transport(transport);
    let device = builder.table::<Shelf>().table::<Book>().build().await.unwrap();
    device.sign_in("ann").await.unwrap();
    let (shelves, books) = (device.offline_table::<Shelf>(), device.offline_table::<Book>());
    let shelf = |id: &str, name: &str| Shelf { id: id.to_owned(), name: name.to_owned() };
    let book = |id: &str, title: &str, shelf: Option<&str>| {
        let [id, title] = [id, title].map(str::to_owned);
        Book { id, title, copies: 1, shelf: shelf.map(str::to_owned) }
    };
    books.insert_all(["doubt", "edited", "deleted"].map(|id| book(id, "first", None))).await.unwrap();
    device.push_tables(Tables::all()).await.unwrap();
    for (change, fault) in [("refused", Fault::Status(422)), ("doubt", Fault::AnswerLost)] {
        books.upsert(book(change, "second", None)).await.unwrap();
        exchange.fault(is_change, fault);
        device.push_tables(Tables::all()).await.unwrap();
    }
    books.replace(book("doubt", "third", None)).await.unwrap();
    books.replace(book("edited", "second", None)).await.unwrap();
    books.delete("deleted").await.unwrap();
    books.insert(book("child", "first", Some("new"))).await.unwrap();
    shelves.insert(shelf("new", "first")).await.unwrap();
    let keys = |pending: Vec<PendingChange>| {
        let key = |change: PendingChange| (change.id, change.kind, change.place, change.in_doubt);
        pending.into_iter().map(key).collect::<Vec<_>>()
    };
    let queued = keys(device.pending().await.unwrap());
    assert_eq!(queued.len(), 7);

    let case = format!("{ends:?} {wire:?}");
    (0..1_000).for_each(|_| exchange.fault(|_| true, Fault::Status(401)));
    let changes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&changes);
    exchange.before(move |request| {
        counted.fetch_add(usize::from(is_change(request)), Ordering::SeqCst);
    });
    for _ in 0..3 {
        changes.store(0, Ordering::SeqCst);
        let refused = device.push_tables(Tables::all()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unauthenticated, "{case}");
        assert_eq!(changes.load(Ordering::SeqCst), 2, "one change, and once more with another token: {case}");
        let pending = device.pending().await.unwrap();
        let goes_on = going_on(&pending, |state| *state == PendingState::Paused || is_parked(state));
        assert!(goes_on.is_empty(), "{goes_on:?}, {case}");
        assert_eq!(pending.iter().filter(|change| change.state == PendingState::Paused).count(), 4, "{case}");
        assert_eq!(pending.iter().filter(|change| is_parked(&change.state)).count(), 1, "{case}");

        for refused in [pull(&device).await, device.pull_tables(Tables::all()).await.map(drop)] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unauthenticated, "{case}");
        }
        assert_eq!(changes.load(Ordering::SeqCst), 2, "nothing is sent by itself: {case}");
        assert_eq!(keys(device.pending().await.unwrap()), queued, "the queue stays as it was: {case}");
    }

    exchange.clear_faults();
    match ends {
        Ends::SignIn => device.sign_in("ann").await.unwrap(),
        Ends::Push => drop(device.push_tables(Tables::all()).await.unwrap()),
        Ends::Pull => pull(&device).await.unwrap(),
    }
    let pending = device.pending().await.unwrap();
    assert!(pending.iter().all(|change| change.state != PendingState::Paused), "{pending:?}, {case}");
    for _ in 0..ROUNDS {
        device.push_tables(Tables::all()).await.unwrap();
        pull(&device).await.unwrap();
    }
    let pending = device.pending().await.unwrap();
    assert_eq!(pending.iter().map(|change| &*change.id).collect::<Vec<_>>(), ["refused"], "{case}");
    assert!(is_parked(&pending[0].state), "{case}");
    agrees::<Shelf>(&device, &world.shelves, &pending, &case).await;
    agrees::<Book>(&device, &world.books, &pending, &case).await;
    let titles = books.query().order_by(|book| book.id.asc()).to_vec().await.unwrap();
    let titles: Vec<_> = titles.iter().map(|book| (book.id.as_str(), book.title.as_str())).collect();
    assert_eq!(titles, [("child", "first"), ("doubt", "third"), ("edited", "second"), ("refused", "second")], "{case}");
    device.reset(ResetOptions::everything().force()).await.unwrap();
}

async fn i24_once_faults_stop_queues_drain_or_park_and_pulls_end(store: impl Store + Clone, wire: Wire) {
    drain(store, wire, Dialect::Toolkit).await;
}

/// Only this dialect has patches.
#[tokio::test]
async fn i24_once_faults_stop_patches_drain_or_park_too() {
    for wire in [Wire::Original, Wire::OriginalOnSocket] {
        drain(MemoryStore::new(), wire, Dialect::Azure).await;
        let folder = folder();
        drain(RedbStore::open(folder.path().join("store.redb")).unwrap(), wire, Dialect::Azure).await;
    }
}

async fn drain(store: impl Store + Clone, wire: Wire, dialect: Dialect) {
    let world = World { shelves: MemoryRepository::new(), books: MemoryRepository::new(), wire, dialect };
    for (seed, policy) in (0..).zip(POLICIES) {
        let random = StillClock::new(seed);
        let draw = |most: usize| (random.random() % most as u64) as usize;
        let exchange = world.exchange();
        let mut device = world.device(store.clone(), &exchange, policy).await;
        let other = world.device(MemoryStore::new(), &world.exchange(), "client-wins").await;
        for _ in 0..60 {
            match draw(8) {
                0..=3 => edit(&device, draw).await,
                4 => {
                    edit(&other, draw).await;
                    other.push_tables(Tables::all()).await.unwrap();
                    pull(&other).await.unwrap();
                }
                5 => device = world.device(store.clone(), &exchange, policy).await,
                chosen => {
                    for _ in 0..draw(6) {
                        exchange.fault(|_| true, FAULTS[draw(FAULTS.len())]);
                    }
                    // What a fault makes of it is the other tests' matter.
                    if chosen == 6 {
                        drop(device.push_tables(Tables::all()).await);
                    } else {
                        drop(pull(&device).await);
                    }
                }
            }
        }
        exchange.clear_faults();
        let case = format!("{policy} {dialect:?} {wire:?}");
        let before = exchange.requests.load(Ordering::SeqCst);
        for _ in 0..ROUNDS {
            device.push_tables(Tables::all()).await.unwrap();
            pull(&device).await.unwrap();
        }
        let requests = exchange.requests.load(Ordering::SeqCst) - before;
        // For each row of two tables: its two operations, and a look at what became of them; and the pages and walks of the pulls.
        assert!(requests <= ROUNDS * 2 * (4 * IDS + 20), "{requests} requests, {case}");
        let pending = device.pending().await.unwrap();
        let goes_on = going_on(&pending, is_parked);
        assert!(goes_on.is_empty(), "{goes_on:?} of {pending:?}, {case}");
        agrees::<Shelf>(&device, &world.shelves, &pending, &case).await;
        agrees::<Book>(&device, &world.books, &pending, &case).await;
    }
}
