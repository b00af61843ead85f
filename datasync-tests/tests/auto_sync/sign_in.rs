//! What a run does when its sign-in is refused, and when another account signs in (I9, I26).

use crate::world::{Asks, Meets, NEVER, World};
use datasync_core::{
    client::{AutoSync, PendingState},
    error::ErrorKind,
    events::SyncEvent,
    transport::ChangeNotice,
};
use datasync_tests::Wire;
use futures::{FutureExt, StreamExt, channel::oneshot};

datasync_tests::on_both_wires! {
    a_paused_account_is_tried_when_a_run_begins
    a_refused_push_and_a_refused_pull_wait_for_the_app
    a_sign_in_to_the_same_account_ends_a_pause
    i26_a_token_of_another_account_is_not_tried_with_each_write
    i26_a_run_goes_over_to_the_account_that_signs_in
}

fn options() -> AutoSync {
    AutoSync::default().pull_every(NEVER)
}

async fn a_paused_account_is_tried_when_a_run_begins(wire: Wire) {
    let world = World::new(wire).await;
    world.insert("a").await;
    world.meet(|asks| if asks == Asks::Change { Meets::Status(401, 0) } else { Meets::Service });
    let run = world.run(options()).await;
    assert_eq!(world.client.pending().await.unwrap()[0].state, PendingState::Paused);
    drop(run);
    // The app starts again, and its token is good.
    world.meet(|_| Meets::Service);
    let run = world.run(options()).await;
    assert_eq!(world.there(), ["a"], "without another word of the app");
    drop(run);

    // And so if there is no network at first.
    world.meet(|asks| if asks == Asks::Change { Meets::Status(401, 0) } else { Meets::Service });
    world.insert("b").await;
    drop(world.run(options()).await);
    assert_eq!(world.client.pending().await.unwrap()[0].state, PendingState::Paused);
    world.meet(|_| Meets::Nobody);
    let _run = world.run(options()).await;
    world.meet(|_| Meets::Service);
    world.pass_seconds(10).await;
    assert_eq!(world.there(), ["a", "b"]);
}

async fn a_refused_push_and_a_refused_pull_wait_for_the_app(wire: Wire) {
    let world = World::new(wire).await;
    let run = world.run(options()).await;
    world.meet(|_| Meets::Status(401, 0));
    world.insert("a").await;
    world.pass_seconds(1).await;
    assert_eq!(world.client.pending().await.unwrap()[0].state, PendingState::Paused);
    let asked = world.requests();
    world.insert("b").await;
    world.tell_of("note").await;
    world.pass_seconds(600).await;
    assert_eq!(world.requests(), asked, "nothing is tried by itself");
    for _ in 0..2 {
        world.network.came_back();
        world.settle().await;
        assert!(world.requests() > asked, "each word of the app is one attempt");
        assert!(world.there().is_empty() && run.goes_on());
    }
    world.meet(|_| Meets::Service);
    world.appears("c");
    world.network.came_back();
    world.settle().await;
    assert_eq!(world.there(), ["a", "b", "c"]);
    assert_eq!(world.here().await, ["a", "b", "c"]);
}

async fn a_sign_in_to_the_same_account_ends_a_pause(wire: Wire) {
    let world = World::new(wire).await;
    world.sign_in("alice").await;
    let _run = world.run(options()).await;
    world.meet(|_| Meets::Status(401, 0));
    world.insert("a").await;
    world.pass_seconds(1).await;
    assert_eq!(world.client.pending().await.unwrap()[0].state, PendingState::Paused);
    world.meet(|_| Meets::Service);
    world.sign_in("alice").await;
    world.pass_seconds(1).await;
    assert_eq!(world.there(), ["a"]);
}

async fn i26_a_token_of_another_account_is_not_tried_with_each_write(wire: Wire) {
    let world = World::new(wire).await;
    world.sign_in("alice").await;
    let _run = world.run(options()).await;
    let mut events = world.client.events();
    // Her token is over, and the one that follows it is another's.
    world.meet_once(Asks::Change, Meets::Status(401, 0));
    world.holds_a_token_of("bob");
    world.insert("a").await;
    world.pass_seconds(1).await;
    let mut failures = || {
        let told = std::iter::from_fn(|| events.next().now_or_never().flatten());
        told.filter(|event| matches!(event, SyncEvent::Failed { kind: ErrorKind::OtherAccount, .. })).count()
    };
    assert!(failures() > 0, "the app is told");
    let asked = world.requests();
    for id in ["b", "c", "d"] {
        world.insert(id).await;
        world.pass_seconds(60).await;
    }
    assert_eq!((world.requests(), failures()), (asked, 0), "nothing is tried");
    world.holds_a_token_of("alice");
    world.insert("e").await;
    world.pass_seconds(1).await;
    assert_eq!(world.there(), ["a", "b", "c", "d", "e"]);
}

async fn i26_a_run_goes_over_to_the_account_that_signs_in(wire: Wire) {
    let world = World::new(wire).await;
    world.sign_in("alice").await;
    let _run = world.run(options()).await;
    world.tell(ChangeNotice::Connected).await;
    world.insert("alices").await;
    world.pass_seconds(1).await;
    // A push of hers is on its way when another signs in.
    let (open, gate) = oneshot::channel::<()>();
    world.meet_once(Asks::Change, Meets::Gate(gate));
    world.insert("held").await;
    world.pass_seconds(1).await;
    world.sign_in("bob").await;
    world.settle().await;
    world.insert("bobs").await;
    drop(open);
    world.pass_seconds(2).await;
    assert!(world.there().contains(&"bobs".to_owned()), "{:?}", world.there());
    assert_eq!(world.listeners().last().map(AsRef::as_ref), Some("bob"), "what is told is what he may see");
    world.appears("theirs");
    world.tell_of("note").await;
    world.pass_seconds(1).await;
    assert!(world.here().await.contains(&"theirs".to_owned()));
}
