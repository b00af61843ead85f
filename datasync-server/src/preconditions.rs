//! Preconditions of a request, as the reference's `ParseConditionalRequest` evaluates them.

use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, header};
use datasync_core::query::Dialect;

use crate::repository::Row;

/// What the preconditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on; the flag says whether `If-Match` named the version that is there.
    Holds { matched: bool },
    /// A read whose answer the client has.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates them. At equal times the dialects differ: the Toolkit fails `If-Unmodified-Since` and lets `If-Modified-Since`
/// pass, Azure does the opposite.
pub(crate) fn evaluate(headers: &HeaderMap, row: &Row, reads: bool, dialect: Dialect) -> Verdict {
    let azure = dialect == Dialect::Azure;
    let stopped = if reads { Verdict::NotModified } else { Verdict::Failed };
    let version = row.record.version.as_deref().unwrap_or("");
    let if_match = tags(headers, header::IF_MATCH);
    let if_none_match = tags(headers, header::IF_NONE_MATCH);
    let updated = row.record.updated_at.map(crate::system_time);
    let mut matched = false;
    match if_match {
        Some(tags) => {
            if !tags.iter().any(|tag| tag.matches(version)) {
                return Verdict::Failed;
            }
            matched = tags.iter().any(|tag| *tag != Tag::Any && tag.matches(version));
        }
        None => {
            if let Some(date) = date(headers, header::IF_UNMODIFIED_SINCE)
                && updated.is_none_or(|updated| date < updated || (date == updated && !azure))
            {
                return Verdict::Failed;
            }
        }
    }
    match if_none_match {
        Some(tags) if tags.iter().any(|tag| tag.matches(version)) => stopped,
        Some(_) => Verdict::Holds { matched },
        None => match date(headers, header::IF_MODIFIED_SINCE) {
            Some(date) if updated.is_none_or(|updated| date > updated || (date == updated && azure)) => stopped,
            _ => Verdict::Holds { matched },
        },
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tag {
    Any,
    Strong(String),
    Weak,
}

impl Tag {
    /// Only a strong tag matches, and only a row that has a version.
    fn matches(&self, version: &str) -> bool {
        match self {
            _ if version.is_empty() => false,
            Tag::Any => true,
            Tag::Strong(tag) => tag == version,
            Tag::Weak => false,
        }
    }
}

/// The tags of a header. One that cannot be read counts as absent, as in the reference's typed headers.
fn tags(headers: &HeaderMap, name: HeaderName) -> Option<Vec<Tag>> {
    let mut found = Vec::new();
    for value in headers.get_all(name) {
        let Ok(mut rest) = value.to_str().map(str::trim) else { continue };
        while !rest.is_empty() {
            let (tag, behind) = match rest.strip_prefix('*') {
                Some(behind) => (Tag::Any, behind),
                None => {
                    let weak = rest.starts_with("W/");
                    let open = rest.trim_start_matches("W/").strip_prefix('"')?;
                    let (text, behind) = open.split_once('"')?;
                    (if weak { Tag::Weak } else { Tag::Strong(text.to_owned()) }, behind)
                }
            };
            found.push(tag);
            rest = match behind.trim_start().strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if behind.trim().is_empty() => "",
                None => return None,
            };
        }
    }
    (!found.is_empty()).then_some(found)
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use datasync_core::row::{Body, Record};

    use super::*;

    #[test]
    fn preconditions_follow_the_table_of_the_reference() {
        let record = Record {
            body: Body::from(&b"{}"[..]),
            version: Some("AQ==".to_owned()),
            updated_at: Some("2024-01-02T03:04:05.678Z".parse().unwrap()),
            deleted: false,
        };
        let row = Row { id: "1".into(), record, sequence: 1 };
        let (holds, matched) = (Verdict::Holds { matched: false }, Verdict::Holds { matched: true });
        let (same, later) = ("Tue, 02 Jan 2024 03:04:05 GMT", "Tue, 02 Jan 2024 04:04:05 GMT");
        for (name, value, reading, writing) in [
            ("if-match", "\"AQ==\"", matched, matched),
            ("if-match", "\"no\", \"AQ==\"", matched, matched),
            ("if-match", "*", holds, holds),
            ("if-match", "\"no\"", Verdict::Failed, Verdict::Failed),
            ("if-match", "W/\"AQ==\"", Verdict::Failed, Verdict::Failed),
            ("if-match", "AQ==", holds, holds),
            ("if-none-match", "\"AQ==\"", Verdict::NotModified, Verdict::Failed),
            ("if-none-match", "*", Verdict::NotModified, Verdict::Failed),
            ("if-none-match", "\"no\"", holds, holds),
            ("if-unmodified-since", same, Verdict::Failed, Verdict::Failed),
            ("if-unmodified-since", later, holds, holds),
            ("if-unmodified-since", "yesterday", holds, holds),
            ("if-modified-since", same, holds, holds),
            ("if-modified-since", later, Verdict::NotModified, Verdict::Failed),
        ] {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
            assert_eq!(evaluate(&headers, &row, true, Dialect::Toolkit), reading, "{name}: {value}");
            assert_eq!(evaluate(&headers, &row, false, Dialect::Toolkit), writing, "{name}: {value}");
        }
    }
}
