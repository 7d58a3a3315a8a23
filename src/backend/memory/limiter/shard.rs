//! A part of the memory: the budgets whose keys fall to it, under one lock.

use super::budget::Budget;
use super::hasher::{BudgetKey, rule};
use crate::limit::Charge;
use crate::limit::rate::Rate;
use crate::limit::state::{HELD_UP, State};
use crate::quota::Quota;
use crate::table::{NoPlace, Table};

/// The most budgets that newcomers share in a shard when all its memory is in use.
const SHARED: usize = 64;

pub(super) struct Shard {
    /// The budgets of rates: an instant each.
    rates: Rates,
    /// Those of the other shapes.
    others: Others,
    /// Budgets that newcomers share, by the rule.
    shared: Vec<(u64, State)>,
    /// What is left for the slots of those windows that use many, in bytes.
    heap_left: usize,
}

type Rates = Table<Rate, 4>;
type Others = Table<State, 2>;

/// Where a budget is, until room is made for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At this place among the rates.
    Rate(usize),
    /// At this place among the others.
    Other(usize),
    /// Among those that newcomers share.
    Shared(usize),
    /// There is no room for it at all.
    Nowhere,
}

impl Shard {
    /// A shard that uses at most so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        // Two thirds for the tables, in which there is a place for a rate to two others.
        let pairs = bytes / 3 * 2 / (Rates::PLACE + 2 * Others::PLACE);
        let (rates, others) = (Rates::new(pairs), Others::new(2 * pairs));
        let places = rates.places() * Rates::PLACE + others.places() * Others::PLACE;
        let taken = places + SHARED * size_of::<(u64, State)>();
        Self {
            rates,
            others,
            shared: Vec::new(),
            heap_left: bytes.saturating_sub(taken),
        }
    }

    /// How many budgets there is room for.
    pub(super) fn places(&self) -> usize {
        self.rates.places() + self.others.places()
    }

    /// How many budgets are remembered.
    pub(super) fn len(&self) -> usize {
        self.rates.len() + self.others.len()
    }

    /// The budget of a rate, if it is remembered.
    #[inline]
    pub(super) fn rate(&mut self, key: BudgetKey) -> Option<&mut Rate> {
        let at = self.rates.find(key)?;
        self.rates.get_mut(at)
    }

    /// Finds a budget, if it is remembered.
    pub(super) fn find(&self, key: BudgetKey, charge: &Charge<'_>) -> Option<Place> {
        if charge.quota().is_rate() {
            return self.rates.find(key).map(Place::Rate);
        }
        self.others.find(key).map(Place::Other)
    }

    pub(super) fn at(&mut self, place: Place, quota: &Quota) -> Budget<'_> {
        let heap_left = &mut self.heap_left;
        let budget = match place {
            Place::Rate(at) => {
                let rate = self.rates.get_mut(at);
                rate.and_then(|rate| Budget::of_rate(rate, quota))
            }
            Place::Other(at) => {
                let state = self.others.get_mut(at);
                state.map(|state| Budget::of(state, quota, heap_left))
            }
            Place::Shared(at) => {
                let shared = self.shared.get_mut(at);
                shared.map(|(_, state)| Budget::of(state, quota, heap_left))
            }
            Place::Nowhere => None,
        };
        budget.unwrap_or(Budget::None)
    }

    /// Makes a budget that is not there, if need be in the place of one that is whole; not of those in
    /// `taken`, where another shard's place of the same number only makes us look further. `None` if
    /// room was made instead: what was found before may be elsewhere then.
    pub(super) fn make(
        &mut self,
        key: BudgetKey,
        charge: &Charge<'_>,
        now: u64,
        taken: &[Place],
    ) -> Option<Place> {
        let whole = State::whole(&charge.quota());
        // A thread that was held up may come with an earlier instant, at which it was not whole yet.
        let idle_since = now.saturating_sub(HELD_UP);
        let made = if let State::Rate(rate) = whole {
            let may_forget =
                |at, rate: &Rate| rate.is_idle(idle_since) && !taken.contains(&Place::Rate(at));
            self.rates.put(key, rate, may_forget).map(Place::Rate)
        } else {
            let may_forget = |at, state: &State| {
                let forgotten = state.is_idle(idle_since) && !taken.contains(&Place::Other(at));
                self.heap_left += if forgotten { state.heap() } else { 0 };
                forgotten
            };
            let made = self.others.put(key, whole.clone(), may_forget);
            made.map(Place::Other)
        };
        match made {
            Ok(place) => Some(place),
            Err(NoPlace::Moved) => None,
            Err(NoPlace::Full) => Some(self.share(rule(charge), whole, idle_since, taken)),
        }
    }

    /// The budget that newcomers under a rule share, if need be in the place of that of another rule.
    fn share(&mut self, rule: u64, whole: State, idle_since: u64, taken: &[Place]) -> Place {
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
                    match shard.make(key, &charge, 0, &places) {
                        Some(place @ (Place::Rate(_) | Place::Other(_))) => {
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
        let mut place = |rule, taken: &[Place]| full.share(rule, State::default(), 0, taken);
        let places: Vec<_> = (0..SHARED as u64).map(|rule| place(rule, &[])).collect();
        assert_eq!(place(0, &places), Place::Shared(0));
        assert_eq!(place(100, &places), Place::Nowhere);
        assert_eq!(place(100, &places[..7]), Place::Shared(7));
        assert_eq!(place(100, &[]), Place::Shared(7));
        assert_eq!(place(7, &[]), Place::Shared(0));
    }
}
