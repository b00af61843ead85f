//! Accounts (I26): what belongs to one is neither shown nor sent while another is signed in.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::http::HeaderMap;
use datasync_core::{
    client::{DatasyncClient, OfflineTable, Pending, PendingState, Tables},
    clock::SystemClock,
    error::ErrorKind,
    query::{Expr, Function, Literal},
    store::Store,
};
use datasync_http::{AccessToken, HttpRequest, HttpTransport, Method};
use datasync_server::{AccessControl, DatasyncService, MemoryRepository, TableOperation, TableOptions};
use datasync_testkit::{Fault, FaultStore, FaultTransport, Gate, StoreCall, TransportCall};
use datasync_tests::{Fault as WireFault, MemoryStore, Note, RedbStore, RouterExchange, Wire, note_of, notes};
use futures::{FutureExt, StreamExt};
use serde_json::{Map, Value};

/// Everybody sees the notes whose titles begin with their name, and makes no others.
#[derive(Debug)]
struct Owners;

#[async_trait]
impl AccessControl for Owners {
    fn caller(&self, headers: &HeaderMap) -> Arc<str> {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok());
        token.and_then(|token| token.strip_prefix("Bearer token of ")).unwrap_or_default().into()
    }

    fn view(&self, caller: &str) -> Option<Expr> {
        let title = Expr::Field("title".to_owned());
        Some(Expr::Call(Function::StartsWith, vec![title, Expr::Literal(Literal::Text(caller.to_owned()))]))
    }

    async fn authorize(&self, caller: &str, _: TableOperation, row: Option<&Map<String, Value>>) -> bool {
        row.is_none_or(|row| row["title"].as_str().is_some_and(|title| title.starts_with(caller)))
    }
}

/// Who is signed in at the identity service.
#[derive(Clone, Default)]
struct Session(Arc<Mutex<Option<&'static str>>>);

impl Session {
    fn set(&self, name: Option<&'static str>) {
        *self.0.lock().unwrap() = name;
    }
}

struct World {
    session: Session,
    exchange: RouterExchange,
    rows: MemoryRepository,
}

/// A body that would go out with the credentials of somebody else than its owner.
fn is_leak(request: &HttpRequest) -> bool {
    let token = request.headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.as_str());
    let owner = token.and_then(|token| token.strip_prefix("Bearer token of ")).unwrap_or_default();
    let body = String::from_utf8_lossy(&request.body);
    ["alice", "bob"].iter().any(|name| body.contains(&format!("{name}: ")) && *name != owner)
}

impl World {
    fn new(wire: Wire) -> World {
        let rows = MemoryRepository::new();
        let notes = TableOptions::of::<Note>().soft_delete(true).access(Owners);
        let builder = DatasyncService::builder().extensions(wire.extended()).table(notes, rows.clone());
        let exchange = RouterExchange::new(wire.lead_to(builder.build().unwrap()));
        exchange.before(|request| assert!(!is_leak(request), "{request:?} has the credentials of somebody else"));
        World { session: Session::default(), exchange, rows }
    }

    fn transport(&self) -> FaultTransport<HttpTransport> {
        let session = self.session.clone();
        let token = move || {
            let name = *session.0.lock().unwrap();
            async move { Ok(name.map(|name| AccessToken::new(format!("token of {name}")).account(name))) }
        };
        let transport = HttpTransport::builder("http://service").retries(0).exchange(self.exchange.clone());
        FaultTransport::new(transport.token_provider(token).build().unwrap(), SystemClock)
    }

    async fn client(&self, store: impl Store) -> (DatasyncClient, OfflineTable<Note>, FaultTransport<HttpTransport>) {
        let transport = self.transport();
        let builder = DatasyncClient::builder().store(store).transport(transport.clone()).table::<Note>();
        let client = builder.build().await.unwrap();
        let table = notes(&client);
        (client, table, transport)
    }

    fn service_ids(&self) -> Vec<String> {
        self.rows.rows().into_iter().map(|row| row.id.as_ref().to_owned()).collect()
    }
}

async fn ids(table: &OfflineTable<Note>) -> Vec<String> {
    table.query().to_vec().await.unwrap().into_iter().map(|note| note.id).collect()
}

async fn i26_another_account_sees_and_sends_nothing(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (client, table, _) = world.client(store).await;
    assert_eq!(&*client.account(), "");
    table.insert(note_of("nobody-1", "nobody's")).await.unwrap();

    client.sign_in("alice").await.unwrap();
    world.session.set(Some("alice"));
    assert!(ids(&table).await.is_empty(), "what was made by nobody is nobody's");
    table.insert(note_of("alice-1", "alice: one")).await.unwrap();
    client.push_tables(Tables::all()).await.unwrap();
    table.insert(note_of("alice-2", "alice: two")).await.unwrap();

    client.sign_in("bob").await.unwrap();
    world.session.set(Some("bob"));
    assert_eq!((ids(&table).await.len(), table.count().await.unwrap()), (0, 0));
    assert!(client.pending().await.unwrap().is_empty() && table.get("alice-2").await.unwrap().is_none());
    assert_eq!(client.retry("note", "alice-2").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(client.discard("note", "alice-2").await.unwrap_err().kind(), ErrorKind::NotFound);
    // The same id is another row.
    table.insert(note_of("alice-2", "bob: two")).await.unwrap();
    table.delete("alice-2").await.unwrap();
    table.insert(note_of("bob-1", "bob: one")).await.unwrap();
    client.push_tables(Tables::all()).await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(ids(&table).await, ["bob-1"]);
    assert_eq!(world.service_ids(), ["alice-1", "bob-1"]);

    client.sign_in("alice").await.unwrap();
    world.session.set(Some("alice"));
    assert_eq!(ids(&table).await, ["alice-1", "alice-2"]);
    assert_eq!(client.pending().await.unwrap().len(), 1);
    client.push_tables(Tables::all()).await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(world.service_ids(), ["alice-1", "alice-2", "bob-1"]);
    assert_eq!(ids(&table).await, ["alice-1", "alice-2"]);
    let accounts = client.accounts().await.unwrap();
    assert_eq!(accounts.iter().map(|name| &**name).collect::<Vec<_>>(), ["", "alice", "bob"]);
    for name in ["", "a\nb", &"x".repeat(257)] {
        assert_eq!(client.sign_in(name).await.unwrap_err().kind(), ErrorKind::InvalidAccount);
    }
}

async fn i26_the_credentials_of_another_account_send_nothing(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (client, table, _) = world.client(store).await;
    client.sign_in("alice").await.unwrap();
    world.session.set(Some("bob"));
    table.insert(note_of("alice-1", "alice: one")).await.unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&requests);
    world.exchange.before(move |request| log.lock().unwrap().push(request.url.path().to_owned()));

    let other = Err(ErrorKind::OtherAccount);
    let kind = |error: datasync_core::error::Error| error.kind();
    assert_eq!(table.push_items().await.map_err(kind).map(drop), other);
    assert_eq!(table.pull_items(table.query()).await.map_err(kind).map(drop), other);
    assert_eq!(table.verify_items(table.query()).await.map_err(kind).map(drop), other);
    let remote = client.remote_table::<Note>();
    assert_eq!(remote.get("alice-1").await.map_err(kind).map(drop), other);
    assert_eq!(remote.insert(note_of("alice-3", "alice: three")).await.map_err(kind).map(drop), other);
    assert_eq!(remote.query().to_vec().await.map_err(kind).map(drop), other);
    // What the service can do may be asked with anybody's credentials.
    assert!(requests.lock().unwrap().iter().all(|path| path == "/.well-known/datasync"), "{requests:?}");
    let pending = client.pending().await.unwrap();
    assert_eq!((pending.len(), &pending[0].state, pending[0].in_doubt), (1, &PendingState::Ready, false));

    world.session.set(None);
    assert_eq!(
        table.push_items().await.map_err(kind).map(drop),
        Err(ErrorKind::Unauthenticated),
        "nobody is signed in"
    );
    world.session.set(Some("alice"));
    assert_eq!(table.push_items().await.unwrap().pushed, 1, "the transport has looked for the newer sign-in");
}

async fn i26_a_switch_during_a_push_ends_it(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (client, table, transport) = world.client(store).await;
    client.sign_in("alice").await.unwrap();
    world.session.set(Some("alice"));
    // Two waves.
    let many = (0..150).map(|number| note_of(&format!("alice-{number:03}"), "alice: x"));
    table.insert_all(many).await.unwrap();
    let (gate, open) = Gate::new();
    transport.faults().next(TransportCall::Push, Fault::Hold(gate));
    let mut push = Box::pin(client.push_tables(Tables::all()));
    while transport.faults().calls(TransportCall::Push) == 0 {
        assert!((&mut push).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    client.sign_in("bob").await.unwrap();
    world.session.set(Some("bob"));
    table.insert(note_of("bob-1", "bob: one")).await.unwrap();
    // A push of another account does not wait for it, and sends its own.
    assert_eq!(client.push_tables(Tables::all()).await.unwrap().pushed, 1);
    drop(open);
    assert_eq!(push.await.unwrap_err().kind(), ErrorKind::OtherAccount);
    assert_eq!(ids(&table).await, ["bob-1"]);

    client.sign_in("alice").await.unwrap();
    world.session.set(Some("alice"));
    let left = client.pending().await.unwrap();
    let sent = world.service_ids().len() - 1;
    assert_eq!(left.len() + sent, 150, "what was answered is stored, the rest was not sent");
    assert!(sent < 150 && left.iter().all(|change| !change.in_doubt));
    client.push_tables(Tables::all()).await.unwrap();
    assert_eq!(world.service_ids().len(), 151);
}

async fn i26_a_switch_during_a_pull_ends_it(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (client, table, transport) = world.client(store).await;
    let (there, theirs, _) = world.client(MemoryStore::new()).await;
    for name in ["alice", "bob"] {
        there.sign_in(name).await.unwrap();
        world.session.set(Some(name));
        theirs.insert(note_of(&format!("{name}-1"), &format!("{name}: one"))).await.unwrap();
        theirs.push_items().await.unwrap();
    }
    client.sign_in("alice").await.unwrap();
    world.session.set(Some("alice"));
    let (gate, open) = Gate::new();
    transport.faults().next(TransportCall::FetchPage, Fault::Hold(gate));
    let mut pull = Box::pin(table.pull_items(table.query()));
    while transport.faults().calls(TransportCall::FetchPage) == 0 {
        assert!((&mut pull).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    client.sign_in("bob").await.unwrap();
    world.session.set(Some("bob"));
    drop(open);
    assert_eq!(pull.await.unwrap_err().kind(), ErrorKind::OtherAccount);
    assert!(ids(&table).await.is_empty());
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(ids(&table).await, ["bob-1"]);
    client.sign_in("alice").await.unwrap();
    world.session.set(Some("alice"));
    assert!(ids(&table).await.is_empty(), "the page was thrown away");
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(ids(&table).await, ["alice-1"]);

    // A comparison, while her token is still good.
    there.sign_in("alice").await.unwrap();
    theirs.insert(note_of("alice-2", "alice: two")).await.unwrap();
    theirs.push_items().await.unwrap();
    let (gate, open) = Gate::new();
    transport.faults().next(TransportCall::Fetch, Fault::Hold(gate));
    let mut verify = Box::pin(table.verify_items(table.query()));
    while transport.faults().calls(TransportCall::Fetch) == 0 {
        assert!((&mut verify).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    client.sign_in("bob").await.unwrap();
    drop(open);
    assert_eq!(verify.await.unwrap_err().kind(), ErrorKind::OtherAccount);
    client.sign_in("alice").await.unwrap();
    assert_eq!(ids(&table).await, ["alice-1"], "nothing was changed where nobody looked");
}

/// Somebody signs in while the account before is on its way out.
async fn i26_a_sign_out_that_a_sign_in_overtakes_signs_nobody_else_out(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let store = FaultStore::new(store, SystemClock);
    let faults = store.faults().clone();
    let (client, table, transport) = world.client(store).await;
    client.sign_in("alice").await.unwrap();
    world.session.set(Some("alice"));
    table.insert(note_of("alice-1", "alice: one")).await.unwrap();
    let (gate, open) = Gate::new();
    transport.faults().next(TransportCall::Push, Fault::Hold(gate));
    let mut out = Box::pin(client.sign_out(Pending::Push(Duration::from_secs(60))));
    while transport.faults().calls(TransportCall::Push) == 0 {
        assert!((&mut out).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    client.sign_in("bob").await.unwrap();
    drop(open);
    assert_eq!(out.await.unwrap_err().kind(), ErrorKind::OtherAccount);
    assert_eq!(&*client.account(), "bob");

    for pending in [Pending::Keep, Pending::Discard] {
        client.sign_in("alice").await.unwrap();
        let (gate, open) = Gate::new();
        faults.next(StoreCall::Commit, Fault::Hold(gate));
        let mut switch = Box::pin(client.sign_in("bob"));
        while faults.left() > 0 {
            assert!((&mut switch).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        let mut out = Box::pin(client.sign_out(pending));
        for _ in 0..20 {
            assert!((&mut out).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        drop(open);
        let (switched, out) = futures::join!(switch, out);
        switched.unwrap();
        assert_eq!(out.unwrap_err().kind(), ErrorKind::OtherAccount, "{pending:?}");
        assert_eq!(&*client.account(), "bob");
        client.sign_in("alice").await.unwrap();
        assert_eq!(ids(&table).await, ["alice-1"], "{pending:?}");
    }
}

async fn i26_a_write_that_a_switch_overtakes_is_an_error(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let store = FaultStore::new(store, SystemClock);
    let faults = store.faults().clone();
    let (client, table, _) = world.client(store).await;
    client.sign_in("alice").await.unwrap();
    let (gate, open) = Gate::new();
    faults.next(StoreCall::Commit, Fault::Hold(gate));
    let mut switch = Box::pin(client.sign_in("bob"));
    while faults.left() > 0 {
        assert!((&mut switch).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let mut write = Box::pin(table.insert(note_of("a", "alice: one")));
    assert!((&mut write).now_or_never().is_none());
    drop(open);
    switch.await.unwrap();
    assert_eq!(write.await.unwrap_err().kind(), ErrorKind::OtherAccount);
    assert!(ids(&table).await.is_empty());
    client.sign_in("alice").await.unwrap();
    assert!(ids(&table).await.is_empty());
}

async fn i26_a_live_query_follows_the_account(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (client, table, _) = world.client(store).await;
    client.sign_in("alice").await.unwrap();
    table.insert(note_of("alice-1", "alice: one")).await.unwrap();
    let mut results = table.query().watch();
    let mut next = async || results.next().await.unwrap().unwrap().into_iter().map(|note| note.id).collect::<Vec<_>>();
    assert_eq!(next().await, ["alice-1"]);
    client.sign_in("bob").await.unwrap();
    assert!(next().await.is_empty());
    table.insert(note_of("bob-1", "bob: one")).await.unwrap();
    assert_eq!(next().await, ["bob-1"]);
    client.sign_in("alice").await.unwrap();
    assert_eq!(next().await, ["alice-1"]);
}

async fn i09_a_refused_sign_in_pauses_the_account(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (client, table, _) = world.client(store).await;
    client.sign_in("alice").await.unwrap();
    world.session.set(Some("alice"));
    table.push_items().await.unwrap();
    table.insert(note_of("alice-1", "alice: one")).await.unwrap();
    let state = async || client.pending().await.unwrap().pop().map(|change| change.state);
    let is_change = |request: &HttpRequest| request.method == Method::Post;
    let refuse = |wanted: fn(&HttpRequest) -> bool| {
        // The token is refreshed once.
        world.exchange.fault(wanted, WireFault::Status(401));
        world.exchange.fault(wanted, WireFault::Status(401));
    };
    refuse(is_change);
    assert_eq!(table.push_items().await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(state().await, Some(PendingState::Paused));

    // A pull sends nothing of it, and tries with a read.
    refuse(|_| true);
    assert_eq!(table.pull_items(table.query()).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!((state().await, world.service_ids().len()), (Some(PendingState::Paused), 0));
    client.sign_in("bob").await.unwrap();
    table.insert(note_of("bob-1", "bob: one")).await.unwrap();
    assert_eq!(state().await, Some(PendingState::Ready), "it is not his sign-in");
    client.sign_in("alice").await.unwrap();
    assert_eq!(state().await, Some(PendingState::Ready), "a sign-in ends it");

    refuse(is_change);
    assert_eq!(table.push_items().await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(table.push_items().await.unwrap().pushed, 1, "an explicit push tries again");
    table.insert(note_of("alice-2", "alice: two")).await.unwrap();
    assert_eq!(state().await, Some(PendingState::Ready));

    refuse(is_change);
    assert_eq!(table.push_items().await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(state().await, Some(PendingState::Ready), "the service takes the sign-in again");
}

datasync_tests::on_both_stores! {
    i26_another_account_sees_and_sends_nothing
    i26_the_credentials_of_another_account_send_nothing
    i26_a_switch_during_a_push_ends_it
    i26_a_switch_during_a_pull_ends_it
    i26_a_sign_out_that_a_sign_in_overtakes_signs_nobody_else_out
    i26_a_write_that_a_switch_overtakes_is_an_error
    i26_a_live_query_follows_the_account
    i09_a_refused_sign_in_pauses_the_account
}

#[tokio::test]
async fn i26_the_account_and_its_pause_are_remembered_over_a_restart() {
    let folder = datasync_tests::folder();
    let open = || RedbStore::open(folder.path().join("store.redb")).unwrap();
    let world = World::new(Wire::Extended);
    let (client, table, _) = world.client(open()).await;
    client.sign_in("alice").await.unwrap();
    world.session.set(Some("alice"));
    table.push_items().await.unwrap();
    table.insert(note_of("alice-1", "alice: one")).await.unwrap();
    world.exchange.fault(|request| request.method == Method::Post, WireFault::Status(401));
    world.exchange.fault(|request| request.method == Method::Post, WireFault::Status(401));
    table.push_items().await.unwrap_err();
    client.close().await.unwrap();
    drop((client, table));

    let (client, table, transport) = world.client(open()).await;
    assert_eq!((&*client.account(), ids(&table).await), ("alice", vec!["alice-1".to_owned()]));
    assert_eq!(client.pending().await.unwrap()[0].state, PendingState::Paused);
    assert_eq!(transport.faults().calls(TransportCall::Account), 0, "and no network was needed for it");
}
