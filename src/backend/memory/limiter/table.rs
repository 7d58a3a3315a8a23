//! A table of bounded size that forgets what it may when it needs the place.

use hashbrown::HashTable;

use super::hasher::BudgetKey;
use crate::limit::MAX_CHARGES;

/// How many places a newcomer may look at to find one that can be forgotten.
const SWEEP: usize = 16;

pub(super) struct Entry<T> {
    key: BudgetKey,
    value: T,
}

pub(super) struct Table<T> {
    entries: HashTable<Entry<T>>,
    /// How many entries there may be.
    places: usize,
    /// Where the next newcomer begins to look for one that can be forgotten.
    hand: usize,
}

impl<T> Table<T> {
    /// What a place takes, in bytes.
    pub(super) const PLACE: usize = size_of::<Entry<T>>() + 1;

    pub(super) fn new(places: usize) -> Self {
        Self {
            entries: HashTable::new(),
            places,
            hand: 0,
        }
    }

    pub(super) fn places(&self) -> usize {
        self.places
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(super) fn find(&self, key: BudgetKey) -> Option<usize> {
        self.entries
            .find_bucket_index(key, |entry| entry.key == key)
    }

    #[inline]
    pub(super) fn get(&mut self, at: usize) -> Option<&mut T> {
        let entry = self.entries.get_bucket_mut(at);
        entry.map(|entry| &mut entry.value)
    }

    /// Makes sure that no entry is moved while one request makes its own.
    pub(super) fn make_room(&mut self) {
        self.entries.reserve(MAX_CHARGES, |entry| entry.key);
    }

    /// A place for what is not there, if need be that of another entry that may be forgotten.
    pub(super) fn make(
        &mut self,
        key: BudgetKey,
        value: T,
        may_forget: impl FnMut(usize, &T) -> bool,
    ) -> Option<usize> {
        if self.len() >= self.places && !self.forget_one(may_forget) {
            return None;
        }
        let entry = Entry { key, value };
        let entry = self.entries.insert_unique(key, entry, |entry| entry.key);
        Some(entry.bucket_index())
    }

    fn forget_one(&mut self, mut may_forget: impl FnMut(usize, &T) -> bool) -> bool {
        for _ in 0..SWEEP {
            self.hand = (self.hand + 1) % self.entries.num_buckets().max(1);
            if let Ok(entry) = self.entries.get_bucket_entry(self.hand)
                && may_forget(self.hand, &entry.get().value)
            {
                entry.remove();
                return true;
            }
        }
        false
    }
}
