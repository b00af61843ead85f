use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", tabel = "todo")]
struct Todo {
    id: String,
    #[sync(idnex)]
    title: String,
    #[serde(skip)]
    scroll: u32,
    updated_at: Option<String>,
}

fn main() {
    let _ = Todo::FIELDS.title.eq("x");
}
