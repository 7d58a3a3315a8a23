//! A part of the memory: the budgets whose keys fall to it, under one lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::budget::Budget;
use super::hasher::{BudgetKey, rule};
use super::table::Table;
use crate::limit::rate::Rate;
use crate::limit::state::State;
use crate::limit::{Charge, MAX_CHARGES};
use crate::quota::Quota;

/// The most budgets that newcomers share in a shard when all its memory is in use.
const SHARED: usize = 64;

const _: () = assert!(Table::<Rate>::PLACE == 17 && Table::<State>::PLACE == 33);

/// Shards share no line of the processor's cache with each other.
#[repr(align(128))]
pub(super) struct Locked(Mutex<Shard>);

impl Locked {
    /// A shard that uses at most so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Mutex::new(Shard::new(bytes)))
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, Shard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Shard {
    /// The budgets of rates: an instant each.
    rates: Table<Rate>,
    /// Those of the other shapes.
    others: Table<State>,
    /// Budgets that newcomers share, by the rule.
    shared: Vec<(u64, State)>,
    /// What is left for the slots of those windows that use many, in bytes.
    heap_left: usize,
}

/// Where a budget is.
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
    fn new(bytes: usize) -> Self {
        // Two thirds for the tables, in which there is a place for a rate to two others.
        let pair = Table::<Rate>::PLACE + 2 * Table::<State>::PLACE;
        let rates = (bytes / 3 * 2 / pair + 1).next_power_of_two() / 2; // a table doubles
        // A table that is not half full clears up in its place rather than grow.
        let places = |buckets: usize| (buckets / 8 * 7 / 2).saturating_sub(MAX_CHARGES);
        let taken = rates * pair + SHARED * size_of::<(u64, State)>();
        Self {
            rates: Table::new(places(rates)),
            others: Table::new(places(2 * rates)),
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
        self.rates.get(at)
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
                let rate = self.rates.get(at);
                rate.and_then(|rate| Budget::of_rate(rate, quota))
            }
            Place::Other(at) => {
                let state = self.others.get(at);
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

    /// Makes sure that no budget is moved while one request finds its own.
    pub(super) fn make_room(&mut self) {
        self.rates.make_room();
        self.others.make_room();
    }

    /// Makes room for a budget that is not there; not at the cost of those in `taken`, where another
    /// shard's place of the same number only makes us look further.
    pub(super) fn make(
        &mut self,
        key: BudgetKey,
        charge: &Charge<'_>,
        now: u64,
        taken: &[Place],
    ) -> Place {
        let whole = State::whole(&charge.quota());
        let made = if let State::Rate(rate) = whole {
            let may_forget =
                |at, rate: &Rate| rate.is_idle(now) && !taken.contains(&Place::Rate(at));
            self.rates.make(key, rate, may_forget).map(Place::Rate)
        } else {
            let may_forget = |at, state: &State| {
                let forgotten = state.is_idle(now) && !taken.contains(&Place::Other(at));
                self.heap_left += if forgotten { state.heap() } else { 0 };
                forgotten
            };
            let made = self.others.make(key, whole.clone(), may_forget);
            made.map(Place::Other)
        };
        made.unwrap_or_else(|| self.share(rule(charge), whole))
    }

    /// The budget that newcomers under a rule share.
    fn share(&mut self, rule: u64, whole: State) -> Place {
        let found = self.shared.iter().position(|(shared, _)| *shared == rule);
        if let Some(at) = found {
            return Place::Shared(at);
        }
        if self.shared.len() == SHARED {
            return Place::Nowhere;
        }
        self.shared.push((rule, whole));
        Place::Shared(self.shared.len() - 1)
    }
}
