//! Live queries.

use std::sync::Arc;

use futures::{
    StreamExt,
    stream::{BoxStream, unfold},
};

use crate::{
    client::{invalid_query, part::Reader, search},
    engine::{Engine, table::Table, watch::Watcher},
    error::{Context, Error, SyncPhase},
    query::{Evaluator, QueryDescription},
    row::Record,
};

/// The records of a result.
type Records = Vec<(Arc<str>, Record)>;

struct Live {
    engine: Arc<Engine>,
    table: Arc<Table>,
    query: QueryDescription,
    /// `None` before the first result.
    watcher: Option<Arc<Watcher>>,
    last: Option<Records>,
}

impl Live {
    async fn next(&mut self) -> Result<Records, Error> {
        loop {
            match &self.watcher {
                Some(watcher) => {
                    watcher.changed().await;
                    // Whoever wrote may have gone away before its commit was made.
                    self.engine.committer.settle().await;
                }
                None => {
                    let evaluator = Evaluator::new(&self.query, &self.table.schema).map_err(invalid_query)?;
                    // From before the first look on, so that no change is between them.
                    self.watcher = Some(self.engine.committer.watchers().add(Arc::clone(&self.table.name), evaluator));
                }
            }
            let found = search::search(&self.engine, &self.table, &self.query).await?.rows;
            if self.last.as_ref() != Some(&found) {
                self.last = Some(found.clone());
                return Ok(found);
            }
        }
    }
}

/// The results of a query, now and after each commit that changes them.
pub(crate) fn watch<P: 'static>(
    engine: Arc<Engine>,
    table: Arc<Table>,
    query: QueryDescription,
    mut reader: Reader<P>,
) -> BoxStream<'static, Result<Vec<P>, Error>> {
    let name = Arc::clone(&table.name);
    let query = reader.prepare(query, &table.schema, false);
    let live = query.map(|query| (Live { engine, table, query, watcher: None, last: None }, reader));
    let results = unfold(Some(live), |live| async {
        let (mut live, reader) = match live? {
            Ok(live) => live,
            Err(error) => return Some((Err(error), None)),
        };
        let decode = |(id, record): &(Arc<str>, Record)| reader.read(id, record);
        match live.next().await {
            Ok(found) => Some((found.iter().map(decode).collect(), Some(Ok((live, reader))))),
            // A query that does not fit the table never will.
            Err(error) if live.watcher.is_none() => Some((Err(error), None)),
            Err(error) => Some((Err(error), Some(Ok((live, reader))))),
        }
    });
    results.map(move |result: Result<_, Error>| result.of(&name).during(SyncPhase::Read)).boxed()
}
