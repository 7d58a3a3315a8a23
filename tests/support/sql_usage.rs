//! What both SQL stores are tested for when they record usage, beyond the conformance suites.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tower_api_key::events::kinds::API_KEY_FIRST_USED;
use tower_api_key::key::KeyDigest;
use tower_api_key::store::{
    Action, Actor, Change, KeyUsage, Paging, Start, UsageBatch, UsageDetail, UsagePeriod,
    UsageQuery,
};
use tower_api_key::{KeyId, KeyRecord, ManagedKeyStore};

use crate::sql_suite::drop_after;

const DAY: u32 = 20_000;

/// The most polls of a call that records a batch.
const MOST_POLLS: u8 = 200;

/// The calls to their end that make sure that none takes more polls.
const WHOLE_CALLS: u8 = 5;

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
}

async fn create(store: &impl ManagedKeyStore, name: &str) -> KeyId {
    let record = KeyRecord::imported(KeyDigest::of(name), "acme");
    let id = record.id();
    let create = Change::new(Actor::user("ops@example.com"), at(0));
    let create = create.create(Action::IMPORTED, record).unwrap();
    store.commit(&create).await.unwrap();
    id
}

fn usage(key: KeyId, second: u64, allowed: u64, tokens: i64) -> KeyUsage {
    let mut usage = KeyUsage::new(key, "acme", UsagePeriod::Day(DAY)).used_at(at(second));
    usage.counts.allowed = allowed;
    usage.counts.units = [("tokens".to_owned(), tokens)].into();
    usage
}

/// Sends a batch until it is recorded, as a worker does.
async fn record(store: &impl ManagedKeyStore, batch: &UsageBatch) {
    let mut failures = Vec::new();
    while let Err(error) = store.record_usage(batch).await {
        failures.push(error);
        assert!(failures.len() < 20, "{failures:?}");
    }
}

/// Invariant 11: the number of a batch, its counts and the first uses are recorded together, or none
/// of them. A worker that is dropped at any await sends the batch again, while a rival records the
/// same keys.
pub async fn a_batch_that_is_dropped_at_any_await_is_recorded_once(store: &impl ManagedKeyStore) {
    let mut expected = BTreeMap::new();
    let mut whole_calls = 0;
    for polls in 0..MOST_POLLS {
        let [new, old] = ["new", "old"].map(|name| format!("{name} {polls}"));
        let [new, old] = [create(store, &new).await, create(store, &old).await];
        let number = u64::from(polls) + 1;
        let mine = [usage(new, 5, 3, 40), usage(old, 5, 1, -7)];
        let mine = UsageBatch::new([1; 16], number, mine).unwrap();
        let rival = [usage(old, 4, 10, 100), usage(new, 6, 20, 200)];
        let rival = UsageBatch::new([2; 16], number, rival).unwrap();
        let is_whole = drop_after(polls, store.record_usage(&mine)).await;
        tokio::join!(record(store, &mine), record(store, &rival));
        expected.insert(*new.as_bytes(), (23, 240));
        expected.insert(*old.as_bytes(), (11, 93));
        whole_calls += u8::from(is_whole);
        if whole_calls == WHOLE_CALLS {
            break;
        }
    }
    assert_eq!(
        whole_calls, WHOLE_CALLS,
        "a call takes more polls than that"
    );
    assert_eq!(sums(store).await, expected);
    assert_eq!(
        first_uses(store).await,
        expected.keys().map(|key| (*key, 1)).collect()
    );
}

/// Returns the admitted requests and the tokens of each key.
async fn sums(store: &impl ManagedKeyStore) -> BTreeMap<[u8; 16], (u64, i64)> {
    let query = UsageQuery::days(DAY, DAY).with_detail(UsageDetail::Key);
    let page = store.usage(&query, &Paging::first(1_000)).await.unwrap();
    assert!(page.next.is_none());
    let rows = page.items.into_iter();
    let sums = rows.map(|row| {
        let sum = (row.counts.allowed, row.counts.units["tokens"]);
        (*row.key.unwrap().as_bytes(), sum)
    });
    sums.collect()
}

/// Returns the number of events of the first use of each key.
async fn first_uses(store: &impl ManagedKeyStore) -> BTreeMap<[u8; 16], u32> {
    let told = store.events(&Start::Beginning, 100_000).await.unwrap();
    let mut first = BTreeMap::new();
    for kept in told.items {
        if kept.event.kind == API_KEY_FIRST_USED {
            *first
                .entry(*kept.event.key.unwrap().as_bytes())
                .or_default() += 1;
        }
    }
    first
}

/// A store of our own keeps addresses, which the conformance suite does not require.
pub async fn the_address_of_a_use_is_kept(store: &impl ManagedKeyStore) {
    let key = create(store, "key").await;
    for (number, address) in (1..).zip(["192.0.2.1", "2001:db8::1"]) {
        let address: IpAddr = address.parse().unwrap();
        let mut used = usage(key, number, 1, 1);
        used.used.as_mut().unwrap().last_address = Some(address);
        let batch = UsageBatch::new([3; 16], number, [used]).unwrap();
        store.record_usage(&batch).await.unwrap();
        let listed = store.find_listed(&key).await.unwrap().unwrap();
        assert_eq!(listed.last_address, Some(address));
    }
}
