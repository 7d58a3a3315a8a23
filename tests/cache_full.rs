//! A cache whose memory is full: who comes in, who stays, and what is gone.
//!
//! The clock stands still, so a key leaves only by eviction or removal.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use futures_util::FutureExt;
use support::today;
use support::trouble::TroubledStore;
use tower_api_key::clock::ManualClock;
use tower_api_key::key::{KeyDigest, KeyFormat, Suspension};
use tower_api_key::store::Change;
use tower_api_key::{
    ApiKeys, Cache, Environment, KeyRecord, ManagedKeyStore, MemoryStore, Rejection,
};

struct World {
    keys: ApiKeys,
    store: TroubledStore,
    clock: ManualClock,
}

impl World {
    fn new(memory: u64) -> Self {
        let clock = ManualClock::at(today());
        let store = TroubledStore::new(&clock);
        let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
        let keys = builder.cache(Cache::new().memory(memory)).build().unwrap();
        Self { keys, store, clock }
    }

    /// Keys that the store has, and the cache has not.
    fn keys(&self, count: usize) -> Vec<String> {
        let format = KeyFormat::new("sk_live", Environment::LIVE).unwrap();
        let key = |_| format.generate().unwrap().expose_secret().to_owned();
        let keys: Vec<String> = (0..count).map(key).collect();
        for key in &keys {
            let record = KeyRecord::imported(KeyDigest::of(key), "acme");
            commit(&self.store.kept, &support::creates(record));
        }
        keys
    }

    /// Uses each key once, and tells how many lookups that took.
    fn lookups<'k>(&self, keys: impl IntoIterator<Item = &'k String>) -> usize {
        for key in keys {
            self.keys.verify(key).now_or_never().unwrap().unwrap();
        }
        self.store.asked()
    }
}

fn commit(store: &MemoryStore, change: &Change) {
    store.commit(change).now_or_never().unwrap().unwrap();
}

/// The sizes of memory that are tried: room for about 1,300 keys, and for some 5,000.
const SIZES: [u64; 2] = [1 << 20, 4 << 20];

#[test]
fn a_full_cache_takes_in_new_keys() {
    for memory in SIZES {
        let world = World::new(memory);
        let room = usize::try_from(memory).unwrap() / 800;
        world.lookups(&world.keys(3 * room));
        // And again: what came in may not keep the next ones out.
        for _ in 0..3 {
            let newcomers = world.keys(room / 7);
            let rounds: Vec<_> = (0..20).map(|_| world.lookups(&newcomers)).collect();
            // A few of them meet in one place, and push each other out once more.
            assert!(rounds[2] <= newcomers.len() / 20, "{rounds:?}");
            let (late, most) = (&rounds[3..], newcomers.len() / 50);
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
            let world = World::new(memory);
            let hot = world.keys(100);
            let mut in_use = hot.iter().cycle();
            world.lookups(&world.keys(before));
            for _ in 0..5 {
                world.lookups(&hot);
            }
            for _ in 0..2 {
                let scanned = world.keys(10_000);
                let (mut used, mut missed) = (0, 0);
                for (at, key) in scanned.iter().enumerate() {
                    world.lookups([key]);
                    if at % every == 0 {
                        used += 1;
                        missed += world.lookups(in_use.next());
                    }
                }
                let case = format!("{missed} of {used}: {memory}, {before} before, every {every}");
                assert!(missed * 10 <= used, "{case}");
                assert!(world.lookups(&hot) <= 10, "{case}");
            }
        }
    }
}

/// A scan between two uses: the hot set was used often enough before to be worth more than the
/// scan.
#[test]
fn a_scan_in_one_go_takes_few_hits_of_a_hot_set() {
    for memory in SIZES {
        let world = World::new(memory);
        let hot = world.keys(100);
        for _ in 0..50 {
            world.lookups(&hot);
        }
        for _ in 0..3 {
            world.lookups(&world.keys(10_000));
            let missed = world.lookups(&hot);
            assert!(missed <= 10, "{missed}");
            for _ in 0..50 {
                world.lookups(&hot);
            }
        }
    }
}

#[test]
fn a_working_set_that_moves_is_followed() {
    for memory in SIZES {
        let world = World::new(memory);
        let room = usize::try_from(memory).unwrap() / 830;
        for _ in 0..5 {
            let set = world.keys(room / 2);
            let rounds: Vec<_> = (0..40).map(|_| world.lookups(&set)).collect();
            let late: usize = rounds[20..].iter().sum();
            assert!(late <= set.len() * 20 / 20, "{memory}: {rounds:?}");
        }
    }
}

/// Removed from the store, in one go or one by one: what takes their place finds room.
#[test]
fn a_key_that_is_gone_weighs_nothing() {
    for memory in SIZES {
        let world = World::new(memory);
        let room = usize::try_from(memory).unwrap() / 1_000;
        for _ in 0..4 {
            let keys = world.keys(room);
            for _ in 0..10 {
                world.lookups(&keys);
            }
            assert_eq!(world.lookups(&keys), 0, "they fit in");
            world.store.says(None);
            world.keys.invalidate_all();
            for key in &keys {
                let gone = world.keys.verify(key).now_or_never().unwrap();
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
            let world = World::new(memory);
            let room = usize::try_from(memory).unwrap() / 1_100;
            for _ in 0..5 {
                let keys = world.keys(room);
                let rounds: Vec<_> = (0..20).map(|_| world.lookups(&keys)).collect();
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
    let world = World::new(1 << 20);
    let keys = world.keys(700);
    world.lookups(&keys);
    for version in 2..12 {
        for key in &keys {
            let id = KeyDigest::of(key).id();
            let seen = world.keys.find(&id).now_or_never().unwrap().unwrap();
            let note = "n".repeat(usize::try_from(version % 3).unwrap() * 20);
            let stopped = Suspension::new(today()).with_reason(note);
            let record = seen.unwrap().with_suspended(stopped).with_version(version);
            commit(&world.store.kept, &support::updates(record));
            world.keys.invalidate(&id);
            let refused = world.keys.verify(key).now_or_never().unwrap();
            assert!(refused.is_err());
        }
    }
    // A change of one key has others looked up anew, too: once more, then.
    for round in 0..2 {
        world.store.asked();
        for key in &keys {
            assert!(world.keys.verify(key).now_or_never().unwrap().is_err());
        }
        let lookups = world.store.asked();
        assert!(round == 0 || lookups == 0, "{lookups} were evicted");
    }
}
