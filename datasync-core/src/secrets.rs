//! Values that must stand in no error (I21).

use std::{collections::BTreeSet, fmt};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::schema::{ID, SERVICE_OWNED};

/// What stands in place of a value.
const HIDDEN: &str = "…";
/// A shorter value says nothing of a row, and most sentences hold it.
const SHORTEST: usize = 3;
/// A shorter value is only found where it is a word of its own.
const DISTINCT: usize = 8;
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What was sent, or given to a function of the app, so that none of it is in what is said of a failure: services and
/// libraries repeat what they refuse, and an error ends in a log.
///
/// Values of one or two characters are not looked for, and those of less than eight only where they stand as words.
///
/// ```
/// use datasync_core::transport::Secrets;
/// let mut sent = Secrets::default();
/// sent.add_json(br#"{"id":"7","title":"Mum's birthday","year":1958}"#);
/// sent.add("a-token");
/// let words = "`Mum's birthday` is too long for row 7 of 1958 (a-token)";
/// assert_eq!(sent.hide(words), "`…` is too long for row 7 of … (…)");
/// ```
#[derive(Clone, Default)]
pub struct Secrets(BTreeSet<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Adds a text: a token, or a value of a query.
    pub fn add(&mut self, text: &str) {
        let text = text.trim();
        if text.chars().count() < SHORTEST {
            return;
        }
        let json = serde_json::to_string(text).unwrap_or_default();
        let inner = json.strip_prefix('"').and_then(|json| json.strip_suffix('"'));
        self.0.extend(inner.map(str::to_owned));
        self.0.insert(utf8_percent_encode(text, VALUE).to_string());
        self.0.insert(text.replace('\'', "''"));
        self.0.insert(text.to_owned());
    }

    /// Adds every text and every number of an entity, but not what names its row: `id`, `version`, `updatedAt`, `deleted`.
    /// What is no JSON object adds nothing.
    pub fn add_json(&mut self, json: &[u8]) {
        if let Ok(Value::Object(fields)) = serde_json::from_slice(json) {
            for (name, value) in &fields {
                if name != ID && !SERVICE_OWNED.contains(&name.as_str()) {
                    self.add_value(value);
                }
            }
        }
    }

    fn add_value(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => self.add(&number.to_string()),
            Value::String(text) => self.add(text),
            Value::Array(values) => values.iter().for_each(|value| self.add_value(value)),
            Value::Object(fields) => fields.values().for_each(|value| self.add_value(value)),
        }
    }

    /// The words without the values: `…` stands for each.
    #[must_use]
    pub fn hide(&self, words: &str) -> String {
        let mut left: Vec<&str> = self.0.iter().map(String::as_str).collect();
        // A value that is a part of another one must not break that up.
        left.sort_by_key(|value| std::cmp::Reverse(value.len()));
        left.into_iter().fold(words.to_owned(), |words, value| hide(&words, value))
    }
}

fn hide(words: &str, value: &str) -> String {
    let mut shown = String::with_capacity(words.len());
    let mut behind = 0;
    for (at, _) in words.match_indices(value) {
        let end = at + value.len();
        let joined = |next: Option<char>| next.is_some_and(char::is_alphanumeric);
        let word = !joined(words[..at].chars().next_back()) && !joined(words[end..].chars().next());
        if word || value.chars().count() >= DISTINCT {
            shown.push_str(&words[behind..at]);
            shown.push_str(HIDDEN);
            behind = end;
        }
    }
    shown.push_str(&words[behind..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i21_a_value_is_hidden_in_each_spelling() {
        let mut secrets = Secrets::default();
        secrets.add_json("{\"id\":\"row-one\",\"a\":\"it's \\\"x\\\"\\n\",\"b\":[{\"c\":12.50}],\"d\":\"ab\",\"version\":\"v-seven\"}".as_bytes());
        for (words, expected) in [
            ("it's \"x\" is wrong", "… is wrong"),
            (r#"{"a":"it's \"x\"\n"}"#, r#"{"a":"…\n"}"#),
            ("title eq 'it''s \"x\"'", "title eq '…'"),
            ("?f=it%27s%20%22x%22&", "?f=…&"),
            ("12.5 is less than 112.5 and 12.55", "… is less than 112.5 and 12.55"),
            ("row-one at v-seven: ab", "row-one at v-seven: ab"),
        ] {
            assert_eq!(secrets.hide(words), expected);
        }
        assert_eq!(Secrets::default().hide("as it is"), "as it is");
    }

    #[test]
    fn i21_a_short_value_is_hidden_where_it_is_a_word() {
        let mut secrets = Secrets::default();
        secrets.add("the");
        assert_eq!(secrets.hide("the other, `the`"), "… other, `…`");
        secrets.add("long value");
        assert_eq!(secrets.hide("xlong valuex"), "x…x");
    }
}
