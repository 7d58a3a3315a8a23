//! Shards of the memory: each holds the budgets under one lock.

use super::budget::Budget;
use super::budget_table::BudgetTable;
use super::hasher::{BudgetKey, rule};
use crate::key::quota::Quota;
use crate::limit::budget_state::BudgetState;
use crate::limit::charge::{Charge, Subject};
use crate::limit::instant::Nanos;
use crate::limit::verdict::BudgetStatus;

/// The maximum number of shared budgets in a shard. Newcomers share them while its memory is full.
const SHARED: usize = 64;

/// The budgets under one lock.
pub(super) struct Shard {
    /// The budgets of keys, accounts and all other subjects except addresses.
    own: BudgetTable,
    /// The budgets of addresses. A client may have any number of addresses.
    addresses: BudgetTable,
    /// The shared budgets of newcomers that are not addresses, by the hash of the rule.
    shared: Vec<(u64, BudgetState)>,
}

/// The slot of a budget in a shard. It is valid until an insert moves budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShardSlot {
    /// A slot of [`Shard::own`].
    Own(usize),
    /// A slot of [`Shard::addresses`].
    Address(usize),
    /// The index of a shared budget.
    Shared(usize),
    /// No slot: memory is full.
    None,
}

/// Set if an insert moved other budgets, so that slots that were found before are invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HasMoved(pub(super) bool);

impl Shard {
    /// Creates a shard that uses at most about this number of bytes, two thirds of them for keys
    /// and accounts.
    pub(super) fn new(bytes: usize) -> Self {
        let shared = SHARED * size_of::<(u64, BudgetState)>();
        let rest = bytes.saturating_sub(shared);
        let addresses = rest / 3;
        Self {
            own: BudgetTable::new(rest - addresses),
            addresses: BudgetTable::new(addresses),
            shared: Vec::new(),
        }
    }

    /// Returns the maximum number of budgets of keys and accounts.
    pub(super) fn capacity(&self) -> usize {
        self.own.capacity()
    }

    /// Returns the number of budgets, without shared ones.
    pub(super) fn len(&self) -> usize {
        self.own.len() + self.addresses.len()
    }

    /// Decides a charge in one step. See [`BudgetTable::decide_in_place`].
    #[inline]
    pub(super) fn decide_in_place(
        &mut self,
        key: BudgetKey,
        charge: &Charge<'_>,
        now: Nanos,
    ) -> Option<BudgetStatus> {
        self.table(charge).decide_in_place(key, charge, now)
    }

    /// Finds the slot of a budget.
    pub(super) fn find(&self, key: BudgetKey, charge: &Charge<'_>) -> Option<ShardSlot> {
        match charge.subject() {
            Subject::Address(_) => self.addresses.find(key).map(ShardSlot::Address),
            _ => self.own.find(key).map(ShardSlot::Own),
        }
    }

    /// Frees memory of idle windows while it is short.
    pub(super) fn tidy(&mut self, charge: &Charge<'_>, now: Nanos) {
        self.table(charge).tidy(&charge.quota(), now);
    }

    /// Returns the budget in a slot.
    pub(super) fn at(&mut self, slot: ShardSlot, quota: &Quota) -> Budget<'_> {
        match slot {
            ShardSlot::Own(at) => self.own.at(at, quota),
            ShardSlot::Address(at) => self.addresses.at(at, quota),
            ShardSlot::Shared(at) => match self.shared.get_mut(at) {
                Some((_, state)) => self.own.lend(state, quota),
                None => Budget::None,
            },
            ShardSlot::None => Budget::None,
        }
    }

    /// Inserts a full budget, and evicts an idle one if necessary. Budgets in `pinned` and `found`
    /// are never evicted, since they belong to the same request.
    ///
    /// While memory is full, the result is [`ShardSlot::None`] for an address, which is counted
    /// with its network. Other newcomers get a shared budget.
    pub(super) fn insert(
        &mut self,
        key: BudgetKey,
        charge: &Charge<'_>,
        now: Nanos,
        pinned: &[BudgetKey],
        found: &[ShardSlot],
    ) -> (ShardSlot, HasMoved) {
        let quota = charge.quota();
        let is_address = matches!(charge.subject(), Subject::Address(_));
        match self.table(charge).insert(key, &quota, now, pinned) {
            Some(inserted) if is_address => (
                ShardSlot::Address(inserted.slot),
                HasMoved(inserted.has_moved),
            ),
            Some(inserted) => (ShardSlot::Own(inserted.slot), HasMoved(inserted.has_moved)),
            None if is_address => (ShardSlot::None, HasMoved(false)),
            None => {
                let full = BudgetState::full(&quota);
                let idle_since = now.of_a_delayed_thread();
                let slot = self.share(rule(charge), full, idle_since, found);
                (slot, HasMoved(false))
            }
        }
    }

    /// Returns the table for a charge's subject.
    #[inline]
    fn table(&mut self, charge: &Charge<'_>) -> &mut BudgetTable {
        match charge.subject() {
            Subject::Address(_) => &mut self.addresses,
            _ => &mut self.own,
        }
    }

    /// Returns the shared budget of a rule. Evicts an idle one of another rule if necessary.
    fn share(
        &mut self,
        rule: u64,
        full: BudgetState,
        idle_since: Nanos,
        found: &[ShardSlot],
    ) -> ShardSlot {
        let shared = self.shared.iter().position(|(shared, _)| *shared == rule);
        if let Some(at) = shared {
            return ShardSlot::Shared(at);
        }
        if self.shared.len() < SHARED {
            self.shared.push((rule, full));
            return ShardSlot::Shared(self.shared.len() - 1);
        }
        let mut others = self.shared.iter_mut().enumerate();
        let idle = others.find(|(at, (_, state))| {
            state.is_idle(idle_since) && !found.contains(&ShardSlot::Shared(*at))
        });
        let Some((at, other)) = idle else {
            return ShardSlot::None;
        };
        self.own.release(&other.1);
        *other = (rule, full);
        ShardSlot::Shared(at)
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

    /// Otherwise one budget would be charged for the other.
    #[test]
    fn the_budgets_of_one_request_do_not_evict_each_other() {
        for quota in [Quota::per_hour(1), Quota::per_hour(1).smooth()] {
            let name = LimitName::new("limit");
            let charge = Charge::new(&name, Subject::Global, quota, 1);
            let mut shard = Shard::new(2_000);
            let mut next = (1..).map(|key: u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            // All budgets are full, so each may be evicted, but not by the same request.
            for _ in 0..50 {
                let mut keys: Vec<BudgetKey> = Vec::new();
                while keys.len() < MAX_CHARGES {
                    let key = next.next().unwrap_or_default();
                    let (slot, _) = shard.insert(key, &charge, START, &keys, &[]);
                    if !matches!(slot, ShardSlot::Own(_)) {
                        break; // the table is full
                    }
                    keys.push(key);
                    assert!(keys.iter().all(|key| shard.find(*key, &charge).is_some()));
                }
            }
        }
    }

    #[test]
    fn a_shared_budget_that_is_full_is_given_to_another_rule() {
        let mut full = Shard::new(2_000);
        let mut slot =
            |rule, found: &[ShardSlot]| full.share(rule, BudgetState::default(), START, found);
        let slots: Vec<_> = (0..SHARED as u64).map(|rule| slot(rule, &[])).collect();
        assert_eq!(slot(0, &slots), ShardSlot::Shared(0));
        assert_eq!(slot(100, &slots), ShardSlot::None);
        assert_eq!(slot(100, &slots[..7]), ShardSlot::Shared(7));
        assert_eq!(slot(100, &[]), ShardSlot::Shared(7));
        assert_eq!(slot(7, &[]), ShardSlot::Shared(0));
    }
}
