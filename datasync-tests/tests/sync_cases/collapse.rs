//! Changes of a row that has one queued, and the queue as it is looked into.

use std::sync::Arc;

use datasync_core::{
    config::ConflictPolicy,
    row::{Hold, OperationKind, Row, RowKey},
    store::{OperationsRequest, Store},
};
use datasync_http::Method;
use datasync_tests::{Fault, Note, Wire, note_of};
use serde_json::Value;

use crate::{Differences, Movie, World, cases, kind, movies, world};

/// What is known of the effect of the queued change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    New,
    Refused,
    InDoubt,
}

/// What is queued after the second change.
#[derive(Debug, PartialEq, Eq)]
struct Collapsed {
    /// `error`, `none`, or the kind.
    result: String,
    /// Whether its place in the queue is the first one's.
    place_kept: bool,
}

impl Collapsed {
    fn of_theirs(case: &Value) -> Collapsed {
        let result = case["result"].as_str().unwrap().replace("Add", "Insert").replace("Update", "Replace");
        let place_kept = !case["sequence"].as_str().is_some_and(|sequence| sequence.starts_with("new"));
        Collapsed { result, place_kept }
    }

    fn of_ours(failed: bool, before: &Row, after: Option<&Row>) -> Collapsed {
        let last = after.and_then(|row| row.operations.last());
        let result = match last {
            _ if failed => "error".to_owned(),
            None => "none".to_owned(),
            Some(last) => format!("{:?}", last.kind),
        };
        let place_kept = failed || last.is_none_or(|last| last.place == before.operations[0].place);
        Collapsed { result, place_kept }
    }
}

async fn queued(world: &World, kind: OperationKind, known: Known) -> Row {
    world.queue(kind, "a").await;
    let changes: datasync_tests::Wanted = |request| request.method != Method::Get;
    match known {
        Known::New => {}
        Known::Refused => world.exchange.fault(changes, Fault::Status(400)),
        Known::InDoubt => world.exchange.fault(changes, Fault::AnswerLost),
    }
    if known != Known::New {
        world.table.push_items().await.unwrap();
    }
    let row = world.row("a").await.unwrap();
    assert_eq!(row.operations[0].in_doubt(), known == Known::InDoubt);
    row
}

async fn changes_of_one_row_collapse_as_in_the_originals(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("azure: Update then Delete, New", "the deletion keeps the earliest place (I7)"),
        ("azure: Update then Delete, Refused", "the deletion keeps the earliest place (I7)"),
        ("azure: Delete then Insert, New", "the row comes back as a replace, as in CT: no edit is refused"),
        ("azure: Delete then Insert, Refused", "the row comes back as a replace, as in CT: no edit is refused"),
        ("azure: Delete then Insert, InDoubt", "the row comes back, behind the deletion in doubt"),
        (
            "azure: Insert (state Attempted/Failed) then Delete, Refused",
            "what was refused is certainly not there: nothing is left to send",
        ),
        (
            "azure: Insert (state Attempted/Failed) then Delete, InDoubt",
            "the row may be there: the deletion is queued behind the insert",
        ),
        ("azure: Insert then Update, InDoubt", "what is in doubt is frozen, and the edit goes behind it (I5)"),
        ("azure: Update then Update, InDoubt", "what is in doubt is frozen, and the edit goes behind it (I5)"),
        ("ct: Add then Replace, InDoubt", "what is in doubt is frozen, and the edit goes behind it (I5)"),
        ("ct: Add then Delete, InDoubt", "the row may be there: the deletion is sent (I6), and no orphan stays"),
        ("ct: Replace then Replace, InDoubt", "what is in doubt is frozen, and the edit goes behind it (I5)"),
        ("ct: Replace then Delete, InDoubt", "what is in doubt is frozen, and the deletion goes behind it (I5)"),
        ("ct: Delete then Add, InDoubt", "what is in doubt is frozen, and the row goes behind it (I5)"),
    ]);
    for of in ["ct", "azure"] {
        for case in cases["collapse"][of]["rows"].as_array().unwrap() {
            let (old, new) = (case["old"].as_str().unwrap(), case["new"].as_str().unwrap());
            let every: &[Known] = match old {
                "Insert (state Pending)" => &[Known::New],
                "Insert (state Attempted/Failed)" => &[Known::Refused, Known::InDoubt],
                _ => &[Known::New, Known::Refused, Known::InDoubt],
            };
            for known in every {
                let name = format!("{of}: {old} then {new}, {known:?}");
                let world = world(wire, ConflictPolicy::Park).await;
                let before = queued(&world, kind(old), *known).await;
                let done = world.write(kind(new), "a", "newer").await;
                let after = world.row("a").await;
                let (theirs, ours) =
                    (Collapsed::of_theirs(case), Collapsed::of_ours(done.is_err(), &before, after.as_ref()));
                if theirs != ours {
                    differences.expect(&name);
                }
                match after {
                    Some(after) if done.is_ok() => is_sent_next(&name, *known, kind(new), &before, &after),
                    after => {
                        assert!(done.is_ok() || after.as_ref() == Some(&before), "{name}: an error changes nothing")
                    }
                }
            }
        }
    }
    differences.end();
}

/// What the tables of both have of a change that is not refused: it is pending, with the content of the second one and the
/// version that the first one started from.
fn is_sent_next(name: &str, known: Known, new: OperationKind, before: &Row, after: &Row) {
    let last = after.operations.last().unwrap();
    assert_eq!(last.hold, Hold::Ready, "{name}");
    assert!(after.revision > before.revision, "{name}");
    let copy = |row: &Row| row.base.clone().filter(|base| !base.deleted);
    assert_eq!(copy(after), copy(before), "{name}: what a discard goes back to");
    let title = after.record.as_ref().map(|record| {
        let note: Note = serde_json::from_slice(record.body.as_bytes()).unwrap();
        note.title
    });
    assert_eq!(title.as_deref(), (new != OperationKind::Delete).then_some("newer"), "{name}");
    if known == Known::InDoubt {
        assert_eq!(after.operations[0], before.operations[0], "{name}: it is frozen");
        assert_eq!(after.operations.len(), 2, "{name}");
    } else {
        assert_eq!(last.version, before.operations[0].version, "{name}");
        assert_eq!(after.operations.len(), 1, "{name}");
    }
}

/// The originals ask their queue with a text of OData; ours is asked for what is behind a place, in some tables.
#[tokio::test]
async fn the_queue_is_looked_into_as_by_azures_client() {
    let Some(all) = cases("sync_cases.json") else { return };
    let Some((client, store, _)) = movies(Wire::Original, 1).await else { return };
    let (movie, note) = (client.offline_table::<Movie>(), client.offline_table::<Note>());
    for number in 0..300 {
        let id = format!("{number:03}");
        movie.insert(Movie { id: id.clone(), ..Movie::default() }).await.unwrap();
        note.insert(note_of(&id, "x")).await.unwrap();
    }
    let every = OperationsRequest { account: "".into(), tables: None, after: 0, limit: usize::MAX };
    let queue = store.operations(&every).await.unwrap();
    assert_eq!(queue.len(), 600);
    let cases = &all["queue_peek_azure"];
    assert_eq!(cases["orderby"], "sequence");
    for case in cases["rows"].as_array().unwrap() {
        let ours = |name: &str| if name == "movies" { "movie" } else { "note" };
        let tables: Option<Vec<&str>> =
            case["tables"].as_array().map(|tables| tables.iter().map(|name| ours(name.as_str().unwrap())).collect());
        let after = case["after"].as_u64().unwrap();
        let limit = cases["top"].as_u64().unwrap() as usize;
        let is_wanted = |table: &str| tables.as_ref().is_none_or(|tables| tables.contains(&table));
        let behind = queue.iter().filter(|one| one.operation.place > after && is_wanted(&one.key.table));
        let expected: Vec<&RowKey> = behind.take(limit).map(|one| &one.key).collect();
        assert_eq!(expected.len(), 1, "{case}");
        let tables = tables.map(|tables| tables.into_iter().map(Arc::from).collect());
        let request = OperationsRequest { account: "".into(), tables, after, limit };
        let found = store.operations(&request).await.unwrap();
        assert_eq!(found.iter().map(|one| &one.key).collect::<Vec<_>>(), expected, "{case}");
    }
}

datasync_tests::on_both_wires! {
    changes_of_one_row_collapse_as_in_the_originals
}
