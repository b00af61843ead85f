//! The service: the tables of a TOML file, kept in a redb file.

mod config;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use config::Config;
use datasync_server::DatasyncServer;
use tokio::signal;

/// How long requests under way are answered after a signal to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves the tables of a configuration file to apps that sync with Datasync.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration.
    #[arg(long, default_value = "datasync-server.toml")]
    config: PathBuf,
    /// The address to listen on, in place of the configured one.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// After the data was restored from a backup: makes every client pull everything again.
    #[arg(long)]
    restored: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("datasync-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read(&arguments.config)?;
    let database = config.open()?;
    if arguments.restored {
        database.renew_epoch()?;
    }
    let listen = arguments.listen.unwrap_or(config.listen);
    let router = config.router(&database)?;
    // Before it listens, so that a signal right after the start is not missed.
    let stopped = stopped()?;
    let server = DatasyncServer::start(listen, router)
        .await
        .map_err(|error| format!("`{listen}` cannot be listened on: {error}"))?;
    if !server.address().ip().is_loopback() {
        eprintln!("this service has no TLS and lets everybody in: put a gateway before it");
    }
    println!("listening on http://{}", server.address());
    stopped.await;
    server.stop(PATIENCE).await;
    Ok(())
}

/// Ends with SIGTERM or Ctrl-C.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminated = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    Ok(async move {
        #[cfg(unix)]
        let terminated = terminated.recv();
        #[cfg(not(unix))]
        let terminated = std::future::pending::<()>();
        tokio::select! {
            _ = terminated => {}
            _ = signal::ctrl_c() => {}
        }
    })
}
