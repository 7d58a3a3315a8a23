//! Where a cached key is found: each request does, so it waits for as little as can be.
//!
//! The keys are in parts, each locked for no longer than it takes to look at one and to count one more
//! owner of it.

use std::sync::{Arc, MutexGuard};

use super::guard::Spread;
use super::known::KnownKey;
use super::pool::Pool;
use crate::key::digest::KeyId;
use crate::parts::Parts;
use crate::table::Table;

/// Keys by the first half of their ids.
pub(super) struct Index {
    parts: Parts<Keys>,
    pool: Arc<Pool>,
}

type Keys = Table<Option<Arc<KnownKey>>, 4>;

impl Index {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        let parts = Parts::new(Keys::default);
        Self { parts, pool }
    }

    /// Looks at a key where it is, if it is here.
    #[inline]
    pub(super) fn look_at<R>(
        &self,
        id: &KeyId,
        look: impl FnOnce(&Arc<KnownKey>) -> R,
    ) -> Option<R> {
        let (half, part) = self.part(id);
        let known = part.find(half).and_then(|place| part.get(place)?.as_ref());
        known.filter(|known| known.is(id)).map(look)
    }

    /// In the place of an older record of the key, if there is one; or of another key, if ever two
    /// have half of their ids in common.
    pub(super) fn put(&self, id: &KeyId, known: Arc<KnownKey>) {
        let (half, mut part) = self.part(id);
        let Some(place) = part.find_or_put(half, |_, _| false) else {
            // Then it is loaded each time. It takes more luck than there is, or keys that somebody has
            // chosen for it.
            return;
        };
        let replaced = part.get_mut(place).and_then(|old| old.replace(known));
        drop(part);
        if let Some(known) = replaced {
            self.pool.empty(known);
        }
    }

    pub(super) fn remove_if(&self, id: &KeyId, is_it: impl FnOnce(&Arc<KnownKey>) -> bool) {
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
        (id.half(), self.parts.of(id.spread()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::key::digest::KeyDigest;
    use crate::key::environment::Environment;
    use crate::key::record::KeyRecord;
    use crate::key::verifier::{PepperId, Verifier};
    use crate::limit::metering::Metering;

    struct World {
        metering: Arc<Metering>,
        pool: Arc<Pool>,
        index: Index,
    }

    impl World {
        fn new() -> Self {
            let metering = Arc::new(Metering {
                limiting: None,
                clock: Arc::new(SystemClock),
            });
            let pool = Arc::new(Pool::new(Arc::clone(&metering)));
            let index = Index::new(Arc::clone(&pool));
            Self {
                metering,
                pool,
                index,
            }
        }

        fn known(&self, record: KeyRecord) -> Arc<KnownKey> {
            let metering = Arc::clone(&self.metering);
            let stamp = super::super::guard::Stamp::default();
            self.pool
                .fill(KnownKey::new(record, Environment::LIVE, metering, stamp, 0))
        }

        fn put(&self, record: &KeyRecord) -> Arc<KnownKey> {
            let known = self.known(record.clone());
            self.index.put(&record.id(), Arc::clone(&known));
            known
        }

        fn account(&self, id: &KeyId) -> Option<String> {
            self.index
                .look_at(id, |known| known.record().account().to_owned())
        }
    }

    /// Of keys that differ from each other in this byte of their digests.
    fn record(at: usize, byte: u8, account: &str) -> KeyRecord {
        let mut digest = [7; 32];
        digest[at] = byte;
        KeyRecord::imported(KeyDigest::from_bytes(digest), account)
    }

    #[test]
    fn a_key_is_not_taken_for_another_with_half_of_its_id() {
        let world = World::new();
        for pepper in [false, true] {
            let [one, other] = [1, 2].map(|byte| {
                let record = record(9, byte, &byte.to_string());
                if !pepper {
                    return record;
                }
                let verifier = Verifier::peppered([byte; 32], PepperId::from("a"));
                record.with_verifier(verifier)
            });
            assert_eq!(one.id().half(), other.id().half());
            let known = world.put(&one);
            assert_eq!(world.account(&one.id()).as_deref(), Some("1"));
            assert_eq!(world.account(&other.id()), None);
            world.index.remove_if(&other.id(), |_| true);
            assert_eq!(world.account(&one.id()).as_deref(), Some("1"));
            world.put(&other); // takes its place
            assert_eq!(world.account(&one.id()), None);
            world.index.remove_if(&one.id(), |_| true);
            assert_eq!(world.account(&other.id()).as_deref(), Some("2"));
            // Whoever has the first one still has it.
            assert_eq!(known.record().account(), "1");
            world.index.remove_if(&other.id(), |_| true);
            assert_eq!(world.account(&other.id()), None);
        }
    }

    #[test]
    fn whoever_has_a_key_has_it_as_it_was() {
        let world = World::new();
        let held: Vec<_> = (0..200)
            .map(|at| world.put(&record(9, 1, &format!("{at}"))))
            .collect();
        // All but the last are out of the index, and their memory is not anybody else's.
        for (at, known) in held.iter().enumerate() {
            assert_eq!(known.record().account(), at.to_string());
        }
        let last = held.last().unwrap().serial();
        world
            .index
            .remove_if(&held[0].record().id(), |known| known.serial() != last);
        assert!(world.account(&held[0].record().id()).is_some());
    }

    #[test]
    fn what_leaves_is_let_go_of_and_its_memory_used_again() {
        let world = World::new();
        let first = world.put(&record(9, 1, "a"));
        let address = Arc::as_ptr(&first).addr();
        drop(first);
        let metering = Arc::strong_count(&world.metering);
        let second = world.put(&record(9, 1, "b"));
        assert_ne!(Arc::as_ptr(&second).addr(), address); // both were there for a moment
        assert_eq!(Arc::strong_count(&world.metering), metering);
        let third = world.known(record(9, 1, "c"));
        assert_eq!(Arc::as_ptr(&third).addr(), address);
        assert_eq!(third.record().account(), "c");
        assert_eq!(second.record().account(), "b");
    }
}
