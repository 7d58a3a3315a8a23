//! Instants in nanoseconds, and what is left of a budget at one.

use std::time::SystemTime;

use crate::util::clock::Now;
use crate::util::timestamp;

/// The clock skew that is tolerated between threads. An instant up to a second behind the last one
/// is that of a thread that was held up on its way here, and no step of the clock. To take it for a
/// step would give back what others have used since.
pub(crate) const HELD_UP: u64 = 1_000_000_000;

/// Both readings of the clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nanos {
    pub(crate) wall: u64,
    pub(crate) monotonic: u64,
}

impl Nanos {
    /// The latest instant: far from overflow, whatever a quota adds. On the wall clock it is in
    /// 2480.
    const LATEST: u64 = u64::MAX / 16 * 14;

    /// A wall clock before 1970 stands at 1970.
    #[inline]
    pub(crate) fn of(now: Now) -> Self {
        let since = now.wall().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            wall: timestamp::nanoseconds(since.unwrap_or_default()).min(Self::LATEST),
            monotonic: timestamp::nanoseconds(now.monotonic()).min(Self::LATEST),
        }
    }

    /// The instant at which a thread may have read the clock that comes here now.
    pub(crate) const fn when_held_up(self) -> Self {
        Self {
            wall: self.wall.saturating_sub(HELD_UP),
            monotonic: self.monotonic.saturating_sub(HELD_UP),
        }
    }
}

/// What is left of a budget at an instant; times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// How much is admissible now, in shares of a unit: it is divided only if somebody asks.
    pub(crate) spare: u64,
    /// How many such shares make a unit.
    pub(crate) unit: u64,
    /// In what time the budget is whole again if nothing is used.
    pub(crate) whole_in: u64,
}
