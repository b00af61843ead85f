//! An offline-first app against a real service: two devices, one film collection, and no network in between.
//!
//! `cargo run --release --features server --example quickstart` (and `-- --data FILE` for films of your own).

use std::{error::Error, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use datasync::{
    prelude::*,
    server::{DatasyncServer, DatasyncService, MemoryRepository, TableOptions},
};
use futures::{
    StreamExt,
    future::{Either, select},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEnum)]
enum Certificate {
    Unrated,
    G,
    #[serde(rename = "PG")]
    Pg,
    #[serde(rename = "PG-13")]
    Pg13,
    R,
    #[serde(rename = "NC-17")]
    Nc17,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
struct Film {
    id: String,
    title: String,
    #[sync(index)]
    year: i32,
    minutes: u32,
    certificate: Certificate,
    /// Stays on this device: no service ever sees it.
    #[sync(local)]
    #[serde(default)]
    note: Option<String>,
}

/// What an app would keep in a file: here, the service wins conflicts, and what loses is kept.
const CONFIG: &str = r#"
[sync]
conflict = "server-wins"
page_size = 50
"#;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("\nThe devices and the service do NOT agree.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\nThis went wrong: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool> {
    let rows = MemoryRepository::new();
    let films = rows.seed(films()?)?;
    let mut service = start("127.0.0.1:0".parse()?, &rows).await?;
    let address = service.address();
    let folder = tempfile::tempdir()?;
    title("The service and two devices");
    say(format!("A service with {films} films listens on http://{address}."));
    let (phone_client, phone) = device(folder.path(), "phone", address).await?;
    let (laptop_client, laptop) = device(folder.path(), "laptop", address).await?;

    title("First pull: each device gets its own copy");
    pull(&phone_client, &phone, "phone").await?;
    pull(&laptop_client, &laptop, "laptop").await?;

    title("The network goes away");
    service.stop(Duration::from_secs(2)).await;
    say("The service is stopped. Everything that follows happens on the devices alone.");
    let long = phone.query().filter(|f| f.minutes.gt(180_u32).and(f.year.ge(1960))).order_by(|f| f.year.asc());
    let long = long.to_vec().await?;
    say(format!(
        "phone searches films since 1960 of more than three hours: {} found, first {}.",
        long.len(),
        name(&long[0])
    ));
    let found = laptop.query().filter(|f| f.title.contains("Godfather")).order_by(|f| f.year.desc()).to_vec().await?;
    say(format!("laptop searches \"Godfather\": {}.", found.iter().map(name).collect::<Vec<_>>().join(", ")));

    let mut seen = long[0].clone();
    seen.note = Some("seen in the open air".to_owned());
    phone.replace(seen).await?;
    say("phone writes a private note on a film: it is local, so that nothing is queued.");
    let added = phone.insert(film("A Film From the Phone", 2024, 95)).await?;
    phone.delete(&long[1].id).await?;
    say(format!("phone adds \"{}\" and deletes {}.", added.title, name(&long[1])));
    laptop.insert(film("A Film From the Laptop", 2025, 101)).await?;
    let shared = found[0].clone();
    phone.replace(Film { title: format!("{} (phone's title)", shared.title), ..shared.clone() }).await?;
    laptop.replace(Film { title: format!("{} (laptop's title)", shared.title), ..shared.clone() }).await?;
    say(format!("Both change the title of {}: that will be a conflict.", name(&shared)));
    match phone.push_items().await {
        Err(error) if error.kind() == ErrorKind::Unreachable => {
            say("phone tries to push: no network. Nothing is lost.")
        }
        other => return Err(format!("a push without a network ended with {other:?}").into()),
    }
    for (name, client) in [("phone", &phone_client), ("laptop", &laptop_client)] {
        say(format!("{name} has {} changes in its operations queue.", client.pending().await?.len()));
    }

    title("The network comes back");
    service = start(address, &rows).await?;
    say("The service runs again, at the same address and with the same rows.");
    let report = phone_client.push_tables(Tables::all()).await?;
    say(format!("phone pushes first: {} operations done, {} conflicts.", report.pushed, report.settled));
    let report = laptop_client.push_tables(Tables::all()).await?;
    say(format!(
        "laptop pushes: {} done, and {} conflict settled by the policy \"server-wins\".",
        report.pushed, report.settled
    ));
    for loser in laptop_client.settled_losers().await? {
        say(format!(
            "The title that lost is kept on the laptop as a settled loser: \"{}\".",
            loser.entity::<Film>()?.title
        ));
    }
    phone.pull_items(phone.query()).await?;
    laptop.pull_items(laptop.query()).await?;
    let title_now = phone.get(&shared.id).await?.map(|film| film.title).unwrap_or_default();
    say(format!("After one pull each, both say \"{title_now}\"."));

    title("Purge: making room on the phone");
    phone.replace(Film { minutes: shared.minutes + 1, title: title_now, ..shared.clone() }).await?;
    match phone.purge_items(PurgeOptions::default()).await {
        Err(error) if error.kind() == ErrorKind::Pending => say(format!("Refused: {error}.")),
        other => return Err(format!("a purge with an unsent change ended with {other:?}").into()),
    }
    let report = phone.purge_items(PurgeOptions::default().force()).await?;
    say(format!(
        "Forced: {} rows are gone from the phone, and {} unsent change with them.",
        report.rows, report.dropped
    ));
    pull(&phone_client, &phone, "phone").await?;

    title("Do all three agree?");
    let (on_phone, on_laptop) = (contents(&phone).await?, contents(&laptop).await?);
    let mut on_service: Vec<(String, Film)> = Vec::new();
    for row in rows.rows().into_iter().filter(|row| !row.record.deleted) {
        on_service.push((row.id.to_string(), serde_json::from_slice(row.record.body.as_bytes())?));
    }
    let agree = on_phone == on_service && on_laptop == on_service;
    say(format!("phone {} films, laptop {}, service {}.", on_phone.len(), on_laptop.len(), on_service.len()));
    if agree {
        say("Every film is the same on the phone, on the laptop and on the service.");
    }
    service.stop(Duration::from_secs(2)).await;
    Ok(agree)
}

/// The service: one table, with soft delete, so that deletions reach the other devices.
async fn start(address: SocketAddr, rows: &MemoryRepository) -> Result<DatasyncServer> {
    let table = TableOptions::of::<Film>().soft_delete(true);
    let router = DatasyncService::builder().table(table, rows.clone()).build()?;
    Ok(DatasyncServer::start(address, router).await?)
}

/// A device: one file, one address, one configuration.
async fn device(folder: &Path, name: &str, service: SocketAddr) -> Result<(DatasyncClient, OfflineTable<Film>)> {
    let client = DatasyncClient::builder()
        .store(RedbStore::open(folder.join(format!("{name}.redb")))?)
        .transport(HttpTransport::new(&format!("http://{service}"))?)
        .config(SyncConfig::from_toml(CONFIG)?)
        .table::<Film>()
        .build()
        .await?;
    let table = client.offline_table();
    say(format!("{name} keeps its films in {name}.redb."));
    Ok((client, table))
}

/// A pull with a progress bar, driven by the client's events.
async fn pull(client: &DatasyncClient, films: &OfflineTable<Film>, device: &str) -> Result<()> {
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("  {prefix:7} [{bar:40}] {pos}/{len} rows")?);
    bar.set_prefix(device.to_owned());
    let mut events = client.events();
    let mut pulling = std::pin::pin!(films.pull_items(films.query()));
    let pulled = loop {
        match select(pulling.as_mut(), events.next()).await {
            Either::Left((pulled, _)) => break pulled?,
            Either::Right((Some(SyncEvent::PageCommitted { done, total, .. }), _)) => {
                bar.set_length(total.unwrap_or(done).max(done));
                bar.set_position(done);
            }
            Either::Right(_) => {}
        }
    };
    bar.finish();
    say(format!("{device} received {} rows in {} pages: {} new.", pulled.received, pulled.pages, pulled.inserted));
    Ok(())
}

async fn contents(table: &OfflineTable<Film>) -> Result<Vec<(String, Film)>> {
    let films = table.query().to_vec().await?;
    Ok(films.into_iter().map(|film| (film.id.clone(), Film { note: None, ..film })).collect())
}

fn film(title: &str, year: i32, minutes: u32) -> Film {
    Film { id: String::new(), title: title.to_owned(), year, minutes, certificate: Certificate::Unrated, note: None }
}

fn name(film: &Film) -> String {
    format!("{} ({})", film.title, film.year)
}

/// The films of `--data FILE`, or those beside this example.
fn films() -> Result<serde_json::Value> {
    let mut arguments = std::env::args().skip(1);
    let text = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => include_str!("data/films.json").to_owned(),
        (Some("--data"), Some(file)) => {
            std::fs::read_to_string(&file).map_err(|error| format!("{file} cannot be read: {error}"))?
        }
        _ => return Err("the only argument is --data FILE, a JSON array of films".into()),
    };
    let films: serde_json::Value = serde_json::from_str(&text)?;
    for film in films.as_array().ok_or("the data is not a JSON array")? {
        let mut film = film.clone();
        film["id"] = "checked".into();
        serde_json::from_value::<Film>(film.clone()).map_err(|error| format!("{film} is not a film: {error}"))?;
    }
    Ok(films)
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn say(text: impl AsRef<str>) {
    println!("  {}", text.as_ref());
}
