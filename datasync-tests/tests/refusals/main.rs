//! Answers that refuse, that say nothing, or that never come, and what users and others do meanwhile.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod world;

use std::time::Duration;

use datasync_core::{
    client::{Conflict, JournalStep, PendingChange, PendingState, PullOptions, ResetOptions, Resolution},
    events::SyncEvent,
    row::{OperationKind, ParkReason},
    store::Store,
    transport::{PushOutcome, TransportError, TransportErrorKind},
};
use datasync_server::{DatasyncService, MemoryRepository, TableOptions};
use datasync_tests::{MovedClock, Note, RouterExchange, Wire, local_rows, note_of, service_rows};

use futures::{FutureExt, StreamExt};

use crate::world::{World, failed, rejected};

datasync_tests::on_both_stores! {
    i08_an_answer_without_a_reason_parks_under_every_policy
    i08_a_row_that_cannot_be_read_parks
    i11_what_never_answers_parks_once_the_service_answers_others
    i11_nobody_is_parked_while_the_service_fails_everybody
    i05_a_refusal_meets_what_was_edited_meanwhile
    i14_a_refusal_meets_what_a_pull_has_seen
    i14_what_was_not_sent_meets_what_a_pull_has_seen
    i11_a_404_to_a_question_is_not_believed
    i11_every_page_of_the_rows_that_got_a_404_is_read
    i28_a_success_without_a_copy_loses_nothing
    i18_client_wins_counts_attempts_and_not_pulls
    i18_a_change_without_a_version_parks_unless_the_table_has_none
    i08_a_write_that_changes_nothing_leaves_a_refusal_alone
    i08_a_pull_leaves_parked_changes_parked
}

datasync_tests::on_both_stores_extended! {
    i14_a_row_that_is_gone_for_good_is_seen_too
}

const POLICIES: [&str; 5] = ["park", "client-wins", "server-wins", "merge", "last-writer-wins"];

fn policy(name: &str) -> String {
    format!("[sync]\nconflict = '{name}'")
}

async fn only_pending(world: &World) -> PendingChange {
    let mut pending = world.client.pending().await.unwrap();
    assert_eq!(pending.len(), 1, "{pending:?}");
    pending.remove(0)
}

fn pull_only() -> PullOptions<Note> {
    PullOptions::default().no_push()
}

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

async fn only_conflict(world: &World) -> Conflict {
    let mut conflicts = world.client.conflicts().await.unwrap();
    assert_eq!(conflicts.len(), 1);
    conflicts.remove(0)
}

fn titles(conflict: &Conflict) -> [Option<String>; 3] {
    let title = |note: Option<Note>| note.map(|note| note.title);
    [title(conflict.base().unwrap()), title(conflict.local().unwrap()), title(conflict.service().unwrap())]
}

fn texts(of: [&str; 3]) -> [Option<String>; 3] {
    of.map(|text| (!text.is_empty()).then(|| text.to_owned()))
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

/// The other device writes while a change is on its way, and a pull here sees it.
fn seen_meanwhile(world: &World, id: &'static str, title: &'static str) {
    let (table, there) = (world.table.clone(), world.there.clone());
    world.way.meanwhile(async move {
        there.pull_items(there.query()).await.unwrap();
        there.upsert(note_of(id, title)).await.unwrap();
        there.push_items().await.unwrap();
        table.pull_items(pull_only()).await.unwrap();
    });
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

async fn i18_client_wins_counts_attempts_and_not_pulls(store: impl Store, wire: Wire) {
    let world = World::new(store, wire, &policy("client-wins")).await;
    world.shared(&["a"]).await;
    world.table.replace(note_of("a", "mine")).await.unwrap();
    for round in 0..7 {
        world.written_there("a", &format!("theirs {round}")).await;
        world.table.pull_items(pull_only()).await.unwrap();
        assert_eq!(only_pending(&world).await.state, PendingState::Ready, "{round}");
    }
    assert_eq!(world.table.push_items().await.unwrap().pushed, 1);
    assert_eq!(world.title_there("a").as_deref(), Some("mine"));
}

/// Takes every version out of an answer.
fn without_versions(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Object(members) => {
            members.retain(|name, _| !["version", "etag"].contains(&name.to_lowercase().as_str()));
            members.values_mut().for_each(without_versions);
        }
        serde_json::Value::Array(elements) => elements.iter_mut().for_each(without_versions),
        _ => {}
    }
}

async fn i18_a_change_without_a_version_parks_unless_the_table_has_none(store: impl Store + Clone, wire: Wire) {
    for config in ["", "[tables.note]\nunversioned = true"] {
        let world = World::new(store.clone(), wire, config).await;
        let rows = ["edited", "deleted", "both"];
        world.shared(&[]).await;
        world.exchange.after(|answer| {
            answer.headers.retain(|(name, _)| name != "etag");
            if let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(&answer.body) {
                // The capabilities have a version of their own.
                if json.get("tombstoneDays").is_none() {
                    without_versions(&mut json);
                    answer.body = serde_json::to_vec(&json).unwrap();
                }
            }
        });
        world.table.insert_all(rows.map(|id| note_of(id, "base"))).await.unwrap();
        assert_eq!(world.table.push_items().await.unwrap().pushed, 3, "an insert needs none");
        world.table.pull_items(world.table.query()).await.unwrap();
        world.table.replace(note_of("edited", "mine")).await.unwrap();
        world.table.delete("deleted").await.unwrap();
        world.way.sent();
        let mut events = world.client.events();
        let report = world.table.push_items().await.unwrap();
        if config.is_empty() {
            assert_eq!((report.parked, report.pushed), (2, 0), "{report:?}");
            assert_eq!(world.way.sent(), []);
            let told = std::iter::from_fn(|| events.next().now_or_never().flatten());
            assert_eq!(told.filter(|event| matches!(event, SyncEvent::ItemParked { .. })).count(), 2);
            let noted = world.client.journal(None, 10).await.unwrap();
            assert!(noted.iter().any(|entry| entry.step == JournalStep::Parked), "{noted:?}");
            let pending = world.client.pending().await.unwrap();
            assert!(
                matches!(&pending[0].state, PendingState::Parked(why) if why.contains("`unversioned`")),
                "{pending:?}"
            );
            world.client.reset(ResetOptions::everything().force()).await.unwrap();
            continue;
        }
        assert_eq!((report.parked, report.pushed), (0, 2), "{report:?}");
        assert_eq!(world.title_there("edited").as_deref(), Some("mine"));
        assert_eq!(world.title_there("deleted"), None);
        // A pull tells by the time that both sides have changed a row.
        world.clock.advance(Duration::from_secs(60));
        world.rows.seed(serde_json::json!([{ "id": "both", "title": "theirs", "rank": 0 }])).unwrap();
        world.table.replace(note_of("both", "mine")).await.unwrap();
        world.table.pull_items(pull_only()).await.unwrap();
        assert_eq!(titles(&only_conflict(&world).await), texts(["base", "mine", "theirs"]));
        let conflict = only_conflict(&world).await;
        world.client.resolve::<Note>(&conflict, Resolution::Keep).await.unwrap();
        assert_eq!(world.table.push_items().await.unwrap().pushed, 1);
        assert_eq!(world.title_there("both").as_deref(), Some("mine"));
    }
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
