//! How often a cached key is used: one byte that a hit counts in, and the eviction policy reads.

use std::sync::atomic::{AtomicU8, Ordering};

/// Hits since the last visit in the lower half, and visits since the last hit in the upper half.
/// One of the two is always zero.
///
/// Concurrent hits may be counted as one, and a visit may miss one: the count only ranks keys.
#[derive(Debug, Default)]
pub(super) struct UseCount(AtomicU8);

/// The most that a half can count. moka counts no further, either.
const MOST: u8 = 15;

impl UseCount {
    /// Counts a hit. After 15 of them, a hit writes nothing.
    #[inline]
    pub(super) fn hit(&self) {
        let hits = self.0.load(Ordering::Relaxed) & MOST;
        if hits < MOST {
            self.0.store(hits + 1, Ordering::Relaxed);
        }
    }

    /// Counts a visit, and returns the hits since the last one.
    pub(super) fn visit(&self) -> u8 {
        let count = self.0.load(Ordering::Relaxed);
        let hits = count & MOST;
        let idle = if hits > 0 { 0 } else { (count >> 4) + 1 };
        self.0.store(idle.min(MOST) << 4, Ordering::Relaxed);
        hits
    }

    /// The visits since the last hit.
    pub(super) fn idle_visits(&self) -> u8 {
        self.0.load(Ordering::Relaxed) >> 4
    }

    /// Goes on with the count of another.
    pub(super) fn inherit(&self, other: &Self) {
        self.0
            .store(other.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_and_idle_visits_are_counted_up_to_fifteen() {
        let count = UseCount::default();
        for hits in [0, 1, 2, 15, 16, 100] {
            for _ in 0..hits {
                count.hit();
            }
            assert_eq!(count.visit(), hits.min(15));
            assert_eq!(count.idle_visits(), u8::from(hits == 0));
        }
        for visits in 1..100 {
            assert_eq!(count.visit(), 0);
            assert_eq!(count.idle_visits(), visits.min(15));
        }
        count.hit();
        assert_eq!(count.idle_visits(), 0);
        let other = UseCount::default();
        other.inherit(&count);
        assert_eq!(other.visit(), 1);
    }
}
