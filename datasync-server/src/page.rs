//! Pages: how many rows, and the link to the next.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

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

/// The parameters of a query string, decoded.
pub(crate) fn parameters(query: Option<&str>) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// Whether deleted rows are wanted: any parameter of the name with the value `true`, in any case.
pub(crate) fn wants_deleted(parameters: &[(String, String)]) -> bool {
    parameters
        .iter()
        .any(|(name, value)| name.eq_ignore_ascii_case("__includedeleted") && value.eq_ignore_ascii_case("true"))
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
    use super::*;

    #[test]
    fn the_next_link_replaces_skip_and_top_in_place() {
        let given = parameters(Some("$top=150&$filter=title%20eq%20'a:b'&__includedeleted=true"));
        assert_eq!(
            next_link(&given, true, 0, Some(150), 100).unwrap(),
            "$top=50&$filter=title%20eq%20%27a%3Ab%27&__includedeleted=true&$skip=100"
        );
        assert!(wants_deleted(&given));
    }

    #[test]
    fn the_last_page_has_no_link() {
        assert_eq!(next_link(&[], false, 200, None, 48), None);
        assert_eq!(next_link(&[], true, 0, Some(0), 0), None);
        assert_eq!(next_link(&[], true, 0, Some(100), 100), None);
    }
}
