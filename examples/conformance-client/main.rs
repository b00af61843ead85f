//! Answers questions about queries, a JSON line each: the client side of the conformance cases.

mod local;
mod translate;

use std::{
    error::Error,
    io::{self, BufRead, Write},
    path::PathBuf,
};

use clap::Parser;
use datasync::query::{Dialect, QueryDescription};
use local::Local;
use serde_json::{Value, json};

/// Answers `{"translate": …}`, `{"parse": …}` and `{"query": …, "dataset": …, "schema": …}`, each with one line.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder of the data sets.
    #[arg(long)]
    data: PathBuf,
    /// Keeps the rows in memory, and not in a redb file.
    #[arg(long)]
    memory: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut local = Local::new(arguments.data, arguments.memory)?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = answer(&mut local, &line).await.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

async fn answer(local: &mut Local, line: &str) -> Result<Value, Box<dyn Error>> {
    let asked: Value = serde_json::from_str(line)?;
    if let Some(tree) = asked.get("translate") {
        let query = translate::query(tree)?;
        let dialect = dialect(&asked, Dialect::Toolkit)?;
        return Ok(json!({ "text": query.to_text(dialect), "escaped": query.to_query_string(dialect) }));
    }
    if let Some(text) = asked.get("parse").and_then(Value::as_str) {
        // Only Azure's clients have a parser, so that what is printed again is spelled as they do.
        let dialect = dialect(&asked, Dialect::Azure)?;
        // A text that was sent percent-encoded is printed so again.
        let encoded = text.contains('%');
        let query = if encoded { QueryDescription::from_query_string(text) } else { text.parse() };
        return Ok(match query {
            Ok(query) if encoded => json!({ "text": query.to_query_string(dialect) }),
            Ok(query) => json!({ "text": query.to_text(dialect) }),
            Err(error) => json!({ "error": error.to_string(), "at": error.at() }),
        });
    }
    if let Some(text) = asked.get("query").and_then(Value::as_str) {
        let named = |name: &str| asked.get(name).and_then(Value::as_str).unwrap_or_default();
        return local.query(text, named("dataset"), named("schema")).await;
    }
    Err("a line asks to `translate`, to `parse` or for a `query`".into())
}

/// The dialect of a line.
fn dialect(asked: &Value, otherwise: Dialect) -> Result<Dialect, Box<dyn Error>> {
    match asked.get("dialect").and_then(Value::as_str) {
        None => Ok(otherwise),
        Some("ct") => Ok(Dialect::Toolkit),
        Some("azure") => Ok(Dialect::Azure),
        Some(other) => Err(format!("there is no dialect `{other}`").into()),
    }
}
