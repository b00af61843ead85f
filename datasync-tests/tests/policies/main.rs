//! Conflicts as the configuration, the derive and code settle them.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod sums;
mod times;
mod world;

use std::sync::{Arc, Mutex};

use datasync_core::{
    client::{DatasyncClient, Resolution, ResolverConflict, TableOptions},
    config::SyncConfig,
    entity::SyncEntity as _,
    error::ErrorKind,
    row::{OperationKind, Side},
    store::Store,
};
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_tests::{Fault, MemoryStore, Wire, on_both_stores, on_both_stores_extended};
use jiff::SignedDuration;

use self::world::{Card, Dated, Device, NO, Plain, World, card, of, plain, two};

on_both_stores! {
    config_alone_switches_a_table_from_park_to_merge
    i17_a_merge_follows_the_rules_and_both_devices_agree
    i18_no_policy_sends_a_change_without_a_version
    a_merge_without_a_rule_falls_back_for_that_field_alone
    a_deletion_meets_a_change
    i28_what_a_merge_leaves_out_is_kept
    i16_resolutions_keep_fields_that_this_build_does_not_know
    a_resolver_sees_both_sides_and_may_end_a_conflict_in_any_way
    i28_a_second_edit_never_overwrites_what_nobody_here_has_seen
}

on_both_stores_extended! {
    a_merge_that_cannot_be_read_is_parked
}

async fn config_alone_switches_a_table_from_park_to_merge(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[sync]\nconflict = 'park'").await;
    let merging = "[sync]\nconflict = 'park'\n[tables.card]\nconflict = 'merge'";
    let merging = world.device(MemoryStore::new(), merging, NO).await;
    merging.sync().await;
    there
        .cards()
        .replace(Card { place: "theirs".to_owned(), ..there.cards().get("1").await.unwrap().unwrap() })
        .await
        .unwrap();
    there.sync().await;
    for device in [&here, &merging] {
        let card = device.cards().get("1").await.unwrap().unwrap();
        device.cards().replace(Card { title: "ours".to_owned(), ..card }).await.unwrap();
        device.sync().await;
    }
    assert_eq!(here.client.conflicts().await.unwrap().len(), 1, "parked");
    assert!(merging.client.conflicts().await.unwrap().is_empty(), "merged");
    let merged = of::<Card>(&world.cards, "1");
    assert_eq!((merged.title.as_str(), merged.place.as_str()), ("ours", "theirs"));
}

#[test]
fn a_configuration_says_what_it_does_not_know() {
    let cases = [
        ("[sync]\nconflict = 'newest'", "park client-wins server-wins merge last-writer-wins"),
        ("[tables.card]\nconflict = 'clientwins'", "park client-wins server-wins merge last-writer-wins"),
        ("[tables.card]\nfallback = 'max'", "park client-wins server-wins merge last-writer-wins"),
        ("[tables.card]\nfallback = 'merge'", "fallback park client-wins server-wins last-writer-wins"),
        ("[tables.card.merge]\nrating = 'avg'", "client server max min sum union"),
        ("[tables.card.merge]\nratings = 'max'", "card.ratings title place rating count tags text"),
        ("[tables.card.merge]\nopen = 'client'", "card.open title place rating"),
        ("[tables.card.merge]\nversion = 'client'", "card.version title place rating"),
        ("[tables.card.merge]\ntitle = 'sum'", "card.title numbers text"),
        ("[tables.card.merge]\nrating = 'union'", "card.rating lists i64"),
        ("[tables.card.merge]\ntags = 'max'", "card.tags order json"),
        ("[tables.dated.merge]\nchanged = 'min'", "dated.changed later"),
        ("[tables.cards]\nconflict = 'merge'", "cards card, dated, plain"),
        ("[tables.card]\nconflicts = 'merge'", "conflicts conflict fallback merge"),
        ("[sync]\nloser_age = '1m'", "loser_age 1h"),
        ("[sync]\nloser_age = 'soon'", "soon 30s"),
    ];
    for (config, words) in cases {
        let built = SyncConfig::from_toml(config).map(|config| {
            let transport = HttpTransport::new("http://service").unwrap();
            let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport).config(config);
            let builder = builder.table::<Card>().table::<Dated>().table::<Plain>();
            futures::executor::block_on(builder.build()).map(drop)
        });
        let error = built.and_then(|built| built).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{config}");
        for word in words.split(' ') {
            assert!(error.to_string().contains(word), "{config}: {error}");
        }
    }
    assert_eq!(SyncConfig::from_toml("[sync]\nloser_age = '30d'").unwrap(), SyncConfig::default());
}

async fn i17_a_merge_follows_the_rules_and_both_devices_agree(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let config = "[tables.card]\nconflict = 'merge'\n[tables.card.merge]\ncount = 'max'\ntitle = 'client'";
    let (here, there) = two(&world, store, config).await;
    let (ours, theirs) =
        (here.cards().get("1").await.unwrap().unwrap(), there.cards().get("1").await.unwrap().unwrap());
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
    there
        .cards()
        .replace(Card {
            title: "theirs".to_owned(),
            place: "theirs".to_owned(),
            rating: 4,
            count: 9,
            tags: tags(&["a", "b"]),
            text: "base+theirs".to_owned(),
            ..theirs
        })
        .await
        .unwrap();
    there.sync().await;
    here.cards()
        .replace(Card {
            title: "ours".to_owned(),
            rating: 3,
            count: 7,
            tags: tags(&["c"]),
            text: "base+ours".to_owned(),
            open: true,
            ..ours
        })
        .await
        .unwrap();
    here.sync().await;
    there.sync().await;
    let expected = Card {
        title: "ours".to_owned(),
        place: "theirs".to_owned(),
        rating: 4,
        count: 9,
        tags: tags(&["b", "c"]),
        text: "base+theirs+ours".to_owned(),
        ..card("1")
    };
    assert_eq!(of::<Card>(&world.cards, "1"), expected, "the configuration's rules over those of the derive");
    assert_eq!(there.cards().get("1").await.unwrap().unwrap(), expected);
    assert_eq!(here.cards().get("1").await.unwrap().unwrap(), Card { open: true, ..expected });
    assert!(here.client.pending().await.unwrap().is_empty());
}

async fn i18_no_policy_sends_a_change_without_a_version(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.device(store, "[tables.plain]\nconflict = 'client-wins'", NO).await;
    let policies = ["merge", "last-writer-wins", "server-wins"];
    let there = world.device(MemoryStore::new(), "[sync]\nconflict = 'client-wins'", NO).await;
    let mut devices = vec![here];
    for policy in policies {
        let config = format!("[sync]\nconflict = '{policy}'\nfallback = 'client-wins'");
        devices.push(world.device(MemoryStore::new(), &config, NO).await);
    }
    there.plain().insert(plain("1", "base")).await.unwrap();
    there.plain().insert(plain("2", "base")).await.unwrap();
    there.sync().await;
    for (turn, device) in devices.iter().enumerate() {
        device.sync().await;
        there.sync().await;
        for id in ["1", "2"] {
            world.clock.advance(SignedDuration::from_secs(5));
            there.plain().replace(plain(id, "theirs")).await.unwrap();
            there.sync().await;
            there.plain().replace(plain(id, "base")).await.unwrap();
            there.sync().await;
        }
        world.clock.advance(SignedDuration::from_secs(5));
        device.plain().replace(plain("1", &format!("ours {turn}"))).await.unwrap();
        device.plain().delete("2").await.unwrap();
        let versions = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&versions);
        let check = move |request: &HttpRequest| {
            if matches!(request.method, Method::Put | Method::Delete) {
                assert!(request.headers.iter().any(|(name, _)| name == "if-match"), "never without a version");
                *seen.lock().unwrap() += 1;
            }
        };
        device.exchange.before(check);
        device.sync().await;
        assert!(wire.extended() || *versions.lock().unwrap() >= 2, "both were sent");
        assert!(device.client.pending().await.unwrap().is_empty());
        there.sync().await;
        there.plain().upsert(plain("2", "base")).await.unwrap();
        there.sync().await;
    }
}

async fn a_merge_without_a_rule_falls_back_for_that_field_alone(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let config = "[sync]\nconflict = 'merge'\nfallback = 'server-wins'";
    let (here, there) = two(&world, store, config).await;
    there
        .cards()
        .replace(Card { title: "theirs".to_owned(), ..there.cards().get("1").await.unwrap().unwrap() })
        .await
        .unwrap();
    there.sync().await;
    let ours = here.cards().get("1").await.unwrap().unwrap();
    here.cards().replace(Card { title: "ours".to_owned(), place: "ours".to_owned(), ..ours }).await.unwrap();
    here.sync().await;
    let merged = of::<Card>(&world.cards, "1");
    assert_eq!((merged.title.as_str(), merged.place.as_str()), ("theirs", "ours"));
    assert_eq!(here.losers().await, [(Side::Local, "ours".to_owned())]);

    let parks = world.device(MemoryStore::new(), "[sync]\nconflict = 'merge'", NO).await;
    parks.sync().await;
    there.sync().await;
    there.cards().replace(Card { title: "again".to_owned(), ..merged.clone() }).await.unwrap();
    there.sync().await;
    parks.cards().replace(Card { title: "mine".to_owned(), rating: 9, ..merged }).await.unwrap();
    parks.sync().await;
    let parked = parks.client.conflicts().await.unwrap().pop().unwrap();
    assert_eq!(parked.reason(), "both sides have changed `title`", "it says what somebody has to decide about");
    let error = parks.client.resolve::<Card>(&parked, Resolution::Merge).await.unwrap_err();
    assert_eq!((error.kind(), error.conflict()), (ErrorKind::Undecided, Some(&parked)));
    assert!(error.to_string().contains("`title`"));
    parks.client.resolve::<Card>(&parked, Resolution::LastWriterWins).await.unwrap();
    parks.sync().await;
    assert!(parks.client.conflicts().await.unwrap().is_empty());
}

async fn a_deletion_meets_a_change(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let config = "[tables.plain]\nconflict = 'merge'\nfallback = 'client-wins'";
    let here = world.device(store, config, NO).await;
    let there = world.device(MemoryStore::new(), config, NO).await;
    for id in ["1", "2", "3", "4"] {
        here.plain().insert(plain(id, "base")).await.unwrap();
    }
    here.sync().await;
    there.sync().await;
    there.plain().replace(plain("1", "theirs")).await.unwrap();
    there.plain().delete("2").await.unwrap();
    there.plain().delete("3").await.unwrap();
    for title in ["touched", "base"] {
        there.plain().replace(plain("4", title)).await.unwrap();
        there.sync().await;
    }
    here.plain().delete("1").await.unwrap();
    here.plain().replace(plain("2", "ours")).await.unwrap();
    for title in ["touched", "base"] {
        here.plain().replace(plain("3", title)).await.unwrap();
    }
    here.plain().delete("4").await.unwrap();
    here.sync().await;
    there.sync().await;
    let titles = |device: &Device| {
        let table = device.plain();
        async move { table.query().to_vec().await.unwrap().into_iter().map(|row| (row.id, row.title)).collect::<Vec<_>>() }
    };
    // 1 and 2: deleted here or there and changed on the other side, the fallback decides. 3 and 4: only one side has
    // changed anything, and it deleted the row.
    assert_eq!(titles(&here).await, [("2".to_owned(), "ours".to_owned())]);
    assert_eq!(titles(&there).await, titles(&here).await);
    assert_eq!(here.losers().await, [(Side::Service, "theirs".to_owned())]);
}

async fn i28_what_a_merge_leaves_out_is_kept(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'").await;
    let base = here.cards().get("1").await.unwrap().unwrap();
    // Ours is the greater rating, theirs loses; then the other way round; and a union loses nothing.
    for (turn, (ours, theirs, lost)) in
        [(9, 8, Some(Side::Service)), (10, 11, Some(Side::Local)), (11, 11, None)].into_iter().enumerate()
    {
        there.sync().await;
        let tags = |who: &str| vec!["a".to_owned(), format!("{who}{turn}")];
        there.cards().replace(Card { rating: theirs, tags: tags("theirs"), ..base.clone() }).await.unwrap();
        there.sync().await;
        here.cards().replace(Card { rating: ours, tags: tags("ours"), ..base.clone() }).await.unwrap();
        here.sync().await;
        let losers = here.client.settled_losers().await.unwrap();
        assert_eq!(losers.last().map(|loser| loser.side), lost, "{turn}");
        if let Some(loser) = losers.last() {
            assert_eq!(
                loser.entity::<Card>().unwrap().rating,
                ours.min(theirs),
                "the whole body, with the value that lost"
            );
            here.client.forget_losers([loser.id]).await.unwrap();
        }
        assert_eq!(of::<Card>(&world.cards, "1").rating, ours.max(theirs));
    }
}

async fn i16_resolutions_keep_fields_that_this_build_does_not_know(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.device(store, "", NO).await;
    let seed = |title: &str| {
        let row = serde_json::json!({ "id": "1", "title": title, "later": { "x": [1.5] } });
        world.plain.seed(serde_json::json!([row])).unwrap();
    };
    seed("base");
    here.sync().await;
    here.plain().replace(plain("1", "ours")).await.unwrap();
    seed("theirs");
    here.sync().await;
    let conflict = here.client.conflicts().await.unwrap().pop().unwrap();
    here.client.resolve(&conflict, Resolution::Merged(plain("1", "both"))).await.unwrap();
    here.sync().await;
    let there: serde_json::Value = of(&world.plain, "1");
    assert_eq!((&there["title"], &there["later"]), (&"both".into(), &serde_json::json!({ "x": [1.5] })));
}

async fn a_resolver_sees_both_sides_and_may_end_a_conflict_in_any_way(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let resolver = move |conflict: ResolverConflict<Card>| {
        let title = |card: &Option<Card>| card.as_ref().map(|card| card.title.clone());
        let sides = (title(&conflict.base), title(&conflict.local), title(&conflict.service));
        log.lock().unwrap().push((conflict.id.clone(), conflict.kind, conflict.service_kind, sides));
        Ok(match conflict.id.as_str() {
            "keep" => Resolution::Keep,
            "take" | "gone" | "made" => Resolution::Take,
            "merge" => Resolution::Merge,
            "later" => Resolution::LastWriterWins,
            "written" => Resolution::Merged(Card { title: "written".to_owned(), ..card("written") }),
            _ => Resolution::Park,
        })
    };
    let config = "[sync]\nconflict = 'server-wins'\n[tables.card]\nfallback = 'client-wins'";
    let here = world.device_with(store, config, NO, TableOptions::new().resolver(resolver)).await;
    let there = world.device(MemoryStore::new(), config, NO).await;
    let ids = ["keep", "take", "merge", "later", "written", "park", "gone"];
    for id in ids {
        here.cards().insert(card(id)).await.unwrap();
    }
    here.sync().await;
    there.sync().await;
    for id in ids {
        there
            .cards()
            .replace(Card { title: "theirs".to_owned(), place: "theirs".to_owned(), ..card(id) })
            .await
            .unwrap();
    }
    there.cards().delete("gone").await.unwrap();
    there.cards().insert(Card { title: "theirs".to_owned(), ..card("made") }).await.unwrap();
    there.sync().await;
    world.clock.advance(SignedDuration::from_secs(60));
    for id in ids {
        here.cards().replace(Card { title: "ours".to_owned(), rating: 7, ..card(id) }).await.unwrap();
    }
    here.cards().insert(Card { title: "ours".to_owned(), ..card("made") }).await.unwrap();
    here.sync().await;
    let after = |id: &str| {
        let card = of::<Card>(&world.cards, id);
        (card.title, card.place, card.rating)
    };
    let expect = |title: &str, place: &str, rating: i64| (title.to_owned(), place.to_owned(), rating);
    assert_eq!(after("keep"), expect("ours", "base", 7));
    assert_eq!(after("take"), expect("theirs", "theirs", 0));
    assert_eq!(after("merge"), expect("ours", "theirs", 7), "by field, with the table's fallback");
    assert_eq!(after("later"), expect("ours", "base", 7));
    assert_eq!(after("written"), expect("written", "base", 0));
    assert_eq!(after("park"), expect("theirs", "theirs", 0));
    assert_eq!(after("made"), expect("theirs", "base", 0));
    assert!(here.cards().get("gone").await.unwrap().is_none());
    let parked = here.client.conflicts().await.unwrap();
    assert_eq!(parked.iter().map(|conflict| conflict.id()).collect::<Vec<_>>(), ["park"]);
    assert_eq!((parked[0].kind(), parked[0].service_kind()), (OperationKind::Replace, OperationKind::Replace));

    let seen = seen.lock().unwrap().clone();
    let of = |id: &str| seen.iter().find(|(seen, ..)| seen == id).cloned().unwrap();
    let some = |text: &str| Some(text.to_owned());
    let (replace, delete, insert) = (OperationKind::Replace, OperationKind::Delete, OperationKind::Insert);
    assert_eq!(of("keep"), ("keep".to_owned(), replace, replace, (some("base"), some("ours"), some("theirs"))));
    assert_eq!(of("gone"), ("gone".to_owned(), replace, delete, (some("base"), some("ours"), None)));
    assert_eq!(of("made"), ("made".to_owned(), insert, insert, (None, some("ours"), some("theirs"))));
}

async fn i28_a_second_edit_never_overwrites_what_nobody_here_has_seen(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let here = world.device(store, "", NO).await;
    let there = world.device(MemoryStore::new(), "", NO).await;
    for id in ["1", "2"] {
        here.plain().insert(plain(id, "base")).await.unwrap();
    }
    here.sync().await;
    for id in ["1", "2"] {
        here.plain().replace(plain(id, "sent")).await.unwrap();
    }
    // The change is made, its answer is lost; then somebody who has seen it goes on, and so does the user here.
    let changes = |request: &HttpRequest| request.method != Method::Get;
    here.exchange.fault(changes, Fault::AnswerLost);
    if !wire.extended() {
        here.exchange.fault(changes, Fault::AnswerLost);
    }
    here.plain().push_items().await.unwrap();
    there.sync().await;
    for id in ["1", "2"] {
        there.plain().replace(plain(id, "theirs")).await.unwrap();
    }
    there.sync().await;
    here.plain().replace(plain("1", "second")).await.unwrap();
    here.plain().delete("2").await.unwrap();
    here.plain().pull_items(datasync_core::client::PullOptions::default().no_push()).await.unwrap();
    here.sync().await;
    assert_eq!(of::<Plain>(&world.plain, "1").title, "theirs");
    assert_eq!(of::<Plain>(&world.plain, "2").title, "theirs");
    let conflicts = here.client.conflicts().await.unwrap();
    assert_eq!(conflicts.len(), 2, "each waits with what the other side has");
    let titles = |conflict: &datasync_core::client::Conflict| {
        let (local, service) = (conflict.local::<Plain>().unwrap(), conflict.service::<Plain>().unwrap());
        (local.map(|row| row.title), service.map(|row| row.title))
    };
    assert_eq!(titles(&conflicts[0]), (Some("second".to_owned()), Some("theirs".to_owned())));
    assert_eq!(titles(&conflicts[1]), (None, Some("theirs".to_owned())));
    here.client.resolve::<Plain>(&conflicts[0], Resolution::Keep).await.unwrap();
    here.client.resolve::<Plain>(&conflicts[1], Resolution::Keep).await.unwrap();
    here.sync().await;
    assert_eq!(of::<Plain>(&world.plain, "1").title, "second");
    assert_eq!(here.losers().await.len(), 2, "what was overwritten knowingly is kept all the same");
}

async fn a_merge_that_cannot_be_read_is_parked(store: impl Store, wire: Wire) {
    let world = World::new(wire);
    let (here, there) = two(&world, store, "[tables.card]\nconflict = 'merge'\nfallback = 'server-wins'").await;
    // 5 less 4 less 3 is no `u32`.
    for (device, count) in [(&there, 1), (&here, 2)] {
        let card = device.cards().get("1").await.unwrap().unwrap();
        device.cards().replace(Card { count, ..card }).await.unwrap();
        device.sync().await;
    }
    let parked = here.client.conflicts().await.unwrap();
    assert!(parked[0].reason().contains("cannot be read"), "{}", parked[0].reason());
    assert_eq!(here.cards().get("1").await.unwrap().unwrap().count, 2, "the row can still be read");
}

#[test]
fn the_entities_are_what_the_tests_take_them_for() {
    assert_eq!(Dated::SCHEMA.edited_field(), Some("changed"));
    assert_eq!(Card::SCHEMA.local_fields().collect::<Vec<_>>(), ["open"]);
}
