//! Pages: how many rows, and the link to the next.

use datasync_core::query::Dialect;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

/// What .NET's `UrlEncoder` leaves as it is in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'$')
    .remove(b'(')
    .remove(b')')
    .remove(b',')
    .remove(b'*')
    .remove(b'!')
    .remove(b';')
    .remove(b'@')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Whether deleted rows are wanted: any parameter of the name has the value `true`, in any case; for Azure the first one.
pub(crate) fn wants_deleted(parameters: &[(String, String)], dialect: Dialect) -> bool {
    let mut values = parameters.iter().filter(|(name, _)| name.eq_ignore_ascii_case("__includedeleted"));
    let is_true = |(_, value): &(String, String)| value.eq_ignore_ascii_case("true");
    match dialect {
        Dialect::Toolkit => values.any(is_true),
        Dialect::Azure => values.next().is_some_and(is_true),
    }
}

/// A page of rows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page {
    pub(crate) items: Vec<Box<RawValue>>,
    pub(crate) count: Option<u64>,
    pub(crate) next_link: Option<String>,
    /// Where the next page of changes begins (`docs/wire-extensions.md`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delta: Option<Value>,
}

/// The query string of the next page, if `more` rows match and are wanted.
pub(crate) fn next_link(
    parameters: &[(String, String)],
    more: bool,
    skip: u64,
    top: Option<u64>,
    returned: u64,
) -> Option<String> {
    let behind = skip.saturating_add(returned);
    let top = top.map(|top| top - returned.min(top));
    if !more || top == Some(0) {
        return None;
    }
    let mut next = parameters.to_vec();
    let mut set = |name: &str, value: u64| {
        let value = value.to_string();
        match next.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some(found) => found.1 = value,
            None => next.push((name.to_owned(), value)),
        }
    };
    set("$skip", behind);
    if let Some(top) = top {
        set("$top", top);
    }
    let encode = |text: &str| utf8_percent_encode(text, QUERY).to_string();
    let parts: Vec<String> = next.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    Some(parts.join("&"))
}

#[cfg(test)]
mod tests {
    use datasync_core::query::options;

    use super::*;

    #[test]
    fn the_next_link_replaces_skip_and_top_in_place() {
        let given = options("$top=150&$filter=title%20eq%20'a:b'&__includedeleted=true").unwrap();
        assert_eq!(
            next_link(&given, true, 0, Some(150), 100).unwrap(),
            "$top=50&$filter=title%20eq%20%27a%3Ab%27&__includedeleted=true&$skip=100"
        );
        assert!(wants_deleted(&given, Dialect::Toolkit));
        let given = options("__IncludeDeleted=no&__includedeleted=TRUE").unwrap();
        assert!(wants_deleted(&given, Dialect::Toolkit) && !wants_deleted(&given, Dialect::Azure));
    }

    #[test]
    fn the_last_page_has_no_link() {
        assert_eq!(next_link(&[], false, 200, None, 48), None);
        assert_eq!(next_link(&[], true, 0, Some(0), 0), None);
        assert_eq!(next_link(&[], true, 0, Some(100), 100), None);
    }
}
