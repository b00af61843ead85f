//! Two devices and their service.

use datasync_core::{
    client::{DatasyncClient, OfflineTable},
    config::ConflictPolicy,
    memory::MemoryStore,
    store::Store,
};
use datasync_server::MemoryRepository;

use crate::{Note, RouterExchange, Wire, client, notes, service};

/// A service of notes and two devices: what most tests begin with.
#[derive(Debug)]
pub struct Pair {
    /// The rows of the service.
    pub rows: MemoryRepository,
    /// The way of both devices to it.
    pub exchange: RouterExchange,
    /// The device over the store that the test is given.
    pub one: DatasyncClient,
    /// The other device, over a memory store; its conflicts wait.
    pub other: DatasyncClient,
    /// The notes of `one`.
    pub here: OfflineTable<Note>,
    /// The notes of `other`.
    pub there: OfflineTable<Note>,
}

impl Pair {
    /// Over a service whose pages hold seven rows; `policy` is that of `one`.
    pub async fn new(store: impl Store, wire: Wire, policy: ConflictPolicy) -> Pair {
        let rows = MemoryRepository::new();
        let exchange = RouterExchange::new(service(&rows, 7, wire));
        Pair::of((rows, exchange), store, policy).await
    }

    /// Over the service of these rows.
    pub async fn of(
        (rows, exchange): (MemoryRepository, RouterExchange),
        store: impl Store,
        policy: ConflictPolicy,
    ) -> Pair {
        let one = client(store, &exchange, policy).await;
        let other = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
        let (here, there) = (notes(&one), notes(&other));
        Pair { rows, exchange, one, other, here, there }
    }
}
