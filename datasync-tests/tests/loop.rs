//! The loop over the real codec and the real router, with and without faults.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{
    client::{PendingState, PurgeOptions, Resolution, Tables},
    config::ConflictPolicy,
    error::ErrorKind,
    memory::MemoryStore,
    store::Store,
};
use datasync_http::Method;
use datasync_server::MemoryRepository;
use datasync_tests::{
    Fault, Note, Pair, RouterExchange, Wire, client, local_rows, note, note_of, notes, service, service_rows,
};

datasync_tests::on_both_stores! {
    writes_are_pushed_and_pulled
    i03_wrong_writes_are_errors_and_change_nothing
    i05_a_lost_answer_is_sent_again_with_the_same_key
    i06_new_operations_collapse
    i10_a_lost_answer_has_its_effect_once
    i14_a_pull_leaves_queued_rows_alone
    i16_local_fields_survive_every_round_trip
    i18_client_wins_names_the_version_it_overwrites
    i19_a_parked_conflict_keeps_all_sides
    i20_a_purge_refuses_to_drop_unsent_changes
    server_wins_keeps_the_loser
    an_insert_over_our_own_tombstone_is_an_undelete
    a_refused_connection_leaves_operations_new
    a_resolver_in_code_merges_and_its_failure_parks
    i04_discard_goes_back_to_the_copy_of_the_service
    i08_one_bad_operation_holds_back_only_its_own_row
    i11_a_404_means_gone_only_if_the_table_does_not_show_the_row
}

fn is_put(request: &datasync_http::HttpRequest) -> bool {
    request.method == Method::Put
}

fn is_post(request: &datasync_http::HttpRequest) -> bool {
    request.method == Method::Post
}

fn is_delete(request: &datasync_http::HttpRequest) -> bool {
    request.method == Method::Delete
}

async fn writes_are_pushed_and_pulled(store: impl Store, wire: Wire) {
    let Pair { rows, one, here, there, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;

    let milk = here.insert(note("milk")).await.unwrap();
    let bread = here.insert(note("bread")).await.unwrap();
    assert_eq!(here.push_items().await.unwrap().pushed, 2);
    assert_eq!(there.pull_items(there.query()).await.unwrap().inserted, 2);
    assert_eq!(local_rows(&there).await, service_rows(&rows));

    here.replace(Note { rank: 7, ..milk.clone().into_inner() }).await.unwrap();
    here.delete(&bread.id).await.unwrap();
    assert_eq!(one.push_tables(Tables::all()).await.unwrap().pushed, 2);
    let report = there.pull_items(there.query()).await.unwrap();
    assert_eq!((report.updated, report.removed), (1, 1));
    assert_eq!(local_rows(&there).await, vec![(milk.id.clone(), "milk".to_owned(), 7)]);
    assert_eq!(local_rows(&here).await, local_rows(&there).await);
    assert!(one.pending().await.unwrap().is_empty());
}

async fn i03_wrong_writes_are_errors_and_change_nothing(store: impl Store, wire: Wire) {
    let Pair { one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    table.insert(note_of("a", "one")).await.unwrap();
    let before = client.pending().await.unwrap();
    let kind = |error: datasync_core::error::Error| error.kind();
    assert_eq!(table.insert(note_of("a", "two")).await.map_err(kind), Err(ErrorKind::Exists));
    assert_eq!(table.replace(note_of("b", "two")).await.map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(table.delete("b").await.map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(table.insert(note_of("no id", "two")).await.map_err(kind), Err(ErrorKind::InvalidId));
    assert_eq!(local_rows(&table).await, vec![("a".to_owned(), "one".to_owned(), 0)]);
    assert_eq!(client.pending().await.unwrap(), before);

    let (first, second) = futures::join!(table.insert(note_of("c", "x")), table.insert(note_of("c", "y")));
    assert_eq!((first.is_ok(), second.map_err(kind)), (true, Err(ErrorKind::Exists)));
}

async fn i05_a_lost_answer_is_sent_again_with_the_same_key(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&seen);
    exchange.before(move |request| {
        if request.method == Method::Post {
            let key = request.headers.iter().find(|(name, _)| name == "idempotency-key").unwrap().1.clone();
            log.lock().unwrap().push((key, request.body.clone()));
        }
    });
    table.insert(note_of("a", "one")).await.unwrap();
    exchange.fault(is_post, Fault::AnswerLost);
    assert_eq!(client.push_tables(Tables::all()).await.unwrap().waiting, 1);
    assert!(client.pending().await.unwrap()[0].in_doubt);

    table.replace(note_of("a", "two")).await.unwrap();
    assert_eq!(client.pending().await.unwrap().len(), 2);
    table.replace(note_of("a", "three")).await.unwrap();
    assert_eq!(client.pending().await.unwrap().len(), 2, "one in doubt, one new");

    client.push_tables(Tables::all()).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1], "the same key and bytes");
    assert_eq!(service_rows(&rows), vec![("a".to_owned(), "three".to_owned(), 0)]);
    assert_eq!(local_rows(&table).await, service_rows(&rows));
    assert!(client.pending().await.unwrap().is_empty());
}

async fn i06_new_operations_collapse(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    table.insert(note_of("gone", "x")).await.unwrap();
    table.replace(note_of("gone", "y")).await.unwrap();
    table.delete("gone").await.unwrap();
    assert!(client.pending().await.unwrap().is_empty(), "insert and delete: nothing left to send");

    table.insert(note_of("a", "one")).await.unwrap();
    table.push_items().await.unwrap();
    let before = exchange.requests.load(std::sync::atomic::Ordering::SeqCst);
    table.replace(note_of("a", "two")).await.unwrap();
    table.delete("a").await.unwrap();
    table.insert(note_of("a", "three")).await.unwrap();
    assert_eq!(client.pending().await.unwrap().len(), 1);
    table.push_items().await.unwrap();
    assert_eq!(exchange.requests.load(std::sync::atomic::Ordering::SeqCst), before + 1);
    assert_eq!(service_rows(&rows), vec![("a".to_owned(), "three".to_owned(), 0)]);

    table.replace(note_of("a", "three")).await.unwrap();
    assert!(client.pending().await.unwrap().is_empty(), "no field that is sent has changed");
}

async fn i10_a_lost_answer_has_its_effect_once(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    for fault in [Fault::AnswerLost, Fault::Lost, Fault::Status(503)] {
        let id = format!("{}", rows.rows().len());
        exchange.fault(is_post, fault);
        table.insert(note_of(&id, "one")).await.unwrap();
        table.push_items().await.unwrap();
        table.push_items().await.unwrap();
        exchange.fault(is_put, fault);
        table.replace(note_of(&id, "two")).await.unwrap();
        table.push_items().await.unwrap();
        table.push_items().await.unwrap();
        assert_eq!(local_rows(&table).await, service_rows(&rows), "{fault:?}");
        assert!(client.pending().await.unwrap().is_empty(), "{fault:?}");
        exchange.fault(is_delete, fault);
        table.delete(&id).await.unwrap();
        table.push_items().await.unwrap();
        table.push_items().await.unwrap();
        assert!(service_rows(&rows).is_empty(), "{fault:?}");
        assert!(client.pending().await.unwrap().is_empty(), "{fault:?}");
        assert!(client.conflicts().await.unwrap().is_empty(), "{fault:?}");
        assert_eq!(exchange.faults_left(), 0);
    }
}

async fn i14_a_pull_leaves_queued_rows_alone(store: impl Store, wire: Wire) {
    let Pair { one, here, there, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    here.insert(note_of("a", "one")).await.unwrap();
    here.push_items().await.unwrap();
    there.pull_items(there.query()).await.unwrap();

    there.replace(note_of("a", "theirs")).await.unwrap();
    there.push_items().await.unwrap();
    here.replace(note_of("a", "ours")).await.unwrap();
    // The implicit push meets the conflict, the page shows the same copy: the record stays.
    here.pull_items(here.query()).await.unwrap();
    assert_eq!(here.get("a").await.unwrap().unwrap().title, "ours");
    assert_eq!(one.conflicts().await.unwrap().len(), 1);

    there.replace(note_of("a", "theirs again")).await.unwrap();
    there.push_items().await.unwrap();
    here.pull_items(here.query()).await.unwrap();
    let conflict = one.conflicts().await.unwrap().pop().unwrap();
    assert_eq!(conflict.base::<Note>().unwrap().unwrap().title, "one", "the first base");
    assert_eq!(conflict.service::<Note>().unwrap().unwrap().title, "theirs again", "the newest copy");
    assert_eq!(here.get("a").await.unwrap().unwrap().title, "ours");
}

async fn i16_local_fields_survive_every_round_trip(store: impl Store, wire: Wire) {
    let Pair { one, here, there, .. } = Pair::new(store, wire, ConflictPolicy::ServerWins).await;
    here.insert(Note { scroll: Some(9), ..note_of("a", "one") }).await.unwrap();
    here.push_items().await.unwrap();
    assert_eq!(here.get("a").await.unwrap().unwrap().scroll, Some(9));
    there.pull_items(there.query()).await.unwrap();
    assert_eq!(there.get("a").await.unwrap().unwrap().scroll, None, "it never left the device");
    there.replace(note_of("a", "two")).await.unwrap();
    there.push_items().await.unwrap();
    here.pull_items(here.query()).await.unwrap();
    let now = here.get("a").await.unwrap().unwrap();
    assert_eq!((now.title.as_str(), now.scroll), ("two", Some(9)));
    here.replace(Note { scroll: Some(10), ..now }).await.unwrap();
    assert!(one.pending().await.unwrap().is_empty(), "a local field queues nothing");
}

async fn i18_client_wins_names_the_version_it_overwrites(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, one, here, there, .. } = Pair::new(store, wire, ConflictPolicy::ClientWins).await;
    here.insert(note_of("a", "one")).await.unwrap();
    here.push_items().await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    there.replace(note_of("a", "theirs")).await.unwrap();
    there.push_items().await.unwrap();

    here.replace(note_of("a", "ours")).await.unwrap();
    exchange.before(|request| {
        let versioned = request.headers.iter().any(|(name, _)| name == "if-match");
        assert!(versioned || !matches!(request.method, Method::Put | Method::Delete), "never without a version");
    });
    let report = here.push_items().await.unwrap();
    assert_eq!((report.settled, report.pushed), (1, 1));
    assert_eq!(service_rows(&rows), vec![("a".to_owned(), "ours".to_owned(), 0)]);
    let losers = one.settled_losers().await.unwrap();
    assert_eq!(losers[0].entity::<Note>().unwrap().title, "theirs", "what was overwritten is kept");
}

async fn i19_a_parked_conflict_keeps_all_sides(store: impl Store, wire: Wire) {
    let Pair { rows, one, here, there, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    for id in ["a", "b", "c"] {
        here.insert(note_of(id, "one")).await.unwrap();
    }
    here.push_items().await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    for id in ["a", "b"] {
        there.replace(note_of(id, "theirs")).await.unwrap();
        here.replace(note_of(id, "ours")).await.unwrap();
    }
    there.delete("c").await.unwrap();
    here.replace(note_of("c", "ours")).await.unwrap();
    there.push_items().await.unwrap();
    assert_eq!(here.push_items().await.unwrap().conflicts, 3);

    let conflicts = one.conflicts().await.unwrap();
    let side = |note: Option<Note>| note.map(|note| note.title);
    assert_eq!(side(conflicts[0].base().unwrap()).as_deref(), Some("one"));
    assert_eq!(side(conflicts[0].local().unwrap()).as_deref(), Some("ours"));
    assert_eq!(side(conflicts[0].service().unwrap()).as_deref(), Some("theirs"));
    assert_eq!(side(conflicts[2].service().unwrap()), None, "deleted there");

    one.resolve(&conflicts[0], Resolution::Merged(note_of("a", "both"))).await.unwrap();
    one.resolve::<Note>(&conflicts[1], Resolution::Take).await.unwrap();
    one.resolve::<Note>(&conflicts[2], Resolution::Keep).await.unwrap();
    let again = one.resolve::<Note>(&conflicts[0], Resolution::Keep).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::ConflictChanged);
    here.push_items().await.unwrap();
    let expected = [("a", "both"), ("b", "theirs"), ("c", "ours")].map(|(id, t)| (id.to_owned(), t.to_owned(), 0));
    assert_eq!(service_rows(&rows), expected);
    assert_eq!(local_rows(&here).await, expected);
    assert_eq!(one.settled_losers().await.unwrap().len(), 1, "the body that `Take` dropped");
}

async fn i20_a_purge_refuses_to_drop_unsent_changes(store: impl Store, wire: Wire) {
    let Pair { rows, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    table.insert(note_of("a", "one")).await.unwrap();
    table.push_items().await.unwrap();
    table.pull_items(table.query()).await.unwrap();
    table.replace(note_of("a", "two")).await.unwrap();
    table.insert(note_of("b", "new")).await.unwrap();

    let refused = table.purge_items(PurgeOptions::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Pending);
    let listed: Vec<&str> = refused.pending().iter().map(|change| change.id.as_ref()).collect();
    assert_eq!(listed, ["a", "b"]);
    assert!(refused.pending().iter().all(|change| change.state == PendingState::Ready));
    assert_eq!(table.count().await.unwrap(), 2);

    let report = table.purge_items(PurgeOptions::default().force()).await.unwrap();
    assert_eq!((report.rows, report.dropped), (2, 2));
    assert_eq!(table.count().await.unwrap(), 0);
    assert!(client.pending().await.unwrap().is_empty());
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows), "a later pull gets everything back");
}

async fn server_wins_keeps_the_loser(store: impl Store, wire: Wire) {
    let Pair { rows, one, here, there, .. } = Pair::new(store, wire, ConflictPolicy::ServerWins).await;
    here.insert(note_of("a", "one")).await.unwrap();
    here.insert(note_of("b", "one")).await.unwrap();
    here.push_items().await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    there.replace(note_of("a", "theirs")).await.unwrap();
    there.replace(note_of("b", "theirs")).await.unwrap();
    there.push_items().await.unwrap();
    here.replace(note_of("a", "ours")).await.unwrap();
    here.delete("b").await.unwrap();
    here.push_items().await.unwrap();
    assert_eq!(local_rows(&here).await, service_rows(&rows), "right at once, also after a delete");
    let losers = one.settled_losers().await.unwrap();
    assert_eq!(losers.len(), 1);
    assert_eq!(losers[0].entity::<Note>().unwrap().title, "ours");
    one.forget_losers([losers[0].id]).await.unwrap();
    assert!(one.settled_losers().await.unwrap().is_empty());
}

async fn an_insert_over_our_own_tombstone_is_an_undelete(store: impl Store, wire: Wire) {
    let Pair { rows, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    table.insert(note_of("a", "one")).await.unwrap();
    table.push_items().await.unwrap();
    table.delete("a").await.unwrap();
    table.push_items().await.unwrap();
    table.insert(note_of("a", "again")).await.unwrap();
    let report = table.push_items().await.unwrap();
    assert_eq!((report.pushed, report.waiting), (1, 0), "what is sent again at once does not wait");
    assert!(client.pending().await.unwrap().is_empty());
    assert_eq!(service_rows(&rows), vec![("a".to_owned(), "again".to_owned(), 0)]);
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn a_refused_connection_leaves_operations_new(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    for title in ["a", "b", "c"] {
        table.insert(note_of(title, title)).await.unwrap();
    }
    if !wire.extended() {
        exchange.fault(is_post, Fault::None);
    }
    exchange.fault(is_post, Fault::Refused);
    assert_eq!(table.push_items().await.unwrap_err().kind(), ErrorKind::Unreachable);
    let pending = client.pending().await.unwrap();
    assert_eq!(pending.len(), if !wire.extended() { 2 } else { 3 }, "a batch is one request");
    assert!(pending.iter().all(|change| !change.in_doubt && change.state == PendingState::Ready));
    table.push_items().await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn i04_discard_goes_back_to_the_copy_of_the_service(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    table.insert(note_of("a", "one")).await.unwrap();
    table.push_items().await.unwrap();
    table.replace(note_of("a", "two")).await.unwrap();
    table.insert(note_of("b", "new")).await.unwrap();
    client.discard("note", "a").await.unwrap();
    client.discard("note", "b").await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));

    // In doubt: the row is fetched, and what was sent turns out to have been done.
    exchange.fault(is_put, Fault::AnswerLost);
    table.replace(note_of("a", "three")).await.unwrap();
    table.push_items().await.unwrap();
    client.discard("note", "a").await.unwrap();
    assert_eq!(local_rows(&table).await, service_rows(&rows));
    assert_eq!(service_rows(&rows)[0].1, "three");
    assert!(client.pending().await.unwrap().is_empty());
}

async fn i08_one_bad_operation_holds_back_only_its_own_row(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    for id in ["a", "b", "c"] {
        table.insert(note_of(id, "one")).await.unwrap();
    }
    if wire.extended() {
        // The batch is refused; the first alone is not; the others together are; and so is the second alone.
        exchange.fault(is_post, Fault::Status(400));
        exchange.fault(is_post, Fault::None);
        exchange.fault(is_post, Fault::Status(400));
        exchange.fault(is_post, Fault::Status(400));
    } else {
        exchange.fault(is_post, Fault::None);
        exchange.fault(is_post, Fault::Status(400));
    }
    let report = table.push_items().await.unwrap();
    assert_eq!((report.pushed, report.parked), (2, 1));
    let parked = client.pending().await.unwrap();
    assert!(matches!(&parked[0].state, PendingState::Parked(reason) if reason.contains("400")), "{parked:?}");
    assert_eq!(table.push_items().await.unwrap().pushed, 0, "it waits for somebody");
    table.pull_items(table.query()).await.unwrap();
    assert!(table.get("b").await.unwrap().is_some(), "a pull leaves it alone");
    client.retry("note", "b").await.unwrap();
    assert_eq!(table.push_items().await.unwrap().pushed, 1);
    assert_eq!(local_rows(&table).await, service_rows(&rows));
}

async fn i11_a_404_means_gone_only_if_the_table_does_not_show_the_row(store: impl Store, wire: Wire) {
    let Pair { rows, exchange, one: client, here: table, .. } = Pair::new(store, wire, ConflictPolicy::Park).await;
    table.insert(note_of("a", "one")).await.unwrap();
    table.push_items().await.unwrap();
    table.delete("a").await.unwrap();
    exchange.fault(is_delete, Fault::Status(404));
    assert_eq!(table.push_items().await.unwrap().waiting, 1, "the table still shows it");
    assert_eq!(client.pending().await.unwrap().len(), 1);
    table.push_items().await.unwrap();
    assert!(service_rows(&rows).is_empty());
    assert!(client.pending().await.unwrap().is_empty());
}

async fn a_resolver_in_code_merges_and_its_failure_parks(store: impl Store, wire: Wire) {
    use datasync_core::client::{ResolverConflict, TableOptions};
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 7, wire));
    let resolver = |conflict: ResolverConflict<Note>| match (conflict.local, conflict.service) {
        (Some(ours), Some(theirs)) if ours.title == "panic" => panic!("{}", theirs.title),
        (Some(ours), Some(theirs)) if ours.title == "fail" => Err(theirs.title.into()),
        (Some(ours), Some(theirs)) => Ok(Resolution::Merged(Note { rank: ours.rank + theirs.rank, ..ours })),
        _ => Ok(Resolution::Take),
    };
    let transport = datasync_http::HttpTransport::builder("http://service").retries(0).exchange(exchange.clone());
    let one = datasync_core::client::DatasyncClient::builder()
        .store(store)
        .transport(transport.build().unwrap())
        .table_with(TableOptions::<Note>::new().resolver(resolver))
        .build()
        .await
        .unwrap();
    let other = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    let (here, there) = (notes(&one), notes(&other));
    for id in ["a", "b", "c"] {
        here.insert(note_of(id, "one")).await.unwrap();
    }
    here.push_items().await.unwrap();
    there.pull_items(there.query()).await.unwrap();
    for (id, title) in [("a", "ours"), ("b", "panic"), ("c", "fail")] {
        there.replace(Note { rank: 2, ..note_of(id, "theirs") }).await.unwrap();
        here.replace(Note { rank: 3, ..note_of(id, title) }).await.unwrap();
    }
    there.push_items().await.unwrap();
    here.push_items().await.unwrap();
    assert_eq!(service_rows(&rows)[0], ("a".to_owned(), "ours".to_owned(), 5));
    assert_eq!(one.conflicts().await.unwrap().len(), 2, "a failure parks");
}
