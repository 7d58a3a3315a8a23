//! The `rate` shape: GCRA (the generic cell rate algorithm), in nanoseconds of the monotonic clock.
//!
//! The state is the *theoretical arrival time* (TAT): the instant at which the budget is full
//! again. The time until then is the used units times the interval. In any time `t`, the admitted
//! units are at most `burst + t / interval`.

use crate::limit::instant::Remaining;
use crate::limit::refund::Taken;
use crate::limit::refund_note::RefundNote;
use crate::limit::verdict::BudgetStatus;

/// A quota of `burst` units. One unit is refilled each `interval`, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateQuota {
    pub(crate) interval: u64,
    pub(crate) burst: u64,
}

impl RateQuota {
    /// Returns the time in which an empty budget is refilled. The constructor of a quota keeps it
    /// at 400 days or less.
    #[inline]
    const fn capacity(self) -> u64 {
        self.interval * self.burst
    }
}

/// The state of a rate budget.
///
/// Packed, so that a budget of any shape takes 24 bytes and not 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(Rust, packed(4))]
pub(crate) struct Gcra {
    /// The theoretical arrival time: the instant at which the budget is full again.
    full_at: u64,
    /// The interval that `full_at` was computed with.
    interval: u64,
    /// The units that were refunded of charges with later charges behind them. The later charges
    /// stop counting earlier, by that many intervals, than their callers were told. The number
    /// wraps around, and jumps by half of its range when the interval changes.
    early_refunds: u32,
}

/// The jump of `early_refunds` for a change of the interval. Charges from before the change are
/// recognized by it, and not refunded.
const ANOTHER_INTERVAL: u32 = 1 << 31;

impl Gcra {
    /// Decides a charge, and takes it if it is admissible.
    #[inline]
    pub(crate) fn decide(&mut self, quota: RateQuota, now: u64, cost: u64) -> BudgetStatus {
        let wait = self.wait(quota, now, cost);
        if wait == Some(0) && cost > 0 {
            self.take(quota, now, cost);
        }
        BudgetStatus::of(self.remaining(quota, now), wait).with_refund_note(self.refund_note())
    }

    #[inline]
    pub(crate) fn wait(self, quota: RateQuota, now: u64, cost: u64) -> Option<u64> {
        let used = self.used(quota, now);
        // At most the capacity, so it cannot overflow.
        let asked = (cost <= quota.burst).then_some(cost)? * quota.interval;
        if asked == 0 {
            return Some(0);
        }
        let wait = (used + asked).saturating_sub(quota.capacity());
        // After a delayed thread or a lowered burst, more than the capacity may be used. No wait is
        // longer than the period even then.
        Some(wait.min(quota.capacity()))
    }

    #[inline]
    pub(crate) fn remaining(self, quota: RateQuota, now: u64) -> Remaining {
        let used = self.used(quota, now).min(quota.capacity());
        Remaining {
            units: (quota.capacity() - used) / quota.interval,
            full_in: used,
        }
    }

    /// Takes units without a check, also beyond the burst: up to twice the burst is counted.
    #[inline]
    pub(crate) fn take(&mut self, quota: RateQuota, now: u64, cost: u64) {
        let used = self.used(quota, now);
        if self.interval != quota.interval {
            self.interval = quota.interval;
            self.early_refunds = { self.early_refunds }.wrapping_add(ANOTHER_INTERVAL);
        }
        let taken = used + cost.min(quota.burst) * quota.interval;
        // A delayed thread comes with an earlier instant, at which more than that may be used. No
        // use is dropped then.
        self.full_at = now + taken.min(used.max(2 * quota.capacity()));
    }

    /// Refunds the units of a charge that have not been refilled yet. Units are refilled in the
    /// order in which they were used.
    ///
    /// A charge is refilled completely at the time at which its budget was to be full, or earlier
    /// by the refunds of charges before it. Its refill begins at its own instant at the earliest.
    pub(crate) fn refund(&mut self, quota: RateQuota, now: u64, units: u64, taken: Taken) {
        let early_refunds = { self.early_refunds }.wrapping_sub(taken.refund_note.early_refunds);
        if self.interval != quota.interval || early_refunds >= ANOTHER_INTERVAL {
            return;
        }
        let until = taken.counts_until();
        let until = until.saturating_sub(u64::from(early_refunds).saturating_mul(quota.interval));
        let own = taken.cost.min(quota.burst) * quota.interval;
        let at_soonest = own.saturating_sub(now.saturating_sub(taken.at.monotonic));
        let counts = until.saturating_sub(now).min(own).max(at_soonest);
        let before = taken.before.saturating_mul(quota.interval);
        let back = units
            .saturating_mul(quota.interval)
            .min(counts.saturating_sub(before));
        let is_last = until == { self.full_at } + before.min(own);
        let used = self.used(quota, now);
        self.full_at = now + used.saturating_sub(back);
        if !is_last && back > 0 {
            let early = u32::try_from(back.div_ceil(quota.interval)).unwrap_or(u32::MAX);
            // Half of the range, which is far more than any burst: charges from before are not
            // refunded any more.
            let early = early.min(ANOTHER_INTERVAL);
            self.early_refunds = { self.early_refunds }.wrapping_add(early);
        }
    }

    pub(crate) fn is_idle(self, now: u64) -> bool {
        self.full_at <= now
    }

    /// Returns the note that a later refund of a charge needs.
    #[inline]
    pub(crate) fn refund_note(self) -> RefundNote {
        RefundNote {
            early_refunds: self.early_refunds,
            ..RefundNote::default()
        }
    }

    /// Returns the used part of the budget, in nanoseconds of refill. After the burst was lowered,
    /// it may exceed the capacity.
    #[inline]
    fn used(self, quota: RateQuota, now: u64) -> u64 {
        let used = { self.full_at }.saturating_sub(now);
        if self.interval == quota.interval {
            return used;
        }
        self.converted(quota, used)
    }

    /// Converts the used time to another interval of the quota, rounded up. The used units stay the
    /// same.
    #[cold]
    fn converted(self, quota: RateQuota, used: u64) -> u64 {
        /// 36 years, far from overflow.
        const MOST: u128 = u64::MAX as u128 / 16;
        let used = u128::from(used) * u128::from(quota.interval);
        let used = used
            .div_ceil(u128::from({ self.interval }.max(1)))
            .min(MOST);
        u64::try_from(used).unwrap_or_default()
    }
}
