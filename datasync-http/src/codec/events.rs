//! The stream of changes (`docs/wire-extensions.md`), as server-sent events.

use std::collections::VecDeque;

use datasync_core::transport::{ChangeNotice, TransportError, TransportErrorKind};

use crate::codec::request::Endpoints;

/// Where changes are told, below the base.
pub(crate) const PATH: &str = "changes";
/// The longest line, in bytes: a path.
const LONGEST: usize = 8 * 1024;

/// Reads events from pieces of a body.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    /// Whether the last byte was a carriage return, whose line feed ends no other line.
    returned: bool,
    kind: String,
    data: String,
}

impl Events {
    /// Reads a piece; what it says comes after what is in `notices` already.
    pub(crate) fn read(
        &mut self,
        piece: &[u8],
        endpoints: &Endpoints,
        notices: &mut VecDeque<ChangeNotice>,
    ) -> Result<(), TransportError> {
        for byte in piece {
            let after_return = std::mem::replace(&mut self.returned, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => notices.extend(self.end_of_line(endpoints)),
                _ if self.line.len() == LONGEST => {
                    let message = "a line of the stream of changes is longer than any event";
                    return Err(TransportError::new(TransportErrorKind::Protocol, message));
                }
                byte => self.line.push(*byte),
            }
        }
        Ok(())
    }

    /// An empty line ends an event. Comments, fields and events that are not known say nothing.
    fn end_of_line(&mut self, endpoints: &Endpoints) -> Option<ChangeNotice> {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        if line.is_empty() {
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            return match kind.as_str() {
                "ready" => Some(ChangeNotice::Connected),
                "change" => endpoints.table_at(&data).map(ChangeNotice::Changed),
                _ => None,
            };
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.kind = value.to_owned(),
            // An event of ours has one line of data.
            "data" => self.data = value.to_owned(),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datasync_core::query::Dialect;
    use url::Url;

    use super::*;

    fn endpoints() -> Endpoints {
        let paths = [("odd", "api/odd/"), ("rooted", "/sub/of root"), ("outside", "/elsewhere")];
        let paths: BTreeMap<String, String> = paths.map(|(name, path)| (name.to_owned(), path.to_owned())).into();
        Endpoints::new(Url::parse("http://h/sub").unwrap(), paths, Dialect::Toolkit)
    }

    const TEXT: &[u8] = b"event: ready\ndata:\n\n: alive\n\nevent: change\r\ndata: tables/todo\r\n\r\n\
        event:change\rdata:api/odd\r\revent: later\ndata: tables/todo\n\nretry: 7\ndata: tables/x\n\n\
        event: change\ndata: of%20root\nid: 9\n\nevent: change\ndata: elsewhere/x\n\nevent: change\ndata: tables/half";

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let endpoints = endpoints();
        let changed = |name: &str| ChangeNotice::Changed(name.into());
        let expected = [ChangeNotice::Connected, changed("todo"), changed("odd"), changed("rooted")];
        for size in 1..TEXT.len() {
            let (mut events, mut notices) = (Events::default(), VecDeque::new());
            for piece in TEXT.chunks(size) {
                events.read(piece, &endpoints, &mut notices).unwrap();
            }
            assert_eq!(notices, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn i25_a_line_without_an_end_is_an_error() {
        let (mut events, mut notices) = (Events::default(), VecDeque::new());
        let endpoints = endpoints();
        events.read(&[b'x'; LONGEST], &endpoints, &mut notices).unwrap();
        let error = events.read(b"x", &endpoints, &mut notices).unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Protocol);
    }
}
