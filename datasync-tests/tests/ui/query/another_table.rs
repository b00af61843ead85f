use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    title: String,
}

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Other {
    id: String,
}

fn main() {
    let _ = Todo::FIELDS.title.eq("x").and(Other::FIELDS.id.eq("x"));
}
