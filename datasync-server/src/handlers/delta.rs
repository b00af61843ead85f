//! Pages of changes in the order of the commits (`docs/wire-extensions.md`).

use axum::{http::StatusCode, response::Response};
use datasync_core::query::{Evaluator, QueryDescription};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::Request;
use crate::{
    error::{self, Refusal},
    page::Page,
    repository::{ChangesQuery, Left, Place, RowQuery, View},
};

const NAME: &str = "__delta";

/// The token of a request for changes; empty for the first page.
pub(super) fn token<'p>(request: &Request, parameters: &'p [(String, String)]) -> Option<&'p str> {
    let asked = parameters.iter().find(|(name, _)| request.table.extensions && name.eq_ignore_ascii_case(NAME));
    asked.map(|(_, value)| value.as_str())
}

/// What a token says: `{epoch}.{scope}.{milliseconds}.{sequence}.{begun}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    epoch: Uuid,
    /// Which filter and view it is good for.
    scope: u32,
    place: Place,
    /// Where the horizon was when the pull began.
    begun: u64,
}

impl Token {
    fn read(text: &str) -> Option<Token> {
        let mut parts = text.splitn(5, '.');
        let epoch = Uuid::try_parse(parts.next()?).ok()?;
        let scope = u32::from_str_radix(parts.next()?, 16).ok()?;
        let updated_at = Timestamp::from_millisecond(parts.next()?.parse().ok()?).ok()?;
        let sequence = parts.next()?.parse().ok()?;
        let begun = parts.next()?.parse().ok()?;
        Some(Token { epoch, scope, place: Place { updated_at, sequence }, begun })
    }

    fn write(&self) -> String {
        let millis = self.place.updated_at.as_nanosecond().div_euclid(1_000_000);
        format!("{}.{:08x}.{millis}.{}.{}", self.epoch.simple(), self.scope, self.place.sequence, self.begun)
    }
}

/// Which filter and view a token is good for: FNV-1a, folded to so few bits that a view cannot be read from it.
fn scope(seen: &QueryDescription) -> u32 {
    let text = seen.filter.as_ref().map(ToString::to_string).unwrap_or_default();
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash >> 32) as u32 ^ hash as u32
}

/// A request for changes: the client's query, and what of it the caller sees.
pub(super) struct Asked {
    pub(super) query: QueryDescription,
    pub(super) seen: QueryDescription,
    pub(super) evaluator: Evaluator,
    pub(super) view: Option<View>,
    pub(super) limit: usize,
}

pub(super) async fn page(request: &Request, asked: Asked, token: &str) -> Result<Response, Refusal> {
    let refuse = |message: &str| Err(Refusal::because(StatusCode::BAD_REQUEST, message));
    let Asked { query, seen, evaluator, view, limit } = asked;
    if !query.order.is_empty() || query.skip > 0 || !query.select.is_empty() {
        return refuse("`$orderby`, `$skip` and `$select` cannot stand beside `__delta`.");
    }
    let mut token = match token {
        "" => None,
        text => match Token::read(text) {
            Some(token) => Some(token),
            None => return refuse("The token in `__delta` cannot be read."),
        },
    };
    let repository = &request.table.repository;
    let (epoch, scope) = (repository.epoch().await?, scope(&seen));
    let mut restart = match &token {
        Some(token) if token.epoch != epoch => Some("restored"),
        Some(token) if token.scope != scope => Some("expired"),
        _ => None,
    };
    token = token.filter(|_| restart.is_none());
    let total = match query.count {
        true => {
            let count = RowQuery { description: seen, evaluator: evaluator.clone(), include_deleted: true, limit: 0 };
            repository.query(count).await?.total
        }
        false => None,
    };
    let changes = |token: Option<Token>| {
        let since = token.map(|token| token.place).filter(|place| place.sequence > 0);
        // Who holds nothing yet has nothing to let go.
        let begun = token.map_or(u64::MAX, |token| token.begun);
        let (evaluator, view) = (evaluator.clone(), view.clone());
        repository.changes(ChangesQuery { since, begun, evaluator, view, limit })
    };
    let mut found = changes(token).await?;
    if token.is_some_and(|token| found.forgotten > token.begun.max(token.place.sequence)) {
        restart = Some("expired");
        token = None;
        found = changes(None).await?;
    }
    let place = found.place.unwrap_or(Place { updated_at: Timestamp::UNIX_EPOCH, sequence: 0 });
    let next = Token { epoch, scope, place, begun: token.map_or(found.horizon, |token| token.begun) };
    let items = found.rows.iter().map(|row| request.answer(row, &[])).collect();
    let mut delta = json!({ "token": next.write(), "more": found.more });
    if !found.left.is_empty() {
        let stub = |left: &Left| json!({ "id": &*left.id, "version": left.version, "deleted": left.deleted });
        delta["stubs"] = found.left.iter().map(stub).collect();
    }
    if let Some(restart) = restart {
        delta["restart"] = restart.into();
    }
    let page = Page { items, count: total, next_link: None, delta: Some(delta) };
    Ok(error::json(StatusCode::OK, &page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let place = Place { updated_at: Timestamp::from_millisecond(-7).unwrap(), sequence: u64::MAX };
        let token = Token { epoch: Uuid::from_u128(7), scope: 0xabc, place, begun: 3 };
        assert_eq!(Token::read(&token.write()), Some(token));
        for text in ["", "1", "....", &token.write()[1..], &format!("{}.1", token.write())] {
            assert_eq!(Token::read(text), None, "{text}");
        }
    }
}
