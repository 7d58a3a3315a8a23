//! A reference to one budget, and the memory that its windows may use.

use crate::key::quota::Quota;
use crate::limit::budget_state::BudgetState;
use crate::limit::charge::Charge;
use crate::limit::instant::{Nanos, Remaining};
use crate::limit::refund::Refund;
use crate::limit::refund_note::{BudgetOwner, RefundNote};
use crate::limit::sliding_window::SLOTS;
use crate::limit::verdict::BudgetStatus;

/// A second, in nanoseconds.
const A_SECOND: u64 = 1_000_000_000;

/// Returns the number of slots that a window may have, from the memory for slots and its free part,
/// in bytes. There are fewer slots while memory is short: callers with many busy windows make all
/// windows coarser before the memory is used up.
const fn slots(heap: usize, free: usize) -> u64 {
    match free {
        free if free >= heap / 2 => SLOTS,
        free if free >= heap / 4 => 8,
        free if free >= 256 => 2,
        _ => 1,
    }
}

/// A budget that is locked, or none.
pub(super) enum Budget<'s> {
    Some {
        state: &'s mut BudgetState,
        quota: Quota,
        counted_in: BudgetOwner,
        /// The memory for slots of windows, in bytes.
        heap: usize,
        /// The free part of the memory.
        heap_left: &'s mut usize,
    },
    /// No memory for a budget. Nothing remains, and the wait is one second.
    None,
}

impl Budget<'_> {
    /// Changes the state, and accounts for the memory that the change allocates or frees. Returns
    /// `None` for [`Budget::None`].
    fn change<R>(&mut self, change: impl FnOnce(&mut BudgetState, &Quota, u64) -> R) -> Option<R> {
        let Self::Some {
            state,
            quota,
            heap,
            heap_left,
            ..
        } = self
        else {
            return None;
        };
        let before = state.heap();
        // A window with heap memory keeps at least two slots.
        let fewest = if before > 0 { 2 } else { 1 };
        let slots = slots(*heap, **heap_left).max(fewest);
        let result = change(state, quota, slots);
        **heap_left = (**heap_left + before).saturating_sub(state.heap());
        Some(result)
    }

    /// Returns the time until a cost is admissible. See [`BudgetState::wait`].
    pub(super) fn wait(&mut self, now: Nanos, cost: u64) -> Option<u64> {
        let wait = self.change(|state, quota, _| state.wait(quota, now, cost));
        wait.unwrap_or(Some(A_SECOND))
    }

    /// Takes units without a check.
    fn take(&mut self, now: Nanos, cost: u64) {
        self.change(|state, quota, slots| state.take(quota, now, cost, slots));
    }

    /// Returns the status, with the wait of the charge.
    fn status(&self, now: Nanos, wait: Option<u64>) -> BudgetStatus {
        let remaining = match self {
            Self::Some { state, quota, .. } => state.remaining(quota, now),
            Self::None => Remaining {
                units: 0,
                full_in: A_SECOND,
            },
        };
        BudgetStatus::of(remaining, wait)
    }

    /// Decides a charge, and takes it if it is admissible or report-only.
    pub(super) fn decide(&mut self, charge: &Charge<'_>, now: Nanos) -> BudgetStatus {
        let wait = self.wait(now, charge.need());
        let take = wait == Some(0) || charge.is_report_only();
        self.apply(charge, now, wait, take)
    }

    /// Takes a charge if `take` is set. Returns the status afterwards.
    pub(super) fn apply(
        &mut self,
        charge: &Charge<'_>,
        now: Nanos,
        wait: Option<u64>,
        take: bool,
    ) -> BudgetStatus {
        if take && charge.cost() > 0 {
            self.take(now, charge.cost());
        }
        let refund_note = match self {
            Self::Some {
                state, counted_in, ..
            } => RefundNote {
                counted_in: *counted_in,
                ..state.refund_note()
            },
            Self::None => RefundNote {
                counted_in: BudgetOwner::Shared,
                ..RefundNote::default()
            },
        };
        let status = self.status(now, wait).with_refund_note(refund_note);
        if charge.is_report_only() {
            return status.of_report_only();
        }
        status
    }

    /// Sets the kind of budget for the note of a refund.
    pub(super) fn with_counted_in(mut self, kind: BudgetOwner) -> Self {
        if let Self::Some { counted_in, .. } = &mut self {
            *counted_in = kind;
        }
        self
    }

    /// Refunds units of a charge.
    pub(super) fn refund(&mut self, refund: &Refund<'_>, now: Nanos) {
        self.change(|state, _, _| state.refund(refund, now));
    }
}
