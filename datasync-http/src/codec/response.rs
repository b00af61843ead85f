//! Responses: what each status means (PROTOCOL, status codes), and rows whose bodies keep their bytes.

use std::{borrow::Cow, sync::Arc, time::Duration};

use datasync_core::{
    row::{Body, Record},
    transport::{PushOutcome, Restart, ServiceRow, Stub, TransportError, TransportErrorKind},
};
use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

use crate::{
    codec::sent::Sent,
    exchange::{ExchangeError, ExchangeErrorKind, HttpResponse},
};

/// The longest reason that is taken from an answer, in characters.
const MAX_REASON: usize = 200;

/// The fields of a row that the service owns.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct System<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    updated_at: Option<Cow<'a, str>>,
    #[serde(default)]
    deleted: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    count: Option<i64>,
    #[serde(borrow, default)]
    next_link: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    token: String,
    more: bool,
    #[serde(default)]
    restart: Value,
    #[serde(borrow, default)]
    stubs: Vec<RawStub<'a>>,
}

#[derive(Deserialize)]
struct RawStub<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    deleted: bool,
}

/// Where a page of changes ends, and what it says beside its rows.
#[derive(Debug)]
pub(crate) struct DeltaPlace {
    pub(crate) token: String,
    pub(crate) more: bool,
    pub(crate) restart: Option<Restart>,
    pub(crate) stubs: Vec<Stub>,
}

impl Delta<'_> {
    /// Reads the stubs; one of a row that is marked as deleted is the row's tombstone, and goes to `rows`.
    fn place(self, rows: &mut Vec<ServiceRow>) -> Option<DeltaPlace> {
        let restart = match self.restart {
            Value::Null | Value::Bool(false) => None,
            Value::String(why) if why == "expired" => Some(Restart::Expired),
            // A client that thinks of lost rows thinks of everything.
            _ => Some(Restart::Restored),
        };
        let mut stubs = Vec::with_capacity(self.stubs.len());
        for RawStub { id, version, deleted } in self.stubs {
            let (id, version) = (Arc::<str>::from(id), version.filter(|version| !version.is_empty()));
            match (id.is_empty(), version) {
                (true, _) => return None,
                (false, Some(version)) if deleted => {
                    let body = serde_json::json!({ "id": &*id, "version": version, "deleted": true }).to_string();
                    let (body, version) = (Body::from(body.into_bytes()), Some(version));
                    rows.push(ServiceRow { id, record: Record { body, version, updated_at: None, deleted } });
                }
                (false, version) => stubs.push(Stub { id, version, removed: deleted }),
            }
        }
        Some(DeltaPlace { token: self.token, more: self.more, restart, stubs })
    }
}

/// A page as it came.
#[derive(Debug)]
pub(crate) struct RawPage {
    pub(crate) rows: Vec<ServiceRow>,
    pub(crate) count: Option<u64>,
    pub(crate) next_link: Option<String>,
    pub(crate) delta: Option<DeltaPlace>,
    /// The service's time.
    pub(crate) date: Option<Timestamp>,
}

/// A list would be read member by member; only an object names what it holds.
fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}

fn row(json: &[u8]) -> Option<ServiceRow> {
    let system: System<'_> = serde_json::from_slice(json).ok().filter(|_| is_object(json))?;
    if system.id.is_empty() {
        return None;
    }
    let record = Record {
        body: Body::from(json),
        version: system.version.filter(|version| !version.is_empty()).map(Cow::into_owned),
        updated_at: system.updated_at.and_then(|text| text.parse().ok()),
        deleted: system.deleted.unwrap_or(false),
    };
    Some(ServiceRow { id: system.id.into(), record })
}

fn protocol(message: &str) -> TransportError {
    TransportError::new(TransportErrorKind::Protocol, message)
}

/// The error of an answer that is not what was asked for: what it is instead, and what to do about it.
pub(crate) fn unreadable(what: &str, response: &HttpResponse) -> TransportError {
    let body = response.body.trim_ascii();
    let found = match body.first() {
        None => "has no body: check the address of the service, and whether the network wants a sign-in",
        Some(b'<') => "is a web page: check the address of the service, and whether the network wants a sign-in",
        Some(_) if serde_json::from_slice::<IgnoredAny>(body).is_err() => {
            "is no JSON, or was cut short: try again, and if it stays so check the address of the service"
        }
        Some(_) => "is not what a Datasync service answers: check the address of the service",
    };
    protocol(&format!("the answer to {what} {found}"))
}

pub(crate) fn page(response: &HttpResponse, sent: &Sent) -> Result<RawPage, TransportError> {
    if response.status != 200 {
        return Err(failure(response, sent));
    }
    let envelope = serde_json::from_slice::<Envelope<'_>>(&response.body).ok().filter(|_| is_object(&response.body));
    let envelope = envelope.ok_or_else(|| unreadable("a query", response))?;
    let no_id = |what: &str| {
        protocol(&format!("{what} of a page is not an object with an id: check the address of the service"))
    };
    let row = |item: &RawValue| row(item.get().as_bytes()).ok_or_else(|| no_id("a row"));
    let mut rows = envelope.items.unwrap_or_default().into_iter().map(row).collect::<Result<_, _>>()?;
    let delta = match envelope.delta {
        Some(delta) => Some(delta.place(&mut rows).ok_or_else(|| no_id("a stub"))?),
        None => None,
    };
    Ok(RawPage {
        rows,
        count: envelope.count.and_then(|count| u64::try_from(count).ok()),
        next_link: envelope.next_link.filter(|link| !link.is_empty()).map(Cow::into_owned),
        delta,
        date: response.header("date").and_then(date),
    })
}

/// The answer to the read of one row.
pub(crate) fn read(response: &HttpResponse, id: &str, sent: &Sent) -> Result<Option<ServiceRow>, TransportError> {
    match response.status {
        200 => match row(&response.body) {
            Some(row) if row.id.as_ref() == id => Ok(Some(row)),
            _ => Err(unreadable("the read of a row", response)),
        },
        404 | 410 => Ok(None),
        _ => Err(failure(response, sent)),
    }
}

/// The answer to a change.
pub(crate) fn outcome(response: &HttpResponse, id: &str, sent: &Sent) -> PushOutcome {
    let copy = || row(&response.body).filter(|row| row.id.as_ref() == id);
    let no_json =
        || !response.body.trim_ascii().is_empty() && serde_json::from_slice::<IgnoredAny>(&response.body).is_err();
    match response.status {
        // A network that wants a sign-in answers everything so; it has not made the change.
        200 | 201 | 204 if no_json() => PushOutcome::Failed(unreadable("a change", response)),
        200 | 201 | 204 => PushOutcome::Applied(copy()),
        404 => PushOutcome::NotFound,
        409 | 412 => PushOutcome::Conflict(copy()),
        410 => PushOutcome::Gone,
        _ => PushOutcome::Failed(failure(response, sent)),
    }
}

/// The error that a status stands for, with the service's words but for what was sent.
pub(crate) fn failure(response: &HttpResponse, sent: &Sent) -> TransportError {
    use TransportErrorKind::{Forbidden, Protocol, Rejected, Server, Throttled, Unauthenticated};
    let status = response.status;
    let (kind, advice) = match status {
        401 => (Unauthenticated, "; sign in again, or give the transport a `token_provider`"),
        403 => (Forbidden, "; whoever is signed in may not do this"),
        404 | 405 => (Rejected, "; check the address of the service, and the path of the table"),
        408 | 425 | 429 => (Throttled, "; it asks for patience: try again later"),
        413 => (Rejected, "; it takes nothing of this size"),
        400..=499 => (Rejected, ""),
        500..=599 => (Server, "; nothing is lost: try again later"),
        300..=399 => {
            let advice = ", a redirect, which is not followed; check the address of the service, and whether the \
                          network wants a sign-in";
            (Protocol, advice)
        }
        _ => (Protocol, "; check the address of the service"),
    };
    let reason = reason(&response.body, sent).map_or_else(String::new, |reason| format!(": {reason}"));
    let wait = response.header("retry-after").and_then(|value| wait(value, response.header("date").and_then(date)));
    let message = format!("the service answered {status}{reason}{advice}");
    TransportError::new(kind, message).with_status(status).with_retry_after(wait)
}

/// The service's words: a JSON text, a list of validation messages, or a problem's title. Never what may be an entity, nor
/// what was sent.
fn reason(body: &[u8], sent: &Sent) -> Option<String> {
    let message = |value: &Value| Some(value.get("errorMessage")?.as_str()?.to_owned());
    let text = match serde_json::from_slice(body).ok()? {
        Value::String(text) => text,
        Value::Array(items) => items.iter().filter_map(message).collect::<Vec<_>>().join("; "),
        Value::Object(problem) if !problem.contains_key("id") => {
            let words = ["title", "detail"].iter().filter_map(|name| problem.get(*name)?.as_str());
            words.collect::<Vec<_>>().join(": ")
        }
        _ => return None,
    };
    let text: String = sent.hide(&text).chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    (!text.is_empty()).then_some(text)
}

/// The time of a `Date`.
pub(crate) fn date(value: &str) -> Option<Timestamp> {
    Timestamp::try_from(httpdate::parse_http_date(value).ok()?).ok()
}

/// `Retry-After`: seconds, or a date that is measured from the service's own.
fn wait(value: &str, now: Option<Timestamp>) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let seconds = date(value)?.as_second() - now?.as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The error of a request that got no response.
pub(crate) fn broken(error: ExchangeError) -> TransportError {
    let kind = match error.kind() {
        ExchangeErrorKind::Connect | ExchangeErrorKind::Untrusted => TransportErrorKind::Connect,
        ExchangeErrorKind::Interrupted => TransportErrorKind::Interrupted,
        ExchangeErrorKind::TooLarge => TransportErrorKind::Protocol,
    };
    TransportError::new(kind, error.to_string()).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> HttpResponse {
        HttpResponse { status, headers: Vec::new(), body: body.as_bytes().to_vec() }
    }

    #[test]
    fn every_status_of_the_protocol_has_one_meaning() {
        let entity = r#"{"id":"1","version":"AQ==","updatedAt":"2024-01-02T03:04:05.678Z","title":"x"}"#;
        for (status, body, expected) in [
            (200, entity, "applied with copy"),
            (201, entity, "applied with copy"),
            (204, "", "applied"),
            (200, "not json", "Protocol"),
            (204, "<html>", "Protocol"),
            (200, r#"{"id":"2"}"#, "applied"),
            (409, entity, "conflict with copy"),
            (412, entity, "conflict with copy"),
            (412, "", "conflict"),
            (404, "", "not found"),
            (410, "", "gone"),
            (400, "\"no\"", "Rejected"),
            (401, "", "Unauthenticated"),
            (403, "", "Forbidden"),
            (405, "", "Rejected"),
            (408, "", "Throttled"),
            (413, "", "Rejected"),
            (415, "", "Rejected"),
            (422, "", "Rejected"),
            (425, "", "Throttled"),
            (428, "", "Rejected"),
            (429, "", "Throttled"),
            (451, "", "Rejected"),
            (500, "", "Server"),
            (503, "", "Server"),
            (520, "", "Server"),
            (302, "", "Protocol"),
            (101, "", "Protocol"),
        ] {
            let found = match outcome(&response(status, body), "1", &Sent::default()) {
                PushOutcome::Applied(Some(_)) => "applied with copy".to_owned(),
                PushOutcome::Applied(None) => "applied".to_owned(),
                PushOutcome::Conflict(Some(_)) => "conflict with copy".to_owned(),
                PushOutcome::Conflict(None) => "conflict".to_owned(),
                PushOutcome::NotFound => "not found".to_owned(),
                PushOutcome::Gone => "gone".to_owned(),
                PushOutcome::Failed(error) => format!("{:?}", error.kind()),
            };
            assert_eq!(found, expected, "{status} {body}");
        }
    }

    #[test]
    fn a_page_keeps_the_bytes_of_its_rows() {
        let body = r#"{"items":[{"id":"1","x": 1.10 ,"deleted":true}],"count":7,"nextLink":"$skip=1"}"#;
        let page = page(&response(200, body), &Sent::default()).unwrap();
        assert_eq!(page.rows[0].record.body.as_bytes(), br#"{"id":"1","x": 1.10 ,"deleted":true}"#);
        assert!(page.rows[0].record.deleted);
        assert_eq!((page.count, page.next_link.as_deref()), (Some(7), Some("$skip=1")));
    }

    #[test]
    fn members_of_a_page_may_be_missing_but_rows_have_ids() {
        let empty = page(&response(200, r#"{"nextLink":"abc"}"#), &Sent::default()).unwrap();
        assert_eq!((empty.rows.len(), empty.next_link.as_deref()), (0, Some("abc")));
        assert!(
            page(&response(200, r#"{"items":[],"count":null,"nextLink":""}"#), &Sent::default())
                .unwrap()
                .next_link
                .is_none()
        );
        for body in ["", "[]", r#"{"items":[1]}"#, r#"{"items":[{"x":1}]}"#, r#"{"items":[{"id":""}]}"#] {
            assert_eq!(
                page(&response(200, body), &Sent::default()).unwrap_err().kind(),
                TransportErrorKind::Protocol,
                "{body}"
            );
        }
    }

    #[test]
    fn a_page_tells_what_has_left_and_why_it_begins_again() {
        let read = |delta: &str| {
            page(&response(200, &format!(r#"{{"items":[{{"id":"1"}}],"delta":{delta}}}"#)), &Sent::default())
        };
        let stubs = r#"[{"id":"2","version":"AQ=="},{"id":"3","version":"AQ==","deleted":true},
            {"id":"4","version":null,"deleted":true},{"id":"5"}]"#;
        let found = read(&format!(r#"{{"token":"t","more":false,"stubs":{stubs}}}"#)).unwrap();
        let delta = found.delta.unwrap();
        let stub = |id: &str, version: Option<&str>, removed| Stub {
            id: id.into(),
            version: version.map(str::to_owned),
            removed,
        };
        assert_eq!(delta.stubs, [stub("2", Some("AQ=="), false), stub("4", None, true), stub("5", None, false)]);
        let tombstone = &found.rows[1];
        assert_eq!((&*tombstone.id, tombstone.record.deleted, found.rows.len()), ("3", true, 2));
        assert_eq!(tombstone.record.version.as_deref(), Some("AQ=="));
        for (text, restart) in [
            ("null", None),
            ("false", None),
            ("true", Some(Restart::Restored)),
            ("\"restored\"", Some(Restart::Restored)),
            ("\"expired\"", Some(Restart::Expired)),
            ("\"moved\"", Some(Restart::Restored)),
        ] {
            let found = read(&format!(r#"{{"token":"t","more":false,"restart":{text}}}"#)).unwrap();
            assert_eq!(found.delta.unwrap().restart, restart, "{text}");
        }
        for stubs in [r#"[{"id":""}]"#, "[{}]", "[1]", "7"] {
            let error = read(&format!(r#"{{"token":"t","more":false,"stubs":{stubs}}}"#)).unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::Protocol, "{stubs}");
        }
    }

    #[test]
    fn i21_a_reason_is_never_an_entity() {
        assert_eq!(reason(br#""the \u0007filter""#, &Sent::default()).as_deref(), Some("the filter"));
        assert_eq!(
            reason(br#"[{"errorMessage":"a"},{"errorMessage":"b"}]"#, &Sent::default()).as_deref(),
            Some("a; b")
        );
        assert_eq!(reason(br#"{"title":"T","detail":"d"}"#, &Sent::default()).as_deref(), Some("T: d"));
        assert_eq!(reason(br#"{"id":"1","title":"secret"}"#, &Sent::default()), None);
        assert_eq!(reason(&serde_json::to_vec(&"x".repeat(500)).unwrap(), &Sent::default()).unwrap().len(), MAX_REASON);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(wait("120", None), Some(Duration::from_secs(120)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:40:37 GMT", now), Some(Duration::ZERO));
        assert_eq!(wait("soon", now), None);
    }
}
