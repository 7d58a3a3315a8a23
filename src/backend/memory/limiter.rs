//! Budgets in this process's memory: exact under concurrency, and bounded under any stream of keys.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arrayvec::ArrayVec;
use hashbrown::HashTable;

use crate::limit::rate::RateQuota;
use crate::limit::state::{Left, State};
use crate::limit::{Charge, LimiterError, MAX_CHARGES, RateLimiter, Standing, Subject, Verdict};
use crate::quota::Shape;

/// So many parts of the memory, each under a lock of its own.
const SHARDS: usize = 64;

/// How many places a newcomer may look at to find a budget that is whole and can be forgotten.
const SWEEP: usize = 16;

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
    shards: Box<[Locked]>,
    hasher: Hasher,
}

impl MemoryLimiter {
    /// A limiter that uses at most 64 MiB.
    pub fn new() -> Self {
        Self::with_memory(64 << 20)
    }

    /// A limiter that uses at most so many bytes, but at least 1 MiB. A budget takes about 100; a
    /// window that is used all the time, 1,000 more.
    ///
    /// Too little memory makes callers share budgets when more of them are active than fit in.
    pub fn with_memory(bytes: usize) -> Self {
        let per_shard = bytes.max(1 << 20) / SHARDS;
        // Two thirds for the table of budgets, one for the slots of those windows that use many.
        let heap_left = per_shard / 3;
        let buckets = (per_shard - heap_left) / (size_of::<Budget>() + 1);
        let buckets = (buckets + 1).next_power_of_two() / 2; // a table doubles
        // A table that is not half full clears up in its place rather than grow.
        let places = (buckets / 8 * 7 / 2).saturating_sub(MAX_CHARGES);
        let shard = |_| {
            Locked(Mutex::new(Shard {
                places,
                heap_left,
                ..Shard::default()
            }))
        };
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            hasher: Hasher::new(),
        }
    }

    /// How many budgets there is room for.
    pub fn capacity(&self) -> usize {
        let places = |shard: &Locked| shard.lock().places;
        self.shards.iter().map(places).sum()
    }

    /// How many budgets are remembered.
    pub fn len(&self) -> usize {
        let used = |shard: &Locked| shard.lock().budgets.len();
        self.shards.iter().map(used).sum()
    }

    /// Whether no budget is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn decide(&self, charges: &[Charge<'_>], now: SystemTime) -> Result<Verdict, LimiterError> {
        let now = nanoseconds(now);
        match charges {
            [charge] => Ok(Verdict::of_one(self.decide_one(charge, now))),
            several => Ok(self.decide_all(few(several)?, now)),
        }
    }

    fn decide_all(&self, charges: &[Charge<'_>], now: u64) -> Verdict {
        let mut open = self.open(charges, now);
        let mut waits = ArrayVec::<Option<u64>, MAX_CHARGES>::new();
        for (at, charge) in charges.iter().enumerate() {
            let cost = open.cost(at, charges);
            waits.push(open.budget(at).wait(charge, now, cost));
        }
        let take = waits.iter().all(|wait| *wait == Some(0));
        let settle = |(at, charge): (usize, &Charge<'_>)| {
            open.budget(at).settle(charge, now, waits[at], take)
        };
        charges.iter().enumerate().map(settle).collect()
    }

    #[inline]
    fn decide_one(&self, charge: &Charge<'_>, now: u64) -> Standing {
        let key = self.hasher.key(charge);
        let mut shard = self.shards[shard_of(key)].lock();
        let mut budget = shard.find_or_make(key, charge, now);
        let state = budget.state.as_deref_mut();
        if let Some(standing) = state.and_then(|state| decide_rate(state, charge, now)) {
            return standing;
        }
        let wait = budget.wait(charge, now, charge.cost());
        budget.settle(charge, now, wait, wait == Some(0))
    }

    fn give_back(&self, charges: &[Charge<'_>], now: SystemTime) {
        let now = nanoseconds(now);
        let mut open = self.open(charges, now);
        for (at, charge) in charges.iter().enumerate() {
            if let Some(state) = open.budget(at).state {
                state.refund(&charge.quota(), now, charge.cost());
            }
        }
    }

    /// Locks what the charges are about, in one order for everybody, and finds their budgets.
    fn open(&self, charges: &[Charge<'_>], now: u64) -> Open<'_> {
        let keys = charges.iter().map(|charge| self.hasher.key(charge));
        let keys: ArrayVec<BudgetKey, MAX_CHARGES> = keys.collect();
        let mut order: ArrayVec<usize, MAX_CHARGES> = keys.iter().copied().map(shard_of).collect();
        order.sort_unstable();
        let mut open = Open::default();
        for (at, shard) in order.iter().enumerate() {
            if at == 0 || order[at - 1] != *shard {
                let mut locked = self.shards[*shard].lock();
                locked.make_room();
                open.locked.push((*shard, locked));
            }
        }
        for (key, charge) in keys.into_iter().zip(charges) {
            let taken: ArrayVec<Place, MAX_CHARGES> =
                open.places.iter().map(|(_, place)| *place).collect();
            let shard = shard_of(key);
            let place = open.shard(shard).place(key, charge, now, &taken);
            open.places.push((shard, place));
        }
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
    fn check_now(
        &self,
        charges: &[Charge<'_>],
        now: SystemTime,
    ) -> Option<Result<Verdict, LimiterError>> {
        Some(self.decide(charges, now))
    }

    async fn check(
        &self,
        charges: &[Charge<'_>],
        now: SystemTime,
    ) -> Result<Verdict, LimiterError> {
        self.decide(charges, now)
    }

    fn refund_now(
        &self,
        charges: &[Charge<'_>],
        now: SystemTime,
    ) -> Option<Result<(), LimiterError>> {
        Some(few(charges).map(|charges| self.give_back(charges, now)))
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
    fn budget(&mut self, charge: usize) -> Opened<'_> {
        let (shard, place) = self.places[charge];
        self.shard(shard).at(place)
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

/// Which budget: a subject under a limit's name, hashed. Two that share a hash, one pair in 2⁶⁴,
/// share a budget: stricter, never laxer.
type BudgetKey = u64;

/// Hashes under secrets of this limiter, so that nobody can choose subjects that meet.
struct Hasher {
    secrets: [u64; 3],
}

impl Hasher {
    fn new() -> Self {
        let random = RandomState::new();
        Self {
            secrets: [0, 1, 2].map(|at| random.hash_one(at)),
        }
    }

    #[inline]
    fn key(&self, charge: &Charge<'_>) -> BudgetKey {
        let [a, b, _] = self.secrets;
        let (kind, subject) = match charge.subject() {
            Subject::Key(id) => (1, u128::from_ne_bytes(*id.as_bytes())),
            Subject::Account(account) => (2, u128::from(self.text(account))),
            Subject::Address(IpAddr::V4(address)) => (3, u128::from(address.to_bits())),
            Subject::Address(IpAddr::V6(address)) => (4, address.to_bits()),
            Subject::Global => (5, 0),
        };
        let (low, high) = halves(subject);
        let rule = charge.name().hash() ^ charge.quota().form_hash();
        fold(low ^ rule ^ a, high ^ b ^ kind)
    }

    fn text(&self, text: &str) -> u64 {
        let [a, b, c] = self.secrets;
        let (words, rest) = text.as_bytes().as_chunks::<16>();
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        let words = words.iter().chain([&last]);
        words.fold(a ^ text.len() as u64, |hash, word| {
            let (low, high) = halves(u128::from_le_bytes(*word));
            fold(hash ^ low ^ b, high ^ c) ^ hash.rotate_left(23)
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "each half on its own")]
#[inline]
const fn halves(whole: u128) -> (u64, u64) {
    (whole as u64, (whole >> 64) as u64)
}

/// All bits of both, mixed.
#[inline]
const fn fold(left: u64, right: u64) -> u64 {
    let (low, high) = halves(left as u128 * right as u128);
    low ^ high
}

/// The shard of a budget: by bits that the table of a shard makes no use of.
const fn shard_of(key: BudgetKey) -> usize {
    (key >> 40) as usize % SHARDS
}

struct Budget {
    key: BudgetKey,
    state: State,
}

const _: () = assert!(size_of::<Budget>() == 32);

/// Where the state of a budget is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At this place of the table.
    Own(usize),
    /// Among those that newcomers share.
    Shared(usize),
    /// There is no room for it at all.
    Nowhere,
}

/// Shards share no line of the processor's cache with each other.
#[repr(align(128))]
struct Locked(Mutex<Shard>);

impl Locked {
    #[inline]
    fn lock(&self) -> MutexGuard<'_, Shard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Shard {
    budgets: HashTable<Budget>,
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
    #[inline]
    fn find_or_make(&mut self, key: BudgetKey, charge: &Charge<'_>, now: u64) -> Opened<'_> {
        let is_it = |budget: &Budget| budget.key == key;
        if let Some(at) = self.budgets.find_bucket_index(key, is_it) {
            return self.at(Place::Own(at));
        }
        self.make_room();
        let place = self.place(key, charge, now, &[]);
        self.at(place)
    }

    #[inline]
    fn at(&mut self, place: Place) -> Opened<'_> {
        let state = match place {
            Place::Own(at) => {
                let budget = self.budgets.get_bucket_mut(at);
                budget.map(|budget| &mut budget.state)
            }
            Place::Shared(at) => self.shared.get_mut(at).map(|(_, state)| state),
            Place::Nowhere => None,
        };
        Opened {
            state,
            heap_left: &mut self.heap_left,
        }
    }

    /// Makes sure that no budget is moved while one request finds its own.
    fn make_room(&mut self) {
        self.budgets.reserve(MAX_CHARGES, |budget| budget.key);
    }

    /// Finds a budget, or makes room for it; not at the cost of those in `taken`.
    fn place(&mut self, key: BudgetKey, charge: &Charge<'_>, now: u64, taken: &[Place]) -> Place {
        let found = self
            .budgets
            .find_bucket_index(key, |budget| budget.key == key);
        if let Some(at) = found {
            return Place::Own(at);
        }
        let state = State::whole(&charge.quota());
        if self.budgets.len() >= self.places && !self.forget_a_whole_one(now, taken) {
            let rule = charge.name().hash() ^ charge.quota().form_hash();
            return self.share(rule, state);
        }
        let budget = Budget { key, state };
        let entry = self.budgets.insert_unique(key, budget, |budget| budget.key);
        Place::Own(entry.bucket_index())
    }

    /// Looks at the next few places for a budget that can be forgotten.
    fn forget_a_whole_one(&mut self, now: u64, taken: &[Place]) -> bool {
        for _ in 0..SWEEP {
            self.hand = (self.hand + 1) % self.budgets.num_buckets();
            // Another shard's place of this number only makes us look further.
            if taken.contains(&Place::Own(self.hand)) {
                continue;
            }
            if let Ok(entry) = self.budgets.get_bucket_entry(self.hand)
                && entry.get().state.is_idle(now)
            {
                self.heap_left += entry.get().state.heap();
                entry.remove();
                return true;
            }
        }
        false
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

/// A budget, if there is room for it, and what memory is left for it to grow.
struct Opened<'s> {
    state: Option<&'s mut State>,
    heap_left: &'s mut usize,
}

impl Opened<'_> {
    /// In what time so much is admissible of a charge's budget, as [`State::wait`] has it. Where
    /// there is no memory for it, in a second.
    #[inline]
    fn wait(&mut self, charge: &Charge<'_>, now: u64, cost: u64) -> Option<u64> {
        match &mut self.state {
            Some(state) => state.wait(&charge.quota(), now, cost),
            None => Some(A_SECOND),
        }
    }

    /// Takes a charge, or not, and says how its budget stands then.
    #[inline]
    fn settle(&mut self, charge: &Charge<'_>, now: u64, wait: Option<u64>, take: bool) -> Standing {
        let quota = charge.quota();
        let Some(state) = &mut self.state else {
            let nothing = Left {
                spare: 0,
                unit: 1,
                whole_in: A_SECOND,
            };
            return Standing::of(nothing, wait);
        };
        if take && charge.cost() > 0 {
            let before = state.heap();
            let may_grow = *self.heap_left > before + SMALLEST_HEAP;
            state.take(&quota, now, charge.cost(), may_grow);
            *self.heap_left = (*self.heap_left + before).saturating_sub(state.heap());
        }
        Standing::of(state.left(&quota, now), wait)
    }
}

/// The whole of a decision about one charge against a `rate`, which is most of them, in one stroke.
#[inline]
fn decide_rate(state: &mut State, charge: &Charge<'_>, now: u64) -> Option<Standing> {
    let (quota, cost) = (charge.quota(), charge.cost());
    let (State::Rate(rate), Shape::Rate { interval }) = (state, quota.form()) else {
        return None;
    };
    let burst = quota.limit();
    let quota = RateQuota { interval, burst };
    let wait = rate.wait(quota, now, cost);
    if wait == Some(0) {
        rate.take(quota, now, cost);
    }
    Some(Standing::of(rate.left(quota, now), wait))
}

/// The memory that the first slots of a window take: a window that is refused it has one slot.
const SMALLEST_HEAP: usize = 128;

const A_SECOND: u64 = 1_000_000_000;

/// Since 1970; a clock before that stands at 1970, one beyond the year 2480 there.
#[inline]
fn nanoseconds(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or(Duration::ZERO);
    let seconds = since.as_secs().saturating_mul(A_SECOND);
    seconds
        .saturating_add(u64::from(since.subsec_nanos()))
        .min(LATEST)
}

/// Far from overflow, whatever a quota adds.
const LATEST: u64 = u64::MAX / 16 * 14;
