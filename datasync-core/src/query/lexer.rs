//! The words of a filter.

use super::error::QueryError;

/// A word of a filter, with the text that it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    pub(super) text: &'t str,
    pub(super) at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    /// A text in quotes, with the quotes.
    Quoted,
    /// Digits, and what belongs to numbers, dates, times and UUIDs.
    Number,
    Open,
    Close,
    Comma,
    Minus,
    End,
}

/// Cuts the text into words; the last one is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, QueryError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let (kind, end) = match byte {
            b' ' | b'\t' => {
                at += 1;
                continue;
            }
            b'(' => (Kind::Open, at + 1),
            b')' => (Kind::Close, at + 1),
            b',' => (Kind::Comma, at + 1),
            b'\'' => (Kind::Quoted, quoted(bytes, at)?),
            b'0'..=b'9' => (Kind::Number, run(bytes, at, |b| b.is_ascii_alphanumeric() || b"-:.+".contains(&b))),
            b'-' => (Kind::Minus, at + 1),
            _ if is_word(byte) => {
                let end = run(bytes, at, |b| is_word(b) || b.is_ascii_digit() || b"-./".contains(&b));
                (Kind::Word, end)
            }
            _ => return Err(QueryError::at_byte(at, "this character has no meaning in a filter")),
        };
        tokens.push(Token { kind, text: &text[at..end], at });
        at = end;
    }
    tokens.push(Token { kind: Kind::End, text: "", at: text.len() });
    Ok(tokens)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b'@'
}

fn run(bytes: &[u8], at: usize, belongs: impl Fn(u8) -> bool) -> usize {
    bytes[at..].iter().position(|byte| !belongs(*byte)).map_or(bytes.len(), |length| at + length)
}

/// The end of a text in quotes; a doubled quote stands for one.
fn quoted(bytes: &[u8], start: usize) -> Result<usize, QueryError> {
    let mut at = start + 1;
    loop {
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'\''), Some(b'\'')) => at += 2,
            (Some(b'\''), _) => return Ok(at + 1),
            (Some(_), _) => at += 1,
            (None, _) => return Err(QueryError::at_byte(start, "this text has no closing quote")),
        }
    }
}
