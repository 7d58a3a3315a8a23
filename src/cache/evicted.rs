//! The keys that were evicted lately: one that returns soon deserves its place.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::key::digest::KeyId;

/// Remembers the last evicted keys in three generations: when the youngest is full, the oldest is
/// forgotten. So between twice and three times `room` keys are remembered, by the first half of
/// their ids.
pub(super) struct RecentlyEvicted {
    room: usize,
    /// The youngest first.
    generations: Mutex<[HashSet<u64>; 3]>,
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
        if generations[0].len() >= self.room {
            generations.rotate_right(1);
            generations[0].clear();
        }
        generations[0].insert(id.half());
    }

    /// Forgets a key, and returns whether it was remembered.
    pub(super) fn remove(&self, id: &KeyId) -> bool {
        let mut generations = self.lock();
        let mut generations = generations.iter_mut();
        generations.any(|generation| generation.remove(&id.half()))
    }

    fn lock(&self) -> MutexGuard<'_, [HashSet<u64>; 3]> {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(at: usize) -> KeyId {
        crate::key::KeyDigest::of(&at.to_string()).id()
    }

    #[test]
    fn the_last_keys_are_remembered_and_no_more_than_three_times_the_room() {
        for room in [0, 1, 7, 100] {
            let evicted = RecentlyEvicted::new(room);
            for at in 0..1_000 {
                evicted.add(&id(at));
            }
            let remembered: Vec<_> = (0..1_000).filter(|at| evicted.remove(&id(*at))).collect();
            let count = remembered.len();
            assert!((2 * room..=3 * room.max(1)).contains(&count), "{count}");
            assert!(remembered.into_iter().eq(1_000 - count..1_000));
            assert!(!evicted.remove(&id(999)), "it was taken out");
        }
    }
}
