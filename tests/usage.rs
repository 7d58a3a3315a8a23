//! Usage: counted by requests, recorded by the worker, exactly once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "usage/recorder.rs"]
mod recorder;
#[path = "usage/reports.rs"]
mod reports;
mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http_body_util::Empty;
use support::{DAY, EchoService, create_in, imported, is_waiting, strangers, today};
use tower::{Layer, ServiceExt};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::KeyDigest;
use tower_api_key::limit::{Endpoint, Limit, Plan};
use tower_api_key::manage::WorkerHealth;
use tower_api_key::store::{
    Change, KeyQuery, Page, Paging, StoreError, TrailQuery, TrailRecord, UsageBatch,
};
use tower_api_key::store::{Followed, KeptEvent, KeyUsage, ListedKey, Start};
use tower_api_key::usage::{Metering, UsagePeriod, UsageQuery, UsageRow};
use tower_api_key::{
    ApiKeys, ApiKeysBuilder, Caller, Environment, IssuedKey, KeyId, KeyRecord, KeyStore, Limits,
    ManagedKeyStore, MemoryStore, Quota,
};

const SECOND: Duration = Duration::from_secs(1);

/// A store that counts batches, and may lose answers.
#[derive(Clone, Default)]
struct Counting {
    store: MemoryStore,
    batches: Arc<Mutex<Vec<UsageBatch>>>,
    loses_answers: Arc<AtomicBool>,
    forgets: Arc<AtomicBool>,
    /// The calls to come that are refused, as if a right were missing.
    refusals: Arc<AtomicU64>,
    /// The calls to come that fail.
    failures: Arc<AtomicU64>,
}

impl KeyStore for Counting {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }
}

impl ManagedKeyStore for Counting {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.store.commit(change).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        self.store.list(query, paging).await
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        self.store.trail(query, paging).await
    }

    async fn events(&self, start: &Start, limit: u32) -> Result<Followed<KeptEvent>, StoreError> {
        self.store.events(start, limit).await
    }

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        self.store.find_lineage(first).await
    }

    async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError> {
        self.store.usage(query, paging).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        if self.forgets.swap(false, Ordering::Relaxed) {
            return Err(StoreError::conflict());
        }
        let counts_down = |left: &AtomicU64| {
            let less = |left: u64| left.checked_sub(1);
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok()
        };
        if counts_down(&self.refusals) {
            return Err(StoreError::refused("permission denied for table usage"));
        }
        if counts_down(&self.failures) {
            return Err(StoreError::unavailable("it is down"));
        }
        self.store.record_usage(batch).await?;
        self.batches.lock().unwrap().push(batch.clone());
        if self.loses_answers.load(Ordering::Relaxed) {
            return Err(StoreError::unavailable("the answer was lost"));
        }
        Ok(())
    }
}

/// Keys with a worker, on a clock that stands still.
struct Process {
    keys: ApiKeys,
    clock: ManualClock,
    worker: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Process {
    fn new(store: impl ManagedKeyStore) -> Self {
        Self::with(store, Metering::new())
    }

    fn with(store: impl ManagedKeyStore, metering: Metering) -> Self {
        Self::of(ApiKeys::builder(store).metering(metering))
    }

    fn with_limits(limits: Limits) -> Self {
        Self::of(ApiKeys::builder(MemoryStore::new()).limits(limits))
    }

    fn of(builder: ApiKeysBuilder) -> Self {
        let clock = ManualClock::at(today());
        let keys = builder.clock(clock.clone()).build().unwrap();
        let mut process = Self {
            worker: Box::pin(keys.worker().into_future()),
            keys,
            clock,
        };
        process.work();
        process
    }

    fn work(&mut self) {
        assert!(is_waiting(&mut self.worker));
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.work();
    }

    async fn uses(&self, key: &IssuedKey) -> [Option<SystemTime>; 2] {
        let page = self
            .keys
            .list(&KeyQuery::new(), &Paging::first(1_000))
            .await
            .unwrap();
        let listed = page
            .items
            .iter()
            .find(|listed| listed.record.id() == key.id());
        let listed = listed.unwrap();
        [listed.first_used_at, listed.last_used_at]
    }
}

/// The time after which all counts are recorded: 30 seconds and a fifth.
const ALL: Duration = Duration::from_secs(37);

#[tokio::test]
async fn the_first_use_is_recorded_within_a_second_and_the_last_within_the_interval() {
    let mut process = Process::new(MemoryStore::new());
    let key = process.keys.issue("acme").await.unwrap();
    process.pass(SECOND);
    assert_eq!(process.uses(&key).await, [None, None]);
    process.keys.verify(key.expose_secret()).await.unwrap();
    process.pass(SECOND);
    let first = Some(today() + SECOND);
    assert_eq!(process.uses(&key).await, [first, first]);
    process.keys.verify(key.expose_secret()).await.unwrap();
    process.pass(SECOND);
    assert_eq!(process.uses(&key).await, [first, first]);
    process.keys.verify(key.expose_secret()).await.unwrap();
    process.pass(ALL);
    let last = Some(today() + 3 * SECOND);
    assert_eq!(process.uses(&key).await, [first, last]);
}

/// A first use is recorded within a second also after denied requests, which wait for longer.
#[tokio::test]
async fn the_first_use_after_a_denied_request_is_recorded_within_a_second() {
    let metering = Metering::new().record_every(DAY);
    let mut process = Process::with(MemoryStore::new(), metering);
    let key = process.keys.issue("acme").await.unwrap();
    process.keys.suspend(key.id()).await.unwrap();
    process.keys.verify(key.expose_secret()).await.unwrap_err();
    let service = process.keys.layer().layer(EchoService);
    let request = || {
        let request = http::Request::builder().header("x-api-key", key.expose_secret());
        request.body(()).unwrap()
    };
    assert_eq!(
        service.clone().oneshot(request()).await.unwrap().status(),
        403
    );
    process.pass(SECOND);
    process.keys.resume(key.id()).await.unwrap();
    assert_eq!(service.oneshot(request()).await.unwrap().status(), 200);
    process.pass(SECOND);
    let used = Some(today() + SECOND);
    assert_eq!(process.uses(&key).await, [used, used]);
}

#[tokio::test]
async fn only_admitted_requests_are_uses() {
    let mut process = Process::new(MemoryStore::new());
    let key = process.keys.issue("acme").await.unwrap();
    process.keys.revoke(key.id()).await.unwrap();
    process.keys.verify(key.expose_secret()).await.unwrap_err();
    process.pass(SECOND);
    assert_eq!(process.uses(&key).await, [None, None]);
}

/// Invariant 11: nothing is counted twice by a retry.
#[tokio::test]
async fn invariant_11_a_batch_whose_answer_is_lost_is_sent_again_as_it_is() {
    let store = Counting::default();
    let mut process = Process::new(store.clone());
    let [one, other] = [(); 2].map(|()| process.keys.issue("acme"));
    let (one, other) = (one.await.unwrap(), other.await.unwrap());
    store.loses_answers.store(true, Ordering::Relaxed);
    process.keys.verify(one.expose_secret()).await.unwrap();
    process.pass(SECOND);
    // What is noted meanwhile waits for the next batch.
    process.keys.verify(other.expose_secret()).await.unwrap();
    for _ in 0..3 {
        process.pass(60 * SECOND);
    }
    store.loses_answers.store(false, Ordering::Relaxed);
    process.pass(60 * SECOND);
    let batches = store.batches.lock().unwrap().clone();
    assert!(batches.len() >= 4);
    let (last, again) = batches.split_last().unwrap();
    assert!(again.iter().all(|batch| *batch == again[0]), "{batches:?}");
    assert_eq!((again[0].number(), last.number()), (1, 2));
    assert_eq!(last.usage()[0].key, Some(other.id()));
    assert_eq!(last.node(), again[0].node());
}

#[tokio::test]
async fn a_store_that_has_forgotten_a_node_is_told_by_a_new_one() {
    let store = Counting::default();
    let mut process = Process::new(store.clone());
    let key = process.keys.issue("acme").await.unwrap();
    store.forgets.store(true, Ordering::Relaxed);
    process.keys.verify(key.expose_secret()).await.unwrap();
    process.pass(SECOND);
    assert!(store.batches.lock().unwrap().is_empty());
    process.pass(2 * SECOND);
    let used = Some(today());
    assert_eq!(process.uses(&key).await, [used, used]);
    assert_eq!(store.batches.lock().unwrap()[0].number(), 1);
}

#[tokio::test]
async fn what_is_noted_is_recorded_when_the_worker_stops() {
    let store = Counting::default();
    let clock = ManualClock::at(today());
    let keys = ApiKeys::builder(store.clone())
        .clock(clock)
        .build()
        .unwrap();
    let key = keys.issue("acme").await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = keys.worker().until(async {
        let _ = stopped.await;
    });
    let mut worker = Box::pin(worker);
    assert!(is_waiting(&mut worker));
    keys.verify(key.expose_secret()).await.unwrap();
    stop.send(()).unwrap();
    worker.await;
    assert_eq!(store.batches.lock().unwrap().len(), 1);
}

/// Keys whose worker has run once, and the records of so many keys.
fn keys_in_use(store: &Counting, metering: Metering, count: usize) -> (Process, Vec<String>) {
    let plaintexts: Vec<String> = strangers().take(count).collect();
    for plaintext in &plaintexts {
        create_in(&store.store, imported(plaintext));
    }
    (Process::with(store.clone(), metering), plaintexts)
}

fn recorded(store: &Counting) -> Vec<KeyUsage> {
    let batches = store.batches.lock().unwrap();
    let usage = batches.iter().flat_map(|batch| batch.usage().to_vec());
    usage.collect()
}

fn allowed<'u>(usage: impl IntoIterator<Item = &'u KeyUsage>) -> u64 {
    usage.into_iter().map(|usage| usage.counts.allowed).sum()
}

/// Invariant 7: counts that are not recorded are kept for so many keys, and no count is lost.
#[tokio::test]
async fn invariant_7_the_usage_that_is_not_recorded_is_bounded_and_whole() {
    const MOST: usize = 1_000;
    let store = Counting::default();
    let metering = Metering::new().max_keys(MOST);
    let (mut process, plaintexts) = keys_in_use(&store, metering, 1_200);
    // Also the second time after it was full.
    for round in 1..=2 {
        for plaintext in &plaintexts {
            process.keys.verify(plaintext).await.unwrap();
        }
        process.pass(ALL);
        let usage = recorded(&store);
        assert!(usage.iter().all(|usage| usage.key.is_some()));
        // Those that found no room are listed by what comes after.
        process.pass(ALL);
        assert_eq!(allowed(&recorded(&store)), round * 1_200);
    }
}

#[tokio::test]
async fn keys_that_are_loaded_anew_go_on_with_their_counts() {
    let store = Counting::default();
    let metering = Metering::new().max_keys(10);
    let (mut process, plaintexts) = keys_in_use(&store, metering, 30);
    for plaintext in &plaintexts {
        process.keys.verify(plaintext).await.unwrap();
        process.keys.invalidate_all();
    }
    for plaintext in &plaintexts {
        process.keys.verify(plaintext).await.unwrap(); // replaces the entry, and its meter stays
    }
    for _ in 0..3 {
        process.pass(ALL);
    }
    assert_eq!(allowed(&recorded(&store)), 60);
    for plaintext in &plaintexts {
        let id = KeyDigest::of(plaintext).id();
        let of_key = recorded(&store);
        assert_eq!(allowed(of_key.iter().filter(|it| it.key == Some(id))), 2);
    }
}

#[tokio::test]
async fn limited_and_refused_requests_are_counted_apart() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let keys = ApiKeys::builder(store)
        .clock(clock.clone())
        .limits(Limits::new().per_key(Quota::per_hour(2)))
        .build()
        .unwrap();
    let mut worker = Box::pin(keys.worker().into_future());
    assert!(is_waiting(&mut worker));
    let key = keys.issue("acme").await.unwrap();
    let service = keys.layer().layer(EchoService);
    let call = async || {
        let request = http::Request::builder()
            .header("x-api-key", key.expose_secret())
            .body(())
            .unwrap();
        service.clone().oneshot(request).await.unwrap().status()
    };
    for _ in 0..5 {
        call().await;
    }
    keys.revoke(key.id()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(call().await, 401);
    }
    clock.advance(ALL);
    assert!(is_waiting(&mut worker));
    let report = keys.usage().of_key(key.id()).await.unwrap();
    let total = report.total();
    assert_eq!((total.allowed, total.limited, total.refused), (2, 3, 3));
    assert_eq!(total.units["requests"], 2);
}

#[tokio::test]
async fn units_are_counted_by_name_and_refunds_are_taken_back() {
    let limits = Limits::new()
        .per_account(Quota::per_hour(1_000))
        .per_key(Limit::named("tokens", Quota::per_hour(1_000)).unit("tokens"))
        .add_cost(http::Method::POST, "/reports", 10)
        .add_endpoint(Endpoint::new(http::Method::PUT, "/reports").cost_in("tokens", 30));
    let mut process = Process::with_limits(limits);
    let key = process.keys.issue("acme").await.unwrap();
    let handler = tower::service_fn(|request: http::Request<()>| async move {
        let caller = Caller::of(request.extensions()).unwrap();
        caller.charge("tokens", 120).await.unwrap();
        caller.refund("requests", 4).await.unwrap();
        caller.refund("requests", 400).await.unwrap(); // at most what was charged: 6 more
        caller.count("bytes", 7);
        caller.count("", 1);
        for unit in 0..20 {
            caller.count(&format!("unit {unit}"), 1);
        }
        caller.charge("unknown", 5).await.unwrap_err();
        Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<bytes::Bytes>::new()))
    });
    let request = |method: &str| {
        http::Request::builder()
            .method(method)
            .uri("/reports")
            .header("x-api-key", key.expose_secret())
            .body(())
            .unwrap()
    };
    let service = process.keys.layer().layer(handler);
    for method in ["POST", "POST", "PUT"] {
        service.clone().oneshot(request(method)).await.unwrap();
    }
    process.pass(ALL);
    let total = process.keys.usage().await.unwrap().total();
    assert_eq!(total.allowed, 3);
    let of = |unit: &str| total.units.get(unit).copied().unwrap_or_default();
    assert_eq!((of("requests"), of("bytes")), (0, 3 * 7));
    assert_eq!(of("tokens"), 3 * 120 + 30);
    assert_eq!((of(""), of("unknown"), of("unit 3")), (0, 0, 3));
    assert_eq!(of("other"), 3 * 6);
}

/// A bill without limits is the same as one with limits.
#[tokio::test]
async fn refunds_are_taken_back_without_a_limit_too_and_once() {
    // Another plan has limits; the keys here have none.
    let limits = Limits::new()
        .add_plan(
            Plan::new("free")
                .per_account(Quota::per_hour(1_000))
                .per_key(Limit::named("tokens", Quota::per_hour(1_000)).unit("tokens")),
        )
        .add_plan(Plan::new("enterprise"))
        .default_plan("enterprise")
        .add_cost(http::Method::POST, "/reports", 10)
        .add_endpoint(Endpoint::new(http::Method::PUT, "/reports").cost_in("tokens", 30));
    let mut process = Process::with_limits(limits);
    let key = process.keys.issue("acme").await.unwrap();
    let handler = tower::service_fn(|request: http::Request<()>| async move {
        let caller = Caller::of(request.extensions()).unwrap();
        let clone = caller.clone();
        clone.refund("requests", 7).await.unwrap();
        caller.refund("requests", u64::MAX).await.unwrap();
        clone.refund("requests", 5).await.unwrap(); // nothing is left
        caller.refund("tokens", 29).await.unwrap();
        Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<bytes::Bytes>::new()))
    });
    let service = process.keys.layer().layer(handler);
    for method in ["POST", "PUT"] {
        let request = http::Request::builder().method(method).uri("/reports");
        let request = request.header("x-api-key", key.expose_secret()).body(());
        service.clone().oneshot(request.unwrap()).await.unwrap();
    }
    let caller = process.keys.verify(key.expose_secret()).await.unwrap();
    caller.refund("requests", 3).await.unwrap(); // at most the one that was counted
    process.pass(ALL);
    let total = process.keys.usage().await.unwrap().total();
    assert_eq!(total.allowed, 3);
    assert_eq!(total.units, [("tokens".to_owned(), 1)].into());
}

#[tokio::test]
async fn requests_are_counted_on_the_day_on_which_they_come() {
    let mut process = Process::new(MemoryStore::new());
    let key = process.keys.issue("acme").await.unwrap();
    let midnight = UsagePeriod::at(today(), false).begins_at() + DAY;
    let mut expected = Vec::new();
    for day in 0..3 {
        process.clock.set(midnight + day * DAY - SECOND);
        for _ in 0..=day {
            process.keys.verify(key.expose_secret()).await.unwrap();
        }
        process.clock.set(midnight + day * DAY);
        process.keys.verify(key.expose_secret()).await.unwrap();
        expected.extend([u64::from(day) + 1, 1]);
    }
    process.pass(ALL);
    let report = process.keys.usage().last_days(9).by_key().await.unwrap();
    let days: Vec<u64> = report.rows.iter().map(|row| row.counts.allowed).collect();
    // The midnight of one day and the last second of the next are one day.
    assert_eq!(days, [1, 1 + 2, 1 + 3, 1]);
    assert_eq!(expected.iter().sum::<u64>(), days.iter().sum::<u64>());
}

#[tokio::test]
async fn a_clock_that_goes_back_loses_no_count() {
    let mut process = Process::new(MemoryStore::new());
    let key = process.keys.issue("acme").await.unwrap();
    for step in 0..100 {
        let back = (step * 37) % 11;
        process.clock.set(today() + back * DAY);
        process.keys.verify(key.expose_secret()).await.unwrap();
    }
    process.clock.set(today() + 11 * DAY);
    process.pass(ALL);
    process.pass(ALL);
    let report = process.keys.usage().last_days(20).await.unwrap();
    assert_eq!(report.total().allowed, 100);
    assert_eq!(report.rows.len(), 11);
}

#[tokio::test]
async fn usage_by_hour_is_reported_by_hour_and_by_day() {
    let mut process = Process::with(MemoryStore::new(), Metering::new().by_hour());
    let key = process.keys.issue("acme").await.unwrap();
    for _ in 0..5 {
        process.keys.verify(key.expose_secret()).await.unwrap();
        process.pass(Duration::from_secs(3_600));
    }
    process.pass(ALL);
    let hours = process.keys.usage().last_days(2).by_hour().await.unwrap();
    assert_eq!(hours.rows.len(), 5);
    let days = process.keys.usage().last_days(2).await.unwrap();
    assert!(days.rows.len() <= 2);
    assert_eq!(days.total().allowed, 5);
}

/// A bill has no test keys in it.
#[tokio::test]
async fn requests_are_counted_in_the_environment_of_their_key() {
    let mut process = Process::new(MemoryStore::new());
    let live = process.keys.issue("acme").await.unwrap();
    let test = process.keys.issue("acme").environment(Environment::TEST);
    let test = test.await.unwrap();
    for (key, times) in [(&live, 2), (&test, 3)] {
        for _ in 0..times {
            let request = http::Request::builder().header("x-api-key", key.expose_secret());
            let layer = process.keys.layer();
            let service = layer
                .environments([Environment::LIVE, Environment::TEST])
                .layer(EchoService);
            let answer = service.oneshot(request.body(()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200);
        }
    }
    process.pass(ALL);
    for (environment, key, times) in [(Environment::LIVE, live, 2), (Environment::TEST, test, 3)] {
        let usage = process.keys.usage().last_days(2);
        let report = usage.of_environment(environment.clone()).by_key();
        let rows = report.await.unwrap().rows;
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.environment.clone(), row.key, row.counts.allowed))
            .collect();
        assert_eq!(rows, [(Some(environment), Some(key.id()), times)]);
    }
}

/// When half of the keys that there is room for wait, nobody waits for the end of the interval.
#[tokio::test]
async fn a_batch_is_written_early_when_half_of_the_room_is_taken() {
    const MOST: usize = 100;
    let store = Counting::default();
    let day = Duration::from_secs(86_400);
    let metering = Metering::new().max_keys(MOST).record_every(day);
    let (mut process, plaintexts) = keys_in_use(&store, metering, MOST);
    // The first uses are recorded within a second in any case.
    for plaintext in &plaintexts {
        process.keys.verify(plaintext).await.unwrap();
    }
    process.pass(SECOND);
    process.pass(SECOND);
    let first = allowed(&recorded(&store));
    assert_eq!(first, MOST as u64);
    for plaintext in &plaintexts[..MOST / 2 - 1] {
        process.keys.verify(plaintext).await.unwrap();
    }
    process.pass(SECOND);
    process.pass(SECOND);
    assert_eq!(allowed(&recorded(&store)), first, "there is room enough");
    process.keys.verify(&plaintexts[MOST / 2]).await.unwrap();
    process.pass(SECOND);
    process.pass(SECOND);
    assert_eq!(allowed(&recorded(&store)), first + MOST as u64 / 2);
}

/// A rotation keeps the curve in one piece.
#[tokio::test]
async fn the_usage_of_a_chain_of_rotations_is_one_curve() {
    let mut process = Process::new(MemoryStore::new());
    let old = process.keys.issue("acme").await.unwrap();
    process.keys.verify(old.expose_secret()).await.unwrap();
    process.pass(DAY);
    let new = process.keys.rotate(old.id()).await.unwrap();
    process.keys.verify(new.expose_secret()).await.unwrap();
    process.keys.verify(old.expose_secret()).await.unwrap();
    process.pass(ALL);
    let report = process.keys.usage().of_lineage(old.id()).last_days(2);
    let report = report.by_lineage().await.unwrap();
    let curve: Vec<_> = report
        .rows
        .iter()
        .map(|row| (row.key, row.counts.allowed))
        .collect();
    assert_eq!(curve, [(Some(old.id()), 1), (Some(old.id()), 2)]);
}

/// Threads that count while others take: the sum is exact.
#[test]
fn no_count_is_lost_or_doubled_between_threads() {
    const EACH: u64 = 20_000;
    let store = Counting::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let keys = ApiKeys::builder(store.clone())
            .metering(Metering::new().record_every(SECOND))
            .build()
            .unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let worker = tokio::spawn(keys.worker().until(async {
            let _ = stopped.await;
        }));
        let mut issued = Vec::new();
        for _ in 0..3 {
            issued.push(keys.issue("acme").await.unwrap());
        }
        while keys.health().worker != WorkerHealth::Running {
            tokio::task::yield_now().await;
        }
        let issued = Arc::new(issued);
        let tasks = (0..4).map(|_| {
            let (keys, issued) = (keys.clone(), Arc::clone(&issued));
            tokio::spawn(async move {
                for at in 0..EACH {
                    let key = &issued[usize::try_from(at % 3).unwrap()];
                    keys.verify(key.expose_secret()).await.unwrap();
                    if at % 5_000 == 0 {
                        keys.invalidate_all();
                    }
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        stop.send(()).unwrap();
        worker.await.unwrap();
    });
    assert_eq!(allowed(&recorded(&store)), 4 * EACH);
}

/// A batch that is refused is kept, with its number, until the right is there.
#[tokio::test]
async fn invariant_11_a_batch_that_is_refused_for_a_while_is_recorded_once() {
    let store = Counting::default();
    let mut process = Process::new(store.clone());
    let key = process.keys.issue("acme").await.unwrap();
    store.refusals.store(3, Ordering::Relaxed);
    process.keys.verify(key.expose_secret()).await.unwrap();
    for _ in 0..500 {
        process.pass(SECOND);
    }
    let batches = store.batches.lock().unwrap().clone();
    assert_eq!(batches.len(), 1);
    assert_eq!((batches[0].number(), allowed(batches[0].usage())), (1, 1));
}

/// The end is not given up for one failure, and lists those that found no room.
#[tokio::test]
async fn all_is_recorded_at_the_end_after_a_failure_and_from_a_list_that_is_full() {
    let store = Counting::default();
    let plaintexts: Vec<String> = strangers().take(50).collect();
    for plaintext in &plaintexts {
        create_in(&store.store, imported(plaintext));
    }
    let clock = ManualClock::at(today());
    let keys = ApiKeys::builder(store.clone())
        .clock(clock.clone())
        .metering(Metering::new().max_keys(8))
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut worker = Box::pin(keys.worker().until(async {
        let _ = stopped.await;
    }));
    assert!(is_waiting(&mut worker));
    for plaintext in &plaintexts {
        keys.verify(plaintext).await.unwrap();
    }
    store.failures.store(2, Ordering::Relaxed);
    stop.send(()).unwrap();
    while is_waiting(&mut worker) {
        clock.advance(SECOND); // between two attempts
    }
    assert_eq!(allowed(&recorded(&store)), 50);
}

/// A batch is cut by its rows, so that many batches follow at the end.
#[tokio::test]
async fn all_is_recorded_at_the_end_from_keys_with_many_units() {
    const KEYS: usize = 4_000;
    let store = Counting::default();
    let keys = ApiKeys::builder(store.clone())
        .clock(ManualClock::at(today()))
        .metering(Metering::new().max_keys(KEYS))
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut worker = Box::pin(keys.worker().until(async {
        let _ = stopped.await;
    }));
    assert!(is_waiting(&mut worker));
    let units: Vec<String> = (0..14).map(|unit| format!("unit {unit}")).collect();
    for plaintext in strangers().take(KEYS) {
        create_in(&store.store, imported(&plaintext));
        let caller = keys.verify(&plaintext).await.unwrap();
        for unit in &units {
            caller.count(unit, 1);
        }
    }
    stop.send(()).unwrap();
    worker.await;
    assert_eq!(allowed(&recorded(&store)), KEYS as u64);
}

/// A record of a store of the application's own that no other store could keep costs only itself.
#[tokio::test]
async fn usage_that_cannot_be_kept_is_left_out_alone() {
    let store = Counting::default();
    let plaintexts: Vec<String> = strangers().take(20).collect();
    let records = plaintexts.iter().enumerate().map(|(at, plaintext)| {
        let account = if at == 7 {
            "a".repeat(300)
        } else {
            "acme".to_owned()
        };
        KeyRecord::imported(KeyDigest::of(plaintext), account)
    });
    let store = Counting {
        store: records.collect(),
        ..store
    };
    let mut process = Process::new(store.clone());
    for plaintext in &plaintexts {
        process.keys.verify(plaintext).await.unwrap();
    }
    process.pass(ALL);
    assert_eq!(allowed(&recorded(&store)), 19);
    process.keys.verify(&plaintexts[0]).await.unwrap();
    process.pass(ALL);
    assert_eq!(allowed(&recorded(&store)), 20);
}

/// After a long outage, a key has many rows: batches stay small.
#[tokio::test]
async fn batches_are_bounded_by_their_rows() {
    let store = Counting::default();
    let metering = Metering::new().by_hour();
    let (mut process, plaintexts) = keys_in_use(&store, metering, 400);
    store.failures.store(u64::MAX, Ordering::Relaxed);
    for _ in 0..40 {
        for plaintext in &plaintexts {
            process.keys.verify(plaintext).await.unwrap();
        }
        process.pass(Duration::from_secs(3_600));
    }
    store.failures.store(0, Ordering::Relaxed);
    for _ in 0..10 {
        process.pass(ALL);
    }
    let batches = store.batches.lock().unwrap().clone();
    let rows = |batch: &UsageBatch| {
        let rows = batch
            .usage()
            .iter()
            .map(|usage| 1 + usage.counts.units.len());
        rows.sum::<usize>()
    };
    let most = batches.iter().map(rows).max().unwrap();
    assert!(most < 4_200, "{most} rows in a batch");
    assert_eq!(allowed(&recorded(&store)), 40 * 400);
}

/// A store that records no usage is asked again each minute, since it may just be set up.
#[tokio::test]
async fn a_store_that_records_no_usage_is_asked_once_a_minute() {
    #[derive(Clone, Default)]
    struct Plain(MemoryStore, Arc<AtomicU64>);

    impl KeyStore for Plain {
        async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
            self.0.find(id).await
        }
    }

    impl ManagedKeyStore for Plain {
        async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
            self.0.find(id).await
        }

        async fn commit(&self, change: &Change) -> Result<(), StoreError> {
            self.0.commit(change).await
        }

        async fn record_usage(&self, _: &UsageBatch) -> Result<(), StoreError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Err(StoreError::refused("this store records no usage"))
        }
    }

    let store = Plain::default();
    let mut process = Process::new(store.clone());
    let key = process.keys.issue("acme").await.unwrap();
    for second in 0..150 {
        process.keys.verify(key.expose_secret()).await.unwrap();
        process.pass(SECOND);
        assert!(store.1.load(Ordering::Relaxed) <= 1 + second / 60);
    }
    assert!(store.1.load(Ordering::Relaxed) >= 2);
}
