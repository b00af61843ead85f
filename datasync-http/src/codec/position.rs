//! What a delta token of this transport says: a keyset, or the place of the service's own paging.

use datasync_core::{
    query::QueryDescription,
    store::DeltaToken,
    transport::{TransportError, TransportErrorKind},
};
use serde::{Deserialize, Serialize};

use crate::codec::{
    capabilities::Extensions,
    paging::{Keyset, millis},
    response::RawPage,
};

/// The version of the encoding.
const VERSION: u8 = 1;

#[derive(Deserialize, Serialize)]
struct Versioned {
    v: u8,
    #[serde(flatten)]
    position: Position,
}

/// How far a pull is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Position {
    /// In the order of `updatedAt`, from a service as the originals are.
    Keyset(Keyset),
    /// In the order of the service's commits, up to its safe horizon.
    Delta(Delta),
}

/// A place in the order of the service's commits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delta {
    /// The service's token; empty at the start.
    pub(crate) token: String,
    /// The latest stamp received, in milliseconds, from which a keyset goes on if the service loses its extensions.
    mark: Option<i64>,
}

impl Position {
    /// Reads a token; none is the start of the first pull. A service that has since got delta pages is read from the
    /// start in them, and one that has certainly lost them from the latest stamp on.
    pub(crate) fn read(token: Option<&DeltaToken>, extensions: &Extensions) -> Result<Position, TransportError> {
        let stored = match token.map(|token| serde_json::from_str::<Versioned>(&token.0)) {
            None => None,
            Some(Ok(Versioned { v: VERSION, position })) => Some(position),
            Some(_) => {
                let message =
                    "the delta token was made by another transport or release: purge the table and pull again";
                return Err(TransportError::new(TransportErrorKind::Protocol, message));
            }
        };
        Ok(match stored {
            Some(Position::Delta(place)) if extensions.delta => Position::Delta(place),
            _ if extensions.delta => Position::Delta(Delta::default()),
            Some(Position::Keyset(keyset)) => Position::Keyset(keyset),
            Some(Position::Delta(_)) if !extensions.certain => {
                let message = "what answers is not the service that was there before: does the network want a sign-in?";
                return Err(TransportError::new(TransportErrorKind::Protocol, message));
            }
            Some(Position::Delta(place)) => Position::Keyset(Keyset::from(place.mark)),
            None => Position::Keyset(Keyset::start()),
        })
    }

    pub(crate) fn token(self) -> Result<DeltaToken, TransportError> {
        let text = serde_json::to_string(&Versioned { v: VERSION, position: self }).map_err(|error| {
            TransportError::new(TransportErrorKind::Protocol, "the delta token cannot be written").with_source(error)
        })?;
        Ok(DeltaToken(text.into()))
    }
}

impl Delta {
    /// Whether nothing was asked for yet.
    pub(crate) fn begins(&self) -> bool {
        self.token.is_empty()
    }

    /// The query of the next page.
    pub(crate) fn query(&self, query: &QueryDescription, top: u32, first: bool) -> QueryDescription {
        let (filter, top, parameters) = (query.filter.clone(), Some(u64::from(top)), query.parameters.clone());
        let count = first && self.token.is_empty();
        QueryDescription { filter, top, count, parameters, ..QueryDescription::default() }
    }

    /// The position behind a page, and whether the pull goes on; `None` if the service did not understand the request.
    pub(crate) fn behind(&self, page: &RawPage) -> Result<Option<(Delta, bool)>, TransportError> {
        let Some(delta) = &page.delta else { return Ok(None) };
        if delta.more && delta.token == self.token {
            let message = "the service answers the same page again and again";
            return Err(TransportError::new(TransportErrorKind::Protocol, message));
        }
        let latest = page.rows.iter().filter_map(|row| row.record.updated_at).map(millis).max();
        Ok(Some((Delta { token: delta.token.clone(), mark: self.mark.max(latest) }, delta.more)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_follows_the_service_when_it_gets_or_loses_delta_pages() {
        let extensions = |delta, certain| Extensions { delta, certain, ..Extensions::default() };
        let (with, without) = (extensions(true, true), extensions(false, true));
        let delta = Position::Delta(Delta { token: "t".to_owned(), mark: Some(7) });
        let token = delta.clone().token().unwrap();
        assert_eq!(Position::read(Some(&token), &with).unwrap(), delta);
        assert_eq!(Position::read(Some(&token), &without).unwrap(), Position::Keyset(Keyset::from(Some(7))));
        assert!(Position::read(Some(&token), &extensions(false, false)).is_err(), "perhaps it is not the service");
        let keyset = Position::Keyset(Keyset::from(Some(7)));
        let token = keyset.clone().token().unwrap();
        assert_eq!(Position::read(Some(&token), &without).unwrap(), keyset);
        assert_eq!(Position::read(Some(&token), &with).unwrap(), Position::Delta(Delta::default()));
        assert_eq!(Position::read(None, &with).unwrap(), Position::Delta(Delta::default()));
        for text in ["", "{}", r#"{"v":2,"delta":{"token":"t","mark":null}}"#] {
            assert!(Position::read(Some(&DeltaToken(text.into())), &with).is_err(), "{text}");
        }
    }
}
