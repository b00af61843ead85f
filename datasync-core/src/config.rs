//! The configuration of a client: what may differ from app to app without another line of code.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::{Span, SpanRelativeTo, SpanRound, Unit};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    engine::conflict::Rules,
    entity::check_id,
    error::{Error, ErrorKind},
    query::QueryDescription,
    schema::{FieldKind, FieldSchema, ID, MergeRule, SERVICE_OWNED, TableSchema},
};

/// How conflicts are settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ConflictPolicy {
    /// The operation waits, with all sides, until somebody resolves the conflict.
    #[default]
    Park,
    /// This device's change is sent again with the version just learnt, up to [`CLIENT_WINS_ROUNDS`] times; then it
    /// is parked. The service's body is kept as a settled loser.
    ClientWins,
    /// The service's copy is taken. This device's body is kept as a settled loser.
    ServerWins,
    /// Field by field, on the copy that both sides started from: a field that one side has changed is that side's, one that
    /// both have changed follows its [rule](crate::schema::MergeRule), or else the table's
    /// [`fallback`](TableSection::fallback), which also decides where one side has deleted the row. A body of which a
    /// value was left out is kept as a settled loser. A merge is sent as often as with `client-wins`.
    Merge,
    /// The later edit wins, and the other body is kept as a settled loser. An edit has the service's time as this device
    /// knew it then; it is compared with the row's own field for that (`#[sync(edited_at)]`), or else with the time at
    /// which the other edit arrived. The service wins within one second, and where no time is known.
    LastWriterWins,
}

/// How many times a policy sends an operation again before it parks.
pub const CLIENT_WINS_ROUNDS: u32 = 5;

/// How many rows a page of a pull holds at most.
pub(crate) const MAX_PAGE_SIZE: u32 = 10_000;

/// The configuration of a client, as text or made from its default.
///
/// ```
/// # #[cfg(feature = "toml")] {
/// use datasync_core::config::{ConflictPolicy, SyncConfig};
/// let config = SyncConfig::from_toml(r#"
///     [sync]
///     conflict = "server-wins"
///     page_size = 500
///     [tables.todoitem]
///     conflict = "merge"
///     fallback = "last-writer-wins"
///     [tables.todoitem.merge]
///     rating = "max"
/// "#)?;
/// assert_eq!(config.sync.conflict, ConflictPolicy::ServerWins);
/// assert!(SyncConfig::from_toml("[sync]\nconflct = 'park'").is_err());
///
/// let mut same = SyncConfig::default();
/// same.sync.conflict = ConflictPolicy::ServerWins;
/// same.sync.page_size = 500;
/// assert_eq!(same.sync, config.sync);
/// # }
/// # Ok::<(), datasync_core::error::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SyncConfig {
    /// What holds for all tables.
    pub sync: SyncSection,
    /// What holds for single tables, by their names.
    pub tables: BTreeMap<String, TableSection>,
}

/// The section `[sync]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SyncSection {
    /// How conflicts are settled where a table does not say otherwise.
    pub conflict: ConflictPolicy,
    /// What [`ConflictPolicy::Merge`] does where no rule decides, if a table does not say otherwise; `park` by default.
    pub fallback: ConflictPolicy,
    /// For how long a body that lost a conflict is kept, unless the app removes it earlier; an hour to a hundred years, 30
    /// days by default. They are removed when a push or pull ends. In configuration text: `"30d"`, `"12h"`.
    #[serde(deserialize_with = "duration")]
    pub loser_age: Duration,
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

/// A duration as people write it: `"30s"`, `"1m 30s"`, `"30d"`, or ISO 8601. A day has 24 hours.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let span = text.parse::<Span>().ok();
    let read = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let read = read.and_then(|read| Duration::try_from(read).ok());
    read.ok_or_else(|| D::Error::custom(format!("`{text}` is no duration: write it like \"30s\" or \"2m\"")))
}

impl Default for SyncSection {
    fn default() -> Self {
        SyncSection {
            conflict: ConflictPolicy::default(),
            fallback: ConflictPolicy::default(),
            loser_age: Duration::from_secs(30 * 86_400),
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

/// A section `[tables.<name>]`. Its `Debug` output does not show the filter.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TableSection {
    /// How conflicts of this table are settled.
    pub conflict: Option<ConflictPolicy>,
    /// What [`ConflictPolicy::Merge`] does where no rule decides. Cannot be `merge`.
    pub fallback: Option<ConflictPolicy>,
    /// The rules of single fields, by their wire names, over those of the derive: `client`, `server`, `max`, `min`, `sum`
    /// or `union`.
    #[serde(deserialize_with = "rules")]
    pub merge: BTreeMap<String, MergeRule>,
    /// Which rows [`DatasyncClient::pull_tables`](crate::client::DatasyncClient::pull_tables) pulls, as an OData filter;
    /// all by default.
    pub filter: Option<String>,
    /// The name of that query, so that a changed filter is noticed: the rows that are no longer in it then leave this
    /// device, as in Datasync's `QueryId`.
    pub query_id: Option<String>,
    /// Whether the service gives this table's rows no versions. Replaces and deletes are then sent without one, and overwrite
    /// whatever is there; a pull still finds that both sides have changed a row, by `updatedAt`. Without this they are parked.
    pub unversioned: bool,
}

impl fmt::Debug for TableSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TableSection { conflict, fallback, merge, filter, query_id, unversioned } = self;
        f.debug_struct("TableSection")
            .field("conflict", conflict)
            .field("fallback", fallback)
            .field("merge", merge)
            .field("filter", &filter.is_some())
            .field("query_id", query_id)
            .field("unversioned", unversioned)
            .finish()
    }
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
        let SyncSection { loser_age, pull_overlap, full_resync_after, .. } = self.sync;
        let number = |name, value: usize, least, most| within(name, value, least, most, &|number| number.to_string());
        number("parallel_operations", self.sync.parallel_operations, 1, Some(64))?;
        number("wave_size", self.sync.wave_size, 1, Some(10_000))?;
        number("page_size", self.sync.page_size as usize, 1, Some(MAX_PAGE_SIZE as usize))?;
        number("max_pages", self.sync.max_pages as usize, 1, None)?;
        number("parallel_pulls", self.sync.parallel_pulls, 1, Some(64))?;
        let length = |name, value, least, most| within(name, value, least, most, &written);
        let (minute, hour, day) = (Duration::from_secs(60), Duration::from_secs(3_600), Duration::from_secs(86_400));
        length("pull_overlap", pull_overlap, Duration::ZERO, Some(day))?;
        length("loser_age", loser_age, hour, Some(day * 36_525))?;
        if let Some(after) = full_resync_after {
            length("full_resync_after", after, minute, None)?;
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

    /// How the conflicts of a table are settled: the derive's rules, with those of the configuration over them.
    pub(crate) fn rules(&self, schema: &TableSchema) -> Result<Rules, Error> {
        let none = TableSection::default();
        let section = self.tables.get(schema.name.as_ref()).unwrap_or(&none);
        let policy = section.conflict.unwrap_or(self.sync.conflict);
        let fallback = section.fallback.unwrap_or(self.sync.fallback);
        if fallback == ConflictPolicy::Merge {
            let message = "the configuration: `fallback` says what `merge` does where no rule decides, and cannot be \
                           `merge` itself; it is one of park, client-wins, server-wins, last-writer-wins";
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let derived = schema.fields.iter().filter_map(|field| Some((field.name.as_ref(), field.merge?)));
        let mut fields: BTreeMap<String, MergeRule> = derived.map(|(name, rule)| (name.to_owned(), rule)).collect();
        fields.extend(section.merge.iter().map(|(name, rule)| (name.clone(), *rule)));
        for (name, rule) in &fields {
            fits(schema, name, *rule)?;
        }
        Ok(Rules { policy, fallback, fields, resolver: None, readable: None })
    }
}

/// Checks the value of a key of `[sync]`; `show` writes one as a configuration has it.
fn within<T: PartialOrd + Copy>(
    name: &str,
    value: T,
    least: T,
    most: Option<T>,
    show: &dyn Fn(T) -> String,
) -> Result<(), Error> {
    if value >= least && most.is_none_or(|most| value <= most) {
        return Ok(());
    }
    let (value, least) = (show(value), show(least));
    let range = most.map_or_else(|| format!("at least {least}"), |most| format!("{least} to {}", show(most)));
    let message = format!("the configuration: `sync.{name}` is {value}, but must be {range}");
    Err(Error::new(ErrorKind::InvalidConfig, message))
}

/// A duration as a configuration has it.
fn written(duration: Duration) -> String {
    let round = SpanRound::new().largest(Unit::Day).days_are_24_hours();
    let span = Span::try_from(duration).and_then(|span| span.round(round));
    span.map_or_else(|_| format!("{}s", duration.as_secs()), |span| format!("{span:#}"))
}

/// The names of rules in a configuration.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum NamedRule {
    Client,
    Server,
    Max,
    Min,
    Sum,
    Union,
}

fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, MergeRule>, D::Error> {
    let named = BTreeMap::<String, NamedRule>::deserialize(deserializer)?;
    let rule = |rule| match rule {
        NamedRule::Client => MergeRule::Client,
        NamedRule::Server => MergeRule::Server,
        NamedRule::Max => MergeRule::Max,
        NamedRule::Min => MergeRule::Min,
        NamedRule::Sum => MergeRule::Sum,
        NamedRule::Union => MergeRule::Union,
    };
    Ok(named.into_iter().map(|(name, named)| (name, rule(named))).collect())
}

/// Checks that a rule can be used on a field.
fn fits(schema: &TableSchema, name: &str, rule: MergeRule) -> Result<(), Error> {
    let wrong = |what: String| {
        let table = &schema.name;
        Err(Error::new(ErrorKind::InvalidConfig, format!("the rule for merging `{table}.{name}`: {what}")))
    };
    let sent = |field: &&FieldSchema| !field.local && field.name != ID && !SERVICE_OWNED.contains(&field.name.as_ref());
    let Some(field) = schema.fields.iter().filter(sent).find(|field| field.name == name) else {
        let known: Vec<&str> = schema.fields.iter().filter(sent).map(|field| field.name.as_ref()).collect();
        return wrong(format!("the table sends no such field; it sends {}", known.join(", ")));
    };
    if field.edited_at {
        return wrong("the later one of two times of an edit is always taken".to_owned());
    }
    use FieldKind::{Bytes, Decimal, F64, I64, Json, Point};
    let (fits, on) = match rule {
        MergeRule::Sum => (matches!(field.kind, I64 | F64 | Decimal), "`sum` is for numbers"),
        MergeRule::Max | MergeRule::Min => {
            (!matches!(field.kind, Bytes | Point | Json), "`max` and `min` are for what has an order")
        }
        MergeRule::Union => (field.kind == Json, "`union` is for lists"),
        MergeRule::Client | MergeRule::Server | MergeRule::With(_) => return Ok(()),
    };
    if fits { Ok(()) } else { wrong(format!("{on}, and the field is {}", field.kind.name())) }
}
