//! The service that other devices sync with.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use datasync::server::{DatasyncServer, DatasyncService, RedbDatabase, TableOptions};

use crate::{Failure, model::Todo};

/// The file of the service's rows.
const FILE: &str = "service.redb";

pub(crate) async fn run(folder: &Path, listen: SocketAddr) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| format!("`{}` cannot be made: {error}", folder.display()))?;
    let path = folder.join(FILE);
    let database = RedbDatabase::open(&path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    let todos = TableOptions::of::<Todo>().soft_delete(true);
    let router = DatasyncService::builder().table(todos, database.table("todo")).build()?;
    let server = DatasyncServer::start(listen, router).await;
    let server = server.map_err(|error| format!("`{listen}` cannot be listened on: {error}"))?;
    println!("listening on http://{}", server.address());
    tokio::signal::ctrl_c().await?;
    server.stop(Duration::from_secs(10)).await;
    Ok(())
}
