//! A cache whose memory is full: who comes in, who stays, and what is gone.
//!
//! The clock stands still, so a key leaves only by eviction or removal.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use support::{World, at_once, imported, strangers, today};
use tower_api_key::key::{KeyDigest, Suspension};
use tower_api_key::{Cache, Caller, Rejection};

fn world(memory: u64) -> World {
    World::with_cache(Cache::new().memory(memory))
}

/// Keys that the store has, and the cache has not.
fn newcomers(world: &World, count: usize) -> Vec<String> {
    let keys: Vec<String> = strangers().take(count).collect();
    for key in &keys {
        world.create_elsewhere(imported(key));
    }
    keys
}

fn verify(world: &World, key: &str) -> Result<Caller, Rejection> {
    at_once(world.keys.verify(key))
}

/// Uses each key once, and tells how many lookups that took.
fn lookups<'k>(world: &World, keys: impl IntoIterator<Item = &'k String>) -> usize {
    for key in keys {
        verify(world, key).unwrap();
    }
    world.store.asked()
}

/// The sizes of memory that are tried: room for about 1,300 keys, and for some 5,000.
const SIZES: [u64; 2] = [1 << 20, 4 << 20];

#[test]
fn a_full_cache_takes_in_new_keys() {
    for memory in SIZES {
        let world = world(memory);
        let room = usize::try_from(memory).unwrap() / 800;
        lookups(&world, &newcomers(&world, 3 * room));
        // And again: what came in may not keep the next ones out.
        for _ in 0..3 {
            let keys = newcomers(&world, room / 7);
            let rounds: Vec<_> = (0..20).map(|_| lookups(&world, &keys)).collect();
            // A few are compared only with keys that were loaded as often, and come in later.
            assert!(rounds[3] <= keys.len() / 10, "{rounds:?}");
            let (late, most) = (&rounds[4..], keys.len() / 50);
            assert!(late.iter().all(|lookups| *lookups <= most), "{rounds:?}");
        }
    }
}

/// At the very start, as soon as the cache is half full, when it is full, and over and over; with
/// uses of the hot set at whatever distance from each other.
#[test]
fn a_scan_takes_few_hits_of_a_hot_set_in_use() {
    for (memory, before) in [
        (1 << 20, 0),
        (1 << 20, 700),
        (1 << 20, 5_000),
        (4 << 20, 2_500),
    ] {
        for every in [1, 50] {
            let world = world(memory);
            let hot = newcomers(&world, 100);
            let mut in_use = hot.iter().cycle();
            lookups(&world, &newcomers(&world, before));
            for _ in 0..5 {
                lookups(&world, &hot);
            }
            for _ in 0..2 {
                let scanned = newcomers(&world, 10_000);
                let (mut used, mut missed) = (0, 0);
                for (at, key) in scanned.iter().enumerate() {
                    lookups(&world, [key]);
                    if at % every == 0 {
                        used += 1;
                        missed += lookups(&world, in_use.next());
                    }
                }
                let case = format!("{missed} of {used}: {memory}, {before} before, every {every}");
                assert!(missed * 10 <= used, "{case}");
                assert!(lookups(&world, &hot) <= 10, "{case}");
            }
        }
    }
}

/// A scan between two uses: the hot set was used often enough before to be worth more than the
/// scan.
#[test]
fn a_scan_in_one_go_takes_few_hits_of_a_hot_set() {
    for memory in SIZES {
        let world = world(memory);
        let hot = newcomers(&world, 100);
        for _ in 0..50 {
            lookups(&world, &hot);
        }
        for _ in 0..3 {
            lookups(&world, &newcomers(&world, 10_000));
            let missed = lookups(&world, &hot);
            assert!(missed <= 10, "{missed}");
            for _ in 0..50 {
                lookups(&world, &hot);
            }
        }
    }
}

#[test]
fn a_working_set_that_moves_is_followed() {
    for memory in SIZES {
        let world = world(memory);
        let room = usize::try_from(memory).unwrap() / 830;
        for _ in 0..5 {
            let set = newcomers(&world, room / 2);
            let rounds: Vec<_> = (0..40).map(|_| lookups(&world, &set)).collect();
            let late: usize = rounds[20..].iter().sum();
            assert!(late <= set.len() * 20 / 20, "{memory}: {rounds:?}");
        }
    }
}

/// Removed from the store, in one go or one by one: what takes their place finds room.
#[test]
fn a_key_that_is_gone_weighs_nothing() {
    for memory in SIZES {
        let world = world(memory);
        let room = usize::try_from(memory).unwrap() / 1_000;
        for _ in 0..4 {
            let keys = newcomers(&world, room);
            for _ in 0..10 {
                lookups(&world, &keys);
            }
            assert_eq!(lookups(&world, &keys), 0, "they fit in");
            world.store.says(None);
            world.keys.invalidate_all();
            for key in &keys {
                let gone = verify(&world, key);
                assert!(matches!(gone, Err(Rejection::NotFound(_))));
            }
            world.store.gets_well();
            world.store.asked();
        }
    }
}

/// Also if nobody asks for it again: invalidated one by one, or all at once, or merely too old.
#[test]
fn a_key_that_may_not_serve_any_more_makes_room_for_newcomers() {
    for way in 0..3 {
        for memory in SIZES {
            let world = world(memory);
            let room = usize::try_from(memory).unwrap() / 1_100;
            for _ in 0..5 {
                let keys = newcomers(&world, room);
                let rounds: Vec<_> = (0..20).map(|_| lookups(&world, &keys)).collect();
                let most = room / 50;
                assert!(
                    rounds[2..].iter().all(|lookups| *lookups <= most),
                    "{way} {rounds:?}"
                );
                match way {
                    0 => keys.iter().for_each(|key| {
                        world.keys.invalidate(&KeyDigest::of(key).id());
                    }),
                    1 => world.keys.invalidate_all(),
                    _ => world.clock.advance(Duration::from_secs(10)),
                }
            }
        }
    }
}

/// A record that is loaded anew takes the place of the older one, however often, and whatever it
/// weighs.
#[test]
fn a_key_that_is_replaced_weighs_once() {
    let world = world(1 << 20);
    let keys = newcomers(&world, 700);
    lookups(&world, &keys);
    for version in 2..12 {
        for key in &keys {
            let id = KeyDigest::of(key).id();
            let note = "n".repeat(version % 3 * 20);
            let stopped = Suspension::new(today()).with_reason(note);
            world.change_elsewhere(id, |record| record.with_suspended(stopped));
            world.keys.invalidate(&id);
            let refused = verify(&world, key);
            assert!(refused.is_err());
        }
    }
    // A change of one key has others looked up anew, too: once more, then.
    for round in 0..2 {
        world.store.asked();
        for key in &keys {
            assert!(verify(&world, key).is_err());
        }
        let lookups = world.store.asked();
        assert!(round == 0 || lookups == 0, "{lookups} were evicted");
    }
}
