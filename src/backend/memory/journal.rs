//! A log of the latest entries, each with a place of its own.

use std::collections::VecDeque;

/// How many entries are kept.
const MOST: usize = 10_000;

/// How many bytes they may take: texts are as long as those who change keys make them.
const MOST_BYTES: usize = 16 << 20;

/// The latest entries in the order in which they came. Places count from 1, and are not used again.
#[derive(Debug)]
pub(super) struct Journal<T> {
    entries: VecDeque<T>,
    sizes: VecDeque<usize>,
    bytes: usize,
    /// The place of the last entry, or 0.
    last: u64,
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            sizes: VecDeque::new(),
            bytes: 0,
            last: 0,
        }
    }
}

impl<T> Journal<T> {
    /// Adds an entry that takes about so many bytes. The oldest ones are forgotten for it, and the
    /// latest one stays, however large it is.
    pub(super) fn push(&mut self, entry: T, size: usize) {
        self.entries.push_back(entry);
        self.sizes.push_back(size);
        self.bytes += size;
        self.last += 1;
        while self.entries.len() > 1 && (self.entries.len() > MOST || self.bytes > MOST_BYTES) {
            self.entries.pop_front();
            self.bytes -= self.sizes.pop_front().unwrap_or(0);
        }
    }

    /// Returns whether what comes after a place is kept: a place that was never reached is none.
    pub(super) fn reaches(&self, place: u64) -> bool {
        (self.before_first()..=self.last).contains(&place)
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
        (1..=entries).for_each(|entry| journal.push(entry, 100));
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

    #[test]
    fn only_so_many_bytes_are_kept_and_always_the_latest_entry() {
        let mut journal = Journal::default();
        for entry in 0..1_000_u64 {
            journal.push(entry, 1 << 20);
            assert!(journal.bytes <= MOST_BYTES);
            assert_eq!(journal.bytes, journal.sizes.iter().sum::<usize>());
            assert_eq!(journal.before(u64::MAX).next(), Some((entry + 1, &entry)));
        }
        journal.push(7, MOST_BYTES + 1);
        assert_eq!(journal.after(0).count(), 1);
        assert!(journal.reaches(1_000) && journal.reaches(1_001));
        assert!(!journal.reaches(999) && !journal.reaches(1_002));
    }
}
