use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    due: OffsetDateTime,
}

fn main() {
    let _ = Todo::FIELDS.due.lt(OffsetDateTime::UNIX_EPOCH);
}
