//! Usage of processes that are killed: never too high, and too low by what was not recorded yet.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tower_api_key::clock::Clock;
use tower_api_key::store::{
    BoxedOutbox, Change, Page, Paging, StoreError, UsageBatch, UsageQuery, UsageRow,
};
use tower_api_key::usage::Metering;
use tower_api_key::{ApiKeys, KeyId, KeyRecord, KeyStore, ManagedKeyStore};

use crate::clock::OtherClock;
use crate::database::{Database, File, Server, with_store};
use crate::processes::{Process, tell};
use crate::{deaths, random, some_micros};

/// The environment variables that make [`counter`] count: the database, the keys, which are
/// separated by spaces, the rounds after which it ends, and the speed of its clock. It records once
/// a second by that clock.
const DATABASE: &str = "DEATHS_USAGE_DATABASE";
const KEYS: &str = "DEATHS_USAGE_KEYS";
const ROUNDS: &str = "DEATHS_USAGE_ROUNDS";
const SPEED: &str = "DEATHS_USAGE_SPEED";

/// The time between two rounds of requests, by the same clock.
const PAUSE: Duration = Duration::from_millis(50);

/// The most microseconds between the beginning of a record and the death: a record takes less.
const MOST_MICROS: usize = 8_000;

/// The processes that count the same keys, and their keys and rounds.
const RIVALS: usize = 10;
const RIVALS_KEYS: usize = 100;
const RIVALS_ROUNDS: u64 = 80;

/// Invariant 11: nothing is counted twice by a retry, a late call or a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_a_process_that_is_killed_counts_nothing_twice_in_sqlite() {
    kill_counters(File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_a_process_that_is_killed_counts_nothing_twice_in_postgres() {
    kill_counters(Server::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_processes_that_count_the_same_keys_in_opposite_orders_count_all_in_sqlite() {
    count_by_rivals(File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_processes_that_count_the_same_keys_in_opposite_orders_count_all_in_postgres() {
    count_by_rivals(Server::new()).await;
}

/// The process that is killed. It counts until then; as a test among the others it does nothing.
#[tokio::test]
async fn counter() {
    if let Ok(database) = env::var(DATABASE) {
        with_store!(database, count);
    }
}

/// Presents the keys again and again. Tells how many requests there will have been after the next
/// round, and what is recorded.
async fn count<S: ManagedKeyStore>(store: S) {
    let presented = env::var(KEYS).unwrap();
    let rounds = env::var(ROUNDS).map_or(u64::MAX, |text| text.parse().unwrap());
    let clock = Arc::new(OtherClock::faster(
        env::var(SPEED).unwrap().parse().unwrap(),
    ));
    let keys = ApiKeys::builder(Telling(store))
        .clock(Arc::clone(&clock))
        .metering(Metering::new().record_every(Duration::from_secs(1)))
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let worker = tokio::spawn(keys.worker().until(async {
        let _ = stopped.await;
    }));
    tokio::task::yield_now().await; // the worker begins to count
    let mut requests = 0;
    for _ in 0..rounds {
        requests += presented.split(' ').count();
        tell(&format!("counts {requests}"));
        for key in presented.split(' ') {
            // A store that is too slow has counted nothing.
            while keys.verify(key).await.is_err() {}
            COUNTED.fetch_add(1, Ordering::Relaxed);
        }
        clock.sleep(PAUSE).await;
    }
    stop.send(()).unwrap();
    worker.await.unwrap();
}

/// The requests of this process that were counted.
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// A store that tells what is recorded.
struct Telling<S>(S);

impl<S: KeyStore> KeyStore for Telling<S> {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.0.find(id).await
    }
}

impl<S: ManagedKeyStore> ManagedKeyStore for Telling<S> {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.0.find_committed(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.0.commit(change).await
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        None
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let counted = COUNTED.load(Ordering::Relaxed);
        tell(&format!("begins {} {counted}", batch.number()));
        let result = self.0.record_usage(batch).await;
        if result.is_ok() {
            let recorded: u64 = batch.usage().iter().map(|it| it.counts.allowed).sum();
            tell(&format!("recorded {recorded}"));
        }
        result
    }

    async fn usage(&self, query: &UsageQuery, at: &Paging) -> Result<Page<UsageRow>, StoreError> {
        self.0.usage(query, at).await
    }
}

/// What the lines of a process tell.
#[derive(Debug, Default)]
struct Told {
    /// At most so many requests.
    counted: u64,
    /// The requests of batches that were acknowledged.
    recorded: u64,
    acknowledged: u32,
    /// A record has begun, and was not acknowledged.
    is_recording: bool,
    /// The number of the last batch, and the requests that were counted when it was made: all that
    /// were not in a batch before are in it, since each key is used all the time.
    number: u64,
    counted_before: u64,
    /// The requests that were counted before the last batch that was acknowledged.
    certain: u64,
}

impl Told {
    fn add(&mut self, line: &str) {
        let number = |text: &str| text.parse::<u64>().unwrap();
        match line.split_once(' ') {
            Some(("counts", requests)) => self.counted = number(requests),
            Some(("recorded", requests)) => {
                self.recorded += number(requests);
                self.acknowledged += 1;
                self.is_recording = false;
                self.certain = self.counted_before;
            }
            Some((_, begins)) => {
                let (batch, counted) = begins.split_once(' ').unwrap();
                self.is_recording = true;
                // One that is sent again is as it was.
                if number(batch) != self.number {
                    (self.number, self.counted_before) = (number(batch), number(counted));
                }
            }
            None => panic!("{line}"),
        }
    }
}

/// Kills processes that count, near the moments at which they record, and looks at the database
/// after each.
async fn kill_counters<D: Database>(database: D) {
    let store = database.open().await;
    let keys = issue(&store, 3).await;
    let address = database.address();
    let mut random = random();
    let (mut before, mut counted, mut most_lost) = (0, 0, 0);
    let (mut in_the_middle, mut untold) = (0, 0);
    for _ in 0..deaths() {
        let variables = [(DATABASE, &*address), (KEYS, &*keys), (SPEED, "10")];
        let process = Process::start("usage::counter", &variables);
        let records = 1 + u32::try_from(random.below(4)).unwrap();
        let mut told = Told::default();
        tokio::task::block_in_place(|| {
            while told.acknowledged < records || !told.is_recording {
                told.add(&process.next());
            }
            std::thread::sleep(some_micros(&mut random, MOST_MICROS));
            process.kill().iter().for_each(|line| told.add(line));
        });
        database.settle().await;
        let now = recorded(&store).await;
        let recorded = now - before;
        assert!(
            told.recorded.max(told.certain) <= recorded && recorded <= told.counted,
            "{recorded} are recorded: {told:?}"
        );
        in_the_middle += u32::from(told.is_recording);
        untold += u32::from(recorded > told.recorded);
        most_lost = most_lost.max(told.counted - recorded);
        counted += told.counted;
        before = now;
    }
    println!(
        "{}: {counted} requests of {} processes; at most {most_lost} lost by one; {in_the_middle} \
         died while they recorded, {untold} of them with a record that they never heard of",
        D::NAME,
        deaths()
    );
}

/// Lets processes count the same keys at the same time, half of them in the opposite order.
async fn count_by_rivals<D: Database>(database: D) {
    let store = database.open().await;
    let keys = issue(&store, RIVALS_KEYS).await;
    let backwards: Vec<&str> = keys.rsplit(' ').collect();
    let orders = [keys.clone(), backwards.join(" ")];
    let (address, rounds) = (database.address(), RIVALS_ROUNDS.to_string());
    let rivals: Vec<Process> = (0..RIVALS)
        .map(|number| {
            let variables = [
                (DATABASE, &*address),
                (KEYS, &*orders[number % 2]),
                (ROUNDS, &*rounds),
                (SPEED, "1"),
            ];
            Process::start("usage::counter", &variables)
        })
        .collect();
    let (mut counted, mut records) = (0, 0);
    tokio::task::block_in_place(|| {
        for rival in rivals {
            let mut told = Told::default();
            rival.end().iter().for_each(|line| told.add(line));
            counted += told.counted;
            records += told.acknowledged;
        }
    });
    database.settle().await;
    assert_eq!(counted, (RIVALS * RIVALS_KEYS) as u64 * RIVALS_ROUNDS);
    assert_eq!(recorded(&store).await, counted, "each is counted once");
    println!(
        "{}: {RIVALS} processes, {counted} requests, {records} records",
        D::NAME
    );
}

/// Issues keys, and returns their texts, separated by spaces.
async fn issue<S: ManagedKeyStore + Clone>(store: &S, count: usize) -> String {
    let keys = ApiKeys::builder(store.clone()).build().unwrap();
    let mut issued = Vec::new();
    for _ in 0..count {
        let key = keys.issue("acme").await.unwrap();
        issued.push(key.expose_secret().to_owned());
    }
    issued.join(" ")
}

/// Returns the requests that are recorded.
async fn recorded<S: ManagedKeyStore>(store: &S) -> u64 {
    let all = UsageQuery::days(0, u32::MAX - 1);
    let page = store.usage(&all, &Paging::first(1_000)).await.unwrap();
    page.items.iter().map(|row| row.counts.allowed).sum()
}
