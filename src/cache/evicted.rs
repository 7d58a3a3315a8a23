//! The keys that were evicted lately: one that returns soon deserves its place.

use std::collections::HashSet;
use std::mem;
use std::sync::{Mutex, PoisonError};

use crate::key::digest::KeyId;

/// Remembers the last evicted keys in two generations: when the young one is full, it becomes the old one.
/// So between once and twice `room` keys are remembered, by the first half of their ids.
pub(super) struct RecentlyEvicted {
    room: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl RecentlyEvicted {
    pub(super) fn new(room: usize) -> Self {
        Self {
            room: room.max(1),
            generations: Mutex::default(),
        }
    }

    pub(super) fn add(&self, id: &KeyId) {
        let mut generations = self.lock();
        if generations.young.len() >= self.room {
            generations.old = mem::take(&mut generations.young);
        }
        generations.young.insert(id.half());
    }

    /// Forgets a key, and returns whether it was remembered.
    pub(super) fn remove(&self, id: &KeyId) -> bool {
        let mut generations = self.lock();
        generations.young.remove(&id.half()) || generations.old.remove(&id.half())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(at: usize) -> KeyId {
        crate::KeyDigest::of(&at.to_string()).id()
    }

    #[test]
    fn the_last_keys_are_remembered_and_no_more_than_twice_the_room() {
        for room in [0, 1, 7, 100] {
            let evicted = RecentlyEvicted::new(room);
            for at in 0..1_000 {
                evicted.add(&id(at));
            }
            let remembered: Vec<_> = (0..1_000).filter(|at| evicted.remove(&id(*at))).collect();
            let count = remembered.len();
            assert!((room..=2 * room.max(1)).contains(&count), "{count}");
            assert!(remembered.into_iter().eq(1_000 - count..1_000));
            assert!(!evicted.remove(&id(999)), "it was taken out");
        }
    }
}
