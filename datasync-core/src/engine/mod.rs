//! The engine: what turns local writes, answers and pages into commits.
//!
//! `change`, `conflict`, `answer` and `page` decide about one row and touch nothing else; `committer` is the only
//! caller of `Store::commit`; `push` and `pull` talk to the transport and never hold a lock while they do.

pub(crate) mod answer;
pub(crate) mod change;
pub(crate) mod committer;
pub(crate) mod conflict;
pub(crate) mod crossing;
pub(crate) mod joined;
pub(crate) mod page;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod table;
