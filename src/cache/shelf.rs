//! Where loaded keys are kept, within a bound of memory.
//!
//! Good ones are found in an [`Index`] of our own. Who stays in it is moka's to decide, which knows how
//! recently and how often each was loaded, and what all of them weigh; what it evicts leaves the index.
//! Keys that do not exist are kept apart, so that a flood of them evicts no good one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::guard::Spread;
use super::guarded::{Answer, Map, Origin};
use super::pool::Pool;
use super::{Found, KnownKey};
use crate::key::digest::KeyId;
use crate::table::Table;

/// How many keys that do not exist are remembered.
const MISSES: u64 = 16_384;

/// What a cached key takes beside its record: its place in the index, moka's, and what they keep free.
const OVERHEAD: usize = 400;

pub(super) struct Shelf {
    found: Arc<Index>,
    keeper: moka::sync::Cache<KeyId, Kept>,
    misses: moka::sync::Cache<KeyId, Found>,
}

/// What moka keeps in the place of a key.
#[derive(Clone, Copy)]
struct Kept {
    /// To tell the key from one that has taken its place.
    serial: u64,
    weight: u32,
}

impl Shelf {
    pub(super) fn new(bytes: u64, pool: Arc<Pool>) -> Self {
        let found = Arc::new(Index::new(pool));
        let index = Arc::clone(&found);
        let keeper = moka::sync::Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, kept: &Kept| kept.weight)
            .eviction_listener(move |id: Arc<KeyId>, kept: Kept, _| {
                index.remove_if(&id, |known| known.serial() == kept.serial);
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
    fn get(&self, id: &KeyId, asked_for: impl Fn(Origin) -> bool) -> Option<Found> {
        let kept = self.found.look_at(id, |known| {
            let known = asked_for(known.origin()).then(|| Arc::clone(known));
            known.map(Found::Key)
        });
        kept.unwrap_or_else(|| {
            let miss = self.misses.get(id);
            miss.filter(|miss| asked_for(miss.origin()))
        })
    }

    fn put(&self, id: KeyId, found: Found) {
        let Found::Key(known) = found else {
            // The keeper follows when it needs the room.
            self.found.remove_if(&id, |_| true);
            self.misses.insert(id, found);
            return;
        };
        let kept = Kept {
            serial: known.serial(),
            weight: u32::try_from(known.weight() + OVERHEAD).unwrap_or(u32::MAX),
        };
        // In this order: whatever the keeper evicts is there to be removed.
        self.found.put(&id, known);
        self.keeper.insert(id, kept);
    }
}

/// The keys, by the first half of their ids, in parts that are locked for no longer than it takes to
/// count one more owner of a key.
struct Index {
    parts: Box<[Part]>,
    pool: Arc<Pool>,
}

/// Parts share no line of the processor's cache with each other.
#[derive(Default)]
#[repr(align(128))]
struct Part(Mutex<Keys>);

type Keys = Table<Option<Arc<KnownKey>>, 4>;

const PARTS: usize = 64;

impl Index {
    fn new(pool: Arc<Pool>) -> Self {
        let parts = (0..PARTS).map(|_| Part::default()).collect();
        Self { parts, pool }
    }

    /// Looks at a key where it is, if it is here.
    #[inline]
    fn look_at<R>(&self, id: &KeyId, look: impl FnOnce(&Arc<KnownKey>) -> R) -> Option<R> {
        let (half, part) = self.part(id);
        let known = part.find(half).and_then(|place| part.get(place)?.as_ref());
        known.filter(|known| known.is(id)).map(look)
    }

    /// In the place of an older record of the key, if there is one; or of another key, if ever two
    /// have half of their ids in common.
    fn put(&self, id: &KeyId, known: Arc<KnownKey>) {
        let (half, mut part) = self.part(id);
        let place = loop {
            if let Some(place) = part.find(half) {
                break place;
            }
            // Only a place is made. If there is none, the table grows, as far as it must.
            let _ = part.put(half, None, |_, _| false);
        };
        let replaced = part.get_mut(place).and_then(|old| old.replace(known));
        drop(part);
        if let Some(known) = replaced {
            self.pool.empty(known);
        }
    }

    fn remove_if(&self, id: &KeyId, is_it: impl FnOnce(&Arc<KnownKey>) -> bool) {
        let (half, mut part) = self.part(id);
        let Some(place) = part.find(half) else {
            return;
        };
        let known = part.get(place).and_then(Option::as_ref);
        if known.is_some_and(|known| known.is(id) && is_it(known)) {
            let removed = part.remove(place);
            drop(part);
            if let Some(known) = removed {
                self.pool.empty(known);
            }
        }
    }

    #[inline]
    fn part(&self, id: &KeyId) -> (u64, MutexGuard<'_, Keys>) {
        let half = id.half();
        let Part(part) = &self.parts[id.spread() % PARTS];
        (half, part.lock().unwrap_or_else(PoisonError::into_inner))
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
