//! A part of the memory: the budgets whose keys fall to it, under one lock.

use super::budget::Budget;
use super::hasher::{BudgetKey, rule};
use super::room::Room;
use crate::key::quota::Quota;
use crate::limit::charge::{Charge, Subject};
use crate::limit::instant::Nanos;
use crate::limit::rate::Rate;
use crate::limit::state::State;
use crate::util::table::NoPlace;

/// The most budgets that newcomers share in a shard when all its memory is in use.
const SHARED: usize = 64;

pub(super) struct Shard {
    /// Of keys and accounts, which only the application makes.
    own: Room,
    /// Of addresses, which strangers have as many of as they like.
    addresses: Room,
    /// Budgets that newcomers without an address share, by the rule.
    shared: Vec<(u64, State)>,
}

/// Where a budget is, until room is made for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At this place among those of keys and accounts.
    Own(usize),
    /// At this place among those of addresses.
    Address(usize),
    /// Among those that newcomers share.
    Shared(usize),
    /// There is no room for it at all.
    Nowhere,
}

impl Shard {
    /// A shard that uses at most so many bytes, two thirds of them for keys and accounts.
    pub(super) fn new(bytes: usize) -> Self {
        let shared = SHARED * size_of::<(u64, State)>();
        let rest = bytes.saturating_sub(shared);
        let addresses = rest / 3;
        Self {
            own: Room::new(rest - addresses),
            addresses: Room::new(addresses),
            shared: Vec::new(),
        }
    }

    /// Returns how many budgets of keys and accounts there is room for.
    pub(super) fn places(&self) -> usize {
        self.own.places()
    }

    /// Returns how many budgets are remembered.
    pub(super) fn len(&self) -> usize {
        self.own.len() + self.addresses.len()
    }

    /// Returns the budget of a rate, if it is remembered.
    #[inline]
    pub(super) fn rate(&mut self, key: BudgetKey, charge: &Charge<'_>) -> Option<&mut Rate> {
        self.room(charge).rate(key)
    }

    /// Finds a budget, if it is remembered.
    pub(super) fn find(&self, key: BudgetKey, charge: &Charge<'_>) -> Option<Place> {
        match charge.subject() {
            Subject::Address(_) => self.addresses.find(key).map(Place::Address),
            _ => self.own.find(key).map(Place::Own),
        }
    }

    /// Makes room for windows, if they are short of memory.
    pub(super) fn tidy(&mut self, charge: &Charge<'_>, now: Nanos) {
        self.room(charge).tidy(&charge.quota(), now);
    }

    /// Returns the budget at a place.
    pub(super) fn at(&mut self, place: Place, quota: &Quota) -> Budget<'_> {
        match place {
            Place::Own(at) => self.own.at(at, quota),
            Place::Address(at) => self.addresses.at(at, quota),
            Place::Shared(at) => match self.shared.get_mut(at) {
                Some((_, state)) => self.own.lend(state, quota),
                None => Budget::None,
            },
            Place::Nowhere => Budget::None,
        }
    }

    /// Makes a budget that is not there, if need be in the place of one that is whole; not of those
    /// in `taken`, where another shard's place of the same number only makes us look further.
    /// `None` if room was made instead: what was found before may be elsewhere then.
    ///
    /// An address that finds no room is [nowhere](Place::Nowhere) here: its network is, elsewhere.
    pub(super) fn make(
        &mut self,
        key: BudgetKey,
        charge: &Charge<'_>,
        now: Nanos,
        taken: &[Place],
    ) -> Option<Place> {
        let quota = charge.quota();
        let is_address = matches!(charge.subject(), Subject::Address(_));
        let place = if is_address {
            Place::Address
        } else {
            Place::Own
        };
        let made = self
            .room(charge)
            .make(key, &quota, now, |at| taken.contains(&place(at)));
        match made {
            Ok(at) => Some(place(at)),
            Err(NoPlace::Moved) => None,
            Err(NoPlace::Full) if is_address => Some(Place::Nowhere),
            Err(NoPlace::Full) => {
                let whole = State::whole(&quota);
                Some(self.share(rule(charge), whole, now.when_held_up(), taken))
            }
        }
    }

    #[inline]
    fn room(&mut self, charge: &Charge<'_>) -> &mut Room {
        match charge.subject() {
            Subject::Address(_) => &mut self.addresses,
            _ => &mut self.own,
        }
    }

    /// The budget that newcomers under a rule share, if need be in the place of that of another
    /// rule.
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
        self.own.take_back(&other.1);
        *other = (rule, whole);
        Place::Shared(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::charge::{LimitName, MAX_CHARGES};

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
