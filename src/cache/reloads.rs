//! A sketch of how often keys are loaded that the eviction policy does not admit.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::key::digest::KeyId;

/// A key that is loaded so often takes the place of one that is idle.
const OFTEN: u8 = 4;

/// The counters for each key that fits in the cache, a byte each: 1 % of its memory. A key that
/// is loaded once shares its counter with three other loads one time in two hundred.
const COUNTERS: usize = 8;

/// The counters that are halved at each load. With one load for each four counters, all of them were
/// halved once.
const HALVED: usize = 4;

/// Counts loads, in a sketch of counters that are halved over time.
///
/// moka's policy compares counts that end at 15, and halves them after so many increments. A counter
/// that is at its end is not incremented, so where all keys in use have arrived there, nothing is
/// halved any more, and newcomers tie with idle keys. These counts do not depend on that.
pub(super) struct Reloads {
    counters: Box<[AtomicU8]>,
    next: AtomicUsize,
}

impl Reloads {
    /// Creates counters for a cache with room for so many keys.
    pub(super) fn new(keys: usize) -> Self {
        let counters = keys.saturating_mul(COUNTERS).max(64);
        Self {
            counters: (0..counters).map(|_| AtomicU8::new(0)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Counts a load, and returns whether the key was loaded often of late. It is counted from zero
    /// then.
    pub(super) fn add(&self, id: &KeyId) -> bool {
        let count = self.counters.len();
        let next = self.next.fetch_add(HALVED, Ordering::Relaxed);
        for at in 0..HALVED {
            let counter = &self.counters[next.wrapping_add(at) % count];
            counter.store(counter.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
        let own = usize::try_from(id.half() % count as u64).unwrap_or_default();
        let counter = &self.counters[own];
        let loads = counter.load(Ordering::Relaxed) + 1; // never above OFTEN
        let is_often = loads >= OFTEN;
        counter.store(if is_often { 0 } else { loads }, Ordering::Relaxed);
        is_often
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(at: usize) -> KeyId {
        crate::key::KeyDigest::of(&at.to_string()).id()
    }

    #[test]
    fn a_set_that_is_loaded_over_and_over_is_loaded_often_and_a_scan_is_not() {
        for keys in [100, 1_310, 5_242] {
            let reloads = Reloads::new(keys);
            let scan = (0..20 * keys).filter(|at| reloads.add(&id(*at))).count();
            assert!(scan <= keys / 5, "{scan} of a scan, {keys}");
            let mut often = vec![false; keys / 2];
            for _ in 0..8 {
                for (at, often) in often.iter_mut().enumerate() {
                    *often |= reloads.add(&id(at));
                }
            }
            let often = often.iter().filter(|often| **often).count();
            assert!(often >= keys / 2 / 100 * 95, "{often} of {keys}");
        }
    }
}
