//! Requests that are compressed, for services that take them.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use crate::exchange::HttpRequest;

/// A shorter body is not worth its compression, in bytes.
const COMPRESSED_FROM: usize = 1_024;

/// The request with a compressed body, if that is shorter.
pub(crate) fn compress(mut request: HttpRequest) -> HttpRequest {
    if request.body.len() < COMPRESSED_FROM {
        return request;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(request.body.len() / 4), Compression::fast());
    // Memory takes every byte.
    if let Ok(compressed) = encoder.write_all(&request.body).and_then(|()| encoder.finish())
        && compressed.len() < request.body.len()
    {
        request.body = compressed;
        request.headers.push(("content-encoding".into(), "gzip".to_owned()));
    }
    request
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::exchange::Method;

    #[test]
    fn only_a_long_body_is_compressed() {
        let request = |body: &[u8]| {
            let url = url::Url::parse("http://h").unwrap();
            compress(HttpRequest { method: Method::Post, url, headers: Vec::new(), body: body.to_vec() })
        };
        assert!(request(b"short").headers.is_empty());
        let long = b"words ".repeat(1000);
        let sent = request(&long);
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(sent.body.as_slice()).read_to_end(&mut back).unwrap();
        assert!(sent.body.len() < long.len() && back == long);
        assert_eq!(sent.headers, [("content-encoding".into(), "gzip".to_owned())]);
    }
}
