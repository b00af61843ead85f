//! What is pulled, when, and what else goes on meanwhile.

use std::time::Duration;

use datasync_core::{
    client::{AutoSync, JournalStep},
    config::SyncConfig,
    error::{ErrorKind, SyncPhase},
    events::SyncEvent,
    transport::ChangeNotice,
};
use datasync_tests::{MemoryStore, Wire};
use futures::{FutureExt, StreamExt, channel::oneshot};

use crate::world::{Asks, Meets, NEVER, World};

datasync_tests::on_both_wires! {
    a_notice_brings_its_table_and_no_other
    what_was_told_while_nobody_listened_is_pulled
    a_question_without_an_answer_holds_nothing_up
    a_run_that_is_dropped_asks_for_nothing_more
    notices_put_no_interval_off
    a_told_table_that_fails_puts_no_interval_off
    a_told_table_that_fails_puts_no_other_off
    a_write_leaves_while_a_pull_waits_for_its_page
    a_table_that_cannot_be_pulled_holds_no_other_up
    what_a_pull_leaves_is_pulled_at_once
    a_moment_in_the_background_ends_at_its_time
}

fn options() -> AutoSync {
    AutoSync::default().pull_every(NEVER)
}

async fn a_notice_brings_its_table_and_no_other(wire: Wire) {
    let world = World::new(wire).await;
    let _run = world.run(options()).await;
    world.tell(ChangeNotice::Connected).await;
    world.appears("a");
    world.other_appears("b");
    let before = world.asked(Asks::Others);
    for _ in 0..20 {
        world.tell_of("note").await;
    }
    let asked = world.asked(Asks::Notes);
    world.pass_seconds(1).await;
    assert_eq!((world.here().await.len(), world.others_here().await), (1, 0));
    assert_eq!(world.asked(Asks::Others), before, "nobody told of it");
    let once = world.asked(Asks::Notes) - asked;
    world.tell_of("note").await;
    world.pass_seconds(1).await;
    assert!(world.asked(Asks::Notes) - asked <= 2 * once, "many notices are one pull");
    world.tell_of("unknown").await;
    world.tell_of("other").await;
    world.pass_seconds(1).await;
    assert_eq!(world.others_here().await, 1);
}

async fn what_was_told_while_nobody_listened_is_pulled(wire: Wire) {
    let world = World::new(wire).await;
    let _run = world.run(options()).await;
    world.tell(ChangeNotice::Connected).await;
    world.pass_seconds(1).await;
    assert_eq!(world.listeners().len(), 1);
    world.hang_up().await;
    world.appears("a");
    world.other_appears("a");
    world.pass_seconds(2).await;
    assert_eq!(world.listeners().len(), 2, "it listens again");
    assert_eq!((world.here().await.len(), world.others_here().await), (0, 0), "nobody has told it");
    world.tell(ChangeNotice::Connected).await;
    assert_eq!((world.here().await.len(), world.others_here().await), (1, 1));
    // A stream that breaks again and again is not asked for all the time.
    for _ in 0..200 {
        world.hang_up().await;
        world.pass_seconds(1).await;
    }
    assert!((3..15).contains(&world.listeners().len()), "{}", world.listeners().len());
}

async fn a_question_without_an_answer_holds_nothing_up(wire: Wire) {
    let world = World::new(wire).await;
    world.client.pull_tables(datasync_core::client::Tables::all()).await.unwrap();
    let (open, gate) = oneshot::channel::<()>();
    world.meet_once(Asks::Else, Meets::Gate(gate));
    let _run = world.run(options()).await;
    world.insert("a").await;
    world.pass_seconds(1).await;
    assert_eq!(world.there(), ["a"]);
    drop(open);
}

async fn a_run_that_is_dropped_asks_for_nothing_more(wire: Wire) {
    let world = World::new(wire).await;
    let (open, gate) = oneshot::channel::<()>();
    world.meet_once(Asks::Notes, Meets::Gate(gate));
    let run = world.run(options()).await;
    world.insert("a").await;
    drop(run);
    world.settle().await;
    let asked = world.requests();
    assert!(open.is_canceled(), "what was on its way is given up");
    world.network.came_back();
    world.tell_of("note").await;
    world.pass_seconds(600).await;
    assert_eq!(world.requests(), asked);
    let table = world.table();
    table.pull_items(table.query()).await.unwrap();
    assert_eq!(world.there(), ["a"], "and the next call works");
}

async fn notices_put_no_interval_off(wire: Wire) {
    let world = World::new(wire).await;
    let options = AutoSync::default().tables(["note"]).pull_every(Duration::from_secs(60));
    let _run = world.run(options).await;
    world.tell(ChangeNotice::Connected).await;
    world.appears("a");
    for _ in 0..120 {
        // Of a table that this run has nothing to do with, and of one that it pulls for it.
        world.tell_of("other").await;
        world.pass_seconds(1).await;
    }
    assert_eq!(world.here().await, ["a"]);
    assert_eq!(world.asked(Asks::Others), 0);
    world.appears("b");
    for _ in 0..120 {
        world.tell_of("other").await;
        world.pass_seconds(1).await;
    }
    assert_eq!(world.here().await, ["a", "b"], "nobody told of it, and the interval has passed");
}

async fn a_told_table_that_fails_puts_no_interval_off(wire: Wire) {
    let world = World::new(wire).await;
    let _run = world.run(AutoSync::default().pull_every(Duration::from_secs(60))).await;
    world.tell(ChangeNotice::Connected).await;
    world.meet(|asks| if asks == Asks::Notes { Meets::Status(403, 0) } else { Meets::Service });
    world.other_appears("b");
    for _ in 0..70 {
        world.tell_of("note").await;
        world.pass_seconds(1).await;
    }
    assert_eq!(world.others_here().await, 1);
    let before = world.asked(Asks::Notes);
    world.pass_seconds(600).await;
    assert!(world.asked(Asks::Notes) > before, "it is tried again");
    world.meet(|_| Meets::Service);
    world.appears("a");
    world.pass_seconds(120).await;
    assert_eq!(world.here().await, ["a"]);
}

async fn a_told_table_that_fails_puts_no_other_off(wire: Wire) {
    let world = World::new(wire).await;
    let _run = world.run(options()).await;
    world.tell(ChangeNotice::Connected).await;
    world.meet(|asks| if asks == Asks::Notes { Meets::Status(403, 0) } else { Meets::Service });
    for (told, id) in ["b", "c", "d", "e", "f"].into_iter().enumerate() {
        world.other_appears(id);
        world.tell_of("note").await;
        world.tell_of("other").await;
        world.pass_seconds(10).await;
        assert_eq!(world.others_here().await, told as u64 + 1, "it waits for nothing that the other one has failed");
    }
    let failed = world.times(Asks::Notes);
    assert!(failed.len() < 15, "and the one that fails is asked more and more rarely: {failed:?}");
}

async fn a_write_leaves_while_a_pull_waits_for_its_page(wire: Wire) {
    let world = World::new(wire).await;
    world.appears("theirs");
    let (open, gate) = oneshot::channel::<()>();
    world.meet_once(Asks::Notes, Meets::Gate(gate));
    let _run = world.run(options()).await;
    world.insert("mine").await;
    world.tell_of("other").await;
    world.other_appears("b");
    world.pass_seconds(1).await;
    assert!(world.there().contains(&"mine".to_owned()), "the pull still waits");
    assert_eq!(world.here().await, ["mine"]);
    drop(open);
    world.pass_seconds(1).await;
    assert_eq!(world.here().await, ["mine", "theirs"]);
}

async fn a_table_that_cannot_be_pulled_holds_no_other_up(wire: Wire) {
    let world = World::new(wire).await;
    world.meet(|asks| if asks == Asks::Notes { Meets::Status(403, 0) } else { Meets::Service });
    world.other_appears("b");
    world.insert("mine").await;
    let mut events = world.client.events();
    let run = world.run(options()).await;
    world.pass_seconds(30).await;
    assert_eq!((world.others_here().await, world.there()), (1, vec!["mine".to_owned()]));
    let failed = std::iter::from_fn(|| events.next().now_or_never().flatten()).filter_map(|event| match event {
        SyncEvent::Failed { phase, table, kind, status, .. } => Some((phase, table, kind, status)),
        _ => None,
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.len() > 1, "{failed:?}");
    let expected = (SyncPhase::Pull, Some("note".into()), ErrorKind::Service, Some(403));
    assert!(failed.iter().all(|failed| *failed == expected), "{failed:?}");
    let journal = world.client.journal(None, 1_000).await.unwrap();
    let noted: Vec<_> = journal.iter().filter(|entry| entry.step == JournalStep::PullFailed).collect();
    assert_eq!(noted.len(), 1, "once, until that changes: {noted:?}");
    assert!(noted[0].to_string().contains("403") && noted[0].table.as_deref() == Some("note"), "{noted:?}");
    drop(run);

    // And so in a moment in the background: the error comes after the others.
    world.other_appears("c");
    let deadline = world.now() + Duration::from_secs(60);
    let error = world.client.sync_until(deadline).await.unwrap_err();
    assert_eq!((error.table(), error.status()), (Some("note"), Some(403)));
    assert_eq!(world.others_here().await, 2);
}

async fn what_a_pull_leaves_is_pulled_at_once(wire: Wire) {
    let config = SyncConfig::from_toml("[sync]\nmax_pages = 1\npage_size = 2").unwrap();
    let world = World::with(MemoryStore::new(), wire, config).await;
    for id in ["a", "b", "c", "d", "e"] {
        world.appears(id);
    }
    let deadline = world.now() + Duration::from_secs(60);
    let report = world.client.sync_until(deadline).await.unwrap();
    assert!(!report.complete && report.pulls["note"].more, "{report:?}");
    let _run = world.run(options()).await;
    world.pass_seconds(2).await;
    assert_eq!(world.here().await.len(), 5);
}

async fn a_moment_in_the_background_ends_at_its_time(wire: Wire) {
    let world = World::new(wire).await;
    let moment = || {
        let (client, deadline) = (world.client.clone(), world.now() + Duration::from_secs(30));
        tokio::spawn(async move { client.sync_until(deadline).await.unwrap() })
    };
    world.insert("a").await;
    let (open, gate) = oneshot::channel::<()>();
    world.meet_once(Asks::Change, Meets::Gate(gate));
    let first = moment();
    world.pass_seconds(29).await;
    assert!(!first.is_finished() && !open.is_canceled());
    world.pass_seconds(2).await;
    assert!(open.is_canceled(), "what was on its way is given up");
    let report = first.await.unwrap();
    assert_eq!((report.push, report.pulls.len(), report.complete), (None, 0, false));
    assert!(world.client.pending().await.unwrap()[0].in_doubt);

    world.appears("b");
    let (_open, gate) = oneshot::channel::<()>();
    world.meet_once(Asks::Others, Meets::Gate(gate));
    let second = moment();
    world.pass_seconds(31).await;
    let report = second.await.unwrap();
    assert_eq!(report.push.map(|push| (push.pushed, push.waiting)), Some((1, 0)), "sent again");
    assert_eq!(report.pulls.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["note"], "what has ended is told");
    assert!(!report.complete);
    assert_eq!(
        (world.here().await, world.there()),
        (vec!["a".to_owned(), "b".to_owned()], vec!["a".to_owned(), "b".to_owned()])
    );

    let third = moment();
    world.settle().await;
    assert!(third.await.unwrap().complete);
}
