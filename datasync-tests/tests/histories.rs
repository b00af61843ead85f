//! Every short history of one row, against a model without a queue: see `datasync_tests::histories`.

use datasync_tests::{
    Wire,
    histories::{Event, Policy, agree, all, canonical, exhaust, is_canonical, run},
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
    let mut compared = 0;
    for history in all(3).filter(|history| !is_canonical(history)) {
        let other = canonical(&history);
        assert!(is_canonical(&other), "{history:?} {other:?}");
        for policy in [Policy::Park, Policy::ClientWins, Policy::ServerWins] {
            let (mut one, mut another) = (run(policy, Wire::Extended, &history), run(policy, Wire::Extended, &other));
            // Values are numbered by the event that wrote them, which is another one where events were swapped.
            for outcome in [&mut one, &mut another] {
                let mut seen: Vec<usize> = Vec::new();
                let mut rename = |mark: &mut usize| {
                    if *mark > 0 {
                        let known = seen.iter().position(|known| known == mark);
                        *mark = 1 + known.unwrap_or_else(|| {
                            seen.push(*mark);
                            seen.len() - 1
                        });
                    }
                };
                let values = outcome.service.iter_mut().chain(&mut outcome.device).chain(&mut outcome.losers);
                values.for_each(|value| {
                    rename(&mut value.here);
                    rename(&mut value.there);
                });
            }
            assert_eq!(one, another, "{policy:?} {history:?} {other:?}");
            compared += 1;
        }
    }
    assert!(compared > 300, "{compared}");
}
