//! Instants in nanoseconds, and the remaining units of a budget at an instant.

use std::time::SystemTime;

use crate::util::clock::Now;
use crate::util::timestamp;

/// The clock skew that is tolerated between threads, in nanoseconds. A delayed thread may come with
/// an instant up to one second behind the newest one. A budget is evicted only if it was full that
/// long ago already: otherwise the delayed thread would find a full budget at an instant at which
/// units of it were still used.
pub(crate) const MAX_SKEW: u64 = 1_000_000_000;

/// Both readings of the clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Nanos {
    pub(crate) wall: u64,
    pub(crate) monotonic: u64,
}

impl Nanos {
    /// The latest instant. The longest period of a quota can be added to it without overflow. On
    /// the wall clock it is in 2480.
    const LATEST: u64 = u64::MAX / 16 * 14;

    /// Converts readings of a clock. A wall-clock time before 1970 counts as 1970.
    #[inline]
    pub(crate) fn of(now: Now) -> Self {
        let since = now.wall().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            wall: timestamp::nanoseconds(since.unwrap_or_default()).min(Self::LATEST),
            monotonic: timestamp::nanoseconds(now.monotonic()).min(Self::LATEST),
        }
    }

    /// Returns the earliest instant that a delayed thread may come with.
    pub(crate) const fn of_a_delayed_thread(self) -> Self {
        Self {
            wall: self.wall.saturating_sub(MAX_SKEW),
            monotonic: self.monotonic.saturating_sub(MAX_SKEW),
        }
    }
}

/// The remaining units of a budget at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remaining {
    /// The number of units that are admissible now.
    pub(crate) units: u64,
    /// The nanoseconds until the budget is full again if nothing is used.
    pub(crate) full_in: u64,
}
