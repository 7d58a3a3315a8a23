//! The state of one budget, of whatever shape: pure arithmetic over it, a quota and an instant.

use crate::key::quota::{Quota, Shape};
use crate::limit::calendar::{CalendarQuota, Period};
use crate::limit::instant::{Left, Nanos};
use crate::limit::ledger::Ledger;
use crate::limit::rate::{Rate, RateQuota};
use crate::limit::refund::Refund;
use crate::limit::window::{Window, WindowQuota};

/// The state of a budget. What is whole has none, so that it can be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Rate(Rate),
    Window(Window),
    Calendar(Period),
}

impl Default for State {
    fn default() -> Self {
        Self::Rate(Rate::default())
    }
}

/// A quota, taken apart.
enum Kind {
    Rate(RateQuota),
    Window(WindowQuota),
    Calendar(CalendarQuota),
}

impl Kind {
    #[inline]
    fn of(quota: &Quota) -> Self {
        let limit = quota.limit();
        match quota.form() {
            Shape::Rate { interval } => Self::Rate(RateQuota {
                interval,
                burst: limit,
            }),
            Shape::Window { period } => Self::Window(WindowQuota { period, limit }),
            Shape::Calendar(calendar) => Self::Calendar(CalendarQuota { calendar, limit }),
        }
    }
}

impl State {
    /// A whole budget.
    #[inline]
    pub(crate) fn whole(quota: &Quota) -> Self {
        match quota.form() {
            Shape::Rate { .. } => Self::Rate(Rate::default()),
            Shape::Window { .. } => Self::Window(Window::default()),
            Shape::Calendar(_) => Self::Calendar(Period::default()),
        }
    }

    /// In what time, in nanoseconds, the cost is admissible, 0 if it is now; `None` if it is above
    /// the whole quota. Nothing is used; what time has changed is noted.
    #[inline]
    pub(crate) fn wait(&mut self, quota: &Quota, now: Nanos, cost: u64) -> Option<u64> {
        match (&mut *self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.wait(quota, now.monotonic, cost),
            (Self::Window(state), Kind::Window(quota)) => state.wait(quota, now.monotonic, cost),
            (Self::Calendar(state), Kind::Calendar(quota)) => state.wait(quota, now.wall, cost),
            // The quota was given another shape: its budget begins anew.
            _ => {
                *self = Self::whole(quota);
                self.wait(quota, now, cost)
            }
        }
    }

    /// What is left, as of the instant of the last [`wait`](Self::wait).
    #[inline]
    pub(crate) fn left(&self, quota: &Quota, now: Nanos) -> Left {
        match (self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.left(quota, now.monotonic),
            (Self::Window(state), Kind::Window(quota)) => state.left(quota, now.monotonic),
            (Self::Calendar(state), Kind::Calendar(quota)) => state.left(quota, now.wall),
            _ => Left {
                spare: quota.limit(),
                unit: 1,
                whole_in: 0,
            },
        }
    }

    /// Uses units that are admissible now, as [`wait`](Self::wait) found.
    #[inline]
    pub(crate) fn take(&mut self, quota: &Quota, now: Nanos, cost: u64, slots: u64) {
        match (&mut *self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.take(quota, now.monotonic, cost),
            (Self::Window(state), Kind::Window(quota)) => {
                state.take(quota, now.monotonic, cost, slots);
            }
            (Self::Calendar(state), Kind::Calendar(quota)) => state.take(quota, now.wall, cost),
            _ => {
                *self = Self::whole(quota);
                self.take(quota, now, cost, slots);
            }
        }
    }

    /// Gives units back of a charge that counts still; never more than were used.
    pub(crate) fn refund(&mut self, refund: &Refund<'_>, now: Nanos) {
        let (units, taken) = (refund.units(), refund.taken());
        if taken.counts_until() <= now.monotonic {
            return;
        }
        match (self, Kind::of(&refund.charge().quota())) {
            (Self::Rate(state), Kind::Rate(quota)) => {
                state.refund(quota, now.monotonic, units, taken);
            }
            (Self::Window(state), Kind::Window(quota)) => {
                state.refund(quota, now.monotonic, units, taken);
            }
            (Self::Calendar(state), Kind::Calendar(quota)) => {
                state.refund(quota, now.wall, units, taken);
            }
            _ => {}
        }
    }

    /// What a charge must know of the budget to be given back.
    #[inline]
    pub(crate) fn ledger(&self) -> Ledger {
        match self {
            Self::Rate(state) => state.ledger(),
            _ => Ledger::default(),
        }
    }

    /// Gives the memory of a window back that is whole again.
    pub(crate) fn tidy(&mut self, idle_since: Nanos) {
        if self.heap() > 0 && self.is_idle(idle_since) {
            *self = Self::Window(Window::default());
        }
    }

    /// Whether the budget is whole, so that forgetting its state changes nothing.
    pub(crate) fn is_idle(&self, now: Nanos) -> bool {
        match self {
            Self::Rate(state) => state.is_idle(now.monotonic),
            Self::Window(state) => state.is_idle(now.monotonic),
            Self::Calendar(state) => state.is_idle(now.wall),
        }
    }

    /// The memory that is this state's own, in bytes.
    #[inline]
    pub(crate) fn heap(&self) -> usize {
        match self {
            Self::Window(state) => state.heap(),
            _ => 0,
        }
    }
}
