//! Keys that the application verifies by itself once, and that are then like any other.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use support::trouble::TroubledStore;
use support::{answer, from, is_waiting, today, with_key};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::{Alphabet, KeyDigest, KeyFormat, PepperRing};
use tower_api_key::manage::KeyToAdopt;
use tower_api_key::store::{Action, Paging, StoreError, TrailQuery};
use tower_api_key::{
    ApiKeys, ApiKeysBuilder, Environment, KeyRecord, KeyStore, MemoryStore, Quota,
};

const KEY: &str = "acme-0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "acme-ffffffffffffffffffffffffffffffffffffffff";

fn format() -> KeyFormat {
    KeyFormat::imported("acme-", Alphabet::HEX, 40..=40, Environment::LIVE).unwrap()
}

/// Builds keys that adopt [`KEY`], with the number of questions so far.
fn adopting(builder: ApiKeysBuilder) -> (ApiKeys, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let adopt = move |key: KeyToAdopt| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let digest = KeyDigest::of(key.expose_secret());
            Ok((key.expose_secret() == KEY).then(|| KeyRecord::imported(digest, "acme")))
        }
    };
    (
        builder.dangerous_adopt(format(), adopt).build().unwrap(),
        asked,
    )
}

#[tokio::test]
async fn a_key_is_adopted_once() {
    let store = MemoryStore::new();
    let ring = PepperRing::new("2026", &[7; 32]).unwrap();
    let (keys, asked) = adopting(ApiKeys::builder(store.clone()).peppers(ring.clone()));
    for _ in 0..3 {
        assert_eq!(keys.verify(KEY).await.unwrap().account(), "acme");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // Another process finds it in the store, under the current pepper.
    let record = store.find(&KeyDigest::of(KEY).id()).await.unwrap().unwrap();
    assert_eq!(record.verifier().pepper().unwrap().as_str(), "2026");
    let (elsewhere, asked) = adopting(ApiKeys::builder(store).peppers(ring));
    assert!(elsewhere.verify(KEY).await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    let trail = keys
        .trail(&TrailQuery::new(), &Paging::first(10))
        .await
        .unwrap()
        .items;
    assert_eq!((trail.len(), &trail[0].action), (1, &Action::IMPORTED));
    assert_eq!(trail[0].origin.actor.to_string(), "system adoption");
    // An adopted key is like any other.
    keys.revoke(record.id()).await.unwrap();
    assert!(keys.verify(KEY).await.is_err());
}

#[tokio::test]
async fn a_key_is_adopted_once_for_many_requests() {
    let (keys, asked) = adopting(ApiKeys::builder(MemoryStore::new()));
    let verified = join_all((0..50).map(|_| keys.verify(KEY))).await;
    assert!(verified.iter().all(Result::is_ok));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_unknown_key_is_refused_and_keys_of_other_formats_are_not_asked_for() {
    let clock = ManualClock::at(today());
    let (keys, asked) = adopting(ApiKeys::builder(MemoryStore::new()).clock(clock.clone()));
    for _ in 0..3 {
        let rejection = keys.verify(OTHER).await.unwrap_err();
        assert_eq!(rejection.code(), "api_key_not_found");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1, "its absence is cached");
    clock.advance(Duration::from_secs(2));
    assert!(keys.verify(OTHER).await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert!(keys.verify(&support::stranger()).await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    // Issued keys work beside it.
    let key = keys.issue("acme").await.unwrap();
    assert!(keys.verify(key.expose_secret()).await.is_ok());
}

/// Failed attempts are limited before the application computes anything.
#[tokio::test]
async fn guesses_are_throttled_before_the_application_is_asked() {
    let builder = ApiKeys::builder(MemoryStore::new()).failed_attempts(Quota::per_minute(3));
    let (keys, asked) = adopting(builder);
    let layer = keys.layer();
    for number in 0..10 {
        let guess = format!("acme-{number:040x}");
        support::asking(&layer, from("192.0.2.7", guess.as_str())).await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    // A good key from elsewhere is adopted, and takes its attempt back.
    for _ in 0..5 {
        let response = support::asking(&layer, from("192.0.2.8", KEY)).await;
        assert_eq!(response.status(), 200);
    }
    assert_eq!(answer(&layer, with_key(KEY)).status(), 200);
}

#[tokio::test]
async fn an_application_that_fails_or_hangs_is_an_outage() {
    let fails = |_: KeyToAdopt| async { Err(StoreError::unavailable("told to fail")) };
    let builder = ApiKeys::builder(MemoryStore::new()).dangerous_adopt(format(), fails);
    let rejection = builder.build().unwrap().verify(KEY).await.unwrap_err();
    assert_eq!(rejection.code(), "service_unavailable");

    let clock = ManualClock::at(today());
    let hangs = |_: KeyToAdopt| std::future::pending();
    let builder = ApiKeys::builder(MemoryStore::new()).clock(clock.clone());
    let keys = builder.dangerous_adopt(format(), hangs).build().unwrap();
    let guesses: Vec<String> = (0..20)
        .map(|number| format!("acme-{number:040x}"))
        .collect();
    let verifying = guesses.iter().map(|guess| Box::pin(keys.verify(guess)));
    let mut verifying: Vec<_> = verifying.collect();
    assert!(verifying.iter_mut().all(is_waiting));
    clock.advance(Duration::from_secs(5));
    for verifying in verifying {
        assert_eq!(verifying.await.unwrap_err().code(), "service_unavailable");
    }
    // The turns are free again.
    let mut verifying = Box::pin(keys.verify(OTHER));
    assert!(is_waiting(&mut verifying));

    let wrong =
        |_: KeyToAdopt| async { Ok(Some(KeyRecord::imported(KeyDigest::of("another"), "acme"))) };
    let builder = ApiKeys::builder(MemoryStore::new()).dangerous_adopt(format(), wrong);
    let rejection = builder.build().unwrap().verify(KEY).await.unwrap_err();
    assert_eq!(rejection.code(), "service_unavailable");
}

#[tokio::test]
async fn a_key_is_not_adopted_while_the_store_fails() {
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let (keys, asked) = adopting(ApiKeys::builder(store.clone()).clock(clock));
    store.fails();
    assert_eq!(
        keys.verify(KEY).await.unwrap_err().code(),
        "service_unavailable"
    );
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

/// A request that goes away frees its turn when what it computes has ended, and not before.
#[tokio::test]
async fn a_turn_lasts_as_long_as_the_key_is_held() {
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = Arc::clone(&held);
    let adopt = move |key: KeyToAdopt| {
        keep.lock().unwrap().push(key); // as a thread that computes does
        std::future::pending()
    };
    let builder = ApiKeys::builder(MemoryStore::new()).dangerous_adopt(format(), adopt);
    let keys = builder.build().unwrap();
    let processors = std::thread::available_parallelism().unwrap().get();
    for number in 0..3 * processors {
        let guess = format!("acme-{number:040x}");
        let mut verifying = Box::pin(keys.verify(&guess));
        assert!(is_waiting(&mut verifying));
        drop(verifying);
    }
    assert_eq!(held.lock().unwrap().len(), processors);
    held.lock().unwrap().clear();
    let mut verifying = Box::pin(keys.verify(KEY));
    assert!(is_waiting(&mut verifying));
    assert_eq!(held.lock().unwrap().len(), 1);
}
