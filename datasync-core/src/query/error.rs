//! What is wrong with a query.

use std::fmt;

/// What is wrong with a query, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError {
    message: String,
    at: Option<usize>,
}

impl QueryError {
    pub(crate) fn new(message: impl Into<String>) -> QueryError {
        QueryError { message: message.into(), at: None }
    }

    pub(crate) fn at_byte(at: usize, message: impl Into<String>) -> QueryError {
        QueryError { message: message.into(), at: Some(at) }
    }

    /// The same error at another place, of a text that the parsed one is a part of.
    pub(crate) fn at_place(self, at: usize) -> QueryError {
        QueryError { at: Some(at), ..self }
    }

    /// The offset in bytes into the text that was parsed, if the error has a place there.
    #[must_use]
    pub fn at(&self) -> Option<usize> {
        self.at
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.at {
            Some(at) => write!(f, " (at byte {at})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for QueryError {}
