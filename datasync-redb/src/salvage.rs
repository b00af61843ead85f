//! What can still be read of a damaged file.
//!
//! | the damage is in … | what is exported |
//! | --- | --- |
//! | a page that no row lies on, such as one of an index | everything |
//! | a page of rows | everything else; of its rows what the page, or an older copy of it, still shows, marked as uncertain |
//! | a page that leads to others, or the header | the rows on the other pages, marked as uncertain where nothing says that they are still in use |
//!
//! An uncertain row is the newest of its states that was found.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use datasync_core::{
    export,
    row::{Row, RowKey, SettledLoser},
    store::{Salvage, SalvageProgress, Salvaged, StoreError, StoreErrorKind},
};
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::{
    codec,
    error::of_io,
    keys, open,
    pages::{Lost, Pages, Root},
    store::RedbStore,
};

/// The file of a damaged store.
#[derive(Debug)]
pub(crate) struct Damaged(pub(crate) PathBuf);

impl Salvage for Damaged {
    fn salvage(&self, to: &Path, told: &mut dyn FnMut(SalvageProgress)) -> Result<Salvaged, StoreError> {
        salvage(&self.0, to, told)
    }
}

impl RedbStore {
    /// Exports what can still be read of the file of a damaged store into the new file `to`: rows, queued operations and
    /// settled losers, each on a line of JSON (see [`export`]). The damaged file is only read. Blocks while it is.
    ///
    /// The error of a damaged file has the same: [`StoreError::salvage`].
    ///
    /// # Errors
    ///
    /// [`Io`](StoreErrorKind::Io) if there is something at `to` already, it cannot be written, or the system refuses to read;
    /// [`Full`](StoreErrorKind::Full).
    pub fn salvage(path: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Salvaged, StoreError> {
        salvage(path.as_ref(), to.as_ref(), &mut |_| {})
    }
}

fn salvage(path: &Path, to: &Path, told: &mut dyn FnMut(SalvageProgress)) -> Result<Salvaged, StoreError> {
    let unread = |error| of_io(&error, "the damaged file cannot be read").with_source(error);
    let unwritten = |error| of_io(&error, "what was salvaged cannot be written").with_source(error);
    if to.exists() {
        let message = format!("there is something at `{}` already: name a new file", to.display());
        return Err(StoreError::new(StoreErrorKind::Io, message));
    }
    let mut pages = Pages::open(path, told).map_err(unread)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix(".datasync-").suffix(".part").tempfile_in(folder).map_err(unwritten)?;
    let mut lines = Lines { out: BufWriter::new(made), salvaged: Salvaged::default() };
    read(&mut pages, &mut lines).map_err(unread)?;
    pages.told_all();
    let Lines { out, salvaged } = lines;
    let made = out.into_inner().map_err(|error| unwritten(error.into_error()))?;
    made.as_file().sync_all().map_err(unwritten)?;
    made.persist_noclobber(to).map_err(|error| unwritten(error.error))?;
    open::sync_folder(folder).map_err(unwritten)?;
    Ok(salvaged)
}

/// What is written.
struct Lines {
    out: BufWriter<NamedTempFile>,
    salvaged: Salvaged,
}

impl Lines {
    fn line(&mut self, line: &str, certain: bool) -> io::Result<()> {
        match line.strip_prefix('{').filter(|_| !certain) {
            Some(rest) => writeln!(self.out, "{{\"certain\":false,{rest}"),
            None => writeln!(self.out, "{line}"),
        }
    }

    fn row(&mut self, key: &RowKey, row: &Row, certain: bool) -> io::Result<()> {
        self.line(&export::row(key, row), certain)?;
        for operation in &row.operations {
            self.line(&export::operation(key, operation), certain)?;
        }
        self.salvaged.rows += 1;
        self.salvaged.operations += row.operations.len() as u64;
        self.salvaged.uncertain += u64::from(!certain);
        Ok(())
    }

    fn loser(&mut self, loser: &SettledLoser, certain: bool) -> io::Result<()> {
        self.line(&export::loser(loser), certain)?;
        self.salvaged.losers += 1;
        self.salvaged.uncertain += u64::from(!certain);
        Ok(())
    }
}

fn read_row(key: &[u8], value: &[u8]) -> Option<(RowKey, Row)> {
    Some((keys::read_row(key).ok()?, codec::decode_row(value).ok()?))
}

fn read_loser(key: &[u8], value: &[u8]) -> Option<SettledLoser> {
    codec::decode_loser(Uuid::from_slice(key).ok()?, value).ok()
}

fn read(pages: &mut Pages<'_>, lines: &mut Lines) -> io::Result<()> {
    let [rows, losers] = pages.roots(["rows", "losers"])?;
    let lost_rows = walk(pages, rows, &mut |key, value| match read_row(key, value) {
        Some((key, row)) => lines.row(&key, &row, true),
        None => Ok(()),
    })?;
    let lost_losers = walk(pages, losers, &mut |key, value| match read_loser(key, value) {
        Some(loser) => lines.loser(&loser, true),
        None => Ok(()),
    })?;
    if lost_rows.is_empty() && lost_losers.is_empty() {
        return Ok(());
    }
    let (mut rows, mut losers): (BTreeMap<RowKey, Row>, BTreeMap<Uuid, SettledLoser>) = Default::default();
    pages.search(&mut |key, value| {
        if lost_rows.iter().any(|lost| lost.includes(key))
            && let Some((key, row)) = read_row(key, value)
            && rows.get(&key).is_none_or(|known| known.revision < row.revision)
        {
            rows.insert(key, row);
        } else if lost_losers.iter().any(|lost| lost.includes(key))
            && let Some(loser) = read_loser(key, value)
        {
            losers.insert(loser.id, loser);
        }
        Ok(())
    })?;
    rows.iter().try_for_each(|(key, row)| lines.row(key, row, false))?;
    losers.values().try_for_each(|loser| lines.loser(loser, false))
}

/// What is done with each entry that is found: its key and its value.
type Each<'e> = dyn FnMut(&[u8], &[u8]) -> io::Result<()> + 'e;

/// Walks a table, and returns the keys that cannot be reached.
fn walk(pages: &mut Pages<'_>, root: Root, each: &mut Each<'_>) -> io::Result<Vec<Lost>> {
    let mut lost = Vec::new();
    match root {
        Root::Empty => {}
        Root::Lost => lost.push(Lost::ALL),
        Root::Tree(tree) => pages.walk(tree, &mut lost, each)?,
    }
    Ok(lost)
}
