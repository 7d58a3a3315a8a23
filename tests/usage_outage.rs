//! Usage while the store is busy, is down, or refuses: nothing is lost, and nothing grows.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use support::{create_in, imported, is_waiting, strangers, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::store::{Change, Page, Paging, StoreError, UsageBatch, UsageQuery, UsageRow};
use tower_api_key::usage::{Metering, UsageCounts};
use tower_api_key::{ApiKeys, KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore};

const HOUR: Duration = Duration::from_secs(3_600);

/// The time after which all counts are recorded.
const ALL: Duration = Duration::from_secs(60);

/// The state of the store for usage.
const UP: u8 = 0;
const DOWN: u8 = 1;
const REFUSES: u8 = 2;

/// A store that records usage, or not, and is busy for as long as it takes to use keys.
#[derive(Clone, Default)]
struct Busy {
    store: MemoryStore,
    state: Arc<AtomicU8>,
    /// The keys that are used during each record.
    used_meanwhile: Arc<OnceLock<(ApiKeys, Vec<String>)>>,
    batches: Arc<Mutex<Vec<UsageBatch>>>,
}

impl KeyStore for Busy {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }
}

impl ManagedKeyStore for Busy {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.store.commit(change).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        match self.state.load(Ordering::Relaxed) {
            DOWN => return Err(StoreError::unavailable("it is down")),
            REFUSES => return Err(StoreError::refused("permission denied")),
            _ => {}
        }
        if let Some((keys, used)) = self.used_meanwhile.get() {
            for plaintext in used {
                keys.verify(plaintext).await.unwrap();
            }
        }
        self.batches.lock().unwrap().push(batch.clone());
        self.store.record_usage(batch).await
    }

    async fn usage(&self, query: &UsageQuery, at: &Paging) -> Result<Page<UsageRow>, StoreError> {
        self.store.usage(query, at).await
    }
}

struct Process {
    store: Busy,
    keys: ApiKeys,
    clock: ManualClock,
    worker: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Process {
    fn new(metering: Metering) -> Self {
        let store = Busy::default();
        let clock = ManualClock::at(today());
        let keys = ApiKeys::builder(store.clone())
            .clock(clock.clone())
            .metering(metering)
            .build()
            .unwrap();
        let mut worker: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(keys.worker().into_future());
        assert!(is_waiting(&mut worker));
        Self {
            store,
            keys,
            clock,
            worker,
        }
    }

    /// Creates keys, and returns their plaintext.
    fn create(&self, count: usize) -> Vec<String> {
        let plaintexts: Vec<String> = strangers().take(count).collect();
        for plaintext in &plaintexts {
            create_in(&self.store.store, imported(plaintext));
        }
        plaintexts
    }

    async fn use_all(&self, plaintexts: &[String]) {
        for plaintext in plaintexts {
            self.keys.verify(plaintext).await.unwrap();
        }
    }

    fn turn(&self, state: u8) {
        self.store.state.store(state, Ordering::Relaxed);
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        assert!(is_waiting(&mut self.worker));
    }

    /// Returns the usage that is recorded, with that of all accounts.
    async fn total(&self) -> UsageCounts {
        self.keys.usage().last_days(9).await.unwrap().total()
    }

    fn is_recorded(&self, plaintext: &str) -> bool {
        let id = imported(plaintext).id();
        let batches = self.store.batches.lock().unwrap();
        let mut usage = batches.iter().flat_map(UsageBatch::usage);
        usage.any(|usage| usage.key == Some(id))
    }
}

/// Keys that are used without a pause are listed again at once, and hold up no other.
#[tokio::test]
async fn a_key_that_is_used_once_is_recorded_in_time_however_busy_others_are() {
    let mut process = Process::new(Metering::new());
    let hot = process.create(2_100);
    let cold = process.create(1);
    // All are used before, so that none is on the list of first uses.
    process.use_all(&hot).await;
    process.use_all(&cold).await;
    process.pass(ALL);
    process.store.batches.lock().unwrap().clear();
    process.use_all(&cold).await;
    process.use_all(&hot).await;
    let meanwhile = (process.keys.clone(), hot);
    assert!(process.store.used_meanwhile.set(meanwhile).is_ok());
    process.pass(ALL);
    assert!(process.is_recorded(&cold[0]));
}

/// While the store is down, the hours that are over take no more room than there is.
#[tokio::test]
async fn invariant_7_the_hours_of_an_outage_are_bounded_and_whole() {
    const KEYS: usize = 50;
    const HOURS: usize = 10;
    const ROOM: usize = 100;
    let mut process = Process::new(Metering::new().by_hour().max_keys(ROOM));
    let keys = process.create(KEYS);
    process.turn(DOWN);
    // Also the second time after it was full.
    for round in 1..=2 {
        for _ in 0..HOURS {
            process.use_all(&keys).await;
            process.pass(HOUR);
        }
        process.turn(UP);
        process.pass(ALL);
        process.pass(ALL);
        let total = process.total().await;
        assert_eq!(total.allowed, (round * HOURS * KEYS) as u64);
        let health = process.keys.health().usage;
        // Each key has a current hour; of those that are over, so many have room. A first batch
        // that could not be recorded has the first hour of each key.
        let folded = (HOURS - 2) * KEYS - ROOM;
        assert_eq!(health.without_key, (round * folded) as u64);
        assert_eq!((health.waiting_keys, health.unattributed), (0, 0));
        process.turn(DOWN);
    }
}

/// A right that is missing for a while is an outage, and not the end of counting.
#[tokio::test]
async fn a_store_that_has_recorded_usage_and_refuses_it_later_loses_nothing() {
    let mut process = Process::new(Metering::new());
    let keys = process.create(3);
    process.use_all(&keys).await;
    process.pass(ALL);
    process.turn(REFUSES);
    for _ in 0..5 {
        process.use_all(&keys).await;
        process.pass(ALL);
    }
    process.turn(UP);
    process.pass(ALL);
    process.pass(ALL);
    assert_eq!(process.total().await.allowed, 18);
}

/// Keys that found no room while the store was down are listed when it is back, even if nobody uses
/// them again.
#[tokio::test]
async fn keys_without_room_in_an_outage_are_recorded_after_it() {
    let mut process = Process::new(Metering::new().max_keys(10));
    let keys = process.create(25);
    process.turn(DOWN);
    process.use_all(&keys).await;
    for _ in 0..5 {
        process.pass(ALL);
    }
    process.turn(UP);
    for _ in 0..5 {
        process.pass(ALL);
    }
    assert_eq!(process.total().await.allowed, 25);
    assert!(keys.iter().all(|plaintext| process.is_recorded(plaintext)));
}

/// The batches of two workers that are dropped are sent by one.
#[tokio::test]
async fn invariant_11_a_worker_sends_the_batches_of_all_that_were_dropped() {
    let mut process = Process::new(Metering::new());
    let mut second: Pin<Box<dyn Future<Output = ()> + Send>> =
        Box::pin(process.keys.worker().into_future());
    assert!(is_waiting(&mut second));
    let keys = process.create(4);
    process.turn(DOWN);
    // Each worker has a batch that could not be recorded.
    process.use_all(&keys[..2]).await;
    process.pass(ALL);
    process.use_all(&keys[2..]).await;
    assert!(is_waiting(&mut second));
    drop(second);
    process.turn(UP);
    process.pass(ALL);
    process.pass(ALL);
    assert_eq!(process.total().await.allowed, 4);
}

/// A batch belongs to the process, and not to the worker that has made it.
#[tokio::test]
async fn invariant_11_a_worker_that_is_dropped_leaves_its_batch_to_the_next_one() {
    let mut process = Process::new(Metering::new());
    let keys = process.create(3);
    for round in 1..=3 {
        process.turn(DOWN);
        process.use_all(&keys).await;
        process.pass(ALL); // the batch could not be recorded
        process.worker = Box::pin(process.keys.worker().into_future());
        process.pass(Duration::ZERO);
        process.turn(UP);
        process.pass(ALL);
        assert_eq!(process.total().await.allowed, round * 3);
    }
}
