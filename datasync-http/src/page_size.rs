//! How many rows a page of a pull holds: fewer where rows are so long that an answer would not be taken.

use std::sync::{Mutex, PoisonError};

use datasync_core::transport::TransportError;

use crate::exchange::{ExchangeError, ExchangeErrorKind};

/// After so many pages that were taken, twice as many rows are asked for again.
const TAKEN: u32 = 16;

#[derive(Debug, Default)]
pub(crate) struct PageSize(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The most rows that are asked for; `None` for as many as the caller wants.
    most: Option<u32>,
    taken: u32,
}

impl PageSize {
    /// How many rows to ask for where so many are wanted.
    pub(crate) fn of(&self, wanted: u32) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).most.map_or(wanted, |most| most.min(wanted))
    }

    /// Learns what became of a page of so many rows. Whether it is to be asked for again, with fewer.
    pub(crate) fn learn<T>(&self, rows: u32, page: &Result<T, TransportError>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match page {
            Ok(_) => {
                state.taken += 1;
                if state.taken >= TAKEN {
                    *state = State { most: state.most.and_then(|most| most.checked_mul(2)), taken: 0 };
                }
                false
            }
            Err(error) if rows > 1 && is_too_long(error) => {
                *state = State { most: Some(rows / 2), taken: 0 };
                true
            }
            Err(_) => false,
        }
    }
}

fn is_too_long(error: &TransportError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<ExchangeError>());
    source.is_some_and(|source| source.kind() == ExchangeErrorKind::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::response;

    #[test]
    fn a_page_that_is_too_long_is_halved_and_grows_again() {
        let too_long = || Err::<(), _>(response::broken(ExchangeError::new(ExchangeErrorKind::TooLarge)));
        let lost = Err::<(), _>(response::broken(ExchangeError::new(ExchangeErrorKind::Interrupted)));
        let size = PageSize::default();
        assert!(!size.learn(100, &lost) && size.of(100) == 100);
        assert!(size.learn(100, &too_long()) && size.of(100) == 50);
        assert!(size.learn(50, &too_long()) && size.of(100) == 25 && size.of(7) == 7);
        assert!((1..TAKEN).all(|_| !size.learn(25, &Ok(())) && size.of(100) == 25));
        assert!(!size.learn(25, &Ok(())) && size.of(100) == 50);
        assert!(!size.learn(1, &too_long()), "a single row that is too long is an error");
    }
}
