//! The tables of the reference's test services, and the rows that they begin with.

use std::{borrow::Cow, fs, path::Path, sync::Arc};

use async_trait::async_trait;
use axum::{Router, extract::Request, http::HeaderMap};
use base64::{Engine, prelude::BASE64_STANDARD};
use datasync_core::{
    query::{Dialect, Expr},
    schema::{FieldKind, FieldSchema, Name, TableSchema},
};
use datasync_server::{AccessControl, DatasyncService, MemoryRepository, TableOperation, TableOptions};
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::azure::{AzureMovies, is_rating};

type Error = Box<dyn std::error::Error + Send + Sync>;

const RATINGS: &[Name] = &[
    Cow::Borrowed("Unrated"),
    Cow::Borrowed("G"),
    Cow::Borrowed("PG"),
    Cow::Borrowed("PG13"),
    Cow::Borrowed("NC17"),
    Cow::Borrowed("R"),
];
const MOVIE: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("title", FieldKind::Text, false),
    FieldSchema::new("duration", FieldKind::I64, false),
    FieldSchema::new("rating", FieldKind::Enum(Cow::Borrowed(RATINGS)), false),
    FieldSchema::new("releaseDate", FieldKind::Date, false),
    FieldSchema::new("bestPictureWinner", FieldKind::Bool, false),
    FieldSchema::new("year", FieldKind::I64, false),
];
const AZURE_MOVIE: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("title", FieldKind::Text, false),
    FieldSchema::new("duration", FieldKind::I64, false),
    FieldSchema::new("rating", FieldKind::Text, true),
    FieldSchema::new("releaseDate", FieldKind::Timestamp, false),
    FieldSchema::new("bestPictureWinner", FieldKind::Bool, false),
    FieldSchema::new("year", FieldKind::I64, false),
];
const KITCHEN_SINK: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("stringValue", FieldKind::Text, true),
    FieldSchema::new("pointValue", FieldKind::Point, true),
    FieldSchema::new("dateOnlyValue", FieldKind::Date, true),
    FieldSchema::new("timeOnlyValue", FieldKind::Time, true),
];
const DATE_TIME: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("dateOnly", FieldKind::Date, true),
    FieldSchema::new("timeOnly", FieldKind::Time, true),
];

/// Where the rows of a table come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Movies,
    /// Those rated R are deleted beforehand.
    SoftMovies,
    KitchenSink,
    DateTime,
}

const TABLES: &[(&str, Source)] = &[
    ("api/in-memory/movies", Source::Movies),
    ("tables/movies", Source::Movies),
    ("api/in-memory/pagedmovies", Source::Movies),
    ("tables/movies_pagesize", Source::Movies),
    ("api/in-memory/softmovies", Source::SoftMovies),
    ("tables/soft", Source::SoftMovies),
    ("tables/soft_logged", Source::SoftMovies),
    ("api/in-memory/kitchensink", Source::KitchenSink),
    ("tables/datetime", Source::DateTime),
    ("api/authorized/movies", Source::Movies),
    ("tables/movies_rated", Source::Movies),
    ("tables/movies_legal", Source::Movies),
];

/// The data sets, and the tables that were filled from them.
#[derive(Clone)]
pub(crate) struct Data {
    movies: Value,
    days: Value,
    countries: Value,
    tables: Vec<(Source, MemoryRepository)>,
}

fn read(folder: &Path, file: &str, member: &str) -> Result<Value, Error> {
    let path = folder.join(file);
    let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut whole: Value = serde_json::from_slice(&bytes)?;
    Ok(whole[member].take())
}

impl Data {
    /// Reads the data sets in a folder, and fills the tables.
    pub(crate) fn load(folder: &Path) -> Result<Data, Error> {
        let data = Data {
            movies: read(folder, "movies.json", "movies")?,
            days: read(folder, "datetime365.json", "rows")?,
            countries: read(folder, "countries.json", "countries")?,
            tables: TABLES.iter().map(|(_, source)| (*source, MemoryRepository::new())).collect(),
        };
        data.reset()?;
        Ok(data)
    }

    /// Puts everything back.
    pub(crate) fn reset(&self) -> Result<(), Error> {
        for (source, rows) in &self.tables {
            rows.clear();
            rows.seed(self.rows(*source))?;
        }
        Ok(())
    }

    fn rows(&self, source: Source) -> Value {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut rows = match source {
            Source::Movies | Source::SoftMovies => list(&self.movies),
            Source::KitchenSink => list(&self.days)
                .iter()
                .map(|day| json!({ "id": day["ct_id"], "dateOnlyValue": day["date"], "timeOnlyValue": day["time"] }))
                .chain(list(&self.countries).iter().map(|country| {
                    let point = json!({ "type": "Point", "coordinates": [country["lon"], country["lat"]] });
                    json!({ "id": country["id"], "stringValue": country["name"], "pointValue": point })
                }))
                .collect(),
            Source::DateTime => list(&self.days)
                .iter()
                .map(|day| json!({ "id": day["azure_id"], "dateOnly": day["date"], "timeOnly": day["time"] }))
                .collect(),
        };
        if source == Source::SoftMovies {
            for row in rows.iter_mut().filter(|row| row["rating"] == "R") {
                row["deleted"] = true.into();
            }
        }
        rows.into()
    }

    /// The service without its reset: in Azure's dialect for who names a `ZUMO-API-VERSION`, in the Toolkit's for others.
    pub(crate) fn router(&self) -> Result<Router, Error> {
        let (mut toolkit, mut azure) = (DatasyncService::builder(), DatasyncService::builder().dialect(Dialect::Azure));
        for ((path, source), (_, rows)) in TABLES.iter().zip(&self.tables) {
            toolkit = toolkit.table(options(path, *source, Dialect::Toolkit), rows.clone());
            let options = options(path, *source, Dialect::Azure);
            azure = match source {
                Source::Movies | Source::SoftMovies => azure.table(options, AzureMovies(rows.clone())),
                Source::KitchenSink | Source::DateTime => azure.table(options, rows.clone()),
            };
        }
        let (toolkit, azure) = (toolkit.build()?, azure.build()?);
        Ok(Router::new().fallback(async move |request: Request| {
            let router = if names_version(&request) { azure } else { toolkit };
            router.oneshot(request).await
        }))
    }
}

/// Whether a request names a version of Azure's protocol.
fn names_version(request: &Request) -> bool {
    let name = "zumo-api-version";
    let parameters = request.uri().query().unwrap_or_default().split('&');
    let named = |part: &str| part.split('=').next().is_some_and(|part| part.eq_ignore_ascii_case(name));
    request.headers().contains_key(name) || parameters.into_iter().any(named)
}

fn options(path: &str, source: Source, dialect: Dialect) -> TableOptions {
    let fields = if dialect == Dialect::Azure { AZURE_MOVIE } else { MOVIE };
    let options = match source {
        Source::Movies | Source::SoftMovies => {
            let options = TableOptions::new(TableSchema::new("movies", fields, &[]));
            options.validate(if dialect == Dialect::Azure { valid_for_azure } else { valid })
        }
        Source::KitchenSink => TableOptions::new(TableSchema::new("kitchensink", KITCHEN_SINK, &[])),
        Source::DateTime => TableOptions::new(TableSchema::new("datetime", DATE_TIME, &[])),
    };
    let options = options.path(path).soft_delete(source == Source::SoftMovies);
    match path {
        "api/in-memory/pagedmovies" | "tables/movies_pagesize" => options.page_size(25),
        "api/authorized/movies" | "tables/movies_rated" => options.access(RatedR),
        "tables/movies_legal" => options.access(RatedR).unauthorized_status(451),
        _ => options,
    }
}

fn valid_for_azure(movie: &Map<String, Value>) -> Vec<String> {
    let mut messages = valid(movie);
    if !movie.get("rating").is_none_or(is_rating) {
        messages.push("The rating must be one of G, PG, PG-13, R and NC-17, or null.".to_owned());
    }
    messages
}

fn valid(movie: &Map<String, Value>) -> Vec<String> {
    let number = |name: &str| movie.get(name).and_then(Value::as_i64).unwrap_or(0);
    let title = movie.get("title").and_then(Value::as_str).unwrap_or_default().chars().count();
    let checks = [
        ((2..=60).contains(&title), "The title must have 2 to 60 characters."),
        ((60..=360).contains(&number("duration")), "The duration must be 60 to 360."),
        ((1920..=2030).contains(&number("year")), "The year must be 1920 to 2030."),
        (movie.get("releaseDate").is_some_and(Value::is_string), "The release date is required."),
    ];
    checks.into_iter().filter(|(holds, _)| !holds).map(|(_, message)| message.to_owned()).collect()
}

/// The reference's access control: movies rated R, for who is signed in, and their titles in upper case. It believes
/// whatever a header says, which is for tests alone.
#[derive(Debug)]
struct RatedR;

#[async_trait]
impl AccessControl for RatedR {
    fn caller(&self, headers: &HeaderMap) -> Arc<str> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let principal = text("x-ms-client-principal");
        let decoded = BASE64_STANDARD.decode(&principal).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let says = [principal, decoded.unwrap_or_default()].concat();
        if says.contains("success") { "success".into() } else { "".into() }
    }

    fn view(&self, _: &str) -> Option<Expr> {
        "rating eq 'R'".parse().ok()
    }

    async fn authorize(&self, caller: &str, _: TableOperation, _: Option<&Map<String, Value>>) -> bool {
        caller == "success"
    }

    async fn before_commit(&self, _: &str, _: TableOperation, row: &mut Map<String, Value>) -> Result<(), String> {
        if let Some(Value::String(title)) = row.get_mut("title") {
            *title = title.to_uppercase();
        }
        Ok(())
    }
}
