//! How much memory the cache takes under a flood of keys, good ones and others.
//!
//! What is measured is what a test's own thread allocates and frees. Part of the cache's memory is
//! freed later, by whichever thread comes along, so these tests run one after the other, and apart
//! from others.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use support::{DAY, World, imported, strangers};
use tower_api_key::key::AllowedNetworks;
use tower_api_key::{Cache, KeyRecord, Quota};

const MEMORY: u64 = 2 << 20;

static ALONE: Mutex<()> = Mutex::new(());

/// Keys that are well-formed.
fn flood(count: usize) -> Vec<String> {
    strangers().take(count).collect()
}

/// Whatever is in their records.
#[test]
fn invariant_7_a_flood_of_good_keys_stays_within_its_memory() {
    type Shape = fn(KeyRecord) -> KeyRecord;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let shapes: [(&str, Shape); 7] = [
        ("bare", |key| key),
        ("a short note", |key| key.with_metadata(notes(1, 1))),
        ("a long note", |key| key.with_metadata(notes(1, 1_000))),
        ("many notes", |key| key.with_metadata(notes(40, 1))),
        ("a quota", |key| key.with_limit("a", Quota::per_minute(1))),
        ("scopes", |key| {
            key.with_scopes("a b c d e f g".parse().unwrap())
        }),
        ("networks", |key| {
            let networks = (0..=255).map(|net| format!("10.0.{net}.0/24"));
            key.with_networks(AllowedNetworks::only(networks).unwrap())
        }),
    ];
    for (shape, build) in shapes {
        let world = World::with_cache(Cache::new().memory(MEMORY));
        let flood = flood(4_500);
        for key in &flood {
            world.create_elsewhere(build(imported(key)));
        }
        let measured = allocation_counter::measure(|| {
            for key in &flood {
                assert_ne!(world.ask(key), 503, "{shape}");
            }
        });
        assert_eq!(world.store.asked(), flood.len(), "{shape}");
        let kept = u64::try_from(measured.bytes_current).unwrap();
        // What was put there last is weighed, and what goes is freed, a little later.
        assert!(kept < MEMORY * 3 / 2, "{kept} bytes are kept of {shape}");
        assert!(kept > MEMORY / 3, "only {kept} bytes are kept of {shape}");
        let most = measured.bytes_max;
        assert!(most < MEMORY * 3 / 2, "{most} bytes at a time of {shape}");
    }
}

fn notes(count: usize, length: usize) -> BTreeMap<String, String> {
    let note = |at| (format!("note {at:2}"), "n".repeat(length));
    (0..count).map(note).collect()
}

#[test]
fn invariant_7_a_flood_of_unknown_keys_evicts_no_good_key_and_is_bounded_itself() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::with_cache(Cache::new().memory(1 << 20).negative_ttl(DAY));
    let good = flood(200);
    for key in &good {
        world.create_elsewhere(imported(key));
        assert_eq!(world.ask(key), 200);
    }
    world.store.asked();
    let flood = flood(20_000);
    let measured = allocation_counter::measure(|| {
        for key in &flood {
            assert_eq!(world.ask(key), 401);
        }
    });
    assert_eq!(world.store.asked(), flood.len());
    let kept = measured.bytes_current;
    assert!(kept < 2 << 20, "{kept} bytes are kept");
    for key in &good {
        assert_eq!(world.ask(key), 200);
    }
    assert_eq!(world.store.asked(), 0);
}

#[test]
fn no_memory_is_no_memory_and_not_without_bound() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::with_cache(Cache::new().memory(0));
    let flood = flood(2_000);
    for key in &flood {
        world.create_elsewhere(imported(key));
    }
    let measured = allocation_counter::measure(|| {
        for key in &flood {
            assert_eq!(world.ask(key), 200);
        }
    });
    let kept = measured.bytes_current;
    assert!(kept < 500_000, "{kept} bytes are kept");
}

#[test]
fn the_default_memory_holds_a_hundred_thousand_plain_keys() {
    const KEYS: usize = 100_000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::new();
    let keys = flood(KEYS);
    for key in &keys {
        world.create_elsewhere(imported(key));
    }
    let measured = allocation_counter::measure(|| {
        for key in &keys {
            assert_eq!(world.ask(key), 200);
        }
    });
    world.store.asked();
    for key in &keys {
        assert_eq!(world.ask(key), 200);
    }
    assert_eq!(world.store.asked(), 0, "loads of evicted keys");
    let bytes = measured.bytes_current / i64::try_from(KEYS).unwrap();
    assert!(bytes <= 650, "{bytes} bytes a key");
}
