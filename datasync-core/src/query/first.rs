//! The first rows of an order, of which no more are kept than are wanted.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::eval::SortKey;

/// The first rows of a query's order, of all that are offered. The rest is dropped at once: nothing is sorted as a whole.
#[derive(Debug)]
pub struct FirstRows<T> {
    wanted: usize,
    /// The last row that is wanted lies on top.
    kept: BinaryHeap<Place<T>>,
    offered: u64,
}

#[derive(Debug)]
struct Place<T>(SortKey, T);

impl<T> PartialEq for Place<T> {
    fn eq(&self, other: &Place<T>) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Place<T> {}

impl<T> PartialOrd for Place<T> {
    fn partial_cmp(&self, other: &Place<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Place<T> {
    fn cmp(&self, other: &Place<T>) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> FirstRows<T> {
    /// Keeps so many rows at most; those that the query skips are among them.
    #[must_use]
    pub fn new(wanted: usize) -> FirstRows<T> {
        FirstRows { wanted, kept: BinaryHeap::new(), offered: 0 }
    }

    /// Takes a row that matches.
    pub fn offer(&mut self, key: SortKey, row: T) {
        self.offered += 1;
        if self.kept.len() < self.wanted {
            self.kept.push(Place(key, row));
        } else if let Some(mut last) = self.kept.peek_mut()
            && key < last.0
        {
            *last = Place(key, row);
        }
    }

    /// How many rows were offered.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Whether as many rows are kept as are wanted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.kept.len() >= self.wanted
    }

    /// Whether a row that agrees with this one in the query's keys, and every row behind it, comes too late.
    #[must_use]
    pub fn is_behind(&self, key: &SortKey) -> bool {
        self.is_full() && self.kept.peek().is_none_or(|last| *key > last.0 && !key.agrees(&last.0))
    }

    /// The rows in the query's order.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.kept.into_sorted_vec().into_iter().map(|Place(_, row)| row).collect()
    }
}
