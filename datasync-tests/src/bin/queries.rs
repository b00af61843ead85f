//! Asks random queries of every side, and prints what differs: `cargo run --release -p datasync-tests --bin queries -- 100000`.
//! A second number is the seed, a third how many of the queries go over a socket too.

use std::process::ExitCode;

use datasync_tests::queries::{Report, run};

/// How many differences are printed.
const SHOWN: usize = 20;

#[tokio::main]
async fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mut number = |otherwise: u64| numbers.next().unwrap_or(Ok(otherwise));
    let (Ok(queries), Ok(seed), Ok(socket)) = (number(100_000), number(1), number(2_000)) else {
        eprintln!("usage: queries [how many] [seed] [how many of them over a socket]");
        return ExitCode::FAILURE;
    };
    let every = queries.checked_div(socket).unwrap_or(0);
    // Two halves at once, each with a seed of its own.
    let half = queries / 2;
    let (one, other) = tokio::join!(
        tokio::spawn(run(half, seed.wrapping_mul(2), every)),
        tokio::spawn(run(queries - half, seed.wrapping_mul(2) + 1, every))
    );
    let (Ok(Ok(one)), Ok(Ok(other))) = (one, other) else {
        eprintln!("the sides cannot be made");
        return ExitCode::FAILURE;
    };
    print(&one, &other)
}

fn print(one: &Report, other: &Report) -> ExitCode {
    println!("{} queries answered by all sides, {} rows", one.answered + other.answered, one.rows + other.rows);
    println!("{} of them over a socket too", one.over_a_socket + other.over_a_socket);
    println!("{} that do not fit the table, refused by all sides", one.refused + other.refused);
    let mut ways = one.ways.clone();
    for (way, count) in &other.ways {
        *ways.entry(way.clone()).or_default() += count;
    }
    for (way, count) in ways {
        println!("{count:>8} by {way}");
    }
    let differences: Vec<&String> = one.differences.iter().chain(&other.differences).collect();
    println!("{} differences", differences.len());
    for difference in differences.iter().take(SHOWN) {
        println!("{difference}");
    }
    if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
