//! The movies as the clients of Azure Mobile Apps know them, over the same rows: ratings are texts or null, and release dates
//! are times.

use async_trait::async_trait;
use datasync_core::{
    query::SortKey,
    row::{Body, Record},
};
use datasync_server::{
    Action, Change, Changes, ChangesQuery, Effect, MemoryRepository, Repository, RepositoryError, Row, RowQuery,
    Selection, WriteOutcome,
};
use serde_json::{Map, Value};
use uuid::Uuid;

/// The names of the ratings: the Toolkit's, and Azure's.
const RATINGS: &[(&str, Option<&str>)] = &[
    ("Unrated", None),
    ("G", Some("G")),
    ("PG", Some("PG")),
    ("PG13", Some("PG-13")),
    ("NC17", Some("NC-17")),
    ("R", Some("R")),
];

/// Whether a rating is one of Azure's.
pub(crate) fn is_rating(rating: &Value) -> bool {
    RATINGS.iter().any(|(_, name)| rating.as_str() == *name)
}

/// The rows of a table of movies, as Azure's clients know them.
#[derive(Clone, Debug)]
pub(crate) struct AzureMovies(pub(crate) MemoryRepository);

/// The row with its body changed.
fn with_body(row: Row, change: impl FnOnce(&mut Map<String, Value>)) -> Row {
    Row { record: record_with_body(row.record, change), ..row }
}

fn record_with_body(record: Record, change: impl FnOnce(&mut Map<String, Value>)) -> Record {
    let mut movie: Map<String, Value> = serde_json::from_slice(record.body.as_bytes()).unwrap_or_default();
    change(&mut movie);
    Record { body: Body::from(Value::Object(movie).to_string().into_bytes()), ..record }
}

fn shown(row: Row) -> Row {
    with_body(row, |movie| {
        let rating = movie.get("rating").and_then(Value::as_str).unwrap_or_default();
        let name = RATINGS.iter().find(|(toolkit, _)| *toolkit == rating).and_then(|(_, azure)| *azure);
        movie.insert("rating".to_owned(), name.into());
        if let Some(day) = movie.get("releaseDate").and_then(Value::as_str).filter(|day| day.len() == 10) {
            let time = format!("{day}T00:00:00.000Z");
            movie.insert("releaseDate".to_owned(), time.into());
        }
    })
}

fn kept(record: Record) -> Record {
    record_with_body(record, |movie| {
        let rating = movie.get("rating").and_then(Value::as_str).map(str::to_owned);
        let name = RATINGS.iter().find(|(_, azure)| *azure == rating.as_deref()).map(|(toolkit, _)| *toolkit);
        movie.insert("rating".to_owned(), name.into());
        if let Some(day) = movie.get("releaseDate").and_then(Value::as_str).and_then(|time| time.get(..10)) {
            movie.insert("releaseDate".to_owned(), day.to_owned().into());
        }
    })
}

#[async_trait]
impl Repository for AzureMovies {
    async fn epoch(&self) -> Result<Uuid, RepositoryError> {
        self.0.epoch().await
    }

    async fn read(&self, id: &str) -> Result<Option<Row>, RepositoryError> {
        Ok(self.0.read(id).await?.map(shown))
    }

    async fn query(&self, query: RowQuery) -> Result<Selection, RepositoryError> {
        let mut found: Vec<(SortKey, Row)> = Vec::new();
        for row in self.0.rows().into_iter().filter(|row| query.include_deleted || !row.record.deleted).map(shown) {
            let key = query.evaluator.evaluate(&row.id, &row.record).map_err(RepositoryError::new)?;
            found.extend(key.map(|key| (key, row)));
        }
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let skip = usize::try_from(query.description.skip).unwrap_or(usize::MAX);
        let total = query.description.count.then_some(found.len() as u64);
        let more = found.len() > skip.saturating_add(query.limit);
        let rows = found.into_iter().skip(skip).take(query.limit).map(|(_, row)| row).collect();
        Ok(Selection { rows, more, total })
    }

    async fn changes(&self, query: ChangesQuery) -> Result<Changes, RepositoryError> {
        self.0.changes(query).await
    }

    async fn write(&self, change: Change) -> Result<WriteOutcome, RepositoryError> {
        let action = match change.action {
            Action::Create(record) => Action::Create(kept(record)),
            Action::Replace(record) => Action::Replace(kept(record)),
            Action::Remove => Action::Remove,
        };
        Ok(match self.0.write(Change { action, ..change }).await? {
            WriteOutcome::Done(row) => WriteOutcome::Done(shown(row)),
            WriteOutcome::Conflict(row) => WriteOutcome::Conflict(shown(row)),
            WriteOutcome::Replayed(effect) => WriteOutcome::Replayed(Effect { row: shown(effect.row), ..effect }),
            WriteOutcome::Missing => WriteOutcome::Missing,
        })
    }

    async fn effect(&self, caller: &str, key: Uuid) -> Result<Option<Effect>, RepositoryError> {
        Ok(self.0.effect(caller, key).await?.map(|effect| Effect { row: shown(effect.row), ..effect }))
    }
}
