//! Usage when processes die and answers are lost: never too high, and too low by at most what was
//! counted since the last record.
//!
//! `USAGE_SCHEDULES=10000 cargo test --release --test usage_crashes` is the long proof; a schedule
//! is drawn from its number.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::env;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::random::Random;
use support::{is_waiting, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::store::{
    BoxedOutbox, Change, Page, Paging, StoreError, UsageBatch, UsageQuery, UsageRow,
};
use tower_api_key::{ApiKeys, IssuedKey, KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore};

/// The time after which a store in good health has all counts: the interval and a fifth, the time
/// limit of a call, and the longest pause after failures.
const ALL: Duration = Duration::from_secs(36 + 5 + 30 + 1);

/// What happens to a call that records usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    /// The call fails, and nothing is recorded.
    Fails,
    /// The batch is recorded, and the answer is lost.
    LosesAnswer,
    /// There is no answer, and nothing is recorded.
    Hangs,
    /// The batch is recorded, and there is no answer.
    HangsLate,
    /// There is no answer, and the batch is recorded later, perhaps after others.
    IsLate,
}

const FATES: [Fate; 6] = [
    Fate::Good,
    Fate::Fails,
    Fate::LosesAnswer,
    Fate::Hangs,
    Fate::HangsLate,
    Fate::IsLate,
];

#[derive(Clone)]
struct Fateful {
    store: MemoryStore,
    fate: Arc<Mutex<Fate>>,
    late: Arc<Mutex<Vec<UsageBatch>>>,
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
        self.store.commit(change).await
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        None
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let fate = *self.fate.lock().unwrap();
        match fate {
            Fate::Good => self.store.record_usage(batch).await,
            Fate::Fails => Err(StoreError::unavailable("it is down")),
            Fate::Hangs => std::future::pending().await,
            Fate::LosesAnswer => {
                self.store.record_usage(batch).await?;
                Err(StoreError::unavailable("the answer was lost"))
            }
            Fate::HangsLate => {
                self.store.record_usage(batch).await?;
                std::future::pending().await
            }
            Fate::IsLate => {
                self.late.lock().unwrap().push(batch.clone());
                std::future::pending().await
            }
        }
    }

    async fn usage(&self, query: &UsageQuery, at: &Paging) -> Result<Page<UsageRow>, StoreError> {
        self.store.usage(query, at).await
    }
}

struct Process {
    keys: ApiKeys,
    worker: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The requests since the last time at which all counts were recorded for certain.
    uncertain: u64,
}

struct World {
    store: Fateful,
    clock: ManualClock,
    key: IssuedKey,
    processes: Vec<Process>,
    random: Random,
    /// The requests that were admitted, and those that may be lost.
    truth: u64,
    lost: u64,
    checks: u64,
    /// The batches that came late, and were taken.
    late: u64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let store = Fateful {
            store: MemoryStore::new(),
            fate: Arc::new(Mutex::new(Fate::Good)),
            late: Arc::default(),
        };
        let keys = ApiKeys::builder(store.store.clone()).build().unwrap();
        Self {
            key: keys.issue("acme").await.unwrap(),
            store,
            clock: ManualClock::at(today()),
            processes: Vec::new(),
            random: Random::new(seed),
            truth: 0,
            lost: 0,
            checks: 0,
            late: 0,
        }
    }

    fn start(&mut self) {
        let keys = ApiKeys::builder(self.store.clone()).clock(self.clock.clone());
        let keys = keys.build().unwrap();
        let mut worker: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(keys.worker().into_future());
        assert!(is_waiting(&mut worker));
        self.processes.push(Process {
            keys,
            worker,
            uncertain: 0,
        });
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.next() % bound
    }

    async fn step(&mut self) {
        let count = self.processes.len() as u64;
        let one = usize::try_from(self.below(count.max(1))).unwrap();
        match self.below(20) {
            0 if count < 4 => self.start(),
            // Killed: its worker is polled no more, wherever it is.
            1 if count > 0 => self.lost += self.processes.swap_remove(one).uncertain,
            2..=4 => {
                let fate = self.below(FATES.len() as u64);
                self.set(FATES[usize::try_from(fate).unwrap()]);
            }
            5..=13 if count > 0 => {
                let times = 1 + self.below(5);
                for _ in 0..times {
                    let process = &mut self.processes[one];
                    let verified = process.keys.verify(self.key.expose_secret()).await;
                    verified.unwrap();
                    process.uncertain += 1;
                    self.truth += 1;
                }
            }
            14 => self.heal(),
            // A call from before arrives; its process may have sent it again, or be dead.
            15 | 16 => {
                let late = std::mem::take(&mut *self.store.late.lock().unwrap());
                for batch in late {
                    let recorded = self.store.store.record_usage(&batch).await;
                    self.late += u64::from(recorded.is_ok());
                }
            }
            _ => {
                let seconds = self.below(20);
                self.pass(Duration::from_secs(seconds));
            }
        }
        self.check().await;
    }

    fn set(&self, fate: Fate) {
        *self.store.fate.lock().unwrap() = fate;
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        for process in &mut self.processes {
            assert!(is_waiting(&mut process.worker));
        }
    }

    /// Lets the store be in good health until it has all counts.
    fn heal(&mut self) {
        self.set(Fate::Good);
        for _ in 0..ALL.as_secs() * 2 {
            self.pass(Duration::from_secs(1));
        }
        for process in &mut self.processes {
            process.uncertain = 0;
        }
    }

    async fn check(&mut self) {
        let query = UsageQuery::days(0, u32::MAX - 1);
        let page = self
            .store
            .usage(&query, &Paging::first(1_000))
            .await
            .unwrap();
        let recorded: u64 = page.items.iter().map(|row| row.counts.allowed).sum();
        let uncertain: u64 = self.processes.iter().map(|it| it.uncertain).sum();
        self.checks += 1;
        let (truth, least) = (self.truth, self.truth - self.lost - uncertain);
        assert!(recorded <= truth, "{recorded} are recorded of {truth}");
        assert!(
            recorded >= least,
            "{recorded} are recorded, not {least} or more"
        );
    }
}

/// Invariant 11: nothing is counted twice by a retry, a late call or a restart.
#[tokio::test]
async fn invariant_11_usage_is_never_too_high_and_too_low_by_the_last_interval_at_most() {
    let schedules: u64 = env::var("USAGE_SCHEDULES").map_or(200, |count| count.parse().unwrap());
    let (mut truth, mut lost, mut checks, mut late) = (0, 0, 0, 0);
    for seed in 1..=schedules {
        let mut world = World::new(seed).await;
        world.start();
        for _ in 0..200 {
            world.step().await;
        }
        world.heal();
        world.check().await;
        truth += world.truth;
        lost += world.lost;
        checks += world.checks;
        late += world.late;
    }
    println!("{schedules} schedules, {truth} requests, at most {lost} lost, {checks} checks");
    assert!(lost < truth && late > 0);
}
