//! Memory for budgets of one kind: a table of them, and what their windows need beyond it.

use super::budget::Budget;
use super::hasher::BudgetKey;
use crate::key::quota::{Quota, Shape};
use crate::limit::instant::Nanos;
use crate::limit::ledger::Counted;
use crate::limit::rate::Rate;
use crate::limit::state::State;
use crate::util::table::{NoPlace, Table};

pub(super) struct Room {
    budgets: Budgets,
    /// The memory for the slots of those windows that use many, and what is left of it, in bytes.
    heap: usize,
    heap_left: usize,
    /// The line of the table that is tidied next.
    hand: usize,
}

/// How many lines are tidied at each use of a window while memory for slots is short, and while
/// next to none is left.
const TIDIED: usize = 4;
const TIDIED_IN_NEED: usize = 64;

type Budgets = Table<State, 2>;

impl Room {
    /// A room of at most so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        // Half for the table.
        let budgets = Budgets::new(bytes / 2 / Budgets::PLACE);
        let heap = bytes.saturating_sub(budgets.places() * Budgets::PLACE);
        Self {
            budgets,
            heap,
            heap_left: heap,
            hand: 0,
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

    /// Makes a budget that is not there, if need be in the place of one that is whole. Those in
    /// `taken` are kept: they are the same request's.
    pub(super) fn make(
        &mut self,
        key: BudgetKey,
        quota: &Quota,
        now: Nanos,
        taken: impl Fn(usize) -> bool,
    ) -> Result<usize, NoPlace> {
        // A thread that was held up may come with an earlier instant, at which it was not whole
        // yet.
        let idle_since = now.when_held_up();
        let may_forget = |at, state: &State| {
            let forgotten = state.is_idle(idle_since) && !taken(at);
            self.heap_left += if forgotten { state.heap() } else { 0 };
            forgotten
        };
        self.budgets.put(key, State::whole(quota), may_forget)
    }

    /// Gives back the memory of windows that are whole again, a few at a time, while it is short.
    /// Without this, windows that nobody uses any more would hold it until their places are needed.
    pub(super) fn tidy(&mut self, quota: &Quota, now: Nanos) {
        let is_window = matches!(quota.form(), Shape::Window { .. });
        if !is_window || self.heap_left >= self.heap / 2 {
            return;
        }
        let idle_since = now.when_held_up();
        let is_in_need = self.heap_left < self.heap / 4;
        let lines = if is_in_need { TIDIED_IN_NEED } else { TIDIED };
        for line in (0..lines).map(|at| self.hand.wrapping_add(at)) {
            for state in self.budgets.line_mut(line) {
                let before = state.heap();
                state.tidy(idle_since);
                self.heap_left += before - state.heap();
            }
        }
        self.hand = self.hand.wrapping_add(lines);
    }

    /// Lends memory for its slots to a budget that is kept elsewhere.
    pub(super) fn lend<'r>(&'r mut self, state: &'r mut State, quota: &Quota) -> Budget<'r> {
        Budget::Some {
            state,
            quota: *quota,
            counted: Counted::Shared,
            heap: self.heap,
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
                counted: Counted::Own,
                heap: self.heap,
                heap_left: &mut self.heap_left,
            },
            None => Budget::None,
        }
    }
}
