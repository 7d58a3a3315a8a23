//! The `calendar` shape: never more than the limit in a day or month of UTC, by the wall clock.

use crate::key::quota::Calendar;
use crate::limit::instant::Left;
use crate::limit::refund::Taken;
use crate::util::timestamp;

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
        Some(if fits { 0 } else { self.time_left(quota, now) })
    }

    #[inline(never)]
    pub(crate) fn left(self, quota: CalendarQuota, now: u64) -> Left {
        Left {
            spare: quota.limit.saturating_sub(self.used),
            unit: 1,
            whole_in: if self.used == 0 {
                0
            } else {
                self.time_left(quota, now)
            },
        }
    }

    #[inline(never)]
    pub(crate) fn take(&mut self, quota: CalendarQuota, now: u64, cost: u64) {
        *self = self.at(quota, now);
        self.used = self.used.saturating_add(cost);
    }

    /// Gives back units that were used in the period that is counted in now.
    pub(crate) fn refund(&mut self, quota: CalendarQuota, now: u64, units: u64, taken: Taken) {
        *self = self.at(quota, now);
        let begins = begin(quota.calendar, self.ends.saturating_sub(1));
        if (begins..self.ends).contains(&taken.at.wall) {
            self.used = self.used.saturating_sub(units);
        }
    }

    pub(crate) fn is_idle(self, now: u64) -> bool {
        self.used == 0 || now >= self.ends
    }

    /// In what time the period ends: in the length of one at most, also after a step of the clock
    /// backwards.
    fn time_left(self, quota: CalendarQuota, now: u64) -> u64 {
        let begins = begin(quota.calendar, self.ends.saturating_sub(1));
        self.ends.saturating_sub(now).min(self.ends - begins)
    }

    /// The period to count in.
    ///
    /// The end of a period never moves backwards by a step of the clock, or the whole quota would
    /// be granted again after it. But a clock that was set forwards by mistake, and back again by
    /// more than a period, must not hold everybody to one quota until then: what was used counts
    /// against the period of now.
    fn at(self, quota: CalendarQuota, now: u64) -> Self {
        if now >= self.ends {
            let ends = end(quota.calendar, now);
            return Self { ends, used: 0 };
        }
        let begins = begin(quota.calendar, self.ends - 1);
        // One period further back, which ended when this one began.
        let begins_before = begin(quota.calendar, begins.saturating_sub(1));
        if now >= begins_before {
            return self;
        }
        Self {
            ends: end(quota.calendar, now),
            used: self.used,
        }
    }
}

/// The beginning of the period around an instant.
fn begin(calendar: Calendar, now: u64) -> u64 {
    let day = now / DAY;
    DAY * match calendar {
        Calendar::Day => day,
        Calendar::Month => timestamp::month_around(day).0,
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
