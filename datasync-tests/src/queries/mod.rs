//! The property of queries: the same query gives the same rows in the same order from a local store, with and without indexes,
//! in memory and in redb, and from a service.
//!
//! Everything hangs on a seed. `cargo run --release -p datasync-tests --bin queries -- 100000` runs as many.

mod grammar;
mod random;
mod rows;

use std::{borrow::Cow, collections::BTreeMap};

use axum::Router;
use datasync_core::{
    client::{DatasyncClient, OfflineTable, RemoteTable},
    entity::{InvalidId, SyncEntity},
    memory::MemoryStore,
    query::{Dialect, Expr, Query, QueryDescription, index_keys, table_spec},
    row::{Body, Record, Row, RowKey},
    schema::TableSchema,
    store::{RowWrite, Store, WriteBatch},
};
use datasync_http::{Exchange, HttpRequest, HttpTransport, Method};
use datasync_redb::RedbStore;
use datasync_server::{
    Action, Change, DatasyncServer, DatasyncService, MemoryRepository, RedbDatabase, Repository, TableOptions,
};
use grammar::Grammar;
use random::Random;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::{RouterExchange, Wire};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How many rows a table has.
const ROWS: usize = 60;
/// How many queries meet the same rows.
const QUERIES_A_WORLD: u64 = 250;

/// A row of which only the id is looked at.
macro_rules! thing {
    ($name:ident, $schema:expr) => {
        #[derive(Clone, Debug, Serialize, Deserialize)]
        struct $name {
            id: String,
        }

        impl SyncEntity for $name {
            type Fields = ();
            const FIELDS: () = ();
            const TABLE: &'static str = "thing";
            const SCHEMA: TableSchema = $schema;

            fn id(&self) -> Cow<'_, str> {
                self.id.as_str().into()
            }

            fn set_id(&mut self, id: &str) -> Result<(), InvalidId> {
                self.id = id.to_owned();
                Ok(())
            }
        }
    };
}

thing!(Plain, rows::PLAIN);
thing!(Indexed, rows::INDEXED);

/// What was asked, and how it was answered.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many queries were answered, and by all sides alike.
    pub answered: u64,
    /// How many of them over a socket too.
    pub over_a_socket: u64,
    /// How many did not fit the table, and were refused by all sides.
    pub refused: u64,
    /// How many rows were found in all.
    pub rows: u64,
    /// How many queries took which way to their rows.
    pub ways: BTreeMap<String, u64>,
    /// What was not as it must be.
    pub differences: Vec<String>,
}

/// Asks so many random queries, and one of `socket` that are answered over a socket too.
///
/// # Errors
///
/// What keeps the sides from being made; a difference is none.
pub async fn run(queries: u64, seed: u64, socket: u64) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut random = Random::new(seed);
    let mut asked = 0;
    while asked < queries {
        let world = World::new(&mut random).await?;
        for _ in 0..QUERIES_A_WORLD.min(queries - asked) {
            let query = Grammar(&mut random).query();
            // One that is refused does not count: the next one goes in its place.
            let over_a_socket = socket > 0 && report.over_a_socket * socket <= asked;
            if let Err(difference) = world.ask(&query, over_a_socket, &mut report).await {
                report.differences.push(format!("seed {seed}, query {asked}, `{query}`: {difference}"));
            }
            asked += 1;
        }
        world.stop().await;
    }
    Ok(report)
}

/// The same rows on every side.
struct World {
    memory: OfflineTable<Plain>,
    indexed: OfflineTable<Indexed>,
    redb: OfflineTable<Indexed>,
    service: RemoteTable<Plain>,
    service_in_redb: RemoteTable<Plain>,
    over_a_socket: RemoteTable<Plain>,
    exchange: RouterExchange,
    server: DatasyncServer,
    _clients: Vec<DatasyncClient>,
    _folder: TempDir,
}

/// A local table with these rows.
async fn local<E: SyncEntity>(
    store: impl Store + Clone,
    rows: &[datasync_server::Row],
) -> Result<(DatasyncClient, OfflineTable<E>), Error> {
    let schema = E::SCHEMA;
    store.open(&[table_spec(&schema)]).await?;
    let mut batch = WriteBatch { number: 1, ..WriteBatch::default() };
    for row in rows {
        let index_keys = index_keys(&schema, &row.id, &row.record)?;
        let key = RowKey::new(schema.name.as_ref(), std::sync::Arc::clone(&row.id));
        let row = Row { record: Some(row.record.clone()), ..Row::default() };
        batch.rows.push(RowWrite::Put { key, row, index_keys });
    }
    store.commit(batch).await?;
    let transport = HttpTransport::new("http://localhost")?;
    let client = DatasyncClient::builder().store(store).transport(transport).table::<E>().build().await?;
    let table = client.offline_table();
    Ok((client, table))
}

/// A table of a service that is reached like this.
async fn remote(transport: HttpTransport) -> Result<(DatasyncClient, RemoteTable<Plain>), Error> {
    let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport).table::<Plain>();
    let client = builder.build().await?;
    let table = client.remote_table();
    Ok((client, table))
}

fn in_process(exchange: RouterExchange) -> Result<HttpTransport, Error> {
    Ok(HttpTransport::builder("http://service").retries(0).exchange(exchange).build()?)
}

fn router(rows: impl Repository) -> Result<Router, Error> {
    // Small pages, so that queries lead over several.
    let things = TableOptions::new(rows::PLAIN).soft_delete(true).page_size(17);
    Ok(DatasyncService::builder().table(things, rows).build()?)
}

impl World {
    async fn new(random: &mut Random) -> Result<World, Error> {
        let folder = tempfile::tempdir()?;
        let (memory, database) = (MemoryRepository::new(), RedbDatabase::open(folder.path().join("service.redb"))?);
        let file = database.table("thing");
        let mut writes = Vec::new();
        for number in 0..ROWS {
            let id = format!("row-{}", if random.chance(50) { number * 7 % ROWS } else { number + 100 });
            let body = Body::from(rows::body(random, &id));
            let record = Record { body, version: None, updated_at: None, deleted: random.chance(10) };
            let now = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_millis(random.below(20) as i64);
            let change =
                Change { id: id.into(), action: Action::Create(record), expected: None, now, key: None, forget: None };
            memory.write(change.clone()).await?;
            writes.push(file.write(change));
        }
        for written in futures::future::join_all(writes).await {
            written?;
        }
        let rows = memory.rows();
        let exchange = RouterExchange::new(Wire::Extended.lead_to(router(memory.clone())?));
        let server = DatasyncServer::start("127.0.0.1:0".parse()?, router(memory)?).await?;
        let (one, plain) = local::<Plain>(MemoryStore::new(), &rows).await?;
        let (two, indexed) = local::<Indexed>(MemoryStore::new(), &rows).await?;
        let (three, redb) = local::<Indexed>(RedbStore::open(folder.path().join("device.redb"))?, &rows).await?;
        let (four, service) = remote(in_process(exchange.clone())?).await?;
        let (five, service_in_redb) =
            remote(in_process(RouterExchange::new(Wire::Extended.lead_to(router(file)?)))?).await?;
        let (six, over_a_socket) = remote(HttpTransport::new(&format!("http://{}", server.address()))?).await?;
        Ok(World {
            memory: plain,
            indexed,
            redb,
            service,
            service_in_redb,
            over_a_socket,
            exchange,
            server,
            _clients: vec![one, two, three, four, five, six],
            _folder: folder,
        })
    }

    async fn stop(self) {
        self.server.stop(std::time::Duration::from_secs(1)).await;
    }

    /// Asks every side, and says in which way they differ.
    async fn ask(&self, query: &QueryDescription, over_a_socket: bool, report: &mut Report) -> Result<(), Error> {
        text_is_stable(query)?;
        let Ok(plain) = Query::<Plain>::of(query.clone()) else {
            if Query::<Indexed>::of(query.clone()).is_ok() {
                return Err("an index makes the query one that fits".into());
            }
            let url = format!("http://service/tables/thing?{}", query.to_query_string(Dialect::Toolkit)).parse()?;
            let get = HttpRequest { method: Method::Get, url, headers: Vec::new(), body: Vec::new() };
            let status = self.exchange.send(get, usize::MAX).await.map_err(|_| "no answer")?.status;
            report.refused += 1;
            return if status == 400 { Ok(()) } else { Err(format!("the service answers {status}").into()) };
        };
        let wanted = offline(&self.memory, plain.clone()).await?;
        let with_indexes = Query::<Indexed>::of(query.clone())?;
        let way = self.redb.query().with(with_indexes.clone()).explain()?;
        let mut sides = vec![
            ("memory with indexes", offline(&self.indexed, with_indexes.clone()).await?),
            ("redb with indexes", offline(&self.redb, with_indexes).await?),
            ("the service", online(&self.service, plain.clone()).await?),
        ];
        // Two services do not give a row the same version.
        if !query.order.iter().any(|key| key.field == "version") {
            sides.push(("the service over redb", online(&self.service_in_redb, plain.clone()).await?));
        }
        if over_a_socket {
            sides.push(("the service over a socket", online(&self.over_a_socket, plain).await?));
            report.over_a_socket += 1;
        }
        for (side, found) in sides {
            if found != wanted {
                return Err(format!("{side} finds {found:?}, memory {wanted:?}; {way}").into());
            }
        }
        report.answered += 1;
        report.rows += wanted.0.len() as u64;
        *report.ways.entry(kind_of_way(&way.to_string())).or_default() += 1;
        Ok(())
    }
}

/// A way without its numbers and names.
fn kind_of_way(way: &str) -> String {
    let how = ["filtered", "then sorted", "in order"].iter().filter_map(|word| way.find(&format!(", {word}"))).min();
    let (place, how) = way.split_at(how.unwrap_or(way.len()));
    let kind = match place {
        "all rows" => place,
        place if place.starts_with("the whole index") => "a whole index",
        place if place.contains(" of the index ") => "ranges of an index",
        place if place.ends_with(" of ids") => "ranges of ids",
        other => other,
    };
    format!("{kind}{how}")
}

type Found = (Vec<String>, u64);

/// The ids, and how many there are before `skip` and `top`: both as told with the rows, and as counted alone.
async fn offline<E: SyncEntity>(table: &OfflineTable<E>, query: Query<E>) -> Result<Found, Error> {
    let asked = table.query().with(query);
    let counted = asked.clone().count().await?;
    let found = asked.to_rows().await?;
    if found.total != Some(counted) {
        return Err(format!("{:?} rows with the rows, {counted} counted alone", found.total).into());
    }
    Ok((found.rows.iter().map(|row| row.id().into_owned()).collect(), counted))
}

async fn online(table: &RemoteTable<Plain>, query: Query<Plain>) -> Result<Found, Error> {
    let found = table.query().with(query).to_rows().await?;
    let total = found.total.ok_or("the service does not count")?;
    Ok((found.rows.iter().map(|row| row.id().into_owned()).collect(), total))
}

/// What is printed is read again as the same, however it is sent.
fn text_is_stable(query: &QueryDescription) -> Result<(), Error> {
    for dialect in [Dialect::Toolkit, Dialect::Azure] {
        let sent = query.to_query_string(dialect);
        let read = QueryDescription::from_query_string(&sent)?;
        let again = read.to_query_string(dialect);
        if again != sent {
            return Err(format!("`{sent}` is read and written as `{again}`").into());
        }
        if query.parameters.is_empty() && query.to_text(dialect).parse::<QueryDescription>()? != read {
            return Err(format!("`{}` is another query when it is sent", query.to_text(dialect)).into());
        }
    }
    if let Some(filter) = &query.filter {
        let text = filter.to_string();
        let again = text.parse::<Expr>()?.to_string();
        if again != text {
            return Err(format!("`{text}` is printed as `{again}`").into());
        }
    }
    Ok(())
}
