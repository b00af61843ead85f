//! What a service can do beyond the protocol of the originals (`docs/wire-extensions.md`).

use datasync_core::transport::TransportError;
use serde::Deserialize;

use crate::{
    codec::{response, sent::Sent},
    exchange::HttpResponse,
};

/// Where the document is, below the base.
pub(crate) const PATH: &str = ".well-known/datasync";
/// The version of the document that this release knows.
const VERSION: u32 = 1;

/// The document. An original service has none of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// Whether tables answer `__delta`.
    pub(crate) delta: bool,
    /// The limits of a batch; none if there is no batch.
    pub(crate) batch: Option<BatchLimits>,
    /// Whether idempotency keys are remembered.
    pub(crate) keys: bool,
    /// Whether it tells of changes.
    pub(crate) changes: bool,
    /// For how many days it is remembered what was deleted, if that is told.
    pub(crate) tombstone_days: Option<u32>,
    /// Whether requests may be compressed.
    pub(crate) gzip: bool,
    /// Whether it was the service that said so, and not perhaps a network that wants a sign-in.
    pub(crate) certain: bool,
}

/// How much a batch may hold.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    pub(crate) operations: usize,
    pub(crate) bytes: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    version: u32,
    #[serde(default)]
    delta: bool,
    #[serde(default)]
    batch: Option<BatchLimits>,
    #[serde(default)]
    key_days: u32,
    #[serde(default)]
    changes: bool,
    #[serde(default)]
    tombstone_days: Option<u32>,
    #[serde(default)]
    gzip: bool,
}

/// Reads the answer. Whatever is no document means a service without extensions; what may pass is an error, so that a
/// bad moment is never taken for an original service. A page or a redirect in place of a document may be an original's way
/// to say that it has none, or a network's to ask for a sign-in.
pub(crate) fn read(response: &HttpResponse, sent: &Sent) -> Result<Extensions, TransportError> {
    match response.status {
        401 | 408 | 425 | 429 | 500 | 502..=599 => Err(response::failure(response, sent)),
        200 => {
            let document = serde_json::from_slice::<Document>(&response.body).ok();
            let document = document.filter(|document| document.version == VERSION);
            Ok(document.map_or(Extensions::default(), |document| Extensions {
                delta: document.delta,
                batch: document.batch.filter(|limits| limits.operations > 1),
                keys: document.key_days > 0,
                changes: document.changes,
                tombstone_days: document.tombstone_days,
                gzip: document.gzip,
                certain: true,
            }))
        }
        400 | 404 | 405 | 410 | 501 => Ok(Extensions { certain: true, ..Extensions::default() }),
        _ => Ok(Extensions::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_document_declares_extensions() {
        let read = |status, body: &str| {
            let response = HttpResponse { status, headers: Vec::new(), body: body.as_bytes().to_vec() };
            read(&response, &Sent::default()).ok()
        };
        let none = |certain| Some(Extensions { certain, ..Extensions::default() });
        let all = r#"{"version":1,"delta":true,"keyDays":30,"batch":{"operations":10,"bytes":99},"changes":true,
            "tombstoneDays":7,"gzip":true,"later":[]}"#;
        let batch = Some(BatchLimits { operations: 10, bytes: 99 });
        let (delta, keys, changes, gzip, certain) = (true, true, true, true, true);
        let everything = Extensions { delta, batch, keys, changes, tombstone_days: Some(7), gzip, certain };
        assert_eq!(read(200, all), Some(everything));
        for (status, body) in [
            (403, ""),
            (302, ""),
            (200, ""),
            (200, "<html>"),
            (200, "[]"),
            (200, r#"{"version":2,"delta":true}"#),
            (200, r#"{"delta":true}"#),
        ] {
            assert_eq!(read(status, body), none(false), "{status} {body}");
        }
        for status in [400, 404, 405, 410, 501] {
            assert_eq!(read(status, all), none(true), "{status}");
        }
        for status in [401, 408, 429, 500, 503] {
            assert_eq!(read(status, all), None, "{status}");
        }
    }
}
