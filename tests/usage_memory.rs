//! Invariant 7: the memory of usage while the store is down, for any number of keys.
//!
//! `USAGE_KEYS=10000000 cargo test --release --test usage_memory` is the long proof.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{is_waiting, strangers, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::KeyDigest;
use tower_api_key::store::{Change, Page, Paging, StoreError, UsageBatch};
use tower_api_key::usage::{Metering, UsageQuery, UsageRow};
use tower_api_key::{ApiKeys, Cache, KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore};

/// The accounts that the keys belong to: more than are counted by themselves.
const ACCOUNTS: usize = 12_000;

/// A store that has any key, and can record no usage while it is down.
#[derive(Clone, Default)]
struct Endless {
    /// The record of the key that is asked for next.
    next: Arc<Mutex<Option<KeyRecord>>>,
    is_down: Arc<AtomicBool>,
    recorded: Arc<Mutex<(u64, u64, u64)>>,
    reports: MemoryStore,
}

impl KeyStore for Endless {
    async fn find(&self, _: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.next.lock().unwrap().take())
    }
}

impl ManagedKeyStore for Endless {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.find(id).await
    }

    async fn commit(&self, _: &Change) -> Result<(), StoreError> {
        Err(StoreError::unavailable("it is down"))
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(StoreError::unavailable("it is down"));
        }
        let mut recorded = self.recorded.lock().unwrap();
        for usage in batch.usage() {
            match (&usage.key, &usage.account) {
                (Some(_), _) => recorded.0 += usage.counts.allowed,
                (None, Some(_)) => recorded.1 += usage.counts.allowed,
                (None, None) => recorded.2 += usage.counts.allowed,
            }
        }
        Ok(())
    }

    async fn usage(&self, query: &UsageQuery, at: &Paging) -> Result<Page<UsageRow>, StoreError> {
        self.reports.usage(query, at).await
    }
}

/// Uses so many keys while the store is down. Returns the most memory at a time, and the requests
/// that were recorded afterwards by key, by account and without either. The health tells the same.
fn flood(keys_in_use: usize) -> (u64, (u64, u64, u64)) {
    let store = Endless::default();
    let clock = ManualClock::at(today());
    let keys = ApiKeys::builder(store.clone())
        .clock(clock.clone())
        .cache(Cache::new().memory(4 << 20))
        .metering(Metering::new().max_keys(2_000))
        .build()
        .unwrap();
    let mut worker = Box::pin(keys.worker().into_future());
    assert!(is_waiting(&mut worker));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    store.is_down.store(true, Ordering::Relaxed);
    let measured = allocation_counter::measure(|| {
        for (number, plaintext) in strangers().take(keys_in_use).enumerate() {
            let account = format!("account {}", number % ACCOUNTS);
            let record = KeyRecord::imported(KeyDigest::of(&plaintext), account);
            *store.next.lock().unwrap() = Some(record);
            runtime.block_on(keys.verify(&plaintext)).unwrap();
            if number % 1_000 == 0 {
                clock.advance(Duration::from_secs(1));
                assert!(is_waiting(&mut worker));
            }
        }
    });
    store.is_down.store(false, Ordering::Relaxed);
    for _ in 0..10 {
        clock.advance(Duration::from_secs(60));
        assert!(is_waiting(&mut worker));
    }
    let recorded = *store.recorded.lock().unwrap();
    let health = keys.health().usage;
    assert_eq!(health.waiting_keys, 0);
    assert_eq!(
        (health.without_key, health.unattributed),
        (recorded.1, recorded.2)
    );
    (measured.bytes_max, recorded)
}

#[test]
fn invariant_7_usage_takes_no_more_memory_however_many_keys_are_in_use() {
    let most: usize = std::env::var("USAGE_KEYS").map_or(52_000, |count| count.parse().unwrap());
    let (some, _) = flood(26_000);
    let (many, (by_key, by_account, rest)) = flood(most);
    println!("{most} keys: {many} bytes at a time, and {some} bytes for 26,000 keys");
    println!("requests: {by_key} by key, {by_account} by account, {rest} without either");
    assert!(
        many < some + some / 10,
        "{many} bytes, and {some} of fewer keys"
    );
    // Nothing is lost, and some of it has lost its key and its account.
    assert_eq!(by_key + by_account + rest, most as u64);
    assert!(by_key >= 2_000 && by_account > 0 && rest > 0);
}
