use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    #[sync(merge = mux)]
    rating: u32,
}

fn main() {}
