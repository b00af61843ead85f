//! Nothing in the store tells of an account that has signed out with everything (I20, I26).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{
    client::{DatasyncClient, OfflineTable, Pending, PullOptions},
    clock::SystemClock,
    store::Store,
};
use datasync_http::{AccessToken, HttpTransport, Method};
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault, FaultStore, FaultTransport, Faults, Gate, StoreCall, TransportCall};
use datasync_tests::{Fault as WireFault, Note, RouterExchange, Wire, note_of, notes, service};

datasync_tests::on_both_stores! {
    i20_i26_a_pull_that_fails_after_a_sign_out_leaves_no_trace
    i20_i26_the_first_page_before_a_sign_out_leaves_no_trace
}

const NAME: &str = "zelda-42";

struct World<S> {
    store: FaultStore<S>,
    exchange: RouterExchange,
    transport: Faults<TransportCall>,
    client: DatasyncClient,
    table: OfflineTable<Note>,
}

impl<S: Store + Clone> World<S> {
    async fn new(store: S, wire: Wire) -> World<S> {
        let store = FaultStore::new(store, SystemClock);
        let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
        let token = || async { Ok(Some(AccessToken::new("secret").account(NAME))) };
        let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone());
        let transport = FaultTransport::new(transport.token_provider(token).build().unwrap(), SystemClock);
        let faults = transport.faults().clone();
        let builder = DatasyncClient::builder().store(store.clone()).transport(transport).table::<Note>();
        let client = builder.build().await.unwrap();
        client.sign_in(NAME).await.unwrap();
        let table = notes(&client);
        table.insert(note_of("a", "x")).await.unwrap();
        table.push_items().await.unwrap();
        World { store, exchange, transport: faults, client, table }
    }

    /// The notes that name the account, by their keys or in what they say.
    async fn traces(&self) -> Vec<String> {
        let notes = self.store.list_notes("", None, usize::MAX).await.unwrap();
        let all = notes.into_iter().map(|(key, note)| format!("{key}: {}", String::from_utf8_lossy(&note.0)));
        all.filter(|note| note.contains(NAME)).collect()
    }
}

/// Until all that can go on without what a test holds has gone as far as it comes.
async fn settled() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

async fn i20_i26_a_pull_that_fails_after_a_sign_out_leaves_no_trace(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let (gate, open) = Gate::new();
    world.transport.next(TransportCall::FetchPage, Fault::Hold(gate));
    world.exchange.fault(|request| request.method == Method::Get, WireFault::Status(500));
    let pulling = world.table.clone();
    let pull = tokio::spawn(async move { pulling.pull_items(PullOptions::default()).await });
    while world.exchange.faults_left() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!world.traces().await.is_empty());
    world.client.sign_out(Pending::Discard).await.unwrap();
    drop(open);
    pull.await.unwrap().unwrap_err();
    assert_eq!(world.traces().await, Vec::<String>::new());
}

async fn i20_i26_the_first_page_before_a_sign_out_leaves_no_trace(store: impl Store + Clone, wire: Wire) {
    let world = World::new(store, wire).await;
    let (gate, page) = Gate::new();
    world.transport.next(TransportCall::FetchPage, Fault::Hold(gate));
    let pulling = world.table.clone();
    let filtered = PullOptions::default().query(world.table.query().filter(|note| note.title.eq("x")));
    let pages = world.transport.calls(TransportCall::FetchPage);
    let pull = tokio::spawn(async move { pulling.pull_items(filtered).await });
    while world.transport.calls(TransportCall::FetchPage) == pages {
        tokio::task::yield_now().await;
    }
    // A commit that is on its way: the page's waits for it, and the sign-out's behind that.
    let (gate, commit) = Gate::new();
    let commits = world.store.faults().calls(StoreCall::Commit);
    world.store.faults().next(StoreCall::Commit, Fault::Late(gate));
    let writing = world.table.clone();
    let write = tokio::spawn(async move { writing.insert(note_of("b", "x")).await });
    while world.store.faults().calls(StoreCall::Commit) == commits {
        tokio::task::yield_now().await;
    }
    drop(page);
    settled().await;
    let client = world.client.clone();
    let sign_out = tokio::spawn(async move { client.sign_out(Pending::Discard).await });
    settled().await;
    drop(commit);
    write.await.unwrap().unwrap();
    sign_out.await.unwrap().unwrap();
    drop(pull.await.unwrap());
    assert_eq!(world.traces().await, Vec::<String>::new());
}
