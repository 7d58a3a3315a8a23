//! The map of cached keys: striped hash tables, with eviction by frequency of use.
//!
//! A hit locks one stripe, clones an `Arc`, and counts the use in the key itself. Everything else
//! is paid by loads, which wait for the store anyway.
//!
//! # Eviction
//!
//! When the memory is full, a newly loaded key is compared with a sample of cached keys. The one
//! with the fewest uses makes room if it has fewer than the new key has loads; otherwise the new
//! key is not cached. Uses and loads are halved as more loads come in. This is sampled LFU with the
//! admission rule of TinyLFU: one scan over many keys takes few hits from keys in use, and a
//! working set that moves is followed.
//!
//! moka decided this before. It took 245 bytes more for each key, had to be told of hits (it learns
//! of them only by its own `get`), and needed two more rules to let in a new working set. Beside
//! moka's, the hit ratio here is between 0.01 lower and 0.03 higher (`benches/hit_ratio`).
//!
//! # The index
//!
//! The index is a cuckoo table of four slots to a bucket. A lookup takes 30 ns at 10,000 keys and
//! 185 ns at a million; in `hashbrown` 26 and 155, in papaya 25 and 165, in dashmap 22 and 139, in
//! moka 311 and 1,565 (`benches/tables`). Those figures are of a loop over lookups, in which the
//! control bytes of `hashbrown` stay in the processor's caches. In whole requests over a million
//! keys they do not, and a lookup waits for memory twice: with `hashbrown`, `full_1m` took 2.32,
//! 2.61 and 2.19 µs in three alternating runs, and with this table 2.19, 2.03 and 2.04 (1.5 to 1.6
//! times the floor).
//!
//! # Absent keys
//!
//! Keys that do not exist are in a small table of each stripe, the negative cache, so that a flood
//! of them evicts no good key.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Lookup;
use super::cached_key::CachedKey;
use super::coherent::{EntryMeta, Map};
use super::entry_pool::EntryPool;
use super::epochs::{Epoch, StripeHash};
use super::frequency_sketch::FrequencySketch;
use crate::key::digest::KeyId;
use crate::usage::Meter;
use crate::util::cuckoo::CuckooTable;
use crate::util::striped::Striped;

/// The bytes of a plain key with a short account, to size the sketches by.
const PLAIN_KEY: u64 = 512;

/// Cached keys that are compared for an eviction. Fewer find worse ones; 16 gain nothing.
const SAMPLE: usize = 8;

/// The most buckets that are searched for a sample: a table may be nearly empty.
const SAMPLED_BUCKETS: usize = 16;

/// The counted lookups after which a bucket is aged. A bucket holds two to three keys, so the uses
/// of a key are halved after about twenty times as many counted lookups as there are keys. With
/// half of that, the hit ratio of scans in a cache for half of the keys is lower by 0.01; with
/// twice of it, that of Zipf 0.8 in a cache for a tenth.
const LOOKUPS_PER_AGED_BUCKET: usize = 52;

/// The most buckets that one load ages.
const MAX_AGED_BUCKETS: usize = 64;

/// The samples without a use in between that halve what a key is worth. Without this rule, the hit
/// ratio of a working set that moves in a cache for 10 % of the keys is lower by 0.14.
const IDLE_SAMPLES: u8 = 4;

/// An idle key is worth this much at least, if it was used so often: it makes room for no key that
/// was loaded only once or twice. With 0, the hit ratios of Zipf are lower by up to 0.06.
const LEAST_IDLE_WORTH: u8 = 2;

/// The most absent keys that are remembered, in all stripes.
const MAX_ABSENT: usize = 4_096;

/// The buckets that are looked through under one lock while nothing waits for the result.
const BUCKETS_AT_ONCE: usize = 64;

/// All cached keys of a process.
pub(super) struct KeyMap {
    stripes: Striped<Stripe>,
    /// The bytes that cached keys may take, and those that they take.
    capacity: u64,
    used: AtomicU64,
    /// The stripe that the next key is evicted from.
    hand: AtomicUsize,
    pool: Arc<EntryPool>,
    /// The time for which the absence of a key is cached, in nanoseconds.
    negative_ttl: u64,
}

/// The keys whose ids fall to one lock.
struct Stripe {
    /// Keys by the first half of their ids.
    keys: CuckooTable<Option<Arc<CachedKey>>, 4>,
    absent: CuckooTable<Absent, 2>,
    /// The loads of keys, cached or not.
    loads: FrequencySketch,
    /// The bucket of `keys` that the next sample begins with.
    hand: usize,
    /// Lookups that were counted and for which no key has been aged yet.
    lookups: usize,
    /// The bucket of `keys` that is aged next.
    aged: usize,
}

/// A key that does not exist.
#[derive(Default)]
struct Absent {
    /// The second half of its id.
    rest: u64,
    epoch: Epoch,
    since: u64,
}

/// The result of trying to evict a key from a stripe.
enum Eviction {
    Evicted(Arc<CachedKey>),
    /// All keys of the sample are used more often than the new one.
    Outranked,
    /// The stripe has no keys.
    Empty,
}

impl KeyMap {
    /// Creates a map for keys of so many bytes together.
    pub(super) fn new(capacity: u64, negative_ttl: u64, pool: Arc<EntryPool>) -> Self {
        let stripes = Striped::<Stripe>::COUNT;
        let keys = usize::try_from(capacity / PLAIN_KEY).unwrap_or(usize::MAX) / stripes;
        Self {
            stripes: Striped::new(|| Stripe {
                keys: CuckooTable::default(),
                absent: CuckooTable::new(MAX_ABSENT / stripes),
                loads: FrequencySketch::new(keys),
                hand: 0,
                lookups: 0,
                aged: 0,
            }),
            capacity,
            used: AtomicU64::new(0),
            hand: AtomicUsize::new(0),
            pool,
            negative_ttl,
        }
    }

    fn put_key(
        &self,
        id: &KeyId,
        key: Arc<CachedKey>,
        may_serve: impl Fn(&KeyId, EntryMeta) -> bool,
    ) {
        let (is_cached, uses) = self.stripes.of(id.stripe_hash()).count_load(id);
        key.set_uses(uses);
        let weight = key.weight();
        // A key that is cached is replaced in any case, since its older record must go.
        if !is_cached && !self.make_room(weight, uses, &may_serve) {
            return;
        }
        // Counted before the key is there: another thread may remove it at once, and the count must
        // not wrap around below zero.
        self.used.fetch_add(weight, Ordering::Relaxed);
        let left = self.stripes.of(id.stripe_hash()).insert(id, key);
        if let Some(left) = left {
            self.release(left);
        }
        if is_cached {
            self.make_room(0, u8::MAX, &may_serve); // the newer record may be larger
        }
    }

    fn put_absent(&self, id: &KeyId, meta: EntryMeta) {
        let mut stripe = self.stripes.of(id.stripe_hash());
        let removed = stripe.remove(id);
        stripe.put_absent(id, meta, self.negative_ttl);
        drop(stripe);
        if let Some(removed) = removed {
            self.release(removed);
        }
    }

    /// Frees the memory of a key that has left the map. Called outside of all locks.
    fn release(&self, key: Arc<CachedKey>) {
        self.used.fetch_sub(key.weight(), Ordering::Relaxed);
        self.pool.recycle(key);
    }

    /// Evicts keys until there is room for another one with so many uses. Returns whether there is.
    fn make_room(
        &self,
        weight: u64,
        uses: u8,
        may_serve: &impl Fn(&KeyId, EntryMeta) -> bool,
    ) -> bool {
        if weight > self.capacity {
            return false;
        }
        let mut empty = 0;
        while self.used.load(Ordering::Relaxed) + weight > self.capacity {
            // From all stripes in turn: one by itself may hold no keys at all.
            let at = self.hand.fetch_add(1, Ordering::Relaxed) % Striped::<Stripe>::COUNT;
            let eviction = self.stripes.at(at).evict(uses, may_serve);
            match eviction {
                Eviction::Evicted(key) => self.release(key),
                Eviction::Outranked => return false,
                Eviction::Empty if empty == Striped::<Stripe>::COUNT => return false,
                Eviction::Empty => empty += 1,
            }
        }
        true
    }

    /// Puts the meters that found no room on the list of those with counts there.
    pub(super) fn list_meters(&self) {
        for stripe in 0..Striped::<Stripe>::COUNT {
            for begin in (0..).step_by(BUCKETS_AT_ONCE) {
                let locked = self.stripes.at(stripe);
                let buckets = locked.keys.buckets();
                for bucket in begin..buckets.min(begin + BUCKETS_AT_ONCE) {
                    let meters = locked.keys.bucket(bucket).flatten();
                    meters
                        .filter_map(|key| key.meter())
                        .for_each(Meter::list_again);
                }
                if begin + BUCKETS_AT_ONCE >= buckets {
                    break;
                }
            }
        }
    }

    /// Drops the values that observers keep in those keys for which `is_meant` says so. The values
    /// are dropped outside of all locks, since that runs code of the application.
    pub(super) fn drop_observer_values(&self, is_meant: impl Fn(EntryMeta) -> bool) {
        for stripe in 0..Striped::<Stripe>::COUNT {
            for begin in (0..).step_by(BUCKETS_AT_ONCE) {
                let mut released = Vec::new();
                let mut locked = self.stripes.at(stripe);
                let buckets = locked.keys.buckets();
                for bucket in begin..buckets.min(begin + BUCKETS_AT_ONCE) {
                    for key in locked.keys.bucket_mut(bucket).flatten() {
                        if key.observer_slots().are_used() && is_meant(key.meta()) {
                            let copy = self.pool.allocate(key.without_slots());
                            released.push(mem::replace(key, copy));
                        }
                    }
                }
                drop(locked);
                for key in released {
                    self.pool.recycle(key);
                }
                if begin + BUCKETS_AT_ONCE >= buckets {
                    break;
                }
            }
        }
    }
}

impl Map<KeyId, Lookup> for KeyMap {
    #[inline]
    fn get(&self, id: &KeyId, wants: impl Fn(EntryMeta) -> bool) -> Option<Lookup> {
        let mut stripe = self.stripes.of(id.stripe_hash());
        if let Some(key) = stripe.find(id) {
            if !wants(key.meta()) {
                return None;
            }
            let is_counted = key.count_use();
            let key = Arc::clone(key);
            stripe.lookups += usize::from(is_counted);
            return Some(Lookup::Hit(key));
        }
        let absent = stripe.find_absent(id)?;
        wants(absent).then_some(Lookup::Absent)
    }

    fn put(
        &self,
        id: KeyId,
        found: Lookup,
        meta: EntryMeta,
        may_serve: impl Fn(&KeyId, EntryMeta) -> bool,
    ) {
        match found {
            // A key bears its facts itself: those that are given here.
            Lookup::Hit(key) => self.put_key(&id, key, may_serve),
            Lookup::Absent => self.put_absent(&id, meta),
        }
    }
}

impl Stripe {
    #[inline]
    fn find(&self, id: &KeyId) -> Option<&Arc<CachedKey>> {
        let slot = self.keys.find(id.half())?;
        let key = self.keys.get(slot)?.as_ref();
        key.filter(|key| key.is(id))
    }

    /// Counts a load of a key. Returns whether the key is cached, and its uses.
    fn count_load(&mut self, id: &KeyId) -> (bool, u8) {
        self.age();
        let loads = self.loads.add(id);
        match self.find(id) {
            Some(key) => (true, key.uses().max(loads)),
            None => (false, loads),
        }
    }

    /// Inserts a key, and returns the one that is not in the table for it: its older record;
    /// another key, if two ever have the same first half of their ids; or the new key itself, if
    /// its buckets are full, which takes ids that somebody has chosen to collide. Such a key is
    /// loaded for each request.
    fn insert(&mut self, id: &KeyId, key: Arc<CachedKey>) -> Option<Arc<CachedKey>> {
        let slot = self.keys.find_or_insert(id.half(), |_, _| false);
        match slot.and_then(|slot| self.keys.get_mut(slot)) {
            Some(entry) => {
                if let Some(older) = entry.as_ref().filter(|older| older.is(id)) {
                    key.keep_counts_of(older);
                }
                entry.replace(key)
            }
            None => Some(key),
        }
    }

    fn remove(&mut self, id: &KeyId) -> Option<Arc<CachedKey>> {
        self.find(id)?;
        let slot = self.keys.find(id.half())?;
        self.keys.remove(slot)
    }

    /// Evicts the key of a sample that is worth least, unless it is worth as much as a newly loaded
    /// key with so many loads. A key that may not serve goes first, however often it was used.
    fn evict(&mut self, loads: u8, may_serve: &impl Fn(&KeyId, EntryMeta) -> bool) -> Eviction {
        // A worth of `None`, for a key that may not serve, is less than any number.
        let mut least: Option<(Option<u8>, KeyId)> = None;
        let mut sampled = 0;
        for _ in 0..SAMPLED_BUCKETS {
            self.hand = self.hand.wrapping_add(1);
            for key in self.keys.bucket(self.hand).flatten() {
                sampled += 1;
                let id = key.record().id();
                let idle_samples = key.count_sample();
                let worth = may_serve(&id, key.meta()).then(|| worth(key.uses(), idle_samples));
                if least.is_none_or(|(least, _)| worth < least) {
                    least = Some((worth, id));
                }
            }
            if sampled >= SAMPLE {
                break;
            }
        }
        let Some((worth, id)) = least else {
            return Eviction::Empty;
        };
        if worth.is_some_and(|worth| worth >= loads) {
            return Eviction::Outranked;
        }
        self.loads.raise(&id, worth.unwrap_or_default());
        self.remove(&id).map_or(Eviction::Empty, Eviction::Evicted)
    }

    /// Halves the uses of the next few keys, for the lookups since the last load.
    fn age(&mut self) {
        self.lookups += 1;
        let buckets = self.lookups / LOOKUPS_PER_AGED_BUCKET;
        self.lookups %= LOOKUPS_PER_AGED_BUCKET;
        for _ in 0..buckets.min(MAX_AGED_BUCKETS) {
            self.aged = self.aged.wrapping_add(1);
            for key in self.keys.bucket(self.aged).flatten() {
                key.age();
            }
        }
    }

    #[inline]
    fn find_absent(&self, id: &KeyId) -> Option<EntryMeta> {
        let (half, rest) = id.halves();
        let absent = self.absent.get(self.absent.find(half)?)?;
        (absent.rest == rest).then_some(EntryMeta {
            epoch: absent.epoch,
            since: absent.since,
            was_found: false,
        })
    }

    fn put_absent(&mut self, id: &KeyId, meta: EntryMeta, negative_ttl: u64) {
        let (half, rest) = id.halves();
        // In the place of one that is over by now; else of any, but not always the same one.
        let is_over = |_, it: &Absent| it.since.saturating_add(negative_ttl) <= meta.since;
        let slot = self.absent.find_or_insert(half, is_over).or_else(|| {
            let mut turn = rest % 8;
            self.absent.find_or_insert(half, |_, _| {
                let is_its_turn = turn == 0;
                turn = turn.saturating_sub(1);
                is_its_turn
            })
        });
        let slot = slot.or_else(|| self.absent.find_or_insert(half, |_, _| true));
        if let Some(absent) = slot.and_then(|slot| self.absent.get_mut(slot)) {
            *absent = Absent {
                rest,
                epoch: meta.epoch,
                since: meta.since,
            };
        }
    }
}

/// Returns what a key is worth to the eviction policy: its uses, fewer if it is idle.
fn worth(uses: u8, idle_samples: u8) -> u8 {
    let idle = uses >> (idle_samples / IDLE_SAMPLES);
    idle.max(uses.min(LEAST_IDLE_WORTH))
}

/// An id is half of a digest, and evenly spread as it is.
impl StripeHash for KeyId {
    #[inline]
    fn stripe_hash(&self) -> usize {
        usize::from(u16::from_ne_bytes([
            self.as_bytes()[14],
            self.as_bytes()[15],
        ]))
    }
}
