//! The first line of a request, of which no more is kept than can be a target.
//!
//! hyper answers 414 if the target is longer than 64 KiB, but only once it has the whole head, for which it has a buffer of
//! bounded size. A line that does not fit there it would answer with 431, and close while the client still writes, which
//! often never sees the answer. So the rest of such a line is taken off the socket and dropped.
//!
//! | the client sends | hyper sees |
//! | --- | --- |
//! | a line that could be one | the line |
//! | a longer one | its first [`LONGEST`] bytes, and a version: it answers 414 |
//! | one without an end | an error after [`MOST_DROPPED`] bytes; or its patience with a head ends before |
//! | anything behind the first line | the same |
//! | a request before the last one's body is read | the same: where a line begins is known only between requests |

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// More than hyper takes for a target, which is 65,534 bytes, together with a method.
const LONGEST: usize = 66_000;
/// The most of a line that is dropped.
const MOST_DROPPED: usize = 16 * 1024 * 1024;
/// How much of a line is read at once.
const SOME: usize = 8 * 1024;
/// What stands in place of the dropped end of a line.
const END: &[u8] = b" HTTP/1.1\r\n";

/// How many requests of a connection have been read to their ends: each time the next line begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends(Arc<AtomicUsize>);

impl Ends {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Where in a head the connection is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the first line, so many bytes on.
    Line(usize),
    /// In the first line, of which so many bytes were dropped.
    Dropping(usize),
    Behind,
}

/// A connection whose overlong first lines are cut.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: TcpStream,
    ends: Ends,
    seen: usize,
    place: Place,
    /// What came behind a line that was cut.
    kept: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: TcpStream) -> (Lines, Ends) {
        let ends = Ends::default();
        (Lines { stream, ends: ends.clone(), seen: 0, place: Place::Line(0), kept: Vec::new() }, ends)
    }

    /// Drops the line up to its end.
    fn drop_line(&mut self, context: &mut Context<'_>, mut dropped: usize) -> Poll<io::Result<()>> {
        let mut bytes = [0; SOME];
        loop {
            let mut some = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut some))?;
            let some = some.filled();
            let end = some.iter().position(|byte| *byte == b'\n');
            if end.is_some() || some.is_empty() {
                let rest = end.and_then(|end| some.get(end + 1..)).unwrap_or_default();
                self.kept = if end.is_some() { [END, rest].concat() } else { Vec::new() };
                self.place = Place::Behind;
                return Poll::Ready(Ok(()));
            }
            dropped += some.len();
            if dropped > MOST_DROPPED {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the first line has no end")));
            }
            self.place = Place::Dropping(dropped);
        }
    }
}

impl AsyncRead for Lines {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let lines = self.get_mut();
        let ends = lines.ends.0.load(Ordering::SeqCst);
        if ends != lines.seen {
            (lines.seen, lines.place) = (ends, Place::Line(0));
        }
        if let Place::Dropping(dropped) = lines.place {
            ready!(lines.drop_line(context, dropped))?;
        }
        if !lines.kept.is_empty() {
            let length = lines.kept.len().min(buffer.remaining());
            buffer.put_slice(&lines.kept[..length]);
            lines.kept.drain(..length);
            return Poll::Ready(Ok(()));
        }
        let Place::Line(length) = lines.place else { return Pin::new(&mut lines.stream).poll_read(context, buffer) };
        // A little at a time, so that hyper's buffer is not full before the line is too long.
        let mut bytes = [0; SOME];
        let wanted = buffer.remaining().min(SOME);
        let mut some = ReadBuf::new(bytes.get_mut(..wanted).unwrap_or_default());
        ready!(Pin::new(&mut lines.stream).poll_read(context, &mut some))?;
        buffer.put_slice(some.filled());
        lines.place = match length + some.filled().len() {
            _ if some.filled().contains(&b'\n') => Place::Behind,
            long if long > LONGEST => Place::Dropping(0),
            length => Place::Line(length),
        };
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lines {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// The body of a request, whose end is told.
struct Told<B> {
    body: B,
    ends: Option<Ends>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Told<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let told = self.get_mut();
        let frame = ready!(Pin::new(&mut told.body).poll_frame(context));
        if frame.is_none() || told.body.is_end_stream() {
            told.ends.take().iter().for_each(Ends::add);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body, whose end is told.
pub(crate) fn told(body: hyper::body::Incoming, ends: &Ends) -> Body {
    if body.is_end_stream() {
        ends.add();
        return Body::empty();
    }
    Body::new(Told { body, ends: Some(ends.clone()) })
}
