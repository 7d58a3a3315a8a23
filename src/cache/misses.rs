//! Which keys are known not to exist: a small table, so that a flood of them leaves the processor's
//! caches to those that do.

use std::sync::MutexGuard;

use super::guard::{Spread, Stamp};
use super::guarded::Origin;
use crate::key::digest::KeyId;
use crate::util::parts::Parts;
use crate::util::table::Table;

/// How many are remembered. Newer ones take the places of older ones.
const MOST: usize = 4_096;

pub(super) struct Misses {
    parts: Parts<Keys>,
    /// How long each serves, in nanoseconds.
    longest: u64,
}

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
    pub(super) fn new(longest: u64) -> Self {
        Self {
            parts: Parts::new(|| Keys::new(MOST / Parts::<Keys>::COUNT)),
            longest,
        }
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

    /// Remembers that there is no such key.
    pub(super) fn put(&self, id: &KeyId, origin: Origin) {
        let (half, rest) = id.halves();
        let mut part = self.part(id);
        // One that is over by the newcomer's time; else any of the places, but not always the same.
        let is_over = |_, miss: &Miss| miss.since.saturating_add(self.longest) <= origin.since;
        let place = part.find_or_put(half, is_over).or_else(|| {
            let mut turn = rest % 8;
            part.find_or_put(half, |_, _| {
                let is_its_turn = turn == 0;
                turn = turn.saturating_sub(1);
                is_its_turn
            })
        });
        let place = place.or_else(|| part.find_or_put(half, |_, _| true));
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
        self.parts.of(id.spread())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::digest::KeyDigest;

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
        let misses = Misses::new(10);
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
        let misses = Misses::new(10);
        let ids = |count: u64| (0..count).map(|at| KeyDigest::of(&at.to_string()).id());
        let flood = 5 * MOST as u64;
        for (at, id) in (0..).zip(ids(flood)) {
            misses.put(&id, nothing(at));
            assert_eq!(since(&misses, id), Some(at));
        }
        let kept = ids(flood).filter(|id| misses.get(id).is_some()).count();
        assert!((MOST * 3 / 4..=MOST).contains(&kept), "{kept}");
    }

    /// The second time, too: those that are over make way, and the latest are not always put in one
    /// place.
    #[test]
    fn a_table_that_was_full_of_what_is_over_remembers_as_many_as_an_empty_one() {
        let id = |at: u64| KeyDigest::of(&at.to_string()).id();
        let kept = |junk: u64| {
            let misses = Misses::new(10);
            (0..junk).for_each(|at| misses.put(&id(u64::MAX - at), nothing(0)));
            (0..1000).for_each(|at| misses.put(&id(at), nothing(100)));
            (0..1000)
                .filter(|at| misses.get(&id(*at)).is_some())
                .count()
        };
        let fresh = kept(0);
        assert!(fresh > 900, "{fresh}");
        for junk in [4_096, 20_000] {
            let kept = kept(junk);
            assert!(kept * 10 >= fresh * 9, "{kept} of {fresh}");
        }
    }
}
