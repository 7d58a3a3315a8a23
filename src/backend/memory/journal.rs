//! A bounded log of the latest entries, which are numbered.

use std::collections::VecDeque;

/// The maximum number of entries.
const MOST: usize = 10_000;

/// The maximum size in bytes, since the texts in an entry can be long.
const MOST_BYTES: usize = 16 << 20;

/// The latest entries, oldest first. Their numbers start at 1, and are never reused.
#[derive(Debug)]
pub(super) struct Journal<T> {
    entries: VecDeque<T>,
    sizes: VecDeque<usize>,
    bytes: usize,
    /// The number of the last entry, or 0.
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
    /// Adds an entry of about `size` bytes, and drops the oldest entries if necessary. The new
    /// entry is kept whatever its size.
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

    /// Returns whether all entries after a number are kept. A number that was never reached does
    /// not count.
    pub(super) fn reaches(&self, number: u64) -> bool {
        (self.before_first()..=self.last).contains(&number)
    }

    /// Returns the number of the last entry, or 0.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Returns the number before the first entry that is kept.
    pub(super) fn before_first(&self) -> u64 {
        self.last - self.entries.len() as u64
    }

    /// Returns the entries after a number, with their numbers.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = (u64, &T)> {
        let before_first = self.before_first();
        let skipped = number
            .saturating_sub(before_first)
            .min(self.entries.len() as u64);
        let numbers = before_first + skipped + 1..;
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        numbers.zip(self.entries.range(skipped..))
    }

    /// Returns the entries before a number, the last first.
    pub(super) fn before(&self, number: u64) -> impl Iterator<Item = (u64, &T)> {
        let before_first = self.before_first();
        let count = number
            .saturating_sub(before_first + 1)
            .min(self.entries.len() as u64);
        let numbers = (before_first + 1..=before_first + count).rev();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        numbers.zip(self.entries.range(..count).rev())
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
    fn entries_are_read_forwards_and_backwards_from_any_number() {
        let most = MOST as u64;
        for entries in [0, 1, 5, most - 1, most, most + 1, 2 * most + 3] {
            let journal = journal(entries);
            let first = entries.saturating_sub(most) + 1;
            for number in [0, 1, first, entries / 2, entries, entries + 1, u64::MAX] {
                let after: Vec<_> = journal.after(number).collect();
                let expected: Vec<_> = (first..=entries).filter(|it| *it > number).collect();
                assert_eq!(
                    after,
                    expected.iter().map(|it| (*it, it)).collect::<Vec<_>>()
                );
                let before: Vec<_> = journal.before(number).collect();
                let expected: Vec<_> = (first..=entries).rev().filter(|it| *it < number).collect();
                assert_eq!(
                    before,
                    expected.iter().map(|it| (*it, it)).collect::<Vec<_>>()
                );
            }
        }
    }

    #[test]
    fn the_journal_is_bounded_in_bytes_and_keeps_the_latest_entry() {
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
