//! The first start of a new release of an app: rows that an older one has stored are brought to the present schema before
//! anybody sees them (I23), page by page, of all accounts.
//!
//! | the process dies, or the future is dropped … | what is left |
//! | --- | --- |
//! | before the first commit | the store as the older release left it, which can still open it |
//! | between two | some rows are of this release, and the table's note says so: the older release refuses the store, and the next start of this one passes over those rows |
//! | after the last one | the table is done |
//!
//! A page is one commit, and a commit whose answer was lost is found out about by the committer. Nobody else writes
//! meanwhile: the client is not made yet.
//!
//! The note of a table has the version of its schema and the fingerprint. A fingerprint that changes with no new version is
//! only noted: bodies are read as they are, and one that does not fit is an error of the call that reads it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    client::progress::{OpeningWork, Told},
    engine::{
        committer::{Committer, Reads, Tx},
        journal::{self, JournalStep},
        migrate::{bring, is_older, release},
        table::{Table, Tables},
    },
    error::{Error, ErrorKind},
    row::RowKey,
    schema::{FieldKind, FieldSchema, Name},
    store::{KeysRequest, Note, Store},
};

/// How many rows one commit brings to the present schema.
const PAGE: usize = 500;
/// What the keys of the notes of rows in quarantine begin with.
const QUARANTINED: &str = "quarantined/";

/// What is noted of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    /// The version of the schema that rows of the table follow.
    schema: u32,
    /// The fingerprint of the schema.
    fingerprint: u64,
    /// Whether some rows may still follow an older version.
    #[serde(default)]
    unfinished: bool,
    /// The fields that stay on the device, or did in an older release.
    #[serde(default)]
    local: Vec<String>,
}

impl Noted {
    fn key(table: &str) -> Arc<str> {
        format!("schema/{table}").into()
    }

    fn of(table: &Table, unfinished: bool) -> Noted {
        let local = table.schema.local_fields().map(str::to_owned).collect();
        Noted { schema: table.version, fingerprint: table.fingerprint, unfinished, local }
    }

    fn read(table: &str, note: &Note) -> Result<Noted, Error> {
        serde_json::from_slice(&note.0).map_err(|error| {
            let message = format!("what is noted of the schema of `{table}` cannot be read");
            Error::caused(ErrorKind::Store, message, error)
        })
    }

    fn to_note(&self) -> Note {
        // Numbers are always JSON.
        Note(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// The note that says that a row may be in quarantine. The row itself says whether it still is.
pub(super) fn note_of(key: &RowKey) -> Arc<str> {
    let RowKey { account, table, id } = key;
    format!("{QUARANTINED}{}/{account}/{table}/{id}", account.len()).into()
}

/// What the notes of an account's rows in quarantine begin with.
fn notes_of(account: &str) -> String {
    format!("{QUARANTINED}{}/{account}/", account.len())
}

fn read_note(note: &str) -> Option<RowKey> {
    let (length, rest) = note.strip_prefix(QUARANTINED)?.split_once('/')?;
    let (account, rest) = rest.split_at_checked(length.parse().ok()?)?;
    let (table, id) = rest.strip_prefix('/')?.split_once('/')?;
    Some(RowKey { account: account.into(), table: table.into(), id: id.into() })
}

/// The rows that may be in quarantine: of an account, or of all.
pub(super) async fn quarantined(store: &dyn Store, account: Option<&str>) -> Result<Vec<RowKey>, Error> {
    let prefix = account.map_or_else(|| QUARANTINED.to_owned(), notes_of);
    let mut rows = Vec::new();
    let mut after: Option<Arc<str>> = None;
    loop {
        let notes = store.list_notes(&prefix, after.as_deref(), PAGE).await?;
        let Some((last, _)) = notes.last() else { return Ok(rows) };
        after = Some(Arc::clone(last));
        rows.extend(notes.iter().filter_map(|(note, _)| read_note(note)));
    }
}

/// Which tables have something to do, by what the store says of them. Nothing is written.
pub(super) struct Found(BTreeMap<Arc<str>, Option<Noted>>);

impl Found {
    /// Lets no field that has stayed on the device become one that is sent because this release no longer knows it.
    pub(super) fn retire(&self, tables: &mut BTreeMap<Arc<str>, Table>) {
        for (name, table) in tables {
            let noted = self.0.get(name).and_then(Option::as_ref);
            for field in noted.iter().flat_map(|noted| &noted.local) {
                if table.schema.field(field).is_none() {
                    let name = Name::from(field.clone());
                    let retired =
                        FieldSchema { name: name.clone(), local: true, ..FieldSchema::new("", FieldKind::Json, true) };
                    Arc::make_mut(&mut table.schema).fields.to_mut().push(retired);
                    table.retired.push(name);
                }
            }
        }
    }
}

/// Looks at a store before anything in it is touched.
///
/// # Errors
///
/// [`ErrorKind::NewerSchema`] if rows of a table follow a newer version than this build has.
pub(super) async fn look(store: &dyn Store, tables: &BTreeMap<Arc<str>, Table>) -> Result<Found, Error> {
    let keys: Vec<Arc<str>> = tables.keys().map(|name| Noted::key(name)).collect();
    let mut found = BTreeMap::new();
    for ((name, table), note) in tables.iter().zip(store.notes(&keys).await?) {
        let noted = note.map(|note| Noted::read(name, &note)).transpose()?;
        if let Some(newer) = noted.as_ref().map(|noted| noted.schema).filter(|stored| *stored > table.version) {
            let message = format!(
                "the rows of `{name}` follow version {newer} of its schema, and this build of the app knows {}: update the \
                 app. The store was not changed",
                table.version
            );
            return Err(Error::new(ErrorKind::NewerSchema, message));
        }
        found.insert(Arc::clone(name), noted);
    }
    Ok(Found(found))
}

/// Brings every row to the present schema, and tries again with those in quarantine.
pub(super) async fn migrate(
    store: &dyn Store,
    committer: &Committer,
    tables: &Arc<Tables>,
    found: &Found,
    told: &Told,
) -> Result<(), Error> {
    retry(store, committer, tables).await?;
    let mut noted = Vec::new();
    for (name, table) in &tables.0 {
        let done = Noted::of(table, false);
        match found.0.get(name).and_then(Option::as_ref) {
            Some(stored) if *stored == done => {}
            Some(stored) if stored.schema == done.schema && !stored.unfinished => noted.push((Noted::key(name), done)),
            None if store.keys(&KeysRequest { table: Arc::clone(name), after: None, limit: 1 }).await?.is_empty() => {
                noted.push((Noted::key(name), done));
            }
            _ => walk(store, committer, table, told).await?,
        }
    }
    if noted.is_empty() {
        return Ok(());
    }
    let plan = move |tx: &mut Tx<'_>| {
        noted.iter().for_each(|(key, done)| tx.set_note(key, Some(done.to_note())));
        Ok(())
    };
    committer.commit(Reads::default(), plan).await
}

/// Tries again with the rows in quarantine.
async fn retry(store: &dyn Store, committer: &Committer, tables: &Arc<Tables>) -> Result<(), Error> {
    let mut keys = quarantined(store, None).await?;
    keys.retain(|key| tables.0.contains_key(&key.table));
    for page in keys.chunks(PAGE) {
        let (rows, tables) = (page.to_vec(), Arc::clone(tables));
        let plan = move |tx: &mut Tx<'_>| {
            for key in &rows {
                let table = tables.get(&key.table)?;
                let mut row = tx.row(key)?.unwrap_or_default();
                if release(table, key, &mut row) {
                    row.revision += 1;
                    tx.put(key, row.clone());
                }
                if row.quarantine.is_none() {
                    tx.set_note(&note_of(key), None);
                }
            }
            Ok(())
        };
        committer.commit(Reads::rows(page.to_vec()), plan).await?;
    }
    Ok(())
}

/// Brings the rows of a table to the present schema. Those that follow it already are passed over.
async fn walk(store: &dyn Store, committer: &Committer, table: &Arc<Table>, told: &Told) -> Result<(), Error> {
    let mut request = KeysRequest { table: Arc::clone(&table.name), after: None, limit: PAGE };
    let mut total = 0;
    loop {
        let page = store.keys(&request).await?;
        total += page.len() as u64;
        match page.into_iter().last() {
            Some(last) => request.after = Some(last),
            None => break,
        }
    }
    let mut done = 0;
    request.after = None;
    if total > 0 {
        told.tell(OpeningWork::Migration, &table.name, done, total);
    }
    loop {
        let page = store.keys(&request).await?;
        let last = page.len() < PAGE;
        done += page.len() as u64;
        request.after = page.last().cloned();
        let (rows, shared) = (page.clone(), Arc::clone(table));
        let (key, noted) = (Noted::key(&table.name), Noted::of(table, !last).to_note());
        let reads = Reads::rows(page).note(Arc::clone(&key));
        let plan = move |tx: &mut Tx<'_>| {
            let (mut held, mut why) = (Vec::new(), None);
            for key in &rows {
                let Some(mut row) = tx.row(key)?.filter(|row| is_older(&shared, row)) else { continue };
                bring(&shared, key, &mut row);
                if let Some(quarantine) = &row.quarantine {
                    tx.set_note(&note_of(key), Some(Note(Vec::new())));
                    why.get_or_insert_with(|| quarantine.reason.clone());
                    held.push(key);
                }
                row.revision += 1;
                tx.put(key, row);
            }
            journal::note_many(tx, JournalStep::Quarantined, held, why.as_deref());
            if tx.note(&key)?.as_ref() != Some(&noted) {
                tx.set_note(&key, Some(noted.clone()));
            }
            Ok(())
        };
        committer.commit(reads, plan).await?;
        if total > 0 {
            told.tell(OpeningWork::Migration, &table.name, done, total);
        }
        if last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_of_a_row_names_it() {
        let (table, id) = ("note".into(), "a/b".into());
        for account in ["", "somebody", "a/b/c", "é/1/"] {
            let key = RowKey { account: account.into(), table: Arc::clone(&table), id: Arc::clone(&id) };
            let note = note_of(&key);
            assert_eq!(read_note(&note), Some(key));
            assert!(note.starts_with(&notes_of(account)));
        }
        assert_eq!(read_note("quarantined/9/a/note/1"), None);
        assert_eq!(read_note("quarantined/2/é/note"), None);
    }
}
