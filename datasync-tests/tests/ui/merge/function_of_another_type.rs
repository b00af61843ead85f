use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

fn longer(local: String, service: String) -> String {
    if local.len() > service.len() { local } else { service }
}

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    #[sync(merge_with = longer)]
    title: String,
}

fn main() {}
