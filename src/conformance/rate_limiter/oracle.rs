//! What was admitted under one budget, judged by what its quota guarantees and not by its
//! arithmetic.

use std::time::Duration;

use crate::key::quota::Quota;

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const DAY: u64 = 86_400 * SECOND;
/// 2026-01-31T23:59:00Z: a day and a month end a minute later. No history begins before that month.
pub(super) const START: u64 = 1_769_903_940 * SECOND;

/// A shape of quota, by its guarantee; times in nanoseconds.
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

    /// What a unit weighs among the uses: of a rate, the time in which it comes back.
    fn weight(self) -> u64 {
        match self {
            Self::Rate { interval, .. } => interval,
            _ => 1,
        }
    }

    fn capacity(self) -> u64 {
        self.quota().limit() * self.weight()
    }

    /// A window may hold a caller back for a sixtieth of it, and for what does not divide.
    fn held_back(self) -> u64 {
        match self {
            Self::Window { period, .. } => period / 60 + 61,
            _ => 0,
        }
    }

    pub(super) fn is_of_the_calendar(self) -> bool {
        matches!(self, Self::Day { .. } | Self::Month { .. })
    }

    fn period_of(self, now: u64) -> u64 {
        match self {
            Self::Day { .. } => now / DAY,
            _ => month_of(now),
        }
    }
}

/// Months since January 2026, counted off from the start, which is a minute before February.
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

/// Two accounts of one budget: what a limiter must at least hold against the caller, and what it
/// may at most.
#[derive(Debug)]
pub(super) struct Oracle {
    pub(super) guarantee: Guarantee,
    least: Uses,
    most: Uses,
    read_at: u64,
    /// Of a calendar quota, the period that is counted in.
    period: u64,
}

impl Oracle {
    pub(super) fn new(guarantee: Guarantee) -> Self {
        let uses = |held_back| Uses {
            guarantee,
            held_back,
            all: Vec::new(),
        };
        Self {
            guarantee,
            least: uses(0),
            most: uses(guarantee.held_back()),
            read_at: 0,
            period: 0,
        }
    }

    /// Brings both accounts to now. By the wall clock, that may be before the last time that they
    /// were read.
    pub(super) fn read(&mut self, now: u64) {
        self.read_at = now;
        let period = self.guarantee.period_of(now);
        if period > self.period {
            self.period = period;
            if self.guarantee.is_of_the_calendar() {
                self.give_all_back();
            }
        }
        // The end of a period does not move backwards, unless the clock was set back by more than
        // one: then what was used counts against the period of now.
        if period + 1 < self.period {
            self.period = period;
        }
        for uses in [&mut self.least, &mut self.most] {
            uses.forget(now);
        }
    }

    /// The most units that may be admitted at an instant not before now.
    pub(super) fn at_most(&self, then: u64) -> u64 {
        self.room(&self.least, then)
    }

    /// The fewest units that must be admitted at an instant not before now.
    pub(super) fn at_least(&self, then: u64) -> u64 {
        self.room(&self.most, then)
    }

    fn room(&self, uses: &Uses, then: u64) -> u64 {
        if self.guarantee.is_of_the_calendar() && self.guarantee.period_of(then) > self.period {
            return self.guarantee.quota().limit();
        }
        uses.room(then)
    }

    /// Notes a use of the request of a number.
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

    /// Gives back what was taken last.
    pub(super) fn give_back(&mut self) {
        let last = self.least.all.pop();
        match self.guarantee {
            // A limiter need not know which units were meant: the oldest may be gone, and the
            // newest stay.
            Guarantee::Window { .. } => self.most.drop_oldest(last.map_or(0, |last| last.amount)),
            _ => {
                self.most.all.pop();
            }
        }
    }

    /// Gives back what a request took some time ago. A limiter may say that it does not count any
    /// more, or give back as much as still does.
    pub(super) fn give_back_late(&mut self, request: u64) {
        self.least.all.retain(|it| it.request != request);
    }

    fn give_all_back(&mut self) {
        self.least.all.clear();
        self.most.all.clear();
    }
}

/// Uses of a budget, oldest first.
#[derive(Debug)]
struct Uses {
    guarantee: Guarantee,
    /// For how long a use counts beyond its window.
    held_back: u64,
    all: Vec<Use>,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    at: u64,
    amount: u64,
    request: u64,
}

impl Uses {
    /// What counts at an instant.
    fn held(&self, now: u64) -> u64 {
        match self.guarantee {
            Guarantee::Window { .. } => {
                let recent = self.all.iter().filter(|it| !self.is_over(it, now));
                recent.map(|it| it.amount).sum()
            }
            Guarantee::Rate { .. } => {
                // From each use on, whatever was used since beyond what has come back since.
                let (mut since, mut held) = (0, 0);
                for it in self.all.iter().rev() {
                    since += it.amount;
                    held = held.max(u64::saturating_sub(since, now - it.at));
                }
                held
            }
            // Those of another period were dropped.
            Guarantee::Day { .. } | Guarantee::Month { .. } => {
                self.all.iter().map(|it| it.amount).sum()
            }
        }
    }

    fn room(&self, now: u64) -> u64 {
        let left = self.guarantee.capacity().saturating_sub(self.held(now));
        left / self.guarantee.weight()
    }

    /// Drops what no window after now reaches back to.
    fn forget(&mut self, now: u64) {
        if let Guarantee::Window { .. } = self.guarantee {
            let over = self.all.iter().take_while(|it| self.is_over(it, now));
            self.all.drain(..over.count());
        }
    }

    fn is_over(&self, it: &Use, now: u64) -> bool {
        match self.guarantee {
            Guarantee::Window { period, .. } => it.at + period + self.held_back <= now,
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
