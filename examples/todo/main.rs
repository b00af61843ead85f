//! A todo app for the command line: it works without a network, and syncs when there is one.
//!
//! `cargo run --features server --example todo -- add buy milk` (and `--help`).

mod app;
mod args;
mod config;
mod model;
mod serve;
mod show;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::args::{Arguments, Command};

/// What goes wrong, in words for a person.
type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Serve { listen } => serve::run(&arguments.folder(), *listen).await.map(|()| String::new()),
        _ => app::run(&arguments).await,
    };
    match done {
        Ok(text) => print(&text),
        Err(failure) => {
            eprintln!("todo: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A reader that has seen enough, like `head`, is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("todo: the answer cannot be written: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
