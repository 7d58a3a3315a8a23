//! The `window` shape: never more than the limit in *any* window of its length.
//!
//! Uses are counted by slots of 1/60 of the window. The units of a slot are forgotten one period
//! after the *last* use in it. So no half-open window of exactly the period can miss a use; each
//! use is held against the caller for at most one slot longer than it must be; and nobody waits for
//! longer than the period, since the last use is not after the denial.
//!
//! Instants are those of the monotonic clock. One that is behind the last use is that of a thread
//! that was held up: it counts as the last use, so that nothing is forgotten too early.

use std::collections::VecDeque;

use crate::limit::instant::Left;
use crate::limit::refund::Taken;

/// Slots in a window.
pub(crate) const SLOTS: u64 = 60;

/// At most `limit` units in any `period`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowQuota {
    pub(crate) period: u64,
    pub(crate) limit: u64,
}

impl WindowQuota {
    /// The length of a slot, of so many that there is memory for. One of them is still held while
    /// the others are filled, so the fewest that never grow together are two.
    const fn slot(self, most: u64) -> u64 {
        if most >= SLOTS {
            return self.period.div_ceil(SLOTS);
        }
        self.period.div_ceil(if most > 2 { most - 1 } else { 1 })
    }

    /// The unit of [`Slot::lasted`]: such that a whole period can be told, and so little that
    /// rounding does not matter.
    const fn tick(self) -> u64 {
        (self.period >> 31) + 1
    }
}

/// Units used, by slot. Most callers use few slots; one needs no memory of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Window {
    #[default]
    Unused,
    One(Slot),
    Many(Box<Slots>),
}

/// The units of one slot. It begins with the first use, so uses close together are never split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// When they are forgotten: one period after the last of them was used.
    over_at: u64,
    units: u64,
    /// For how long the slot had lasted at the last use, in [ticks](WindowQuota::tick).
    lasted: u32,
    spare: Spare,
}

/// A byte with one value. The compiler tells the variants of `Window` and `State` apart by its
/// other values, so that a budget takes 24 bytes and not 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum Spare {
    #[default]
    Here,
}

/// Several slots, oldest first, and the sum of their units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slots {
    used: u64,
    slots: VecDeque<Slot>,
}

impl Window {
    #[inline(never)]
    pub(crate) fn wait(&mut self, quota: WindowQuota, now: u64, cost: u64) -> Option<u64> {
        self.forget(now);
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
                let enough = slots.slots.iter().find(|slot| {
                    freed = freed.saturating_add(slot.units);
                    freed >= needed
                });
                enough.map(|slot| slot.time_left(quota, now))
            }
        }
    }

    #[inline(never)]
    pub(crate) fn left(&self, quota: WindowQuota, now: u64) -> Left {
        Left {
            spare: quota.limit.saturating_sub(self.used()),
            unit: 1,
            whole_in: self.newest().map_or(0, |slot| slot.time_left(quota, now)),
        }
    }

    /// `most` is how many slots there is memory for. With fewer than sixty they are longer, and
    /// units count for up to one slot longer than they must, never shorter. With one, it goes on
    /// while it is used.
    #[inline(never)]
    pub(crate) fn take(&mut self, quota: WindowQuota, now: u64, cost: u64, most: u64) {
        self.forget(now);
        self.merge(quota, most);
        let may_grow = most > 1;
        if self.used() == 0 {
            *self = Self::Unused; // gives back the memory of its slots
        }
        let new = Slot {
            over_at: now + quota.period,
            units: cost,
            lasted: 0,
            spare: Spare::Here,
        };
        match self {
            Self::Unused => *self = Self::One(new),
            Self::One(newest) if newest.goes_on(quota, now, most) || !may_grow => {
                newest.add(quota, now, cost);
            }
            Self::One(oldest) => {
                *self = Self::Many(Box::new(Slots {
                    used: oldest.units.saturating_add(cost),
                    slots: VecDeque::from([*oldest, new]),
                }));
            }
            Self::Many(slots) => {
                slots.used = slots.used.saturating_add(cost);
                match slots.slots.back_mut() {
                    Some(newest) if newest.goes_on(quota, now, most) || !may_grow => {
                        newest.add(quota, now, cost);
                    }
                    _ => slots.slots.push_back(new),
                }
            }
        }
    }

    /// Gives back units of the slot that a charge is in. Where there are too few, others have given
    /// them back, and those of the next slots go instead: what is left counts longer than it must,
    /// never shorter.
    pub(crate) fn refund(&mut self, quota: WindowQuota, now: u64, units: u64, taken: Taken) {
        self.forget(now);
        let may_hold =
            |slot: &Slot| slot.over_at >= taken.at.monotonic.saturating_add(quota.period);
        match self {
            Self::One(slot) if may_hold(slot) => slot.units = slot.units.saturating_sub(units),
            Self::Unused | Self::One(_) => {}
            Self::Many(slots) => {
                let mut left = units;
                for slot in slots.slots.iter_mut().filter(|slot| may_hold(slot)) {
                    let back = slot.units.min(left);
                    slot.units -= back;
                    slots.used -= back;
                    left -= back;
                }
            }
        }
        self.drop_empty();
    }

    /// Drops the newest slots if they are empty, so that the budget is whole when it says so.
    fn drop_empty(&mut self) {
        match self {
            Self::One(slot) if slot.units == 0 => *self = Self::Unused,
            Self::Unused | Self::One(_) => {}
            Self::Many(slots) => {
                while let Some(newest) = slots.slots.back()
                    && newest.units == 0
                {
                    slots.slots.pop_back();
                }
            }
        }
    }

    /// Merges slots until there are no more than there is memory for: those go together that would
    /// have been one, if slots had been as long from the start.
    pub(crate) fn merge(&mut self, quota: WindowQuota, most: u64) {
        let Self::Many(slots) = self else {
            return;
        };
        if slots.slots.len() as u64 <= most {
            return;
        }
        let mut merged: VecDeque<Slot> = VecDeque::new();
        for slot in slots.slots.drain(..) {
            let is_last = merged.len() as u64 >= most;
            match merged.back_mut() {
                Some(last)
                    if most == 1
                        || slot.over_at.saturating_sub(last.begins(quota)) < quota.slot(most)
                        || is_last =>
                {
                    let lasted = slot.over_at.saturating_sub(last.begins(quota));
                    let lasted = lasted.div_ceil(quota.tick());
                    last.lasted = u32::try_from(lasted).unwrap_or(u32::MAX);
                    last.over_at = slot.over_at;
                    last.units = last.units.saturating_add(slot.units);
                }
                _ => merged.push_back(slot),
            }
        }
        merged.shrink_to_fit();
        slots.slots = merged;
        if let [only] = slots.slots.make_contiguous() {
            *self = Self::One(*only);
        }
    }

    pub(crate) fn is_idle(&self, now: u64) -> bool {
        self.newest().is_none_or(|slot| slot.over_at <= now)
    }

    /// The memory that is this window's own, in bytes.
    pub(crate) fn heap(&self) -> usize {
        match self {
            Self::Many(slots) => size_of::<Slots>() + slots.slots.capacity() * size_of::<Slot>(),
            _ => 0,
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
            Self::Many(slots) => slots.slots.back(),
        }
    }

    /// Forgets the slots whose last use is a period ago.
    fn forget(&mut self, now: u64) {
        match self {
            Self::Unused => {}
            Self::One(slot) => {
                if slot.over_at <= now {
                    *self = Self::Unused;
                }
            }
            Self::Many(slots) => {
                while let Some(oldest) = slots.slots.front()
                    && oldest.over_at <= now
                {
                    slots.used = slots.used.saturating_sub(oldest.units);
                    slots.slots.pop_front();
                }
            }
        }
    }
}

impl Slot {
    /// In what time it is forgotten: a period at most, also for a thread that was held up.
    fn time_left(&self, quota: WindowQuota, now: u64) -> u64 {
        self.over_at.saturating_sub(now).min(quota.period)
    }

    /// Whether it has not lasted for its length yet.
    const fn goes_on(&self, quota: WindowQuota, now: u64, most: u64) -> bool {
        self.lasts(quota, now) < quota.slot(most)
    }

    /// When its first units were used, in time since a period before that.
    fn begins(&self, quota: WindowQuota) -> u64 {
        let lasted = u64::from(self.lasted).saturating_mul(quota.tick());
        self.over_at.saturating_sub(lasted)
    }

    /// For how long it has lasted. An instant before the last use counts as the last use.
    const fn lasts(&self, quota: WindowQuota, now: u64) -> u64 {
        let since_last = now.saturating_sub(self.over_at.saturating_sub(quota.period));
        (self.lasted as u64 * quota.tick()).saturating_add(since_last)
    }

    fn add(&mut self, quota: WindowQuota, now: u64, units: u64) {
        // Rounded up, so that a slot also ends whose uses are nearer to each other than a tick.
        let ticks = self.lasts(quota, now).div_ceil(quota.tick());
        self.lasted = u32::try_from(ticks).unwrap_or(u32::MAX);
        self.over_at = self.over_at.max(now + quota.period);
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

    /// With few slots, units count for up to one slot longer: for a whole period with two.
    #[test]
    fn steady_use_within_what_the_slots_can_tell_is_never_denied() {
        for (most, uses) in [(60, 59), (8, 52), (2, 30)] {
            let mut window = Window::default();
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
        /// Whatever memory there is from one moment to the next.
        #[test]
        fn no_window_has_more_than_the_limit_however_slots_are_merged(
            uses in proptest::collection::vec((0..8_000_000_000u64, 1..9u64, 0..4usize), 1..300),
        ) {
            let mut window = Window::default();
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
            // Nothing is held for ever.
            prop_assert_eq!(window.wait(MINUTE, now + 2 * MINUTE.period, 60), Some(0));
        }
    }
}
