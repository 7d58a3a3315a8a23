//! The `rate` shape: GCRA, in whole nanoseconds of the monotonic clock.
//!
//! The state is the *theoretical arrival time*: the instant at which the budget is whole again. Its
//! distance from now is what has been used. In any time `t`, no more than `burst + t / interval`
//! units are admitted.

use crate::key::quota::{Quota, Shape};
use crate::limit::instant::Left;
use crate::limit::ledger::Ledger;
use crate::limit::refund::Taken;
use crate::limit::verdict::BudgetStatus;

/// A budget of `burst` units, of which one comes back each `interval`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateQuota {
    pub(crate) interval: u64,
    pub(crate) burst: u64,
}

impl RateQuota {
    /// `None` if the quota is of another shape.
    #[inline]
    pub(crate) const fn of(quota: &Quota) -> Option<Self> {
        match quota.form() {
            Shape::Rate { interval } => Some(Self {
                interval,
                burst: quota.limit(),
            }),
            _ => None,
        }
    }

    /// How far ahead of now the state may be. A quota's constructor keeps it below 400 days.
    #[inline]
    const fn capacity(self) -> u64 {
        self.interval * self.burst
    }
}

/// When the budget is whole again, the interval that this was computed with, and how many units
/// were given back out of turn.
///
/// Packed, so that a budget of any shape takes 24 bytes and not 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(Rust, packed(4))]
pub(crate) struct Rate {
    whole_at: u64,
    interval: u64,
    /// Units that were given back of charges which had others behind them. Those others are over
    /// sooner by as much than they were told. It wraps around, and jumps by half of its range when
    /// the interval changes.
    shifted: u32,
}

/// A change of the interval: charges from before it cannot be told any more.
const ANOTHER_INTERVAL: u32 = 1 << 31;

impl Rate {
    /// Decides about one charge, and takes it if it is admissible.
    #[inline]
    pub(crate) fn decide(&mut self, quota: RateQuota, now: u64, cost: u64) -> BudgetStatus {
        let wait = self.wait(quota, now, cost);
        if wait == Some(0) && cost > 0 {
            self.take(quota, now, cost);
        }
        BudgetStatus::of(self.left(quota, now), wait).with_ledger(self.ledger())
    }

    #[inline]
    pub(crate) fn wait(self, quota: RateQuota, now: u64, cost: u64) -> Option<u64> {
        let used = self.used(quota, now);
        // No more than the capacity, so it cannot overflow.
        let asked = (cost <= quota.burst).then_some(cost)? * quota.interval;
        if asked == 0 {
            return Some(0);
        }
        let wait = (used + asked).saturating_sub(quota.capacity());
        // A thread that was held up, or a burst that was lowered, makes nobody wait for longer than
        // the period.
        Some(wait.min(quota.capacity()))
    }

    #[inline]
    pub(crate) fn left(self, quota: RateQuota, now: u64) -> Left {
        let used = self.used(quota, now).min(quota.capacity());
        Left {
            spare: quota.capacity() - used,
            unit: quota.interval,
            whole_in: used,
        }
    }

    /// Uses units, also beyond the burst: up to twice of it.
    #[inline]
    pub(crate) fn take(&mut self, quota: RateQuota, now: u64, cost: u64) {
        let used = self.used(quota, now);
        if self.interval != quota.interval {
            self.interval = quota.interval;
            self.shifted = { self.shifted }.wrapping_add(ANOTHER_INTERVAL);
        }
        let taken = used + cost.min(quota.burst) * quota.interval;
        // To a thread that was held up, more may seem to be used: that stays.
        self.whole_at = now + taken.min(used.max(2 * quota.capacity()));
    }

    /// Gives back what has not come back by itself yet, as if units came back in the order in which
    /// they were used.
    ///
    /// A charge has all come back when its budget was to be whole, or sooner by what was given back
    /// of charges before it. At the soonest, it comes back from its own instant on.
    pub(crate) fn refund(&mut self, quota: RateQuota, now: u64, units: u64, taken: Taken) {
        let shifted = { self.shifted }.wrapping_sub(taken.ledger.shifted);
        if self.interval != quota.interval || shifted >= ANOTHER_INTERVAL {
            return;
        }
        let until = taken.counts_until();
        let until = until.saturating_sub(u64::from(shifted).saturating_mul(quota.interval));
        let own = taken.cost.min(quota.burst) * quota.interval;
        let at_soonest = own.saturating_sub(now.saturating_sub(taken.at.monotonic));
        let counts = until.saturating_sub(now).min(own).max(at_soonest);
        let before = taken.before.saturating_mul(quota.interval);
        let back = units
            .saturating_mul(quota.interval)
            .min(counts.saturating_sub(before));
        let is_last = until == { self.whole_at } + before.min(own);
        let used = self.used(quota, now);
        self.whole_at = now + used.saturating_sub(back);
        if !is_last && back > 0 {
            let out_of_turn = u32::try_from(back.div_ceil(quota.interval)).unwrap_or(u32::MAX);
            // Far more than ever come back in one burst: the charges of before cannot be told any
            // more.
            let out_of_turn = out_of_turn.min(ANOTHER_INTERVAL);
            self.shifted = { self.shifted }.wrapping_add(out_of_turn);
        }
    }

    pub(crate) fn is_idle(self, now: u64) -> bool {
        self.whole_at <= now
    }

    /// What a charge must know of the budget to be given back.
    #[inline]
    pub(crate) fn ledger(self) -> Ledger {
        Ledger {
            shifted: self.shifted,
            ..Ledger::default()
        }
    }

    /// What is used of the budget, in time. After the burst was lowered, that may be more than all
    /// of it.
    #[inline]
    fn used(self, quota: RateQuota, now: u64) -> u64 {
        let used = { self.whole_at }.saturating_sub(now);
        if self.interval == quota.interval {
            return used;
        }
        self.converted(quota, used)
    }

    /// Keeps the units that were used when the quota was given another interval, rounded up.
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
