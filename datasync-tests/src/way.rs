//! The way to a service, in process or over a socket: so the same test runs over both.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use axum::{Router, body::Body, http::Request, response::Response};
use datasync_http::{Exchange, ExchangeError, ExchangeErrorKind, HttpRequest, HttpResponse, HttpStream, HttpTransport};
use datasync_server::DatasyncServer;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::OnceCell;
use tower::ServiceExt;

use crate::Wire;

/// The way to a service: as it is, or over a socket of its own with the client that apps have.
#[derive(Clone)]
pub struct Way {
    router: Router,
    socket: Option<Arc<Socket>>,
}

/// The service listens from the first request on, and until the last way to it is gone.
struct Socket {
    server: OnceCell<DatasyncServer>,
    client: Arc<dyn Exchange>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.socket.is_some() { "a socket" } else { "a router" })
    }
}

impl Wire {
    /// The way to a service.
    #[must_use]
    pub fn lead_to(self, service: Router) -> Way {
        Way::new(service, matches!(self, Wire::OriginalOnSocket | Wire::ExtendedOnSocket))
    }
}

impl Way {
    fn new(router: Router, has_socket: bool) -> Way {
        let socket = has_socket.then(|| {
            let transport = HttpTransport::new("http://service").expect("the address is right");
            Arc::new(Socket { server: OnceCell::new(), client: transport.exchange() })
        });
        Way { router, socket }
    }

    /// Such a way to the service with something before it.
    #[must_use]
    pub fn behind(self, layer: impl FnOnce(Router) -> Router) -> Way {
        Way::new(layer(self.router), self.socket.is_some())
    }

    /// The service itself.
    pub fn into_router(self) -> Router {
        self.router
    }

    async fn answer(&self, request: HttpRequest) -> Response {
        let path = &request.url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut outgoing = Request::builder().method(request.method.as_str()).uri(path);
        for (name, value) in &request.headers {
            outgoing = outgoing.header(name.as_ref(), value);
        }
        let outgoing = outgoing.body(Body::from(request.body)).expect("the codec makes requests");
        self.router.clone().oneshot(outgoing).await.expect("a router answers")
    }
}

impl Socket {
    /// The request as it goes to where the service listens.
    async fn address(&self, router: &Router, mut request: HttpRequest) -> HttpRequest {
        let start = || DatasyncServer::start(([127, 0, 0, 1], 0).into(), router.clone());
        let address = self.server.get_or_try_init(start).await.expect("a free port").address();
        request.url.set_ip_host(address.ip()).expect("a service has a host");
        request.url.set_port(Some(address.port())).expect("a service has a port");
        request
    }
}

fn head(response: &Response) -> HttpResponse {
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
    HttpResponse { status: response.status().as_u16(), headers: headers.collect(), body: Vec::new() }
}

#[async_trait]
impl Exchange for Way {
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError> {
        if let Some(socket) = &self.socket {
            return socket.client.send(socket.address(&self.router, request).await, max_body).await;
        }
        let response = self.answer(request).await;
        let mut answer = head(&response);
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
        answer.body = body.expect("a router's body is whole").to_vec();
        if answer.body.len() > max_body { Err(ExchangeError::new(ExchangeErrorKind::TooLarge)) } else { Ok(answer) }
    }

    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError> {
        if let Some(socket) = &self.socket {
            return socket.client.stream(socket.address(&self.router, request).await).await;
        }
        let response = self.answer(request).await;
        let head = head(&response);
        let broken = |_| ExchangeError::new(ExchangeErrorKind::Interrupted);
        let body = response.into_body().into_data_stream().map_ok(Into::into).map_err(broken);
        Ok(HttpStream { head, body: body.boxed() })
    }
}
