//! Budgets in this process's memory: exact under concurrency, and bounded under any stream of keys.

use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::limit::state::{Look, State};
use crate::limit::{Charge, LimiterError, MAX_CHARGES, RateLimiter, Standing, Subject, Verdict};

/// So many parts of the memory, each under a lock of its own.
const SHARDS: usize = 64;

/// How many budgets a newcomer may look at to find one that is whole and can be forgotten.
const SWEEP: usize = 8;

/// The most budgets that newcomers share in a shard when all its memory is in use.
const SHARED: usize = 64;

/// A limiter for one process, exact under concurrency and bounded in memory.
///
/// A budget that is whole again is forgotten when its place is needed. When all are in use,
/// newcomers share budgets with each other: that is stricter, never laxer. Nothing runs in the
/// background. Clock steps forwards fill budgets up; after one backwards nobody waits for longer
/// than the period of their quota.
///
/// ```
/// use tower_api_key::MemoryLimiter;
///
/// let limiter = MemoryLimiter::with_memory(16 << 20); // 16 MiB
/// ```
pub struct MemoryLimiter {
    shards: Box<[Mutex<Shard>]>,
    hasher: DefaultHashBuilder,
}

impl MemoryLimiter {
    /// A limiter that uses at most 64 MiB.
    pub fn new() -> Self {
        Self::with_memory(64 << 20)
    }

    /// A limiter that uses at most so many bytes, but at least 1 MiB. A budget takes about 100.
    ///
    /// Too little memory makes callers share budgets when more of them are active than fit in.
    pub fn with_memory(bytes: usize) -> Self {
        let per_shard = bytes.max(1 << 20) / SHARDS;
        // Half for the table of budgets, half for the slots of those windows that use many. A
        // table doubles, so what it grows to is a power of two.
        let places = per_shard / 2 / (size_of::<Budget>() + 2 * size_of::<u32>());
        let places = (places + 1).next_power_of_two() / 2;
        let shard = |_| {
            Mutex::new(Shard {
                places,
                heap_left: per_shard / 2,
                ..Shard::default()
            })
        };
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// How many budgets there is room for.
    pub fn capacity(&self) -> usize {
        let places = |shard: &Mutex<Shard>| lock(shard).places;
        self.shards.iter().map(places).sum()
    }

    /// How many budgets are remembered.
    pub fn len(&self) -> usize {
        let used = |shard: &Mutex<Shard>| lock(shard).index.len();
        self.shards.iter().map(used).sum()
    }

    /// Whether no budget is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn decide(&self, charges: &[Charge<'_>], now: SystemTime) -> Verdict {
        let now = nanoseconds(now);
        let mut budgets = self.open(charges, now);
        let mut standings = [Standing::NONE; MAX_CHARGES];
        let standings = &mut standings[..charges.len()];
        for (at, charge) in charges.iter().enumerate() {
            standings[at] = Standing::of(budgets.look(at, charge, now, charge.cost()));
        }
        if standings.iter().all(Standing::is_admissible) {
            for (at, charge) in charges.iter().enumerate() {
                budgets.take(at, charge, now);
                standings[at] = Standing::of(budgets.look(at, charge, now, 0));
            }
        }
        Verdict::new(standings)
    }

    fn give_back(&self, charges: &[Charge<'_>], now: SystemTime) {
        let now = nanoseconds(now);
        let mut budgets = self.open(charges, now);
        for (at, charge) in charges.iter().enumerate() {
            budgets.refund(at, charge, now);
        }
    }

    /// Locks what the charges are about, in one order for everybody, and finds their budgets.
    fn open(&self, charges: &[Charge<'_>], now: u64) -> Open<'_> {
        let keys = charges.iter().map(|charge| self.key(charge));
        let mut open = Open::default();
        for (at, key) in keys.enumerate() {
            open.shards[at] = shard_of(self.hasher.hash_one(key));
            open.keys[at] = key;
        }
        let mut order = open.shards;
        let order = &mut order[..charges.len()];
        order.sort_unstable();
        for (at, shard) in order.iter().enumerate() {
            if at == 0 || order[at - 1] != *shard {
                open.locked[at] = Some((*shard, lock(&self.shards[*shard])));
            }
        }
        for (at, charge) in charges.iter().enumerate() {
            let key = open.keys[at];
            let places = open.places;
            let shard = open.shard(at);
            let place = shard.place(key, charge, now, &self.hasher, &places[..at]);
            open.places[at] = place;
        }
        open
    }

    fn key(&self, charge: &Charge<'_>) -> BudgetKey {
        let subject = match charge.subject() {
            Subject::Key(id) => u128::from_be_bytes(*id.as_bytes()),
            // Two accounts that share a hash, one in 2⁶⁴, share a budget: stricter, never laxer.
            Subject::Account(account) => u128::from(self.hasher.hash_one(account)),
            Subject::Address(IpAddr::V4(address)) => u128::from(address.to_bits()),
            Subject::Address(IpAddr::V6(address)) => address.to_bits(),
            Subject::Global => 0,
        };
        let rule = charge.name().hash();
        BudgetKey { rule, subject }
    }
}

/// No more charges than a request may bring.
fn few<'c, 'a>(charges: &'c [Charge<'a>]) -> Result<&'c [Charge<'a>], LimiterError> {
    let few = charges.len() <= MAX_CHARGES;
    few.then_some(charges)
        .ok_or_else(|| LimiterError::unavailable("more than 16 charges"))
}

/// The shard of a budget: by bits that the table of a shard makes no use of.
const fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

impl RateLimiter for MemoryLimiter {
    fn check_now(
        &self,
        charges: &[Charge<'_>],
        now: SystemTime,
    ) -> Option<Result<Verdict, LimiterError>> {
        Some(few(charges).map(|charges| self.decide(charges, now)))
    }

    async fn check(
        &self,
        charges: &[Charge<'_>],
        now: SystemTime,
    ) -> Result<Verdict, LimiterError> {
        Ok(self.decide(few(charges)?, now))
    }

    async fn refund(&self, charges: &[Charge<'_>], now: SystemTime) -> Result<(), LimiterError> {
        self.give_back(few(charges)?, now);
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
    keys: [BudgetKey; MAX_CHARGES],
    /// The shard of each charge.
    shards: [usize; MAX_CHARGES],
    places: [Place; MAX_CHARGES],
    locked: [Option<(usize, MutexGuard<'l, Shard>)>; MAX_CHARGES],
}

impl Default for Open<'_> {
    fn default() -> Self {
        Self {
            keys: [BudgetKey::default(); MAX_CHARGES],
            shards: [0; MAX_CHARGES],
            places: [Place::Nowhere; MAX_CHARGES],
            locked: [const { None }; MAX_CHARGES],
        }
    }
}

impl Open<'_> {
    fn look(&mut self, at: usize, charge: &Charge<'_>, now: u64, cost: u64) -> Look {
        let place = self.places[at];
        match self.shard(at).state(place) {
            Some(state) => state.look(&charge.quota(), now, cost),
            None => Look::FULL,
        }
    }

    fn take(&mut self, at: usize, charge: &Charge<'_>, now: u64) {
        let place = self.places[at];
        let shard = self.shard(at);
        let heap_left = shard.heap_left;
        if let Some(state) = shard.state(place).filter(|_| charge.cost() > 0) {
            let before = state.heap();
            let may_grow = heap_left > before + SMALLEST_HEAP;
            state.take(&charge.quota(), now, charge.cost(), may_grow);
            let after = state.heap();
            shard.heap_left = (heap_left + before).saturating_sub(after);
        }
    }

    fn refund(&mut self, at: usize, charge: &Charge<'_>, now: u64) {
        let place = self.places[at];
        if let Some(state) = self.shard(at).state(place) {
            state.refund(&charge.quota(), now, charge.cost());
        }
    }

    fn shard(&mut self, at: usize) -> &mut Shard {
        let wanted = self.shards[at];
        let mut locked = self.locked.iter_mut().flatten();
        let found = locked.find(|(shard, _)| *shard == wanted);
        &mut found.expect("every shard of the charges is locked").1
    }
}

/// The memory that the first slots of a window take: a window that is refused it has one slot.
const SMALLEST_HEAP: usize = 64;

/// Which budget: that of a subject under a limit's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct BudgetKey {
    rule: u64,
    subject: u128,
}

struct Budget {
    key: BudgetKey,
    state: State,
}

/// Where the state of a budget is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the list of budgets.
    Own(u32),
    /// Among those that newcomers share.
    Shared(usize),
    /// There is no room for it at all.
    Nowhere,
}

#[derive(Default)]
struct Shard {
    /// Where in `budgets` a key is.
    index: HashTable<u32>,
    budgets: Vec<Budget>,
    /// How many budgets there may be.
    places: usize,
    /// Where the next newcomer begins to look for a budget that is whole.
    hand: usize,
    /// What is left for the slots of windows, in bytes.
    heap_left: usize,
    /// Budgets that newcomers share, by limit.
    shared: Vec<(u64, State)>,
}

impl Shard {
    fn state(&mut self, place: Place) -> Option<&mut State> {
        match place {
            Place::Own(at) => self
                .budgets
                .get_mut(at as usize)
                .map(|budget| &mut budget.state),
            Place::Shared(at) => self.shared.get_mut(at).map(|(_, state)| state),
            Place::Nowhere => None,
        }
    }

    /// Finds a budget, or makes room for it; not at the cost of those in `taken`.
    fn place(
        &mut self,
        key: BudgetKey,
        charge: &Charge<'_>,
        now: u64,
        hasher: &DefaultHashBuilder,
        taken: &[Place],
    ) -> Place {
        let hash = hasher.hash_one(key);
        let is_it = |at: &u32| self.budgets[*at as usize].key == key;
        if let Some(at) = self.index.find(hash, is_it) {
            return Place::Own(*at);
        }
        let state = State::whole(&charge.quota());
        if self.budgets.len() < self.places
            && let Ok(at) = u32::try_from(self.budgets.len())
        {
            self.budgets.push(Budget { key, state });
            self.remember(at, hash, hasher);
            return Place::Own(at);
        }
        let Some(at) = self.forget_a_whole_one(now, hasher, taken) else {
            return self.share(key.rule, state);
        };
        self.budgets[at as usize] = Budget { key, state };
        self.remember(at, hash, hasher);
        Place::Own(at)
    }

    fn remember(&mut self, at: u32, hash: u64, hasher: &DefaultHashBuilder) {
        let budgets = &self.budgets;
        let rehash = |at: &u32| hasher.hash_one(budgets[*at as usize].key);
        self.index.insert_unique(hash, at, rehash);
    }

    /// Looks at the next few budgets for one that can be forgotten.
    fn forget_a_whole_one(
        &mut self,
        now: u64,
        hasher: &DefaultHashBuilder,
        taken: &[Place],
    ) -> Option<u32> {
        for _ in 0..SWEEP.min(self.budgets.len()) {
            self.hand = (self.hand + 1) % self.budgets.len();
            let at = u32::try_from(self.hand).ok()?;
            let budget = &self.budgets[self.hand];
            // Another shard's place of this number only makes us look further.
            if !budget.state.is_idle(now) || taken.contains(&Place::Own(at)) {
                continue;
            }
            let hash = hasher.hash_one(budget.key);
            self.heap_left += budget.state.heap();
            if let Ok(entry) = self.index.find_entry(hash, |found| *found == at) {
                entry.remove();
            }
            return Some(at);
        }
        None
    }

    /// The budget that newcomers under a limit share.
    fn share(&mut self, rule: u64, whole: State) -> Place {
        if let Some(at) = self.shared.iter().position(|(shared, _)| *shared == rule) {
            return Place::Shared(at);
        }
        if self.shared.len() == SHARED {
            return Place::Nowhere;
        }
        self.shared.push((rule, whole));
        Place::Shared(self.shared.len() - 1)
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Since 1970; a clock before that stands at 1970, one beyond the year 2480 there.
fn nanoseconds(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or(Duration::ZERO).as_nanos())
        .unwrap_or(u64::MAX)
        .min(LATEST)
}

/// Far from overflow, whatever a quota adds.
const LATEST: u64 = u64::MAX / 16 * 14;
