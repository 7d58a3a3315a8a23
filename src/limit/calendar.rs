//! The `calendar` shape: never more than the limit in a day or month of UTC, by the wall clock.

use crate::limit::state::{HELD_UP, Left};
use crate::quota::Calendar;
use crate::timestamp;

const DAY: u64 = 86_400 * 1_000_000_000;

/// At most `limit` units in each day or month.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CalendarQuota {
    pub(crate) calendar: Calendar,
    pub(crate) limit: u64,
}

/// Units used in the period that ends before an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Period {
    ends: u64,
    used: u64,
}

impl Period {
    #[inline(never)]
    pub(crate) fn wait(&mut self, quota: CalendarQuota, now: u64, cost: u64) -> Option<u64> {
        *self = self.at(quota, now);
        if cost > quota.limit {
            return None;
        }
        let fits = self.used.saturating_add(cost) <= quota.limit;
        Some(if fits { 0 } else { self.ends - now })
    }

    #[inline(never)]
    pub(crate) fn left(self, quota: CalendarQuota, now: u64) -> Left {
        Left {
            spare: quota.limit.saturating_sub(self.used),
            unit: 1,
            whole_in: if self.used == 0 {
                0
            } else {
                self.ends.saturating_sub(now)
            },
        }
    }

    #[inline(never)]
    pub(crate) fn take(&mut self, quota: CalendarQuota, now: u64, cost: u64) {
        *self = self.at(quota, now);
        self.used = self.used.saturating_add(cost);
    }

    pub(crate) fn refund(&mut self, quota: CalendarQuota, now: u64, cost: u64) {
        *self = self.at(quota, now);
        self.used = self.used.saturating_sub(cost);
    }

    pub(crate) fn is_idle(self, now: u64) -> bool {
        self.used == 0 || now >= self.ends
    }

    /// The period of now, or the next one if that had begun when a thread was held up with the last
    /// instants of this one. After a step of the clock backwards, what was used in a later one counts against
    /// this one.
    fn at(self, quota: CalendarQuota, now: u64) -> Self {
        let shortest = match quota.calendar {
            Calendar::Day => DAY,
            Calendar::Month => 28 * DAY,
        };
        if (self.ends.saturating_sub(shortest)..self.ends).contains(&now) {
            return self;
        }
        let ends = end(quota.calendar, now);
        if self.ends > ends && self.ends == end(quota.calendar, now + HELD_UP) {
            return self;
        }
        let used = if self.ends >= ends { self.used } else { 0 };
        Self { ends, used }
    }
}

/// The end of the period around an instant.
fn end(calendar: Calendar, now: u64) -> u64 {
    let day = now / DAY;
    DAY * match calendar {
        Calendar::Day => day + 1,
        Calendar::Month => timestamp::month_around(day).1,
    }
}
