//! First and last uses: noted by requests, recorded by the worker, exactly once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use support::{create_in, imported, is_waiting, strangers, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::store::{
    Change, KeyQuery, Page, Paging, StoreError, TrailQuery, TrailRecord, UsageBatch,
};
use tower_api_key::store::{Followed, KeptEvent, ListedKey, Start};
use tower_api_key::{ApiKeys, IssuedKey, KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore};

const SECOND: Duration = Duration::from_secs(1);

/// A store that counts batches, and may lose answers.
#[derive(Clone, Default)]
struct Counting {
    store: MemoryStore,
    batches: Arc<Mutex<Vec<UsageBatch>>>,
    loses_answers: Arc<AtomicBool>,
    forgets: Arc<AtomicBool>,
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

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        if self.forgets.swap(false, Ordering::Relaxed) {
            return Err(StoreError::conflict());
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
        let clock = ManualClock::at(today());
        let keys = ApiKeys::builder(store)
            .clock(clock.clone())
            .build()
            .unwrap();
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

#[tokio::test]
async fn the_first_use_is_recorded_within_a_second_and_the_last_to_the_minute() {
    let mut process = Process::new(MemoryStore::new());
    let key = process.keys.issue("acme").await.unwrap();
    process.pass(SECOND);
    assert_eq!(process.uses(&key).await, [None, None]);
    process.keys.verify(key.expose_secret()).await.unwrap();
    process.pass(SECOND);
    let first = Some(today() + SECOND);
    assert_eq!(process.uses(&key).await, [first, first]);
    // Noted once a minute.
    process.keys.verify(key.expose_secret()).await.unwrap();
    process.pass(SECOND);
    assert_eq!(process.uses(&key).await, [first, first]);
    process.pass(58 * SECOND);
    process.keys.verify(key.expose_secret()).await.unwrap();
    process.pass(SECOND);
    let last = Some(today() + 61 * SECOND);
    assert_eq!(process.uses(&key).await, [first, last]);
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

/// Invariant 7: uses that are not recorded are kept for so many keys.
#[tokio::test]
async fn invariant_7_the_uses_that_are_not_recorded_are_bounded() {
    const MOST: u64 = 50_000;
    let store = Counting::default();
    let plaintexts: Vec<String> = strangers().take(52_000).collect();
    for plaintext in &plaintexts {
        create_in(&store.store, imported(plaintext));
    }
    let mut process = Process::new(store.clone());
    for plaintext in &plaintexts {
        process.keys.verify(plaintext).await.unwrap();
    }
    process.pass(SECOND);
    let recorded = |store: &Counting| {
        let batches = store.batches.lock().unwrap();
        batches
            .iter()
            .map(|batch| batch.usage().len() as u64)
            .sum::<u64>()
    };
    assert_eq!(recorded(&store), MOST);
    // There is room again, also for those that found none, and also the second time.
    for plaintext in &plaintexts {
        process.keys.verify(plaintext).await.unwrap();
    }
    process.pass(SECOND);
    assert_eq!(recorded(&store), MOST + 2_000);
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
