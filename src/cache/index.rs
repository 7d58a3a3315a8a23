//! The index of cached keys: found in one locked part of a table, by the first half of the key's
//! id.
//!
//! A part is locked for no longer than it takes to look at a key and to clone its `Arc`. A hit is
//! counted in the key itself and nowhere else. [`Index::put`] collects the counts of a few keys for
//! the eviction policy, so the cost of telling it falls on loads and not on hits.

use std::sync::{Arc, MutexGuard};

use arrayvec::ArrayVec;

use super::guard::Spread;
use super::guarded::Origin;
use super::keeper::Uses;
use super::known::KnownKey;
use super::pool::Pool;
use crate::key::digest::KeyId;
use crate::util::parts::Parts;
use crate::util::table::Table;

/// Keys by the first half of their ids.
pub(super) struct Index {
    parts: Parts<Part>,
    pool: Arc<Pool>,
}

#[derive(Default)]
struct Part {
    keys: Keys,
    /// The line of `keys` that is visited next.
    hand: usize,
}

type Keys = Table<Option<Arc<KnownKey>>, LINE>;

const LINE: usize = 4;

/// The least number of keys that a load visits. With fewer, the policy knows less of the keys that
/// it chooses among: the hit ratio of Zipf 1.0 in a cache of 200 keys was lower by 0.02 with 1.
const VISITED: usize = 2;

/// The visits without a hit after which a key is idle.
const IDLE: u8 = 2;

/// The lines in which a load looks for keys at most: a small table may be nearly empty.
const MOST_LINES: usize = 16;

/// The lines of a part that are looked through under its lock at a time.
const LINES_AT_ONCE: usize = 64;

/// The findings of a visit.
#[derive(Default)]
pub(super) struct Visited {
    /// Keys that were hit since the last visit.
    pub(super) hits: ArrayVec<Uses, { VISITED + LINE }>,
    /// Keys that may not serve any more.
    pub(super) dead: ArrayVec<KeyId, { VISITED + LINE }>,
}

impl Index {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        let parts = Parts::new(Part::default);
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
        let place = part.keys.find(half);
        let known = place.and_then(|place| part.keys.get(place)?.as_ref());
        known.filter(|known| known.is(id)).map(look)
    }

    /// Puts a key in the place of an older record of it, or of another key if two ever have the
    /// same first half of their ids. Returns the key that was replaced.
    pub(super) fn put(&self, id: &KeyId, known: Arc<KnownKey>) -> Option<KeyId> {
        let (half, mut part) = self.part(id);
        // Without a place the key is loaded each time. That takes ids that somebody has chosen to
        // meet.
        let place = part.keys.find_or_put(half, |_, _| false)?;
        let slot = part.keys.get_mut(place)?;
        if let Some(old) = slot.as_ref().filter(|old| old.is(id)) {
            known.uses().inherit(old.uses());
        }
        let replaced = slot.replace(known);
        drop(part);
        let replaced = replaced?;
        let id = replaced.record().id();
        self.pool.empty(replaced);
        Some(id)
    }

    /// Visits the next few keys in the part that this id belongs to. Ids are digests, so all parts
    /// come up equally often.
    pub(super) fn visit(&self, id: &KeyId, is_dead: impl Fn(&KeyId, &KnownKey) -> bool) -> Visited {
        let (_, mut part) = self.part(id);
        let mut found = Visited::default();
        let mut visited = 0;
        for _ in 0..MOST_LINES {
            let line = part.keys.line(part.hand);
            for known in line.flatten() {
                visited += 1;
                let key = known.record().id();
                let hits = known.uses().visit();
                if key != *id && is_dead(&key, known) {
                    found.dead.push(key);
                } else if hits > 0 {
                    found.hits.push((key, hits));
                }
            }
            part.hand = part.hand.wrapping_add(1);
            if visited >= VISITED {
                break;
            }
        }
        found
    }

    /// Puts copies in the place of keys that are meant and of which observers keep something. What
    /// they keep is dropped outside of all locks: it runs the application's own code.
    pub(super) fn release(&self, is_meant: impl Fn(Origin) -> bool) {
        for part in 0..Parts::<Part>::COUNT {
            for begin in (0..).step_by(LINES_AT_ONCE) {
                let mut released = Vec::new();
                let mut keys = self.parts.at(part);
                let lines = keys.keys.lines();
                for line in begin..lines.min(begin + LINES_AT_ONCE) {
                    for slot in keys.keys.line_mut(line).flatten() {
                        if slot.slots().are_used() && is_meant(slot.origin()) {
                            let copy = Arc::new(slot.without_slots());
                            released.push(std::mem::replace(slot, copy));
                        }
                    }
                }
                drop(keys);
                for old in released {
                    self.pool.empty(old);
                }
                if begin + LINES_AT_ONCE >= lines {
                    break;
                }
            }
        }
    }

    /// Finds an idle key in the part that this id belongs to, among those that are visited next.
    pub(super) fn find_idle(&self, id: &KeyId) -> Option<KeyId> {
        let (_, part) = self.part(id);
        let lines = (0..MOST_LINES).map(|at| part.hand.wrapping_add(at));
        let mut keys = lines.flat_map(|line| part.keys.line(line)).flatten();
        let idle = keys.find(|known| known.uses().idle_visits() >= IDLE)?;
        Some(idle.record().id())
    }

    /// Removes a key if it is the one that is meant. Returns whether it was.
    pub(super) fn remove_if(&self, id: &KeyId, is_it: impl FnOnce(&Arc<KnownKey>) -> bool) -> bool {
        let (half, mut part) = self.part(id);
        let Some(place) = part.keys.find(half) else {
            return false;
        };
        let known = part.keys.get(place).and_then(Option::as_ref);
        if !known.is_some_and(|known| known.is(id) && is_it(known)) {
            return false;
        }
        let removed = part.keys.remove(place);
        drop(part);
        if let Some(known) = removed {
            self.pool.empty(known);
        }
        true
    }

    #[inline]
    fn part(&self, id: &KeyId) -> (u64, MutexGuard<'_, Part>) {
        (id.half(), self.parts.of(id.spread()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::limiter::MemoryLimiter;
    use crate::cache::known::Written;
    use crate::key::digest::KeyDigest;
    use crate::key::environment::Environment;
    use crate::key::record::KeyRecord;
    use crate::key::verifier::{PepperId, Verifier};
    use crate::limit::editions::Editions;
    use crate::limit::limiting::Limiting;
    use crate::limit::metering::Metering;
    use crate::limit::outage::{Emergency, LimiterOutage};
    use crate::limit::rules::Limits;
    use crate::util::clock::SystemClock;

    struct World {
        metering: Arc<Metering>,
        pool: Arc<Pool>,
        index: Index,
    }

    fn live() -> Written {
        Written {
            environment: Environment::LIVE,
            publishable: None,
        }
    }

    impl World {
        fn new() -> Self {
            let limiter = Arc::new(MemoryLimiter::new());
            let outage = LimiterOutage::refuse();
            let metering = Arc::new(Metering {
                limiting: Limiting {
                    rules: Editions::new(Limits::new()),
                    limiter: limiter.clone(),
                    time_limit: outage.time_limit,
                    emergency: Emergency::new(outage.policy, limiter),
                },
                clock: Arc::new(SystemClock),
                observers: 0,
                refusals: Arc::default(),
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
                .fill(KnownKey::new(record, live(), metering, stamp, 0))
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
