//! Every short history of one row, against a model without a queue: see `datasync_tests::histories`.

use datasync_tests::{
    Wire,
    histories::{Event, Policy, agree, all, canonical, exhaust, foretold, is_canonical, run},
};

#[test]
fn every_history_up_to_length_four_ends_as_the_model_says() {
    let (run, left_out) = exhaust(1..=4, Wire::Extended, 2);
    println!("{run} histories run, {left_out} left out");
    assert!(run > 10_000, "{run}");
}

#[test]
fn every_history_up_to_length_three_ends_as_the_model_says_without_the_extensions() {
    let (run, left_out) = exhaust(1..=3, Wire::Original, 2);
    println!("{run} histories run, {left_out} left out");
    assert!(run > 2_000, "{run}");
}

/// Longer ones, each of which has found a mistake.
#[test]
fn histories_that_were_wrong_once() {
    use Event::{Delete, Insert, LoseAnswer, Pull, Push, TheirDelete, TheirInsert};
    for policy in Policy::ALL {
        // The service keeps keys: the row that the insert meets is somebody else's, and the delete is not meant for it.
        agree(policy, Wire::Extended, &[Insert, LoseAnswer, TheirInsert, Push, Delete]);
        // The tombstone that a page shows while the insert is in doubt is that of the inserted row.
        agree(policy, Wire::Extended, &[LoseAnswer, Insert, Push, LoseAnswer, TheirDelete, Pull]);
        // It does not: then the deletion is meant for the row that may be ours, and is as late as the delete.
        agree(policy, Wire::Original, &[Insert, LoseAnswer, TheirInsert, Push, Delete]);
    }
}

#[test]
fn histories_that_are_left_out_end_like_the_one_that_stands_for_them() {
    for wire in [Wire::Extended, Wire::Original] {
        for policy in Policy::ALL {
            let mut compared = 0;
            for history in all(3).filter(|history| !is_canonical(policy, wire, history)) {
                let places = canonical(policy, wire, &history);
                let other: Vec<Event> = places.iter().map(|place| history[*place]).collect();
                assert!(is_canonical(policy, wire, &other), "{policy:?} {wire:?} {history:?} {other:?}");
                // How the other ends is tested above.
                let (_, mut expected) = foretold(policy, wire, &other);
                // Values are numbered by the event that wrote them, which has another number here.
                let values = expected.service.iter_mut().chain(&mut expected.device).chain(&mut expected.losers);
                for mark in values.flat_map(|value| [&mut value.here, &mut value.there]).filter(|mark| **mark > 0) {
                    *mark = places[*mark - 1] + 1;
                }
                expected.losers.sort_unstable();
                assert_eq!(run(policy, wire, &history), expected, "{policy:?} {wire:?} {history:?} {other:?}");
                compared += 1;
            }
            assert!(compared > 100, "{policy:?} {wire:?}: {compared}");
        }
    }
}
