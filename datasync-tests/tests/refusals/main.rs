//! Answers that refuse, that say nothing, or that never come.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod meanwhile;
mod versions;
mod world;

use std::time::Duration;

use datasync_core::{
    client::{PendingState, ResetOptions},
    row::{OperationKind, ParkReason},
    store::Store,
    transport::{PushOutcome, TransportError, TransportErrorKind},
};
use datasync_tests::{Note, Wire, local_rows, note_of, service_rows};

use crate::world::{World, failed, only_conflict, only_pending, policy, pull_only, rejected, seen_meanwhile};

datasync_tests::on_both_stores! {
    i08_an_answer_without_a_reason_parks_under_every_policy
    i08_a_row_that_cannot_be_read_parks
    i11_what_never_answers_parks_once_the_service_answers_others
    i11_nobody_is_parked_while_the_service_fails_everybody
    i11_a_404_to_a_question_is_not_believed
    i11_every_page_of_the_rows_that_got_a_404_is_read
    i28_a_success_without_a_copy_loses_nothing
    i08_a_write_that_changes_nothing_leaves_a_refusal_alone
    i08_a_pull_leaves_parked_changes_parked
}

const POLICIES: [&str; 5] = ["park", "client-wins", "server-wins", "merge", "last-writer-wins"];

async fn i08_an_answer_without_a_reason_parks_under_every_policy(store: impl Store + Clone, wire: Wire) {
    for name in POLICIES {
        let world = World::new(store.clone(), wire, &policy(name)).await;
        answers_without_a_reason(&world, name).await;
        // The next service is another one.
        world.client.reset(ResetOptions::everything()).await.unwrap();
    }
}

async fn answers_without_a_reason(world: &World, name: &str) {
    world.shared(&["edited", "deleted"]).await;
    world.table.insert(note_of("new", "mine")).await.unwrap();
    world.table.replace(note_of("edited", "mine")).await.unwrap();
    world.table.delete("deleted").await.unwrap();
    for outcome in [|| PushOutcome::Conflict(None), || PushOutcome::Applied(None)] {
        // "Done" is all that a deletion can be told.
        let answer = move |kind, outcome: PushOutcome| match (kind, &outcome) {
            (OperationKind::Delete, PushOutcome::Applied(_)) => PushOutcome::Conflict(None),
            _ => outcome,
        };
        world.way.answer(move |operation| Some(answer(operation.kind, outcome())));
        world.way.sent();
        let report = world.table.push_items().await.unwrap();
        assert_eq!((report.parked, report.conflicts, report.settled), (3, 0, 0), "{name}: {report:?}");
        assert_eq!(world.way.sent().len(), 18, "{name}: the first attempt, and five more, for each");
        let pending = world.client.pending().await.unwrap();
        assert!(pending.iter().all(|change| change.reason == Some(ParkReason::Refused) && !change.in_doubt), "{name}");
        assert_eq!(world.title("new").await.as_deref(), Some("mine"), "{name}");
        assert_eq!(world.title("edited").await.as_deref(), Some("mine"), "{name}");
        assert_eq!(world.title("deleted").await, None, "{name}");
        assert!(world.lost().await.is_empty(), "{name}: nobody else has written anything");
        for change in pending {
            world.client.retry("note", &change.id).await.unwrap();
        }
    }
    world.way.mend();
    assert_eq!(world.table.push_items().await.unwrap().pushed, 3, "{name}");
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "{name}");
}

async fn i08_a_row_that_cannot_be_read_parks(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, "[sync]\nwave_size = 1").await;
    world.shared(&["bad", "good"]).await;
    // Done, without a copy, and the row may not be read by its id.
    world.way.answer(|operation| (*operation.id == *"bad").then_some(PushOutcome::Conflict(None)));
    world.way.answer_fetch(|request| {
        let error = || TransportError::new(TransportErrorKind::Forbidden, "not this one").with_status(403);
        (*request.id == *"bad").then(|| Err(error()))
    });
    world.table.replace(note_of("bad", "mine")).await.unwrap();
    for round in 0..10 {
        assert!(matches!(only_pending(&world).await.state, PendingState::Ready | PendingState::Waiting(_)), "{round}");
        world.clock.advance(Duration::from_secs(1));
        world.table.replace(note_of("good", &format!("{round}"))).await.unwrap();
        world.table.push_items().await.unwrap();
    }
    let parked = only_pending(&world).await;
    assert_eq!((parked.reason, parked.in_doubt), (Some(ParkReason::Exhausted), true), "{parked:?}");
    world.way.mend();
    world.client.retry("note", "bad").await.unwrap();
    world.table.push_items().await.unwrap();
    assert_eq!(world.title_there("bad").as_deref(), Some("mine"));
}

async fn i11_what_never_answers_parks_once_the_service_answers_others(store: impl Store, wire: Wire) {
    for kind in [TransportErrorKind::Timeout, TransportErrorKind::Interrupted, TransportErrorKind::Server] {
        let world = World::new(datasync_tests::MemoryStore::new(), wire, "[sync]\nwave_size = 1").await;
        never_answered(&world, kind).await;
    }
    // One that asks for patience is never given up.
    let world = World::new(store, wire, "[sync]\nwave_size = 1").await;
    world.way.answer(|operation| (*operation.id == *"bad").then(|| failed(TransportErrorKind::Throttled, Some(429))));
    world.table.insert(note_of("bad", "mine")).await.unwrap();
    for round in 0..12 {
        world.clock.advance(Duration::from_secs(3_600));
        world.table.push_items().await.unwrap();
        world.table.upsert(note_of("good", &format!("{round}"))).await.unwrap();
        world.table.push_items().await.unwrap();
    }
    assert!(matches!(only_pending(&world).await.state, PendingState::Waiting(_)));
}

async fn never_answered(world: &World, kind: TransportErrorKind) {
    world.shared(&["bad", "good"]).await;
    world.way.answer(move |operation| (*operation.id == *"bad").then(|| failed(kind, None)));
    world.table.replace(note_of("bad", "mine")).await.unwrap();
    let mut keys = Vec::new();
    // It is the first of its push, so that nothing of the same push was answered before.
    for round in 0..12 {
        world.clock.advance(Duration::from_secs(1));
        world.table.replace(note_of("good", &format!("{round}"))).await.unwrap();
        world.table.push_items().await.unwrap();
        keys.extend(world.way.sent().into_iter().filter(|(_, id, _)| id == "bad").map(|(_, _, key)| key));
    }
    let parked = only_pending(world).await;
    assert_eq!((parked.reason, parked.in_doubt), (Some(ParkReason::Exhausted), true), "{kind:?}: {parked:?}");
    assert_eq!(keys.len(), 10, "{kind:?}");
    keys.dedup();
    world.way.mend();
    world.client.retry("note", "bad").await.unwrap();
    world.table.push_items().await.unwrap();
    let again: Vec<String> = world.way.sent().into_iter().map(|(_, _, key)| key).collect();
    assert_eq!(again, keys, "{kind:?}: it is in doubt, and sent as it was");
    assert_eq!(world.title_there("bad").as_deref(), Some("mine"));
}

async fn i11_nobody_is_parked_while_the_service_fails_everybody(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, "").await;
    world.shared(&["one", "two", "bad"]).await;
    for id in ["one", "two", "bad"] {
        world.table.replace(note_of(id, "mine")).await.unwrap();
    }
    world.way.answer(|_| Some(failed(TransportErrorKind::Server, Some(500))));
    for _ in 0..12 {
        world.clock.advance(Duration::from_secs(60));
        let report = world.table.push_items().await.unwrap();
        assert_eq!((report.parked, report.pushed), (0, 0), "{report:?}");
    }
    world.way.answer(|operation| (*operation.id == *"bad").then(|| failed(TransportErrorKind::Server, Some(500))));
    let report = world.table.push_items().await.unwrap();
    assert_eq!((report.pushed, report.parked), (2, 1), "{report:?}");
    assert_eq!(only_pending(&world).await.reason, Some(ParkReason::Exhausted));
}

async fn i11_a_404_to_a_question_is_not_believed(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, &policy("server-wins")).await;
    let ids = ["answered", "unanswered", "discarded", "verified"];
    world.shared(&ids).await;
    world.way.answer_fetch(|_| Some(Ok(None)));
    // A success of which a pull has seen another version.
    world.table.replace(note_of("answered", "mine")).await.unwrap();
    seen_meanwhile(&world, "answered", "theirs");
    world.table.push_items().await.unwrap();
    assert_eq!(world.title("answered").await, world.title_there("answered"));
    // A success without a copy.
    world.table.replace(note_of("unanswered", "mine")).await.unwrap();
    world.way.answer(|_| Some(PushOutcome::Applied(None)));
    world.table.push_items().await.unwrap();
    assert_eq!(only_pending(&world).await.reason, Some(ParkReason::Refused), "the row is as it was");
    world.client.discard("note", "unanswered").await.unwrap();
    // A deletion in doubt that never arrived.
    world.table.delete("discarded").await.unwrap();
    world.way.answer(|_| Some(failed(TransportErrorKind::Interrupted, None)));
    world.table.push_items().await.unwrap();
    world.client.discard("note", "discarded").await.unwrap();
    assert_eq!(world.title("discarded").await.as_deref(), Some("base"));
    // A row that a comparison finds changed.
    world.way.answer(|_| None);
    world.written_there("verified", "theirs").await;
    assert_eq!(world.table.verify_items(world.table.query()).await.unwrap().removed, 0);
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
    assert_eq!(local_rows(&world.table).await.len(), ids.len());
    // One that is really gone is gone.
    world.rows.lose("verified");
    world.table.replace(note_of("verified", "mine")).await.unwrap();
    world.table.push_items().await.unwrap();
    assert_eq!(world.title("verified").await, None);
}

async fn i11_every_page_of_the_rows_that_got_a_404_is_read(store: impl Store, wire: Wire) {
    // Pages of ten rows, and questions for fifty.
    let world = World::new(store, wire, "[sync]\npage_size = 10\nwave_size = 200").await;
    let ids: Vec<String> = (0..120).map(|number| format!("{number:03}")).collect();
    world.shared(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for id in &ids {
        world.table.replace(note_of(id, "mine")).await.unwrap();
    }
    for id in ids.iter().step_by(4) {
        world.rows.lose(id);
    }
    world.way.answer(|_| Some(PushOutcome::NotFound));
    let before = world.exchange.requests.load(std::sync::atomic::Ordering::SeqCst);
    let report = world.table.push_items().await.unwrap();
    let asked = world.exchange.requests.load(std::sync::atomic::Ordering::SeqCst) - before;
    assert_eq!((report.conflicts, report.waiting), (30, 90), "{report:?}");
    assert_eq!(asked, 10, "three questions of four, four and two pages, and not one for each row");
    let gone = world.client.conflicts().await.unwrap();
    assert!(gone.iter().all(|conflict| conflict.id().parse::<u32>().unwrap() % 4 == 0));
}

async fn i28_a_success_without_a_copy_loses_nothing(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, "").await;
    world.shared(&["theirs", "same-field"]).await;
    // Somebody else has written, and something on the way has said "done".
    let theirs = Note { rank: 7, ..note_of("theirs", "base") };
    world.there.replace(theirs).await.unwrap();
    world.written_there("same-field", "theirs").await;
    world.table.replace(note_of("theirs", "mine")).await.unwrap();
    world.table.replace(note_of("same-field", "mine")).await.unwrap();
    world.way.answer(|_| Some(PushOutcome::Applied(None)));
    world.table.push_items().await.unwrap();
    assert_eq!(only_conflict(&world).await.id(), "theirs", "the title is as it was: it was not done");
    assert_eq!(world.title("same-field").await.as_deref(), Some("theirs"));
    assert_eq!(world.lost().await, ["mine"], "the service may have made it of ours");
}

async fn i08_a_write_that_changes_nothing_leaves_a_refusal_alone(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, "").await;
    world.way.answer(|_| Some(rejected(422)));
    world.table.insert(note_of("a", "mine")).await.unwrap();
    world.table.push_items().await.unwrap();
    world.table.replace(Note { scroll: Some(9), ..note_of("a", "mine") }).await.unwrap();
    assert_eq!(only_pending(&world).await.status, Some(422));
    world.way.sent();
    world.table.push_items().await.unwrap();
    assert_eq!(world.way.sent(), [], "nothing that the service would see has changed");
    assert_eq!(world.table.get("a").await.unwrap().unwrap().scroll, Some(9));
    world.table.replace(Note { scroll: Some(9), ..note_of("a", "mended") }).await.unwrap();
    assert_eq!(only_pending(&world).await.state, PendingState::Ready);
}

async fn i08_a_pull_leaves_parked_changes_parked(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, &policy("client-wins")).await;
    world.shared(&["a"]).await;
    world.way.answer(|_| Some(rejected(422)));
    world.table.replace(note_of("a", "refused")).await.unwrap();
    world.table.push_items().await.unwrap();
    world.written_there("a", "theirs").await;
    world.table.pull_items(pull_only()).await.unwrap();
    let parked = only_pending(&world).await;
    assert_eq!((parked.reason, parked.status), (Some(ParkReason::Refused), Some(422)), "nobody has decided about it");
    world.way.mend();
    world.client.retry("note", "a").await.unwrap();
    assert_eq!(world.table.push_items().await.unwrap().pushed, 1, "over the version that the pull has learnt");
    assert_eq!(world.title_there("a").as_deref(), Some("refused"));
}
