//! What a request carried, so that its failure does not repeat it (I21).

use datasync_core::{
    row::Body,
    transport::{PushOperation, Secrets},
};
use percent_encoding::percent_decode_str;

use crate::exchange::HttpRequest;

/// Headers whose values are the protocol's own words.
const PUBLIC: [&str; 10] = [
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "if-match",
    "user-agent",
    "zumo-api-version",
];

/// What must not be said of a failed request.
#[derive(Clone, Default)]
pub(crate) struct Sent {
    headers: Vec<String>,
    query: Option<String>,
    bodies: Vec<Body>,
}

impl Sent {
    /// The headers and the query of a request. Its body is added as the entities that it was made of.
    pub(crate) fn of(request: &HttpRequest) -> Sent {
        let secret = request.headers.iter().filter(|(name, _)| !PUBLIC.contains(&&**name));
        let headers = secret.map(|(_, value)| value.clone()).collect();
        Sent { headers, query: request.url.query().map(str::to_owned), bodies: Vec::new() }
    }

    pub(crate) fn add_credential(&mut self, credential: &str) {
        self.headers.push(credential.to_owned());
    }

    pub(crate) fn with_operations(mut self, operations: &[PushOperation]) -> Sent {
        let bodies = operations.iter().flat_map(|operation| [&operation.body, &operation.base]);
        self.bodies.extend(bodies.flatten().cloned());
        self
    }

    /// The words of a service without them.
    pub(crate) fn hide(&self, words: &str) -> String {
        let mut secrets = Secrets::default();
        for header in &self.headers {
            secrets.add(header);
            // Behind the scheme.
            secrets.add(header.rsplit(' ').next().unwrap_or_default());
        }
        for body in &self.bodies {
            secrets.add_json(body.as_bytes());
        }
        for pair in self.query.iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            match decoded(name).as_str() {
                "$filter" => add_constants(&mut secrets, &decoded(value)),
                name if name.starts_with('$') || name.starts_with("__") => {}
                _ => secrets.add(&decoded(value)),
            }
        }
        secrets.hide(words)
    }
}

/// The texts and numbers of a filter.
fn add_constants(secrets: &mut Secrets, filter: &str) {
    // A quote within a text is two of them.
    let filter = filter.replace("''", "\u{0}");
    for (place, part) in filter.split('\'').enumerate() {
        if place % 2 == 1 {
            secrets.add(&part.replace('\u{0}', "'"));
            continue;
        }
        let constants = part.split(|c: char| c.is_whitespace() || "(),".contains(c));
        let constants = constants.filter(|word| word.starts_with(|c: char| c.is_ascii_digit() || c == '-'));
        constants.for_each(|word| secrets.add(word));
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::codec::request::get;

    #[test]
    fn i21_a_filter_a_parameter_and_a_credential_are_hidden() {
        let url = "http://h/tables/t?$filter=(title%20eq%20%27it%27%27s%20me%27)%20and%20rank%20gt%2012345&$top=1000&who=somebody";
        let mut request = get(Url::parse(url).unwrap());
        request.headers.push(("x-key".into(), "api-key".to_owned()));
        let mut sent = Sent::of(&request);
        sent.add_credential("Bearer tok.en");
        let words = "no 'it''s me', it's me, 12345 or 1000 for somebody with api-key and tok.en or Bearer tok.en, in application/json";
        assert_eq!(sent.hide(words), "no '…', …, … or 1000 for … with … and … or …, in application/json");
        assert_eq!(Sent::default().hide("it's me"), "it's me");
    }
}
