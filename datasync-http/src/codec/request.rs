//! Requests.

use std::{collections::BTreeMap, sync::Arc};

use datasync_core::{
    query::{Dialect, QueryDescription},
    row::{Body, OperationKind},
    transport::{PushOperation, TransportError, TransportErrorKind},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::value::RawValue;
use url::Url;

use crate::{
    codec::events,
    exchange::{HttpRequest, Method},
};

/// What RFC 3986 leaves as it is in a value, as in .NET's `Uri.EscapeDataString`.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// In a path the separators of an id may stand as they are, which is how the originals send them.
const ID: &AsciiSet = &VALUE.remove(b':');

/// Where the tables are, and whose services they belong to.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    base: Url,
    paths: BTreeMap<String, String>,
    dialect: Dialect,
}

impl Endpoints {
    pub(crate) fn new(mut base: Url, paths: BTreeMap<String, String>, dialect: Dialect) -> Endpoints {
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        base.set_query(None);
        base.set_fragment(None);
        Endpoints { base, paths, dialect }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    /// What lies at a path below the base.
    pub(crate) fn below(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url
    }

    /// The URL of a table, without a slash at its end.
    pub(crate) fn table(&self, table: &str) -> Url {
        let mut url = self.base.clone();
        let path = match self.paths.get(table) {
            Some(path) if path.starts_with('/') => path.trim_end_matches('/').to_owned(),
            Some(path) => format!("{}{}", self.base.path(), path.trim_end_matches('/')),
            None => format!("{}tables/{}", self.base.path(), utf8_percent_encode(&table.to_ascii_lowercase(), VALUE)),
        };
        url.set_path(&path);
        url
    }

    /// The name of the table at a path below the base, as services name it; names that the paths do not give are in
    /// lower case. `None` if it is none of ours.
    pub(crate) fn table_at(&self, path: &str) -> Option<Arc<str>> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), path.trim_matches('/')));
        let named = self.paths.keys().find(|name| self.table(name) == url);
        named.map(|name| name.as_str().into()).or_else(|| {
            let name = path.trim_matches('/').strip_prefix("tables/").filter(|name| !name.contains('/'))?;
            Some(percent_decode_str(name).decode_utf8().ok()?.into())
        })
    }

    /// The URL of a row.
    pub(crate) fn row(&self, table: &str, id: &str) -> Url {
        let mut url = self.table(table);
        let path = format!("{}/{}", url.path(), utf8_percent_encode(id, ID));
        url.set_path(&path);
        url
    }

    /// The URL that a next link stands for: absolute, a path, or a query string alone. Another origin is refused (I25).
    pub(crate) fn next(&self, table: &str, link: &str) -> Result<Url, TransportError> {
        let unreadable = || TransportError::new(TransportErrorKind::Protocol, "the next link cannot be read");
        let table = self.table(table);
        let url = if link.starts_with('/') {
            table.join(link).map_err(|_| unreadable())?
        } else if let Some((scheme, _)) = link.split_once("://").filter(|(scheme, _)| !scheme.contains(['?', '&', '=']))
        {
            match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => Url::parse(link).map_err(|_| unreadable())?,
                _ => return Err(unreadable()),
            }
        } else {
            let mut url = table;
            url.set_query(Some(link.strip_prefix('?').unwrap_or(link)));
            url
        };
        if url.origin() != self.base.origin() {
            let message = "the next link leads to another origin than the configured one, and is not followed";
            return Err(TransportError::new(TransportErrorKind::Protocol, message));
        }
        Ok(url)
    }
}

pub(crate) fn request(method: Method, url: Url) -> HttpRequest {
    let headers = vec![
        ("accept".into(), "application/json".to_owned()),
        ("zumo-api-version".into(), "3.0.0".to_owned()),
        ("user-agent".into(), concat!("datasync-rust/", env!("CARGO_PKG_VERSION")).to_owned()),
    ];
    HttpRequest { method, url, headers, body: Vec::new() }
}

pub(crate) fn get(url: Url) -> HttpRequest {
    request(Method::Get, url)
}

/// A page of changes in the order of the service's commits.
pub(crate) fn delta(endpoints: &Endpoints, table: &str, query: &QueryDescription, token: &str) -> HttpRequest {
    let mut url = endpoints.table(table);
    let text = query.to_query_string(endpoints.dialect);
    url.set_query(Some(&format!("{text}&__delta={}", utf8_percent_encode(token, VALUE))));
    get(url)
}

pub(crate) fn query(
    endpoints: &Endpoints,
    table: &str,
    query: &QueryDescription,
    include_deleted: bool,
) -> HttpRequest {
    let mut url = endpoints.table(table);
    let text = match include_deleted {
        true => QueryDescription { include_deleted, ..query.clone() }.to_query_string(endpoints.dialect),
        false => query.to_query_string(endpoints.dialect),
    };
    url.set_query((!text.is_empty()).then_some(text.as_str()));
    get(url)
}

pub(crate) fn read(endpoints: &Endpoints, table: &str, id: &str, include_deleted: bool) -> HttpRequest {
    let mut url = endpoints.row(table, id);
    url.set_query(include_deleted.then_some("__includedeleted=true"));
    get(url)
}

/// The stream of changes of all tables that the caller may query.
pub(crate) fn changes(endpoints: &Endpoints) -> HttpRequest {
    let mut request = get(endpoints.below(events::PATH));
    request.headers.retain(|(name, _)| name != "accept");
    request.headers.push(("accept".into(), "text/event-stream".to_owned()));
    request
}

/// The members of `body` that differ from `base`, as texts. `None` if the whole must be sent: nothing differs, or the base has
/// a member that the body lacks.
///
/// It hangs on the two alone: an operation that is sent again with both as they were is the same request.
fn patch(body: &Body, base: &Body) -> Option<Vec<u8>> {
    type Members<'a> = BTreeMap<String, &'a RawValue>;
    let (body, base) = (body.as_bytes(), base.as_bytes());
    let (mut members, base): (Members<'_>, Members<'_>) =
        (serde_json::from_slice(body).ok()?, serde_json::from_slice(base).ok()?);
    if base.keys().any(|name| !members.contains_key(name)) {
        return None;
    }
    members.retain(|name, value| base.get(name).is_none_or(|base| base.get() != value.get()));
    if members.is_empty() {
        return None;
    }
    serde_json::to_vec(&members).ok()
}

/// A change. A version that cannot stand in a header is refused here, because sending without it would overwrite.
pub(crate) fn change(endpoints: &Endpoints, operation: &PushOperation) -> Result<HttpRequest, TransportError> {
    let row = || endpoints.row(&operation.table, &operation.id);
    let patches = endpoints.dialect == Dialect::Azure && operation.kind == OperationKind::Replace;
    let patch = match (&operation.body, &operation.base) {
        (Some(body), Some(base)) if patches => patch(body, base),
        _ => None,
    };
    let mut request = match operation.kind {
        OperationKind::Insert => request(Method::Post, endpoints.table(&operation.table)),
        OperationKind::Replace if patch.is_some() => request(Method::Patch, row()),
        OperationKind::Replace => request(Method::Put, row()),
        OperationKind::Delete => request(Method::Delete, row()),
        // Azure's service refuses to replace a deleted row.
        OperationKind::Undelete if endpoints.dialect == Dialect::Azure => request(Method::Patch, row()),
        OperationKind::Undelete => {
            let mut url = row();
            url.set_query(Some("__includedeleted=true"));
            request(Method::Put, url)
        }
    };
    request.headers.push(("idempotency-key".into(), operation.key.as_hyphenated().to_string()));
    if let (Some(version), false) = (&operation.version, operation.kind == OperationKind::Insert) {
        if !is_version(version) {
            let message = "the version of the row cannot stand in an `If-Match` header";
            return Err(TransportError::new(TransportErrorKind::Rejected, message));
        }
        request.headers.push(("if-match".into(), format!("\"{version}\"")));
    }
    if let Some(body) = &operation.body {
        request.headers.push(("content-type".into(), "application/json".to_owned()));
        request.body = patch.unwrap_or_else(|| body.as_bytes().to_vec());
    }
    Ok(request)
}

/// As in Datasync's `ThrowIf.IsNotValidVersion`: printable ASCII without quotes and blanks, at most 126 characters.
fn is_version(version: &str) -> bool {
    version.len() <= 126 && version.bytes().all(|byte| byte == 0x21 || (0x23..=0x7e).contains(&byte))
}

#[cfg(test)]
mod tests {
    use datasync_core::{query::Expr, row::Body};
    use uuid::Uuid;

    use super::*;

    fn endpoints(base: &str) -> Endpoints {
        Endpoints::new(
            Url::parse(base).unwrap(),
            BTreeMap::from([("odd".to_owned(), "api/odd/".to_owned())]),
            Dialect::Toolkit,
        )
    }

    #[test]
    fn tables_and_rows_have_the_urls_of_the_originals() {
        for (base, table, id, expected) in [
            ("http://h", "movies", "id-1", "http://h/tables/movies/id-1"),
            ("http://h/", "Movies", "a:b|c", "http://h/tables/movies/a:b%7Cc"),
            ("http://h/sub", "movies", "1", "http://h/sub/tables/movies/1"),
            ("http://h/sub/?x#y", "odd", "1", "http://h/sub/api/odd/1"),
            ("http://h:81/", "odd", "../x?y", "http://h:81/api/odd/..%2Fx%3Fy"),
        ] {
            assert_eq!(endpoints(base).row(table, id).as_str(), expected);
        }
    }

    #[test]
    fn i25_next_links_of_all_forms_lead_to_the_configured_origin_only() {
        let endpoints = endpoints("http://h:1/sub");
        let next = |link: &str| endpoints.next("movies", link).map(|url| url.to_string());
        let expected = "http://h:1/sub/tables/movies?$skip=100";
        assert_eq!(next("$skip=100").unwrap(), expected);
        assert_eq!(next("?$skip=100").unwrap(), expected);
        assert_eq!(next("/sub/tables/movies?$skip=100").unwrap(), expected);
        assert_eq!(next("http://h:1/sub/tables/movies?$skip=100").unwrap(), expected);
        assert_eq!(
            next("$filter=x eq 'http://other'").unwrap(),
            "http://h:1/sub/tables/movies?$filter=x%20eq%20%27http://other%27"
        );
        for link in ["http://h:2/x", "https://h:1/x", "//other/x", "ftp://h:1/x"] {
            assert!(next(link).is_err(), "{link}");
        }
    }

    #[test]
    fn a_query_is_encoded_as_the_originals_send_it() {
        let filter: Expr = "updatedAt gt cast(2024-08-23T20:22:54.291Z,Edm.DateTimeOffset)".parse().unwrap();
        let mut query: QueryDescription = "$orderby=updatedAt&$count=true".parse().unwrap();
        query.filter = Some(filter);
        assert_eq!(
            QueryDescription { include_deleted: true, ..query }.to_query_string(Dialect::Toolkit),
            "$filter=%28updatedAt%20gt%20cast%282024-08-23T20%3A22%3A54.291Z%2CEdm.DateTimeOffset%29%29&$orderby=updatedAt&$count=true&__includedeleted=true"
        );
    }

    #[test]
    fn i05_a_patch_has_what_differs_and_hangs_on_nothing_else() {
        let azure = Endpoints::new(Url::parse("http://h").unwrap(), BTreeMap::new(), Dialect::Azure);
        let toolkit = endpoints("http://h");
        let send = |endpoints: &Endpoints, kind, body: &str, base: Option<&str>| {
            let bytes = |text: &str| Body::from(text.as_bytes().to_vec());
            let operation = PushOperation {
                account: "".into(),
                table: "movies".into(),
                id: "1".into(),
                kind,
                key: Uuid::from_u128(1),
                version: Some("AQ==".to_owned()),
                body: Some(bytes(body)),
                base: base.map(bytes),
            };
            let request = change(endpoints, &operation).unwrap();
            assert!(request.headers.iter().any(|(name, value)| name == "if-match" && value == "\"AQ==\""));
            (request.method.as_str(), String::from_utf8(request.body).unwrap())
        };
        let base = r#"{"id":"1","title":"a","n":1.10,"tags":{"x":1,"y":2},"due":null}"#;
        let body = r#"{"id":"1","tags":{"x":1},"n":1.10,"title":"b","due":null,"more":true}"#;
        let expected = r#"{"more":true,"tags":{"x":1},"title":"b"}"#;
        let replace = OperationKind::Replace;
        for _ in 0..2 {
            assert_eq!(send(&azure, replace, body, Some(base)), ("PATCH", expected.to_owned()));
        }
        let fewer = r#"{"id":"1","title":"b","n":1.10,"due":null}"#;
        for (body, base) in
            [(body, None), (base, Some(base)), (fewer, Some(base)), (body, Some("[]")), (body, Some(""))]
        {
            assert_eq!(send(&azure, replace, body, base), ("PUT", body.to_owned()), "{body} {base:?}");
        }
        assert_eq!(send(&toolkit, replace, body, Some(base)), ("PUT", body.to_owned()));
        assert_eq!(send(&azure, OperationKind::Undelete, body, Some(base)), ("PATCH", body.to_owned()));
    }

    #[test]
    fn i18_a_change_carries_its_version_and_key_or_is_not_sent() {
        let operation = |kind, version: Option<&str>| PushOperation {
            account: "".into(),
            table: "movies".into(),
            id: "1".into(),
            kind,
            key: Uuid::from_u128(1),
            version: version.map(str::to_owned),
            body: (kind != OperationKind::Delete).then(|| Body::from(&b"{}"[..])),
            base: None,
        };
        let endpoints = endpoints("http://h");
        for (kind, method, url) in [
            (OperationKind::Insert, "POST", "http://h/tables/movies"),
            (OperationKind::Replace, "PUT", "http://h/tables/movies/1"),
            (OperationKind::Undelete, "PUT", "http://h/tables/movies/1?__includedeleted=true"),
            (OperationKind::Delete, "DELETE", "http://h/tables/movies/1"),
        ] {
            let request = change(&endpoints, &operation(kind, Some("AQ=="))).unwrap();
            assert_eq!((request.method.as_str(), request.url.as_str()), (method, url));
            let header = |name: &str| request.headers.iter().find(|(known, _)| known == name).map(|(_, v)| v.as_str());
            assert_eq!(header("if-match"), (kind != OperationKind::Insert).then_some("\"AQ==\""));
            assert_eq!(header("idempotency-key"), Some("00000000-0000-0000-0000-000000000001"));
            assert_eq!(header("content-type").is_some(), kind != OperationKind::Delete);
        }
        assert!(change(&endpoints, &operation(OperationKind::Replace, Some("a\"b"))).is_err());
    }
}
