//! One budget, wherever it is kept, and what memory is left for it to grow.

use crate::limit::state::{Left, Nanos, State};
use crate::limit::{Charge, Refund, Standing};
use crate::quota::Quota;

/// The memory that the first slots of a window take: a window that is refused it has one slot.
const SMALLEST_HEAP: usize = 128;

/// In nanoseconds.
const A_SECOND: u64 = 1_000_000_000;

pub(super) enum Budget<'s> {
    Some {
        state: &'s mut State,
        quota: Quota,
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
            heap_left,
        } = self
        {
            let before = state.heap();
            let may_grow = **heap_left > before + SMALLEST_HEAP;
            state.take(quota, now, cost, may_grow);
            **heap_left = (**heap_left + before).saturating_sub(state.heap());
        }
    }

    /// How it stands, if so long is to wait for what was asked for.
    fn standing(&self, now: Nanos, wait: Option<u64>) -> Standing {
        let left = match self {
            Self::Some { state, quota, .. } => state.left(quota, now),
            Self::None => Left {
                spare: 0,
                unit: 1,
                whole_in: A_SECOND,
            },
        };
        Standing::of(left, wait)
    }

    /// The whole of a decision about one charge.
    pub(super) fn decide(&mut self, charge: &Charge<'_>, now: Nanos) -> Standing {
        let wait = self.wait(now, charge.cost());
        self.settle(charge, now, wait, wait == Some(0))
    }

    /// Takes a charge, or not, and says how the budget stands then.
    pub(super) fn settle(
        &mut self,
        charge: &Charge<'_>,
        now: Nanos,
        wait: Option<u64>,
        take: bool,
    ) -> Standing {
        if take && charge.cost() > 0 {
            self.take(now, charge.cost());
        }
        self.standing(now, wait)
    }

    pub(super) fn refund(&mut self, refund: &Refund<'_>, now: Nanos) {
        if let Self::Some { state, .. } = self {
            state.refund(refund, now);
        }
    }
}
