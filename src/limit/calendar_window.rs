//! The `calendar` shape, a fixed window: at most `limit` units in a day or month of UTC, by the
//! wall clock.

use crate::key::quota::Calendar;
use crate::limit::instant::Remaining;
use crate::limit::refund::Taken;
use crate::util::timestamp;

/// A day, in nanoseconds.
const DAY: u64 = 86_400 * 1_000_000_000;

/// At most `limit` units in each day or month.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CalendarQuota {
    pub(crate) calendar: Calendar,
    pub(crate) limit: u64,
}

/// The units used in one period. Default: a period that ended in 1970, without units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CalendarWindow {
    /// The end of the period, in nanoseconds since 1970, exclusive.
    ends: u64,
    used: u64,
}

impl CalendarWindow {
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
    pub(crate) fn remaining(self, quota: CalendarQuota, now: u64) -> Remaining {
        Remaining {
            units: quota.limit.saturating_sub(self.used),
            full_in: if self.used == 0 {
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

    /// Refunds units if they were used in the current period.
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

    /// Returns the time until the period ends: at most the length of a period, even if the clock
    /// was set back.
    fn time_left(self, quota: CalendarQuota, now: u64) -> u64 {
        let begins = begin(quota.calendar, self.ends.saturating_sub(1));
        self.ends.saturating_sub(now).min(self.ends - begins)
    }

    /// Returns the window of the current period.
    fn at(self, quota: CalendarQuota, now: u64) -> Self {
        if now >= self.ends {
            let ends = end(quota.calendar, now);
            return Self { ends, used: 0 };
        }
        // A clock that is set back by less than a period does not move the end backwards. The quota
        // would be granted a second time.
        let begins = begin(quota.calendar, self.ends - 1);
        let begins_before = begin(quota.calendar, begins.saturating_sub(1));
        if now >= begins_before {
            return self;
        }
        // A clock that was set forwards by mistake, and back again by more than a period, would
        // leave callers with one quota until that distant end. The used units count in the current
        // period instead.
        Self {
            ends: end(quota.calendar, now),
            used: self.used,
        }
    }
}

/// Returns the beginning of the period that contains an instant.
fn begin(calendar: Calendar, now: u64) -> u64 {
    let day = now / DAY;
    DAY * match calendar {
        Calendar::Day => day,
        Calendar::Month => timestamp::month_around(day).0,
    }
}

/// Returns the end of the period that contains an instant.
fn end(calendar: Calendar, now: u64) -> u64 {
    let day = now / DAY;
    DAY * match calendar {
        Calendar::Day => day + 1,
        Calendar::Month => timestamp::month_around(day).1,
    }
}
