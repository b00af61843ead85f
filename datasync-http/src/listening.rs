//! The stream of changes: one request, whose answer goes on.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use datasync_core::transport::{ChangeNotice, TransportError, TransportErrorKind};
use futures::{
    StreamExt, TryStreamExt,
    future::{Either, select},
    stream::{self, BoxStream},
};

use crate::{
    codec::{events::Events, request, response},
    exchange::HttpStream,
    transport::HttpTransport,
};

/// After so long without a byte the connection counts as broken. The service says every 20 seconds that it is there.
const SILENCE: Duration = Duration::from_secs(60);

/// What the service tells until the stream ends, or an error ends it. It is not asked again.
pub(crate) fn changes(
    transport: HttpTransport,
    account: Arc<str>,
) -> BoxStream<'static, Result<ChangeNotice, TransportError>> {
    stream::once(begin(transport, account)).try_flatten().boxed()
}

async fn begin(
    transport: HttpTransport,
    account: Arc<str>,
) -> Result<BoxStream<'static, Result<ChangeNotice, TransportError>>, TransportError> {
    let request = transport.prepare(request::changes(&transport.endpoints))?;
    let exchange = |request| transport.in_time(transport.exchange.stream(request));
    let (stream, sent) = transport.authorized(&request, Some(&account), exchange).await?;
    if stream.head.status != 200 {
        return Err(response::failure(&stream.head, &sent));
    }
    let kind = stream.head.header("content-type").unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("text/event-stream") {
        let message = "what answers for the stream of changes is not one: is it the service that answers?";
        return Err(TransportError::new(TransportErrorKind::Protocol, message));
    }
    let listening = Listening { transport, stream, events: Events::default(), notices: VecDeque::new() };
    Ok(stream::try_unfold(listening, Listening::next).boxed())
}

struct Listening {
    transport: HttpTransport,
    stream: HttpStream,
    events: Events,
    /// What was read and not yet told: no more than one piece of the body says.
    notices: VecDeque<ChangeNotice>,
}

impl Listening {
    async fn next(mut self) -> Result<Option<(ChangeNotice, Listening)>, TransportError> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Ok(Some((notice, self)));
            }
            let piece = match select(self.stream.body.next(), self.transport.clock.sleep(SILENCE)).await {
                Either::Left((piece, _)) => piece,
                Either::Right(_) => {
                    let message = format!("nothing was heard of the service for {} s", SILENCE.as_secs());
                    return Err(TransportError::new(TransportErrorKind::Timeout, message));
                }
            };
            match piece {
                Some(piece) => {
                    let piece = piece.map_err(response::broken)?;
                    self.events.read(&piece, &self.transport.endpoints, &mut self.notices)?;
                }
                None => return Ok(None),
            }
        }
    }
}
