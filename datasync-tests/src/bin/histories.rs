//! Runs every history of one row up to a length: `histories --exhaustive 5`.

use std::process::ExitCode;

use datasync_tests::{
    Wire,
    histories::{Policy, exhaust},
};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some("--exhaustive"), Some(Ok(length))) =
        (arguments.next().as_deref(), arguments.next().map(|length| length.parse::<usize>()))
    else {
        eprintln!("usage: histories --exhaustive <length>");
        return ExitCode::FAILURE;
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for (wire, service) in [(Wire::Extended, "with"), (Wire::Original, "without")] {
        println!("a service {service} the extensions, {} policies", Policy::ALL.len());
        for length in 1..=length {
            let (run, left_out) = exhaust(length..=length, wire, threads);
            println!("  length {length}: {run} histories run, {left_out} left out");
        }
    }
    ExitCode::SUCCESS
}
