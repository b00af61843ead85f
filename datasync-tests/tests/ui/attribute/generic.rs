use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo<T> {
    id: String,
    value: T,
}

fn main() {}
