//! A service behind a real socket, that looks from the front like one in process: so the same test runs over both.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};
use datasync_server::DatasyncServer;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::OnceCell};

/// A router that passes each request on to the service over a connection of its own. The service listens from the first
/// request on, and until the last router is gone.
pub(crate) fn over(service: Router) -> Router {
    let server: Arc<OnceCell<DatasyncServer>> = Arc::default();
    Router::new().fallback(move |request: Request<Body>| {
        let (server, service) = (Arc::clone(&server), service.clone());
        async move {
            let start = || DatasyncServer::start(([127, 0, 0, 1], 0).into(), service);
            let server = server.get_or_try_init(start).await.expect("a free port");
            pass_on(server.address(), request).await.unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
        }
    })
}

async fn pass_on(
    address: std::net::SocketAddr,
    mut request: Request<Body>,
) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer's body, or when nobody reads that any more.
    tokio::spawn(connection);
    request.headers_mut().insert("host", address.to_string().parse()?);
    Ok(sender.send_request(request).await?.map(Body::new))
}
