//! Budgets in this process's memory: exact under concurrency, and bounded for any stream of keys.
//!
//! - [`hasher`]: the key of a charge's budget.
//! - [`shard`]: the budgets under one lock.
//! - [`networks`]: the budgets of networks, for addresses without a budget of their own.
//! - [`budget_table`]: bounded memory for budgets.
//! - [`budget`]: one budget.

mod budget;
mod budget_table;
mod hasher;
mod networks;
mod shard;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;

use crate::limit::charge::{Charge, MAX_CHARGES, Subject};
use crate::limit::instant::Nanos;
use crate::limit::limiter::{LimiterError, RateLimiter};
use crate::limit::refund::Refund;
use crate::limit::refund_note::BudgetOwner;
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::clock::{Clock, Now};
use crate::util::striped::Striped;
use budget::Budget;
use hasher::{BudgetKey, Hasher};
use networks::{NetworkSlot, Networks};
use shard::{HasMoved, Shard, ShardSlot};

/// A limiter for one process, exact under concurrency and bounded in memory.
///
/// Budgets end with the process, even those of a month, and each process has its own.
///
/// A full budget is evicted when its slot is needed. No background task runs. Rates and windows use
/// the monotonic clock, so a step of the wall clock affects calendar quotas only.
///
/// Half of the memory is for keys and accounts. While it is full, newcomers share budgets with each
/// other, which is stricter.
///
/// A quarter of the memory is for addresses, and a quarter for the networks around them. While the
/// memory for addresses is full, a newcomer is counted with its network: the /24 of an IPv4
/// address, then its /16 and its /8; the /56 of an IPv6 address, then its /48, /32 and /20. A
/// client with many addresses therefore uses up the budget of its own network, and of no other.
///
/// ```
/// use tower_api_key::limit::MemoryLimiter;
///
/// let limiter = MemoryLimiter::with_memory(16 << 20); // 16 MiB
/// ```
pub struct MemoryLimiter {
    shards: Shards,
    /// The budgets of networks. The lock is taken after those of all shards.
    networks: Mutex<Networks>,
    hasher: Hasher,
}

/// The shards of the memory, each under a lock of its own.
type Shards = Striped<Shard>;

impl MemoryLimiter {
    /// Creates a limiter that uses at most about 64 MiB.
    pub fn new() -> Self {
        Self::with_memory(64 << 20)
    }

    /// Creates a limiter that uses at most about this number of bytes, but at least 1 MiB.
    ///
    /// In 64 MiB, 490,000 keys and accounts and 240,000 addresses fit. A window that is always busy
    /// takes another 1,600 bytes. Up to 5,000 such windows of keys and accounts have the full
    /// resolution of 60 slots.
    ///
    /// If more windows are busy, they have fewer slots. With 8 slots, a use counts for up to a
    /// seventh of the window longer than it must. With 2 slots, a use counts for up to twice the
    /// window, so a caller that uses half of a quota or less is still admitted. When the memory for
    /// slots is used up, further windows have 1 slot: its uses count until the caller has paused
    /// for a window, so a steady caller is denied at times. Rates and calendar quotas take no such
    /// memory.
    ///
    /// With too little memory, callers share budgets when there are more active callers than fit.
    pub fn with_memory(bytes: usize) -> Self {
        let bytes = bytes.max(1 << 20);
        let networks = bytes / 4;
        let shard = (bytes - networks) / Shards::COUNT;
        Self {
            shards: Shards::new(|| Shard::new(shard)),
            networks: Mutex::new(Networks::new(networks)),
            hasher: Hasher::new(),
        }
    }

    /// Returns the maximum number of budgets of keys and accounts. From a load factor of four
    /// fifths, newcomers may have to share budgets.
    pub fn capacity(&self) -> usize {
        self.shards.each().map(|shard| shard.capacity()).sum()
    }

    /// Returns the number of budgets, including those of addresses and networks.
    pub fn len(&self) -> usize {
        let in_shards: usize = self.shards.each().map(|shard| shard.len()).sum();
        in_shards + self.networks().len()
    }

    /// Returns whether there is no budget.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn decide(&self, charges: &[Charge<'_>], now: Now) -> Result<Verdict, LimiterError> {
        let now = Nanos::of(now);
        let [charge] = charges else {
            return Ok(self.decide_all(check_count(charges)?, now));
        };
        Ok(Verdict::of_one(self.decide_one(charge, now)))
    }

    fn decide_all(&self, charges: &[Charge<'_>], now: Nanos) -> Verdict {
        let mut locked = self.lock(charges, now);
        let mut waits = ArrayVec::<Option<u64>, MAX_CHARGES>::new();
        for (at, charge) in charges.iter().enumerate() {
            let need = locked.need(at, charges);
            waits.push(locked.budget(at, charge).wait(now, need));
        }
        let mut binding = charges
            .iter()
            .zip(&waits)
            .filter(|(it, _)| !it.is_report_only());
        let take = binding.all(|(_, wait)| *wait == Some(0));
        let apply = |(at, charge): (usize, &Charge<'_>)| {
            let mut budget = locked.budget(at, charge);
            budget.apply(charge, now, waits[at], take)
        };
        charges.iter().enumerate().map(apply).collect()
    }

    #[inline]
    fn decide_one(&self, charge: &Charge<'_>, now: Nanos) -> BudgetStatus {
        let key = self.hasher.key(charge);
        let mut shard = self.shards.at(shard_of(key));
        let is_plain = !charge.is_report_only() && charge.need() <= charge.cost();
        if is_plain && let Some(status) = shard.decide_in_place(key, charge, now) {
            return status;
        }
        self.decide_in_shard(shard, key, charge, now)
    }

    #[inline(never)]
    fn decide_in_shard(
        &self,
        mut shard: MutexGuard<'_, Shard>,
        key: BudgetKey,
        charge: &Charge<'_>,
        now: Nanos,
    ) -> BudgetStatus {
        shard.tidy(charge, now);
        let found = shard.find(key, charge);
        let slot = found.unwrap_or_else(|| shard.insert(key, charge, now, &[], &[]).0);
        if let (ShardSlot::None, Subject::Address(address)) = (slot, charge.subject()) {
            drop(shard);
            return self.decide_for_network(charge, address, now);
        }
        shard.at(slot, &charge.quota()).decide(charge, now)
    }

    #[cold]
    fn decide_for_network(&self, charge: &Charge<'_>, address: IpAddr, now: Nanos) -> BudgetStatus {
        let mut networks = self.networks();
        let mut keys = ArrayVec::new();
        let found = networks.find_or_insert(&self.hasher, charge, address, now, &mut keys);
        let quota = charge.quota();
        let mut budget = found.map_or(Budget::None, |(slot, _)| networks.at(slot, &quota));
        budget.decide(charge, now)
    }

    fn networks(&self) -> MutexGuard<'_, Networks> {
        // A panic leaves no budget half-changed.
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refunds charges to the budgets in which they were counted. A budget that is not present is
    /// full already. Shared budgets are not refunded, since others use them.
    fn refund_all(&self, refunds: &[Refund<'_>], now: Now) {
        let now = Nanos::of(now);
        for refund in refunds {
            let charge = refund.charge();
            let (key, quota) = (self.hasher.key(&charge), charge.quota());
            match (refund.taken().refund_note.counted_in, charge.subject()) {
                (BudgetOwner::Own, _) => {
                    let mut shard = self.shards.at(shard_of(key));
                    if let Some(slot) = shard.find(key, &charge) {
                        shard.at(slot, &quota).refund(refund, now);
                    }
                }
                (BudgetOwner::Network(width), Subject::Address(address)) => {
                    let mut networks = self.networks();
                    if let Some(slot) = networks.find(&self.hasher, &charge, address, width) {
                        networks.at(slot, &quota).refund(refund, now);
                    }
                }
                _ => {}
            }
        }
    }

    /// Locks the shards of the charges, in the same order in all threads, and finds their budgets.
    fn lock(&self, charges: &[Charge<'_>], now: Nanos) -> LockedBudgets<'_> {
        let keys = charges.iter().map(|charge| self.hasher.key(charge));
        let keys: ArrayVec<BudgetKey, MAX_CHARGES> = keys.collect();
        let mut order: ArrayVec<usize, MAX_CHARGES> = keys.iter().copied().map(shard_of).collect();
        order.sort_unstable();
        let mut budgets = LockedBudgets {
            limiter: self,
            shards: ArrayVec::new(),
            networks: None,
            locations: ArrayVec::new(),
        };
        for (at, shard) in order.iter().enumerate() {
            if at == 0 || order[at - 1] != *shard {
                budgets.shards.push((*shard, self.shards.at(*shard)));
            }
        }
        // If an insert has moved budgets, the locations that were found before are invalid, and all
        // budgets are found again. Each round inserts at least one budget, so there are few rounds.
        while budgets.find_all(&keys, charges, now) == HasMoved(true) {}
        budgets
    }
}

/// Checks that there are at most 16 charges or refunds.
fn check_count<T>(charges: &[T]) -> Result<&[T], LimiterError> {
    let is_valid = charges.len() <= MAX_CHARGES;
    is_valid
        .then_some(charges)
        .ok_or_else(|| LimiterError::unavailable("more than 16 charges"))
}

impl RateLimiter for MemoryLimiter {
    fn check_now(&self, charges: &[Charge<'_>], now: Now) -> Option<Result<Verdict, LimiterError>> {
        Some(self.decide(charges, now))
    }

    fn is_durable(&self) -> bool {
        false
    }

    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        self.decide(charges, clock.readings())
    }

    fn refund_now(&self, refunds: &[Refund<'_>], now: Now) -> Option<Result<(), LimiterError>> {
        Some(check_count(refunds).map(|refunds| self.refund_all(refunds, now)))
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        self.refund_all(check_count(refunds)?, clock.readings());
        Ok(())
    }
}

impl Default for MemoryLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLimiter")
            .field("budgets", &self.len())
            .field("capacity", &self.capacity())
            .finish()
    }
}

/// The budgets of one request, locked together.
struct LockedBudgets<'l> {
    limiter: &'l MemoryLimiter,
    shards: ArrayVec<(usize, MutexGuard<'l, Shard>), MAX_CHARGES>,
    /// The budgets of networks. Locked when an address falls back to its network.
    networks: Option<MutexGuard<'l, Networks>>,
    /// The location of each charge's budget.
    locations: ArrayVec<BudgetLocation, MAX_CHARGES>,
}

/// The location of a budget. It is valid until an insert moves budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BudgetLocation {
    /// A slot in the shard with this index.
    Shard(usize, ShardSlot),
    Network(NetworkSlot),
}

impl LockedBudgets<'_> {
    /// Finds the budget of each charge, or inserts it.
    fn find_all(&mut self, keys: &[BudgetKey], charges: &[Charge<'_>], now: Nanos) -> HasMoved {
        self.locations.clear();
        let mut has_moved = false;
        let mut network_keys = ArrayVec::new();
        for (key, charge) in keys.iter().zip(charges) {
            let shard = shard_of(*key);
            let locked = self.shard(shard);
            locked.tidy(charge, now);
            let slot = if let Some(slot) = locked.find(*key, charge) {
                slot
            } else {
                let found = self.slots_in_shards();
                let locked = self.shard(shard);
                let (slot, moved) = locked.insert(*key, charge, now, keys, &found);
                has_moved |= moved.0;
                slot
            };
            let mut location = BudgetLocation::Shard(shard, slot);
            if let (ShardSlot::None, Subject::Address(address)) = (slot, charge.subject())
                && let Some((slot, moved)) =
                    self.find_network(charge, address, now, &mut network_keys)
            {
                has_moved |= moved.0;
                location = BudgetLocation::Network(slot);
            }
            self.locations.push(location);
        }
        HasMoved(has_moved)
    }

    /// Returns the slots of the budgets that were found in shards.
    fn slots_in_shards(&self) -> ArrayVec<ShardSlot, MAX_CHARGES> {
        let slot = |location: &BudgetLocation| match location {
            BudgetLocation::Shard(_, slot) => Some(*slot),
            BudgetLocation::Network(_) => None,
        };
        self.locations.iter().filter_map(slot).collect()
    }

    /// Finds or inserts the budget of a network around an address.
    #[cold]
    fn find_network(
        &mut self,
        charge: &Charge<'_>,
        address: IpAddr,
        now: Nanos,
        keys: &mut ArrayVec<BudgetKey, MAX_CHARGES>,
    ) -> Option<(NetworkSlot, HasMoved)> {
        let limiter = self.limiter;
        let networks = self.networks.get_or_insert_with(|| limiter.networks());
        networks.find_or_insert(&limiter.hasher, charge, address, now, keys)
    }

    fn budget(&mut self, at: usize, charge: &Charge<'_>) -> Budget<'_> {
        let quota = charge.quota();
        match self.locations[at] {
            BudgetLocation::Shard(shard, slot) => self.shard(shard).at(slot, &quota),
            BudgetLocation::Network(slot) => match &mut self.networks {
                Some(networks) => networks.at(slot, &quota),
                None => Budget::None,
            },
        }
    }

    /// Returns the units that must remain in the budget of a charge: the sum of the costs of all
    /// charges against it, or the greatest need of one of them, if that is more.
    fn need(&self, charge: usize, charges: &[Charge<'_>]) -> u64 {
        let with_locations = charges.iter().zip(&self.locations);
        let same = with_locations.filter(|(_, location)| **location == self.locations[charge]);
        let (cost, need) = same.fold((0_u64, 0), |(cost, need), (charge, _)| {
            (cost.saturating_add(charge.cost()), charge.need().max(need))
        });
        cost.max(need)
    }

    fn shard(&mut self, wanted: usize) -> &mut Shard {
        let found = self.shards.iter_mut().find(|(shard, _)| *shard == wanted);
        &mut found.expect("every shard of the charges is locked").1
    }
}

/// Returns the shard of a budget, by the bits of its key that its tables use least.
#[expect(
    clippy::cast_possible_truncation,
    reason = "only the lowest bits are used"
)]
const fn shard_of(key: BudgetKey) -> usize {
    Shards::index_of(key as usize)
}
