//! What a change without an effect meets: what was edited here, and what a pull has seen, while it was on its way.

use datasync_core::{row::OperationKind, store::Store, transport::TransportErrorKind};
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{MovedClock, Note, RouterExchange, Wire, local_rows, note_of, service_rows};

use crate::world::{World, failed, only_conflict, pull_only, rejected, seen_meanwhile, texts, titles};

datasync_tests::on_both_stores! {
    i05_a_refusal_meets_what_was_edited_meanwhile
    i14_a_refusal_meets_what_a_pull_has_seen
    i14_what_was_not_sent_meets_what_a_pull_has_seen
}

datasync_tests::on_both_stores_extended! {
    i14_a_row_that_is_gone_for_good_is_seen_too
}

async fn i05_a_refusal_meets_what_was_edited_meanwhile(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, "").await;
    world.shared(&["edited", "deleted"]).await;
    let there = |id: &str| world.rows.rows().into_iter().find(|row| *row.id == *id).map(|row| row.record.version);
    let first_version = there("edited");
    let refuses = |title: &'static str| {
        move |operation: &datasync_core::transport::PushOperation| {
            let body = operation.body.as_ref().map(|body| String::from_utf8_lossy(body.as_bytes()).into_owned());
            body.is_some_and(|body| body.contains(title)).then(|| rejected(422))
        }
    };
    // Mended by an edit: it is sent again with another key, over the version that the first one started from.
    world.table.replace(note_of("edited", "bad")).await.unwrap();
    world.way.answer(refuses("bad"));
    let table = world.table.clone();
    world.way.meanwhile(async move { drop(table.replace(note_of("edited", "mended")).await.unwrap()) });
    let report = world.table.push_items().await.unwrap();
    assert_eq!((report.pushed, report.parked), (1, 0), "{report:?}");
    let sent = world.way.sent();
    assert_eq!(sent.len(), 2);
    assert_ne!(sent[0].2, sent[1].2, "another change has another key");
    assert_eq!(world.title_there("edited").as_deref(), Some("mended"));
    assert_ne!(there("edited"), first_version);

    // Deleted meanwhile: the deletion is sent.
    world.table.replace(note_of("deleted", "bad")).await.unwrap();
    let table = world.table.clone();
    world.way.meanwhile(async move { drop(table.delete("deleted").await.unwrap()) });
    world.table.push_items().await.unwrap();
    let kinds: Vec<OperationKind> = world.way.sent().into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(kinds, [OperationKind::Replace, OperationKind::Delete]);
    assert_eq!(world.title_there("deleted"), None);

    // Inserted and deleted: nothing is left to send.
    world.table.insert(note_of("new", "bad")).await.unwrap();
    let table = world.table.clone();
    world.way.meanwhile(async move { drop(table.delete("new").await.unwrap()) });
    world.table.push_items().await.unwrap();
    assert_eq!(world.way.sent().len(), 1);
    assert!(world.client.pending().await.unwrap().is_empty());
    assert_eq!(world.title("new").await, None);
    assert!(world.lost().await.is_empty());
}

async fn i14_a_refusal_meets_what_a_pull_has_seen(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, "").await;
    world.shared(&["a"]).await;
    world.table.replace(note_of("a", "mine")).await.unwrap();
    world.way.answer(|_| Some(rejected(422)));
    seen_meanwhile(&world, "a", "theirs");
    let report = world.table.push_items().await.unwrap();
    assert_eq!((report.conflicts, report.parked), (1, 0), "{report:?}");
    assert_eq!(titles(&only_conflict(&world).await), texts(["base", "mine", "theirs"]));
    world.client.discard("note", "a").await.unwrap();
    world.way.mend();

    // Inserted and deleted again, and somebody else has made a row of that id.
    world.table.insert(note_of("b", "mine")).await.unwrap();
    world.way.answer(|_| Some(rejected(422)));
    let (table, there) = (world.table.clone(), world.there.clone());
    world.way.meanwhile(async move {
        there.insert(note_of("b", "theirs")).await.unwrap();
        there.push_items().await.unwrap();
        table.pull_items(pull_only()).await.unwrap();
        table.delete("b").await.unwrap();
    });
    world.table.push_items().await.unwrap();
    assert!(world.client.pending().await.unwrap().is_empty());
    assert_eq!(world.title("b").await.as_deref(), Some("theirs"), "no later page brings it again");
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

async fn i14_what_was_not_sent_meets_what_a_pull_has_seen(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, "").await;
    world.shared(&["a"]).await;
    let unreachable = |_: &datasync_core::transport::PushOperation| Some(failed(TransportErrorKind::Connect, None));
    world.table.replace(note_of("a", "mine")).await.unwrap();
    world.way.answer(unreachable);
    seen_meanwhile(&world, "a", "theirs");
    world.table.push_items().await.unwrap_err();
    assert_eq!(titles(&only_conflict(&world).await), texts(["base", "mine", "theirs"]), "it is told at once");
    world.client.discard("note", "a").await.unwrap();
    assert_eq!(world.title("a").await.as_deref(), Some("theirs"));

    world.table.insert(note_of("b", "mine")).await.unwrap();
    seen_meanwhile(&world, "b", "theirs");
    world.table.push_items().await.unwrap_err();
    world.client.discard("note", "b").await.unwrap();
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
}

async fn i14_a_row_that_is_gone_for_good_is_seen_too(store: impl Store, wire: Wire) {
    let (clock, rows) = (MovedClock::default(), MemoryRepository::new());
    let service = DatasyncService::builder().table(TableOptions::of::<Note>(), rows.clone()).build().unwrap();
    let world = World::over(store, RouterExchange::new(wire.lead_to(service)), rows, clock, "").await;
    world.shared(&["a"]).await;
    for id in ["a", "b"] {
        world.table.upsert(note_of(id, "mine")).await.unwrap();
    }
    // The service has done both, the answers are lost, and somebody removes the rows.
    let (table, there) = (world.table.clone(), world.there.clone());
    world.exchange.fault(|request| request.method != datasync_http::Method::Get, datasync_tests::Fault::AnswerLost);
    world.way.meanwhile(async move {
        there.pull_items(there.query()).await.unwrap();
        for id in ["a", "b"] {
            there.delete(id).await.unwrap();
        }
        there.push_items().await.unwrap();
        table.pull_items(pull_only()).await.unwrap();
    });
    world.table.push_items().await.unwrap();
    assert_eq!(world.client.pending().await.unwrap().len(), 2, "in doubt");
    world.table.push_items().await.unwrap();
    world.table.pull_items(world.table.query()).await.unwrap();
    assert!(world.client.pending().await.unwrap().is_empty());
    assert_eq!(service_rows(&world.rows), []);
    assert_eq!(local_rows(&world.table).await, []);
}
