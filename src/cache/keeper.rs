//! The eviction policy: moka decides which keys stay when memory is full.
//!
//! moka's policy (`TinyLFU`) admits a new key to a full cache only if it was used more often than
//! the ones that would have to go. So it must be told of uses, which it counts in a sketch that
//! halves itself now and then. Without that, every newcomer ties with what is there, and loses.
//!
//! One rule stands beside it. Newcomers are compared with the least recently used key, and as long
//! as they lose it stays the one to be compared with, so a single key keeps all of them out.
//! Therefore a key that returns soon after its eviction, or that is loaded over and over, takes the
//! place of one that has been idle.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::notification::RemovalCause;

use super::evicted::RecentlyEvicted;
use super::reloads::Reloads;
use crate::key::digest::KeyId;

/// The unit of weight, in bytes. It keeps the entries few that [`Keeper::size_sketch`] needs for
/// large memory.
const UNIT: u64 = 16;

/// What a plain key weighs, in bytes. The sketch and the memory of evicted keys are sized by it.
const PLAIN_KEY: u64 = 800;

/// A sixth to a quarter of the keys that fit in is remembered when evicted. With more, the hit
/// ratio of Zipf 0.8 at 10 % of the keys is lower (by 0.003 with half); with fewer, a set of
/// newcomers must be smaller to be let in by the third round.
const EVICTED_SHARE: u64 = 12;

/// Decides who stays in a bounded cache.
pub(super) struct Keeper {
    cache: moka::sync::Cache<KeyId, Kept>,
    capacity: u64,
    untold: Arc<Mutex<Vec<Uses>>>,
    evicted: Arc<RecentlyEvicted>,
    reloads: Reloads,
}

/// How often a key was used that the policy has not been told of.
pub(super) type Uses = (KeyId, u8);

/// What the policy keeps in the place of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// To tell the key from one that has taken its place.
    pub(super) serial: u64,
    /// In [`UNIT`]s.
    weight: u32,
}

impl Kept {
    pub(super) fn new(serial: u64, bytes: usize) -> Self {
        let weight = (bytes as u64).div_ceil(UNIT);
        Self {
            serial,
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
        }
    }
}

impl Keeper {
    /// A policy for so many bytes. It calls `evict` with each key that leaves, for whatever reason,
    /// which returns how often that key was used since the policy was told.
    pub(super) fn new(
        bytes: u64,
        evict: impl Fn(&KeyId, Kept) -> u8 + Send + Sync + 'static,
    ) -> Self {
        let capacity = (bytes / UNIT).max(1); // with none, moka evicts nothing
        let keys = bytes / PLAIN_KEY;
        let untold = Arc::<Mutex<Vec<Uses>>>::default();
        let room = usize::try_from(keys / EVICTED_SHARE).unwrap_or(usize::MAX);
        let evicted = Arc::new(RecentlyEvicted::new(room));
        let (leaving, noted) = (Arc::clone(&untold), Arc::clone(&evicted));
        let cache = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, kept: &Kept| kept.weight)
            .eviction_listener(move |id: Arc<KeyId>, kept: Kept, cause| {
                let uses = evict(&id, kept);
                if uses > 0 {
                    // Told later: moka is in the middle of its housekeeping.
                    lock(&leaving).push((*id, uses));
                }
                if cause == RemovalCause::Size {
                    noted.add(&id);
                }
            })
            .build();
        let keeper = Self {
            cache,
            capacity,
            untold,
            evicted,
            reloads: Reloads::new(usize::try_from(keys).unwrap_or(usize::MAX)),
        };
        keeper.size_sketch(keys);
        keeper
    }

    /// Keeps a key, or the new weight of one that is kept.
    pub(super) fn insert(&self, id: KeyId, kept: Kept) {
        self.cache.insert(id, kept);
    }

    /// Keeps a key no more, so that it weighs nothing.
    pub(super) fn remove(&self, id: &KeyId) {
        self.cache.invalidate(id);
    }

    /// Returns whether a key that is loaded was evicted a short while ago, or is loaded often, and
    /// forgets that.
    pub(super) fn has_returned(&self, id: &KeyId) -> bool {
        let is_often = self.reloads.add(id);
        self.evicted.remove(id) || is_often
    }

    /// Returns whether the cache is at least half full. Before, there is nothing to choose among.
    pub(super) fn is_half_full(&self) -> bool {
        self.cache.weighted_size() >= self.capacity / 2
    }

    /// Returns whether the next keys may make others go.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.cache.weighted_size() >= self.capacity / 8 * 7
    }

    /// Counts uses of a key, whether it is kept or not.
    pub(super) fn count(&self, (id, times): Uses) {
        for _ in 0..times {
            self.cache.get(&id);
        }
    }

    /// Counts the uses of the keys that left lately. A key that is used several times before its
    /// admission is decided would begin from nothing each time.
    pub(super) fn count_untold(&self) {
        // The lock is let go first: counting may make moka evict more keys, which are noted under
        // it.
        let untold = mem::take(&mut *lock(&self.untold));
        for uses in untold {
            self.count(uses);
        }
    }

    /// Makes moka size its sketch for so many keys, before there is any.
    ///
    /// moka does so when half of the capacity is used, by the number of entries times the share
    /// that is used. With a weigher that is a quarter of the keys that fit in. Keys collide in so
    /// small a sketch, and it halves its counts four times as often: the hit ratio of Zipf 0.8 and
    /// 1.0 is lower by 0.02 to 0.04 at 10 % of the keys. Here a few entries outgrow the capacity
    /// together, and go at once.
    ///
    /// The pages of the sketch are the system's until they are used: 16 MiB for each GiB of keys.
    /// The first loads of a cache of some GiB pay for them, with some 35 us of CPU time each; those
    /// of 64 MiB do not. If a later moka does otherwise, that hit ratio is all that is lost;
    /// `benches/hit_ratio` tells.
    fn size_sketch(&self, keys: u64) {
        /// moka weighs so many changes at a time.
        const BATCH: u64 = 64;
        /// Beyond some GiB of memory the sketch is smaller than it might be: more entries take too
        /// long.
        const MOST: u64 = 4096;
        let weight = |count: u64| keys.saturating_mul(self.capacity) / (count * count.min(BATCH));
        let mut count = 1;
        while weight(count) > u64::from(u32::MAX) && count < MOST {
            count += 1;
        }
        // An entry that is too heavy is not taken in, but one that is in may become so.
        let heavy = u32::try_from(weight(count)).unwrap_or(u32::MAX);
        let ids = || (0..count).map(|at| KeyId::from_bytes(u128::from(at).to_be_bytes()));
        for weight in [1, heavy] {
            ids().for_each(|id| self.cache.insert(id, Kept { serial: 0, weight }));
            self.cache.run_pending_tasks();
        }
        ids().for_each(|id| self.cache.invalidate(&id));
        self.cache.run_pending_tasks();
    }
}

fn lock(uses: &Mutex<Vec<Uses>>) -> MutexGuard<'_, Vec<Uses>> {
    uses.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_keeper_is_empty_whatever_its_size() {
        for bytes in [0, 1, 1_000, 1 << 20, 64 << 20, 4 << 30] {
            let keeper = Keeper::new(bytes, |_, _| 0);
            keeper.cache.run_pending_tasks();
            assert_eq!(keeper.cache.entry_count(), 0, "{bytes}");
            assert_eq!(keeper.cache.weighted_size(), 0, "{bytes}");
        }
    }
}
