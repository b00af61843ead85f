//! What an entry point of the API says of an error that leaves through it.

use super::{Error, SyncPhase};

/// Adds where an error comes from, as far as it does not say so itself.
pub(crate) trait Context<T> {
    /// As [`Error::of`].
    fn of(self, table: &str) -> Result<T, Error>;

    /// As [`Error::at`].
    fn at(self, table: &str, id: &str) -> Result<T, Error>;

    /// As [`Error::during`].
    fn during(self, phase: SyncPhase) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn of(self, table: &str) -> Result<T, Error> {
        self.map_err(|error| error.into().of(table))
    }

    fn at(self, table: &str, id: &str) -> Result<T, Error> {
        self.map_err(|error| error.into().at(table, id))
    }

    fn during(self, phase: SyncPhase) -> Result<T, Error> {
        self.map_err(|error| error.into().during(phase))
    }
}
