//! What a purge keeps and forgets.

use datasync_core::{
    client::{PullOptions, PurgeOptions},
    config::ConflictPolicy,
    error::ErrorKind,
    query::Query,
    row::OperationKind,
    store::{DeltaToken, ScopeKey, Store},
};
use datasync_tests::{Note, Wire, local_rows, service_rows};
use serde_json::Value;

use crate::{Differences, World, cases, world};

/// Ten rows that were pulled by the query `abc123`, and with `pending` a change of each that is queued.
async fn pulled(wire: Wire, pending: bool) -> World {
    let world = world(wire, ConflictPolicy::Park).await;
    for number in 0..10 {
        world.elsewhere(&format!("row-{number}"), Some("theirs")).await;
    }
    world.table.pull_items(PullOptions::default().query_id("abc123")).await.unwrap();
    if pending {
        for number in 0..10 {
            world.write(OperationKind::Replace, &format!("row-{number}"), "mine").await.unwrap();
        }
    }
    world
}

/// The token of the only query that was pulled.
async fn token(world: &World, scope: &ScopeKey) -> Option<DeltaToken> {
    world.store.delta_token(scope).await.unwrap()
}

async fn purges_keep_what_was_not_sent_and_forget_tokens_with_their_rows(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("rows 0, queue 0, token dt.test.abc123 KEPT (other query id)", "a token without its rows hides them (I20)"),
        ("matching rows 0, queue 0, token kept", "a token without its rows hides them (I20)"),
        ("token unchanged", "a token goes with its rows: a later pull brings them back (I20)"),
        ("token = now", "a token goes with its rows: a later pull brings them back (I20)"),
        ("token = greatest updatedAt in the table", "what purges nothing leaves every token as it is"),
    ]);
    for case in cases["purge_azure"]["cases"].as_array().unwrap() {
        let (options, expected) = (&case["options"], case["expected"].as_str().unwrap());
        let world = pulled(wire, case["given"].is_null()).await;
        let scope = world.store.scopes("", "note").await.unwrap().remove(0);
        let before = token(&world, &scope).await;
        assert!(before.is_some());
        let differs = match options["timestampUpdatePolicy"].as_str() {
            _ if options["discardPendingOperations"] == true => forced(&world, case, &scope).await,
            None => {
                let error = world.table.purge_items(PurgeOptions::default()).await.unwrap_err();
                assert_eq!((error.kind(), error.pending().len()), (ErrorKind::Pending, 10), "{case}");
                assert_eq!(token(&world, &scope).await, before, "{case}");
                assert_eq!((world.table.count().await.unwrap(), world.client.pending().await.unwrap().len()), (10, 10));
                assert!(expected.contains("unchanged"), "{case}");
                false
            }
            Some(_) if case["given"].as_str().unwrap().contains("no row matches") => {
                let none = Query::<Note>::new().filter(|note| note.rank.gt(100));
                world.table.purge_items(PurgeOptions::default().query(none)).await.unwrap();
                assert_eq!((token(&world, &scope).await, world.table.count().await.unwrap()), (before, 10), "{case}");
                true
            }
            Some(_) => {
                world.table.purge_items(PurgeOptions::default()).await.unwrap();
                assert_eq!((token(&world, &scope).await, world.table.count().await.unwrap()), (None, 0), "{case}");
                !expected.ends_with("(row removed)")
            }
        };
        if differs {
            differences.expect(expected);
        }
        world.table.pull_items(PullOptions::default().query_id("abc123")).await.unwrap();
        assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "{case}: a later pull brings all back");
    }
    differences.end();
}

/// A purge that drops what is queued; returns whether the token's fate is another than there.
async fn forced(world: &World, case: &Value, scope: &ScopeKey) -> bool {
    let options = match case["query"].as_str() {
        Some(query) => PurgeOptions::default().query(query.parse::<Query<Note>>().unwrap()),
        None => PurgeOptions::default(),
    };
    world.table.purge_items(options.force()).await.unwrap();
    assert_eq!(world.table.count().await.unwrap(), 0, "{case}");
    assert!(world.client.pending().await.unwrap().is_empty(), "{case}");
    assert!(token(world, scope).await.is_none(), "{case}");
    !case["expected"].as_str().unwrap().ends_with("token removed")
}

datasync_tests::on_both_wires! {
    purges_keep_what_was_not_sent_and_forget_tokens_with_their_rows
}
