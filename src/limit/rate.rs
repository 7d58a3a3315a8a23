//! The `rate` shape: GCRA, in whole nanoseconds.
//!
//! The state is one instant, the *theoretical arrival time*: when the budget is whole again. What it
//! is ahead of now is what has been used. In any time `t`, no more than `burst + t / interval` units
//! are admitted.

use crate::limit::Standing;
use crate::limit::state::{HELD_UP, Left};
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

/// When the budget is whole again, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rate(u64);

impl Rate {
    /// The whole of a decision about one charge, in one stroke.
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
        Some((used + asked).saturating_sub(quota.capacity()))
    }

    #[inline]
    pub(crate) fn left(self, quota: RateQuota, now: u64) -> Left {
        let used = self.0.saturating_sub(now);
        Left {
            spare: quota.capacity().saturating_sub(used),
            unit: quota.interval,
            whole_in: used,
        }
    }

    #[inline]
    pub(crate) fn take(&mut self, quota: RateQuota, now: u64, cost: u64) {
        let used = self.settle(quota, now) + cost * quota.interval;
        self.0 = now + used;
    }

    pub(crate) fn refund(&mut self, quota: RateQuota, now: u64, cost: u64) {
        let back = cost.saturating_mul(quota.interval);
        self.0 = now + self.settle(quota, now).saturating_sub(back);
    }

    pub(crate) fn is_idle(self, now: u64) -> bool {
        self.0 <= now
    }

    /// What is used of the budget, in time. After a step of the clock backwards it is no more than
    /// all, and is kept as that, so that the caller waits for no more than the step would have it.
    #[inline]
    fn settle(&mut self, quota: RateQuota, now: u64) -> u64 {
        let latest = now + quota.capacity();
        if self.0 > latest + HELD_UP {
            self.0 = latest;
        }
        self.0.saturating_sub(now)
    }
}
