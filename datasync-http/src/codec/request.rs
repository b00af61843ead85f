//! Requests.

use std::collections::BTreeMap;

use datasync_core::{
    query::{Dialect, QueryDescription},
    row::OperationKind,
    transport::{PushOperation, TransportError, TransportErrorKind},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::exchange::{HttpRequest, Method};

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

/// A change. A version that cannot stand in a header is refused here, because sending without it would overwrite.
pub(crate) fn change(endpoints: &Endpoints, operation: &PushOperation) -> Result<HttpRequest, TransportError> {
    let row = || endpoints.row(&operation.table, &operation.id);
    let mut request = match operation.kind {
        OperationKind::Insert => request(Method::Post, endpoints.table(&operation.table)),
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
        request.body = body.as_bytes().to_vec();
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
