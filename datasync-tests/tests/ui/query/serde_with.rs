use datasync_derive::SyncEntity;
use serde::{Deserialize, Serialize};

mod shout {
    pub fn serialize<S: serde::Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text.to_uppercase())
    }
}

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    #[serde(serialize_with = "shout::serialize")]
    loud: String,
}

fn main() {
    let _ = Todo::FIELDS.loud.eq("A");
}
