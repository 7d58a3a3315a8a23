//! Bounded memory for budgets of one kind: a cuckoo hash table, and memory for windows of several
//! slots.

use super::budget::Budget;
use super::hasher::BudgetKey;
use crate::key::quota::{Quota, QuotaKind};
use crate::limit::budget_state::BudgetState;
use crate::limit::charge::Charge;
use crate::limit::instant::Nanos;
use crate::limit::refund_note::BudgetOwner;
use crate::limit::verdict::BudgetStatus;
use crate::util::cuckoo::{CuckooTable, Inserted};

/// A table of budgets with bounded memory. It evicts full budgets.
pub(super) struct BudgetTable {
    budgets: Budgets,
    /// The memory for windows of several slots, in bytes.
    heap: usize,
    /// The free part of the memory, in bytes.
    heap_left: usize,
    /// The next bucket to tidy.
    hand: usize,
}

/// The number of buckets that each use of a window tidies while less than half of the memory is
/// free.
const TIDIED: usize = 4;
/// The same number while less than a quarter is free.
const TIDIED_IN_NEED: usize = 64;

type Budgets = CuckooTable<BudgetState, 2>;

impl BudgetTable {
    /// Creates a table that uses at most about this number of bytes.
    pub(super) fn new(bytes: usize) -> Self {
        // Half of the memory is for the table, and the rest for windows.
        let budgets = Budgets::new(bytes / 2 / Budgets::SLOT);
        let heap = bytes.saturating_sub(budgets.capacity() * Budgets::SLOT);
        Self {
            budgets,
            heap,
            heap_left: heap,
            hand: 0,
        }
    }

    /// Returns the maximum number of budgets.
    pub(super) fn capacity(&self) -> usize {
        self.budgets.capacity()
    }

    /// Returns the number of budgets.
    pub(super) fn len(&self) -> usize {
        self.budgets.len()
    }

    /// Decides a charge in one step, if its budget is present and the charge needs no change of the
    /// memory. This is the path of nearly all charges.
    #[inline]
    pub(super) fn decide_in_place(
        &mut self,
        key: BudgetKey,
        charge: &Charge<'_>,
        now: Nanos,
    ) -> Option<BudgetStatus> {
        // While memory is short, windows are merged first.
        let is_short = self.heap_left < self.heap / 2;
        let slot = self.budgets.find(key)?;
        let state = self.budgets.get_mut(slot)?;
        state.decide_in_place(&charge.quota(), now, charge.cost(), is_short)
    }

    /// Finds the slot of a budget.
    #[inline]
    pub(super) fn find(&self, key: BudgetKey) -> Option<usize> {
        self.budgets.find(key)
    }

    /// Inserts a full budget, and evicts an idle one if necessary. Budgets in `pinned` are never
    /// evicted, since they belong to the same request. Returns `None` if there is no free slot.
    pub(super) fn insert(
        &mut self,
        key: BudgetKey,
        quota: &Quota,
        now: Nanos,
        pinned: &[BudgetKey],
    ) -> Option<Inserted<BudgetState>> {
        // A delayed thread may come with an earlier instant, at which the budget was not full yet.
        let idle_since = now.of_a_delayed_thread();
        let inserted = self
            .budgets
            .insert(key, BudgetState::full(quota), |other, state| {
                state.is_idle(idle_since) && !pinned.contains(&other)
            })?;
        if let Some(evicted) = &inserted.evicted {
            self.heap_left += evicted.heap();
        }
        Some(inserted)
    }

    /// Frees the memory of idle windows, a few buckets at a time, while memory is short. Otherwise
    /// idle windows would keep it until their slots are evicted.
    pub(super) fn tidy(&mut self, quota: &Quota, now: Nanos) {
        let is_window = matches!(quota.kind(), QuotaKind::Window { .. });
        if !is_window || self.heap_left >= self.heap / 2 {
            return;
        }
        let idle_since = now.of_a_delayed_thread();
        let is_in_need = self.heap_left < self.heap / 4;
        let buckets = if is_in_need { TIDIED_IN_NEED } else { TIDIED };
        for bucket in (0..buckets).map(|at| self.hand.wrapping_add(at)) {
            for state in self.budgets.bucket_mut(bucket) {
                let before = state.heap();
                state.tidy(idle_since);
                self.heap_left += before - state.heap();
            }
        }
        self.hand = self.hand.wrapping_add(buckets);
    }

    /// Returns a budget that is stored elsewhere, and whose window uses the memory of this table.
    pub(super) fn lend<'r>(&'r mut self, state: &'r mut BudgetState, quota: &Quota) -> Budget<'r> {
        Budget::Some {
            state,
            quota: *quota,
            counted_in: BudgetOwner::Shared,
            heap: self.heap,
            heap_left: &mut self.heap_left,
        }
    }

    /// Releases the memory of a budget from [`lend`](Self::lend) that is evicted.
    pub(super) fn release(&mut self, state: &BudgetState) {
        self.heap_left += state.heap();
    }

    /// Returns the budget in a slot.
    pub(super) fn at(&mut self, slot: usize, quota: &Quota) -> Budget<'_> {
        match self.budgets.get_mut(slot) {
            Some(state) => Budget::Some {
                state,
                quota: *quota,
                counted_in: BudgetOwner::Own,
                heap: self.heap,
                heap_left: &mut self.heap_left,
            },
            None => Budget::None,
        }
    }
}
