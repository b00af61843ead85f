//! The journal as an app reads it.

use crate::{
    client::DatasyncClient,
    engine::journal,
    error::{Context, Error, SyncPhase},
};

pub use journal::{JournalEntry, JournalStep};

impl DatasyncClient {
    /// What sync did with the account that is shown, newest first: at most `limit` entries with numbers below `before`, or
    /// from the newest one on. A page that is shorter than `limit` is the last one. The journal keeps the last thousand
    /// entries, is written in the commits that it tells of, and holds no bodies.
    ///
    /// ```
    /// # use datasync_core::{client::DatasyncClient, error::Error};
    /// # async fn example(client: DatasyncClient) -> Result<(), Error> {
    /// let newest = client.journal(None, 20).await?;
    /// for entry in &newest {
    ///     println!("{entry}");
    /// }
    /// let older = client.journal(newest.last().map(|entry| entry.number), 20).await?;
    /// # drop(older);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::error::ErrorKind::Store).
    pub async fn journal(&self, before: Option<u64>, limit: usize) -> Result<Vec<JournalEntry>, Error> {
        let entries = journal::newest(&*self.engine.store, &self.engine.account(), before, limit).await;
        entries.during(SyncPhase::Read)
    }
}
