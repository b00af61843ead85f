use datasync_derive::SyncEnum;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEnum)]
#[sync(crate = "datasync_core")]
enum Grade {
    Low,
    High(u8),
}

fn main() {}
