use datasync_derive::SyncId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncId)]
#[sync(crate = "datasync_core")]
struct Number(u64);

#[derive(Clone, Serialize, Deserialize, SyncId)]
#[sync(crate = "datasync_core")]
struct Named {
    text: String,
}

#[derive(Clone, Serialize, Deserialize, SyncId)]
#[sync(crate = "datasync_core")]
struct Pair(String, String);

fn main() {}
