//! A log of the latest entries, each with a place of its own.

use std::collections::VecDeque;

/// How many entries are kept.
const MOST: usize = 10_000;

/// The latest entries in the order in which they came. Places count from 1, and are not used again.
#[derive(Debug)]
pub(super) struct Journal<T> {
    entries: VecDeque<T>,
    /// The place of the last entry, or 0.
    last: u64,
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            last: 0,
        }
    }
}

impl<T> Journal<T> {
    pub(super) fn push(&mut self, entry: T) {
        if self.entries.len() == MOST {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.last += 1;
    }

    /// Returns the place of the last entry, or 0.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Returns the place before the first entry that is kept.
    pub(super) fn before_first(&self) -> u64 {
        self.last - self.entries.len() as u64
    }

    /// Returns the entries after a place, with their places.
    pub(super) fn after(&self, place: u64) -> impl Iterator<Item = (u64, &T)> {
        let before_first = self.before_first();
        let skipped = place
            .saturating_sub(before_first)
            .min(self.entries.len() as u64);
        let places = before_first + skipped + 1..;
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        places.zip(self.entries.range(skipped..))
    }

    /// Returns the entries before a place, the last first.
    pub(super) fn before(&self, place: u64) -> impl Iterator<Item = (u64, &T)> {
        let before_first = self.before_first();
        let kept = place
            .saturating_sub(before_first + 1)
            .min(self.entries.len() as u64);
        let places = (before_first + 1..=before_first + kept).rev();
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        places.zip(self.entries.range(..kept).rev())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(entries: u64) -> Journal<u64> {
        let mut journal = Journal::default();
        (1..=entries).for_each(|entry| journal.push(entry));
        journal
    }

    #[test]
    fn entries_are_read_forwards_and_backwards_from_any_place() {
        let most = MOST as u64;
        for entries in [0, 1, 5, most - 1, most, most + 1, 2 * most + 3] {
            let journal = journal(entries);
            let first = entries.saturating_sub(most) + 1;
            for place in [0, 1, first, entries / 2, entries, entries + 1, u64::MAX] {
                let after: Vec<_> = journal.after(place).collect();
                let expected: Vec<_> = (first..=entries).filter(|it| *it > place).collect();
                assert_eq!(
                    after,
                    expected.iter().map(|it| (*it, it)).collect::<Vec<_>>()
                );
                let before: Vec<_> = journal.before(place).collect();
                let expected: Vec<_> = (first..=entries).rev().filter(|it| *it < place).collect();
                assert_eq!(
                    before,
                    expected.iter().map(|it| (*it, it)).collect::<Vec<_>>()
                );
            }
        }
    }
}
