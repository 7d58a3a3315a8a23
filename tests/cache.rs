//! What is remembered of keys, for how long, and what ends it: on a clock that stands still unless
//! it is told to move, over a store that does as it is told.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::join_all;
use support::trouble::{Delay, Gate, Says, TroubledStore};
use support::{
    DAY, World, answer, at_once, imported, is_waiting, stranger, strangers, today, with_key,
};
use tower::Service;
use tower_api_key::key::{KeyDigest, Suspension};
use tower_api_key::store::{AgedRecord, Change, Floor, StoreError};
use tower_api_key::{
    ApiKeys, Cache, IssuedKey, KeyId, KeyRecord, KeyStore, ManagedKeyStore, Rejection,
};

const SECOND: Duration = Duration::from_secs(1);
const INSTANT: Duration = Duration::from_nanos(1);

/// The last instant before a time has passed.
fn just_before(time: Duration) -> Duration {
    time.saturating_sub(INSTANT)
}

/// The defaults.
const MAX_STALENESS: Duration = Duration::from_secs(10);
const MISSES: Duration = Duration::from_secs(1);

// For how long a key is remembered.

#[tokio::test]
async fn a_remembered_key_is_looked_up_again_when_it_is_stale_and_then_once() {
    for (cache, longest) in [
        (Cache::new(), MAX_STALENESS),
        (Cache::new().max_staleness(3 * SECOND), 3 * SECOND),
    ] {
        let world = World::with_cache(cache);
        let key = world.issue();
        for _ in 0..3 {
            assert_eq!(world.look(&key), (200, 1), "{longest:?}");
            assert_eq!(world.look(&key), (200, 0));
            world.clock.advance(just_before(longest));
            assert_eq!(world.look(&key), (200, 0));
            world.clock.advance(INSTANT);
        }
    }
}

#[tokio::test]
async fn steps_of_the_wall_clock_change_nothing_about_the_age_of_what_is_remembered() {
    let world = World::new();
    let key = world.issue_cached();
    let unknown = stranger();
    world.ask(&unknown);
    for instant in [
        today() - 400 * DAY,
        today() + 400 * DAY,
        SystemTime::UNIX_EPOCH,
    ] {
        world.clock.set(instant);
        assert_eq!(world.look(&key), (200, 0), "{instant:?}");
        assert_eq!(world.look(&unknown), (401, 0), "{instant:?}");
    }
    world.clock.advance(just_before(MAX_STALENESS));
    world.clock.set(today() - DAY);
    assert_eq!(world.look(&key), (200, 0));
    world.clock.advance(INSTANT);
    world.clock.set(today() - 2 * DAY);
    assert_eq!(world.look(&key), (200, 1));
}

#[tokio::test]
async fn the_age_counts_from_the_question_and_not_from_the_answer() {
    let world = World::with_cache(Cache::new().store_time_limit(DAY));
    let key = world.issue();
    world.store.gets(Says::WhatItKeeps, Delay::For(4 * SECOND));
    let mut slow = world.asking(&key);
    assert!(is_waiting(&mut slow));
    world.clock.advance(4 * SECOND);
    assert_eq!(slow.await, 200);
    world.store.gets_well();
    world.clock.advance(just_before(6 * SECOND));
    assert_eq!(world.look(&key), (200, 0));
    world.clock.advance(INSTANT);
    assert_eq!(world.look(&key), (200, 1));
}

#[tokio::test]
async fn verifying_without_a_request_goes_by_the_same_memory() {
    let world = World::new();
    let key = world.issue_cached();
    assert!(world.keys.verify(key.expose_secret()).await.is_ok());
    assert_eq!(world.store.asked(), 0);
    world.clock.advance(MAX_STALENESS);
    assert!(world.keys.verify(key.expose_secret()).await.is_ok());
    assert_eq!(world.store.asked(), 1);
    assert_eq!(world.look(&key), (200, 0));
    world.keys.revoke(key.id()).await.unwrap();
    let refused = world.keys.verify(key.expose_secret()).await.unwrap_err();
    assert_eq!(refused, Rejection::Revoked);
    // And the layers of all clones have one memory, too.
    world.store.asked();
    let clone = world.keys.clone().layer();
    assert_eq!(answer(&clone, with_key(key.expose_secret())).status(), 401);
    assert_eq!(world.store.asked(), 0);
}

#[tokio::test]
async fn without_a_cache_each_request_asks_the_store() {
    let world = World::with_cache(Cache::none());
    let key = world.issue();
    let unknown = stranger();
    for _ in 0..3 {
        assert_eq!(world.look(&key), (200, 1));
        assert_eq!(world.look(&unknown), (401, 1));
    }
    world.revoke_elsewhere(key.id());
    assert_eq!(world.look(&key), (401, 1));
}

// What ends it.

#[tokio::test]
async fn invariant_3_a_cached_record_never_outlives_its_expiry() {
    let world = World::with_cache(Cache::new().dangerous_serve_stale(DAY));
    let key = at_once(world.keys.issue("acme").expires_in(5 * SECOND)).unwrap();
    assert_eq!(world.ask(&key), 200);
    world.store.fails();
    world.clock.advance(just_before(5 * SECOND));
    assert_eq!(world.look(&key), (200, 0));
    world.clock.advance(INSTANT);
    assert_eq!(world.look(&key), (401, 0));
    world.clock.advance(MAX_STALENESS);
    assert_eq!(world.look(&key), (401, 1));
    // By the wall clock, whatever the age of what is remembered.
    let world = World::new();
    let key = world.keys.issue("acme").expires_in(DAY).await.unwrap();
    assert_eq!(world.ask(&key), 200);
    world.clock.set(today() + DAY);
    assert_eq!(world.look(&key), (401, 0));
}

#[tokio::test]
async fn invariant_3_a_cached_record_never_outlives_its_revocation_or_suspension_here() {
    let world = World::with_cache(Cache::new().max_staleness(DAY).dangerous_serve_stale(DAY));
    let key = world.issue_cached();
    world.keys.suspend(key.id()).await.unwrap();
    assert_eq!(world.ask(&key), 403);
    world.keys.resume(key.id()).await.unwrap();
    assert_eq!(world.ask(&key), 200);
    world.keys.clone().revoke(key.id()).await.unwrap();
    assert_eq!(world.ask(&key), 401);
    assert_eq!(world.look(&key), (401, 0), "also a refusal is remembered");
    // While another key, and by the age that it has, stays.
    let other = world.issue_cached();
    world.keys.revoke(world.issue().id()).await.unwrap();
    assert_eq!(world.ask(&other), 200);
}

#[tokio::test]
async fn invariant_3_a_cached_record_never_outlives_its_max_staleness_when_changed_elsewhere() {
    let world = World::new();
    let key = world.issue_cached();
    world.revoke_elsewhere(key.id());
    world.clock.advance(just_before(MAX_STALENESS));
    assert_eq!(world.look(&key), (200, 0));
    world.clock.advance(INSTANT);
    assert_eq!(world.look(&key), (401, 1));
}

#[tokio::test]
async fn invariant_3_what_was_done_elsewhere_already_and_is_done_here_again_holds_here() {
    let world = World::new();
    let key = world.issue_cached();
    world.revoke_elsewhere(key.id());
    world.keys.revoke(key.id()).await.unwrap();
    assert_eq!(world.ask(&key), 401);

    let key = world.issue_cached();
    let suspend = |record: KeyRecord| record.with_suspended(Suspension::new(today()));
    world.change_elsewhere(key.id(), suspend);
    world.keys.suspend(key.id()).await.unwrap();
    assert_eq!(world.ask(&key), 403);
    // Nor does a replica that lags behind undo it.
    let old = key.record().clone();
    world.keys.invalidate(&key.id());
    world.store.says(old);
    assert_eq!(world.ask(&key), 403);
}

#[tokio::test]
async fn what_is_invalidated_is_looked_up_again_at_the_next_request() {
    let world = World::new();
    let keys = [world.issue_cached(), world.issue_cached()];
    world.revoke_elsewhere(keys[0].id());
    world.keys.invalidate(&keys[0].id());
    assert_eq!(world.look(&keys[0]), (401, 1));
    assert_eq!(world.look(&keys[0]), (401, 0));

    let unknown = stranger();
    assert_eq!(world.look(&unknown), (401, 1));
    world.create_elsewhere(imported(&unknown));
    world.revoke_elsewhere(keys[1].id());
    world.keys.invalidate_all();
    assert_eq!(world.look(&keys[0]), (401, 1));
    assert_eq!(world.look(&keys[1]), (401, 1));
    assert_eq!(world.look(&unknown), (200, 1));
    assert_eq!(world.look(&unknown), (200, 0));
}

#[tokio::test]
async fn a_key_that_goes_and_comes_back_is_remembered_again() {
    let world = World::new();
    let key = world.issue();
    let record = key.record().clone();
    for round in 0..100 {
        world.store.says(record.clone());
        world.keys.invalidate(&key.id());
        assert_eq!(world.look(&key), (200, 1), "round {round}");
        assert_eq!(world.look(&key), (200, 0), "round {round}");
        world.store.says(None);
        world.keys.invalidate(&key.id());
        assert_eq!(world.look(&key), (401, 1), "round {round}");
        assert_eq!(world.look(&key), (401, 0), "round {round}");
    }
}

// Loads that race a change.

#[tokio::test]
async fn invariant_4_a_load_that_began_before_a_revocation_never_serves_after_it() {
    for waiting in [1, 3] {
        let world = World::with_cache(Cache::new().dangerous_serve_stale(DAY));
        let key = world.issue();
        let old_record_in_hand = world.store.hangs();
        let mut early: Vec<_> = (0..waiting).map(|_| world.asking(&key)).collect();
        assert!(early.iter_mut().all(is_waiting));
        assert_eq!(world.store.asked(), 1);
        world.store.gets_well();
        world.keys.revoke(key.id()).await.unwrap();
        // Before the load has landed, nobody joins it…
        assert_eq!(world.ask(&key), 401);
        // …and when it has, nobody is let in by it, nor does it take the place of what is newer.
        world.store.asked();
        old_record_in_hand.open();
        assert_eq!(join_all(early).await, vec![401; waiting]);
        assert_eq!(world.store.asked(), 0);
        assert_eq!(world.look(&key), (401, 0));
        world.clock.advance(MAX_STALENESS);
        world.store.fails();
        assert_eq!(world.ask(&key), 401, "the revocation is what is stale");
    }
}

#[tokio::test]
async fn invariant_4_holds_for_verifying_and_for_what_is_invalidated_too() {
    let world = World::new();
    for all in [false, true] {
        let key = world.issue();
        let gate = world.store.hangs();
        let mut request = world.asking(&key);
        let mut verified = Box::pin(world.keys.verify(key.expose_secret()));
        assert!(is_waiting(&mut request) && is_waiting(&mut verified));
        world.revoke_elsewhere(key.id());
        if all {
            world.keys.invalidate_all();
        } else {
            world.keys.invalidate(&key.id());
        }
        world.store.gets_well();
        gate.open();
        assert_eq!(request.await, 401);
        assert_eq!(verified.await.unwrap_err(), Rejection::Revoked);
    }
}

/// By itself, or by a neighbour that shares its counter.
#[tokio::test]
async fn a_key_that_changes_faster_than_it_loads_is_served_what_was_loaded_last() {
    for by_itself in [true, false] {
        let world = World::new();
        let (key, noisy) = (world.issue(), neighbour(&world));
        let (key, noisy) = if by_itself {
            (key, None)
        } else {
            (noisy.0, Some(noisy.1))
        };
        let mut gate = world.store.hangs();
        world.store.asked();
        let mut request = world.asking(&key);
        let mut rounds = 0;
        let status = loop {
            if let Some(status) = request.as_mut().now_or_never() {
                break status;
            }
            rounds += 1;
            assert!(rounds < 100, "it is waited for without end");
            match &noisy {
                None => world.keys.invalidate(&key.id()),
                Some(noisy) => world.keys.invalidate(noisy),
            }
            let next = world.store.hangs();
            std::mem::replace(&mut gate, next).open();
        };
        assert_eq!(status, 200);
        assert!(world.store.asked() <= 2);
    }
}

/// A key, and another one whose changes have the first one loaded anew.
fn neighbour(world: &World) -> (IssuedKey, KeyId) {
    let key = world.issue();
    assert_eq!(world.ask(&key), 200);
    for other in strangers() {
        let other = KeyDigest::of(&other).id();
        world.keys.invalidate(&other);
        if world.look(&key).1 == 1 {
            return (key, other);
        }
    }
    unreachable!("there are enough strangers")
}

#[tokio::test]
async fn a_change_that_changes_nothing_has_no_key_loaded_anew() {
    let world = World::new();
    for _ in 0..300 {
        let key = world.issue_cached();
        let others: Vec<_> = [world.issue_cached(), world.issue_cached()].into();
        world.keys.resume(key.id()).await.unwrap();
        assert_eq!(world.look(&key), (200, 0));
        world.keys.suspend(key.id()).await.unwrap();
        assert_eq!(world.ask(&key), 403);
        for other in &others {
            assert_eq!(world.ask(other), 200);
        }
        world.store.asked();
        for _ in 0..10 {
            world.keys.suspend(key.id()).await.unwrap();
        }
        world.store.asked();
        assert_eq!(world.ask(&key), 403);
        assert!(others.iter().all(|other| world.ask(other) == 200));
        assert_eq!(world.store.asked(), 0);
        world.keys.revoke(key.id()).await.unwrap();
    }
    // But what somebody else has changed holds at once.
    let key = world.issue_cached();
    world.revoke_elsewhere(key.id());
    assert_eq!(world.ask(&key), 200, "still cached");
    world.keys.revoke(key.id()).await.unwrap();
    assert_eq!(world.ask(&key), 401);
}

#[tokio::test]
async fn a_revoked_key_is_not_let_in_by_a_replica_that_lags_behind() {
    let world = World::new();
    let key = world.issue_cached();
    world.keys.revoke(key.id()).await.unwrap();
    world.store.says(key.record().clone());
    assert_eq!(world.look(&key), (401, 1));
    world.keys.invalidate(&key.id());
    assert_eq!(world.look(&key), (401, 1));
    world.keys.invalidate_all();
    assert_eq!(world.look(&key), (401, 1));
    world.clock.advance(100 * DAY);
    assert_eq!(world.look(&key), (401, 1));
    // What is newer than what was done here is believed.
    let suspended = {
        world.store.gets_well();
        world.issue_cached()
    };
    world.keys.suspend(suspended.id()).await.unwrap();
    let resumed = suspended.record().clone().with_version(3);
    world.store.says(resumed);
    assert_eq!(world.ask(&suspended), 200);
}

// Keys that do not exist.

/// It would say that there is nothing to do.
#[tokio::test]
async fn a_change_builds_on_what_was_done_here_and_not_on_a_replica_that_lags_behind() {
    let world = World::new();
    let key = world.issue();
    let suspended = world.keys.suspend(key.id()).await.unwrap();
    world.keys.resume(key.id()).await.unwrap();
    world.store.says(suspended);
    let again = world.keys.suspend(key.id()).await.unwrap();
    assert_eq!(again.version(), 4);
    world.store.gets_well();
    assert_eq!(world.ask(&key), 403);
    let kept = world.store.kept.find(&key.id()).await.unwrap().unwrap();
    assert_eq!(kept, again);
}

/// A cache that a fleet shares, which has a copy of each record from a while ago.
struct Shared {
    copy: KeyRecord,
    age: Duration,
    primary: TroubledStore,
    asked: Arc<AtomicUsize>,
}

impl KeyStore for Shared {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.primary.kept.find(id).await
    }

    async fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
    ) -> Result<Option<AgedRecord>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.copy.version() >= floor.version && self.age <= floor.max_age {
            return Ok(Some(AgedRecord::new(self.copy.clone(), self.age)));
        }
        Ok(self.find(id).await?.map(AgedRecord::fresh))
    }
}

impl ManagedKeyStore for Shared {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.primary.kept.commit(change).await
    }
}

/// Its age and that of the copy in the process add up, and what was changed here is not answered by
/// it.
#[tokio::test]
async fn a_copy_of_a_copy_serves_no_longer_than_one() {
    for age in [0, 1, 4, 9, 10, 11] {
        let world = World::new();
        let key = world.issue();
        let asked = Arc::new(AtomicUsize::new(0));
        let shared = Shared {
            copy: world.store.kept.find(&key.id()).await.unwrap().unwrap(),
            age: Duration::from_secs(age),
            primary: world.store.clone(),
            asked: Arc::clone(&asked),
        };
        let builder = ApiKeys::builder(shared).clock(world.clock.clone());
        let keys = builder.build().unwrap();
        for second in 0..10 {
            assert!(keys.verify(key.expose_secret()).await.is_ok());
            // A copy that may not serve any more is looked past, and the record itself serves for
            // ten.
            let each = if age > 10 { 10 } else { (10 - age).max(1) };
            let expected = second / each + 1;
            assert_eq!(
                asked.load(Ordering::SeqCst) as u64,
                expected,
                "{age} s, at {second}"
            );
            world.clock.advance(SECOND);
        }
        keys.suspend(key.id()).await.unwrap();
        assert!(keys.verify(key.expose_secret()).await.is_err());
    }
}

/// A copy may be from before what was changed.
#[tokio::test]
async fn after_all_keys_are_invalidated_no_copy_from_before_is_believed() {
    let world = World::new();
    let key = world.issue();
    world.clock.advance(SECOND * 5);
    let shared = Shared {
        copy: world.store.kept.find(&key.id()).await.unwrap().unwrap(),
        age: SECOND,
        primary: world.store.clone(),
        asked: Arc::default(),
    };
    let builder = ApiKeys::builder(shared).clock(world.clock.clone());
    let keys = builder.build().unwrap();
    assert!(keys.verify(key.expose_secret()).await.is_ok());
    world.revoke_elsewhere(key.id());
    keys.invalidate(&key.id());
    assert!(
        keys.verify(key.expose_secret()).await.is_ok(),
        "the copy is believed"
    );
    keys.invalidate_all();
    assert!(keys.verify(key.expose_secret()).await.is_err());
}

/// A key that was changed before, long ago, is not the first to be forgotten.
#[tokio::test]
async fn the_latest_changes_are_the_last_to_be_forgotten() {
    let world = World::new();
    let key = world.issue();
    let before = world.store.kept.find(&key.id()).await.unwrap();
    world.keys.suspend(key.id()).await.unwrap();
    world.keys.resume(key.id()).await.unwrap();
    let others: Vec<_> = (0..4_096).map(|_| world.issue()).collect();
    for other in &others[..4_095] {
        world.keys.suspend(other.id()).await.unwrap();
    }
    world.keys.revoke(key.id()).await.unwrap();
    world.keys.suspend(others[4_095].id()).await.unwrap();
    world.store.says(before);
    assert_eq!(world.ask(&key), 401);
}

/// One key of the caller's own, a change that changes nothing, and a store that hangs.
#[tokio::test]
async fn changes_that_change_nothing_begin_one_load_and_not_more() {
    let world = World::new();
    let key = world.issue();
    assert_eq!(world.ask(&key), 200);
    let suspend = |record: KeyRecord| record.with_suspended(Suspension::new(today()));
    world.change_elsewhere(key.id(), suspend);
    for _ in 0..20 {
        world.keys.suspend(key.id()).await.unwrap();
        world.ask(&key);
    }
    world.store.asked();
    for _ in 0..20 {
        world.keys.suspend(key.id()).await.unwrap();
        assert_eq!(world.ask(&key), 403);
    }
    assert_eq!(
        world.store.asked(),
        20,
        "each change looks, and no request does"
    );
}

#[tokio::test]
async fn nothing_to_do_is_what_the_primary_says_and_not_a_replica() {
    // Others have changed the key so often, and a replica shows it as after so many of these
    // changes.
    let histories = (0..5).flat_map(|changes| (0..=changes).map(move |shown| (changes, shown)));
    let calls = [false, true];
    for ((changes, shown), suspend) in histories.flat_map(|it| calls.map(|call| (it, call))) {
        let world = World::new();
        let key = world.issue();
        let kept = async || world.store.kept.find(&key.id()).await.unwrap().unwrap();
        let mut seen = vec![kept().await];
        for change in 0..changes {
            let stop = (change % 2 == 0).then(|| Suspension::new(world.keys.now()));
            let change = |record: KeyRecord| record.with_suspended(stop);
            world.change_elsewhere(key.id(), change);
            seen.push(kept().await);
        }
        world.store.says(seen[shown].clone());
        let changed = if suspend {
            world.keys.suspend(key.id()).await.unwrap()
        } else {
            world.keys.resume(key.id()).await.unwrap()
        };
        assert_eq!(
            kept().await.suspended().is_some(),
            suspend,
            "{changes}, {shown}"
        );
        assert_eq!(changed, kept().await);
        // Nor does a key not exist that a replica does not have yet.
        world.store.says(None);
        assert!(world.keys.revoke(key.id()).await.is_ok());
    }
}

#[tokio::test]
async fn that_there_is_no_such_key_is_remembered_for_a_short_time() {
    for (cache, time) in [
        (Cache::new(), MISSES),
        (Cache::new().negative_ttl(5 * SECOND), 5 * SECOND),
    ] {
        let world = World::with_cache(cache);
        let unknown = stranger();
        for _ in 0..3 {
            assert_eq!(world.look(&unknown), (401, 1), "{time:?}");
            world.clock.advance(just_before(time));
            assert_eq!(world.look(&unknown), (401, 0));
            world.clock.advance(INSTANT);
        }
        world.ask(&unknown);
        world.create_elsewhere(imported(&unknown));
        world.clock.advance(just_before(time));
        assert_eq!(world.look(&unknown), (401, 0));
        world.clock.advance(INSTANT);
        assert_eq!(world.look(&unknown), (200, 1));
    }
}

#[tokio::test]
async fn a_key_that_is_created_is_unknown_no_more() {
    let world = World::with_cache(Cache::new().negative_ttl(DAY));
    let unknown = stranger();
    assert_eq!(world.ask(&unknown), 401);
    world.create_elsewhere(imported(&unknown));
    assert_eq!(world.look(&unknown), (401, 0));
    world.keys.invalidate(&KeyDigest::of(&unknown).id());
    assert_eq!(world.look(&unknown), (200, 1));
}

#[tokio::test]
async fn a_failure_of_the_store_is_not_remembered() {
    let world = World::with_cache(Cache::new().negative_ttl(DAY));
    let key = world.issue();
    for says in [Says::Down, Says::Corrupt] {
        world.keys.invalidate_all();
        world.store.gets(says, Delay::None);
        assert_eq!(world.look(&key), (503, 1));
        assert_eq!(world.look(&key), (503, 1));
        world.store.gets_well();
        assert_eq!(world.look(&key), (200, 1));
    }
}

// Many at once.

#[tokio::test]
async fn ten_thousand_requests_for_a_key_make_one_load_and_none_fails() {
    let world = World::with_cache(Cache::none());
    let key = world.issue();
    let gate = world.store.hangs();
    let mut requests: Vec<_> = (0..10_000).map(|_| world.asking(&key)).collect();
    assert!(requests.iter_mut().all(is_waiting));
    gate.open();
    assert_eq!(join_all(requests).await, vec![200; 10_000]);
    assert_eq!(world.store.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_on_several_threads_make_one_load_and_none_fails() {
    let world = World::new();
    let key = world.issue();
    let gate = world.store.hangs();
    let requests: Vec<_> = (0..10_000)
        .map(|_| tokio::spawn(world.asking(&key)))
        .collect();
    gate.open();
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    assert_eq!(world.store.asked(), 1);
}

#[tokio::test]
async fn a_request_after_the_end_of_a_load_starts_a_new_one() {
    for fails in [false, true] {
        let world = World::with_cache(Cache::none());
        let key = world.issue();
        let gate = Gate::default();
        let says = if fails { Says::Down } else { Says::WhatItKeeps };
        world.store.gets(says, Delay::Until(gate.clone()));
        let [mut one, mut other] = [world.asking(&key), world.asking(&key)];
        assert!(is_waiting(&mut one) && is_waiting(&mut other));
        gate.open();
        world.store.gets_well();
        let status = if fails { 503 } else { 200 };
        assert_eq!(one.now_or_never(), Some(status));
        world.revoke_elsewhere(key.id());
        assert_eq!(
            world.look(&key),
            (401, 1),
            "while another has not looked yet"
        );
        assert_eq!(other.now_or_never(), Some(status));
    }
}

#[tokio::test]
async fn a_request_that_began_before_the_end_of_a_load_starts_none() {
    let world = World::with_cache(Cache::new().max_loads(1));
    let [key, other] = [world.issue(), world.issue()];
    let mut service = support::echoing(&world.keys.layer());
    // It was called when nothing was remembered, and goes on when something is.
    let slow = service.call(with_key(key.expose_secret()));
    assert_eq!(world.look(&key), (200, 1));
    // Not even if there are too many.
    let gate = world.store.hangs();
    let mut hung = world.asking(&other);
    assert!(is_waiting(&mut hung));
    world.store.asked();
    assert_eq!(slow.await.unwrap().status(), 200);
    assert_eq!(world.store.asked(), 0);
    gate.open();
    assert_eq!(hung.await, 200);
}

#[tokio::test]
async fn cancelling_one_waiter_does_not_cancel_the_load() {
    let world = World::with_cache(Cache::new().max_loads(1));
    let key = world.issue();
    let gate = world.store.hangs();
    let mut requests: Vec<_> = (0..10).map(|_| world.asking(&key)).collect();
    assert!(requests.iter_mut().all(is_waiting));
    drop(requests.remove(0)); // the one that began it
    drop(requests.remove(4));
    assert!(requests.iter_mut().all(is_waiting));
    gate.open();
    assert_eq!(join_all(requests).await, vec![200; 8]);
    assert!(world.store.asked() <= 2);
}

/// Wakers are the only thing that makes these go on.
#[tokio::test]
async fn when_the_first_waiter_is_cancelled_the_others_are_still_woken() {
    let world = World::new();
    let key = world.issue();
    let gate = world.store.hangs();
    let first = tokio::spawn(world.asking(&key));
    let others: Vec<_> = (0..10).map(|_| tokio::spawn(world.asking(&key))).collect();
    while world.store.asked() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        tokio::task::yield_now().await; // all have set out
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.open();
    for other in others {
        assert_eq!(other.await.unwrap(), 200);
    }
}

/// Else what a task has in memory stays there for as long as a load takes that it asked for once.
#[tokio::test]
async fn a_cancelled_waiter_leaves_no_waker_behind() {
    struct Task;
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let world = World::new();
    let key = world.issue();
    let _never_opened = world.store.hangs();
    let [mut first, mut second] = [world.asking(&key), world.asking(&key)];
    let tasks = [Arc::new(Task), Arc::new(Task)];
    for (request, task) in [&mut first, &mut second].into_iter().zip(&tasks) {
        let waker = Waker::from(Arc::clone(task));
        let polled = request.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    let waiting = || tasks.each_ref().map(|task| Arc::strong_count(task) - 1);
    assert_eq!(waiting(), [1, 1]);
    drop(second);
    assert_eq!(waiting(), [1, 0]);
    drop(first);
    assert_eq!(waiting(), [0, 0]);
}

#[tokio::test]
async fn when_all_waiters_are_cancelled_the_next_request_loads_afresh() {
    let world = World::with_cache(Cache::new().max_loads(1));
    let [key, other] = [world.issue(), world.issue()];
    let gate = world.store.hangs();
    let mut requests: Vec<_> = (0..10).map(|_| world.asking(&key)).collect();
    assert!(requests.iter_mut().all(is_waiting));
    drop(requests);
    world.store.gets_well();
    assert_eq!(world.look(&other), (200, 1), "the load is gone");
    assert_eq!(world.look(&key), (200, 1));
    gate.open();
    assert_eq!(world.look(&key), (200, 0));
}

#[tokio::test]
async fn a_panic_of_the_store_is_a_503_for_every_waiting_request() {
    let world = World::with_cache(Cache::new().max_loads(1));
    let key = world.issue();
    let gate = Gate::default();
    world.store.gets(Says::Panic, Delay::Until(gate.clone()));
    let mut requests: Vec<_> = (0..10).map(|_| world.asking(&key)).collect();
    assert!(requests.iter_mut().all(is_waiting));
    gate.open();
    for request in requests {
        assert_eq!(request.await, 503);
    }
    assert_eq!(world.store.asked(), 1);
    world.store.gets_well();
    assert_eq!(world.look(&key), (200, 1));
}

#[tokio::test]
async fn only_so_many_keys_are_loaded_at_the_same_time() {
    let world = World::with_cache(Cache::new().max_loads(2)); // too few to keep one
    let cached = world.issue_cached();
    let keys = [world.issue(), world.issue(), world.issue()];
    let gate = world.store.hangs();
    let mut loading = [world.asking(&keys[0]), world.asking(&keys[1])];
    assert!(loading.iter_mut().all(is_waiting));
    assert_eq!(world.look(&keys[2]), (503, 0));
    assert_eq!(world.look(&cached), (200, 0));
    let mut joins = world.asking(&keys[0]);
    assert!(
        is_waiting(&mut joins),
        "who needs no load of his own may wait"
    );
    gate.open();
    world.store.gets_well();
    assert_eq!(join_all(loading).await, [200, 200]);
    assert_eq!(joins.await, 200);
    assert_eq!(world.look(&keys[2]), (200, 1));
}

// While the store fails.

#[tokio::test]
async fn a_stale_key_is_served_while_the_store_fails_only_if_that_was_chosen_and_not_for_ever() {
    let longest = 60 * SECOND;
    for serves_stale in [false, true] {
        let cache = if serves_stale {
            Cache::new().dangerous_serve_stale(longest)
        } else {
            Cache::new()
        };
        let world = World::with_cache(cache);
        let key = world.issue_cached();
        world.store.fails();
        world.clock.advance(just_before(MAX_STALENESS));
        assert_eq!(world.look(&key), (200, 0));
        world.clock.advance(INSTANT);
        let expected = if serves_stale { 200 } else { 503 };
        assert_eq!(world.look(&key), (expected, 1));
        world.clock.advance(just_before(50 * SECOND));
        assert_eq!(world.look(&key), (expected, 1));
        world.clock.advance(INSTANT);
        assert_eq!(world.look(&key), (503, 1));
        world.store.gets_well();
        assert_eq!(world.look(&key), (200, 1));
        assert_eq!(world.look(&key), (200, 0));
    }
}

#[tokio::test]
async fn what_was_stopped_here_and_what_was_never_known_is_not_served_stale() {
    let world = World::with_cache(Cache::new().dangerous_serve_stale(DAY));
    let [revoked, suspended, invalidated] = [
        world.issue_cached(),
        world.issue_cached(),
        world.issue_cached(),
    ];
    let unknown = stranger();
    assert_eq!(world.ask(&unknown), 401);
    let unseen = world.issue();
    world.keys.revoke(revoked.id()).await.unwrap();
    world.keys.suspend(suspended.id()).await.unwrap();
    world.revoke_elsewhere(invalidated.id());
    world.keys.invalidate(&invalidated.id());
    world.store.fails();
    for age in [Duration::ZERO, MAX_STALENESS] {
        world.clock.advance(age);
        for key in [&revoked, &suspended, &invalidated, &unseen] {
            assert_eq!(world.ask(key), 503);
        }
    }
    assert_eq!(world.ask(&unknown), 503);
}

#[tokio::test]
async fn keys_that_are_tried_out_leave_room_for_those_that_were_found_before() {
    let world = World::with_cache(Cache::new().max_loads(8));
    let [one, another] = [world.issue_cached(), world.issue_cached()];
    world.clock.advance(MAX_STALENESS);
    let gate = world.store.hangs();
    let mut trying: Vec<_> = strangers().take(6).map(|key| world.asking(&key)).collect();
    assert!(trying.iter_mut().all(is_waiting));
    assert_eq!(world.look(&stranger()), (503, 0));
    let refused = world.keys.verify(&stranger()).await.unwrap_err();
    assert_eq!(refused.code(), "service_unavailable");
    let mut known = world.asking(&one);
    let mut verified = Box::pin(world.keys.verify(another.expose_secret()));
    assert!(is_waiting(&mut known) && is_waiting(&mut verified));
    gate.open();
    assert_eq!(known.await, 200);
    assert!(verified.await.is_ok());
    assert_eq!(join_all(trying).await, [401; 6]);
}

/// However few loads there may be.
#[tokio::test]
async fn a_load_is_kept_for_keys_that_were_found_before_and_too_many_are_503_and_nothing_stale() {
    for loads in 1..20 {
        let world = World::with_cache(Cache::new().max_loads(loads).dangerous_serve_stale(DAY));
        let [one, other] = [world.issue_cached(), world.issue_cached()];
        let more: Vec<_> = (0..loads).map(|_| world.issue_cached()).collect();
        world.clock.advance(MAX_STALENESS);
        let gate = world.store.hangs();
        let mut trying: Vec<_> = strangers()
            .take(loads)
            .map(|key| world.asking(&key))
            .collect();
        trying.retain_mut(is_waiting);
        assert_eq!(trying.len(), loads - loads / 4, "{loads}");
        // Somebody who tries keys out does not keep out those that were found before…
        let mut known = world.asking(&one);
        assert!(is_waiting(&mut known), "{loads}");
        let mut waiting: Vec<_> = more.iter().map(|key| world.asking(key)).collect();
        waiting.retain_mut(is_waiting);
        // …and where there is no room for these either, nobody is served what may have been
        // revoked.
        world.revoke_elsewhere(other.id());
        assert_eq!(world.look(&other), (503, 0), "{loads}");
        gate.open();
        assert_eq!(known.await, 200);
        assert!(
            join_all(waiting)
                .await
                .into_iter()
                .all(|status| status == 200)
        );
        assert!(
            join_all(trying)
                .await
                .into_iter()
                .all(|status| status == 401)
        );
        world.store.gets_well();
        assert_eq!(world.ask(&other), 401);
    }
}

/// Whichever replica is asked, in whatever order.
#[tokio::test]
async fn of_two_versions_the_higher_is_believed_also_if_it_is_only_cached() {
    let world = World::new();
    for told in [false, true] {
        let key = world.issue_cached();
        let old = world.store.kept.find(&key.id()).await.unwrap();
        world.revoke_elsewhere(key.id());
        world.clock.advance(MAX_STALENESS);
        assert_eq!(world.ask(&key), 401);
        for at in 0..10 {
            // By turns, and several times in a row.
            if at % 3 == 0 {
                world.store.gets_well();
            } else {
                world.store.says(old.clone());
            }
            if told {
                world.keys.invalidate(&key.id());
            } else {
                world.clock.advance(MAX_STALENESS);
            }
            assert_eq!(world.ask(&key), 401, "{at}");
        }
        world.store.gets_well();
    }
}

#[test]
fn cancelled_waiters_leave_no_memory_behind() {
    let world = World::new();
    let key = world.issue();
    let _gate = world.store.hangs();
    let mut first = world.asking(&key);
    assert!(is_waiting(&mut first));
    let come_and_go = |times| {
        allocation_counter::measure(|| {
            for _ in 0..times {
                let mut asking = world.asking(&key);
                assert!(is_waiting(&mut asking));
            }
        })
    };
    come_and_go(10);
    let kept = come_and_go(10_000).bytes_current;
    assert!(kept < 1_000, "{kept} bytes are kept");
}
