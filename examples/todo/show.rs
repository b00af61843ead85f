//! What a person reads.

use datasync::{
    client::{PendingChange, PendingState},
    prelude::*,
};

use crate::model::{Todo, short};

pub(crate) fn line(todo: &Todo, all: &[Todo]) -> String {
    let mark = if todo.done { "x" } else { " " };
    let due = todo.due.map_or_else(String::new, |day| format!("  (by {day})"));
    format!("{} [{mark}] {}{due}\n", short(todo, all), todo.text)
}

pub(crate) fn list(shown: &[&Todo], all: &[Todo]) -> String {
    match shown {
        [] => "Nothing.\n".to_owned(),
        shown => shown.iter().map(|todo| line(todo, all)).collect(),
    }
}

/// So many things and what they do: `1 change waits`, `2 changes wait`.
pub(crate) fn count(number: usize, thing: &str, does: &str) -> String {
    match number {
        1 => format!("1 {thing} {does}s"),
        _ => format!("{number} {thing}s {does}"),
    }
}

/// What waits to be sent, and why it still does.
pub(crate) fn pending(changes: &[PendingChange], all: &[Todo]) -> String {
    let number = |wanted: fn(&PendingState) -> bool| changes.iter().filter(|change| wanted(&change.state)).count();
    let ready =
        number(|state| matches!(state, PendingState::Ready | PendingState::Waiting(_) | PendingState::Throttled(_)));
    let conflicts = number(|state| matches!(state, PendingState::Conflict(_)));
    let mut text = String::new();
    if ready > 0 {
        text += &format!("{} for the next sync.\n", count(ready, "change", "wait"));
    }
    if conflicts > 0 {
        text += &format!("{} for you: `todo conflicts`.\n", count(conflicts, "conflict", "wait"));
    }
    for change in changes {
        if let PendingState::Parked(reason) = &change.state {
            let name = all.iter().find(|todo| todo.id == *change.id).map_or(&*change.id, |todo| todo.text.as_str());
            text += &format!("The service refused \"{name}\": {reason}. Edit it, and it is sent again.\n");
        }
    }
    text
}

pub(crate) fn conflicts(conflicts: &[Conflict]) -> Result<String, Error> {
    if conflicts.is_empty() {
        return Ok("No conflicts.\n".to_owned());
    }
    let side = |todo: Option<Todo>| match todo {
        None => "(removed)".to_owned(),
        Some(todo) => {
            let due = todo.due.map_or_else(String::new, |day| format!(", by {day}"));
            format!("{}{}{due}", todo.text, if todo.done { ", done" } else { "" })
        }
    };
    let mut text = String::new();
    for (place, conflict) in conflicts.iter().enumerate() {
        text += &format!("{}. was:    {}\n", place + 1, side(conflict.base()?));
        text += &format!("   mine:   {}\n", side(conflict.local()?));
        text += &format!("   theirs: {}\n", side(conflict.service()?));
    }
    Ok(text + "`todo conflicts resolve N keep` sends mine, `… take` takes theirs.\n")
}
