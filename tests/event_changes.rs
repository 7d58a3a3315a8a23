//! Events about changes of keys and their ends: what is told, and what is not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::process::{MINUTE, Process, SECOND, data, kinds, told, told_of};
use support::{DAY, imported, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::{ApiKeys, ApiKeysBuilder, Limits, MemoryStore, Quota};

const HOUR: Duration = Duration::from_secs(3_600);

/// A process on a new store.
fn process() -> (MemoryStore, Process) {
    let store = MemoryStore::new();
    let process = Process::new(store.clone(), &ManualClock::at(today()));
    (store, process)
}

#[tokio::test]
async fn an_expiry_that_is_set_into_the_past_is_told_once() {
    let (store, mut process) = process();
    let key = process
        .keys
        .issue("acme")
        .expires_in(40 * DAY)
        .await
        .unwrap();
    process.pass(DAY);
    let seen = process.keys.find(&key.id()).await.unwrap().unwrap();
    let end = process.keys.now() - HOUR;
    process.keys.update(&seen).expires_at(end).await.unwrap();
    let expected = ["api_key.issued", "api_key.updated", "api_key.expired"];
    assert_eq!(kinds(&store).await, expected);
    for _ in 0..20 {
        process.pass(MINUTE * 10);
    }
    assert_eq!(kinds(&store).await, expected);
    let told = told(&store).await;
    assert_eq!(told[2].event.key, Some(key.id()));
    assert_eq!(data(&told[2])["expires_at"], "2026-01-01T23:00:00Z");
    // The very moment, which a look finds as well.
    let key = process.keys.issue("acme").await.unwrap();
    let seen = process.keys.find(&key.id()).await.unwrap().unwrap();
    let now = process.keys.now();
    process.keys.update(&seen).expires_at(now).await.unwrap();
    for _ in 0..20 {
        process.pass(MINUTE);
    }
    assert_eq!(told_of(&store, "api_key.expired").await.len(), 2);
}

/// An import may have a million keys that ended years ago.
#[tokio::test]
async fn the_import_of_a_key_that_has_ended_tells_nothing() {
    let (store, mut process) = process();
    process.pass(MINUTE);
    let ended = imported("ended").with_expires_at(process.keys.now() - HOUR);
    process.keys.import([ended]).await.unwrap();
    for _ in 0..20 {
        process.pass(MINUTE);
    }
    assert!(kinds(&store).await.is_empty());
}

#[tokio::test]
async fn a_suspension_until_a_time_with_nanoseconds_is_told_once() {
    let (store, process) = process();
    let key = process.keys.issue("acme").await.unwrap();
    let until = today() + DAY + Duration::from_nanos(1_234_567_891);
    for _ in 0..3 {
        process.keys.suspend(key.id()).until(until).await.unwrap();
    }
    assert_eq!(kinds(&store).await, ["api_key.issued", "api_key.suspended"]);
    let found = process.keys.find(&key.id()).await.unwrap().unwrap();
    assert_eq!(found.version(), 2);
    // Another time is another suspension.
    let later = until + HOUR;
    process.keys.suspend(key.id()).until(later).await.unwrap();
    assert_eq!(told_of(&store, "api_key.suspended").await.len(), 2);
    let key = process.keys.issue("acme").await.unwrap();
    for _ in 0..3 {
        let throttle = process.keys.throttle(key.id(), Quota::per_minute(5), until);
        throttle.await.unwrap();
    }
    assert_eq!(told_of(&store, "api_key.throttled").await.len(), 1);
}

#[tokio::test]
async fn a_suspension_tells_its_end_or_that_it_has_none() {
    let (store, process) = process();
    let key = process.keys.issue("acme").await.unwrap();
    let until = today() + DAY + HOUR;
    process.keys.suspend(key.id()).until(until).await.unwrap();
    process.keys.resume(key.id()).await.unwrap();
    process.keys.suspend(key.id()).await.unwrap();
    let told = told_of(&store, "api_key.suspended").await;
    let ends: Vec<_> = told
        .iter()
        .map(|kept| data(kept)["suspended_until"].clone())
        .collect();
    assert_eq!(ends, [json!("2026-01-02T01:00:00Z"), json!(null)]);
    assert!(
        data(&told[1])
            .as_object()
            .unwrap()
            .contains_key("suspended_until")
    );
}

#[tokio::test]
async fn a_rotation_of_a_compromised_key_tells_its_revocation_whether_it_notifies_or_not() {
    for notifies in [true, false] {
        let (store, process) = process();
        let key = process.keys.issue("acme").await.unwrap();
        let rotation = process.keys.rotate(key.id()).compromised("leaked");
        rotation.notify(notifies).await.unwrap();
        let mut kinds = kinds(&store).await;
        kinds.sort_unstable();
        let expected = ["api_key.issued", "api_key.revoked", "api_key.rotated"];
        let expected: Vec<&str> = expected
            .into_iter()
            .filter(|kind| notifies || *kind != "api_key.rotated")
            .collect();
        assert_eq!(kinds, expected);
        let revoked = told_of(&store, "api_key.revoked").await;
        assert_eq!(revoked[0].event.key, Some(key.id()));
        assert!(!revoked[0].event.data.contains("leaked"));
    }
}

/// Right after a rotation, every client still has the old key. Its uses are told 7 days and 1 day
/// before the end of a grace that is longer than that.
#[tokio::test]
async fn uses_of_an_old_key_are_told_in_graces_that_are_longer_than_what_is_left() {
    for (grace, expected) in [
        (8 * DAY, vec![7, 1]),
        (7 * DAY, vec![1]),
        (2 * DAY, vec![1]),
        (DAY, vec![]),
        (12 * HOUR, vec![]),
    ] {
        let (store, mut process) = process();
        let key = process.keys.issue("acme").await.unwrap();
        process.pass(HOUR);
        process.keys.rotate(key.id()).grace(grace).await.unwrap();
        let rotated_at = process.keys.now();
        while process.keys.now() < rotated_at + grace - HOUR {
            // The first use is recorded before the next look.
            process.pass(SECOND);
            process.keys.verify(key.expose_secret()).await.unwrap();
            process.pass(SECOND);
            process.pass(MINUTE);
            process.pass(MINUTE * 29);
            if process.keys.now() < rotated_at + DAY / 3 {
                let told = told_of(&store, "api_key.rotated_key_in_use").await;
                assert!(told.is_empty(), "a false alarm in a grace of {grace:?}");
            }
        }
        process.pass(2 * HOUR);
        let told = told_of(&store, "api_key.rotated_key_in_use").await;
        let days: Vec<u64> = told
            .iter()
            .map(|kept| data(kept)["days"].as_u64().unwrap())
            .collect();
        assert_eq!(days, expected, "in a grace of {grace:?}");
        assert_eq!(told_of(&store, "api_key.expired").await.len(), 1);
    }
}

#[tokio::test]
async fn the_first_look_is_when_the_worker_starts() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let keys = ApiKeys::builder(store.clone()).clock(clock.clone());
    let key = keys.build().unwrap();
    let key = key.issue("acme").expires_in(40 * DAY).await.unwrap();
    let mut process = Process::new(store.clone(), &clock);
    process.pass(12 * DAY);
    let told = told_of(&store, "api_key.expiring").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].event.key, Some(key.id()));
    assert_eq!(data(&told[0])["days"], 30);
}

/// Names of entries may be many, and those of metadata are the application's own.
#[tokio::test]
async fn an_update_tells_the_fields_that_changed_without_names_of_entries() {
    let store = MemoryStore::new();
    let limits = Limits::new().per_account(Quota::per_minute(60));
    let set = |builder: ApiKeysBuilder| builder.limits(limits.clone());
    let process = Process::with(store.clone(), &ManualClock::at(today()), set);
    let key = process.keys.issue("acme").await.unwrap();
    let seen = process.keys.find(&key.id()).await.unwrap().unwrap();
    let mut update = process.keys.update(&seen).name("export");
    for number in 0..300 {
        update = update.add_metadata(format!("private-{number}"), "value");
    }
    let seen = update
        .add_limit("account_per_minute", Quota::per_minute(6))
        .await
        .unwrap();
    let told = told_of(&store, "api_key.updated").await;
    let mut changed = data(&told[0])["changed"].as_array().unwrap().clone();
    changed.sort_by_key(ToString::to_string);
    assert_eq!(changed, [json!("limits"), json!("metadata"), json!("name")]);
    let text = format!("{told:?}");
    assert!(!text.contains("private-"), "{text}");
    assert!(text.len() < 1_000, "{text}");
    assert_eq!(seen.metadata().len(), 300);
    let found = process.keys.find(&key.id()).await.unwrap().unwrap();
    assert_eq!(found, seen);
}
