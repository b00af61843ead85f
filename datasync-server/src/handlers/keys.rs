//! Idempotency keys: a change that was made is not made again (`docs/wire-extensions.md`).

use std::sync::Arc;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use uuid::Uuid;

use super::{Request, entity};
use crate::{
    error::Refusal,
    repository::{Effect, Idempotency},
};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The key of a request for a change of `id`, and what was done under it. `status` is what the change is answered with.
pub(super) async fn look_up(
    request: &Request,
    caller: &str,
    verb: &str,
    id: &str,
    status: StatusCode,
) -> Result<(Option<Idempotency>, Option<Effect>), Refusal> {
    let Some(value) = request.headers.get(KEY).filter(|_| request.table.extensions) else { return Ok((None, None)) };
    let key = value.to_str().ok().and_then(|text| Uuid::try_parse(text).ok());
    let key = key.ok_or_else(|| Refusal::because(StatusCode::BAD_REQUEST, "The `Idempotency-Key` is not a UUID."))?;
    let effect = request.table.repository.effect(caller, key).await?;
    let (caller, request) = (Arc::from(caller), hash(request, verb, id));
    Ok((Some(Idempotency { caller, key, request, status: status.as_u16() }), effect))
}

/// The answer that was given to the change when it was made.
pub(super) fn replay(request: &Request, key: Option<&Idempotency>, effect: &Effect) -> Result<Response, Refusal> {
    if key.is_none_or(|key| key.request != effect.request) {
        let message = "The `Idempotency-Key` was used for another request.";
        return Err(Refusal::because(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    let status = StatusCode::from_u16(effect.status).unwrap_or(StatusCode::OK);
    let mut response = match status {
        StatusCode::NO_CONTENT => status.into_response(),
        status => entity(request, status, &effect.row),
    };
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// FNV-1a over verb, id, precondition, query and body.
fn hash(request: &Request, verb: &str, id: &str) -> u128 {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let if_match = request.headers.get(header::IF_MATCH).map_or(&b""[..], HeaderValue::as_bytes);
    let query = request.uri.query().unwrap_or_default();
    for part in [verb.as_bytes(), id.as_bytes(), if_match, query.as_bytes(), request.body.trim_ascii()] {
        for byte in part.iter().copied().chain((part.len() as u64).to_be_bytes()) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    hash
}
