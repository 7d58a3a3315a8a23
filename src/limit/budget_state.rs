//! The state of one budget, in any of the three shapes. All functions are pure arithmetic over the
//! state, a quota and an instant.

use crate::key::quota::{Quota, QuotaKind};
use crate::limit::calendar_window::{CalendarQuota, CalendarWindow};
use crate::limit::gcra::{Gcra, RateQuota};
use crate::limit::instant::{Nanos, Remaining};
use crate::limit::refund::Refund;
use crate::limit::refund_note::RefundNote;
use crate::limit::sliding_window::{SlidingWindow, WindowQuota};
use crate::limit::verdict::BudgetStatus;

/// The state of a budget. A full budget is equivalent to a new one, so it can be evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BudgetState {
    Rate(Gcra),
    Window(SlidingWindow),
    Calendar(CalendarWindow),
}

impl Default for BudgetState {
    fn default() -> Self {
        Self::Rate(Gcra::default())
    }
}

/// A quota, with the fields of its shape.
enum Kind {
    Rate(RateQuota),
    Window(WindowQuota),
    Calendar(CalendarQuota),
}

impl Kind {
    #[inline]
    fn of(quota: &Quota) -> Self {
        let limit = quota.limit();
        match quota.kind() {
            QuotaKind::Rate { interval } => Self::Rate(RateQuota {
                interval,
                burst: limit,
            }),
            QuotaKind::Window { period } => Self::Window(WindowQuota { period, limit }),
            QuotaKind::Calendar(calendar) => Self::Calendar(CalendarQuota { calendar, limit }),
        }
    }
}

impl BudgetState {
    /// Decides a charge in one step, and takes it if it is admissible. This is the fast path.
    ///
    /// Returns `None` if [`wait`](Self::wait) and [`take`](Self::take) must decide: while memory
    /// for windows is short, for a window that cannot take the charge in its newest slot, and after
    /// a change of the shape.
    #[inline]
    pub(crate) fn decide_in_place(
        &mut self,
        quota: &Quota,
        now: Nanos,
        cost: u64,
        is_memory_short: bool,
    ) -> Option<BudgetStatus> {
        match (self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => {
                Some(state.decide(quota, now.monotonic, cost))
            }
            (Self::Window(state), Kind::Window(quota)) if !is_memory_short => {
                let remaining = state.take_in_newest(quota, now.monotonic, cost)?;
                Some(BudgetStatus::of(remaining, Some(0)))
            }
            (Self::Calendar(state), Kind::Calendar(quota)) => {
                let wait = state.wait(quota, now.wall, cost);
                if wait == Some(0) && cost > 0 {
                    state.take(quota, now.wall, cost);
                }
                Some(BudgetStatus::of(state.remaining(quota, now.wall), wait))
            }
            _ => None,
        }
    }

    /// Creates a full budget.
    #[inline]
    pub(crate) fn full(quota: &Quota) -> Self {
        match quota.kind() {
            QuotaKind::Rate { .. } => Self::Rate(Gcra::default()),
            QuotaKind::Window { .. } => Self::Window(SlidingWindow::default()),
            QuotaKind::Calendar(_) => Self::Calendar(CalendarWindow::default()),
        }
    }

    /// Returns the nanoseconds until the cost is admissible: 0 if it is admissible now, `None` if
    /// it exceeds the quota.
    ///
    /// No units are used. The state is advanced to `now`: expired slots and periods are dropped,
    /// and the budget is reset if the quota has another shape.
    #[inline]
    pub(crate) fn wait(&mut self, quota: &Quota, now: Nanos, cost: u64) -> Option<u64> {
        match (&mut *self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.wait(quota, now.monotonic, cost),
            (Self::Window(state), Kind::Window(quota)) => state.wait(quota, now.monotonic, cost),
            (Self::Calendar(state), Kind::Calendar(quota)) => state.wait(quota, now.wall, cost),
            // The quota was given another shape: its budget starts full.
            _ => {
                *self = Self::full(quota);
                self.wait(quota, now, cost)
            }
        }
    }

    /// Returns the remaining units. Call [`wait`](Self::wait) or [`take`](Self::take) with the same
    /// instant first.
    #[inline]
    pub(crate) fn remaining(&self, quota: &Quota, now: Nanos) -> Remaining {
        match (self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.remaining(quota, now.monotonic),
            (Self::Window(state), Kind::Window(quota)) => state.remaining(quota, now.monotonic),
            (Self::Calendar(state), Kind::Calendar(quota)) => state.remaining(quota, now.wall),
            _ => Remaining {
                units: quota.limit(),
                full_in: 0,
            },
        }
    }

    /// Takes units without a check: [`wait`](Self::wait) decides if they are admissible. A window
    /// counts them in at most `slots` slots.
    #[inline]
    pub(crate) fn take(&mut self, quota: &Quota, now: Nanos, cost: u64, slots: u64) {
        match (&mut *self, Kind::of(quota)) {
            (Self::Rate(state), Kind::Rate(quota)) => state.take(quota, now.monotonic, cost),
            (Self::Window(state), Kind::Window(quota)) => {
                state.take(quota, now.monotonic, cost, slots);
            }
            (Self::Calendar(state), Kind::Calendar(quota)) => state.take(quota, now.wall, cost),
            _ => {
                *self = Self::full(quota);
                self.take(quota, now, cost, slots);
            }
        }
    }

    /// Refunds units of a charge that still counts; never more than were used.
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

    /// Returns the note that a later refund of a charge needs.
    #[inline]
    pub(crate) fn refund_note(&self) -> RefundNote {
        match self {
            Self::Rate(state) => state.refund_note(),
            _ => RefundNote::default(),
        }
    }

    /// Frees the heap memory of a window that is full again.
    pub(crate) fn tidy(&mut self, idle_since: Nanos) {
        if self.heap() > 0 && self.is_idle(idle_since) {
            *self = Self::Window(SlidingWindow::default());
        }
    }

    /// Returns whether the budget is full, so that its eviction changes nothing.
    pub(crate) fn is_idle(&self, now: Nanos) -> bool {
        match self {
            Self::Rate(state) => state.is_idle(now.monotonic),
            Self::Window(state) => state.is_idle(now.monotonic),
            Self::Calendar(state) => state.is_idle(now.wall),
        }
    }

    /// Returns the heap memory of the state, in bytes.
    #[inline]
    pub(crate) fn heap(&self) -> usize {
        match self {
            Self::Window(state) => state.heap(),
            _ => 0,
        }
    }
}
