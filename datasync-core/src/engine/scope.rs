//! Scopes: which query of a table a delta token belongs to, and what else is remembered of it (DESIGN.md section 8).
//!
//! | what happens to a scope | what follows |
//! | --- | --- |
//! | its query has changed under the same query id | it begins again, and the rows that are not in the new query leave it |
//! | the service was restored, or no longer knows what is gone | it begins again, and rows that were not seen are checked |
//! | it was begun longer than `full_resync_after` ago | the same |
//! | its first pull, and rows of its query were pushed before | those that no page shows are asked for |
//!
//! "Begins again" is one commit with the reason. The reason stays until the rows were checked, so that a pull that is cut
//! in between is finished by a later one.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{acks::Fate, committer::Tx, table::Table},
    error::{Error, ErrorKind},
    query::QueryDescription,
    row::{Row, RowKey},
    store::{Clear, Note, ScopeKey, Store, StoreError},
    transport::Restart,
};

/// The scope of a query: its query id if it was given one, else a hash of its normalized text.
pub(crate) fn scope(account: Arc<str>, table: &Table, query: &QueryDescription, query_id: Option<&str>) -> ScopeKey {
    let text = text(query);
    let scope = match query_id {
        Some(id) => format!("q:{id}"),
        None if text.is_empty() => String::new(),
        None => format!("f:{:032x}", hash(&text)),
    };
    ScopeKey { account, table: Arc::clone(&table.name), scope: scope.into() }
}

/// What of a query decides which rows are pulled.
pub(crate) fn pulled(query: &QueryDescription) -> QueryDescription {
    let (filter, parameters) = (query.filter.clone(), query.parameters.clone());
    QueryDescription { filter, parameters, ..QueryDescription::default() }
}

fn text(query: &QueryDescription) -> String {
    pulled(query).to_string()
}

/// FNV-1a of 128 bits: short, the same in every release, and wide enough that two queries never meet.
fn hash(text: &str) -> u128 {
    text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// Why the rows of a scope must be compared with the service when its pull has reached the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Check {
    /// The query has changed.
    Query,
    /// The service no longer knew what had gone since the token was made.
    Expired,
    /// The scope was old.
    Age,
    /// The service was restored from a backup, or may have been since a purge has removed the token: it may have lost rows (I27).
    Restored,
    /// The scope is new, and the device had pushed rows of its query: those that no page shows may have been removed before.
    Unseen,
}

impl Check {
    /// Whether the service may have lost rows, for all that is known.
    pub(crate) fn may_have_lost(self) -> bool {
        matches!(self, Check::Restored | Check::Unseen)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Check::Query => "its filter has changed",
            Check::Expired => "the service no longer knew what had gone since the last pull",
            Check::Age => "it was older than `full_resync_after`",
            Check::Restored => "the service was restored from a backup",
            Check::Unseen => "rows of it were pushed before it was pulled",
        })
    }
}

impl From<Restart> for Check {
    fn from(restart: Restart) -> Check {
        match restart {
            Restart::Restored => Check::Restored,
            Restart::Expired => Check::Expired,
        }
    }
}

/// What is remembered of a scope besides its token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScopeState {
    /// The query that it holds.
    query: String,
    /// Why its rows must still be checked.
    pub(crate) check: Option<Check>,
    /// When it was begun, in milliseconds.
    begun: i64,
}

/// The keys of what is remembered of the scopes of an account, or of one of its tables.
pub(crate) async fn notes(store: &dyn Store, what: &Clear) -> Result<Vec<Arc<str>>, StoreError> {
    let mut found = Vec::new();
    let mut after: Option<Arc<str>> = None;
    loop {
        let page = store.list_notes("scope/", after.as_deref(), 1_000).await?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        after = Some(Arc::clone(last));
        found.extend(page.into_iter().map(|(key, _)| key).filter(|key| {
            let mut parts = key.splitn(4, '/').skip(1);
            let (table, account) = (parts.next(), parts.nth(1));
            table.zip(account).is_some_and(|(table, account)| what.includes(account, table))
        }));
    }
}

/// Removes a row with everything, and the tokens of the scopes that hold it: their next pulls bring what the service has.
pub(crate) fn forget_row(tx: &mut Tx<'_>, key: &RowKey, row: &Row) {
    for scope in &row.scopes {
        let (account, table) = (Arc::clone(&key.account), Arc::clone(&key.table));
        tx.set_token(&ScopeKey { account, table, scope: Arc::clone(scope) }, None);
    }
    row.operations.iter().for_each(|operation| tx.fate(operation.place, Fate::Discarded));
    tx.put(key, Row::default());
}

impl ScopeState {
    /// Under which key it is kept.
    pub(crate) fn key(scope: &ScopeKey) -> Arc<str> {
        format!("scope/{}/{}/{}", scope.table, scope.scope, scope.account).into()
    }

    pub(crate) fn read(note: Option<&Note>) -> Result<Option<ScopeState>, Error> {
        let read = |note: &Note| serde_json::from_slice(&note.0);
        note.map(read).transpose().map_err(|error| {
            let message = "what is remembered of a scope cannot be read: purge the table and pull again";
            Error::caused(ErrorKind::Store, message, error)
        })
    }

    pub(crate) fn to_note(&self) -> Note {
        // Text and numbers are always JSON.
        Note(serde_json::to_vec(self).unwrap_or_default())
    }

    /// A scope that begins now.
    pub(crate) fn begin(query: &QueryDescription, check: Option<Check>, now: Timestamp) -> ScopeState {
        ScopeState { query: text(query), check, begun: now.as_millisecond() }
    }

    /// Why a scope with a token must begin again.
    pub(crate) fn outdated(
        &self,
        query: &QueryDescription,
        resync_after: Option<std::time::Duration>,
        now: Timestamp,
    ) -> Option<Check> {
        let age = now.as_millisecond().saturating_sub(self.begun);
        let old = |after: std::time::Duration| i128::from(age) >= after.as_millis() as i128;
        match resync_after {
            _ if self.query != text(query) => Some(Check::Query),
            Some(after) if old(after) => Some(Check::Age),
            _ => None,
        }
    }

    /// The stronger of two reasons stays: a restored service may have lost rows, whatever else is checked.
    pub(crate) fn must_check(&mut self, why: Check) {
        if self.check != Some(Check::Restored) {
            self.check = Some(why);
        }
    }
}
