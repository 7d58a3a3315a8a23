//! Budgets in this process's memory: exact under concurrency, and bounded under any stream of keys.

use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arrayvec::ArrayVec;
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::limit::state::{Left, State};
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
        if let [charge] = charges {
            let key = self.key(charge);
            let hash = self.hasher.hash_one(key);
            let mut shard = lock(&self.shards[shard_of(hash)]);
            let place = shard.place(key, hash, charge, now, &self.hasher, &[]);
            let wait = shard.wait(place, charge, now);
            return Verdict::new(&[shard.settle(place, charge, now, wait, wait == Some(0))]);
        }
        let mut open = self.open(charges, now);
        let mut waits = ArrayVec::<Option<u64>, MAX_CHARGES>::new();
        for (at, charge) in charges.iter().enumerate() {
            let (shard, place) = open.at(at);
            waits.push(shard.wait(place, charge, now));
        }
        let take = waits.iter().all(|wait| *wait == Some(0));
        let mut standings = ArrayVec::<Standing, MAX_CHARGES>::new();
        for (at, charge) in charges.iter().enumerate() {
            let (shard, place) = open.at(at);
            standings.push(shard.settle(place, charge, now, waits[at], take));
        }
        Verdict::new(&standings)
    }

    fn give_back(&self, charges: &[Charge<'_>], now: SystemTime) {
        let now = nanoseconds(now);
        let mut open = self.open(charges, now);
        for (at, charge) in charges.iter().enumerate() {
            let (shard, place) = open.at(at);
            if let Some(state) = shard.state(place) {
                state.refund(&charge.quota(), now, charge.cost());
            }
        }
    }

    /// Locks what the charges are about, in one order for everybody, and finds their budgets.
    fn open(&self, charges: &[Charge<'_>], now: u64) -> Open<'_> {
        let hashed = charges.iter().map(|charge| {
            let key = self.key(charge);
            (key, self.hasher.hash_one(key))
        });
        let hashed: ArrayVec<_, MAX_CHARGES> = hashed.collect();
        let mut order: ArrayVec<usize, MAX_CHARGES> =
            hashed.iter().map(|(_, hash)| shard_of(*hash)).collect();
        order.sort_unstable();
        let mut open = Open::default();
        for (at, shard) in order.iter().enumerate() {
            if at == 0 || order[at - 1] != *shard {
                open.locked.push((*shard, lock(&self.shards[*shard])));
            }
        }
        for ((key, hash), charge) in hashed.into_iter().zip(charges) {
            let taken: ArrayVec<Place, MAX_CHARGES> =
                open.places.iter().map(|(_, place)| *place).collect();
            let shard = shard_of(hash);
            let place = open
                .shard(shard)
                .place(key, hash, charge, now, &self.hasher, &taken);
            open.places.push((shard, place));
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
#[derive(Default)]
struct Open<'l> {
    locked: ArrayVec<(usize, MutexGuard<'l, Shard>), MAX_CHARGES>,
    /// The shard of each charge, and the place in it.
    places: ArrayVec<(usize, Place), MAX_CHARGES>,
}

impl Open<'_> {
    fn at(&mut self, charge: usize) -> (&mut Shard, Place) {
        let (shard, place) = self.places[charge];
        (self.shard(shard), place)
    }

    fn shard(&mut self, wanted: usize) -> &mut Shard {
        let found = self.locked.iter_mut().find(|(shard, _)| *shard == wanted);
        &mut found.expect("every shard of the charges is locked").1
    }
}

/// The memory that the first slots of a window take: a window that is refused it has one slot.
const SMALLEST_HEAP: usize = 64;

const A_SECOND: u64 = 1_000_000_000;

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

    /// In what time a charge is admissible, as [`State::wait`] has it. Where there is no memory for
    /// its budget, in a second.
    fn wait(&mut self, place: Place, charge: &Charge<'_>, now: u64) -> Option<u64> {
        match self.state(place) {
            Some(state) => state.wait(&charge.quota(), now, charge.cost()),
            None => Some(A_SECOND),
        }
    }

    /// Takes a charge, or not, and says how its budget stands then.
    fn settle(
        &mut self,
        place: Place,
        charge: &Charge<'_>,
        now: u64,
        wait: Option<u64>,
        take: bool,
    ) -> Standing {
        let quota = charge.quota();
        let heap_left = self.heap_left;
        let Some(state) = self.state(place) else {
            let nothing = Left {
                remaining: 0,
                whole_in: A_SECOND,
            };
            return Standing::of(nothing, wait);
        };
        let (mut before, mut after) = (0, 0);
        if take && charge.cost() > 0 {
            before = state.heap();
            let may_grow = heap_left > before + SMALLEST_HEAP;
            state.take(&quota, now, charge.cost(), may_grow);
            after = state.heap();
        }
        let standing = Standing::of(state.left(&quota, now), wait);
        self.heap_left = (heap_left + before).saturating_sub(after);
        standing
    }

    /// Finds a budget, or makes room for it; not at the cost of those in `taken`.
    fn place(
        &mut self,
        key: BudgetKey,
        hash: u64,
        charge: &Charge<'_>,
        now: u64,
        hasher: &DefaultHashBuilder,
        taken: &[Place],
    ) -> Place {
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
