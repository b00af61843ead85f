use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    a: String,
    #[serde(rename = "a")]
    b: String,
}

fn main() {}
