//! When usage is recorded, and whom it is counted for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use support::change_in;
use tower_api_key::{Cache, Environment};

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// A store that can be replaced by a backup.
#[derive(Clone, Default)]
struct Restorable {
    kept: Arc<Mutex<MemoryStore>>,
    batches: Arc<Mutex<Vec<UsageBatch>>>,
}

impl Restorable {
    fn kept(&self) -> MemoryStore {
        self.kept.lock().unwrap().clone()
    }

    /// Restores the state after so many batches.
    async fn restore(&self, key: &KeyId, batches: usize) {
        let backup = MemoryStore::new();
        let record = self.kept().find(key).await.unwrap().unwrap();
        create_in(&backup, record);
        let recorded = self.batches.lock().unwrap().clone();
        for batch in &recorded[..batches] {
            backup.record_usage(batch).await.unwrap();
        }
        *self.kept.lock().unwrap() = backup;
    }
}

impl KeyStore for Restorable {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.kept().find(id).await
    }
}

impl ManagedKeyStore for Restorable {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.kept().commit(change).await
    }

    async fn usage(&self, query: &UsageQuery, at: &Paging) -> Result<Page<UsageRow>, StoreError> {
        self.kept().usage(query, at).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        self.kept().record_usage(batch).await?;
        self.batches.lock().unwrap().push(batch.clone());
        Ok(())
    }
}

/// What was recorded after the backup is gone. All that comes later is recorded, once.
#[tokio::test]
async fn a_store_restored_from_a_backup_has_all_later_usage_once() {
    let store = Restorable::default();
    let mut process = Process::new(store.clone());
    let key = process.keys.issue("acme").await.unwrap();
    let use_times = async |process: &mut Process, times: u32| {
        for _ in 0..times {
            process.keys.verify(key.expose_secret()).await.unwrap();
        }
        process.pass(ALL);
        process.pass(2 * SECOND); // for the pause after a failure
    };
    for number in 1..=6 {
        use_times(&mut process, number).await;
    }
    let numbers: Vec<_> = store.batches.lock().unwrap().clone();
    let numbers: Vec<_> = numbers.iter().map(UsageBatch::number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    store.restore(&key.id(), 3).await;
    let mut expected = 1 + 2 + 3;
    // More batches than the backup has numbers of.
    for times in [10, 20, 30, 40, 50] {
        use_times(&mut process, times).await;
        expected += u64::from(times);
        let report = process.keys.usage().await.unwrap();
        assert_eq!(report.total().allowed, expected);
    }
}

/// The counts from before a move stay where they were.
#[tokio::test]
async fn a_key_that_moves_counts_for_its_new_environment_and_account_from_then_on() {
    let store = MemoryStore::new();
    let mut process = Process::new(store.clone());
    let key = process.keys.issue("acme").await.unwrap();
    let id = key.id();
    process.keys.verify(key.expose_secret()).await.unwrap();
    change_in(&store, id, |record| {
        record.with_environment(Environment::TEST)
    });
    process.keys.invalidate(&id);
    for _ in 0..2 {
        process.keys.verify(key.expose_secret()).await.unwrap();
    }
    change_in(&store, id, |record| {
        let moved = KeyRecord::new(id, record.verifier().clone(), "globex");
        moved.with_environment(Environment::TEST)
    });
    process.keys.invalidate(&id);
    for _ in 0..4 {
        process.keys.verify(key.expose_secret()).await.unwrap();
    }
    process.pass(ALL);
    let rows = process.keys.usage().by_key().await.unwrap().rows;
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| (row.account, row.environment, row.key, row.counts.allowed))
        .collect();
    let row = |account: &str, environment, allowed| {
        (
            Some(account.to_owned()),
            Some(environment),
            Some(id),
            allowed,
        )
    };
    let expected = [
        row("acme", Environment::LIVE, 1),
        row("acme", Environment::TEST, 2),
        row("globex", Environment::TEST, 4),
    ];
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn the_first_of_several_uses_is_recorded_as_the_first() {
    let mut process = Process::new(MemoryStore::new());
    let key = process.keys.issue("acme").await.unwrap();
    for _ in 0..3 {
        process.keys.verify(key.expose_secret()).await.unwrap();
        process.clock.advance(300 * MILLISECOND);
    }
    process.pass(SECOND);
    let expected = [today(), today() + 600 * MILLISECOND].map(Some);
    assert_eq!(process.uses(&key).await, expected);
}

#[tokio::test]
async fn the_address_of_a_use_is_recorded_unless_addresses_are_hidden() {
    for is_hidden in [false, true] {
        let clock = ManualClock::at(today());
        let mut builder = ApiKeys::builder(MemoryStore::new()).clock(clock.clone());
        if is_hidden {
            builder = builder.log_without_addresses();
        }
        let keys = builder.build().unwrap();
        let mut worker = Box::pin(keys.worker().into_future());
        assert!(is_waiting(&mut worker));
        let key = keys.issue("acme").await.unwrap();
        let answer = support::answer(&keys.layer(), support::from("192.0.2.7", &key));
        assert_eq!(answer.status(), 200);
        clock.advance(ALL);
        assert!(is_waiting(&mut worker));
        let page = keys.list(&KeyQuery::new(), &Paging::first(2)).await;
        let listed = page.unwrap().items.remove(0);
        assert_eq!(listed.last_used_at, Some(today()));
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(listed.last_address, (!is_hidden).then_some(address));
    }
}

#[test]
fn the_time_between_two_records_is_a_second_to_a_day() {
    let every = |time: Duration| Metering::new().record_every(time);
    for short in [Duration::ZERO, MILLISECOND, 999 * MILLISECOND] {
        assert_eq!(every(short), every(SECOND));
    }
    for long in [DAY + SECOND, 7 * DAY, Duration::MAX] {
        assert_eq!(every(long), every(DAY));
    }
    let kept = [
        SECOND,
        SECOND + MILLISECOND,
        30 * SECOND,
        86_399 * SECOND,
        DAY,
    ];
    for (at, time) in kept.iter().enumerate() {
        for other in &kept[..at] {
            assert_ne!(every(*time), every(*other));
        }
    }
    assert_eq!(every(30 * SECOND), Metering::new());
}

/// The processes of a fleet do not record all at once.
#[tokio::test]
async fn records_are_between_80_and_121_percent_of_the_interval_apart() {
    let store = Counting::default();
    let metering = Metering::new().record_every(100 * SECOND);
    let (mut process, plaintexts) = keys_in_use(&store, metering, 1);
    let mut records = Vec::new();
    for second in 1..=3_000 {
        process.keys.verify(&plaintexts[0]).await.unwrap();
        process.pass(SECOND);
        if store.batches.lock().unwrap().len() > records.len() {
            records.push(second);
        }
    }
    // The first record is that of the first use, which does not wait.
    assert_eq!(records[0], 1);
    let apart: Vec<_> = records[1..].windows(2).map(|two| two[1] - two[0]).collect();
    let is_drawn = |apart: &i32| (80..=121).contains(apart);
    assert!(
        apart.iter().all(is_drawn) && is_drawn(&records[1]),
        "{records:?}"
    );
    assert!(apart.len() >= 20, "{} records", apart.len());
    let different: BTreeSet<_> = apart.iter().collect();
    assert!(different.len() > 3, "{apart:?}");
}

/// The batch that was refused is kept, and nothing is added to it.
#[tokio::test]
async fn nothing_is_counted_while_the_store_refuses() {
    let store = Counting::default();
    store.refusals.store(u64::MAX, Ordering::Relaxed);
    let (mut process, plaintexts) = keys_in_use(&store, Metering::new(), 2);
    process.keys.verify(&plaintexts[0]).await.unwrap();
    process.pass(SECOND);
    for _ in 0..5 {
        process.keys.verify(&plaintexts[0]).await.unwrap();
        process.keys.verify(&plaintexts[1]).await.unwrap();
    }
    store.refusals.store(0, Ordering::Relaxed);
    for _ in 0..70 {
        process.pass(SECOND);
    }
    assert_eq!(allowed(&recorded(&store)), 1);
    for plaintext in &plaintexts {
        process.keys.verify(plaintext).await.unwrap();
    }
    process.pass(ALL);
    assert_eq!(allowed(&recorded(&store)), 1 + 2);
}

/// The counts of a worker that was dropped wait for the next one.
#[tokio::test]
async fn nothing_is_counted_without_a_worker() {
    let store = Counting::default();
    let clock = ManualClock::at(today());
    let keys = ApiKeys::builder(store.clone());
    let keys = keys.clock(clock.clone()).build().unwrap();
    let key = keys.issue("acme").await.unwrap();
    let uses = async |times: u32| {
        for _ in 0..times {
            keys.verify(key.expose_secret()).await.unwrap();
        }
    };
    uses(1).await;
    let mut worker = Box::pin(keys.worker().into_future());
    assert!(is_waiting(&mut worker));
    uses(2).await;
    drop(worker);
    uses(4).await;
    let mut worker = Box::pin(keys.worker().into_future());
    assert!(is_waiting(&mut worker));
    uses(8).await;
    clock.advance(ALL);
    assert!(is_waiting(&mut worker));
    assert_eq!(allowed(&recorded(&store)), 2 + 8);
}

/// Accounts whose keys have left the cache while the store was down: a sum has a row for each unit,
/// as the counts of a key have.
#[tokio::test]
async fn batches_of_sums_with_many_units_are_bounded_by_their_rows() {
    const ACCOUNTS: usize = 3_000;
    let store = Counting::default();
    let keys = ApiKeys::builder(store.clone())
        .clock(ManualClock::at(today()))
        .cache(Cache::new().memory(1 << 20))
        .metering(Metering::new().max_keys(100))
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut worker = Box::pin(keys.worker().until(async {
        let _ = stopped.await;
    }));
    assert!(is_waiting(&mut worker));
    let units: Vec<String> = (0..14).map(|unit| format!("unit {unit}")).collect();
    for (number, plaintext) in strangers().take(ACCOUNTS).enumerate() {
        let account = format!("account {number}");
        let record = KeyRecord::imported(KeyDigest::of(&plaintext), account);
        create_in(&store.store, record);
        let caller = keys.verify(&plaintext).await.unwrap();
        for unit in &units {
            caller.count(unit, 1);
        }
    }
    let folded = keys.health().usage.without_key;
    assert!(folded > 1_000, "{folded} requests without a key");
    stop.send(()).unwrap();
    worker.await;
    let batches = store.batches.lock().unwrap().clone();
    let most = batches.iter().map(rows_of).max().unwrap();
    assert!(most <= 4_100, "{most} rows in a batch");
    let usage = recorded(&store);
    assert_eq!(allowed(&usage), ACCOUNTS as u64);
    let counted = usage.iter().flat_map(|it| it.counts.units.iter());
    let counted = counted.filter(|(unit, _)| unit.starts_with("unit "));
    let counted: i64 = counted.map(|(_, count)| count).sum();
    assert_eq!(counted, i64::try_from(ACCOUNTS * units.len()).unwrap());
}

/// Returns the rows of a batch: one for the requests of a key in a period, and one for each unit.
fn rows_of(batch: &UsageBatch) -> usize {
    let rows = batch.usage().iter();
    rows.map(|usage| 1 + usage.counts.units.len()).sum()
}
