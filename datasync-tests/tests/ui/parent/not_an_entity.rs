use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

struct List;

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    #[sync(parent = List)]
    list_id: String,
}

fn main() {}
