//! Conflicts that wait for a person, and bodies that lost.

use std::{error::Error as StdError, fmt, sync::Arc};

use uuid::Uuid;

use crate::{
    client::{DatasyncClient, codec},
    engine::{
        account,
        committer::{Reads, Tx},
        conflict::{Outcome, Resolve, Sides, finish},
        links, unsent,
    },
    entity::SyncEntity,
    error::{Error, ErrorKind},
    row::{Body, Hold, OperationKind, ParkReason, Record, Row, RowKey, ServiceCopy, SettledLoser},
    store::Clear,
};

/// A conflict that waits for somebody: all sides of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Conflict {
    key: RowKey,
    kind: OperationKind,
    message: String,
    revision: u64,
    base: Option<Record>,
    local: Option<Record>,
    service: ServiceCopy,
}

impl fmt::Debug for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conflict").field("row", &self.key).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Conflict {
    pub(super) fn of(key: &RowKey, row: &Row) -> Option<Conflict> {
        let operation = row.operations.first()?;
        let Hold::Parked(parked) = &operation.hold else { return None };
        let service = parked.conflict.clone().filter(|_| parked.reason == ParkReason::Conflict)?;
        Some(Conflict {
            key: key.clone(),
            kind: operation.kind,
            message: parked.message.clone(),
            revision: row.revision,
            base: row.base.clone(),
            local: row.record.clone(),
            service,
        })
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.key.table
    }

    /// The row.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.key.id
    }

    /// What this device wants to send.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        self.kind
    }

    /// Why it waits.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.message
    }

    /// The service's copy that this device's change started from; `None` for an insert.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEntity`] if it cannot be read as `E`.
    pub fn base<E: SyncEntity>(&self) -> Result<Option<E>, Error> {
        self.base.as_ref().map(|record| codec::decode(&self.key.id, record)).transpose()
    }

    /// This device's side; `None` if it deleted the row.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEntity`] if it cannot be read as `E`.
    pub fn local<E: SyncEntity>(&self) -> Result<Option<E>, Error> {
        self.local.as_ref().map(|record| codec::decode(&self.key.id, record)).transpose()
    }

    /// The service's side; `None` if it deleted the row, or does not have it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEntity`] if it cannot be read as `E`.
    pub fn service<E: SyncEntity>(&self) -> Result<Option<E>, Error> {
        self.service.live().map(|record| codec::decode(&self.key.id, record)).transpose()
    }
}

/// How a conflict ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution<E> {
    /// This device's side is sent again, over the version that was shown.
    Keep,
    /// The service's side is taken; this device's body is kept as a settled loser.
    Take,
    /// This is sent, over the version that was shown.
    Merged(E),
    /// It waits for somebody; from a resolver only.
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
pub(crate) fn erase<E: SyncEntity>(resolver: impl ConflictResolver<E>) -> Arc<Resolve> {
    Arc::new(move |sides: &Sides<'_>| {
        let read = |record: Option<&Record>| record.map(|record| codec::decode(&sides.key.id, record)).transpose();
        let typed = || -> Result<ResolverConflict<E>, Error> {
            Ok(ResolverConflict {
                id: sides.key.id.as_ref().to_owned(),
                kind: sides.kind,
                base: read(sides.base)?,
                local: read(sides.local)?,
                service: read(sides.service.live())?,
            })
        };
        let decided = typed().map_err(Into::into).and_then(|conflict| resolver.resolve(conflict));
        match decided {
            Ok(resolution) => {
                outcome(&sides.key.id, resolution).unwrap_or_else(|error| Outcome::Park(error.to_string()))
            }
            Err(error) => Outcome::Park(format!("the conflict resolver failed: {error}")),
        }
    })
}

fn outcome<E: SyncEntity>(id: &str, resolution: Resolution<E>) -> Result<Outcome, Error> {
    Ok(match resolution {
        Resolution::Keep => Outcome::Keep,
        Resolution::Take => Outcome::Take,
        Resolution::Park => Outcome::Park("the conflict resolver left it to somebody else".to_owned()),
        Resolution::Merged(mut entity) => {
            entity.set_id(id.to_owned());
            Outcome::Merged(codec::encode(&entity)?)
        }
    })
}

impl DatasyncClient {
    /// The conflicts that wait for somebody, in the order of their operations.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, Error> {
        let everything = Clear { account: self.engine.account(), table: None };
        let queued = unsent::queue(&*self.engine.store, &everything).await?;
        let mut conflicts = Vec::new();
        for part in queued.chunks(1_000) {
            let keys: Vec<RowKey> = part.iter().map(|queued| queued.key.clone()).collect();
            let rows = self.engine.store.get(&keys).await?;
            let found = keys.iter().zip(rows).filter_map(|(key, row)| Conflict::of(key, &row?));
            conflicts.extend(found);
        }
        Ok(conflicts)
    }

    /// Settles a conflict that [`conflicts`](DatasyncClient::conflicts) has shown. `Keep` and `Merged` are sent by
    /// the next push.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ConflictChanged`] if the row or the service's copy has changed since it was shown: nothing is
    /// done, and [`Error::conflict`] has the conflict as it is.
    pub async fn resolve<E: SyncEntity>(&self, conflict: &Conflict, resolution: Resolution<E>) -> Result<(), Error> {
        let table = Arc::clone(self.engine.tables.get(&conflict.key.table)?);
        if table.name.as_ref() != E::SCHEMA.name {
            let message = format!("the conflict is of `{}`, but the entity of `{}`", table.name, E::SCHEMA.name);
            return Err(Error::new(ErrorKind::UnknownTable, message));
        }
        if matches!(resolution, Resolution::Park) {
            return Ok(());
        }
        let outcome = outcome(&conflict.key.id, resolution)?;
        let shown = conflict.clone();
        let plan = move |tx: &mut Tx<'_>| {
            account::check(tx, &shown.key)?;
            let row = tx.row(&shown.key)?;
            let now = row.as_ref().and_then(|row| Conflict::of(&shown.key, row));
            let (Some(before), Some(now)) = (row, now) else {
                return Err(Error::conflict_changed(&format!("{:?} is no longer a conflict", shown.key), None));
            };
            if now.revision != shown.revision || now.service.version() != shown.service.version() {
                let message = format!("{:?} has changed since the conflict was shown: look again", shown.key);
                return Err(Error::conflict_changed(&message, Some(now)));
            }
            let mut row = before.clone();
            finish(tx, &table, &shown.key, &mut row, now.service, outcome.clone());
            row.revision += 1;
            links::settle(tx, &table, &shown.key, Some(&before), &row)?;
            tx.put(&shown.key, row);
            Ok(())
        };
        self.engine.committer.commit(Reads::row(conflict.key.clone()), plan).await
    }

    /// The bodies that lost conflicts which a policy or resolver settled, oldest first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn settled_losers(&self) -> Result<Vec<SettledLoser>, Error> {
        Ok(unsent::losers(&*self.engine.store, &self.engine.account()).await?)
    }

    /// Removes settled losers that nobody needs any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    pub async fn forget_losers(&self, ids: impl IntoIterator<Item = Uuid>) -> Result<(), Error> {
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let plan = move |tx: &mut Tx<'_>| {
            ids.iter().for_each(|id| tx.remove_loser(*id));
            Ok(())
        };
        self.engine.committer.commit(Reads::default(), plan).await
    }
}

impl SettledLoser {
    /// The body as an entity.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEntity`] if it cannot be read as `E`.
    pub fn entity<E: SyncEntity>(&self) -> Result<E, Error> {
        let body: &Body = &self.body;
        let record = Record { body: body.clone(), version: self.version.clone(), updated_at: None, deleted: false };
        codec::decode(&self.key.id, &record)
    }
}
