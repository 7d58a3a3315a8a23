//! Where loaded keys are kept, within a bound of memory.
//!
//! Good ones are found in a map whose reads take no lock. Who stays in it is moka's to decide, which
//! knows how recently and how often each was wanted, and what all of them weigh; what it evicts
//! leaves the map. Keys that do not exist are kept apart, so that a flood of them evicts no good one.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::KnownKey;
use super::guard::Spread;
use super::guarded::{Loaded, Map};
use crate::key::digest::KeyId;

/// How many keys that do not exist are remembered.
const MISSES: u64 = 16_384;

/// What a cached key takes beside its record: a node of the map, moka's, and what they keep free.
const OVERHEAD: usize = 400;

pub(super) struct Shelf {
    found: Arc<Index>,
    keeper: moka::sync::Cache<KeyId, Kept>,
    misses: moka::sync::Cache<KeyId, Loaded<Arc<KnownKey>>>,
    serial: AtomicU64,
}

type Index = papaya::HashMap<KeyId, Shelved, BuildHasherDefault<IdHasher>>;

struct Shelved {
    loaded: Loaded<Arc<KnownKey>>,
    serial: u64,
}

/// What moka keeps in the place of a key.
#[derive(Clone, Copy)]
struct Kept {
    serial: u64,
    weight: u32,
}

impl Shelf {
    pub(super) fn new(bytes: u64) -> Self {
        let found: Arc<Index> = Arc::default();
        let index = Arc::clone(&found);
        let keeper = moka::sync::Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, kept: &Kept| kept.weight)
            // What replaced the evicted one stays.
            .eviction_listener(move |id: Arc<KeyId>, kept: Kept, _| {
                let is_it = |_: &KeyId, shelved: &Shelved| shelved.serial == kept.serial;
                let _ = index.pin().remove_if(&*id, is_it);
            })
            .build();
        Self {
            found,
            keeper,
            misses: moka::sync::Cache::new(MISSES),
            serial: AtomicU64::new(0),
        }
    }

    /// How many good keys are found here.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.keeper.run_pending_tasks();
        self.found.len()
    }
}

impl Map<KeyId, Arc<KnownKey>> for Shelf {
    #[inline]
    fn view<R>(&self, id: &KeyId, look: impl FnOnce(&Loaded<Arc<KnownKey>>) -> R) -> Option<R> {
        if let Some(shelved) = self.found.pin().get(id) {
            return Some(look(&shelved.loaded));
        }
        self.misses.get(id).map(|miss| look(&miss))
    }

    fn put(&self, id: KeyId, loaded: Loaded<Arc<KnownKey>>) {
        let Some(known) = &loaded.value else {
            // The keeper follows when it needs the room.
            self.found.pin().remove(&id);
            self.misses.insert(id, loaded);
            return;
        };
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let weight = u32::try_from(known.weight() + OVERHEAD).unwrap_or(u32::MAX);
        // In this order: whatever the keeper evicts is there to be removed.
        self.found.pin().insert(id, Shelved { loaded, serial });
        self.keeper.insert(id, Kept { serial, weight });
    }
}

/// Ids are digests: evenly spread as they are.
impl Spread for KeyId {
    #[inline]
    fn spread(&self) -> usize {
        usize::from(u16::from_ne_bytes([
            self.as_bytes()[14],
            self.as_bytes()[15],
        ]))
    }
}

/// The first eight bytes of an id, as they are.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        if let Some(head) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*head);
        }
    }

    #[inline]
    fn write_usize(&mut self, _length: usize) {}
}
