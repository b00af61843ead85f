//! What is kept of a table beside its rows.

use std::collections::BTreeSet;

use redb::{ReadableTable, Table};

use super::{Names, rows};
use crate::repository::Place;

/// The marks of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// The last stamp and sequence given.
    pub(super) last: Option<Place>,
    /// Up to where rows that are marked as deleted were forgotten.
    pub(super) swept: Option<Place>,
    /// The greatest sequence of what was forgotten.
    pub(super) forgotten: u64,
    /// The fields whose changes leave departures.
    pub(super) tracked: BTreeSet<String>,
}

fn unreadable() -> redb::Error {
    redb::Error::Corrupted("what is kept of a table cannot be read".to_owned())
}

impl Marks {
    pub(super) fn read(
        service: &impl ReadableTable<&'static [u8], &'static [u8]>,
        names: &Names,
    ) -> Result<Marks, redb::Error> {
        let place = |name: &str| service.get(name.as_bytes())?.map(|found| rows::stamp(found.value())).transpose();
        let forgotten = match service.get(names.forgotten.as_bytes())? {
            Some(found) => u64::from_be_bytes(found.value().try_into().map_err(|_| unreadable())?),
            None => 0,
        };
        let tracked = match service.get(names.tracked.as_bytes())? {
            Some(found) => serde_json::from_slice(found.value()).map_err(|_| unreadable())?,
            None => BTreeSet::new(),
        };
        Ok(Marks { last: place(&names.last)?, swept: place(&names.swept)?, forgotten, tracked })
    }

    /// Stores what differs from the marks as they were.
    pub(super) fn store(
        &self,
        before: &Marks,
        service: &mut Table<'_, &'static [u8], &'static [u8]>,
        names: &Names,
    ) -> Result<(), redb::Error> {
        for (name, new, old) in [(&names.last, self.last, before.last), (&names.swept, self.swept, before.swept)] {
            if let Some(place) = new.filter(|_| new != old) {
                service.insert(name.as_bytes(), &rows::stamp_bytes(place)[..])?;
            }
        }
        if self.forgotten != before.forgotten {
            service.insert(names.forgotten.as_bytes(), &self.forgotten.to_be_bytes()[..])?;
        }
        if self.tracked != before.tracked {
            let tracked = serde_json::to_vec(&self.tracked).map_err(|_| unreadable())?;
            service.insert(names.tracked.as_bytes(), &tracked[..])?;
        }
        Ok(())
    }
}
