use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", tabel = "todo")]
struct Todo {
    id: String,
}

fn main() {}
