//! What the originals' clients do with their queue, case by case, and where ours does it better: each difference has a
//! name and a reason.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod cases;

use std::sync::{Arc, Mutex};

use cases::{Differences, Movie, World, cases, kind, movies, world};
use datasync_core::{
    client::PendingState,
    config::ConflictPolicy,
    row::{OperationKind, RowKey},
    store::{OperationsRequest, Store},
};
use datasync_http::{HttpRequest, Method};
use datasync_server::{Action, Change, Repository};
use datasync_tests::{Fault, Note, Wire, note_of};

async fn collapse_follows_the_matrices(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("azure: Delete then Insert", "the row comes back as a replace, as in CT: no edit is refused"),
        ("azure: Insert (state Attempted/Failed) then Delete", "the delete is queued behind the insert in doubt"),
    ]);
    for of in ["ct", "azure"] {
        for case in cases["collapse"][of]["rows"].as_array().unwrap() {
            let (old, new) = (case["old"].as_str().unwrap(), case["new"].as_str().unwrap());
            let name = format!("{of}: {old} then {new}");
            let world = world(wire, ConflictPolicy::Park).await;
            world.queue(kind(old), "a").await;
            if old.contains("Attempted") {
                world.exchange.fault(|request| request.method == Method::Post, Fault::AnswerLost);
                world.table.push_items().await.unwrap();
            }
            let done = world.write(kind(new), "a", "newer").await;
            let result = match (done, world.pending("a").await) {
                (Err(_), _) => "error".to_owned(),
                (Ok(()), None) => "none".to_owned(),
                (Ok(()), Some((kind, _))) => format!("{kind:?}"),
            };
            let expected = case["result"].as_str().unwrap().replace("Add", "Insert").replace("Update", "Replace");
            if result != expected {
                differences.expect(&name);
            }
        }
    }
    differences.end();
}

/// What a push did to an operation, to its row here, and to the operation behind it.
struct Pushed {
    result: &'static str,
    before: Option<Note>,
    after: Option<Note>,
    /// Whether the operation behind it was sent.
    went_on: bool,
}

async fn push_with(world: &World, op: OperationKind, response: &str) -> Pushed {
    world.queue(op, "a").await;
    let before = world.table.get("a").await.unwrap();
    let changes = |request: &HttpRequest| request.method != Method::Get;
    match (response, op) {
        ("409" | "412", _) => world.elsewhere("a", Some("theirs")).await,
        ("404", OperationKind::Replace | OperationKind::Delete) => world.elsewhere("a", None).await,
        ("410", _) => {
            let there = world.rows.read("a").await.unwrap().unwrap();
            let record = datasync_core::row::Record { deleted: true, ..there.record };
            let now = jiff::Timestamp::UNIX_EPOCH;
            let change = Change {
                id: "a".into(),
                action: Action::Replace(record),
                expected: None,
                now,
                key: None,
                forget: None,
            };
            world.rows.write(change).await.unwrap();
        }
        ("network error / timeout" | "network error" | "timeout", _) => {
            world.exchange.fault(changes, Fault::AnswerLost);
        }
        ("201" | "200", _) | ("204", OperationKind::Delete) => {}
        (status, _) => world.exchange.fault(changes, Fault::Status(status.parse().unwrap())),
    }
    world.table.insert(note_of("other", "x")).await.unwrap();
    let pushed = world.table.push_items().await;
    let went_on = world.pending("other").await.is_none();
    let result = match (pushed, world.pending("a").await) {
        (_, None) => "completed",
        (Err(_), Some(_)) => "stopped",
        (Ok(_), Some(_)) => "kept",
    };
    Pushed { result, before, after: world.table.get("a").await.unwrap(), went_on }
}

/// Without the extensions: in a batch every operation shares the fate of the request, which the originals do not have.
#[tokio::test]
async fn answers_to_a_push_have_the_effects_of_the_originals() {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("ct: Add 204", "the row is read by id; the push goes on and is saved"),
        ("ct: any 401", "the push ends: what follows would be refused too; the queue stays as it was"),
        ("ct: any network error / timeout", "what was answered is saved, the operation waits, the push goes on"),
        ("azure: any network error", "the operation waits, in doubt, and the push goes on"),
        ("azure: any timeout", "the operation waits, in doubt, and the push goes on"),
    ]);
    for of in ["ct", "azure"] {
        for case in cases["push_outcomes"][of].as_array().unwrap() {
            let (op, response) = (case["op"].as_str().unwrap(), case["response"].to_string().replace('"', ""));
            // Cancellation is I22, which has its own test; a row without its record cannot be: they are one commit (I1).
            if response == "token cancelled" || response == "local row missing" {
                continue;
            }
            let every = [OperationKind::Insert, OperationKind::Replace, OperationKind::Delete];
            let ops = if op == "any" { every.to_vec() } else { vec![kind(op)] };
            let responses = match response.as_str() {
                "5xx" => vec!["500", "503"],
                "400/403/404/405/5xx" => vec!["400", "403", "405", "500"],
                response => vec![response],
            };
            for op_kind in ops {
                for response in &responses {
                    let world = world(Wire::Original, ConflictPolicy::Park).await;
                    let pushed = push_with(&world, op_kind, response).await;
                    let expected = match case["result"].as_str().unwrap() {
                        "completed" => "completed",
                        "exception" | "exception to the caller" | "aborted" => "stopped",
                        _ => "kept",
                    };
                    let name = format!("{of}: {op} {}", case["response"].to_string().replace('"', ""));
                    let went_on = Some(pushed.went_on) == case["pushContinues"].as_bool();
                    if pushed.result != expected || !went_on {
                        differences.expect(&name);
                        continue;
                    }
                    let queue = case["queue"].as_str().unwrap();
                    assert_eq!(queue.starts_with("removed"), expected == "completed", "{name}");
                    let (before, after) = (pushed.before, pushed.after);
                    match case["local"].as_str().unwrap() {
                        "row already gone" => assert!(before.is_none() && after.is_none(), "{name}"),
                        local if local.contains("overwritten") || local.contains("upserted") => {
                            assert_eq!(after.as_ref().map(|note| note.title.as_str()), Some("mine"), "{name}");
                            let there = world.rows.read("a").await.unwrap().unwrap();
                            let stored = world.store.get(&[RowKey::new("note", "a")]).await.unwrap().remove(0).unwrap();
                            assert_eq!(stored.record.unwrap().version, there.record.version, "{name}");
                        }
                        // Nothing is refused for good, so that nothing changes here.
                        _ => assert_eq!(before, after, "{name}"),
                    }
                }
            }
        }
    }
    differences.end();
}

async fn conflicts_are_resolved_as_in_ct_but_never_without_a_version(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("Add ClientWins", "the second request carries the version just learnt (I18)"),
        ("Replace ClientWins", "the second request carries the version just learnt (I18)"),
        ("Delete ClientWins", "the second request carries the version just learnt (I18)"),
        ("Delete ServerWins", "the service's row is back at once, not when a later pull happens to bring it"),
        ("any ClientWins", "after a bounded number of rounds it is parked, with a version: never sent unconditionally"),
        ("any throws", "the conflict is parked and the rest of the queue is sent"),
    ]);
    for case in cases["conflict_resolution_ct"].as_array().unwrap() {
        let (op, resolver) = (case["op"].as_str().unwrap(), case["resolver"].as_str().unwrap());
        let policy = match resolver {
            "ClientWins" => ConflictPolicy::ClientWins,
            "ServerWins" => ConflictPolicy::ServerWins,
            "result Default" => ConflictPolicy::Park,
            // A merged entity, and a resolver that fails: `a_resolver_in_code_merges_and_its_failure_parks`.
            "throws" => {
                differences.expect("any throws");
                continue;
            }
            _ => continue,
        };
        let op_kind = if op == "any" { OperationKind::Replace } else { kind(op) };
        let world = world(wire, policy).await;
        let versions = Arc::new(Mutex::new(Vec::new()));
        world.queue(op_kind, "a").await;
        world.elsewhere("a", Some("theirs")).await;
        let (seen, rows, again) = (Arc::clone(&versions), world.rows.clone(), case["queue"].is_string());
        world.exchange.before(move |request| {
            if request.method == Method::Get {
                return;
            }
            seen.lock().unwrap().push(request.headers.iter().any(|(name, _)| name == "if-match"));
            if again {
                // A third write before each attempt.
                let record = futures::executor::block_on(rows.read("a")).unwrap().unwrap().record;
                let now = jiff::Timestamp::UNIX_EPOCH;
                let change = Change {
                    id: "a".into(),
                    action: Action::Replace(record),
                    expected: None,
                    now,
                    key: None,
                    forget: None,
                };
                futures::executor::block_on(rows.write(change)).unwrap();
            }
        });
        let report = world.table.push_items().await.unwrap();
        let versions = versions.lock().unwrap().clone();
        let here = world.table.get("a").await.unwrap().map(|note| note.title);
        match (policy, op_kind) {
            (ConflictPolicy::ClientWins, _) if again => {
                assert!(matches!(world.pending("a").await, Some((_, PendingState::Conflict(_)))), "parked");
                assert!(versions.len() > 1 && versions.len() < 10 && versions.iter().all(|version| *version));
                differences.expect("any ClientWins");
            }
            (ConflictPolicy::ClientWins, op_kind) => {
                assert_eq!(versions.last(), Some(&true), "the second request names what it overwrites");
                assert!(world.pending("a").await.is_none());
                assert_eq!(here.as_deref(), (op_kind != OperationKind::Delete).then_some("mine"));
                differences.expect(&format!("{op} ClientWins"));
            }
            (ConflictPolicy::ServerWins, op_kind) => {
                assert_eq!((versions.len(), world.pending("a").await), (1, None), "one request");
                assert_eq!(here.as_deref(), Some("theirs"));
                if op_kind == OperationKind::Delete {
                    differences.expect("Delete ServerWins");
                }
            }
            (ConflictPolicy::Park, _) => {
                assert_eq!((report.conflicts, here.as_deref()), (1, Some("mine")));
            }
            (other, _) => panic!("CT has no {other:?}"),
        }
    }
    differences.end();
}

/// The originals ask their queue with a text of OData; ours is asked for what is behind a place, in some tables.
#[tokio::test]
async fn the_queue_is_looked_into_as_by_azures_client() {
    let Some(all) = cases("sync_cases.json") else { return };
    let Some((client, store, _)) = movies(Wire::Original).await else { return };
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
    collapse_follows_the_matrices
    conflicts_are_resolved_as_in_ct_but_never_without_a_version
}
