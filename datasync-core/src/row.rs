//! What a store keeps of one row: the record, the copies it started from, and its queued operations.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use uuid::Uuid;

/// The account that everything belongs to while no other is named.
pub const DEFAULT_ACCOUNT: &str = "";

/// Which row: the account it belongs to, its table and its id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// The name of the account.
    pub account: Arc<str>,
    /// The name of the table.
    pub table: Arc<str>,
    /// The id in the table.
    pub id: Arc<str>,
}

impl RowKey {
    /// The row `id` of `table` in the default account.
    #[must_use]
    pub fn new(table: impl Into<Arc<str>>, id: impl Into<Arc<str>>) -> RowKey {
        RowKey { account: DEFAULT_ACCOUNT.into(), table: table.into(), id: id.into() }
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.table, self.id)
    }
}

/// The JSON text of an entity. To a store it is bytes; its `Debug` output never shows them.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(Arc<[u8]>);

impl Body {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body(bytes.into())
    }
}

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Body {
        Body(bytes.into())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// One state of a row: its body, and what the service says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The entity as JSON.
    pub body: Body,
    /// The service's version of this state; `None` if the service has never seen the row.
    pub version: Option<String>,
    /// When the service last changed the row.
    pub updated_at: Option<Timestamp>,
    /// Whether the service has soft-deleted the row.
    pub deleted: bool,
}

/// A record where it lies in a store, without a copy. Its `Debug` output never shows the body.
#[derive(Clone, Copy)]
pub struct RecordRef<'r> {
    /// The entity as JSON.
    pub body: &'r [u8],
    /// As in [`Record::version`].
    pub version: Option<&'r str>,
    /// As in [`Record::updated_at`].
    pub updated_at: Option<Timestamp>,
    /// As in [`Record::deleted`].
    pub deleted: bool,
}

impl RecordRef<'_> {
    /// A copy of it.
    #[must_use]
    pub fn to_record(self) -> Record {
        Record {
            body: Body::from(self.body),
            version: self.version.map(str::to_owned),
            updated_at: self.updated_at,
            deleted: self.deleted,
        }
    }
}

impl<'r> From<&'r Record> for RecordRef<'r> {
    fn from(record: &'r Record) -> RecordRef<'r> {
        RecordRef {
            body: record.body.as_bytes(),
            version: record.version.as_deref(),
            updated_at: record.updated_at,
            deleted: record.deleted,
        }
    }
}

impl fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a record of {} bytes", self.body.len())
    }
}

/// Everything a store keeps of one row. A commit writes it as a whole, so that a row and its operations never part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// What the app sees; `None` if the app has deleted the row, or never had it.
    pub record: Option<Record>,
    /// The service's copy that the queued changes started from, with the fields that stay on this device; kept only while
    /// operations are queued. Of a row that was deleted while its insert is in doubt it is the row itself, marked as deleted and
    /// without a version: the fields that stay on this device have no other place.
    pub base: Option<Record>,
    /// What a pull last met at the service while an operation was in doubt.
    pub seen: Option<ServiceCopy>,
    /// What is left of a row whose deletion this device has pushed, until a page shows the deletion.
    pub tombstone: Option<Tombstone>,
    /// The scopes that hold the row.
    pub scopes: Vec<Arc<str>>,
    /// Whether the last scope that held the row has let it go: then it leaves with its last queued operation. A scope that is
    /// still named holds it again if that succeeds.
    pub left: bool,
    /// Grows with every change of the row in this store.
    pub revision: u64,
    /// The version of the table's schema that record, base, seen and the copy of a conflict follow.
    pub schema: u32,
    /// What an older release of the app left of the row, if that could not be migrated. The row then has no record and no
    /// base, and its operations are not sent.
    pub quarantine: Option<Quarantine>,
    /// The queued operations in the order of their sending; two at most, and then the first is in doubt.
    pub operations: Vec<Operation>,
}

impl Row {
    /// The service's side, if the row is in a conflict that waits for somebody.
    pub(crate) fn conflict(&self) -> Option<&ServiceCopy> {
        match &self.operations.first()?.hold {
            Hold::Parked(parked) if parked.reason == ParkReason::Conflict => parked.conflict.as_ref(),
            _ => None,
        }
    }

    /// The body with the fields that stay on this device: the record's, or what the row was before it was deleted here.
    pub(crate) fn local(&self) -> Option<&Body> {
        self.record.as_ref().or(self.base.as_ref()).map(|record| &record.body)
    }

    /// Whether nothing is left that a store must keep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record.is_none() && self.tombstone.is_none() && self.operations.is_empty() && self.quarantine.is_none()
    }
}

/// What could not be migrated, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// The version of the table's schema that all of it follows.
    pub schema: u32,
    /// What the migration said.
    pub reason: String,
    /// The record as it was; `None` if the row had none.
    pub record: Option<Record>,
    /// The base as it was.
    pub base: Option<Record>,
    /// What a pull had met at the service while an operation was in doubt.
    pub seen: Option<ServiceCopy>,
    /// The other side of a conflict that waited for somebody.
    pub conflict: Option<ServiceCopy>,
}

/// The trace of a deletion that this device has pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The version that was deleted.
    pub version: Option<String>,
    /// When the service confirmed the deletion.
    pub since: Timestamp,
}

/// A change that waits to be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its place in the queue: unique in the store, smaller is earlier.
    pub place: u64,
    /// Its idempotency key: the same on each attempt, another once it was refused.
    pub key: Uuid,
    /// What it does.
    pub kind: OperationKind,
    /// What is known of its effect.
    pub phase: Phase,
    /// When it may be sent.
    pub hold: Hold,
    /// The service's version that it replaces or deletes.
    pub version: Option<String>,
    /// The bytes that were sent, while the operation is in doubt; otherwise the record is what will be sent.
    pub frozen: Option<Body>,
    /// What a replace in doubt started from, as it would be sent, if the service takes patches: each attempt makes its patch
    /// of the same two bodies.
    pub frozen_base: Option<Body>,
    /// The fingerprint of the schema that the bytes follow.
    pub fingerprint: u64,
    /// The version of the schema that the bytes follow.
    pub schema: u32,
    /// When the app last changed it, in the service's time as far as it was known; `None` if it was not.
    pub edited: Option<Timestamp>,
    /// How many attempts have ended without a final answer.
    pub attempts: u32,
    /// How many times a policy has sent it again after a conflict.
    pub rounds: u32,
}

impl Operation {
    /// Whether an attempt was sent and its outcome is not known.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.phase == Phase::InDoubt
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// Creates the row.
    Insert,
    /// Replaces the whole row.
    Replace,
    /// Brings a soft-deleted row back with this content.
    Undelete,
    /// Deletes the row.
    Delete,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OperationKind::Insert => "insert",
            OperationKind::Replace => "replace",
            OperationKind::Undelete => "undelete",
            OperationKind::Delete => "delete",
        })
    }
}

/// What is known of the effect of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Never sent.
    New,
    /// Sent, and the outcome is not known: it is sent again with the same key, version and bytes.
    InDoubt,
    /// Answered, and certainly without effect.
    Refused,
}

/// When an operation may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// At the next push.
    Ready,
    /// Not before a time, but for an explicit push.
    Wait {
        /// When the wait began. A time in the future counts as over.
        since: Timestamp,
        /// How long it lasts.
        length: Duration,
        /// Whether the service asked for it: then an explicit push waits too.
        demanded: bool,
    },
    /// Not before somebody has looked at it.
    Parked(Parked),
}

/// Why an operation waits for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The class of the reason.
    pub reason: ParkReason,
    /// The status of the service's answer, if there was one.
    pub status: Option<u16>,
    /// What happened, for people; never a body.
    pub message: String,
    /// The other side of a conflict.
    pub conflict: Option<ServiceCopy>,
}

/// The class of the reason why an operation is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParkReason {
    /// Both sides have changed the row.
    Conflict,
    /// The service refused the operation.
    Refused,
    /// The attempts failed too often while the service answered others.
    Exhausted,
    /// The row that it belongs to is gone.
    ParentGone,
    /// Its row belongs to itself by way of others, so that none of them can go first.
    Cycle,
    /// The row could not be migrated to the schema of this release.
    Quarantined,
}

/// The service's side of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceCopy {
    /// The service has this state of the row; it may be a tombstone.
    Found(Record),
    /// The service does not have the row.
    Absent,
}

impl ServiceCopy {
    /// The version of the copy.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        match self {
            ServiceCopy::Found(record) => record.version.as_deref(),
            ServiceCopy::Absent => None,
        }
    }

    /// The copy if the service has the row and has not deleted it.
    #[must_use]
    pub fn live(&self) -> Option<&Record> {
        match self {
            ServiceCopy::Found(record) if !record.deleted => Some(record),
            _ => None,
        }
    }
}

/// A body that lost to another one, or with its row; kept until somebody removes it or its age has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledLoser {
    /// Its own id; ids grow with time, and within a millisecond in the order of the commits.
    pub id: Uuid,
    /// The row.
    pub key: RowKey,
    /// Whose body it is.
    pub side: Side,
    /// The body that lost.
    pub body: Body,
    /// The version that the body belonged to.
    pub version: Option<String>,
    /// When it lost.
    pub at: Timestamp,
    /// The version of the table's schema that the body follows.
    pub schema: u32,
    /// How it lost.
    pub cause: LoserCause,
}

/// How a body became a settled loser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoserCause {
    /// A policy or resolver settled a conflict for the other side.
    Conflict,
    /// The service was restored from a backup, and no longer has the row.
    Vanished,
    /// The row could not be migrated, and a newer copy of the service has taken its place.
    Quarantined,
}

/// A side of a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This device.
    Local,
    /// The service.
    Service,
}
