//! The `calendar` shape: never more than the limit in a day or month of UTC.

use crate::limit::state::Left;
use crate::quota::Calendar;
use crate::timestamp;

const DAY: u64 = 86_400 * 1_000_000_000;

/// At most `limit` units in each day or month.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CalendarQuota {
    pub(crate) calendar: Calendar,
    pub(crate) limit: u64,
}

/// Units used in a period, from its first nanosecond to the one after its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Period {
    begins: u64,
    ends: u64,
    used: u64,
}

impl Period {
    pub(crate) fn wait(&mut self, quota: CalendarQuota, now: u64, cost: u64) -> Option<u64> {
        *self = self.at(quota, now);
        if cost > quota.limit {
            return None;
        }
        let fits = self.used.saturating_add(cost) <= quota.limit;
        Some(if fits { 0 } else { self.ends - now })
    }

    pub(crate) fn left(self, quota: CalendarQuota, now: u64) -> Left {
        Left {
            remaining: quota.limit.saturating_sub(self.used),
            whole_in: if self.used == 0 {
                0
            } else {
                self.ends.saturating_sub(now)
            },
        }
    }

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

    /// The period of now. After a step of the clock backwards, what was used in a later one counts
    /// against this one.
    fn at(self, quota: CalendarQuota, now: u64) -> Self {
        if (self.begins..self.ends).contains(&now) {
            return self;
        }
        let (begins, ends) = bounds(quota.calendar, now);
        let used = if self.begins > now { self.used } else { 0 };
        Self { begins, ends, used }
    }
}

fn bounds(calendar: Calendar, now: u64) -> (u64, u64) {
    let day = now / DAY;
    match calendar {
        Calendar::Day => (day * DAY, (day + 1) * DAY),
        Calendar::Month => {
            let (first, next) = timestamp::month_around(day);
            (first * DAY, next * DAY)
        }
    }
}
