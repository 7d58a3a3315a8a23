//! The state of one budget, of whatever shape: pure arithmetic over it, a quota and an instant.

use crate::limit::calendar::{CalendarQuota, Period};
use crate::limit::rate::{Rate, RateQuota};
use crate::limit::window::{Window, WindowQuota};
use crate::quota::{Quota, Shape};

/// By how much an instant may be behind the last one and be no step of the clock: a thread that read it
/// was held up on its way here. If it gave back what others have used since, threads that overtake each
/// other would use without limit.
pub(crate) const HELD_UP: u64 = 1_000_000_000;

/// What is left of a budget at an instant; times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// How much is admissible now, in shares of a unit: it is divided only if somebody asks.
    pub(crate) spare: u64,
    /// How many such shares make a unit.
    pub(crate) unit: u64,
    /// In what time the budget is whole again if nothing is used.
    pub(crate) whole_in: u64,
}

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
    pub(crate) fn wait(&mut self, quota: &Quota, now: u64, cost: u64) -> Option<u64> {
        match (&mut *self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.wait(quota, now, cost),
            (Self::Window(state), Kind::Window(quota)) => state.wait(quota, now, cost),
            (Self::Calendar(state), Kind::Calendar(quota)) => state.wait(quota, now, cost),
            // The quota was given another shape: its budget begins anew.
            _ => {
                *self = Self::whole(quota);
                self.wait(quota, now, cost)
            }
        }
    }

    /// What is left, as of the instant of the last [`wait`](Self::wait).
    #[inline]
    pub(crate) fn left(&self, quota: &Quota, now: u64) -> Left {
        match (self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.left(quota, now),
            (Self::Window(state), Kind::Window(quota)) => state.left(quota, now),
            (Self::Calendar(state), Kind::Calendar(quota)) => state.left(quota, now),
            _ => Left {
                spare: quota.limit(),
                unit: 1,
                whole_in: 0,
            },
        }
    }

    /// Uses units that are admissible now, as [`wait`](Self::wait) found.
    #[inline]
    pub(crate) fn take(&mut self, quota: &Quota, now: u64, cost: u64, may_grow: bool) {
        match (&mut *self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.take(quota, now, cost),
            (Self::Window(state), Kind::Window(quota)) => state.take(quota, now, cost, may_grow),
            (Self::Calendar(state), Kind::Calendar(quota)) => state.take(quota, now, cost),
            _ => {
                *self = Self::whole(quota);
                self.take(quota, now, cost, may_grow);
            }
        }
    }

    /// Gives units back; never more than were used.
    pub(crate) fn refund(&mut self, quota: &Quota, now: u64, cost: u64) {
        match (self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.refund(quota, now, cost),
            (Self::Window(state), Kind::Window(quota)) => state.refund(quota, now, cost),
            (Self::Calendar(state), Kind::Calendar(quota)) => state.refund(quota, now, cost),
            _ => {}
        }
    }

    /// Whether the budget is whole, so that forgetting its state changes nothing.
    pub(crate) fn is_idle(&self, now: u64) -> bool {
        match self {
            Self::Rate(state) => state.is_idle(now),
            Self::Window(state) => state.is_idle(now),
            Self::Calendar(state) => state.is_idle(now),
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
