//! Idempotency keys: a change that was made is not made again (`docs/wire-extensions.md`).

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use uuid::Uuid;

use super::{Request, entity};
use crate::{
    error::Refusal,
    repository::{Effect, Idempotency},
};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What the key of a request stands for.
pub(crate) enum Keyed {
    /// Do it, and remember it with the change.
    Fresh(Option<Idempotency>),
    /// It was done: this is the answer.
    Replay(Response),
}

/// Looks the request's key up. `status` is what the change will be answered with.
pub(crate) async fn look_up(
    request: &Request,
    verb: &str,
    id: &str,
    status: StatusCode,
    now: Timestamp,
) -> Result<Keyed, Refusal> {
    let Some(value) = request.headers.get(KEY) else { return Ok(Keyed::Fresh(None)) };
    let key = value.to_str().ok().and_then(|text| Uuid::try_parse(text).ok());
    let key = key.ok_or_else(|| Refusal::because(StatusCode::BAD_REQUEST, "The `Idempotency-Key` is not a UUID."))?;
    let asked = hash(request, verb, id);
    match request.table.repository.effect(key).await? {
        None => {
            let effect = Effect { request: asked, status: status.as_u16(), row: None, at: now };
            Ok(Keyed::Fresh(Some(Idempotency { key, effect })))
        }
        Some(effect) if effect.request == asked => Ok(Keyed::Replay(replay(request, &effect))),
        Some(_) => {
            let message = "The `Idempotency-Key` was used for another request.";
            Err(Refusal::because(StatusCode::UNPROCESSABLE_ENTITY, message))
        }
    }
}

fn replay(request: &Request, effect: &Effect) -> Response {
    let status = StatusCode::from_u16(effect.status).unwrap_or(StatusCode::OK);
    let mut response = match &effect.row {
        Some(row) if status != StatusCode::NO_CONTENT => entity(request, status, row),
        _ => status.into_response(),
    };
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// FNV-1a over verb, id, precondition, query and body.
fn hash(request: &Request, verb: &str, id: &str) -> u128 {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let if_match = request.headers.get(header::IF_MATCH).map_or(&b""[..], HeaderValue::as_bytes);
    let query = request.query.as_deref().unwrap_or_default();
    for part in [verb.as_bytes(), id.as_bytes(), if_match, query.as_bytes(), &request.body] {
        for byte in part.iter().copied().chain((part.len() as u64).to_be_bytes()) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    hash
}
