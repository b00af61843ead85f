//! What is kept of a row, as lines of JSON for support.

use crate::{
    client::{DatasyncClient, PendingRequest, quarantine::all_losers},
    error::{Context, Error, ErrorKind, SyncPhase},
    export,
    row::{Row, RowKey},
};

/// How many rows are looked at at once.
const CHUNK: usize = 100;

impl DatasyncClient {
    /// Everything that this device keeps of a row, as lines of JSON: the row, its unsent changes and its settled losers, with
    /// all that is known of them. [`export`](mod@crate::export) says what a line has. For support: it holds what the user wrote.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if nothing is kept of it, [`ErrorKind::UnknownTable`] if this release does not have its table
    /// either; [`ErrorKind::Store`].
    pub async fn export(&self, table: &str, id: &str) -> Result<String, Error> {
        self.lines_of(table, id).await.at(table, id).during(SyncPhase::Read)
    }

    async fn lines_of(&self, table: &str, id: &str) -> Result<String, Error> {
        let key = self.kept_key(table, id);
        let row = self.engine.store.get(std::slice::from_ref(&key)).await?.pop().flatten();
        let mut lines = row.map_or_else(Vec::new, |row| lines(&key, &row));
        let losers = all_losers(&self.engine).await?;
        lines.extend(losers.iter().filter(|loser| loser.key == key).map(export::loser));
        if lines.is_empty() {
            self.engine.tables.get(table)?;
            return Err(Error::new(ErrorKind::NotFound, format!("nothing is kept of {key:?}")));
        }
        Ok(text(&lines))
    }

    /// Every row with a change that waits for somebody, and its changes, as lines of JSON; empty if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn export_parked(&self) -> Result<String, Error> {
        let mut all = Vec::new();
        let mut request = PendingRequest::new().parked().limit(CHUNK);
        loop {
            let page = self.pending_page(request.clone()).await?;
            let keys: Vec<RowKey> =
                page.changes.iter().map(|change| self.kept_key(&change.table, &change.id)).collect();
            let found = self.engine.store.get(&keys).await.during(SyncPhase::Read)?;
            for (key, row) in keys.iter().zip(&found) {
                all.extend(row.iter().flat_map(|row| lines(key, row)));
            }
            match page.next {
                Some(next) => request = request.after(next),
                None => return Ok(text(&all)),
            }
        }
    }
}

fn lines(key: &RowKey, row: &Row) -> Vec<String> {
    let operations = row.operations.iter().map(|operation| export::operation(key, operation));
    std::iter::once(export::row(key, row)).chain(operations).collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}
