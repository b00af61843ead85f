//! `todo.toml`: where the service is, and how conflicts are settled.

use std::{collections::BTreeMap, fs, io, path::Path};

use datasync::config::{SyncConfig, SyncSection, TableSection};
use serde::Deserialize;

use crate::Failure;

/// The name of the file.
pub(crate) const FILE: &str = "todo.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    service: Option<String>,
    #[serde(default)]
    sync: SyncSection,
    #[serde(default)]
    tables: BTreeMap<String, TableSection>,
}

/// The configuration; without a file there is no service, and conflicts wait for a person.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) service: Option<String>,
    pub(crate) sync: SyncConfig,
}

impl Config {
    pub(crate) fn read(folder: &Path) -> Result<Config, Failure> {
        let path = folder.join(FILE);
        let file: File = match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("`{}`: {error}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
            Err(error) => return Err(format!("`{}` cannot be read: {error}", path.display()).into()),
        };
        let mut sync = SyncConfig::default();
        (sync.sync, sync.tables) = (file.sync, file.tables);
        Ok(Config { service: file.service, sync })
    }

    /// The address of the service, or what to do about it.
    pub(crate) fn service(&self, folder: &Path) -> Result<&str, Failure> {
        self.service.as_deref().ok_or_else(|| {
            let path = folder.join(FILE);
            let lines = "    service = \"http://127.0.0.1:8787\"\n    [sync]\n    conflict = \"park\"";
            format!("there is no service to sync with: write `{}`, like\n{lines}", path.display()).into()
        })
    }
}
