//! The `window` shape: never more than the limit in *any* window of its length.
//!
//! Time is cut into slots of 1/60 of the window. Units are counted by slot, and count until sixty
//! whole slots have passed since their own: no window that ends before then can miss them. So none
//! is forgotten too early, and each is held against the caller for at most one slot longer than it
//! must be.

use std::collections::VecDeque;

use crate::limit::state::{HELD_UP, Left};

/// Slots in a window.
const SLOTS: u64 = 60;

/// At most `limit` units in any `period`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowQuota {
    pub(crate) period: u64,
    pub(crate) limit: u64,
}

impl WindowQuota {
    /// Rounded up, so that sixty slots are never shorter than the window.
    const fn slot(self) -> u64 {
        self.period.div_ceil(SLOTS)
    }

    /// For how long what is used at the first instant of a slot counts; nothing does for longer.
    const fn longest(self) -> u64 {
        (SLOTS + 1) * self.slot()
    }
}

/// Units used, by slot. Most callers use few slots; one needs no memory of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Window {
    #[default]
    Unused,
    One(Count),
    Many(Box<Counts>),
}

/// So many units of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// The instant from which they count no more: sixty slots after the end of their own.
    forgotten: u64,
    units: u64,
}

/// Units of several slots, oldest first, and their sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    used: u64,
    slots: VecDeque<Count>,
}

impl Window {
    #[inline(never)]
    pub(crate) fn wait(&mut self, quota: WindowQuota, now: u64, cost: u64) -> Option<u64> {
        self.settle(quota, now);
        if cost > quota.limit {
            return None;
        }
        let needed = self.used().saturating_add(cost).saturating_sub(quota.limit);
        match self {
            _ if needed == 0 => Some(0),
            Self::Unused => None,
            Self::One(count) => Some(count.forgotten - now),
            Self::Many(counts) => {
                let mut freed: u64 = 0;
                let enough = counts.slots.iter().find(|count| {
                    freed = freed.saturating_add(count.units);
                    freed >= needed
                });
                enough.map(|count| count.forgotten - now)
            }
        }
    }

    #[inline(never)]
    pub(crate) fn left(&self, quota: WindowQuota, now: u64) -> Left {
        Left {
            spare: quota.limit.saturating_sub(self.used()),
            unit: 1,
            whole_in: self.whole_at().saturating_sub(now),
        }
    }

    /// `may_grow` is whether there is memory for one more slot; without it, older units are counted
    /// into the newest slot: longer than they must be, never shorter.
    #[inline(never)]
    pub(crate) fn take(&mut self, quota: WindowQuota, now: u64, cost: u64, may_grow: bool) {
        self.settle(quota, now);
        if self.used() == 0 {
            *self = Self::Unused; // and gives back what memory it had
        }
        // The newest slot has not ended yet if all that it counts is remembered for sixty more.
        if let Some(last) = self.last()
            && last.forgotten > now + SLOTS * quota.slot()
        {
            last.units = last.units.saturating_add(cost);
            if let Self::Many(counts) = self {
                counts.used = counts.used.saturating_add(cost);
            }
            return;
        }
        let new = Count {
            forgotten: now - now % quota.slot() + quota.longest(),
            units: cost,
        };
        match self {
            Self::Unused => *self = Self::One(new),
            Self::One(last) if may_grow => {
                *self = Self::Many(Box::new(Counts {
                    used: last.units.saturating_add(cost),
                    slots: VecDeque::from([*last, new]),
                }));
            }
            Self::One(last) => last.add(new),
            Self::Many(counts) => {
                counts.used = counts.used.saturating_add(cost);
                match counts.slots.back_mut() {
                    Some(last) if !may_grow => last.add(new),
                    _ => counts.slots.push_back(new),
                }
            }
        }
    }

    /// Gives back the oldest units first: if others were meant, what is left counts longer than it
    /// must, never shorter.
    pub(crate) fn refund(&mut self, quota: WindowQuota, now: u64, cost: u64) {
        self.settle(quota, now);
        match self {
            Self::Unused => {}
            Self::One(count) if count.units > cost => count.units -= cost,
            Self::One(_) => *self = Self::Unused,
            Self::Many(counts) => {
                let mut left = cost;
                while let Some(oldest) = counts.slots.front_mut() {
                    let back = oldest.units.min(left);
                    oldest.units -= back;
                    counts.used -= back;
                    left -= back;
                    if oldest.units > 0 {
                        break;
                    }
                    counts.slots.pop_front();
                }
            }
        }
    }

    pub(crate) fn is_idle(&self, now: u64) -> bool {
        self.whole_at() <= now
    }

    /// The memory that is this window's own, in bytes.
    pub(crate) fn heap(&self) -> usize {
        match self {
            Self::Many(counts) => {
                size_of::<Counts>() + counts.slots.capacity() * size_of::<Count>()
            }
            _ => 0,
        }
    }

    fn used(&self) -> u64 {
        match self {
            Self::Unused => 0,
            Self::One(count) => count.units,
            Self::Many(counts) => counts.used,
        }
    }

    /// When the last of what was used is forgotten.
    fn whole_at(&self) -> u64 {
        let last = match self {
            Self::Unused => None,
            Self::One(count) => Some(count),
            Self::Many(counts) => counts.slots.back(),
        };
        last.map_or(0, |last| last.forgotten)
    }

    fn last(&mut self) -> Option<&mut Count> {
        match self {
            Self::Unused => None,
            Self::One(count) => Some(count),
            Self::Many(counts) => counts.slots.back_mut(),
        }
    }

    /// Drops what no window that ends now reaches to. After a step of the clock backwards, what
    /// seems to be used in the future is taken to be used now; not for a thread that was held up, or what
    /// was used meanwhile would be forgotten too early.
    fn settle(&mut self, quota: WindowQuota, now: u64) {
        match self {
            Self::Unused => {}
            Self::One(count) => {
                if count.forgotten > now + quota.longest() + HELD_UP {
                    count.forgotten = now + quota.longest();
                }
                if count.forgotten <= now {
                    *self = Self::Unused;
                }
            }
            Self::Many(counts) => counts.settle(quota, now),
        }
    }
}

impl Counts {
    fn settle(&mut self, quota: WindowQuota, now: u64) {
        while let Some(oldest) = self.slots.front()
            && oldest.forgotten <= now
        {
            self.used = self.used.saturating_sub(oldest.units);
            self.slots.pop_front();
        }
        // Neighbours that are brought to the same instant become one.
        let latest = now + quota.longest();
        while let Some(last) = self.slots.back().copied()
            && last.forgotten > latest + HELD_UP
        {
            self.slots.pop_back();
            match self.slots.back_mut() {
                Some(before) if before.forgotten >= latest => before.units += last.units,
                _ => self.slots.push_back(Count {
                    forgotten: latest,
                    ..last
                }),
            }
        }
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.forgotten = self.forgotten.max(other.forgotten);
        self.units = self.units.saturating_add(other.units);
    }
}
