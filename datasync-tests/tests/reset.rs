//! What leaves a device by purge, reset and sign-out, and what does not (I13, I20).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use datasync_core::{
    client::{DatasyncClient, OfflineTable, Pending, PendingState, PullOptions, PurgeOptions, ResetOptions, Tables},
    clock::SystemClock,
    config::{ConflictPolicy, SyncConfig},
    error::{Error, ErrorKind},
    store::{ScopeKey, Store},
};
use datasync_http::{HttpTransport, Method};
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault, FaultStore, FaultTransport, Gate, StoreCall, TransportCall};
use datasync_tests::{
    Fault as WireFault, MemoryStore, Note, RedbStore, RouterExchange, Wire, client, local_rows, note_of, notes,
    service, service_rows,
};
use futures::FutureExt;

struct World {
    client: DatasyncClient,
    table: OfflineTable<Note>,
    transport: FaultTransport<HttpTransport>,
    exchange: RouterExchange,
    rows: MemoryRepository,
}

async fn world(store: impl Store, wire: Wire, policy: ConflictPolicy) -> World {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 10, wire));
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).build().unwrap();
    let transport = FaultTransport::new(transport, SystemClock);
    let mut config = SyncConfig::default();
    config.sync.conflict = policy;
    config.sync.page_size = 10;
    let builder = DatasyncClient::builder().store(store).transport(transport.clone()).config(config);
    let client = builder.table::<Note>().build().await.unwrap();
    World { table: notes(&client), client, transport, exchange, rows }
}

impl World {
    /// So many rows on the service, all of them pulled.
    async fn pulled(&self, rows: usize) {
        let there = client(MemoryStore::new(), &self.exchange, ConflictPolicy::Park).await;
        let many = (0..rows).map(|number| Note { rank: number as i64, ..note_of(&format!("r-{number:02}"), "theirs") });
        notes(&there).insert_all(many).await.unwrap();
        notes(&there).push_items().await.unwrap();
        self.table.pull_items(self.table.query()).await.unwrap();
    }

    /// Somebody else changes a row on the service.
    async fn elsewhere(&self, id: &str, title: &str) {
        let there = client(MemoryStore::new(), &self.exchange, ConflictPolicy::Park).await;
        let table = notes(&there);
        table.pull_items(table.query()).await.unwrap();
        table.replace(note_of(id, title)).await.unwrap();
        table.push_items().await.unwrap();
    }

    async fn agrees(&self) {
        self.table.pull_items(self.table.query()).await.unwrap();
        assert_eq!(local_rows(&self.table).await, service_rows(&self.rows), "a later pull gets everything back");
    }
}

fn kind(error: Error) -> ErrorKind {
    error.kind()
}

async fn i20_what_is_nowhere_else_is_listed_and_nothing_is_changed(store: impl Store, wire: Wire) {
    let world = world(store, wire, ConflictPolicy::ServerWins).await;
    world.pulled(5).await;
    // A settled loser: the service wins over a change of ours.
    world.table.replace(note_of("r-00", "lost")).await.unwrap();
    world.elsewhere("r-00", "theirs again").await;
    world.table.push_items().await.unwrap();
    assert_eq!(world.client.settled_losers().await.unwrap().len(), 1);
    // An insert, a deletion, a change.
    world.table.insert(note_of("mine", "x")).await.unwrap();
    world.table.delete("r-01").await.unwrap();
    world.table.replace(note_of("r-02", "mine")).await.unwrap();
    let before = (local_rows(&world.table).await, world.client.pending().await.unwrap());
    let check = async |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Pending, "{error}");
        let mut listed: Vec<_> = error.pending().iter().map(|change| &*change.id).collect();
        listed.sort_unstable();
        assert_eq!(listed, ["mine", "r-00", "r-01", "r-02"], "{error}");
        assert_eq!(error.pending().iter().filter(|change| change.state == PendingState::Loser).count(), 1);
        assert_eq!((local_rows(&world.table).await, world.client.pending().await.unwrap()), before);
        assert_eq!(world.client.settled_losers().await.unwrap().len(), 1);
    };
    check(world.table.purge_items(PurgeOptions::default()).await.unwrap_err()).await;
    check(world.client.reset(ResetOptions::everything()).await.unwrap_err()).await;
    check(world.client.reset(ResetOptions::tables(["note"])).await.unwrap_err()).await;
    // The network is away: what a sign-out cannot push is listed too.
    world.transport.faults().next(TransportCall::Push, Fault::Refuse);
    check(world.client.sign_out(Pending::Push(Duration::from_secs(10))).await.unwrap_err()).await;
    assert_eq!(world.client.reset(ResetOptions::tables(["none"])).await.map_err(kind), Err(ErrorKind::UnknownTable));

    let report = world.client.reset(ResetOptions::everything().force()).await.unwrap();
    assert_eq!((report.rows, report.dropped), (5, 4));
    assert_eq!(world.table.count().await.unwrap(), 0);
    assert!(world.client.pending().await.unwrap().is_empty());
    assert!(world.client.settled_losers().await.unwrap().is_empty());
    world.agrees().await;
}

async fn i20_a_purge_by_query_takes_the_tokens_of_the_scopes_that_held_its_rows(store: impl Store + Clone, wire: Wire) {
    let world = world(store.clone(), wire, ConflictPolicy::Park).await;
    world.pulled(8).await;
    let low = || PullOptions::default().query(world.table.query().filter(|note| note.rank.lt(4))).query_id("low");
    let high = || PullOptions::default().query(world.table.query().filter(|note| note.rank.ge(4))).query_id("high");
    world.table.pull_items(low()).await.unwrap();
    world.table.pull_items(high()).await.unwrap();
    let tokens = async || {
        let mut found = Vec::new();
        for scope in ["", "q:low", "q:high"] {
            let key = ScopeKey { account: "".into(), table: "note".into(), scope: scope.into() };
            found.push(store.delta_token(&key).await.unwrap().is_some());
        }
        found
    };
    assert_eq!(tokens().await, [true, true, true]);

    // Only so many, in the order asked for.
    let two = world.table.query().filter(|note| note.rank.ge(4)).order_by(|note| note.rank.desc()).top(2);
    let report = world.table.purge_items(PurgeOptions::default().query(two)).await.unwrap();
    assert_eq!((report.rows, report.dropped), (2, 0));
    let left: Vec<_> = local_rows(&world.table).await.into_iter().map(|(id, ..)| id).collect();
    assert_eq!(left, ["r-00", "r-01", "r-02", "r-03", "r-04", "r-05"]);
    assert_eq!(tokens().await, [false, true, false], "the scope that held none of them keeps its token");
    world.table.pull_items(high()).await.unwrap();
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));

    // Unsent changes of other rows are none of its business; those of its own are.
    world.table.replace(note_of("r-07", "mine")).await.unwrap();
    let one = |id: &'static str| PurgeOptions::default().query(world.table.query().filter(move |note| note.id.eq(id)));
    assert_eq!(world.table.purge_items(one("r-00")).await.unwrap().rows, 1);
    let refused = world.table.purge_items(one("r-07")).await.unwrap_err();
    assert_eq!((refused.kind(), refused.pending().len()), (ErrorKind::Pending, 1));
    let report = world.table.purge_items(one("r-07").force()).await.unwrap();
    assert_eq!((report.rows, report.dropped), (1, 1));
    world.agrees().await;
}

/// Something that leaves while a page is on its way.
async fn overtaken(world: &World, scope: &str, leave: impl AsyncFnOnce(&World)) -> ErrorKind {
    let (gate, open) = Gate::new();
    // Two pages are stored: a service of the originals has no row in the first one.
    world.transport.faults().next(TransportCall::FetchPage, Fault::Pass);
    world.transport.faults().next(TransportCall::FetchPage, Fault::Pass);
    world.transport.faults().next(TransportCall::FetchPage, Fault::Hold(gate));
    let before = world.transport.faults().calls(TransportCall::FetchPage);
    let mut pull = Box::pin(world.table.pull_items(PullOptions::default().query_id(scope)));
    while world.transport.faults().calls(TransportCall::FetchPage) < before + 3 {
        let ended = (&mut pull).now_or_never();
        assert!(ended.is_none(), "{ended:?} {}", world.transport.faults().calls(TransportCall::FetchPage) - before);
        tokio::task::yield_now().await;
    }
    leave(world).await;
    drop(open);
    pull.await.map_err(kind).unwrap_err()
}

async fn i13_pages_on_their_way_are_thrown_away(store: impl Store, wire: Wire) {
    let world = world(store, wire, ConflictPolicy::Park).await;
    world.pulled(30).await;
    let everything = async |world: &World| _ = world.client.reset(ResetOptions::everything()).await.unwrap();
    assert_eq!(overtaken(&world, "one", everything).await, ErrorKind::Overtaken);
    assert_eq!(world.table.count().await.unwrap(), 0, "nothing of the page on its way was stored");
    world.agrees().await;

    let whole = async |world: &World| _ = world.table.purge_items(PurgeOptions::default()).await.unwrap();
    assert_eq!(overtaken(&world, "two", whole).await, ErrorKind::Overtaken);
    assert_eq!(world.table.count().await.unwrap(), 0);
    world.agrees().await;

    let some = async |world: &World| {
        let query = world.table.query().filter(|note| note.rank.lt(5));
        world.table.purge_items(PurgeOptions::default().query(query)).await.unwrap();
    };
    assert_eq!(overtaken(&world, "three", some).await, ErrorKind::Overtaken);
    world.table.pull_items(PullOptions::default().query_id("three")).await.unwrap();
    world.agrees().await;

    let out = async |world: &World| _ = world.client.sign_out(Pending::Discard).await.unwrap();
    assert_eq!(overtaken(&world, "four", out).await, ErrorKind::Overtaken);
    assert_eq!(world.table.count().await.unwrap(), 0);
    world.agrees().await;
}

/// What makes all rows leave.
const WAYS: [&str; 4] = ["reset", "purge", "purge by query", "sign-out"];

impl World {
    async fn leave(&self, way: &str) {
        let each = self.table.query().filter(|note| note.rank.ge(0));
        let left = match way {
            "reset" => self.client.reset(ResetOptions::everything()).await,
            "purge" => self.table.purge_items(PurgeOptions::default()).await,
            "purge by query" => self.table.purge_items(PurgeOptions::default().query(each)).await,
            _ => self.client.sign_out(Pending::Discard).await,
        };
        assert!(left.unwrap().rows >= 5, "{way}");
        assert_eq!(self.table.count().await.unwrap(), 0);
    }

    /// What a call ends with if all rows leave while a request of it is on its way.
    async fn meanwhile<T: std::fmt::Debug>(
        &self,
        request: TransportCall,
        call: impl Future<Output = Result<T, Error>>,
        way: &str,
    ) -> Result<T, ErrorKind> {
        let (gate, open) = Gate::new();
        self.transport.faults().next(request, Fault::Hold(gate));
        let before = self.transport.faults().calls(request);
        let mut call = Box::pin(call);
        while self.transport.faults().calls(request) == before {
            let ended = (&mut call).now_or_never();
            assert!(ended.is_none(), "{ended:?}");
            tokio::task::yield_now().await;
        }
        self.leave(way).await;
        drop(open);
        call.await.map_err(kind)
    }
}

/// There is no token yet that could differ: the generation alone tells.
async fn i13_the_first_page_of_a_scope_is_thrown_away_too(store: impl Store, wire: Wire) {
    let world = world(store, wire, ConflictPolicy::Park).await;
    world.pulled(5).await;
    for way in WAYS {
        let scope = || PullOptions::default().query_id(way.replace(' ', "-"));
        // It holds the rows, and was never pulled.
        world.table.verify_items(scope()).await.unwrap();
        let pulled = world.meanwhile(TransportCall::FetchPage, world.table.pull_items(scope()), way).await;
        assert_eq!((pulled, world.table.count().await.unwrap()), (Err(ErrorKind::Overtaken), 0), "{way}");
        world.agrees().await;
    }
}

async fn i13_i20_a_comparison_on_its_way_brings_nothing_back(store: impl Store, wire: Wire) {
    let world = world(store, wire, ConflictPolicy::Park).await;
    world.pulled(5).await;
    for (number, way) in WAYS.into_iter().enumerate() {
        for request in [TransportCall::FetchPage, TransportCall::Fetch] {
            // Something to repair, so that a row is asked for by id.
            let id = format!("r-0{number}");
            world.elsewhere(&id, &format!("{way} {request:?}")).await;
            let verified = world.meanwhile(request, world.table.verify_items(world.table.query()), way).await;
            assert_eq!(world.table.count().await.unwrap(), 0, "{way}: {verified:?}");
            match (way, verified) {
                // Its own rows are left out, and no others.
                ("purge by query", Ok(report)) => assert_eq!((report.added, report.updated), (0, 0)),
                (_, verified) => assert_eq!(verified, Err(ErrorKind::Overtaken), "{way}"),
            }
            world.agrees().await;
        }
    }
}

async fn i20_a_comparison_that_begins_during_a_purge_brings_nothing_back(store: impl Store + Clone, wire: Wire) {
    let store = FaultStore::new(store, SystemClock);
    let world = world(store.clone(), wire, ConflictPolicy::Park).await;
    world.pulled(5).await;
    let (gate, commit) = Gate::new();
    store.faults().next(StoreCall::Commit, Fault::Late(gate));
    let (commits, purging) = (store.faults().calls(StoreCall::Commit), world.table.clone());
    let some = PurgeOptions::default().query(world.table.query().filter(|note| note.rank.lt(3)));
    let purge = tokio::spawn(async move { purging.purge_items(some).await });
    until(|| store.faults().calls(StoreCall::Commit) > commits).await;
    let (gate, list) = Gate::new();
    world.transport.faults().next(TransportCall::FetchPage, Fault::Hold(gate));
    let (lists, verifying) = (world.transport.faults().calls(TransportCall::FetchPage), world.table.clone());
    let verify = tokio::spawn(async move { verifying.verify_items(verifying.query()).await });
    until(|| world.transport.faults().calls(TransportCall::FetchPage) > lists).await;
    drop(commit);
    assert_eq!(purge.await.unwrap().unwrap().rows, 3);
    drop(list);
    let report = verify.await.unwrap().unwrap();
    assert_eq!((report.added, world.table.count().await.unwrap()), (0, 2), "what was purged is not here");
    world.agrees().await;
}

/// Waits until something has come about.
async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

async fn i13_a_pull_called_after_a_reset_begins_again(store: impl Store, wire: Wire) {
    let world = world(store, wire, ConflictPolicy::Park).await;
    world.pulled(30).await;
    let (gate, open) = Gate::new();
    world.transport.faults().next(TransportCall::FetchPage, Fault::Hold(gate));
    let before = world.transport.faults().calls(TransportCall::FetchPage);
    let pull = || world.table.pull_items(world.table.query());
    let mut first = Box::pin(pull());
    while world.transport.faults().calls(TransportCall::FetchPage) == before {
        assert!((&mut first).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    world.client.reset(ResetOptions::everything()).await.unwrap();
    let mut second = Box::pin(pull());
    // It joins the one under way, if it comes so far.
    for _ in 0..20 {
        assert!((&mut second).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(open);
    // If it has, both begin again; else the first one has ended.
    let (_, second) = futures::join!(first, second);
    second.unwrap();
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

async fn i20_a_reset_races_no_write(store: impl Store, wire: Wire) {
    let store = FaultStore::new(store, SystemClock);
    let faults = store.faults().clone();
    let world = world(store, wire, ConflictPolicy::Park).await;
    world.pulled(3).await;
    // A write that is committed after the reset was called, and before its own commit.
    let (gate, open) = Gate::new();
    faults.next(StoreCall::Commit, Fault::Hold(gate));
    let mut write = Box::pin(world.table.insert(note_of("mine", "x")));
    while faults.left() > 0 {
        assert!((&mut write).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let mut reset = Box::pin(world.client.reset(ResetOptions::everything()));
    for _ in 0..20 {
        assert!((&mut reset).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(open);
    let (written, reset) = futures::join!(write, reset);
    written.unwrap();
    let refused = reset.unwrap_err();
    assert_eq!((refused.kind(), refused.pending().len()), (ErrorKind::Pending, 1));
    assert_eq!(world.table.count().await.unwrap(), 4);
}

async fn i20_a_sign_out_keeps_pushes_or_discards(store: impl Store, wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 10, wire));
    let token = || async { Ok(Some(datasync_http::AccessToken::new("t").account("alice"))) };
    let transport =
        HttpTransport::builder("http://service").retries(0).exchange(exchange.clone()).token_provider(token);
    let transport = FaultTransport::new(transport.build().unwrap(), SystemClock);
    let builder = DatasyncClient::builder().store(store).transport(transport.clone()).table::<Note>();
    let client = builder.build().await.unwrap();
    let table = notes(&client);
    table.insert(note_of("nobody", "x")).await.unwrap();

    client.sign_in("alice").await.unwrap();
    table.insert(note_of("a", "one")).await.unwrap();
    client.sign_out(Pending::Keep).await.unwrap();
    assert_eq!((&*client.account(), table.count().await.unwrap()), ("", 1));
    assert!(table.get("a").await.unwrap().is_none());
    client.sign_in("alice").await.unwrap();
    assert_eq!((table.count().await.unwrap(), client.pending().await.unwrap().len()), (1, 1), "kept");

    // A service that does not answer in time.
    let (gate, open) = Gate::new();
    transport.faults().next(TransportCall::Push, Fault::Hold(gate));
    let late = client.sign_out(Pending::Push(Duration::from_millis(20))).await.unwrap_err();
    assert_eq!((late.kind(), late.pending().len(), &*client.account()), (ErrorKind::Pending, 1, "alice"));
    assert!(late.to_string().contains("20 ms"), "{late}");
    drop(open);
    assert_eq!(table.count().await.unwrap(), 1);

    let report = client.sign_out(Pending::Push(Duration::from_secs(60))).await.unwrap();
    assert_eq!((report.rows, report.dropped, &*client.account()), (1, 0, ""));
    assert_eq!(service_rows(&rows).len(), 1, "it was sent first");
    let accounts = client.accounts().await.unwrap();
    assert_eq!(accounts.len(), 1, "nothing is left of the account");
    client.sign_in("alice").await.unwrap();
    assert_eq!(table.count().await.unwrap(), 0);
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows), "a later pull gets everything back");

    table.insert(note_of("b", "two")).await.unwrap();
    exchange.fault(|request| request.method == Method::Post, WireFault::Refused);
    let report = client.sign_out(Pending::Discard).await.unwrap();
    assert_eq!((report.rows, report.dropped), (2, 1));
    client.sign_in("alice").await.unwrap();
    assert_eq!((table.count().await.unwrap(), client.pending().await.unwrap().len()), (0, 0));
    assert_eq!(exchange.faults_left(), 1, "no network was needed for it");
    client.sign_out(Pending::Keep).await.unwrap();
    assert_eq!(local_rows(&table).await, [("nobody".to_owned(), "x".to_owned(), 0)], "nobody's row was nobody's");
    client.sign_out(Pending::Discard).await.unwrap();
    assert_eq!(table.count().await.unwrap(), 0, "but for those who say so");
}

async fn i26_adopt_moves_what_was_never_sent(store: impl Store, wire: Wire) {
    let world = world(store, wire, ConflictPolicy::Park).await;
    world.pulled(2).await;
    world.table.replace(note_of("r-00", "an edit of what the service has")).await.unwrap();
    world.table.insert(note_of("doubtful", "x")).await.unwrap();
    world.exchange.fault(|request| request.method == Method::Post, WireFault::AnswerLost);
    world.exchange.fault(|request| request.method == Method::Put, WireFault::Lost);
    let _ = world.table.push_items().await.unwrap();
    for number in 0..5 {
        world.table.insert(note_of(&format!("mine-{number}"), "x")).await.unwrap();
    }
    let written = world.table.insert(note_of("mine-5", "x")).await.unwrap();
    assert_eq!(world.client.adopt().await.map_err(kind), Err(ErrorKind::InvalidAccount));
    world.client.sign_in("alice").await.unwrap();
    world.table.insert(note_of("mine-4", "already hers")).await.unwrap();
    let report = world.client.adopt().await.unwrap();
    assert_eq!(report.moved, 5);
    assert_eq!(written.acked().await.map_err(kind), Err(ErrorKind::OtherAccount));
    let order: Vec<_> = world.client.pending().await.unwrap().into_iter().map(|change| change.id).collect();
    let order: Vec<&str> = order.iter().map(AsRef::as_ref).collect();
    assert_eq!(order, ["mine-4", "mine-0", "mine-1", "mine-2", "mine-3", "mine-5"]);
    assert_eq!(world.client.adopt().await.unwrap().moved, 0);
    assert_eq!(world.table.get("mine-4").await.unwrap().unwrap().title, "already hers");
    world.client.sign_out(Pending::Keep).await.unwrap();
    let left: Vec<_> = local_rows(&world.table).await.into_iter().map(|(id, ..)| id).collect();
    assert_eq!(left, ["doubtful", "mine-4", "r-00", "r-01"]);
    assert_eq!(report.left, world.client.pending().await.unwrap().len() as u64);
    world.client.push_tables(Tables::all()).await.unwrap();
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

datasync_tests::on_both_stores! {
    i20_what_is_nowhere_else_is_listed_and_nothing_is_changed
    i20_a_purge_by_query_takes_the_tokens_of_the_scopes_that_held_its_rows
    i13_pages_on_their_way_are_thrown_away
    i13_the_first_page_of_a_scope_is_thrown_away_too
    i13_i20_a_comparison_on_its_way_brings_nothing_back
    i13_a_pull_called_after_a_reset_begins_again
    i20_a_comparison_that_begins_during_a_purge_brings_nothing_back
    i20_a_reset_races_no_write
    i20_a_sign_out_keeps_pushes_or_discards
    i26_adopt_moves_what_was_never_sent
}

#[tokio::test]
async fn i22_a_sign_out_that_is_dropped_happens_or_not() {
    let folder = datasync_tests::folder();
    let store = FaultStore::new(RedbStore::open(folder.path().join("store.redb")).unwrap(), SystemClock);
    let faults = store.faults().clone();
    let world = world(store, Wire::Extended, ConflictPolicy::Park).await;
    for before_it_happened in [false, true] {
        world.client.sign_in("alice").await.unwrap();
        world.table.upsert(note_of("a", "x")).await.unwrap();
        let (gate, open) = Gate::new();
        let fault = if before_it_happened { Fault::Delay(Duration::from_millis(20)) } else { Fault::Hold(gate) };
        faults.next(StoreCall::Commit, fault);
        let mut out = Box::pin(world.client.sign_out(Pending::Discard));
        while faults.left() > 0 {
            assert!((&mut out).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        drop((out, open));
        // The next call works, and memory and store agree about who is signed in.
        let written = world.table.upsert(note_of("b", "x")).await;
        assert_eq!(written.unwrap_err().kind(), ErrorKind::OtherAccount, "it was called before the account was gone");
        assert_eq!((&*world.client.account(), world.table.count().await.unwrap()), ("", 0));
        world.table.upsert(note_of("b", "x")).await.unwrap();
        world.client.sign_out(Pending::Discard).await.unwrap();
    }
}
