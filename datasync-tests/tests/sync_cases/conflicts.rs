//! Conflicts, as CT's resolvers settle them.

use std::sync::{Arc, Mutex};

use datasync_core::{
    client::{DatasyncClient, PendingState, Resolution, ResolverConflict, TableOptions},
    config::{ConflictPolicy, SyncConfig},
    row::OperationKind,
};
use datasync_http::{HttpTransport, Method};
use datasync_server::{Action, Repository};
use datasync_tests::{Note, Wire, note_of, notes};

use crate::{Differences, World, cases, change, kind, world};

/// What CT calls a resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolver {
    Policy(ConflictPolicy),
    Merges,
    Throws,
}

fn merged() -> Note {
    Note { rank: 5, ..note_of("a", "merged") }
}

/// A world whose conflicts are settled so.
async fn settling(wire: Wire, resolver: Resolver) -> World {
    let policy = if let Resolver::Policy(policy) = resolver { policy } else { ConflictPolicy::Park };
    let world = world(wire, policy).await;
    let Resolver::Policy(_) = resolver else {
        let resolve = move |_: ResolverConflict<Note>| match resolver {
            Resolver::Merges => Ok(Resolution::Merged(merged())),
            _ => Err("it throws".into()),
        };
        let transport = HttpTransport::builder("http://service").retries(0).exchange(world.exchange.clone());
        let builder = DatasyncClient::builder().store(world.store.clone()).transport(transport.build().unwrap());
        let builder = builder.config(SyncConfig::default()).table_with(TableOptions::<Note>::new().resolver(resolve));
        let client = builder.build().await.unwrap();
        return World { table: notes(&client), client, ..world };
    };
    world
}

async fn conflicts_are_resolved_as_in_ct_but_never_without_a_version(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("Add ClientWins", "the second request carries the version just learnt (I18)"),
        ("Replace ClientWins", "the second request carries the version just learnt (I18)"),
        ("Delete ClientWins", "the second request carries the version just learnt (I18)"),
        ("Delete ServerWins", "the service's row is back at once, not when a later pull happens to bring it"),
        (
            "any custom, result Client with merged entity",
            "the second request carries the version just learnt (I18), and one that merges a deletion keeps the row",
        ),
        ("any result Default", "it is a conflict with all its sides, and not sent again before somebody has decided"),
        ("any ClientWins", "after a bounded number of rounds it is parked, with a version: never sent unconditionally"),
        ("any throws", "the conflict is parked, the push is no error, and the rest of the queue is sent"),
    ]);
    for case in cases["conflict_resolution_ct"].as_array().unwrap() {
        let (op, name) = (case["op"].as_str().unwrap(), case["resolver"].as_str().unwrap());
        let resolver = match name {
            "ClientWins" => Resolver::Policy(ConflictPolicy::ClientWins),
            "ServerWins" => Resolver::Policy(ConflictPolicy::ServerWins),
            "result Default" => Resolver::Policy(ConflictPolicy::Park),
            "custom, result Client with merged entity" => Resolver::Merges,
            "throws" => Resolver::Throws,
            other => panic!("a resolver `{other}`"),
        };
        let every = [OperationKind::Insert, OperationKind::Replace, OperationKind::Delete];
        let ops = if op == "any" { every.to_vec() } else { vec![kind(op)] };
        let first =
            case["firstResponse"].as_u64().map_or(vec![409, 412], |status| vec![u16::try_from(status).unwrap()]);
        for op_kind in ops {
            for first in &first {
                let again = case["secondResponse"] == "409/412/any error";
                if settle(wire, resolver, op_kind, *first, again).await {
                    differences.expect(&format!("{op} {name}"));
                }
            }
        }
    }
    differences.end();
}

/// A push that meets a conflict, answered with the status `first`; with `again` somebody writes before each attempt.
/// Returns whether its end is not that of CT.
async fn settle(wire: Wire, resolver: Resolver, op: OperationKind, first: u16, again: bool) -> bool {
    let case = format!("{wire:?} {resolver:?} {op:?} {first} {again}");
    let world = settling(wire, resolver).await;
    world.queue(op, "a").await;
    world.elsewhere("a", Some("theirs")).await;
    let versions = Arc::new(Mutex::new(Vec::new()));
    let (seen, rows) = (Arc::clone(&versions), world.rows.clone());
    world.exchange.before(move |request| {
        if request.method == Method::Get {
            return;
        }
        seen.lock().unwrap().push(request.headers.iter().any(|(name, _)| name == "if-match"));
        if again {
            let record = futures::executor::block_on(rows.read("a")).unwrap().unwrap().record;
            futures::executor::block_on(rows.write(change("a", Action::Replace(record)))).unwrap();
        }
    });
    world.exchange.after(move |response| {
        if matches!(response.status, 409 | 412) {
            response.status = first;
        }
    });
    let report = world.table.push_items().await.unwrap();
    let versions = versions.lock().unwrap().clone();
    let here = world.table.get("a").await.unwrap();
    let parked = matches!(world.pending("a").await, Some((_, PendingState::Conflict(_))));
    let first_has_version = op != OperationKind::Insert;
    let title = here.as_ref().map(|note| note.title.as_str());
    let mine = (op != OperationKind::Delete).then_some("mine");
    match resolver {
        Resolver::Policy(ConflictPolicy::ClientWins) if again => {
            assert!(parked, "{case}");
            assert!(versions.len() > 2 && versions.len() < 10, "{case}");
            assert!(versions[1..].iter().all(|version| *version), "{case}: never without a version");
            assert!(world.row("a").await.unwrap().operations[0].version.is_some() || !first_has_version, "{case}");
            assert_eq!(title, mine, "{case}");
            return true;
        }
        Resolver::Policy(ConflictPolicy::ClientWins) | Resolver::Merges => {
            assert_eq!(versions, [first_has_version, true], "{case}: the second request names what it overwrites");
            assert!(world.row("a").await.is_none_or(|row| row.operations.is_empty()), "{case}");
            match resolver {
                Resolver::Merges => assert_eq!(here, Some(merged()), "{case}"),
                _ => assert_eq!(title, mine, "{case}"),
            }
        }
        Resolver::Policy(ConflictPolicy::ServerWins) => {
            assert_eq!((versions.len(), world.pending("a").await), (1, None), "{case}: one request");
            assert_eq!(title, Some("theirs"), "{case}");
        }
        Resolver::Policy(_) => {
            assert_eq!((report.conflicts, versions.len(), title), (1, 1, mine), "{case}");
            assert!(parked, "{case}");
            assert_eq!(world.table.push_items().await.unwrap().conflicts, 0, "{case}: not sent again");
            return true;
        }
        Resolver::Throws => {
            assert_eq!((report.conflicts, title), (1, mine), "{case}");
            assert!(parked, "{case}");
            rest_is_sent(&world, op).await;
            return true;
        }
    }
    if let Some(here) = world.row("a").await.and_then(|row| row.record) {
        let there = world.rows.read("a").await.unwrap().unwrap().record;
        assert_eq!(here.version, there.version, "{case}: what was answered last is what is here");
    }
    resolver != Resolver::Policy(ConflictPolicy::ServerWins) || op == OperationKind::Delete
}

/// A row whose resolver fails, before and behind others, does not keep them from the service.
async fn rest_is_sent(world: &World, op: OperationKind) {
    world.table.insert(note_of("before", "x")).await.unwrap();
    world.queue(op, "b").await;
    world.elsewhere("b", Some("theirs")).await;
    world.table.insert(note_of("behind", "x")).await.unwrap();
    world.table.push_items().await.unwrap();
    assert!(world.pending("before").await.is_none() && world.pending("behind").await.is_none());
    assert_eq!(world.client.conflicts().await.unwrap().len(), 2);
}

datasync_tests::on_both_wires! {
    conflicts_are_resolved_as_in_ct_but_never_without_a_version
}
