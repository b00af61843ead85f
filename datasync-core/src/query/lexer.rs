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

/// Cuts a text into words, one after the other, so that what lies behind an error is never looked at.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Lexer<'t> {
        Lexer { text, at: 0 }
    }

    /// The next word; [`Kind::End`] at the end, again and again.
    pub(super) fn next(&mut self) -> Result<Token<'t>, QueryError> {
        let bytes = self.text.as_bytes();
        let blanks = |byte: u8| matches!(byte, b' ' | b'\t');
        let at = run(bytes, self.at, blanks);
        let (kind, end) = match bytes.get(at).copied() {
            None => (Kind::End, at),
            Some(b'(') => (Kind::Open, at + 1),
            Some(b')') => (Kind::Close, at + 1),
            Some(b',') => (Kind::Comma, at + 1),
            Some(b'-') => (Kind::Minus, at + 1),
            Some(b'\'') => (Kind::Quoted, quoted(bytes, at)?),
            Some(b'0'..=b'9') => (Kind::Number, run(bytes, at, |b| b.is_ascii_alphanumeric() || b"-:.+".contains(&b))),
            Some(byte) if is_word(byte) => {
                (Kind::Word, run(bytes, at, |b| is_word(b) || b.is_ascii_digit() || b"-./".contains(&b)))
            }
            Some(_) => return Err(QueryError::at_byte(at, "this character has no meaning in a filter")),
        };
        self.at = end;
        Ok(Token { kind, text: &self.text[at..end], at })
    }
}

/// Names may hold any letters: whatever is not ASCII is taken for one.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b'@' || !byte.is_ascii()
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
