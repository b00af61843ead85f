//! The exchange over a `surf::Client`.

use async_trait::async_trait;
use futures::AsyncReadExt;

use crate::exchange::{Exchange, ExchangeError, ExchangeErrorKind, HttpRequest, HttpResponse, Method};

#[derive(Debug)]
pub(crate) struct SurfExchange(surf::Client);

impl SurfExchange {
    pub(crate) fn new(client: surf::Client) -> SurfExchange {
        SurfExchange(client)
    }
}

/// Surf gives failures of a connection statuses of HTTP, so that only what lies beneath can be believed.
fn failed(error: surf::Error) -> ExchangeError {
    match error.downcast::<ExchangeError>() {
        Ok(error) => error,
        Err(error) => {
            let refused = error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
            let kind = if refused { ExchangeErrorKind::Connect } else { ExchangeErrorKind::Interrupted };
            ExchangeError::new(kind).with_source(error.into_inner())
        }
    }
}

#[async_trait]
impl Exchange for SurfExchange {
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError> {
        let method = match request.method {
            Method::Get => surf::http::Method::Get,
            Method::Post => surf::http::Method::Post,
            Method::Put => surf::http::Method::Put,
            Method::Patch => surf::http::Method::Patch,
            Method::Delete => surf::http::Method::Delete,
        };
        let mut outgoing = surf::Request::new(method, request.url);
        for (name, value) in request.headers {
            outgoing.insert_header(name.as_ref(), value);
        }
        if !request.body.is_empty() {
            let kind = outgoing.content_type();
            outgoing.set_body(request.body);
            if let Some(kind) = kind {
                outgoing.set_content_type(kind);
            }
        }
        let mut response = self.0.send(outgoing).await.map_err(failed)?;
        let status = u16::from(response.status());
        let mut headers = Vec::new();
        for (name, values) in response.iter() {
            headers.push((name.as_str().to_owned(), values.last().as_str().to_owned()));
        }
        let mut body = Vec::new();
        let limit = u64::try_from(max_body).unwrap_or(u64::MAX).saturating_add(1);
        let read = (&mut response).take(limit).read_to_end(&mut body).await;
        read.map_err(|error| ExchangeError::new(ExchangeErrorKind::Interrupted).with_source(error))?;
        if body.len() > max_body {
            return Err(ExchangeError::new(ExchangeErrorKind::TooLarge));
        }
        Ok(HttpResponse { status, headers, body })
    }
}
