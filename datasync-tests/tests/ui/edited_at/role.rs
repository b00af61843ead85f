use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    #[sync(updated_at, edited_at)]
    #[serde(rename = "updatedAt")]
    changed: Option<jiff::Timestamp>,
}

fn main() {}
