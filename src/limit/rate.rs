//! The `rate` shape: GCRA, in whole nanoseconds of the monotonic clock.
//!
//! The state is the *theoretical arrival time*: the instant at which the budget is whole again. Its distance
//! from now is what has been used. In any time `t`, no more than `burst + t / interval` units are
//! admitted.

use crate::limit::Standing;
use crate::limit::refund::Taken;
use crate::limit::state::Left;
use crate::quota::{Quota, Shape};

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

/// When the budget is whole again, and the interval that this was computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rate {
    whole_at: u64,
    interval: u64,
}

impl Rate {
    /// Decides about one charge, and takes it if it is admissible.
    #[inline]
    pub(crate) fn decide(&mut self, quota: RateQuota, now: u64, cost: u64) -> Standing {
        let wait = self.wait(quota, now, cost);
        if wait == Some(0) {
            self.take(quota, now, cost);
        }
        Standing::of(self.left(quota, now), wait)
    }

    #[inline]
    pub(crate) fn wait(&mut self, quota: RateQuota, now: u64, cost: u64) -> Option<u64> {
        let used = self.settle(quota, now);
        // No more than the capacity, so it cannot overflow.
        let asked = (cost <= quota.burst).then_some(cost)? * quota.interval;
        if asked == 0 {
            return Some(0);
        }
        let wait = (used + asked).saturating_sub(quota.capacity());
        // A thread that was held up, or a burst that was lowered, makes nobody wait for longer than the
        // period.
        Some(wait.min(quota.capacity()))
    }

    #[inline]
    pub(crate) fn left(self, quota: RateQuota, now: u64) -> Left {
        let used = self.whole_at.saturating_sub(now).min(quota.capacity());
        Left {
            spare: quota.capacity() - used,
            unit: quota.interval,
            whole_in: used,
        }
    }

    #[inline]
    pub(crate) fn take(&mut self, quota: RateQuota, now: u64, cost: u64) {
        let used = self.settle(quota, now) + cost * quota.interval;
        self.whole_at = now + used;
    }

    /// Gives back what has not come back by itself yet. Units come back in the order in which they were
    /// used, so all of a charge have when its budget was to be whole.
    pub(crate) fn refund(&mut self, quota: RateQuota, now: u64, units: u64, taken: Taken) {
        // The quota was given another interval since: when that charge is over is not known.
        if self.interval != quota.interval {
            return;
        }
        let counts = taken.counts_until().saturating_sub(now);
        let back = units.saturating_mul(quota.interval).min(counts);
        self.whole_at = now + self.settle(quota, now).saturating_sub(back);
    }

    pub(crate) fn is_idle(self, now: u64) -> bool {
        self.whole_at <= now
    }

    /// What is used of the budget, in time. After the burst was lowered, that may be more than all of it.
    #[inline]
    fn settle(&mut self, quota: RateQuota, now: u64) -> u64 {
        if self.interval != quota.interval {
            self.convert(quota, now);
        }
        self.whole_at.saturating_sub(now)
    }

    /// Keeps the units that were used when the quota was given another interval, rounded up.
    #[cold]
    fn convert(&mut self, quota: RateQuota, now: u64) {
        /// 36 years, far from overflow.
        const MOST: u128 = u64::MAX as u128 / 16;
        let used = u128::from(self.whole_at.saturating_sub(now));
        let used = used * u128::from(quota.interval);
        let used = used.div_ceil(u128::from(self.interval.max(1))).min(MOST);
        self.whole_at = now + u64::try_from(used).unwrap_or_default();
        self.interval = quota.interval;
    }
}
