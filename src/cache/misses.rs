//! Which keys are known not to exist: a small table, so that a flood of them leaves the processor's caches
//! to those that do.

use std::sync::MutexGuard;

use super::guard::{Spread, Stamp};
use super::guarded::Origin;
use crate::key::digest::KeyId;
use crate::parts::Parts;
use crate::table::Table;

/// How many are remembered. Newer ones take the places of older ones.
const MOST: usize = 4_096;

pub(super) struct Misses(Parts<Keys>);

/// Keys by the first half of their ids.
type Keys = Table<Miss, 2>;

/// That there was no such key, as of when.
#[derive(Default)]
struct Miss {
    /// The other half of its id.
    rest: u64,
    stamp: Stamp,
    since: u64,
}

impl Misses {
    pub(super) fn new() -> Self {
        Self(Parts::new(|| Keys::new(MOST / Parts::<Keys>::COUNT)))
    }

    #[inline]
    pub(super) fn get(&self, id: &KeyId) -> Option<Origin> {
        let (half, rest) = id.halves();
        let part = self.part(id);
        let miss = part.get(part.find(half)?)?;
        (miss.rest == rest).then_some(Origin {
            stamp: miss.stamp,
            since: miss.since,
            found: false,
        })
    }

    pub(super) fn put(&self, id: &KeyId, origin: Origin) {
        let (half, rest) = id.halves();
        let mut part = self.part(id);
        let place = part.find_or_put(half, |_, _| true);
        if let Some(miss) = place.and_then(|place| part.get_mut(place)) {
            *miss = Miss {
                rest,
                stamp: origin.stamp,
                since: origin.since,
            };
        }
    }

    #[inline]
    fn part(&self, id: &KeyId) -> MutexGuard<'_, Keys> {
        self.0.of(id.spread())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(since: u64) -> Origin {
        Origin {
            stamp: Stamp::default(),
            since,
            found: false,
        }
    }

    fn since(misses: &Misses, id: KeyId) -> Option<u64> {
        misses.get(&id).map(|origin| origin.since)
    }

    #[test]
    fn a_key_is_not_missed_for_another_with_half_of_its_id() {
        let [one, other] = [1, 2].map(|byte| {
            let mut id = [7; 16];
            id[9] = byte;
            KeyId::from_bytes(id)
        });
        let misses = Misses::new();
        misses.put(&one, nothing(1));
        assert_eq!(
            (since(&misses, one), since(&misses, other)),
            (Some(1), None)
        );
        misses.put(&one, nothing(2));
        assert_eq!(
            (since(&misses, one), since(&misses, other)),
            (Some(2), None)
        );
        misses.put(&other, nothing(3));
        assert_eq!(
            (since(&misses, one), since(&misses, other)),
            (None, Some(3))
        );
    }

    #[test]
    fn the_latest_are_remembered_and_no_more_than_there_is_room_for() {
        let misses = Misses::new();
        let ids = |count: u64| (0..count).map(|at| crate::KeyDigest::of(&at.to_string()).id());
        let flood = 5 * MOST as u64;
        for (at, id) in (0..).zip(ids(flood)) {
            misses.put(&id, nothing(at));
            assert_eq!(since(&misses, id), Some(at));
        }
        let kept = ids(flood).filter(|id| misses.get(id).is_some()).count();
        assert!((MOST * 3 / 4..=MOST).contains(&kept), "{kept}");
    }
}
