//! The throttle of failed attempts: it keeps junk from becoming load on the store, and bears down
//! on nobody else.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use support::trouble::{Delay, Gate, Says, TroubledStore};
use support::{Asking, DAY, asking, is_waiting, today, with_key};
use tower_api_key::clock::ManualClock;
use tower_api_key::http::{ClientAddress, PeerAddr, ResponseBody, TrustedProxies};
use tower_api_key::key::KeyFormat;
use tower_api_key::{ApiKeys, Cache, Environment, IssuedKey, Quota};

const HERE: &str = "192.0.2.1";
const ELSEWHERE: &str = "192.0.2.2";

const MAX_STALENESS: Duration = Duration::from_secs(10);
const A_MINUTE: Duration = Duration::from_secs(60);

struct World {
    keys: ApiKeys,
    store: TroubledStore,
    clock: ManualClock,
}

impl World {
    /// Three attempts at once, and one more in 20 seconds.
    fn new() -> Self {
        Self::with(Cache::new())
    }

    fn with(cache: Cache) -> Self {
        let clock = ManualClock::at(today());
        let store = TroubledStore::new(&clock);
        let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
        let builder = builder.failed_attempts(Quota::per_minute(3)).cache(cache);
        let keys = builder.build().unwrap();
        Self { keys, store, clock }
    }

    async fn issue(&self) -> IssuedKey {
        self.keys.issue("acme").await.unwrap()
    }

    fn asking(&self, from: &str, key: &str) -> Asking {
        let mut request = with_key(key);
        if !from.is_empty() {
            let from = from.parse::<IpAddr>().unwrap();
            let peer = PeerAddr(SocketAddr::from((from, 80)));
            request.extensions_mut().insert(peer);
        }
        asking(&self.keys.layer(), request)
    }

    fn answer(&self, from: &str, key: &str) -> Response<ResponseBody<Full<Bytes>>> {
        let answer = self.asking(from, key).now_or_never();
        answer.expect("an answer at once")
    }

    fn ask(&self, from: &str, key: &str) -> u16 {
        self.answer(from, key).status().as_u16()
    }

    fn ask_with(&self, from: &str, key: &IssuedKey) -> u16 {
        self.ask(from, key.expose_secret())
    }

    /// How many attempts an address has left, which are used up by this.
    fn attempts_left(&self, from: &str) -> usize {
        let refused = |key: &String| self.ask(from, key) == 429;
        strangers().take(99).position(|key| refused(&key)).unwrap()
    }
}

/// Keys that are well-formed and not issued.
fn strangers() -> impl Iterator<Item = String> {
    let format = KeyFormat::new("sk_live", Environment::LIVE).unwrap();
    std::iter::repeat_with(move || format.generate().unwrap().expose_secret().to_owned())
}

#[tokio::test]
async fn an_address_that_tries_unknown_keys_is_refused_lookups() {
    let world = World::new();
    let good = world.issue().await;
    // Malformed keys, no keys, and good keys do not count.
    for _ in 0..10 {
        assert_eq!(world.ask(HERE, "sk_live_junk"), 401);
        assert_eq!(world.ask_with(HERE, &good), 200);
        world.keys.invalidate(&good.id());
    }
    world.store.asked();
    for unknown in strangers().take(3) {
        assert_eq!(world.ask(HERE, &unknown), 401);
    }
    assert_eq!(world.store.asked(), 3);
    let refused = world.answer(HERE, &strangers().next().unwrap());
    assert_eq!((refused.status().as_u16(), world.store.asked()), (429, 0));
    assert_eq!(refused.headers()["retry-after"], "20");
    assert_eq!(refused.headers().get("x-key-status"), None);
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["code"], "too_many_failed_attempts");
    // Others go on, and after a time so does this one.
    assert_eq!(world.attempts_left(ELSEWHERE), 3);
    world.clock.advance(A_MINUTE);
    assert_eq!(world.attempts_left(HERE), 3);
}

#[tokio::test]
async fn an_unknown_key_that_is_tried_again_is_an_attempt_each_time() {
    let world = World::with(Cache::new().misses_for(DAY));
    let unknown = strangers().next().unwrap();
    for _ in 0..3 {
        assert_eq!(world.ask(HERE, &unknown), 401);
    }
    assert_eq!(world.store.asked(), 1);
    assert_eq!(world.ask(HERE, &unknown), 429);
    assert_eq!(world.ask(ELSEWHERE, &unknown), 401);
    assert_eq!(world.store.asked(), 0);
    // Also when it is looked up each time.
    let world = World::with(Cache::none());
    for _ in 0..3 {
        assert_eq!((world.ask(HERE, &unknown), world.store.asked()), (401, 1));
    }
    assert_eq!((world.ask(HERE, &unknown), world.store.asked()), (429, 0));
}

#[tokio::test]
async fn a_cached_good_key_always_passes_from_a_throttled_address() {
    let world = World::new();
    let [cached, other] = [world.issue().await, world.issue().await];
    assert_eq!(world.ask_with(ELSEWHERE, &cached), 200);
    assert_eq!(world.attempts_left(HERE), 3);
    for _ in 0..10 {
        assert_eq!(world.ask_with(HERE, &cached), 200);
    }
    // Until something is known of the other, it may be junk.
    world.store.asked();
    assert_eq!(
        (world.ask_with(HERE, &other), world.store.asked()),
        (429, 0)
    );
    assert_eq!(world.ask_with(ELSEWHERE, &other), 200);
    assert_eq!(world.ask_with(HERE, &other), 200);
    // A key that is known and revoked is told so.
    world.keys.revoke(other.id()).await.unwrap();
    assert_eq!(world.ask_with(ELSEWHERE, &other), 401);
    assert_eq!(world.ask_with(HERE, &other), 401);
}

#[tokio::test]
async fn a_good_key_passes_from_a_throttled_address_also_when_it_is_to_be_looked_up_again() {
    let world = World::new();
    let key = world.issue().await;
    assert_eq!(world.ask_with(HERE, &key), 200);
    for _ in 0..5 {
        world.clock.advance(MAX_STALENESS);
        world.attempts_left(HERE);
        world.store.asked();
        let asked = (world.ask_with(HERE, &key), world.store.asked());
        assert_eq!(asked, (200, 1));
        assert_eq!(world.attempts_left(HERE), 0, "it gives no attempt back");
    }
    // What is gone meanwhile, is looked for once.
    world.clock.advance(MAX_STALENESS);
    world.attempts_left(HERE);
    world.store.says(None);
    assert_eq!(world.ask_with(HERE, &key), 401);
    world.store.asked();
    assert_eq!((world.ask_with(HERE, &key), world.store.asked()), (429, 0));
}

#[tokio::test]
async fn many_unknown_keys_at_once_are_no_way_around_it() {
    let world = World::new();
    let gate = world.store.hangs();
    let mut waiting = Vec::new();
    let mut refused = 0;
    for unknown in strangers().take(50) {
        let mut request = world.asking(HERE, &unknown);
        if is_waiting(&mut request) {
            waiting.push(request);
        } else {
            refused += 1;
        }
    }
    assert_eq!((waiting.len(), refused, world.store.asked()), (3, 47, 3));
    gate.open();
    for answer in join_all(waiting).await {
        assert_eq!(answer.status(), 401);
    }
    world.store.gets_well();
    assert_eq!(world.attempts_left(HERE), 0);
    assert_eq!(world.attempts_left(ELSEWHERE), 3);
}

/// Whoever goes away before the answer has asked all the same.
#[tokio::test]
async fn to_go_away_is_no_way_around_it() {
    let world = World::new();
    let _never_opened = world.store.hangs();
    for unknown in strangers().take(50) {
        let mut request = world.asking(HERE, &unknown);
        let _ = is_waiting(&mut request);
    }
    assert_eq!(world.store.asked(), 3);
}

#[tokio::test]
async fn good_keys_that_are_loaded_use_up_no_attempts() {
    let world = World::with(Cache::none());
    let mut good = Vec::new();
    for _ in 0..20 {
        good.push(world.issue().await);
    }
    for key in &good {
        assert_eq!(world.ask_with(HERE, key), 200);
    }
    // Nor do those that are known, but no good.
    world.keys.suspend(good[0].id()).await.unwrap();
    for _ in 0..10 {
        assert_eq!(world.ask_with(HERE, &good[0]), 403);
    }
    assert_eq!(world.attempts_left(HERE), 3);
}

#[tokio::test]
async fn failures_of_the_store_use_up_no_attempts() {
    let world = World::new();
    let slow = Delay::Until(Gate::default());
    for (says, delay) in [
        (Says::Down, Delay::None),
        (Says::Corrupt, Delay::None),
        (Says::WhatItKeeps, slow),
    ] {
        world.store.gets(says, delay);
        for unknown in strangers().take(10) {
            let mut request = world.asking(HERE, &unknown);
            let answer = request.as_mut().now_or_never().unwrap_or_else(|| {
                world.clock.advance(Duration::from_secs(2)); // the time limit
                request.now_or_never().unwrap()
            });
            assert_eq!(answer.status(), 503);
        }
    }
    world.store.gets_well();
    assert_eq!(world.attempts_left(HERE), 3);
}

#[tokio::test]
async fn an_address_is_a_client_or_the_network_of_one_or_nothing_at_all() {
    let world = World::new();
    for (used_up, left) in [
        // An IPv6 client is its /64.
        (
            "2001:db8::1",
            [("2001:db8::ffff:1", 0), ("2001:db8:0:1::1", 3)],
        ),
        // One that is written as IPv6 is the same client.
        ("::ffff:192.0.2.9", [("192.0.2.9", 0), ("192.0.2.10", 3)]),
    ] {
        assert_eq!(world.attempts_left(used_up), 3);
        for (address, expected) in left {
            assert_eq!(world.attempts_left(address), expected, "{address}");
        }
    }
    // Nobody knows where these come from.
    for unknown in strangers().take(50) {
        assert_eq!(world.ask("", &unknown), 401);
        assert!(world.keys.verify(&unknown).await.is_err());
    }
}

/// Behind a proxy that appends to what the client sends.
#[tokio::test]
async fn a_client_that_hides_its_address_is_refused_lookups_with_others_of_its_kind() {
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
        let world = World::new();
        let layer = world.keys.layer().client_address(source);
        let status = |key: &str| {
            let mut request = with_key(key);
            let peer = PeerAddr(SocketAddr::from(([10, 0, 0, 1], 80)));
            request.extensions_mut().insert(peer);
            let value = HeaderValue::from_bytes(value).unwrap();
            request.headers_mut().insert(name, value);
            let answer = asking(&layer, request).now_or_never().unwrap();
            answer.status().as_u16()
        };
        let statuses: Vec<_> = strangers().take(5).map(|key| status(&key)).collect();
        assert_eq!(statuses, [401, 401, 401, 429, 429], "{name}");
        let key = world.issue().await;
        assert_eq!(world.ask_with(HERE, &key), 200, "others do not suffer");
    }
}

/// However many loads there may be.
#[tokio::test]
async fn without_any_address_a_stranger_locks_out_nobody() {
    for loads in [1, 2, 16, 64, 1024] {
        let world = World::with(Cache::new().max_loads(loads));
        let (known, other) = (world.issue().await, world.issue().await);
        assert_eq!(world.ask_with("", &known), 200);
        // Many strangers at once, while the store hangs: few of them are looked up.
        let gate = world.store.hangs();
        world.store.asked();
        let mut waiting = Vec::new();
        let mut refused = 0;
        for stranger in strangers().take(2 * loads + 3) {
            let mut asking = world.asking("", &stranger);
            match asking.as_mut().now_or_never() {
                Some(answer) => refused += usize::from(answer.status() == 503),
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
        assert_eq!(world.ask_with("", &known), 200);
        world.clock.advance(MAX_STALENESS);
        let mut again = world.asking("", known.expose_secret());
        assert!(is_waiting(&mut again), "{loads}");
        // Whoever has an address is none of them.
        let mut elsewhere = world.asking(ELSEWHERE, other.expose_secret());
        let has_room = is_waiting(&mut elsewhere);
        assert_eq!(has_room, loads > 2, "{loads}");
        gate.open();
        assert_eq!(again.await.status(), 200);
        if has_room {
            assert_eq!(elsewhere.await.status(), 200);
        }
        for answer in join_all(waiting).await {
            assert_eq!(answer.status(), 401);
        }
        // And then there is room again.
        world.store.gets_well();
        for stranger in strangers().take(50) {
            assert_eq!(world.ask("", &stranger), 401);
        }
        assert_eq!(world.ask_with("", &other), 200);
    }
}
