//! Memory for budgets of one kind: a table of them, and what their windows need beyond it.

use super::budget::Budget;
use super::hasher::BudgetKey;
use crate::limit::rate::Rate;
use crate::limit::state::{Nanos, State};
use crate::quota::Quota;
use crate::table::{NoPlace, Table};

pub(super) struct Room {
    budgets: Budgets,
    /// What is left for the slots of those windows that use many, in bytes.
    heap_left: usize,
}

type Budgets = Table<State, 2>;

impl Room {
    /// A room of at most so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        // Two thirds for the table.
        let budgets = Budgets::new(bytes / 3 * 2 / Budgets::PLACE);
        let taken = budgets.places() * Budgets::PLACE;
        Self {
            budgets,
            heap_left: bytes.saturating_sub(taken),
        }
    }

    /// Returns how many budgets there is room for.
    pub(super) fn places(&self) -> usize {
        self.budgets.places()
    }

    /// Returns how many budgets are remembered.
    pub(super) fn len(&self) -> usize {
        self.budgets.len()
    }

    /// Returns the budget of a rate, if it is remembered.
    #[inline]
    pub(super) fn rate(&mut self, key: BudgetKey) -> Option<&mut Rate> {
        let at = self.budgets.find(key)?;
        match self.budgets.get_mut(at)? {
            State::Rate(rate) => Some(rate),
            _ => None,
        }
    }

    /// Finds a budget, if it is remembered.
    #[inline]
    pub(super) fn find(&self, key: BudgetKey) -> Option<usize> {
        self.budgets.find(key)
    }

    /// Makes a budget that is not there, if need be in the place of one that is whole. Those in `taken` are
    /// kept: they are the same request's.
    pub(super) fn make(
        &mut self,
        key: BudgetKey,
        quota: &Quota,
        now: Nanos,
        taken: impl Fn(usize) -> bool,
    ) -> Result<usize, NoPlace> {
        // A thread that was held up may come with an earlier instant, at which it was not whole yet.
        let idle_since = now.when_held_up();
        let may_forget = |at, state: &State| {
            let forgotten = state.is_idle(idle_since) && !taken(at);
            self.heap_left += if forgotten { state.heap() } else { 0 };
            forgotten
        };
        self.budgets.put(key, State::whole(quota), may_forget)
    }

    /// Lends memory for its slots to a budget that is kept elsewhere.
    pub(super) fn lend<'r>(&'r mut self, state: &'r mut State, quota: &Quota) -> Budget<'r> {
        Budget::Some {
            state,
            quota: *quota,
            heap_left: &mut self.heap_left,
        }
    }

    /// Takes back what it lent to a budget that is forgotten.
    pub(super) fn take_back(&mut self, state: &State) {
        self.heap_left += state.heap();
    }

    /// Returns the budget at a place.
    pub(super) fn at(&mut self, place: usize, quota: &Quota) -> Budget<'_> {
        match self.budgets.get_mut(place) {
            Some(state) => Budget::Some {
                state,
                quota: *quota,
                heap_left: &mut self.heap_left,
            },
            None => Budget::None,
        }
    }
}
