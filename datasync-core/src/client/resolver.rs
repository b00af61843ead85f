//! Resolvers: code that settles the conflicts of a table.

use std::{error::Error as StdError, sync::Arc};

use serde_json::Value;

use crate::{
    client::row_type::{MergedWith, RowType},
    config::ConflictPolicy,
    engine::{
        conflict::{Outcome, Resolve, Sides},
        table::Table,
    },
    error::Error,
    row::{OperationKind, Record, ServiceCopy},
    transport::Secrets,
};

/// How a conflict ends; over JSON if no type is named: see [`DatasyncClient::resolve`](super::DatasyncClient::resolve).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution<E = Value> {
    /// This device's side is sent again, over the version that was shown; the service's body is kept as a settled loser.
    /// Fields that this build does not know, and that were not changed here, become as the service has them.
    Keep,
    /// The service's side is taken; this device's body is kept as a settled loser.
    Take,
    /// This is sent, over the version that was shown. Fields that the entity does not have stay as the service has them, and
    /// fields that stay on this device as they are. JSON may also change fields that this build does not know; those that
    /// are as they were before both changes become as the service has them.
    Merged(E),
    /// It is merged by field, with the rules of the table and its fallback: see [`ConflictPolicy::Merge`].
    Merge,
    /// The later edit wins: see [`ConflictPolicy::LastWriterWins`].
    LastWriterWins,
    /// It waits for somebody.
    Park,
}

/// The sides of a conflict, as a [`ConflictResolver`] sees them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolverConflict<E> {
    /// The row.
    pub id: String,
    /// What this device wants to send.
    pub kind: OperationKind,
    /// What was done on the service since: the row was made there, changed, deleted, or brought back.
    pub service_kind: OperationKind,
    /// The service's copy that this device's change started from; `None` for an insert.
    pub base: Option<E>,
    /// This device's side; `None` if it deleted the row.
    pub local: Option<E>,
    /// The service's side; `None` if it deleted the row, or does not have it.
    pub service: Option<E>,
}

/// Settles the conflicts of one table, as in Datasync's `AbstractConflictResolver<T>`.
///
/// It runs while a commit is planned, perhaps more than once for one conflict: it must be quick and must not block. If
/// it fails or panics the conflict is parked. Closures `Fn(ResolverConflict<E>) -> Result<Resolution<E>, _>` are
/// resolvers.
pub trait ConflictResolver<E>: Send + Sync + 'static {
    /// Decides.
    ///
    /// # Errors
    ///
    /// Any error parks the conflict; its text becomes the reason.
    fn resolve(&self, conflict: ResolverConflict<E>) -> Result<Resolution<E>, Box<dyn StdError + Send + Sync>>;
}

impl<E, F> ConflictResolver<E> for F
where
    F: Fn(ResolverConflict<E>) -> Result<Resolution<E>, Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
{
    fn resolve(&self, conflict: ResolverConflict<E>) -> Result<Resolution<E>, Box<dyn StdError + Send + Sync>> {
        self(conflict)
    }
}

/// A typed resolver without its type.
pub(crate) fn erase<E: RowType>(resolver: impl ConflictResolver<E>) -> Arc<Resolve> {
    Arc::new(move |table: &Table, sides: &Sides<'_>| {
        let read = |record: Option<&Record>| {
            record.map(|record| E::of_record(Some(&table.schema), &[], &sides.key.id, record)).transpose()
        };
        let typed = || -> Result<ResolverConflict<E>, Error> {
            Ok(ResolverConflict {
                id: sides.key.id.as_ref().to_owned(),
                kind: sides.kind,
                service_kind: service_kind(sides.base, sides.service),
                base: read(sides.base.filter(|base| !base.deleted))?,
                local: read(sides.local)?,
                service: read(sides.service.live())?,
            })
        };
        let decided = typed().map_err(Into::into).and_then(|conflict| resolver.resolve(conflict));
        match decided {
            Ok(resolution) => {
                let with = MergedWith::of(&sides.key.id, sides.local.or(sides.base), sides.service);
                outcome(table, with, resolution).unwrap_or_else(|error| Outcome::Park(error.to_string()))
            }
            Err(error) => {
                // A library that the resolver calls may repeat what it was given (I21).
                let mut given = Secrets::default();
                let records = [sides.base, sides.local, sides.service.live()];
                records.into_iter().flatten().for_each(|record| given.add_json(record.body.as_bytes()));
                Outcome::Park(given.hide(&format!("the conflict resolver failed: {error}")))
            }
        }
    })
}

/// What was done to a row on the service since the base.
pub(crate) fn service_kind(base: Option<&Record>, service: &ServiceCopy) -> OperationKind {
    match (base, service.live()) {
        (_, None) => OperationKind::Delete,
        (None, Some(_)) => OperationKind::Insert,
        (Some(base), Some(_)) if base.deleted => OperationKind::Undelete,
        (Some(_), Some(_)) => OperationKind::Replace,
    }
}

pub(crate) fn outcome<E: RowType>(
    table: &Table,
    with: MergedWith<'_>,
    resolution: Resolution<E>,
) -> Result<Outcome, Error> {
    Ok(match resolution {
        Resolution::Keep => Outcome::Keep,
        Resolution::Take => Outcome::Take,
        Resolution::Merge => Outcome::Policy(ConflictPolicy::Merge),
        Resolution::LastWriterWins => Outcome::Policy(ConflictPolicy::LastWriterWins),
        Resolution::Park => Outcome::Park("the conflict resolver left it to somebody else".to_owned()),
        Resolution::Merged(row) => Outcome::Written(row.merged(&table.schema, table.rules.readable, with)?),
    })
}
