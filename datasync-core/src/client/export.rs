//! What is kept of a row, as JSON for support.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    client::{DatasyncClient, PendingRequest},
    error::{Error, ErrorKind},
    row::{Body, Hold, Operation, Record, Row, RowKey, ServiceCopy},
};

/// How many rows are looked at at once.
const CHUNK: usize = 100;

impl DatasyncClient {
    /// Everything that this device keeps of a row, as JSON: the record, the copy that its changes started from, what is
    /// queued, and why it waits. For support: it holds what the user wrote.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if nothing is kept of it; [`ErrorKind::UnknownTable`], [`ErrorKind::Store`].
    pub async fn export(&self, table: &str, id: &str) -> Result<String, Error> {
        let key = self.pending_key(table, id)?;
        let row = self.engine.store.get(std::slice::from_ref(&key)).await?.pop().flatten();
        let row = row.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("nothing is kept of {key:?}")))?;
        written(&Exported::of(&key, &row))
    }

    /// Every row with a change that waits for somebody, as a JSON array of what [`export`](DatasyncClient::export) gives.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn export_parked(&self) -> Result<String, Error> {
        let mut rows = Vec::new();
        let mut request = PendingRequest::new().parked().limit(CHUNK);
        loop {
            let page = self.pending_page(request.clone()).await?;
            let keys = page.changes.iter().map(|change| self.pending_key(&change.table, &change.id));
            let keys = keys.collect::<Result<Vec<RowKey>, Error>>()?;
            let found = self.engine.store.get(&keys).await?;
            rows.extend(keys.iter().zip(found).filter_map(|(key, row)| Some(Exported::of(key, &row?))));
            match page.next {
                Some(next) => request = request.after(next),
                None => return written(&rows),
            }
        }
    }
}

/// A row with everything that belongs to it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Exported {
    account: String,
    table: String,
    id: String,
    schema: u32,
    record: Option<Copy>,
    base: Option<Copy>,
    seen: Option<Copy>,
    /// Since when the service confirms that this device has deleted it.
    deleted_here: Option<String>,
    scopes: Vec<String>,
    quarantine: Option<Quarantined>,
    operations: Vec<Queued>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Copy {
    version: Option<String>,
    updated_at: Option<String>,
    deleted: bool,
    body: Json,
}

/// A body, byte for byte; as a text if it is not JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Json {
    Whole(Box<RawValue>),
    Text(String),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Side {
    Found(Copy),
    Absent(&'static str),
}

#[derive(Serialize)]
struct Quarantined {
    reason: String,
    schema: u32,
    record: Option<Copy>,
    base: Option<Copy>,
    seen: Option<Copy>,
    service: Option<Side>,
}

#[derive(Serialize)]
struct Queued {
    place: u64,
    kind: String,
    phase: String,
    hold: Held,
    key: String,
    version: Option<String>,
    attempts: u32,
    rounds: u32,
    edited: Option<String>,
    /// The bytes of attempts whose outcome is not known.
    sent: Option<Json>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Held {
    Ready,
    Waits { since: String, milliseconds: u64, demanded_by_the_service: bool },
    Parked { reason: String, status: Option<u16>, message: String, service: Option<Side> },
}

impl Exported {
    pub(crate) fn of(key: &RowKey, row: &Row) -> Exported {
        Exported {
            account: key.account.as_ref().to_owned(),
            table: key.table.as_ref().to_owned(),
            id: key.id.as_ref().to_owned(),
            schema: row.schema,
            record: row.record.as_ref().map(copy),
            base: row.base.as_ref().map(copy),
            seen: row.seen.as_ref().map(copy),
            deleted_here: row.tombstone.as_ref().map(|tombstone| tombstone.since.to_string()),
            scopes: row.scopes.iter().map(|scope| scope.as_ref().to_owned()).collect(),
            quarantine: row.quarantine.as_ref().map(|quarantine| Quarantined {
                reason: quarantine.reason.clone(),
                schema: quarantine.schema,
                record: quarantine.record.as_ref().map(copy),
                base: quarantine.base.as_ref().map(copy),
                seen: quarantine.seen.as_ref().map(copy),
                service: quarantine.conflict.as_ref().map(side),
            }),
            operations: row.operations.iter().map(queued).collect(),
        }
    }
}

fn copy(record: &Record) -> Copy {
    Copy {
        version: record.version.clone(),
        updated_at: record.updated_at.map(|time| time.to_string()),
        deleted: record.deleted,
        body: json(&record.body),
    }
}

fn json(body: &Body) -> Json {
    let text = String::from_utf8_lossy(body.as_bytes()).into_owned();
    match serde_json::from_slice(body.as_bytes()) {
        Ok(whole) => Json::Whole(whole),
        Err(_) => Json::Text(text),
    }
}

fn side(copy: &ServiceCopy) -> Side {
    match copy {
        ServiceCopy::Found(found) => Side::Found(self::copy(found)),
        ServiceCopy::Absent => Side::Absent("absent"),
    }
}

fn queued(operation: &Operation) -> Queued {
    Queued {
        place: operation.place,
        kind: operation.kind.to_string(),
        phase: format!("{:?}", operation.phase),
        hold: match &operation.hold {
            Hold::Ready => Held::Ready,
            Hold::Wait { since, length, demanded } => Held::Waits {
                since: since.to_string(),
                milliseconds: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
                demanded_by_the_service: *demanded,
            },
            Hold::Parked(parked) => Held::Parked {
                reason: format!("{:?}", parked.reason),
                status: parked.status,
                message: parked.message.clone(),
                service: parked.conflict.as_ref().map(side),
            },
        },
        key: operation.key.to_string(),
        version: operation.version.clone(),
        attempts: operation.attempts,
        rounds: operation.rounds,
        edited: operation.edited.map(|time| time.to_string()),
        sent: operation.frozen.as_ref().map(json),
    }
}

fn written(exported: &impl Serialize) -> Result<String, Error> {
    let written = serde_json::to_string_pretty(exported);
    written.map_err(|error| Error::caused(ErrorKind::InvalidEntity, "the row cannot be written as JSON", error))
}
