//! The throttle of failed attempts: it keeps junk from becoming load on the store, and bears down
//! on nobody else.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use http::HeaderValue;
use support::trouble::{Delay, Gate, Says};
use support::{DAY, World, answer, from, is_waiting, json, stranger, strangers};
use tower_api_key::http::{ClientAddress, TrustedProxies};
use tower_api_key::{Cache, Quota};

const HERE: &str = "192.0.2.1";
const ELSEWHERE: &str = "192.0.2.2";

const MAX_STALENESS: Duration = Duration::from_secs(10);
const A_MINUTE: Duration = Duration::from_secs(60);

/// Three attempts at once, and one more in 20 seconds.
fn throttled_with(cache: Cache) -> World {
    let limited = World::builder().set(|keys| keys.failed_attempts(Quota::per_minute(3)));
    limited.cache(cache).build()
}

fn throttled() -> World {
    throttled_with(Cache::new())
}

/// How many attempts an address has left, which are used up by this.
fn attempts_left(world: &World, address: &str) -> usize {
    let is_refused = |key: String| world.ask(&from(address, &key)) == 429;
    strangers().take(99).position(is_refused).unwrap()
}

#[tokio::test]
async fn an_address_that_tries_unknown_keys_is_refused_lookups() {
    let world = throttled();
    let good = world.issue();
    // Malformed keys, no keys, and good keys do not count.
    for _ in 0..10 {
        assert_eq!(world.ask(&from(HERE, "sk_live_junk")), 401);
        assert_eq!(world.ask(&from(HERE, &good)), 200);
        world.keys.invalidate(&good.id());
    }
    world.store.asked();
    for unknown in strangers().take(3) {
        assert_eq!(world.ask(&from(HERE, &unknown)), 401);
    }
    assert_eq!(world.store.asked(), 3);
    let refused = world.answer(&from(HERE, &stranger()));
    assert_eq!((refused.status().as_u16(), world.store.asked()), (429, 0));
    assert_eq!(refused.headers()["retry-after"], "20");
    assert_eq!(refused.headers().get("x-key-status"), None);
    let body = json(refused).await;
    assert_eq!(body["error"]["code"], "too_many_failed_attempts");
    // Others go on, and after a time so does this one.
    assert_eq!(attempts_left(&world, ELSEWHERE), 3);
    world.clock.advance(A_MINUTE);
    assert_eq!(attempts_left(&world, HERE), 3);
}

#[tokio::test]
async fn each_try_of_an_unknown_key_counts_as_an_attempt() {
    let world = throttled_with(Cache::new().negative_ttl(DAY));
    let unknown = stranger();
    for _ in 0..3 {
        assert_eq!(world.ask(&from(HERE, &unknown)), 401);
    }
    assert_eq!(world.store.asked(), 1);
    assert_eq!(world.ask(&from(HERE, &unknown)), 429);
    assert_eq!(world.ask(&from(ELSEWHERE, &unknown)), 401);
    assert_eq!(world.store.asked(), 0);
    // Also when it is looked up each time.
    let world = throttled_with(Cache::none());
    for _ in 0..3 {
        assert_eq!(world.look(&from(HERE, &unknown)), (401, 1));
    }
    assert_eq!(world.look(&from(HERE, &unknown)), (429, 0));
}

#[tokio::test]
async fn a_cached_good_key_always_passes_from_a_throttled_address() {
    let world = throttled();
    let [cached, other] = [world.issue(), world.issue()];
    assert_eq!(world.ask(&from(ELSEWHERE, &cached)), 200);
    assert_eq!(attempts_left(&world, HERE), 3);
    for _ in 0..10 {
        assert_eq!(world.ask(&from(HERE, &cached)), 200);
    }
    // Until something is known of the other, it may be junk.
    assert_eq!(world.look(&from(HERE, &other)), (429, 0));
    assert_eq!(world.ask(&from(ELSEWHERE, &other)), 200);
    assert_eq!(world.ask(&from(HERE, &other)), 200);
    // A key that is known and revoked is told so.
    world.keys.revoke(other.id()).await.unwrap();
    assert_eq!(world.ask(&from(ELSEWHERE, &other)), 401);
    assert_eq!(world.ask(&from(HERE, &other)), 401);
}

#[tokio::test]
async fn a_stale_good_key_is_looked_up_again_from_a_throttled_address() {
    let world = throttled();
    let key = world.issue();
    assert_eq!(world.ask(&from(HERE, &key)), 200);
    for _ in 0..5 {
        world.clock.advance(MAX_STALENESS);
        attempts_left(&world, HERE);
        assert_eq!(world.look(&from(HERE, &key)), (200, 1));
        assert_eq!(attempts_left(&world, HERE), 0, "it gives no attempt back");
    }
    // What is gone meanwhile, is looked for once.
    world.clock.advance(MAX_STALENESS);
    attempts_left(&world, HERE);
    world.store.says(None);
    assert_eq!(world.ask(&from(HERE, &key)), 401);
    assert_eq!(world.look(&from(HERE, &key)), (429, 0));
}

#[tokio::test]
async fn concurrent_unknown_keys_do_not_bypass_the_throttle() {
    let world = throttled();
    let gate = world.store.hangs();
    let mut waiting = Vec::new();
    let mut refused = 0;
    for unknown in strangers().take(50) {
        let mut request = world.asking(&from(HERE, &unknown));
        if is_waiting(&mut request) {
            waiting.push(request);
        } else {
            refused += 1;
        }
    }
    assert_eq!((waiting.len(), refused, world.store.asked()), (3, 47, 3));
    gate.open();
    assert_eq!(join_all(waiting).await, [401; 3]);
    world.store.gets_well();
    assert_eq!(attempts_left(&world, HERE), 0);
    assert_eq!(attempts_left(&world, ELSEWHERE), 3);
}

/// A request that is cancelled before its answer has asked the store all the same.
#[tokio::test]
async fn a_cancelled_request_still_counts_as_an_attempt() {
    let world = throttled();
    let _never_opened = world.store.hangs();
    for unknown in strangers().take(50) {
        let mut request = world.asking(&from(HERE, &unknown));
        let _ = is_waiting(&mut request);
    }
    assert_eq!(world.store.asked(), 3);
}

#[tokio::test]
async fn loading_known_keys_uses_up_no_attempts() {
    let world = throttled_with(Cache::none());
    let mut good = Vec::new();
    for _ in 0..20 {
        good.push(world.issue());
    }
    for key in &good {
        assert_eq!(world.ask(&from(HERE, key)), 200);
    }
    // Nor do those that are known, but no good.
    world.keys.suspend(good[0].id()).await.unwrap();
    for _ in 0..10 {
        assert_eq!(world.ask(&from(HERE, &good[0])), 403);
    }
    assert_eq!(attempts_left(&world, HERE), 3);
}

#[tokio::test]
async fn store_failures_use_up_no_attempts() {
    let world = throttled();
    let slow = Delay::Until(Gate::default());
    for (says, delay) in [
        (Says::Down, Delay::None),
        (Says::Corrupt, Delay::None),
        (Says::WhatItKeeps, slow),
    ] {
        world.store.gets(says, delay);
        for unknown in strangers().take(10) {
            let mut request = world.asking(&from(HERE, &unknown));
            let status = request.as_mut().now_or_never().unwrap_or_else(|| {
                world.clock.advance(Duration::from_secs(2)); // the time limit
                request.now_or_never().unwrap()
            });
            assert_eq!(status, 503);
        }
    }
    world.store.gets_well();
    assert_eq!(attempts_left(&world, HERE), 3);
}

#[tokio::test]
async fn attempts_are_counted_by_client_network_and_not_without_an_address() {
    let world = throttled();
    for (used_up, left) in [
        // An IPv6 client is its /64.
        (
            "2001:db8::1",
            [("2001:db8::ffff:1", 0), ("2001:db8:0:1::1", 3)],
        ),
        // One that is written as IPv6 is the same client.
        ("::ffff:192.0.2.9", [("192.0.2.9", 0), ("192.0.2.10", 3)]),
    ] {
        assert_eq!(attempts_left(&world, used_up), 3);
        for (address, expected) in left {
            assert_eq!(attempts_left(&world, address), expected, "{address}");
        }
    }
    // Nobody knows where these come from.
    for unknown in strangers().take(50) {
        assert_eq!(world.ask(&unknown), 401);
        assert!(world.keys.verify(&unknown).await.is_err());
    }
}

/// Behind a proxy that appends to what the client sends.
#[tokio::test]
async fn clients_that_hide_their_address_share_one_attempt_budget() {
    let proxy = TrustedProxies::networks(["10.0.0.0/8"]).unwrap();
    let sent = [
        (
            ClientAddress::x_forwarded_for(proxy.clone()),
            "x-forwarded-for",
            &b"\x80, 203.0.113.9"[..],
        ),
        (
            ClientAddress::forwarded(proxy.clone()),
            "forwarded",
            b"for=\", for=203.0.113.9",
        ),
        (
            ClientAddress::forwarded(proxy.clone()),
            "forwarded",
            b"\x80, for=203.0.113.9",
        ),
        (
            ClientAddress::x_forwarded_for(proxy),
            "x-forwarded-for",
            b"unknown",
        ),
    ];
    for (source, name, value) in sent {
        let world = throttled();
        let layer = world.keys.layer().client_address(source);
        let status = |key: &String| {
            let mut request = from("10.0.0.1", key);
            let value = HeaderValue::from_bytes(value).unwrap();
            request.headers_mut().insert(name, value);
            answer(&layer, request).status().as_u16()
        };
        let statuses: Vec<_> = strangers().take(5).map(|key| status(&key)).collect();
        assert_eq!(statuses, [401, 401, 401, 429, 429], "{name}");
        let key = world.issue();
        assert_eq!(world.ask(&from(HERE, &key)), 200, "others do not suffer");
    }
}

/// However many loads there may be.
#[tokio::test]
async fn callers_without_an_address_cannot_lock_out_others() {
    for loads in [1, 2, 16, 64, 1024] {
        let world = throttled_with(Cache::new().max_loads(loads));
        let (known, other) = (world.issue(), world.issue());
        assert_eq!(world.ask(&known), 200);
        // Many strangers at once, while the store hangs: few of them are looked up.
        let gate = world.store.hangs();
        world.store.asked();
        let mut waiting = Vec::new();
        let mut refused = 0;
        for stranger in strangers().take(2 * loads + 3) {
            let mut asking = world.asking(&stranger);
            match asking.as_mut().now_or_never() {
                Some(status) => refused += usize::from(status == 503),
                None => waiting.push(asking),
            }
        }
        let share = (loads / 16).max(1);
        assert_eq!(
            (waiting.len(), world.store.asked()),
            (share, share),
            "{loads}"
        );
        assert_eq!(refused, 2 * loads + 3 - share, "{loads}");
        // A key that was found before passes; also when it is to be looked up again.
        assert_eq!(world.ask(&known), 200);
        world.clock.advance(MAX_STALENESS);
        let mut again = world.asking(&known);
        assert!(is_waiting(&mut again), "{loads}");
        // Whoever has an address is none of them.
        let mut elsewhere = world.asking(&from(ELSEWHERE, &other));
        let has_room = is_waiting(&mut elsewhere);
        assert_eq!(has_room, loads > 2, "{loads}");
        gate.open();
        assert_eq!(again.await, 200);
        if has_room {
            assert_eq!(elsewhere.await, 200);
        }
        assert_eq!(join_all(waiting).await, vec![401; share]);
        // And then there is room again.
        world.store.gets_well();
        for stranger in strangers().take(50) {
            assert_eq!(world.ask(&stranger), 401);
        }
        assert_eq!(world.ask(&other), 200);
    }
}
