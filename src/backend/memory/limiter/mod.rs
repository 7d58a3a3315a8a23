//! Budgets in this process's memory: exact under concurrency, and bounded under any stream of keys.
//!
//! [`hasher`] says which budget a charge is about, [`shard`] where that is, [`networks`] where it
//! is instead if there are too many addresses, a [`room`] bounds how many there are, and [`budget`]
//! is one of them.

mod budget;
mod hasher;
mod networks;
mod room;
mod shard;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;

use crate::limit::charge::{Charge, MAX_CHARGES, Subject};
use crate::limit::instant::Nanos;
use crate::limit::ledger::Counted;
use crate::limit::limiter::{LimiterError, RateLimiter};
use crate::limit::rate::RateQuota;
use crate::limit::refund::Refund;
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::clock::{Clock, Now};
use crate::util::parts::Parts;
use crate::util::table::NoPlace;
use budget::Budget;
use hasher::{BudgetKey, Hasher};
use networks::{NetworkPlace, Networks};
use shard::{Place, Shard};

/// A limiter for one process, exact under concurrency and bounded in memory.
///
/// Budgets end with the process, also those of a month, and each process has its own.
///
/// A budget that is whole again is forgotten when its place is needed. Nothing runs in the
/// background. Rates and windows go by the monotonic clock, so a step of the wall clock moves
/// calendar quotas only.
///
/// Half of the memory is for keys and accounts. When all of that is in use, newcomers share budgets
/// with each other, which is stricter, until there is room for one of their own.
///
/// Addresses have memory of their own, a quarter, and the networks around them have another. When
/// there are more addresses than fit in, a newcomer is counted with its own network until there is
/// room again: the /24 of an IPv4 address, then its /16 and its /8; the /56 of an IPv6 address,
/// then its /48, /32 and /20. So whoever has many addresses uses up their own network's budget, and
/// nobody else's.
///
/// ```
/// use tower_api_key::limit::MemoryLimiter;
///
/// let limiter = MemoryLimiter::with_memory(16 << 20); // 16 MiB
/// ```
pub struct MemoryLimiter {
    shards: Shards,
    /// Locked after all shards.
    networks: Mutex<Networks>,
    hasher: Hasher,
}

/// Parts of the memory, each under a lock of its own.
type Shards = Parts<Shard>;

impl MemoryLimiter {
    /// A limiter that uses at most 64 MiB.
    pub fn new() -> Self {
        Self::with_memory(64 << 20)
    }

    /// Creates a limiter that uses at most about this number of bytes, but at least 1 MiB.
    ///
    /// In 64 MiB there is room for 490,000 keys and accounts and for 240,000 addresses. A window
    /// that is busy all the time takes 1,600 bytes more; there is room for 5,000 of those among
    /// keys and accounts.
    ///
    /// Where more windows are busy, they are counted in fewer slots: 8 or 2 instead of 60. A use
    /// then counts for up to a seventh of the window longer than it must, or for twice as long as
    /// the window. Whoever uses half of a quota or less is still admitted. Rates and calendar
    /// quotas take no such memory.
    ///
    /// Too little memory makes callers share budgets when more of them are active than fit in.
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

    /// The number of keys and accounts there is room for. When four fifths are in use, the first
    /// newcomers may have to share.
    pub fn capacity(&self) -> usize {
        self.shards.each().map(|shard| shard.places()).sum()
    }

    /// How many budgets are remembered, those of addresses and networks among them.
    pub fn len(&self) -> usize {
        let in_shards: usize = self.shards.each().map(|shard| shard.len()).sum();
        in_shards + self.networks().len()
    }

    /// Whether no budget is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn decide(&self, charges: &[Charge<'_>], now: Now) -> Result<Verdict, LimiterError> {
        let now = Nanos::of(now);
        let [charge] = charges else {
            return Ok(self.decide_all(few(charges)?, now));
        };
        if let Some(standing) = self.decide_rate(charge, now) {
            return Ok(Verdict::of_one(standing));
        }
        Ok(Verdict::of_one(self.decide_one(charge, now)))
    }

    fn decide_all(&self, charges: &[Charge<'_>], now: Nanos) -> Verdict {
        let mut open = self.open(charges, now);
        let mut waits = ArrayVec::<Option<u64>, MAX_CHARGES>::new();
        for (at, charge) in charges.iter().enumerate() {
            let need = open.need(at, charges);
            waits.push(open.budget(at, charge).wait(now, need));
        }
        let mut binding = charges
            .iter()
            .zip(&waits)
            .filter(|(it, _)| !it.is_report_only());
        let take = binding.all(|(_, wait)| *wait == Some(0));
        let settle = |(at, charge): (usize, &Charge<'_>)| {
            let mut budget = open.budget(at, charge);
            budget.settle(charge, now, waits[at], take)
        };
        charges.iter().enumerate().map(settle).collect()
    }

    /// In one stroke, if it is about a rate whose budget is remembered, as most charges are.
    #[inline]
    fn decide_rate(&self, charge: &Charge<'_>, now: Nanos) -> Option<BudgetStatus> {
        if charge.is_report_only() || charge.need() > charge.cost() {
            return None;
        }
        let quota = RateQuota::of(&charge.quota())?;
        let key = self.hasher.key(charge);
        let mut shard = self.shards.at(shard_of(key));
        Some(
            shard
                .rate(key, charge)?
                .decide(quota, now.monotonic, charge.cost()),
        )
    }

    #[inline(never)]
    fn decide_one(&self, charge: &Charge<'_>, now: Nanos) -> BudgetStatus {
        let key = self.hasher.key(charge);
        let mut shard = self.shards.at(shard_of(key));
        let quota = charge.quota();
        shard.tidy(charge, now);
        let place = loop {
            let found = shard.find(key, charge);
            if let Some(place) = found.or_else(|| shard.make(key, charge, now, &[])) {
                break place;
            }
        };
        match (place, charge.subject()) {
            (Place::Nowhere, Subject::Address(address)) => {
                drop(shard);
                self.decide_for_network(charge, address, now)
            }
            _ => shard.at(place, &quota).decide(charge, now),
        }
    }

    #[cold]
    fn decide_for_network(&self, charge: &Charge<'_>, address: IpAddr, now: Nanos) -> BudgetStatus {
        let mut networks = self.networks();
        let place = loop {
            match networks.find_or_make(&self.hasher, charge, address, now, |_| false) {
                Ok(place) => break Some(place),
                Err(NoPlace::Moved) => {}
                Err(NoPlace::Full) => break None,
            }
        };
        let quota = charge.quota();
        let mut budget = place.map_or(Budget::None, |place| networks.at(place, &quota));
        budget.decide(charge, now)
    }

    fn networks(&self) -> MutexGuard<'_, Networks> {
        // Nothing in there is left half-changed by a panic.
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back to the budgets that the charges were counted in, and to no others. One that is
    /// not remembered is whole already. What newcomers share is not given back to them: others used
    /// it.
    fn give_back(&self, refunds: &[Refund<'_>], now: Now) {
        let now = Nanos::of(now);
        for refund in refunds {
            let charge = refund.charge();
            let (key, quota) = (self.hasher.key(&charge), charge.quota());
            match (refund.taken().ledger.counted, charge.subject()) {
                (Counted::Own, _) => {
                    let mut shard = self.shards.at(shard_of(key));
                    if let Some(place) = shard.find(key, &charge) {
                        shard.at(place, &quota).refund(refund, now);
                    }
                }
                (Counted::Network(width), Subject::Address(address)) => {
                    let mut networks = self.networks();
                    if let Some(place) = networks.find(&self.hasher, &charge, address, width) {
                        networks.at(place, &quota).refund(refund, now);
                    }
                }
                _ => {}
            }
        }
    }

    /// Locks what the charges are about, in one order for everybody, and finds their budgets.
    fn open(&self, charges: &[Charge<'_>], now: Nanos) -> Open<'_> {
        let keys = charges.iter().map(|charge| self.hasher.key(charge));
        let keys: ArrayVec<BudgetKey, MAX_CHARGES> = keys.collect();
        let mut order: ArrayVec<usize, MAX_CHARGES> = keys.iter().copied().map(shard_of).collect();
        order.sort_unstable();
        let mut open = Open {
            limiter: self,
            locked: ArrayVec::new(),
            networks: None,
            places: ArrayVec::new(),
        };
        for (at, shard) in order.iter().enumerate() {
            if at == 0 || order[at - 1] != *shard {
                open.locked.push((*shard, self.shards.at(*shard)));
            }
        }
        while !open.find_all(&keys, charges, now) {}
        open
    }
}

/// No more charges than a request may bring.
fn few<T>(charges: &[T]) -> Result<&[T], LimiterError> {
    let few = charges.len() <= MAX_CHARGES;
    few.then_some(charges)
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
        Some(few(refunds).map(|refunds| self.give_back(refunds, now)))
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        self.give_back(few(refunds)?, clock.readings());
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
struct Open<'l> {
    limiter: &'l MemoryLimiter,
    locked: ArrayVec<(usize, MutexGuard<'l, Shard>), MAX_CHARGES>,
    /// Locked once an address falls back on its network.
    networks: Option<MutexGuard<'l, Networks>>,
    /// The place of each charge.
    places: ArrayVec<Spot, MAX_CHARGES>,
}

/// Where the budget of one charge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    /// In this shard.
    Shard(usize, Place),
    Network(NetworkPlace),
}

impl Open<'_> {
    /// Finds the budget of each charge, or makes it. `false` if room was made for one, so that
    /// what was found before may be elsewhere now.
    fn find_all(&mut self, keys: &[BudgetKey], charges: &[Charge<'_>], now: Nanos) -> bool {
        self.places.clear();
        for (key, charge) in keys.iter().zip(charges) {
            let in_shard = |spot: &Spot| match spot {
                Spot::Shard(_, place) => Some(*place),
                Spot::Network(_) => None,
            };
            let taken: ArrayVec<Place, MAX_CHARGES> =
                self.places.iter().filter_map(in_shard).collect();
            let shard = shard_of(*key);
            let locked = self.shard(shard);
            locked.tidy(charge, now);
            let found = locked.find(*key, charge);
            let Some(place) = found.or_else(|| locked.make(*key, charge, now, &taken)) else {
                return false;
            };
            let spot = match (place, charge.subject()) {
                (Place::Nowhere, Subject::Address(address)) => {
                    match self.find_network(charge, address, now) {
                        Ok(place) => Spot::Network(place),
                        Err(NoPlace::Moved) => return false,
                        Err(NoPlace::Full) => Spot::Shard(shard, place),
                    }
                }
                _ => Spot::Shard(shard, place),
            };
            self.places.push(spot);
        }
        true
    }

    #[cold]
    fn find_network(
        &mut self,
        charge: &Charge<'_>,
        address: IpAddr,
        now: Nanos,
    ) -> Result<NetworkPlace, NoPlace> {
        let limiter = self.limiter;
        let networks = self.networks.get_or_insert_with(|| limiter.networks());
        let taken = |place| self.places.contains(&Spot::Network(place));
        networks.find_or_make(&limiter.hasher, charge, address, now, taken)
    }

    fn budget(&mut self, at: usize, charge: &Charge<'_>) -> Budget<'_> {
        let quota = charge.quota();
        match self.places[at] {
            Spot::Shard(shard, place) => self.shard(shard).at(place, &quota),
            Spot::Network(place) => match &mut self.networks {
                Some(networks) => networks.at(place, &quota),
                None => Budget::None,
            },
        }
    }

    /// Returns what a charge and all others against its budget cost together, or what one of them
    /// needs, if that is more.
    fn need(&self, charge: usize, charges: &[Charge<'_>]) -> u64 {
        let with_places = charges.iter().zip(&self.places);
        let same = with_places.filter(|(_, spot)| **spot == self.places[charge]);
        let (cost, need) = same.fold((0_u64, 0), |(cost, need), (charge, _)| {
            (cost.saturating_add(charge.cost()), charge.need().max(need))
        });
        cost.max(need)
    }

    fn shard(&mut self, wanted: usize) -> &mut Shard {
        let found = self.locked.iter_mut().find(|(shard, _)| *shard == wanted);
        &mut found.expect("every shard of the charges is locked").1
    }
}

/// The shard of a budget: by bits that its tables make the least use of.
#[expect(
    clippy::cast_possible_truncation,
    reason = "its last bits are asked for"
)]
const fn shard_of(key: BudgetKey) -> usize {
    Shards::place_of(key as usize)
}
