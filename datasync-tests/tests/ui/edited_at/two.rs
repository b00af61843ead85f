use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    #[sync(edited_at)]
    changed: Option<jiff::Timestamp>,
    #[sync(edited_at)]
    touched: Option<jiff::Timestamp>,
}

fn main() {}
