//! Where loaded keys are kept, within a bound of memory.
//!
//! Good ones are found in a map whose reads take no lock. Who stays in it is moka's to decide, which
//! knows how recently and how often each was wanted, and what all of them weigh; what it evicts
//! leaves the map. Keys that do not exist are kept apart, so that a flood of them evicts no good one.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::guard::Spread;
use super::guarded::Map;
use super::{Found, KnownKey};
use crate::key::digest::KeyId;

/// How many keys that do not exist are remembered.
const MISSES: u64 = 16_384;

/// What a cached key takes beside its record: a node of the map, moka's, and what they keep free.
const OVERHEAD: usize = 400;

pub(super) struct Shelf {
    found: Arc<Index>,
    keeper: moka::sync::Cache<KeyId, Kept>,
    misses: moka::sync::Cache<KeyId, Found>,
}

type Index = papaya::HashMap<KeyId, Arc<KnownKey>, BuildHasherDefault<IdHasher>>;

/// What moka keeps in the place of a key.
#[derive(Clone, Copy)]
struct Kept {
    /// Where the key is in memory, to tell it from one that has taken its place.
    address: usize,
    weight: u32,
}

impl Shelf {
    pub(super) fn new(bytes: u64) -> Self {
        let found: Arc<Index> = Arc::default();
        let index = Arc::clone(&found);
        let keeper = moka::sync::Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, kept: &Kept| kept.weight)
            .eviction_listener(move |id: Arc<KeyId>, kept: Kept, _| {
                let is_it =
                    |_: &KeyId, known: &Arc<KnownKey>| Arc::as_ptr(known).addr() == kept.address;
                let _ = index.pin().remove_if(&*id, is_it);
            })
            .build();
        Self {
            found,
            keeper,
            misses: moka::sync::Cache::new(MISSES),
        }
    }
}

impl Map<KeyId, Found> for Shelf {
    #[inline]
    fn get(&self, id: &KeyId) -> Option<Found> {
        if let Some(known) = self.found.pin().get(id) {
            return Some(Found::Key(Arc::clone(known)));
        }
        self.misses.get(id)
    }

    fn put(&self, id: KeyId, found: Found) {
        let Found::Key(known) = found else {
            // The keeper follows when it needs the room.
            self.found.pin().remove(&id);
            self.misses.insert(id, found);
            return;
        };
        let kept = Kept {
            address: Arc::as_ptr(&known).addr(),
            weight: u32::try_from(known.weight() + OVERHEAD).unwrap_or(u32::MAX),
        };
        // In this order: whatever the keeper evicts is there to be removed.
        self.found.pin().insert(id, known);
        self.keeper.insert(id, kept);
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
