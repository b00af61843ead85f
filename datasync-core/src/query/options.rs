//! The options of a query string: `$filter`, `$orderby` and the like.

use std::{borrow::Cow, str::FromStr};

use percent_encoding::percent_decode_str;

use super::{
    description::{INCLUDE_DELETED, OrderBy, QueryDescription},
    error::QueryError,
    parse::MAX_LENGTH,
};

impl QueryDescription {
    /// Reads the options of a query string that are already split and decoded, as `("$filter", "title eq 'x'")`.
    ///
    /// Names without `$` are parameters: `__includedeleted` asks for deleted rows if it is `true`, others are kept.
    ///
    /// # Errors
    ///
    /// An option that is unknown, given twice, or whose value cannot be read.
    pub fn from_options<'o>(
        options: impl IntoIterator<Item = (&'o str, &'o str)>,
    ) -> Result<QueryDescription, QueryError> {
        let mut query = QueryDescription::default();
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in options {
            query.read_option(&mut seen, name, value)?;
        }
        Ok(query)
    }

    /// Reads a query string as it is sent, percent-encoded. Errors say where in it.
    ///
    /// # Errors
    ///
    /// As [`from_options`](QueryDescription::from_options), for bytes that are not UTF-8, and for more than 64 KiB.
    pub fn from_query_string(text: &str) -> Result<QueryDescription, QueryError> {
        let mut query = QueryDescription::default();
        let mut seen = Vec::new();
        for option in split(text, false)? {
            let name = decoded(option.name).map_err(|error| error.at_place(option.at))?;
            let value = decoded(option.value).map_err(|error| error.at_place(option.value_at))?;
            let read = query.read_option(&mut seen, &name, &value);
            read.map_err(|error| option.blame(error, |at| encoded_place(option.value, at)))?;
        }
        Ok(query)
    }

    fn read_option(&mut self, seen: &mut Vec<String>, name: &str, value: &str) -> Result<(), QueryError> {
        if name.eq_ignore_ascii_case(INCLUDE_DELETED) {
            self.include_deleted |= value.eq_ignore_ascii_case("true");
            return Ok(());
        }
        if !name.starts_with('$') {
            self.parameters.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        let lower = name.to_ascii_lowercase();
        if seen.contains(&lower) {
            return Err(QueryError::new(format!("the option `{name}` is given twice")));
        }
        match lower.as_str() {
            "$filter" => self.filter = Some(value.parse()?),
            "$orderby" => self.order = order(value)?,
            "$skip" => self.skip = whole(name, value)?,
            "$top" => self.top = Some(whole(name, value)?),
            "$select" => self.select = names(value)?,
            "$count" => self.count = flag(name, value)?,
            _ => return Err(QueryError::new(format!("there is no option `{name}`"))),
        }
        seen.push(lower);
        Ok(())
    }
}

/// Reads a query string that is not percent-encoded. Errors say where in it.
impl FromStr for QueryDescription {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<QueryDescription, QueryError> {
        let mut query = QueryDescription::default();
        let mut seen = Vec::new();
        for option in split(text, true)? {
            let read = query.read_option(&mut seen, option.name, option.value);
            read.map_err(|error| option.blame(error, |at| at))?;
        }
        Ok(query)
    }
}

/// The options of a query string as they are sent, decoded: pairs of a name and a value.
///
/// # Errors
///
/// Bytes that are not UTF-8, and more than 64 KiB.
///
/// ```
/// use datasync_core::query::options;
/// assert_eq!(options("$top=1&name=a%20b+c")?[1], ("name".to_owned(), "a b c".to_owned()));
/// # Ok::<(), datasync_core::query::QueryError>(())
/// ```
pub fn options(text: &str) -> Result<Vec<(String, String)>, QueryError> {
    let mut options = Vec::new();
    for option in split(text, false)? {
        let name = decoded(option.name).map_err(|error| error.at_place(option.at))?;
        let value = decoded(option.value).map_err(|error| error.at_place(option.value_at))?;
        options.push((name.into_owned(), value.into_owned()));
    }
    Ok(options)
}

/// An option, and where it stands in its query string.
struct Part<'t> {
    name: &'t str,
    value: &'t str,
    at: usize,
    value_at: usize,
}

impl Part<'_> {
    /// The error with its place in the query string: one without a place is about the option, one with a place is inside its
    /// value, which `place` leads back to.
    fn blame(&self, error: QueryError, place: impl Fn(usize) -> usize) -> QueryError {
        let at = error.at().map_or(self.at, |at| self.value_at + place(at));
        error.at_place(at)
    }
}

/// Cuts a query string at its ampersands; if it is not percent-encoded, one inside a quoted text separates nothing.
fn split(text: &str, quotes: bool) -> Result<Vec<Part<'_>>, QueryError> {
    if text.len() > MAX_LENGTH {
        return Err(QueryError::at_byte(MAX_LENGTH, "the query is longer than 64 KiB"));
    }
    let mut inside = false;
    let parts = text.split(|letter| {
        inside ^= quotes && letter == '\'';
        letter == '&' && !inside
    });
    let mut at = 0;
    let mut found = Vec::new();
    for part in parts {
        if !part.is_empty() {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            found.push(Part { name, value, at, value_at: at + (name.len() + 1).min(part.len()) });
        }
        at += part.len() + 1;
    }
    Ok(found)
}

/// What a part of a query string stands for: a plus is a blank, as in forms.
fn decoded(text: &str) -> Result<Cow<'_, str>, QueryError> {
    let spaced: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    let not_utf8 = |_| QueryError::new("the query holds bytes that are not UTF-8");
    Ok(match spaced {
        Cow::Borrowed(text) => percent_decode_str(text).decode_utf8().map_err(not_utf8)?,
        Cow::Owned(text) => percent_decode_str(&text).decode_utf8().map_err(not_utf8)?.into_owned().into(),
    })
}

/// Where the byte `at` of what `encoded` decodes to begins in it.
fn encoded_place(encoded: &str, at: usize) -> usize {
    let bytes = encoded.as_bytes();
    let (mut place, mut decoded) = (0, 0);
    while decoded < at && place < bytes.len() {
        let escaped = bytes[place] == b'%'
            && bytes.get(place + 1..place + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        place += if escaped { 3 } else { 1 };
        decoded += 1;
    }
    place
}

/// The keys of an order, each with its place in errors.
fn order(value: &str) -> Result<Vec<OrderBy>, QueryError> {
    let mut keys = Vec::new();
    let mut from = 0;
    for key in value.split(',') {
        let mut words = words(key).map(|(at, word)| (from + at, word));
        let (at, field) = words.next().ok_or_else(|| QueryError::at_byte(from, "an order key is empty"))?;
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_-@".contains(&byte) || !byte.is_ascii();
        if !field.bytes().all(named) {
            let message = format!("`{field}` is not a property: only properties give an order");
            return Err(QueryError::at_byte(at, message));
        }
        let descending = match words.next() {
            None => false,
            Some((_, word)) if word.eq_ignore_ascii_case("asc") => false,
            Some((_, word)) if word.eq_ignore_ascii_case("desc") => true,
            Some((at, word)) => {
                return Err(QueryError::at_byte(at, format!("`{word}` is not an order: use `asc` or `desc`")));
            }
        };
        if let Some((at, word)) = words.next() {
            return Err(QueryError::at_byte(at, format!("`{word}` was not expected in an order")));
        }
        keys.push(OrderBy { field: field.to_owned(), descending });
        from += key.len() + 1;
    }
    Ok(keys)
}

/// The words of a text that lie between blanks, with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let place = |word: &str| word.as_ptr().addr() - text.as_ptr().addr();
    text.split_ascii_whitespace().map(move |word| (place(word), word))
}

fn names(value: &str) -> Result<Vec<String>, QueryError> {
    let mut names = Vec::new();
    let mut from = 0;
    for name in value.split(',') {
        if name.trim().is_empty() {
            return Err(QueryError::at_byte(from, "a name in `$select` is empty"));
        }
        names.push(name.trim().to_owned());
        from += name.len() + 1;
    }
    Ok(names)
}

fn whole(name: &str, value: &str) -> Result<u64, QueryError> {
    let parsed = value.trim().parse::<u64>().ok().filter(|value| i64::try_from(*value).is_ok());
    parsed.ok_or_else(|| QueryError::at_byte(0, format!("`{name}` must be a whole number from 0, but is `{value}`")))
}

fn flag(name: &str, value: &str) -> Result<bool, QueryError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(QueryError::at_byte(0, format!("`{name}` must be `true` or `false`, but is `{value}`"))),
    }
}
