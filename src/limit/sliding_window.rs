//! The `window` shape, a sliding window: at most `limit` units in *any* window of its length.
//!
//! Uses are counted in slots of 1/60 of the window. A slot expires one period after the *last* use
//! in it. So no half-open window of exactly the period can miss a use, each use counts for at most
//! one slot longer than it must, and no wait is longer than the period.
//!
//! Instants are those of the monotonic clock. An instant before the last use is that of a delayed
//! thread. It counts as the last use, so that no slot expires too early.

use std::collections::VecDeque;
use std::mem;

use crate::limit::instant::Remaining;
use crate::limit::refund::Taken;

/// The number of slots in a window.
pub(crate) const SLOTS: u64 = 60;

/// At most `limit` units in any `period`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowQuota {
    pub(crate) period: u64,
    pub(crate) limit: u64,
}

impl WindowQuota {
    /// Returns the length of a slot if there is memory for `most` slots. The oldest slot still
    /// counts while the others are filled, so at least two are needed to keep recent and old uses
    /// apart.
    const fn slot(self, most: u64) -> u64 {
        if most >= SLOTS {
            return self.period.div_ceil(SLOTS);
        }
        self.period.div_ceil(if most > 2 { most - 1 } else { 1 })
    }

    /// Returns the unit of [`Slot::lasted`], in nanoseconds. A period has at most 31 bits in this
    /// unit, and the rounding error is negligible.
    const fn tick(self) -> u64 {
        (self.period >> 31) + 1
    }
}

/// The units that were used in the last period, by slot. Most callers use few slots, and a single
/// slot needs no heap memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum SlidingWindow {
    #[default]
    Unused,
    One(Slot),
    Many(Box<Slots>),
}

/// The units of one slot. A slot begins with its first use, so uses close together are never split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The instant at which the slot expires: one period after its last use.
    expires_at: u64,
    units: u64,
    /// The time from the first use to the last, in [ticks](WindowQuota::tick).
    lasted: u32,
    spare: Spare,
}

/// A byte with one valid value. The compiler stores the variants of `SlidingWindow` and
/// `BudgetState` in the invalid values (a niche), so that a budget takes 24 bytes and not 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum Spare {
    #[default]
    Here,
}

/// Several slots. The fields that a charge to the newest slot reads are in one cache line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Slots {
    /// The units of all slots.
    used: u64,
    /// The instant at which the oldest slot expires.
    oldest_expires_at: u64,
    newest: Slot,
    /// The other slots, oldest first.
    older: VecDeque<Slot>,
}

impl Slots {
    /// Creates two slots.
    fn new(oldest: Slot, newest: Slot) -> Self {
        Self {
            used: oldest.units.saturating_add(newest.units),
            oldest_expires_at: oldest.expires_at,
            newest,
            older: VecDeque::from([oldest]),
        }
    }

    /// Returns all slots, oldest first.
    fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.older.iter().chain([&self.newest])
    }

    fn len(&self) -> u64 {
        self.older.len() as u64 + 1
    }

    fn push(&mut self, slot: Slot) {
        self.used = self.used.saturating_add(slot.units);
        self.older.push_back(mem::replace(&mut self.newest, slot));
    }

    /// Drops the expired slots except the newest. Returns the newest slot if no other remains.
    fn expire(&mut self, now: u64) -> Option<Slot> {
        while let Some(oldest) = self.older.front() {
            if oldest.expires_at > now {
                self.oldest_expires_at = oldest.expires_at;
                return None;
            }
            self.used = self.used.saturating_sub(oldest.units);
            self.older.pop_front();
        }
        Some(self.newest)
    }
}

impl SlidingWindow {
    /// Takes a charge in one step, if it is admissible, fits into the newest slot, and no slot has
    /// expired. Nearly all charges of a window in use do. Returns `None` if [`wait`](Self::wait)
    /// and [`take`](Self::take) must decide.
    #[inline]
    pub(crate) fn take_in_newest(
        &mut self,
        quota: WindowQuota,
        now: u64,
        cost: u64,
    ) -> Option<Remaining> {
        let (used, oldest_expires_at, newest) = match self {
            Self::Unused => return None,
            Self::One(slot) => (slot.units, slot.expires_at, slot),
            Self::Many(slots) => (slots.used, slots.oldest_expires_at, &mut slots.newest),
        };
        let used = used.checked_add(cost)?;
        if cost == 0 || used > quota.limit || oldest_expires_at <= now {
            return None;
        }
        if !newest.goes_on(quota, now, SLOTS) {
            return None;
        }
        newest.add(quota, now, cost);
        let full_in = newest.time_left(quota, now);
        if let Self::Many(slots) = self {
            slots.used = used;
        }
        Some(Remaining {
            units: quota.limit - used,
            full_in,
        })
    }

    /// Drops expired slots. Returns the time until a cost is admissible, in nanoseconds: 0 if it is
    /// admissible now, `None` if it exceeds the limit.
    #[inline(never)]
    pub(crate) fn wait(&mut self, quota: WindowQuota, now: u64, cost: u64) -> Option<u64> {
        self.expire(now);
        if cost > quota.limit {
            return None;
        }
        let needed = self.used().saturating_add(cost).saturating_sub(quota.limit);
        match self {
            _ if needed == 0 => Some(0),
            Self::Unused => None,
            Self::One(slot) => Some(slot.time_left(quota, now)),
            Self::Many(slots) => {
                let mut freed: u64 = 0;
                let enough = slots.iter().find(|slot| {
                    freed = freed.saturating_add(slot.units);
                    freed >= needed
                });
                enough.map(|slot| slot.time_left(quota, now))
            }
        }
    }

    #[inline(never)]
    pub(crate) fn remaining(&self, quota: WindowQuota, now: u64) -> Remaining {
        Remaining {
            units: quota.limit.saturating_sub(self.used()),
            full_in: self.newest().map_or(0, |slot| slot.time_left(quota, now)),
        }
    }

    /// Takes units, in at most `most` slots, as memory allows.
    ///
    /// With fewer than sixty slots, the slots are longer, and units count for up to one slot longer
    /// than they must, never shorter. A single slot has no maximum length: its units count until a
    /// period passes without a use.
    #[inline(never)]
    pub(crate) fn take(&mut self, quota: WindowQuota, now: u64, cost: u64, most: u64) {
        self.expire(now);
        // Uses within a tick end a slot early, so there may be more than a window has room for.
        if most < SLOTS || self.len() > 4 * SLOTS {
            self.merge(quota, most);
        }
        let may_grow = most > 1;
        if self.used() == 0 {
            *self = Self::Unused; // frees the memory of its slots
        }
        let new = Slot {
            expires_at: now + quota.period,
            units: cost,
            lasted: 0,
            spare: Spare::Here,
        };
        match self {
            Self::Unused => *self = Self::One(new),
            Self::One(newest) if newest.goes_on(quota, now, most) || !may_grow => {
                newest.add(quota, now, cost);
            }
            Self::One(oldest) => *self = Self::Many(Box::new(Slots::new(*oldest, new))),
            Self::Many(slots) if slots.newest.goes_on(quota, now, most) || !may_grow => {
                slots.used = slots.used.saturating_add(cost);
                slots.newest.add(quota, now, cost);
            }
            Self::Many(slots) => slots.push(new),
        }
    }

    /// Refunds units to the slot of a charge, or to the next slots if that slot has too few units,
    /// since other refunds took them. The remaining units then count longer than they must, never
    /// shorter.
    pub(crate) fn refund(&mut self, quota: WindowQuota, now: u64, units: u64, taken: Taken) {
        self.expire(now);
        let may_contain =
            |slot: &Slot| slot.expires_at >= taken.at.monotonic.saturating_add(quota.period);
        match self {
            Self::One(slot) if may_contain(slot) => slot.units = slot.units.saturating_sub(units),
            Self::Unused | Self::One(_) => {}
            Self::Many(slots) => {
                let slots = &mut **slots;
                let mut unrefunded = units;
                let all = slots.older.iter_mut().chain([&mut slots.newest]);
                for slot in all.filter(|slot| may_contain(slot)) {
                    let back = slot.units.min(unrefunded);
                    slot.units -= back;
                    slots.used -= back;
                    unrefunded -= back;
                }
            }
        }
        self.drop_empty();
    }

    /// Drops the newest slots if they are empty. They would delay the instant at which the budget
    /// is full.
    fn drop_empty(&mut self) {
        if let Self::Many(slots) = self {
            while slots.newest.units == 0
                && let Some(newest) = slots.older.pop_back()
            {
                // It had a successor, and so does not go on.
                slots.newest = Slot {
                    lasted: u32::MAX,
                    ..newest
                };
            }
            if slots.older.is_empty() {
                *self = Self::One(slots.newest);
            }
        }
        if let Self::One(slot) = self
            && slot.units == 0
        {
            *self = Self::Unused;
        }
    }

    /// Merges slots until there are at most `most`. Slots are merged if one slot of the new length
    /// would have covered them.
    pub(crate) fn merge(&mut self, quota: WindowQuota, most: u64) {
        let Self::Many(slots) = self else {
            return;
        };
        if slots.len() <= most {
            return;
        }
        let mut merged: VecDeque<Slot> = VecDeque::new();
        for slot in slots.iter() {
            let is_last = merged.len() as u64 >= most;
            match merged.back_mut() {
                Some(last)
                    if most == 1
                        || slot.expires_at.saturating_sub(last.begins(quota))
                            < quota.slot(most)
                        || is_last =>
                {
                    let lasted = slot.expires_at.saturating_sub(last.begins(quota));
                    let lasted = lasted.div_ceil(quota.tick());
                    last.lasted = u32::try_from(lasted).unwrap_or(u32::MAX);
                    last.expires_at = slot.expires_at;
                    last.units = last.units.saturating_add(slot.units);
                }
                _ => merged.push_back(*slot),
            }
        }
        let Some(newest) = merged.pop_back() else {
            return;
        };
        let Some(oldest) = merged.front() else {
            *self = Self::One(newest);
            return;
        };
        slots.oldest_expires_at = oldest.expires_at;
        slots.newest = newest;
        merged.shrink_to_fit();
        slots.older = merged;
    }

    pub(crate) fn is_idle(&self, now: u64) -> bool {
        self.newest().is_none_or(|slot| slot.expires_at <= now)
    }

    /// Returns the heap memory of the window, in bytes.
    pub(crate) fn heap(&self) -> usize {
        match self {
            Self::Many(slots) => size_of::<Slots>() + slots.older.capacity() * size_of::<Slot>(),
            _ => 0,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Unused => 0,
            Self::One(_) => 1,
            Self::Many(slots) => slots.len(),
        }
    }

    fn used(&self) -> u64 {
        match self {
            Self::Unused => 0,
            Self::One(slot) => slot.units,
            Self::Many(slots) => slots.used,
        }
    }

    fn newest(&self) -> Option<&Slot> {
        match self {
            Self::Unused => None,
            Self::One(slot) => Some(slot),
            Self::Many(slots) => Some(&slots.newest),
        }
    }

    /// Drops the expired slots.
    fn expire(&mut self, now: u64) {
        if let Self::Many(slots) = self
            && let Some(newest) = slots.expire(now)
        {
            *self = Self::One(newest);
        }
        if let Self::One(slot) = self
            && slot.expires_at <= now
        {
            *self = Self::Unused;
        }
    }
}

impl Slot {
    /// Returns the time until the slot expires: at most a period, even for a delayed thread.
    fn time_left(&self, quota: WindowQuota, now: u64) -> u64 {
        self.expires_at.saturating_sub(now).min(quota.period)
    }

    /// Returns whether a use now belongs to this slot: the length of a slot has not passed since
    /// its first use.
    const fn goes_on(&self, quota: WindowQuota, now: u64, most: u64) -> bool {
        self.lasts(quota, now) < quota.slot(most)
    }

    /// Returns the instant at which the units of the first use would expire on their own.
    fn begins(&self, quota: WindowQuota) -> u64 {
        let lasted = u64::from(self.lasted).saturating_mul(quota.tick());
        self.expires_at.saturating_sub(lasted)
    }

    /// Returns the time since the first use. An instant before the last use counts as the last use.
    const fn lasts(&self, quota: WindowQuota, now: u64) -> u64 {
        let since_last = now.saturating_sub(self.expires_at.saturating_sub(quota.period));
        (self.lasted as u64 * quota.tick()).saturating_add(since_last)
    }

    fn add(&mut self, quota: WindowQuota, now: u64, units: u64) {
        // Rounded up, so that a slot also ends if its uses are less than a tick apart.
        let ticks = self.lasts(quota, now).div_ceil(quota.tick());
        self.lasted = u32::try_from(ticks).unwrap_or(u32::MAX);
        self.expires_at = self.expires_at.max(now + quota.period);
        self.units = self.units.saturating_add(units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: WindowQuota = WindowQuota {
        period: 60_000_000_000,
        limit: 60,
    };

    /// With few slots, units count for up to one slot longer: a whole period with two slots.
    #[test]
    fn steady_use_within_what_the_slots_can_tell_is_never_denied() {
        for (most, uses) in [(60, 59), (8, 52), (2, 30)] {
            let mut window = SlidingWindow::default();
            for nth in 0..1_000 {
                let now = nth * MINUTE.period / uses;
                assert_eq!(
                    window.wait(MINUTE, now, 1),
                    Some(0),
                    "{most} slots, use {nth}"
                );
                window.take(MINUTE, now, 1, most);
            }
        }
    }

    proptest! {
        /// The memory for slots changes from one use to the next.
        #[test]
        fn no_window_has_more_than_the_limit_however_slots_are_merged(
            uses in proptest::collection::vec((0..8_000_000_000u64, 1..9u64, 0..4usize), 1..300),
        ) {
            let mut window = SlidingWindow::default();
            let mut taken: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (pause, cost, memory) in uses {
                now += pause;
                if window.wait(MINUTE, now, cost) == Some(0) {
                    window.take(MINUTE, now, cost, [1, 2, 8, 60][memory]);
                    taken.push((now, cost));
                    let recent = taken.iter().filter(|(at, _)| at + MINUTE.period > now);
                    prop_assert!(recent.map(|(_, cost)| cost).sum::<u64>() <= MINUTE.limit);
                }
            }
            // All units expire in the end.
            prop_assert_eq!(window.wait(MINUTE, now + 2 * MINUTE.period, 60), Some(0));
        }
    }
}
