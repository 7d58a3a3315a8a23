//! A part of the memory: the budgets whose keys fall to it, under one lock.

use super::budget::Budget;
use super::hasher::{BudgetKey, rule};
use crate::limit::Charge;
use crate::limit::rate::Rate;
use crate::limit::state::{Nanos, State};
use crate::quota::Quota;
use crate::table::{NoPlace, Table};

/// The most budgets that newcomers share in a shard when all its memory is in use.
const SHARED: usize = 64;

pub(super) struct Shard {
    budgets: Budgets,
    /// Budgets that newcomers share, by the rule.
    shared: Vec<(u64, State)>,
    /// What is left for the slots of those windows that use many, in bytes.
    heap_left: usize,
}

type Budgets = Table<State, 2>;

/// Where a budget is, until room is made for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At this place in the table.
    Own(usize),
    /// Among those that newcomers share.
    Shared(usize),
    /// There is no room for it at all.
    Nowhere,
}

impl Shard {
    /// A shard that uses at most so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        // Two thirds for the table.
        let budgets = Budgets::new(bytes / 3 * 2 / Budgets::PLACE);
        let taken = budgets.places() * Budgets::PLACE + SHARED * size_of::<(u64, State)>();
        Self {
            budgets,
            shared: Vec::new(),
            heap_left: bytes.saturating_sub(taken),
        }
    }

    /// How many budgets there is room for.
    pub(super) fn places(&self) -> usize {
        self.budgets.places()
    }

    /// How many budgets are remembered.
    pub(super) fn len(&self) -> usize {
        self.budgets.len()
    }

    /// The budget of a rate, if it is remembered.
    #[inline]
    pub(super) fn rate(&mut self, key: BudgetKey) -> Option<&mut Rate> {
        let at = self.budgets.find(key)?;
        match self.budgets.get_mut(at)? {
            State::Rate(rate) => Some(rate),
            _ => None,
        }
    }

    /// Finds a budget, if it is remembered.
    pub(super) fn find(&self, key: BudgetKey) -> Option<Place> {
        self.budgets.find(key).map(Place::Own)
    }

    pub(super) fn at(&mut self, place: Place, quota: &Quota) -> Budget<'_> {
        let state = match place {
            Place::Own(at) => self.budgets.get_mut(at),
            Place::Shared(at) => self.shared.get_mut(at).map(|(_, state)| state),
            Place::Nowhere => None,
        };
        let Some(state) = state else {
            return Budget::None;
        };
        Budget::Some {
            state,
            quota: *quota,
            heap_left: &mut self.heap_left,
        }
    }

    /// Makes a budget that is not there, if need be in the place of one that is whole; not of those in
    /// `taken`, where another shard's place of the same number only makes us look further. `None` if
    /// room was made instead: what was found before may be elsewhere then.
    pub(super) fn make(
        &mut self,
        key: BudgetKey,
        charge: &Charge<'_>,
        now: Nanos,
        taken: &[Place],
    ) -> Option<Place> {
        let whole = State::whole(&charge.quota());
        // A thread that was held up may come with an earlier instant, at which it was not whole yet.
        let idle_since = now.when_held_up();
        let may_forget = |at, state: &State| {
            let forgotten = state.is_idle(idle_since) && !taken.contains(&Place::Own(at));
            self.heap_left += if forgotten { state.heap() } else { 0 };
            forgotten
        };
        match self.budgets.put(key, whole.clone(), may_forget) {
            Ok(place) => Some(Place::Own(place)),
            Err(NoPlace::Moved) => None,
            Err(NoPlace::Full) => Some(self.share(rule(charge), whole, idle_since, taken)),
        }
    }

    /// The budget that newcomers under a rule share, if need be in the place of that of another rule.
    fn share(&mut self, rule: u64, whole: State, idle_since: Nanos, taken: &[Place]) -> Place {
        let found = self.shared.iter().position(|(shared, _)| *shared == rule);
        if let Some(at) = found {
            return Place::Shared(at);
        }
        if self.shared.len() < SHARED {
            self.shared.push((rule, whole));
            return Place::Shared(self.shared.len() - 1);
        }
        let mut others = self.shared.iter_mut().enumerate();
        let idle = others.find(|(at, (_, state))| {
            state.is_idle(idle_since) && !taken.contains(&Place::Shared(*at))
        });
        let Some((at, other)) = idle else {
            return Place::Nowhere;
        };
        self.heap_left += other.1.heap();
        *other = (rule, whole);
        Place::Shared(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{LimitName, MAX_CHARGES, Subject};

    const START: Nanos = Nanos {
        wall: 0,
        monotonic: 0,
    };

    /// Else one of them would be charged to the other.
    #[test]
    fn the_budgets_of_one_request_take_no_places_from_each_other() {
        for quota in [Quota::per_hour(1), Quota::per_hour(1).smooth()] {
            let name = LimitName::new("limit");
            let charge = Charge::new(&name, Subject::Global, quota, 1);
            let mut shard = Shard::new(2_000);
            let mut key = (1..).map(|key: u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            // All budgets are whole, so that each may be forgotten: but not by the same request.
            for _ in 0..50 {
                let mut places: Vec<Place> = Vec::new();
                while places.len() < MAX_CHARGES {
                    let key = key.next().unwrap_or_default();
                    match shard.make(key, &charge, START, &places) {
                        Some(place @ Place::Own(_)) => {
                            assert!(!places.contains(&place));
                            places.push(place);
                        }
                        Some(_) => break,       // there is no room for more
                        None => places.clear(), // they are elsewhere now
                    }
                }
            }
        }
    }

    #[test]
    fn a_shared_budget_that_is_whole_is_given_to_another_rule() {
        let mut full = Shard::new(2_000);
        let mut place = |rule, taken: &[Place]| full.share(rule, State::default(), START, taken);
        let places: Vec<_> = (0..SHARED as u64).map(|rule| place(rule, &[])).collect();
        assert_eq!(place(0, &places), Place::Shared(0));
        assert_eq!(place(100, &places), Place::Nowhere);
        assert_eq!(place(100, &places[..7]), Place::Shared(7));
        assert_eq!(place(100, &[]), Place::Shared(7));
        assert_eq!(place(7, &[]), Place::Shared(0));
    }
}
