//! A frequency sketch: about how often each key was loaded lately.
//!
//! A count-min sketch of two rows, as in TinyLFU. The eviction policy compares a key that was just
//! loaded with the cached keys by it. A count never shows less than the loads that were added,
//! before it is halved.

use crate::key::digest::KeyId;

/// The most that is counted. A use beyond it tells nothing more about which key to keep.
pub(super) const MOST: u8 = 15;

/// The counters for each key that fits into the cache. Twice as many gain nothing.
const COUNTERS_PER_KEY: usize = 8;

/// The counters that each load halves: one is halved after as many loads as there are keys in the
/// cache.
const HALVED: usize = COUNTERS_PER_KEY;

pub(super) struct FrequencySketch {
    counters: Box<[u8]>,
    next_halved: usize,
}

impl FrequencySketch {
    /// Creates a sketch for a cache of `keys` keys.
    pub(super) fn new(keys: usize) -> Self {
        let counters = keys.saturating_mul(COUNTERS_PER_KEY).max(64);
        Self {
            counters: vec![0; counters].into(), // pages that are not used take no memory
            next_halved: 0,
        }
    }

    /// Counts a load of a key, and returns its count.
    pub(super) fn add(&mut self, id: &KeyId) -> u8 {
        self.age();
        let count = (self.count(id) + 1).min(MOST);
        self.raise(id, count);
        count
    }

    /// Raises the count of a key that is evicted, to the uses that it had in the cache.
    pub(super) fn raise(&mut self, id: &KeyId, count: u8) {
        for at in self.counters_of(id) {
            let counter = &mut self.counters[at];
            *counter = count.min(MOST).max(*counter);
        }
    }

    fn count(&self, id: &KeyId) -> u8 {
        let [one, other] = self.counters_of(id);
        self.counters[one].min(self.counters[other])
    }

    /// Halves the next few counters.
    fn age(&mut self) {
        for _ in 0..HALVED {
            let counter = &mut self.counters[self.next_halved];
            *counter /= 2;
            self.next_halved = (self.next_halved + 1) % self.counters.len();
        }
    }

    /// The two halves of one half of the id: it is a digest, so they are independent hashes.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a hash, of which any bits will do"
    )]
    fn counters_of(&self, id: &KeyId) -> [usize; 2] {
        let hash = id.half();
        let rows = [hash as u32, (hash >> 32) as u32];
        rows.map(|row| row as usize % self.counters.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::digest::KeyDigest;

    fn id(at: usize) -> KeyId {
        KeyDigest::of(&at.to_string()).id()
    }

    #[test]
    fn loads_are_counted_up_to_fifteen() {
        let mut sketch = FrequencySketch::new(1_000);
        for loads in 1..=40 {
            assert_eq!(sketch.add(&id(1)), loads.min(MOST));
        }
        sketch.raise(&id(2), 7);
        assert_eq!(sketch.add(&id(2)), 8);
    }

    #[test]
    fn a_scan_leaves_low_counts_and_a_repeated_set_high_ones() {
        for keys in [100, 1_310, 5_242] {
            let mut sketch = FrequencySketch::new(keys);
            let high = (0..20 * keys).filter(|at| sketch.add(&id(*at)) > 2);
            let high = high.count();
            assert!(high <= keys / 5, "{high} of a scan, {keys}");
            let counts = (0..8)
                .flat_map(|_| 0..keys / 4)
                .map(|at| sketch.add(&id(at)));
            let high = counts.skip(7 * (keys / 4)).filter(|count| *count > 2);
            let high = high.count();
            assert!(high >= keys / 4 / 100 * 80, "{high} of {keys}");
        }
    }

    #[test]
    fn counts_are_halved_until_nothing_is_left() {
        let mut sketch = FrequencySketch::new(100);
        sketch.raise(&id(1), MOST);
        for _ in 0..4 {
            assert!(sketch.count(&id(1)) > 0);
            (0..100).for_each(|_| sketch.age());
        }
        assert_eq!(sketch.count(&id(1)), 0);
    }
}
