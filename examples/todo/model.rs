//! A todo, and the short names by which people call it.

use datasync::prelude::*;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::Failure;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncEntity)]
pub(crate) struct Todo {
    pub(crate) id: String,
    pub(crate) text: String,
    #[sync(index)]
    pub(crate) done: bool,
    #[serde(default)]
    pub(crate) due: Option<Date>,
}

/// The shortest name, in letters.
const SHORTEST: usize = 4;

/// The end of an id, long enough to name no other: ids begin with their time, and many are made in one second.
pub(crate) fn short<'t>(todo: &'t Todo, all: &[Todo]) -> &'t str {
    let unique = |length: usize| {
        let end = todo.id.get(todo.id.len().checked_sub(length)?..)?;
        let others = all.iter().filter(|other| other.id != todo.id && other.id.ends_with(end)).count();
        (others == 0).then_some(end)
    };
    (SHORTEST..todo.id.len()).find_map(unique).unwrap_or(&todo.id)
}

/// The todo that somebody means by the end of its id.
pub(crate) fn find<'t>(all: &'t [Todo], meant: &str) -> Result<&'t Todo, Failure> {
    let found: Vec<&Todo> = all.iter().filter(|todo| todo.id.ends_with(&meant.to_lowercase())).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(format!("there is no todo `{meant}`: `todo ls --all` lists them").into()),
        several => {
            let names: Vec<String> =
                several.iter().map(|todo| format!("{} ({})", short(todo, all), todo.text)).collect();
            Err(format!("`{meant}` may be any of {}", names.join(", ")).into())
        }
    }
}
