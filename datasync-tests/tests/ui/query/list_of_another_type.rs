use datasync_core::query::Query;
use datasync_derive::{SyncEntity, SyncEnum};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Serialize, Deserialize, SyncEnum)]
#[sync(crate = "datasync_core")]
enum State {
    Open,
    Done,
}

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Todo {
    id: String,
    title: String,
    rating: u32,
    state: State,
    done: bool,
    due: jiff::civil::Date,
    tags: Vec<String>,
    place: datasync_core::entity::Point,
}

fn main() {
    let _ = Query::<Todo>::new().filter(|todo| todo.rating.is_in(["a"]));
}
