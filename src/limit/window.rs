//! The `window` shape: never more than the limit in *any* window of its length.
//!
//! Time is cut into slots of 1/60 of the window. Units are counted by slot, and count for as long as
//! any window that ends now could reach into their slot: the current slot and the sixty before it.
//! So none is forgotten too early, and each is held against the caller for at most one slot longer
//! than it must be.

use crate::limit::state::Left;

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
}

/// Units used, by slot, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Window {
    /// The length of the slots that the counts are in.
    slot: u64,
    counts: Counts,
}

/// Most callers use few slots; one needs no memory of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Counts {
    #[default]
    None,
    One(Count),
    Many(Vec<Count>),
}

/// So many units in a slot, which is numbered from 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    slot: u64,
    units: u64,
}

impl Window {
    pub(crate) fn wait(&mut self, quota: WindowQuota, now: u64, cost: u64) -> Option<u64> {
        self.settle(quota, now);
        if cost > quota.limit {
            return None;
        }
        let needed = self.used().saturating_add(cost).saturating_sub(quota.limit);
        if needed == 0 {
            return Some(0);
        }
        let mut freed: u64 = 0;
        let enough = self.all().iter().find(|count| {
            freed = freed.saturating_add(count.units);
            freed >= needed
        });
        enough.map(|count| self.forgotten_in(count, now))
    }

    pub(crate) fn left(&self, quota: WindowQuota, now: u64) -> Left {
        let last = self.all().last();
        Left {
            remaining: quota.limit.saturating_sub(self.used()),
            whole_in: last.map_or(0, |last| self.forgotten_in(last, now)),
        }
    }

    fn used(&self) -> u64 {
        self.all().iter().map(|count| count.units).sum()
    }

    /// A count is forgotten when sixty whole slots have passed since its own.
    fn forgotten_in(&self, count: &Count, now: u64) -> u64 {
        (count.slot + SLOTS + 1) * self.slot - now
    }

    /// `may_grow` is whether there is memory for one more slot; without it, older units are counted
    /// into the newest slot: longer than they must be, never shorter.
    pub(crate) fn take(&mut self, quota: WindowQuota, now: u64, cost: u64, may_grow: bool) {
        self.settle(quota, now);
        let new = Count {
            slot: now / quota.slot(),
            units: cost,
        };
        let counts = &mut self.counts;
        match counts {
            Counts::None => *counts = Counts::One(new),
            Counts::One(last) if last.slot == new.slot || !may_grow => last.add(new),
            Counts::One(last) => *counts = Counts::Many(vec![*last, new]),
            Counts::Many(all) => match all.last_mut() {
                Some(last) if last.slot == new.slot || !may_grow => last.add(new),
                _ => all.push(new),
            },
        }
    }

    /// Gives back the oldest units first: if others were meant, what is left counts longer than it
    /// must, never shorter.
    pub(crate) fn refund(&mut self, quota: WindowQuota, now: u64, cost: u64) {
        self.settle(quota, now);
        let mut left = cost;
        let counts = match &mut self.counts {
            Counts::None => &mut [],
            Counts::One(count) => std::slice::from_mut(count),
            Counts::Many(all) => all.as_mut_slice(),
        };
        for count in counts {
            let back = count.units.min(left);
            count.units -= back;
            left -= back;
        }
        self.drop_counts(|count| count.units == 0);
    }

    pub(crate) fn is_idle(&self, now: u64) -> bool {
        let last = self.all().last();
        last.is_none_or(|last| (last.slot + SLOTS + 1).saturating_mul(self.slot) <= now)
    }

    /// The memory that is this window's own, in bytes.
    pub(crate) fn heap(&self) -> usize {
        match &self.counts {
            Counts::Many(all) => all.capacity() * size_of::<Count>(),
            _ => 0,
        }
    }

    fn all(&self) -> &[Count] {
        match &self.counts {
            Counts::None => &[],
            Counts::One(count) => std::slice::from_ref(count),
            Counts::Many(all) => all,
        }
    }

    /// Puts all counts into the slots of this quota, drops those that no window which ends now
    /// reaches into, and, after a step of the clock backwards, brings what seems to be in the
    /// future to now.
    fn settle(&mut self, quota: WindowQuota, now: u64) {
        let current = now / quota.slot();
        let (from, to) = (self.slot, quota.slot());
        self.slot = to;
        if from != to && from != 0 {
            self.for_each(|count| *count = count.in_slots_of(from, to));
            self.merge();
        }
        self.drop_counts(|count| count.slot + SLOTS < current);
        if self.all().last().is_some_and(|last| last.slot > current) {
            self.for_each(|count| count.slot = count.slot.min(current));
            self.merge();
        }
    }

    fn for_each(&mut self, change: impl FnMut(&mut Count)) {
        match &mut self.counts {
            Counts::None => {}
            Counts::One(count) => std::slice::from_mut(count).iter_mut().for_each(change),
            Counts::Many(all) => all.iter_mut().for_each(change),
        }
    }

    fn drop_counts(&mut self, is_over: impl Fn(&Count) -> bool) {
        match &mut self.counts {
            Counts::One(count) if is_over(count) => self.counts = Counts::None,
            Counts::None | Counts::One(_) => {}
            Counts::Many(all) => all.retain(|count| !is_over(count)),
        }
    }

    /// Neighbours of one slot become one count.
    fn merge(&mut self) {
        if let Counts::Many(all) = &mut self.counts {
            all.dedup_by(|next, kept| {
                let same = next.slot == kept.slot;
                if same {
                    kept.add(*next);
                }
                same
            });
        }
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.slot = self.slot.max(other.slot);
        self.units = self.units.saturating_add(other.units);
    }

    /// The same units in slots of another length: in the one in which the old slot ends.
    fn in_slots_of(self, from: u64, to: u64) -> Self {
        let end = (self.slot + 1).saturating_mul(from).saturating_sub(1);
        Self {
            slot: end / to,
            ..self
        }
    }
}
