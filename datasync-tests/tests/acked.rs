//! The wait for the service: `Written::acked`, whatever becomes of the change.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PurgeOptions, ResetOptions, Resolution, Tables, Written},
    clock::SystemClock,
    config::ConflictPolicy,
    error::{Error, ErrorKind},
    store::Store,
};
use datasync_http::Method;
use datasync_server::MemoryRepository;
use datasync_testkit::{Fault as StoreFault, FaultStore, StoreCall};
use datasync_tests::{
    Fault, MemoryStore, Note, RouterExchange, Wire, client, client_over, note, note_of, notes, service,
};
use futures::{
    future::{join, join_all},
    poll,
};

datasync_tests::on_both_stores! {
    acked_tells_what_became_of_a_change
    a_batch_is_acked_row_by_row
    acked_ends_with_the_client
    acked_survives_a_commit_whose_outcome_was_lost
}

/// What happens after a replace of a row that the service has.
#[derive(Clone, Copy, Debug)]
enum Then {
    Pushed,
    PushedWithAnEdit,
    PushedWithADelete,
    PushedBehindAnAnswerThatWasLost,
    PushedBehindFailures,
    Refused,
    RefusedAndRetried,
    InConflict,
    InConflictAndKept,
    InConflictAndTaken,
    InConflictWithAnEdit,
    TheServiceWins,
    TheServiceWinsWithAnEdit,
    TheClientWins,
    TheServiceHasTheSame,
    Discarded,
    DiscardedWithAnEdit,
    Purged,
    PushedByAnotherCaller,
}

type Acked = Result<(), ErrorKind>;

impl Then {
    const ALL: [Then; 19] = [
        Then::Pushed,
        Then::PushedWithAnEdit,
        Then::PushedWithADelete,
        Then::PushedBehindAnAnswerThatWasLost,
        Then::PushedBehindFailures,
        Then::Refused,
        Then::RefusedAndRetried,
        Then::InConflict,
        Then::InConflictAndKept,
        Then::InConflictAndTaken,
        Then::InConflictWithAnEdit,
        Then::TheServiceWins,
        Then::TheServiceWinsWithAnEdit,
        Then::TheClientWins,
        Then::TheServiceHasTheSame,
        Then::Discarded,
        Then::DiscardedWithAnEdit,
        Then::Purged,
        Then::PushedByAnotherCaller,
    ];

    fn policy(self) -> ConflictPolicy {
        match self {
            Then::TheServiceWins | Then::TheServiceWinsWithAnEdit => ConflictPolicy::ServerWins,
            Then::TheClientWins => ConflictPolicy::ClientWins,
            _ => ConflictPolicy::Park,
        }
    }

    /// What who asked before it is told, and who asks after it. The first is told one thing or the other if it was not
    /// awake in between.
    fn expected(self) -> (Option<Acked>, Acked) {
        let both = |acked| (Some(acked), acked);
        match self {
            Then::Refused => both(Err(ErrorKind::Parked)),
            Then::RefusedAndRetried | Then::InConflictAndKept => (None, Ok(())),
            Then::InConflict | Then::TheServiceWins => both(Err(ErrorKind::Conflict)),
            Then::TheServiceWinsWithAnEdit => both(Err(ErrorKind::Conflict)),
            Then::DiscardedWithAnEdit => (None, Err(ErrorKind::Dropped)),
            Then::InConflictAndTaken | Then::InConflictWithAnEdit => both(Err(ErrorKind::Conflict)),
            Then::Discarded | Then::Purged => both(Err(ErrorKind::Dropped)),
            _ => both(Ok(())),
        }
    }

    /// Lets it happen, and returns the changes that were made meanwhile: they are acked too.
    async fn happen(self, world: &World) -> Vec<Written<Note>> {
        let (client, table) = (&world.client, &world.table);
        let fault = |fault| world.exchange.fault(|request| request.method != Method::Get, fault);
        match self {
            Then::Pushed | Then::TheServiceWins | Then::TheClientWins => {}
            Then::PushedWithAnEdit => return vec![table.replace(note_of("a", "again")).await.unwrap()],
            Then::PushedWithADelete => drop(table.delete("a").await.unwrap()),
            Then::PushedBehindAnAnswerThatWasLost => {
                fault(Fault::AnswerLost);
                table.push_items().await.unwrap();
                return vec![table.replace(note_of("a", "again")).await.unwrap()];
            }
            Then::PushedBehindFailures => {
                fault(Fault::Lost);
                table.push_items().await.unwrap();
                let again = table.replace(note_of("a", "again")).await.unwrap();
                fault(Fault::Status(503));
                table.push_items().await.unwrap();
                return vec![again];
            }
            Then::Refused => fault(Fault::Status(403)),
            Then::RefusedAndRetried => {
                fault(Fault::Status(403));
                assert_eq!(table.push_items().await.unwrap().parked, 1);
                client.retry("note", "a").await.unwrap();
            }
            Then::InConflict => {}
            Then::InConflictWithAnEdit | Then::TheServiceWinsWithAnEdit | Then::DiscardedWithAnEdit => {
                fault(Fault::Lost);
                table.push_items().await.unwrap();
                world.elsewhere("theirs").await;
                let again = table.replace(note_of("a", "again")).await.unwrap();
                if matches!(self, Then::DiscardedWithAnEdit) {
                    // Both are one change by then.
                    assert_eq!(table.push_items().await.unwrap().conflicts, 1);
                    client.discard("note", "a").await.unwrap();
                }
                return vec![again];
            }
            Then::InConflictAndKept | Then::InConflictAndTaken => {
                table.push_items().await.unwrap();
                let conflict = client.conflicts().await.unwrap().pop().unwrap();
                let keeps = matches!(self, Then::InConflictAndKept);
                let resolution = if keeps { Resolution::<Note>::Keep } else { Resolution::Take };
                client.resolve(&conflict, resolution).await.unwrap();
            }
            Then::TheServiceHasTheSame => {}
            Then::Discarded => client.discard("note", "a").await.unwrap(),
            Then::Purged => drop(table.purge_items(PurgeOptions::default().force()).await.unwrap()),
            Then::PushedByAnotherCaller => drop(client.push_tables(Tables::all()).await.unwrap()),
        }
        Vec::new()
    }
}

struct World {
    client: DatasyncClient,
    table: OfflineTable<Note>,
    exchange: RouterExchange,
}

impl World {
    /// A device and a service that both have the row `a`.
    async fn new(store: impl Store, wire: Wire, policy: ConflictPolicy) -> World {
        let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
        let client = client(store, &exchange, policy).await;
        let table = notes(&client);
        table.purge_items(PurgeOptions::default().force()).await.unwrap();
        let first = table.insert(note_of("a", "first")).await.unwrap();
        table.push_items().await.unwrap();
        first.acked().await.unwrap();
        World { client, table, exchange }
    }

    /// Another device changes the row on the service.
    async fn elsewhere(&self, title: &str) {
        let other = client(MemoryStore::new(), &self.exchange, ConflictPolicy::Park).await;
        notes(&other).pull_items(notes(&other).query()).await.unwrap();
        notes(&other).replace(note_of("a", title)).await.unwrap();
        notes(&other).push_items().await.unwrap();
    }
}

/// A change that nobody decides about would wait for ever.
async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("somebody is told")
}

fn kind(acked: Result<(), Error>) -> Acked {
    acked.map_err(|error| error.kind())
}

async fn acked_tells_what_became_of_a_change(store: impl Store + Clone, wire: Wire) {
    for then in Then::ALL {
        let world = World::new(store.clone(), wire, then.policy()).await;
        match then {
            Then::InConflict | Then::InConflictAndKept | Then::InConflictAndTaken => world.elsewhere("theirs").await,
            Then::TheServiceWins | Then::TheClientWins => world.elsewhere("theirs").await,
            Then::TheServiceHasTheSame => world.elsewhere("mine").await,
            _ => {}
        }
        let written = world.table.replace(note_of("a", "mine")).await.unwrap();
        let (mut early, mut dropped) = (Box::pin(written.acked()), Box::pin(written.acked()));
        for _ in 0..3 {
            tokio::task::yield_now().await;
            assert!(poll!(early.as_mut()).is_pending() && poll!(dropped.as_mut()).is_pending());
        }
        drop(dropped);
        // What happens, and a push; the waiter is woken as by a task of its own.
        let happens = async {
            let meanwhile = then.happen(&world).await;
            world.table.push_items().await.unwrap();
            meanwhile
        };
        let (early, meanwhile) = soon(join(early, happens)).await;
        let (before, after) = then.expected();
        if let Some(before) = before {
            assert_eq!(kind(early), before, "{then:?} {wire:?}, asked before");
        }
        for written in [written].into_iter().chain(meanwhile) {
            let acked = soon(written.acked()).await;
            if let (Then::InConflict, Err(error)) = (then, &acked) {
                assert_eq!(error.conflict().unwrap().id(), "a");
            }
            assert_eq!(kind(acked), after, "{then:?} {wire:?}, asked after");
        }
    }
}

#[tokio::test]
async fn what_is_withdrawn_or_never_queued_needs_no_service() {
    let world = World::new(MemoryStore::new(), Wire::Extended, ConflictPolicy::Park).await;
    let same = world.table.replace(note_of("a", "first")).await.unwrap();
    soon(same.acked()).await.unwrap();
    let inserted = world.table.insert(note_of("b", "b")).await.unwrap();
    let deleted = world.table.delete("b").await.unwrap();
    soon(deleted.acked()).await.unwrap();
    assert_eq!(kind(soon(inserted.acked()).await), Err(ErrorKind::Dropped));

    // Withdrawn behind a delete that is in doubt: the delete is still to be sent.
    let deleted = world.table.delete("a").await.unwrap();
    world.exchange.fault(|request| request.method != Method::Get, Fault::Lost);
    world.table.push_items().await.unwrap();
    let inserted = world.table.insert(note_of("a", "again")).await.unwrap();
    let again = world.table.delete("a").await.unwrap();
    assert_eq!(kind(soon(inserted.acked()).await), Err(ErrorKind::Dropped));
    let mut waits = Box::pin(again.acked());
    assert!(poll!(waits.as_mut()).is_pending());
    world.table.push_items().await.unwrap();
    soon(waits).await.unwrap();
    soon(deleted.acked()).await.unwrap();
}

async fn a_batch_is_acked_row_by_row(store: impl Store, wire: Wire) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let client = client(store, &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let mut saved = table.insert_all((0..300).map(|rank| note_of(&rank.to_string(), "x"))).await.unwrap();
    saved.extend(table.upsert_all((200..400).map(|rank| note_of(&rank.to_string(), "y"))).await.unwrap());
    client.discard("note", "250").await.unwrap();
    let waits = join_all(saved.iter().map(Written::acked));
    let (acked, pushed) = soon(join(waits, table.push_items())).await;
    assert_eq!(pushed.unwrap().pushed, 399);
    let dropped: Vec<_> =
        saved.iter().zip(&acked).filter(|(_, acked)| acked.is_err()).map(|(note, _)| &*note.id).collect();
    assert_eq!(dropped, ["250", "250"], "both changes of the row were one");
    let deleted = table.delete_all(["1", "2"]).await.unwrap();
    let waits = join_all(deleted.iter().map(Written::acked));
    let (acked, _) = soon(join(waits, table.push_items())).await;
    assert!(acked.into_iter().all(|acked| acked.is_ok()));
}

async fn acked_ends_with_the_client(store: impl Store + Clone, wire: Wire) {
    let open = async || {
        let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
        let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
        let written = notes(&client).insert(note("x")).await.unwrap();
        (client, written)
    };
    let (client, written) = open().await;
    let dropped = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(client);
    };
    let (acked, ()) = soon(join(written.acked(), dropped)).await;
    assert_eq!(kind(acked), Err(ErrorKind::Store));
    assert_eq!(kind(soon(written.acked()).await), Err(ErrorKind::Store));

    let (client, written) = open().await;
    let closed = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.close().await.unwrap();
    };
    let (acked, ()) = soon(join(written.acked(), closed)).await;
    assert_eq!(kind(acked), Err(ErrorKind::Store));
}

async fn acked_survives_a_commit_whose_outcome_was_lost(store: impl Store + Clone, wire: Wire) {
    let store = FaultStore::new(store, SystemClock);
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, wire));
    let client = client_over(store.clone(), exchange).build().await.unwrap();
    let table = notes(&client);

    let first = table.insert(note_of("a", "a")).await.unwrap();
    let mut waits = Box::pin(first.acked());
    assert!(poll!(waits.as_mut()).is_pending());
    // The commit that freezes goes well; the outcome of the one with the answers is lost, and found out.
    store.faults().next(StoreCall::Commit, StoreFault::Pass);
    store.faults().next(StoreCall::Commit, StoreFault::FailAfter);
    let (acked, pushed) = soon(join(waits, table.push_items())).await;
    assert_eq!((acked.is_ok(), pushed.unwrap().pushed), (true, 1));

    // It did not happen, and nobody finds out: the change is still queued, and is there after the next push.
    let second = table.replace(note_of("a", "b")).await.unwrap();
    store.faults().next(StoreCall::Commit, StoreFault::Pass);
    store.faults().next(StoreCall::Commit, StoreFault::Refuse);
    let mut waits = Box::pin(second.acked());
    assert_eq!(table.push_items().await.unwrap_err().kind(), ErrorKind::Store);
    assert!(poll!(waits.as_mut()).is_pending());
    let (acked, pushed) = soon(join(waits, table.push_items())).await;
    assert!(acked.is_ok() && pushed.is_ok());

    // A discard that fails gives its reason too early: the change is pushed after all.
    let third = table.replace(note_of("a", "c")).await.unwrap();
    store.faults().next(StoreCall::Commit, StoreFault::Refuse);
    assert_eq!(client.discard("note", "a").await.unwrap_err().kind(), ErrorKind::Store);
    table.push_items().await.unwrap();
    soon(third.acked()).await.unwrap();

    // And so does a reset.
    let fourth = table.replace(note_of("a", "d")).await.unwrap();
    store.faults().next(StoreCall::Commit, StoreFault::Refuse);
    let everything = ResetOptions::everything().force();
    assert_eq!(client.reset(everything).await.unwrap_err().kind(), ErrorKind::Store);
    table.push_items().await.unwrap();
    soon(fourth.acked()).await.unwrap();
    assert_eq!(store.faults().left(), 0);
}

#[tokio::test]
async fn a_wait_reads_nothing_while_nothing_happens_to_its_row() {
    let store = FaultStore::new(MemoryStore::new(), SystemClock);
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended));
    let client = client(store.clone(), &exchange, ConflictPolicy::Park).await;
    let table = notes(&client);
    let waits_for = table.insert(note_of("a", "a")).await.unwrap();
    let waits = join_all((0..100).map(|_| waits_for.acked()));
    let mut waits = Box::pin(waits);
    assert!(poll!(waits.as_mut()).is_pending());
    let reads = || store.faults().calls(StoreCall::Read);
    table.insert(note_of("b", "b")).await.unwrap();
    let before = reads();
    for number in 0..50 {
        table.replace(note_of("b", &number.to_string())).await.unwrap();
        assert!(poll!(waits.as_mut()).is_pending());
    }
    assert_eq!(reads() - before, 50, "one read for each write, and none for the waiters");
    let (acked, _) = soon(join(waits, table.push_items())).await;
    assert!(acked.into_iter().all(|acked| acked.is_ok()));
}
