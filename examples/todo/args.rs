//! What can be typed.

use std::{env, net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use jiff::civil::Date;

/// A todo list that works without a network, and syncs when there is one.
#[derive(Debug, Parser)]
#[command(name = "todo", version)]
pub(crate) struct Arguments {
    /// The folder of `todo.redb` and `todo.toml`; $TODO_DIR, or `todo` in the data folder of the user.
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Adds a todo.
    Add {
        /// What is to be done.
        #[arg(required = true)]
        text: Vec<String>,
        /// By when, as 2026-12-31.
        #[arg(long)]
        due: Option<Date>,
    },
    /// Lists what is open.
    Ls {
        /// What is done, too.
        #[arg(long)]
        all: bool,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Marks todos as done.
    Done {
        /// The letters that `ls` shows.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Changes the text of a todo.
    Edit {
        /// The letters that `ls` shows.
        id: String,
        /// The new text.
        #[arg(required = true)]
        text: Vec<String>,
    },
    /// Removes todos.
    Rm {
        /// The letters that `ls` shows.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Lists the todos with a text in them.
    Search {
        /// The text.
        text: String,
    },
    /// Sends what was changed here, and fetches what was changed elsewhere.
    Sync,
    /// Says what waits, and for what.
    Status,
    /// Lists the conflicts, or settles one of them.
    Conflicts {
        #[command(subcommand)]
        action: Option<ConflictAction>,
    },
    /// Is the service that other devices sync with, until Ctrl-C.
    Serve {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8787")]
        listen: SocketAddr,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConflictAction {
    /// Settles a conflict.
    Resolve {
        /// Its number in the list.
        number: usize,
        /// Whose side.
        side: Choice,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Choice {
    /// This device's.
    Keep,
    /// The service's.
    Take,
}

impl Arguments {
    pub(crate) fn folder(&self) -> PathBuf {
        let given = self.dir.clone().or_else(|| env::var_os("TODO_DIR").map(PathBuf::from));
        given.unwrap_or_else(|| {
            let data = env::var_os("XDG_DATA_HOME").map(PathBuf::from);
            let home = || env::home_dir().unwrap_or_default().join(".local").join("share");
            data.unwrap_or_else(home).join("todo")
        })
    }
}
