//! A service on a socket.

use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// How long a stopping service waits for requests under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// A service that listens on a socket until it is stopped or dropped.
#[derive(Debug)]
pub struct DatasyncServer {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl DatasyncServer {
    /// Listens on `address`, port 0 for any free one. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn start(address: SocketAddr, router: Router) -> io::Result<DatasyncServer> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (end, ended) = oneshot::channel::<()>();
        let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
            // The sender's end is a signal too.
            let _ = ended.await;
        });
        let task = tokio::spawn(async move { serving.await });
        Ok(DatasyncServer { address, end: Some(end), task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers the requests under way, within 2 s, closes every connection and listens no more.
    pub async fn stop(mut self) {
        self.end.take();
        let ended = tokio::time::timeout(PATIENCE, &mut self.task).await;
        if ended.is_err() {
            self.task.abort();
        }
    }
}
