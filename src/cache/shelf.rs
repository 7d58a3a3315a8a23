//! The map of cached keys: an index for hits, a keeper that evicts, and a table for keys that do
//! not exist.
//!
//! The keeper must be told of uses. A load is told at once. A hit is counted in the key, and told
//! when a later load comes along: each load tells of the hits of one line of the index. So a hit
//! pays next to nothing for it, and without loads nothing is evicted and nothing needs to be told.
//!
//! Keys that do not exist are kept apart, so that a flood of them evicts no good one.

use std::sync::Arc;

use super::Found;
use super::guard::Spread;
use super::guarded::{Map, Origin};
use super::index::Index;
use super::keeper::{Keeper, Kept};
use super::known::KnownKey;
use super::misses::Misses;
use super::pool::Pool;
use crate::key::digest::KeyId;

/// What a cached key takes beside its record: its place in the index, moka's, and what they keep
/// free.
const OVERHEAD: usize = 400;

pub(super) struct Shelf {
    found: Arc<Index>,
    keeper: Keeper,
    misses: Misses,
}

impl Shelf {
    pub(super) fn new(bytes: u64, pool: Arc<Pool>, longest_miss: u64) -> Self {
        let found = Arc::new(Index::new(pool));
        let index = Arc::clone(&found);
        let keeper = Keeper::new(bytes, move |id, kept| {
            let mut uses = 0;
            index.remove_if(id, |known| {
                uses = known.uses().visit();
                known.serial() == kept.serial
            });
            uses
        });
        Self {
            found,
            keeper,
            misses: Misses::new(longest_miss),
        }
    }

    fn put_key(&self, id: KeyId, known: Arc<KnownKey>, may_serve: impl Fn(&KeyId, Origin) -> bool) {
        let mut kept = kept(&known);
        // The index first: what the keeper evicts must be there to be removed.
        let replaced = self.found.put(&id, known);
        if let Some(other) = replaced.filter(|replaced| *replaced != id) {
            self.keeper.remove(&other);
        }
        self.tell_of_uses(&id, may_serve);
        // Another thread may have removed or replaced the key between the two. The keeper must end
        // up with what the index has, or it counts the weight of what is gone, or never evicts what
        // is there.
        loop {
            self.keeper.insert(id, kept);
            match self.found.look_at(&id, |known| self::kept(known)) {
                Some(found) if found == kept => return,
                Some(found) => kept = found,
                None => return self.keeper.remove(&id),
            }
        }
    }

    /// Lets go of what observers keep of the keys that are meant.
    pub(super) fn release(&self, is_meant: impl Fn(Origin) -> bool) {
        self.found.release(is_meant);
    }

    /// Tells the keeper of this load, and of the hits of a few other keys. Those that may not serve
    /// any more make room: a key that was invalidated is worth nothing, however often it was used.
    fn tell_of_uses(&self, loaded: &KeyId, may_serve: impl Fn(&KeyId, Origin) -> bool) {
        self.keeper.count_untold();
        self.keeper.count((*loaded, 1));
        let has_returned = self.keeper.has_returned(loaded);
        if !self.keeper.is_half_full() {
            return;
        }
        let is_dead = |id: &KeyId, known: &KnownKey| !may_serve(id, known.origin());
        let visited = self.found.visit(loaded, is_dead);
        for hits in visited.hits {
            self.keeper.count(hits);
        }
        if !self.keeper.is_nearly_full() {
            return;
        }
        for dead in &visited.dead {
            self.keeper.remove(dead);
        }
        if has_returned
            && visited.dead.is_empty()
            && let Some(idle) = self.found.find_idle(loaded)
        {
            self.keeper.remove(&idle);
        }
    }
}

fn kept(known: &KnownKey) -> Kept {
    Kept::new(known.serial(), known.weight() + OVERHEAD)
}

impl Map<KeyId, Found> for Shelf {
    #[inline]
    fn get(&self, id: &KeyId, asked_for: impl Fn(Origin) -> bool) -> Option<Found> {
        let kept = self.found.look_at(id, |known| {
            let known = asked_for(known.origin()).then(|| {
                known.uses().hit();
                Arc::clone(known)
            });
            known.map(Found::Key)
        });
        kept.unwrap_or_else(|| {
            let miss = self.misses.get(id).filter(|miss| asked_for(*miss));
            miss.map(|_| Found::Nothing)
        })
    }

    fn put(
        &self,
        id: KeyId,
        found: Found,
        origin: Origin,
        may_serve: impl Fn(&KeyId, Origin) -> bool,
    ) {
        match found {
            // A key bears its origin itself: the one that is given here.
            Found::Key(known) => self.put_key(id, known, may_serve),
            Found::Nothing => {
                if self.found.remove_if(&id, |_| true) {
                    self.keeper.remove(&id);
                }
                self.misses.put(&id, origin);
            }
        }
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
