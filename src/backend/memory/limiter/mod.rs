//! Budgets in this process's memory: exact under concurrency, and bounded under any stream of keys.
//!
//! [`hasher`] says which budget a charge is about, [`shard`] where that is, a
//! [`Table`](crate::table::Table) bounds how many there are, and [`budget`] is one of them.

mod budget;
mod hasher;
mod shard;

use std::fmt;
use std::sync::MutexGuard;

use arrayvec::ArrayVec;

use crate::clock::{Clock, Now};
use crate::limit::rate::RateQuota;
use crate::limit::state::Nanos;
use crate::limit::{Charge, LimiterError, MAX_CHARGES, RateLimiter, Standing, Verdict};
use crate::parts::Parts;
use budget::Budget;
use hasher::{BudgetKey, Hasher};
use shard::{Place, Shard};

/// A limiter for one process, exact under concurrency and bounded in memory.
///
/// A budget that is whole again is forgotten when its place is needed. When all are in use,
/// newcomers share budgets with each other, which is stricter, until there is room for one of their
/// own. Nothing runs in the background. Rates and windows go by the monotonic clock, so a step of the wall
/// clock moves calendar quotas only.
///
/// ```
/// use tower_api_key::MemoryLimiter;
///
/// let limiter = MemoryLimiter::with_memory(16 << 20); // 16 MiB
/// ```
pub struct MemoryLimiter {
    shards: Shards,
    hasher: Hasher,
}

/// Parts of the memory, each under a lock of its own.
type Shards = Parts<Shard>;

impl MemoryLimiter {
    /// A limiter that uses at most 64 MiB.
    pub fn new() -> Self {
        Self::with_memory(64 << 20)
    }

    /// A limiter that uses about so many bytes at most, but at least 1 MiB. In 64 MiB there is room for
    /// 1.3 million budgets, of which 20,000 windows may be busy all the time: each takes 1,000 bytes more.
    ///
    /// Too little memory makes callers share budgets when more of them are active than fit in.
    pub fn with_memory(bytes: usize) -> Self {
        let bytes = bytes.max(1 << 20) / Shards::COUNT;
        Self {
            shards: Shards::new(|| Shard::new(bytes)),
            hasher: Hasher::new(),
        }
    }

    /// The number of budgets there is room for. When four fifths are in use, the first newcomers may have to share.
    pub fn capacity(&self) -> usize {
        self.shards.each().map(|shard| shard.places()).sum()
    }

    /// How many budgets are remembered.
    pub fn len(&self) -> usize {
        self.shards.each().map(|shard| shard.len()).sum()
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
            let cost = open.cost(at, charges);
            waits.push(open.budget(at, charge).wait(now, cost));
        }
        let take = waits.iter().all(|wait| *wait == Some(0));
        let settle = |(at, charge): (usize, &Charge<'_>)| {
            let mut budget = open.budget(at, charge);
            budget.settle(charge, now, waits[at], take)
        };
        charges.iter().enumerate().map(settle).collect()
    }

    /// In one stroke, if it is about a rate whose budget is remembered, as most charges are.
    #[inline]
    fn decide_rate(&self, charge: &Charge<'_>, now: Nanos) -> Option<Standing> {
        let quota = RateQuota::of(&charge.quota())?;
        let key = self.hasher.key(charge);
        let mut shard = self.shards.at(shard_of(key));
        Some(shard.rate(key)?.decide(quota, now.monotonic, charge.cost()))
    }

    #[inline(never)]
    fn decide_one(&self, charge: &Charge<'_>, now: Nanos) -> Standing {
        let key = self.hasher.key(charge);
        let mut shard = self.shards.at(shard_of(key));
        let quota = charge.quota();
        let place = loop {
            let found = shard.find(key);
            if let Some(place) = found.or_else(|| shard.make(key, charge, now, &[])) {
                break place;
            }
        };
        shard.at(place, &quota).decide(charge, now)
    }

    /// A budget that is not remembered is whole already, or shared: what others used of it is not
    /// given back to them.
    fn give_back(&self, charges: &[Charge<'_>], now: Now) {
        let now = Nanos::of(now);
        for charge in charges {
            let key = self.hasher.key(charge);
            let mut shard = self.shards.at(shard_of(key));
            if let Some(place) = shard.find(key) {
                shard.at(place, &charge.quota()).refund(now, charge.cost());
            }
        }
    }

    /// Locks what the charges are about, in one order for everybody, and finds their budgets.
    fn open(&self, charges: &[Charge<'_>], now: Nanos) -> Open<'_> {
        let keys = charges.iter().map(|charge| self.hasher.key(charge));
        let keys: ArrayVec<BudgetKey, MAX_CHARGES> = keys.collect();
        let mut order: ArrayVec<usize, MAX_CHARGES> = keys.iter().copied().map(shard_of).collect();
        order.sort_unstable();
        let mut open = Open::default();
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
fn few<'c, 'a>(charges: &'c [Charge<'a>]) -> Result<&'c [Charge<'a>], LimiterError> {
    let few = charges.len() <= MAX_CHARGES;
    few.then_some(charges)
        .ok_or_else(|| LimiterError::unavailable("more than 16 charges"))
}

impl RateLimiter for MemoryLimiter {
    fn check_now(&self, charges: &[Charge<'_>], now: Now) -> Option<Result<Verdict, LimiterError>> {
        Some(self.decide(charges, now))
    }

    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        self.decide(charges, clock.readings())
    }

    fn refund_now(&self, charges: &[Charge<'_>], now: Now) -> Option<Result<(), LimiterError>> {
        Some(few(charges).map(|charges| self.give_back(charges, now)))
    }

    async fn refund(&self, charges: &[Charge<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        self.give_back(few(charges)?, clock.readings());
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
#[derive(Default)]
struct Open<'l> {
    locked: ArrayVec<(usize, MutexGuard<'l, Shard>), MAX_CHARGES>,
    /// The shard of each charge, and the place in it.
    places: ArrayVec<(usize, Place), MAX_CHARGES>,
}

impl Open<'_> {
    /// Finds the budget of each charge, or makes it. `false` if room was made for one, so that
    /// what was found before may be elsewhere now.
    fn find_all(&mut self, keys: &[BudgetKey], charges: &[Charge<'_>], now: Nanos) -> bool {
        self.places.clear();
        for (key, charge) in keys.iter().zip(charges) {
            let taken: ArrayVec<Place, MAX_CHARGES> =
                self.places.iter().map(|(_, place)| *place).collect();
            let shard = shard_of(*key);
            let locked = self.shard(shard);
            let found = locked.find(*key);
            let Some(place) = found.or_else(|| locked.make(*key, charge, now, &taken)) else {
                return false;
            };
            self.places.push((shard, place));
        }
        true
    }

    fn budget(&mut self, at: usize, charge: &Charge<'_>) -> Budget<'_> {
        let (shard, place) = self.places[at];
        self.shard(shard).at(place, &charge.quota())
    }

    /// What a charge and all others against its budget cost together.
    fn cost(&self, charge: usize, charges: &[Charge<'_>]) -> u64 {
        let with_places = charges.iter().zip(&self.places);
        with_places
            .filter(|(_, place)| **place == self.places[charge])
            .fold(0, |cost, (charge, _)| cost.saturating_add(charge.cost()))
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
