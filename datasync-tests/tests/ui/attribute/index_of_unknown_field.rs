use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", index(titel))]
struct Todo {
    id: String,
    title: String,
}

fn main() {}
