//! The exchange over a `surf::Client`.

use async_trait::async_trait;
use futures::{AsyncReadExt, StreamExt, stream};

use crate::exchange::{Exchange, ExchangeError, ExchangeErrorKind, HttpRequest, HttpResponse, HttpStream, Method};

/// The greatest piece of a stream, in bytes.
const PIECE: usize = 8 * 1024;

#[derive(Debug)]
pub(crate) struct SurfExchange(surf::Client);

impl SurfExchange {
    pub(crate) fn new(client: surf::Client) -> SurfExchange {
        SurfExchange(client)
    }

    /// Sends the request; the body of the response is not read yet.
    async fn begin(&self, request: HttpRequest) -> Result<(HttpResponse, surf::Response), ExchangeError> {
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
        let response = self.0.send(outgoing).await.map_err(failed)?;
        let status = u16::from(response.status());
        let mut headers = Vec::new();
        for (name, values) in response.iter() {
            headers.push((name.as_str().to_owned(), values.last().as_str().to_owned()));
        }
        Ok((HttpResponse { status, headers, body: Vec::new() }, response))
    }
}

fn interrupted(error: std::io::Error) -> ExchangeError {
    ExchangeError::new(ExchangeErrorKind::Interrupted).with_source(error)
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
        let (mut head, mut response) = self.begin(request).await?;
        let limit = u64::try_from(max_body).unwrap_or(u64::MAX).saturating_add(1);
        (&mut response).take(limit).read_to_end(&mut head.body).await.map_err(interrupted)?;
        if head.body.len() > max_body {
            return Err(ExchangeError::new(ExchangeErrorKind::TooLarge));
        }
        Ok(head)
    }

    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError> {
        let (head, response) = self.begin(request).await?;
        let body = stream::try_unfold(response, async |mut response| {
            let mut piece = vec![0; PIECE];
            let read = response.read(&mut piece).await.map_err(interrupted)?;
            piece.truncate(read);
            Ok((read > 0).then_some((piece, response)))
        });
        Ok(HttpStream { head, body: body.boxed() })
    }
}
