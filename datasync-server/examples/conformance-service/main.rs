//! The test service of the reference, from memory: for the conformance cases, and for clients of the originals.

mod azure;
mod data;

use std::{net::SocketAddr, path::PathBuf};

use axum::{http::StatusCode, routing::post};
use clap::Parser;
use data::Data;
use datasync_server::DatasyncServer;

/// Serves the reference's test tables.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder of the data sets.
    #[arg(long)]
    data: PathBuf,
    /// The address to listen on; port 0 for any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let arguments = Arguments::parse();
    let data = Data::load(&arguments.data)?;
    let resets = data.clone();
    let reset = async move || match resets.reset() {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let router = data.router()?.route("/__reset", post(reset));
    let server = DatasyncServer::start(arguments.listen, router).await?;
    println!("listening on http://{}", server.address());
    std::future::pending().await
}
