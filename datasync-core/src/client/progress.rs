//! How far the opening of a store is.

use std::{fmt, sync::Arc};

/// What takes long when a store opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpeningWork {
    /// Rows that an older release of the app has stored are brought to the schema of this one.
    Migration,
    /// Indexes that were added or changed are built.
    Indexes,
}

/// How far a table is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpeningProgress {
    /// What is done.
    pub work: OpeningWork,
    /// The table.
    pub table: Arc<str>,
    /// How many of its rows are done.
    pub done: u64,
    /// How many rows it has.
    pub total: u64,
}

/// Who is told of the progress.
#[derive(Clone, Default)]
pub(super) struct Told(pub(super) Option<Arc<dyn Fn(OpeningProgress) + Send + Sync>>);

impl Told {
    pub(super) fn tell(&self, work: OpeningWork, table: &Arc<str>, done: u64, total: u64) {
        if let Some(told) = &self.0 {
            told(OpeningProgress { work, table: Arc::clone(table), done, total });
        }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Told").field(&self.0.is_some()).finish()
    }
}
