//! The configuration of a client: what may differ from app to app without another line of code.

use std::{collections::BTreeMap, time::Duration};

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    entity::check_id,
    error::{Error, ErrorKind},
    query::QueryDescription,
};

/// How conflicts are settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictPolicy {
    /// The operation waits, with all sides, until somebody resolves the conflict.
    #[default]
    Park,
    /// This device's change is sent again with the version just learnt, up to [`CLIENT_WINS_ROUNDS`] times; then it
    /// is parked. The service's body is kept as a settled loser.
    ClientWins,
    /// The service's copy is taken. This device's body is kept as a settled loser.
    ServerWins,
}

/// How many times `client-wins` sends an operation again before it parks.
pub const CLIENT_WINS_ROUNDS: u32 = 5;

/// The configuration of a client.
///
/// ```
/// # #[cfg(feature = "toml")] {
/// use datasync_core::config::{ConflictPolicy, SyncConfig};
/// let config = SyncConfig::from_toml(r#"
///     [sync]
///     conflict = "server-wins"
///     page_size = 500
///     [tables.todoitem]
///     conflict = "client-wins"
/// "#)?;
/// assert_eq!(config.sync.conflict, ConflictPolicy::ServerWins);
/// assert!(SyncConfig::from_toml("[sync]\nconflct = 'park'").is_err());
/// # }
/// # Ok::<(), datasync_core::error::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncConfig {
    /// What holds for all tables.
    pub sync: SyncSection,
    /// What holds for single tables, by their names.
    pub tables: BTreeMap<String, TableSection>,
}

/// The section `[sync]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncSection {
    /// How conflicts are settled where a table does not say otherwise.
    pub conflict: ConflictPolicy,
    /// How many operations of a push are under way at once, 1 to 64; 1 by default.
    pub parallel_operations: usize,
    /// How many operations are frozen in one commit, 1 to 10,000; 100 by default.
    pub wave_size: usize,
    /// How many rows a page of a pull holds at most, 1 to 10,000; 1,000 by default.
    pub page_size: u32,
    /// After how many pages a pull ends although there are more, at least 1; 100,000 by default.
    pub max_pages: u32,
    /// How long after its stamp a row may still appear, because the service stamps rows before it commits them; at most
    /// a day, 30 s by default. A pull reads again what was changed so long before the pull before it ended. Not used
    /// where the service declares a safe horizon. In configuration text: `"30s"`, `"2m"`.
    #[serde(deserialize_with = "duration")]
    pub pull_overlap: Duration,
    /// After how long a pull begins again from the start, and checks the rows that it does not see: for services that do
    /// not tell of restored backups and hard deletions. Never by default; else at least a minute.
    #[serde(deserialize_with = "some_duration")]
    pub full_resync_after: Option<Duration>,
    /// How many tables are pulled at once by [`DatasyncClient::pull_tables`](crate::client::DatasyncClient::pull_tables),
    /// 1 to 64; 4 by default.
    pub parallel_pulls: usize,
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// A duration as people write it: `"30s"`, `"1m 30s"`, or ISO 8601.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let read = text.parse::<SignedDuration>().ok().and_then(|read| Duration::try_from(read).ok());
    read.ok_or_else(|| D::Error::custom(format!("`{text}` is no duration: write it like \"30s\" or \"2m\"")))
}

impl Default for SyncSection {
    fn default() -> Self {
        SyncSection {
            conflict: ConflictPolicy::default(),
            parallel_operations: 1,
            wave_size: 100,
            page_size: 1_000,
            max_pages: 100_000,
            pull_overlap: Duration::from_secs(30),
            full_resync_after: None,
            parallel_pulls: 4,
        }
    }
}

/// A section `[tables.<name>]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableSection {
    /// How conflicts of this table are settled.
    pub conflict: Option<ConflictPolicy>,
    /// Which rows [`DatasyncClient::pull_tables`](crate::client::DatasyncClient::pull_tables) pulls, as an OData filter;
    /// all by default.
    pub filter: Option<String>,
    /// The name of that query, so that a changed filter is noticed: the rows that are no longer in it then leave this
    /// device, as in Datasync's `QueryId`.
    pub query_id: Option<String>,
}

impl SyncConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for text that is not TOML, an unknown key or an unknown policy; the message says
    /// where, and lists what is known.
    #[cfg(feature = "toml")]
    pub fn from_toml(text: &str) -> Result<SyncConfig, Error> {
        toml::from_str(text)
            .map_err(|error| Error::caused(ErrorKind::InvalidConfig, format!("the configuration: {error}"), error))
    }

    /// Checks ranges, and that each table is one of `known`.
    pub(crate) fn check(&self, known: &[&str]) -> Result<(), Error> {
        let range = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let message = format!("the configuration: `sync.{name}` is {value}, but must be {least} to {most}");
            Err(Error::new(ErrorKind::InvalidConfig, message))
        };
        range("parallel_operations", self.sync.parallel_operations, 1, 64)?;
        range("wave_size", self.sync.wave_size, 1, 10_000)?;
        range("page_size", self.sync.page_size as usize, 1, 10_000)?;
        range("max_pages", self.sync.max_pages as usize, 1, usize::MAX)?;
        range("pull_overlap in seconds", self.sync.pull_overlap.as_secs() as usize, 0, 86_400)?;
        range("parallel_pulls", self.sync.parallel_pulls, 1, 64)?;
        if let Some(after) = self.sync.full_resync_after {
            range("full_resync_after in seconds", after.as_secs() as usize, 60, usize::MAX)?;
        }
        for table in self.tables.keys() {
            if !known.contains(&table.as_str()) {
                let message =
                    format!("the configuration: there is no table `{table}`; the client has {}", known.join(", "));
                return Err(Error::new(ErrorKind::InvalidConfig, message));
            }
        }
        Ok(())
    }

    /// The query of a table's pulls, and its name.
    pub(crate) fn pulled(&self, table: &str) -> Result<(QueryDescription, Option<String>), Error> {
        let Some(section) = self.tables.get(table) else { return Ok(Default::default()) };
        let wrong = |key: &str, error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::InvalidConfig, format!("the configuration: `tables.{table}.{key}`: {error}"))
        };
        let filter = section.filter.as_ref().map(|filter| filter.parse()).transpose();
        let filter = filter.map_err(|error| wrong("filter", &error))?;
        if let Some(id) = &section.query_id {
            check_id(id).map_err(|error| wrong("query_id", &error))?;
        }
        Ok((QueryDescription { filter, ..QueryDescription::default() }, section.query_id.clone()))
    }

    /// The policy of a table.
    pub(crate) fn policy(&self, table: &str) -> ConflictPolicy {
        self.tables.get(table).and_then(|section| section.conflict).unwrap_or(self.sync.conflict)
    }
}
