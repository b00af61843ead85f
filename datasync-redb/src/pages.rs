//! The pages of a redb file, read without redb: what is left of a damaged file.
//!
//! redb's `docs/design.md` has the format (version 3). A table is a tree of pages; each branch page holds the checksums of
//! its children, so that a page that was reached from the header and agrees with its checksum is whole. What such a walk
//! cannot reach is looked for on every page of the file.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use datasync_core::store::SalvageProgress;
use twox_hash::XxHash3_128;

/// After how many bytes it is told how far the reading is.
const TELL_EACH: u64 = 1 << 18;
/// The size of a page, unless the header says otherwise.
const PAGE: u64 = 4096;
/// The length of the header: its first part, and two slots.
const HEADER: usize = 64 + 2 * SLOT;
const SLOT: usize = 128;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// No tree is deeper. Children that lead back to their parents have no right checksum anyway.
const DEEPEST: usize = 128;
/// No entry of a store is longer.
const LONGEST: usize = 1 << 30;

fn small(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
}

fn large(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn count(page: &[u8]) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(page.get(2..4)?.try_into().ok()?)))
}

/// Where a page is, and what its checksum must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    number: u64,
    checksum: u128,
}

impl Child {
    fn read(bytes: &[u8], number: usize, checksum: usize) -> Option<Child> {
        let sum = bytes.get(checksum..checksum + 16)?.try_into().ok()?;
        Some(Child { number: large(bytes, number)?, checksum: u128::from_le_bytes(sum) })
    }
}

/// Keys behind `above` and up to `upto` whose pages are damaged; without one, all keys on that side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    above: Option<Vec<u8>>,
    upto: Option<Vec<u8>>,
}

impl Lost {
    pub(crate) const ALL: Lost = Lost { above: None, upto: None };

    pub(crate) fn includes(&self, key: &[u8]) -> bool {
        self.above.as_ref().is_none_or(|above| key > above.as_slice())
            && self.upto.as_ref().is_none_or(|upto| key <= upto.as_slice())
    }
}

/// A table of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Root {
    /// Its tree.
    Tree(Child),
    /// It is empty, or there is no such table.
    Empty,
    /// Where it begins cannot be made out.
    Lost,
}

/// What is done with a key and its value.
pub(crate) type Each<'e> = &'e mut dyn FnMut(&[u8], &[u8]) -> io::Result<()>;

/// A file that is only read.
pub(crate) struct Pages<'t> {
    told: &'t mut dyn FnMut(SalvageProgress),
    /// How many bytes were looked at, and how many when it was last told.
    done: u64,
    last_told: u64,
    file: File,
    length: u64,
    page: u64,
    /// The size of a region, and of what stands before its pages.
    region: u64,
    region_header: u64,
    header: Vec<u8>,
}

impl<'t> Pages<'t> {
    pub(crate) fn open(path: &Path, told: &'t mut dyn FnMut(SalvageProgress)) -> io::Result<Pages<'t>> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let (page, region) = (PAGE, u64::MAX);
        let (region_header, header, done, last_told) = Default::default();
        let mut pages = Pages { told, done, last_told, file, length, page, region, region_header, header };
        pages.header = pages.read(0, HEADER)?;
        let (page, before, data) = (small(&pages.header, 12), small(&pages.header, 16), small(&pages.header, 20));
        if let (Some(page), Some(before), Some(data)) = (page, before, data)
            && page.is_power_of_two()
            && (512..=1 << 16).contains(&page)
            && before <= 1 << 20
            && (1..=1 << 20).contains(&data)
        {
            (pages.page, pages.region_header, pages.region) = (page, before * page, (before + data) * page);
        }
        Ok(pages)
    }

    /// Bytes of the file; fewer if it ends before them.
    fn read(&mut self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let there = self.length.saturating_sub(at).min(length as u64);
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(at))?;
        (&mut self.file).take(there).read_to_end(&mut bytes)?;
        self.done = (self.done + there).min(self.total());
        if self.done - self.last_told >= TELL_EACH {
            self.tell();
        }
        Ok(bytes)
    }

    /// The trees are walked, and then perhaps everything is searched.
    fn total(&self) -> u64 {
        self.length.saturating_mul(2)
    }

    fn tell(&mut self) {
        self.last_told = self.done;
        let progress = SalvageProgress { done: self.done, total: self.total() };
        (self.told)(progress);
    }

    /// Nothing is left to look at.
    pub(crate) fn told_all(&mut self) {
        self.done = self.total();
        self.tell();
    }

    /// A page, if it agrees with its checksum.
    fn whole(&mut self, child: Child) -> io::Result<Option<Vec<u8>>> {
        let order = child.number >> 59;
        let index = child.number & (0x000f_ffff >> order.min(20));
        let region = (child.number >> 20) & 0x000f_ffff;
        let size = self.page << order.min(20);
        let place = region.checked_mul(self.region).and_then(|start| start.checked_add(self.page + self.region_header));
        let Some(at) = place.and_then(|start| start.checked_add(index * size)).filter(|at| *at < self.length) else {
            return Ok(None);
        };
        let page = self.read(at, usize::try_from(size).unwrap_or(LONGEST).min(LONGEST))?;
        let end = match page.first() {
            Some(&LEAF) => Leaf::of(&page).and_then(|leaf| leaf.value_end(leaf.entries.checked_sub(1)?)),
            Some(&BRANCH) => Branch::of(&page).and_then(|branch| branch.key_end(branch.keys.checked_sub(1)?)),
            _ => None,
        };
        let used = end.and_then(|end| page.get(..end));
        let agrees = used.is_some_and(|used| XxHash3_128::oneshot(used) == child.checksum);
        Ok(agrees.then_some(page))
    }

    /// Calls `each` with the entries of a tree in the order of their keys, and says which keys it cannot reach.
    pub(crate) fn walk(&mut self, root: Child, lost: &mut Vec<Lost>, each: Each<'_>) -> io::Result<()> {
        self.visit(root, Lost::ALL, 0, lost, each)
    }

    fn visit(
        &mut self,
        child: Child,
        keys: Lost,
        depth: usize,
        lost: &mut Vec<Lost>,
        each: Each<'_>,
    ) -> io::Result<()> {
        let Some(page) = self.whole(child)?.filter(|_| depth < DEEPEST) else {
            lost.push(keys);
            return Ok(());
        };
        if let Some(leaf) = Leaf::of(&page) {
            return (0..leaf.entries).filter_map(|n| leaf.entry(n)).try_for_each(|(key, value)| each(key, value));
        }
        let Some(branch) = Branch::of(&page) else { return Ok(()) };
        for n in 0..=branch.keys {
            let above = n.checked_sub(1).and_then(|n| branch.key(n)).map(<[u8]>::to_vec).or_else(|| keys.above.clone());
            let upto = branch.key(n).map(<[u8]>::to_vec).or_else(|| keys.upto.clone());
            let part = Lost { above, upto };
            match branch.child(n) {
                Some(child) => self.visit(child, part, depth + 1, lost, each)?,
                None => lost.push(part),
            }
        }
        Ok(())
    }

    /// Where the tables of these names begin.
    pub(crate) fn roots<const N: usize>(&mut self, names: [&str; N]) -> io::Result<[Root; N]> {
        let mut roots = [Root::Lost; N];
        let Some(tables) = self.tables()? else { return Ok(roots) };
        let Root::Tree(tree) = tables else { return Ok([Root::Empty; N]) };
        let mut lost = Vec::new();
        self.walk(tree, &mut lost, &mut |name, table| {
            if let Some(place) = names.iter().position(|wanted| wanted.as_bytes() == name) {
                // A byte for the kind, eight for the length, and a byte that says whether there is a tree.
                roots[place] = match table.get(9) {
                    Some(0) => Root::Empty,
                    _ => Child::read(table, 10, 18).map_or(Root::Lost, Root::Tree),
                };
            }
            Ok(())
        })?;
        for (root, name) in roots.iter_mut().zip(names) {
            if matches!(root, Root::Lost) && !lost.iter().any(|lost| lost.includes(name.as_bytes())) {
                *root = Root::Empty;
            }
        }
        Ok(roots)
    }

    /// The tree of the tables, by the slot of the last commit or else of the one before; `None` if both are damaged.
    fn tables(&mut self) -> io::Result<Option<Root>> {
        let primary = usize::from(self.header.get(9).is_some_and(|flags| flags & 1 == 1));
        for slot in [primary, 1 - primary] {
            let start = 64 + slot * SLOT;
            let Some(slot) = self.header.get(start..start + SLOT) else { continue };
            let (fields, sum) = slot.split_at(SLOT - 16);
            if XxHash3_128::oneshot(fields).to_le_bytes() != *sum {
                continue;
            }
            if fields.get(1) == Some(&0) {
                return Ok(Some(Root::Empty));
            }
            let Some(tree) = Child::read(fields, 8, 16) else { continue };
            if self.whole(tree)?.is_some() {
                return Ok(Some(Root::Tree(tree)));
            }
        }
        Ok(None)
    }

    /// Calls `each` with every entry of what looks like a leaf, wherever it lies and whether or not it is still used.
    pub(crate) fn search(&mut self, each: Each<'_>) -> io::Result<()> {
        let mut at = 0;
        while at < self.length {
            let mut page = self.read(at, usize::try_from(self.page).unwrap_or(LONGEST))?;
            // A leaf of large values takes several pages.
            let end = Leaf::of(&page).and_then(|leaf| leaf.value_end(leaf.entries.checked_sub(1)?));
            if let Some(end) = end.filter(|end| (page.len()..LONGEST).contains(end)) {
                page = self.read(at, end)?;
            }
            if let Some(leaf) = Leaf::of(&page) {
                (0..leaf.entries).filter_map(|n| leaf.entry(n)).try_for_each(|(key, value)| each(key, value))?;
            }
            at += self.page;
        }
        Ok(())
    }
}

/// A page with entries: four bytes, the ends of the keys, the ends of the values, the keys, the values.
struct Leaf<'p> {
    page: &'p [u8],
    entries: usize,
}

impl<'p> Leaf<'p> {
    fn of(page: &'p [u8]) -> Option<Leaf<'p>> {
        (page.first() == Some(&LEAF)).then_some(Leaf { page, entries: count(page)? })
    }

    fn key_end(&self, n: usize) -> Option<usize> {
        small(self.page, 4 + 4 * n)?.try_into().ok()
    }

    fn value_end(&self, n: usize) -> Option<usize> {
        small(self.page, 4 + 4 * (self.entries + n))?.try_into().ok()
    }

    fn entry(&self, n: usize) -> Option<(&'p [u8], &'p [u8])> {
        let first = 4 + 8 * self.entries;
        let key = n.checked_sub(1).map_or(Some(first), |n| self.key_end(n))?..self.key_end(n)?;
        let value = match n.checked_sub(1) {
            Some(before) => self.value_end(before)?,
            None => self.key_end(self.entries.checked_sub(1)?)?,
        }..self.value_end(n)?;
        Some((self.page.get(key)?, self.page.get(value)?))
    }
}

/// A page with children: eight bytes, their checksums, their numbers, the ends of the keys between them, the keys.
struct Branch<'p> {
    page: &'p [u8],
    keys: usize,
}

impl<'p> Branch<'p> {
    fn of(page: &'p [u8]) -> Option<Branch<'p>> {
        (page.first() == Some(&BRANCH)).then_some(Branch { page, keys: count(page)? })
    }

    fn child(&self, n: usize) -> Option<Child> {
        Child::read(self.page, 8 + 16 * (self.keys + 1) + 8 * n, 8 + 16 * n)
    }

    fn key_end(&self, n: usize) -> Option<usize> {
        small(self.page, 8 + 24 * (self.keys + 1) + 4 * n)?.try_into().ok()
    }

    fn key(&self, n: usize) -> Option<&'p [u8]> {
        if n >= self.keys {
            return None;
        }
        let first = 8 + 24 * (self.keys + 1) + 4 * self.keys;
        let start = n.checked_sub(1).map_or(Some(first), |n| self.key_end(n))?;
        self.page.get(start..self.key_end(n)?)
    }
}
