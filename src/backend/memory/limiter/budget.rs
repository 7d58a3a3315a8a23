//! One budget, wherever it is kept, and what memory is left for it to grow.

use crate::key::quota::Quota;
use crate::limit::charge::Charge;
use crate::limit::instant::Left;
use crate::limit::instant::Nanos;
use crate::limit::ledger::Counted;
use crate::limit::ledger::Ledger;
use crate::limit::refund::Refund;
use crate::limit::state::State;
use crate::limit::verdict::BudgetStatus;
use crate::limit::window::SLOTS;

/// In nanoseconds.
const A_SECOND: u64 = 1_000_000_000;

/// How many slots a window may have: fewer where memory for them is short, so that whoever keeps
/// many windows busy makes all of them coarser, before there is none left for the others.
const fn slots(heap: usize, left: usize) -> u64 {
    match left {
        left if left >= heap / 2 => SLOTS,
        left if left >= heap / 4 => 8,
        left if left >= 256 => 2,
        _ => 1,
    }
}

pub(super) enum Budget<'s> {
    Some {
        state: &'s mut State,
        quota: Quota,
        counted: Counted,
        /// The memory for slots of windows, and what is left of it, in bytes.
        heap: usize,
        heap_left: &'s mut usize,
    },
    /// There is no memory for it: it has nothing to give, and will be asked again in a second.
    None,
}

impl Budget<'_> {
    /// In what time so much is admissible, as [`State::wait`] has it.
    pub(super) fn wait(&mut self, now: Nanos, cost: u64) -> Option<u64> {
        match self {
            Self::Some { state, quota, .. } => state.wait(quota, now, cost),
            Self::None => Some(A_SECOND),
        }
    }

    /// Takes units that are admissible now.
    fn take(&mut self, now: Nanos, cost: u64) {
        if let Self::Some {
            state,
            quota,
            heap,
            heap_left,
            ..
        } = self
        {
            let before = state.heap();
            // One that has memory of its own keeps as much of it as two slots take.
            let fewest = if before > 0 { 2 } else { 1 };
            let slots = slots(*heap, **heap_left).max(fewest);
            state.take(quota, now, cost, slots);
            **heap_left = (**heap_left + before).saturating_sub(state.heap());
        }
    }

    /// How it stands, if so long is to wait for what was asked for.
    fn standing(&self, now: Nanos, wait: Option<u64>) -> BudgetStatus {
        let left = match self {
            Self::Some { state, quota, .. } => state.left(quota, now),
            Self::None => Left {
                spare: 0,
                unit: 1,
                whole_in: A_SECOND,
            },
        };
        BudgetStatus::of(left, wait)
    }

    /// The whole of a decision about one charge.
    pub(super) fn decide(&mut self, charge: &Charge<'_>, now: Nanos) -> BudgetStatus {
        let wait = self.wait(now, charge.need());
        let take = wait == Some(0) || charge.is_report_only();
        self.settle(charge, now, wait, take)
    }

    /// Takes a charge, or not, and says how the budget stands then.
    pub(super) fn settle(
        &mut self,
        charge: &Charge<'_>,
        now: Nanos,
        wait: Option<u64>,
        take: bool,
    ) -> BudgetStatus {
        if take && charge.cost() > 0 {
            self.take(now, charge.cost());
        }
        let ledger = match self {
            Self::Some { state, counted, .. } => Ledger {
                counted: *counted,
                ..state.ledger()
            },
            Self::None => Ledger {
                counted: Counted::Shared,
                ..Ledger::default()
            },
        };
        let standing = self.standing(now, wait).with_ledger(ledger);
        if charge.is_report_only() {
            return standing.of_report_only();
        }
        standing
    }

    /// Notes that it is the budget of others, too.
    pub(super) fn counted_in(mut self, place: Counted) -> Self {
        if let Self::Some { counted, .. } = &mut self {
            *counted = place;
        }
        self
    }

    pub(super) fn refund(&mut self, refund: &Refund<'_>, now: Nanos) {
        if let Self::Some { state, .. } = self {
            state.refund(refund, now);
        }
    }
}
