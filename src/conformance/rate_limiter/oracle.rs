//! An oracle for one budget. It judges admissions by the guarantees of a quota, not by the
//! arithmetic of a limiter.

use std::time::Duration;

use crate::key::quota::Quota;

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const DAY: u64 = 86_400 * SECOND;
/// 2026-01-31T23:59:00Z: one minute later, a day and a month end. No history begins before that
/// month.
pub(super) const START: u64 = 1_769_903_940 * SECOND;

/// The guarantee of a kind of quota. Times are in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Guarantee {
    /// At most `limit` in any `period`.
    Window { limit: u64, period: u64 },
    /// At most `burst`, plus one for each `interval`, in any time.
    Rate { burst: u64, interval: u64 },
    /// At most `limit` in each UTC day.
    Day { limit: u64 },
    /// At most `limit` in each month.
    Month { limit: u64 },
}

impl Guarantee {
    pub(super) fn quota(self) -> Quota {
        let per = |limit, period| {
            let quota = Quota::per(limit, Duration::from_nanos(period));
            quota.expect("the histories have quotas that exist")
        };
        match self {
            Self::Window { limit, period } => per(limit, period),
            Self::Rate { burst, interval } => {
                let periods = SECOND.div_ceil(interval);
                per(periods, periods * interval).smooth().burst(burst)
            }
            Self::Day { limit } => Quota::per_utc_day(limit),
            Self::Month { limit } => Quota::per_utc_month(limit),
        }
    }

    /// Returns the weight of a unit: for a rate, the time in which it comes back.
    fn weight(self) -> u64 {
        match self {
            Self::Rate { interval, .. } => interval,
            _ => 1,
        }
    }

    fn capacity(self) -> u64 {
        self.quota().limit() * self.weight()
    }

    /// Returns how long a window may count a use too long: a sixtieth of its period, plus rounding.
    fn slack(self) -> u64 {
        match self {
            Self::Window { period, .. } => period / 60 + 61,
            _ => 0,
        }
    }

    pub(super) fn is_calendar(self) -> bool {
        matches!(self, Self::Day { .. } | Self::Month { .. })
    }

    fn period_of(self, now: u64) -> u64 {
        match self {
            Self::Day { .. } => now / DAY,
            _ => month_of(now),
        }
    }
}

/// Returns the number of months since January 2026. The start is one minute before February.
fn month_of(now: u64) -> u64 {
    let (mut begins, mut month) = (START + 60 * SECOND, 1);
    while begins <= now {
        month += 1;
        let year = 2026 + (month - 1) / 12;
        let days = match (month - 1) % 12 + 1 {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        begins += days * DAY;
    }
    month
}

/// A lower and an upper bound of the usage of one budget. A limiter must count at least the lower
/// bound, and at most the upper bound.
#[derive(Debug)]
pub(super) struct Oracle {
    pub(super) guarantee: Guarantee,
    least: Uses,
    most: Uses,
    read_at: u64,
    /// The current period of a calendar quota.
    period: u64,
}

impl Oracle {
    pub(super) fn new(guarantee: Guarantee) -> Self {
        let uses = |slack| Uses {
            guarantee,
            slack,
            all: Vec::new(),
        };
        Self {
            guarantee,
            least: uses(0),
            most: uses(guarantee.slack()),
            read_at: 0,
            period: 0,
        }
    }

    /// Advances both bounds to now, which may be before the last reading of the wall clock.
    pub(super) fn read(&mut self, now: u64) {
        self.read_at = now;
        let period = self.guarantee.period_of(now);
        if period > self.period {
            self.period = period;
            if self.guarantee.is_calendar() {
                self.reset();
            }
        }
        // The end of a period does not move backwards, unless the clock was set back by more than a
        // period. Then earlier usage counts in the period of now.
        if period + 1 < self.period {
            self.period = period;
        }
        for uses in [&mut self.least, &mut self.most] {
            uses.forget(now);
        }
    }

    /// Returns the most units that may be admitted at a time, not before now.
    pub(super) fn at_most(&self, then: u64) -> u64 {
        self.room(&self.least, then)
    }

    /// Returns the fewest units that must be admitted at a time, not before now.
    pub(super) fn at_least(&self, then: u64) -> u64 {
        self.room(&self.most, then)
    }

    fn room(&self, uses: &Uses, then: u64) -> u64 {
        if self.guarantee.is_calendar() && self.guarantee.period_of(then) > self.period {
            return self.guarantee.quota().limit();
        }
        uses.room(then)
    }

    /// Records a use by the request with this number.
    pub(super) fn take(&mut self, cost: u64, request: u64) {
        let amount = cost * self.guarantee.weight();
        let at = self.read_at;
        for uses in [&mut self.least, &mut self.most] {
            uses.all.push(Use {
                at,
                amount,
                request,
            });
        }
    }

    /// Refunds the latest use.
    pub(super) fn refund(&mut self) {
        let last = self.least.all.pop();
        match self.guarantee {
            // A limiter need not know which units were meant: it may drop the oldest and keep the
            // newest.
            Guarantee::Window { .. } => self.most.drop_oldest(last.map_or(0, |last| last.amount)),
            _ => {
                self.most.all.pop();
            }
        }
    }

    /// Refunds an earlier request. A limiter may refund nothing if the charge has expired, or only
    /// the part that still counts.
    pub(super) fn refund_late(&mut self, request: u64) {
        self.least.all.retain(|it| it.request != request);
    }

    fn reset(&mut self) {
        self.least.all.clear();
        self.most.all.clear();
    }
}

/// The uses of a budget, oldest first.
#[derive(Debug)]
struct Uses {
    guarantee: Guarantee,
    /// The time that a use counts beyond its window.
    slack: u64,
    all: Vec<Use>,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    at: u64,
    amount: u64,
    request: u64,
}

impl Uses {
    /// Returns the usage that counts at a time.
    fn usage_at(&self, now: u64) -> u64 {
        match self.guarantee {
            Guarantee::Window { .. } => {
                let recent = self.all.iter().filter(|it| !self.is_over(it, now));
                recent.map(|it| it.amount).sum()
            }
            Guarantee::Rate { .. } => {
                // The maximum over all uses: the usage since then, minus the units that have come
                // back since.
                let (mut since, mut usage) = (0, 0);
                for it in self.all.iter().rev() {
                    since += it.amount;
                    usage = usage.max(u64::saturating_sub(since, now - it.at));
                }
                usage
            }
            // Uses of other periods were dropped.
            Guarantee::Day { .. } | Guarantee::Month { .. } => {
                self.all.iter().map(|it| it.amount).sum()
            }
        }
    }

    fn room(&self, now: u64) -> u64 {
        let left = self.guarantee.capacity().saturating_sub(self.usage_at(now));
        left / self.guarantee.weight()
    }

    /// Drops uses that no window after now includes.
    fn forget(&mut self, now: u64) {
        if let Guarantee::Window { .. } = self.guarantee {
            let over = self.all.iter().take_while(|it| self.is_over(it, now));
            self.all.drain(..over.count());
        }
    }

    fn is_over(&self, it: &Use, now: u64) -> bool {
        match self.guarantee {
            Guarantee::Window { period, .. } => it.at + period + self.slack <= now,
            _ => false,
        }
    }

    fn drop_oldest(&mut self, mut amount: u64) {
        for it in &mut self.all {
            let back = it.amount.min(amount);
            it.amount -= back;
            amount -= back;
        }
    }
}
