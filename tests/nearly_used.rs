//! Events about limits that are nearly used up: each budget and period once, whatever goes on
//! meanwhile.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::process::{MINUTE, Process, SECOND, data, told_of};
use support::trouble::TroubledLimiter;
use support::{DAY, asking, is_waiting, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::limit::{Limit, Plan};
use tower_api_key::store::{BoxedOutbox, Change, StoreError};
use tower_api_key::{
    ApiKeysBuilder, KeyId, KeyRecord, KeyStore, Limits, ManagedKeyStore, MemoryStore, Quota,
};

const KIND: &str = "limit.nearly_used";

#[tokio::test]
async fn a_quota_is_told_of_anew_when_the_plan_changes_within_the_month() {
    let store = MemoryStore::new();
    let plan = |name: &str, quota: u64| {
        let limit = Limit::from(Quota::per_utc_month(quota)).tell_at(50);
        Plan::new(name).per_account(limit)
    };
    let limits = Limits::new()
        .add_plan(plan("free", 10))
        .add_plan(plan("pro", 40))
        .default_plan("free");
    let set = |builder: ApiKeysBuilder| builder.limits(limits.clone());
    let mut process = Process::with(store.clone(), &ManualClock::at(today()), set);
    let key = process.keys.issue("acme").await.unwrap();
    for _ in 0..8 {
        assert_eq!(process.call(key.expose_secret()).await, 200);
    }
    process.pass(MINUTE);
    assert_eq!(told_of(&store, KIND).await.len(), 1);
    let seen = process.keys.find(&key.id()).await.unwrap().unwrap();
    process.keys.update(&seen).plan("pro").await.unwrap();
    for _ in 0..40 {
        process.call(key.expose_secret()).await;
        process.pass(MINUTE);
    }
    let told = told_of(&store, KIND).await;
    let quotas: Vec<_> = told
        .iter()
        .map(|kept| data(kept)["quota"].clone())
        .collect();
    let expected = [10, 40].map(|quota| Quota::per_utc_month(quota).to_string());
    assert_eq!(quotas, expected);
}

/// The answer of a limiter elsewhere may come after midnight.
#[tokio::test]
async fn a_verdict_from_before_midnight_is_told_of_the_day_before() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today() + DAY - SECOND);
    let limiter = TroubledLimiter::new(&clock);
    let limits = || Limits::new().per_account(Limit::from(Quota::per_utc_day(4)).tell_at(50));
    let mut process = Process::with(store.clone(), &clock, |builder| {
        builder.limiter(limiter.clone()).limits(limits())
    });
    let key = process.keys.issue("acme").await.unwrap();
    assert_eq!(process.call(key.expose_secret()).await, 200);
    // The second request is the one that uses half of the quota.
    let gate = limiter.hangs();
    let request = http::Request::builder().header("x-api-key", key.expose_secret());
    let mut late = asking(&process.keys.layer(), request.body(()).unwrap());
    for _ in 0..5 {
        assert!(is_waiting(&mut late));
    }
    clock.advance(SECOND + Duration::from_millis(50));
    gate.open();
    assert_eq!(late.await.status(), 200);
    limiter.gets_well();
    process.pass(MINUTE);
    assert_eq!(told_of(&store, KIND).await.len(), 1);
    // It was the budget of yesterday: that of today is told of, too.
    for _ in 0..2 {
        assert_eq!(process.call(key.expose_secret()).await, 200);
    }
    process.pass(MINUTE);
    let told = told_of(&store, KIND).await;
    assert_eq!(told.len(), 2);
    for kept in &told {
        assert_eq!(data(kept)["remaining"], 2);
    }
    process.pass(MINUTE);
    assert_eq!(told_of(&store, KIND).await.len(), 2);
}

/// All keys of a chain of rotations share a budget, and its first key may be long gone.
#[tokio::test]
async fn the_key_in_use_is_told_and_not_the_first_of_its_chain() {
    let store = MemoryStore::new();
    let limits = || Limits::new().per_key(Limit::from(Quota::per_utc_month(4)).tell_at(50));
    let set = |builder: ApiKeysBuilder| builder.limits(limits());
    let mut process = Process::with(store.clone(), &ManualClock::at(today()), set);
    let first = process.keys.issue("acme").await.unwrap();
    assert_eq!(process.call(first.expose_secret()).await, 200);
    let second = process.keys.rotate(first.id()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(process.call(second.expose_secret()).await, 200);
    }
    // The old key shares the budget, and tells nothing more.
    assert_eq!(process.call(first.expose_secret()).await, 200);
    process.pass(MINUTE);
    let told = told_of(&store, KIND).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].event.key, Some(second.id()));
    assert_eq!(data(&told[0])["key_id"], second.id().to_string());
}

/// What becomes of the next commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    Hangs,
    HangsLate,
    Fails,
    LosesAnswer,
}

/// A store whose commits go wrong.
#[derive(Clone)]
struct Fateful {
    store: MemoryStore,
    fate: Arc<Mutex<Fate>>,
    commits: Arc<AtomicUsize>,
}

impl KeyStore for Fateful {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }
}

impl ManagedKeyStore for Fateful {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        let fate = *self.fate.lock().unwrap();
        if matches!(fate, Fate::Good | Fate::HangsLate | Fate::LosesAnswer) {
            self.store.commit(change).await?;
        }
        match fate {
            Fate::Good => Ok(()),
            Fate::Hangs | Fate::HangsLate => pending().await,
            Fate::Fails | Fate::LosesAnswer => Err(StoreError::unavailable("it is down")),
        }
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        self.store.outbox()
    }
}

/// Invariant 11: nothing is announced twice by a retry, a late call or a restart.
#[tokio::test]
async fn invariant_11_a_limit_is_told_once_after_a_lost_answer_and_a_restart() {
    const ACCOUNTS: usize = 150; // more than are stored at a time
    for fate in [Fate::Fails, Fate::LosesAnswer, Fate::Hangs, Fate::HangsLate] {
        let store = Fateful {
            store: MemoryStore::new(),
            fate: Arc::new(Mutex::new(Fate::Good)),
            commits: Arc::default(),
        };
        let limits = || Limits::new().per_account(Limit::from(Quota::per_utc_month(2)).tell_at(50));
        let set = |builder: ApiKeysBuilder| builder.limits(limits());
        let mut process = Process::with(store.clone(), &ManualClock::at(today()), set);
        for number in 0..ACCOUNTS {
            let account = format!("account {number}");
            let key = process.keys.issue(account).await.unwrap();
            assert_eq!(process.call(key.expose_secret()).await, 200);
        }
        *store.fate.lock().unwrap() = fate;
        let before = store.commits.load(Ordering::SeqCst);
        process.pass(MINUTE);
        assert_eq!(store.commits.load(Ordering::SeqCst), before + 1, "{fate:?}");
        // The worker is dropped where it is: in the commit, or in the pause after it.
        *store.fate.lock().unwrap() = Fate::Good;
        process.start_again();
        process.pass(MINUTE);
        process.pass(MINUTE);
        let told = told_of(&store.store, KIND).await;
        let mut accounts: Vec<_> = told.iter().map(|kept| &kept.event.account).collect();
        accounts.sort_unstable();
        accounts.dedup();
        assert_eq!(
            (told.len(), accounts.len()),
            (ACCOUNTS, ACCOUNTS),
            "{fate:?}"
        );
    }
}

/// Events that wait are stored by another process, which has looked at the same budget.
#[tokio::test]
async fn a_budget_that_two_processes_find_is_told_once_although_one_is_late() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let limits = || Limits::new().per_account(Limit::from(Quota::per_utc_month(2)).tell_at(50));
    let set = |builder: ApiKeysBuilder| builder.limits(limits());
    let mut processes = [(); 2].map(|()| Process::with(store.clone(), &clock, set));
    let key = processes[0].keys.issue("acme").await.unwrap();
    for process in &processes {
        assert_eq!(process.call(key.expose_secret()).await, 200);
    }
    processes[0].pass(MINUTE);
    processes[1].pass(10 * DAY);
    assert_eq!(told_of(&store, KIND).await.len(), 1);
}
