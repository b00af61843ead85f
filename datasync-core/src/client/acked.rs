//! What a local write returns, and the wait for the service.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

use crate::{
    client::conflicts::Conflict,
    engine::{
        Engine,
        acks::{Fate, Held},
        table::Tables,
    },
    error::{Error, ErrorKind, SyncPhase},
    row::{Hold, OperationKind, ParkReason, Row, RowKey},
    store::{StoreError, StoreErrorKind},
};

/// What a local write returns: the entity, which is durable here, and its change, which is queued. It derefs to the entity.
///
/// Of a delete it is `Written<()>`.
#[derive(Clone)]
pub struct Written<E> {
    entity: E,
    change: Queued,
}

impl<E> Written<E> {
    pub(crate) fn new(entity: E, change: Queued) -> Written<E> {
        Written { entity, change }
    }

    /// The entity itself.
    pub fn into_inner(self) -> E {
        self.entity
    }

    /// Waits until the service has the change: until a push has stored its answer, whoever pushes. Ends at once if that
    /// has happened, or if there was nothing to send. A change that later writes of the row were collapsed into is there
    /// with them.
    ///
    /// It never pushes by itself, and does not end while nobody pushes. Any number of callers may wait; dropping the
    /// future costs nothing, and the change stays queued. It may be asked again, also after an error: a change that was
    /// parked and retried may be there after all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] if the change waits in a conflict ([`Error::conflict`] has it), or a conflict ended with
    /// the service's copy; [`ErrorKind::Parked`] if the service refused it or failed at it too often, with the
    /// reason; [`ErrorKind::OtherAccount`] if its row was [adopted](crate::client::DatasyncClient::adopt);
    /// [`ErrorKind::Dropped`] if it left the queue before the service had it: discarded, purged, or deleted
    /// again; [`ErrorKind::Store`], also if the client is gone: then the change is still queued.
    pub async fn acked(&self) -> Result<(), Error> {
        self.change.acked().await
    }
}

impl<E> Deref for Written<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.entity
    }
}

impl<E: PartialEq> PartialEq for Written<E> {
    fn eq(&self, other: &Written<E>) -> bool {
        self.change.key == other.change.key && self.entity == other.entity
    }
}

impl<E: Eq> Eq for Written<E> {}

impl<E> fmt::Debug for Written<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Written").field(&self.change.key).finish()
    }
}

/// A change that was queued. It does not keep the client, or its store, open.
#[derive(Clone)]
pub(crate) struct Queued {
    engine: Weak<Engine>,
    key: RowKey,
    /// Place and kind; `None` if nothing of the row was left to send.
    queued: Option<(u64, OperationKind)>,
    _held: Held,
}

impl Queued {
    pub(crate) fn new(engine: &Arc<Engine>, key: RowKey, queued: Option<(u64, OperationKind)>, held: &Held) -> Queued {
        Queued { engine: Arc::downgrade(engine), key, queued, _held: Arc::clone(held) }
    }

    async fn acked(&self) -> Result<(), Error> {
        let Some((place, kind)) = self.queued else { return Ok(()) };
        self.answered(place).await.map_err(|error| {
            let RowKey { table, id, .. } = &self.key;
            let error = error.at(table, id).doing(kind).during(SyncPhase::Push);
            let kind = error.operation().unwrap_or(kind);
            error.trying(|| format!("sending the {kind} of {table}/{id}"))
        })
    }

    async fn answered(&self, place: u64) -> Result<(), Error> {
        let key = &self.key;
        loop {
            let Some(engine) = self.engine.upgrade() else {
                let message = format!("the client was closed while {key:?} was still queued");
                let closed = StoreError::new(StoreErrorKind::Closed, "the client was closed");
                return Err(Error::caused(ErrorKind::Store, message, closed));
            };
            // From before the look at the row on, so that no commit is missed between the two.
            let acks = engine.committer.acks();
            let next = acks.wait(key);
            // Whoever wrote last may have gone away before its commit was made.
            engine.committer.settle().await;
            let place = acks.stands_for(place);
            let row = engine.store.get(std::slice::from_ref(key)).await?.pop().flatten();
            let operations = row.iter().flat_map(|row| &row.operations);
            if !operations.clone().any(|queued| queued.place == place) {
                if let Some(fate) = acks.lost(key, place) {
                    return Err(lost(key, fate));
                }
                // What took it in is queued yet.
                if !operations.clone().any(|queued| queued.place < place) {
                    return Ok(());
                }
            }
            if let Some(error) = row.and_then(|row| held(&engine.tables, key, &row, place)) {
                return Err(error);
            }
            drop(engine);
            next.told().await;
        }
    }
}

/// Why a change will not be sent before somebody has looked at it, or at the one before it.
fn held(tables: &Tables, key: &RowKey, row: &Row, place: u64) -> Option<Error> {
    let mut queued = row.operations.iter().filter(|queued| queued.place <= place);
    let (kind, parked) = queued.find_map(|queued| match &queued.hold {
        Hold::Parked(parked) => Some((queued.kind, parked)),
        _ => None,
    })?;
    let error = match parked.reason {
        ParkReason::Conflict => {
            let message = format!("the change of {key:?} waits in a conflict: {}", parked.message);
            Error::with_conflict(ErrorKind::Conflict, message, Conflict::of(tables, key, row))
        }
        _ => {
            let message = format!("the change of {key:?} is parked: {}; edit, retry or discard it", parked.message);
            Error::new(ErrorKind::Parked, message).with_status(parked.status)
        }
    };
    Some(error.doing(kind))
}

fn lost(key: &RowKey, fate: Fate) -> Error {
    let (kind, why) = match fate {
        Fate::Overruled => (ErrorKind::Conflict, "lost a conflict: the service's copy was taken"),
        Fate::Withdrawn => (ErrorKind::Dropped, "was never sent: the row was deleted here before that"),
        Fate::Discarded => (ErrorKind::Dropped, "was discarded before the service had it"),
        Fate::Purged => (ErrorKind::Dropped, "was dropped by a forced purge before the service had it"),
        Fate::Adopted => (ErrorKind::OtherAccount, "was moved, with its row, to the account that has signed in since"),
        Fate::Stored | Fate::Collapsed(_) | Fate::Dropped => {
            (ErrorKind::Dropped, "was dropped with its table or account before it was asked for")
        }
    };
    Error::new(kind, format!("the change of {key:?} {why}"))
}
