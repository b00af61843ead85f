//! A surf client that the app brings: its own way to the socket, and its own middleware.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod server;

use datasync_core::transport::{RowRequest, Transport, TransportErrorKind};
use datasync_http::HttpTransport;
use server::{Server, entity};
use smol::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use surf::{
    http::{Error, Request, Response, StatusCode},
    middleware::{Middleware, Next},
};

/// One connection a request, and nothing of tokio.
#[derive(Debug)]
struct Plain;

#[surf::utils::async_trait]
impl surf::HttpClient for Plain {
    async fn send(&self, mut request: Request) -> Result<Response, Error> {
        let address = request.url().socket_addrs(|| None)?[0];
        let body = request.take_body().into_bytes().await?;
        let url = request.url().clone();
        let target = &url[surf::http::url::Position::BeforePath..surf::http::url::Position::AfterQuery];
        let mut head = format!("{} {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n", request.method());
        for (name, values) in request.iter().filter(|(name, _)| *name != "content-length") {
            head += &format!("{name}: {}\r\n", values.last());
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&[head.as_bytes(), &body].concat()).await?;
        let mut answer = vec![0; 4096];
        let mut length = 0;
        // The server does not close: an answer of the test fits into one read, or a few.
        while !answer[..length].windows(4).any(|window| window == b"\r\n\r\n") {
            length += stream.read(&mut answer[length..]).await?;
        }
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse()?;
        let mut response = Response::new(StatusCode::try_from(status)?);
        response.set_body(body);
        Ok(response)
    }
}

/// Says who is calling.
struct Named;

#[surf::utils::async_trait]
impl Middleware for Named {
    async fn handle(
        &self,
        mut request: surf::Request,
        client: surf::Client,
        next: Next<'_>,
    ) -> surf::Result<surf::Response> {
        request.insert_header("x-app", "todo");
        next.run(request, client).await
    }
}

#[test]
fn a_client_of_the_apps_own_is_used_with_its_middleware() {
    let server = Server::start(|request| {
        assert_eq!(request.header("x-app"), Some("todo"));
        Some(entity(request.id()))
    });
    let client = surf::Client::with_http_client(Plain).with(Named);
    let builder = HttpTransport::builder(&format!("http://{}", server.address())).retries(0);
    let transport = builder.surf_client(client).build().unwrap();
    smol::block_on(async {
        for id in ["a", "b", "c"] {
            let row = transport
                .fetch(&RowRequest { include_deleted: true, ..RowRequest::new("t", id) })
                .await
                .unwrap()
                .unwrap();
            assert_eq!(row.record.version.as_deref(), Some("AQ=="));
        }
    });
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let builder = HttpTransport::builder(&format!("http://{address}")).retries(0);
    let transport = builder.surf_client(surf::Client::with_http_client(Plain)).build().unwrap();
    let error = smol::block_on(transport.fetch(&RowRequest { include_deleted: true, ..RowRequest::new("t", "a") }))
        .unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Connect, "{error}");
}
