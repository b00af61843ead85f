use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    #[serde(rename = "updatedAt")]
    updated_at: Option<i64>,
}

fn main() {
    let _ = Todo::FIELDS.id.eq("x");
}
