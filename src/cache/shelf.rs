//! Where loaded keys are kept, within a bound of memory.
//!
//! Good ones are found in an index of our own. Who stays in it is moka's to decide, which knows how
//! recently and how often each was loaded, and what all of them weigh; what it evicts leaves the index.
//! Keys that do not exist are kept apart, so that a flood of them evicts no good one.

use std::sync::Arc;

use super::Found;
use super::guard::Spread;
use super::guarded::{Map, Origin};
use super::index::Index;
use super::misses::Misses;
use super::pool::Pool;
use crate::key::digest::KeyId;

/// What a cached key takes beside its record: its place in the index, moka's, and what they keep free.
const OVERHEAD: usize = 400;

pub(super) struct Shelf {
    found: Arc<Index>,
    keeper: moka::sync::Cache<KeyId, Kept>,
    misses: Misses,
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
            .max_capacity(bytes.max(1)) // with none, moka evicts nothing
            .weigher(|_, kept: &Kept| kept.weight)
            .eviction_listener(move |id: Arc<KeyId>, kept: Kept, _| {
                index.remove_if(&id, |known| known.serial() == kept.serial);
            })
            .build();
        Self {
            found,
            keeper,
            misses: Misses::new(),
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
            let miss = self.misses.get(id).filter(|miss| asked_for(*miss));
            miss.map(|_| Found::Nothing)
        })
    }

    fn put(&self, id: KeyId, found: Found, origin: Origin) {
        let Found::Key(known) = found else {
            // The keeper follows when it needs the room.
            self.found.remove_if(&id, |_| true);
            return self.misses.put(&id, origin);
        };
        // A key bears its origin itself: the one that is given here.
        let kept = Kept {
            serial: known.serial(),
            weight: u32::try_from(known.weight() + OVERHEAD).unwrap_or(u32::MAX),
        };
        // In this order: whatever the keeper evicts is there to be removed.
        self.found.put(&id, known);
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
