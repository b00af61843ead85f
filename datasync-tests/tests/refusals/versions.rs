//! Which version a change is sent with, and a service that gives none (I18).

use std::time::Duration;

use datasync_core::{
    client::{JournalStep, PendingState, ResetOptions, Resolution},
    events::SyncEvent,
    store::Store,
};
use datasync_tests::{Note, Wire, note_of};
use futures::{FutureExt, StreamExt};

use crate::world::{World, only_conflict, only_pending, policy, pull_only, texts, titles};

datasync_tests::on_both_stores! {
    i18_client_wins_counts_attempts_and_not_pulls
    i18_a_change_without_a_version_parks_unless_the_table_has_none
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
