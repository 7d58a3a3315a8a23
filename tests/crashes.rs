//! Crashes: a process that writes is killed with `kill -9` at random points of many changes, and so
//! is `PostgreSQL` itself.
//!
//! Nothing that was acknowledged may be lost, no change may be there in part, and the trail and the
//! keys must agree, by one query. Each test kills `CRASH_ROUNDS` times, 3 unless set, on one
//! database that grows by about `CRASH_CHANGES` changes from kill to kill, 100 unless set. The full
//! proof is 100 times 100. `CRASH_SEED` draws the changes of an earlier run again, but the moments
//! of the kills differ.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, unreachable_pub, reason = "each suite uses its part")]
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/processes.rs"]
mod processes;
#[allow(dead_code, reason = "each suite uses its part")]
#[path = "../benches/support/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postgres::Postgres;
use processes::{Process, tell};
use random::Random;
use tower_api_key::key::{KeyDigest, Revocation};
use tower_api_key::store::sqlx::postgres::{PgPool, PgPoolOptions};
use tower_api_key::store::sqlx::{self, Connection, PgConnection, Row, SqliteConnection};
use tower_api_key::store::{
    Action, Actor, Change, KeyQuery, Origin, Paging, PostgresStore, SqliteStore, Step, StoreError,
    StoreErrorKind, TrailReport,
};
use tower_api_key::{KeyId, KeyRecord, ManagedKeyStore};

/// The environment variables that make [`writer`] write: the database and a seed.
const DATABASE: &str = "CRASH_DATABASE";
const WRITER_SEED: &str = "CRASH_WRITER_SEED";

/// The tasks that write at the same time.
const WRITERS: usize = 3;

/// The time within which a writer must make its next change.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time within which a store must write again after the server is back, on a busy machine. The
/// pool by itself pauses for up to 2.6 s between its attempts to connect.
const RECOVERY: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_12_a_process_that_is_killed_loses_nothing_in_sqlite() {
    kill_processes(File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_12_a_process_that_is_killed_loses_nothing_in_postgres() {
    kill_processes(Server::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_12_a_postgres_that_is_killed_loses_nothing() {
    let mut random = random();
    let mut server = Server::new();
    // They are never created again.
    let pool = PgPoolOptions::new().max_connections(5);
    let store = PostgresStore::new(pool.connect(&server.url).await.unwrap());
    store.migrate().await.unwrap();
    let mut proof = Proof::default();
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds() {
        let log = Arc::new(Log::default());
        let writers = spawn_writers(&store, random.next(), &log).await;
        log.wait_for(random.below(changes()), PATIENCE).await;
        tokio::time::sleep(micros(random.below(5_000))).await;
        tokio::task::block_in_place(|| {
            server.postgres.kill();
            server.postgres.restart();
        });
        let is_back = Instant::now();
        // One that began before may have been counted late, so a few more must follow.
        log.wait_for(log.acknowledged() + 2 * WRITERS, RECOVERY)
            .await;
        slowest = slowest.max(is_back.elapsed());
        log.wait_for(changes(), PATIENCE).await;
        log.is_over.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        for (written, is_acknowledged) in log.take() {
            proof.add(written, is_acknowledged);
        }
        proof.check(&server, &store).await;
    }
    proof.print();
    println!("the store wrote again within {slowest:?}");
}

/// The process that is killed. It writes until then; as a test among the others it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer() {
    let Ok(database) = env::var(DATABASE) else {
        return;
    };
    let seed = env::var(WRITER_SEED).unwrap().parse().unwrap();
    if database.starts_with("postgres://") {
        let store = PostgresStore::new(PgPool::connect(&database).await.unwrap());
        store.migrate().await.unwrap();
        write_and_tell(&store, seed).await;
    } else {
        let store = SqliteStore::open(database).await.unwrap();
        store.migrate().await.unwrap();
        write_and_tell(&store, seed).await;
    }
}

/// Writes, and prints a line for each change that is acknowledged.
async fn write_and_tell<S: ManagedKeyStore + Clone>(store: &S, seed: u64) {
    // More than it is given time for; if the parent is gone, the output is closed.
    let most = changes() * 10;
    let tasks = writers(store, seed).await.into_iter().map(|mut writer| {
        tokio::spawn(async move {
            for _ in 0..most {
                let (written, result) = writer.next().await;
                result.unwrap();
                tell(&written.line());
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Kills processes that write, and looks at the database after each.
async fn kill_processes<D: Database>(database: D) {
    let mut random = random();
    let mut proof = Proof::default();
    for round in 0..rounds() {
        let after = (changes() / 2 + random.below(changes())).max(1);
        let mut kills = vec![(after, micros(random.below(5_000)))];
        if round % 4 == 0 {
            // One early: while it starts, opens the database, creates the tables or reads.
            kills.insert(0, (0, micros(random.below(150_000))));
        }
        for (after, pause) in kills {
            let address = database.address();
            let seed = random.next();
            let acknowledged =
                tokio::task::block_in_place(|| write_and_die(&address, seed, after, pause));
            for written in acknowledged {
                proof.add(written, true);
            }
            database.settle().await;
            let store = database.open().await;
            proof.check(&database, &store).await;
        }
    }
    proof.print();
}

/// Starts a process that writes, kills it some time after so many changes, and returns those that
/// were acknowledged.
fn write_and_die(address: &str, seed: u64, after: usize, pause: Duration) -> Vec<Written> {
    let seed = seed.to_string();
    let process = Process::start("writer", &[(DATABASE, address), (WRITER_SEED, &seed)]);
    let mut acknowledged: Vec<String> = (0..after).map(|_| process.next()).collect();
    thread::sleep(pause);
    acknowledged.extend(process.kill());
    acknowledged
        .iter()
        .map(|line| Written::parse(line))
        .collect()
}

/// What a change writes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    change: String,
    events: usize,
    /// The keys, and the version that each one has afterwards.
    keys: BTreeSet<(String, u64)>,
}

impl Written {
    fn of(change: &Change) -> Self {
        let events = change
            .steps()
            .filter(|step| matches!(step, Step::Event { .. }));
        let keys = change
            .records()
            .map(|key| (key.id().to_string(), key.version()));
        Self {
            change: change.id().to_string(),
            events: events.count(),
            keys: keys.collect(),
        }
    }

    fn line(&self) -> String {
        let keys = self
            .keys
            .iter()
            .map(|(key, version)| format!(" {key} {version}"));
        let keys: String = keys.collect();
        format!("{} {}{keys}", self.change, self.events)
    }

    fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let change = words.next().unwrap().to_owned();
        let events = words.next().unwrap().parse().unwrap();
        let mut keys = BTreeSet::new();
        while let Some(key) = words.next() {
            keys.insert((key.to_owned(), words.next().unwrap().parse().unwrap()));
        }
        Self {
            change,
            events,
            keys,
        }
    }
}

/// Makes changes of keys that nobody else changes.
struct Writer<S> {
    store: S,
    random: Random,
    keys: Vec<KeyRecord>,
    /// Keys of which it is not known whether their last change was carried out.
    doubtful: Vec<KeyId>,
}

/// Creates writers, which share the newest keys of a store.
async fn writers<S: ManagedKeyStore + Clone>(store: &S, seed: u64) -> Vec<Writer<S>> {
    let mut random = Random::new(seed);
    let newest = Paging::first(300);
    let listed = store.list(&KeyQuery::new(), &newest).await.unwrap();
    let keys: Vec<KeyRecord> = listed.items.into_iter().map(|key| key.record).collect();
    let writers = (0..WRITERS).map(|number| Writer {
        store: store.clone(),
        random: Random::new(random.next()),
        keys: keys.iter().skip(number).step_by(WRITERS).cloned().collect(),
        doubtful: Vec::new(),
    });
    writers.collect()
}

impl<S: ManagedKeyStore> Writer<S> {
    /// Commits a random change. A failure leaves its keys in doubt.
    async fn next(&mut self) -> (Written, Result<(), StoreError>) {
        let change = self.change();
        let written = Written::of(&change);
        let result = self.store.commit(&change).await;
        match &result {
            Ok(()) => self.keys.extend(change.records().cloned()),
            Err(_) => self.doubtful.extend(change.records().map(KeyRecord::id)),
        }
        (written, result)
    }

    /// Reads the keys that are in doubt. Fails while the store does.
    async fn settle(&mut self) -> Result<(), StoreError> {
        while let Some(id) = self.doubtful.last() {
            let found = self.store.find_committed(id).await?;
            self.keys.extend(found);
            self.doubtful.pop();
        }
        Ok(())
    }

    /// Returns a change of one or more keys, with or without events. Its reason tells how many, and
    /// the name of each key is the id of its last change.
    fn change(&mut self) -> Change {
        let (writes, events) = match self.random.below(100) {
            0 => (150, 1), // more than one statement of SQLite
            1..=25 => (2 + self.random.below(7), 1 + self.random.below(2)),
            26..=45 => (1, 1),
            _ => (1, 0),
        };
        let reason = format!("{writes} {events}");
        let origin = Origin::new(Actor::service("writer")).with_reason(reason);
        let now = SystemTime::now();
        let mut change = Change::new(origin, now);
        let name = change.id().to_string();
        for _ in 0..writes {
            if self.keys.is_empty() || self.random.below(3) == 0 {
                let key = KeyDigest::of(&format!("{:?}", self.random.bytes::<16>()));
                let key = KeyRecord::imported(key, "acme").with_name(name.as_str());
                change = change.create(Action::ISSUED, key).unwrap();
                continue;
            }
            let seen = self.keys.swap_remove(self.random.below(self.keys.len()));
            let next = seen.clone().with_name(name.as_str());
            change = if seen.revoked().is_none() && self.random.below(4) == 0 {
                let next = next.with_revoked(Revocation::new(now));
                change.update(Action::REVOKED, &seen, next).unwrap()
            } else {
                change.update(Action::UPDATED, &seen, next).unwrap()
            };
        }
        for _ in 0..events {
            let event = tower_api_key::store::Event::new("acme.changed", now);
            change = change.add_event(event).unwrap();
        }
        change
    }
}

/// The changes that writers in this process made, and whether they were acknowledged.
#[derive(Default)]
struct Log {
    written: Mutex<Vec<(Written, bool)>>,
    acknowledged: AtomicUsize,
    is_over: AtomicBool,
}

impl Log {
    fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    async fn wait_for(&self, acknowledged: usize, patience: Duration) {
        let start = Instant::now();
        while self.acknowledged() < acknowledged {
            assert!(
                start.elapsed() < patience,
                "{} of {acknowledged} changes are acknowledged in {patience:?}",
                self.acknowledged()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn take(&self) -> Vec<(Written, bool)> {
        std::mem::take(&mut self.written.lock().unwrap())
    }
}

/// Starts tasks that write until it is over, through the loss of the server.
async fn spawn_writers(
    store: &PostgresStore,
    seed: u64,
    log: &Arc<Log>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let writers = writers(store, seed).await.into_iter().map(|mut writer| {
        let log = Arc::clone(log);
        tokio::spawn(async move {
            while !log.is_over.load(Ordering::Relaxed) {
                if writer.settle().await.is_err() {
                    continue;
                }
                let (written, result) = writer.next().await;
                let error = result.err().map(|error| error.kind());
                // Nobody else writes these keys, so there is no conflict, not even with itself.
                assert!(
                    matches!(error, None | Some(StoreErrorKind::Unavailable)),
                    "{error:?} for {written:?}"
                );
                log.written.lock().unwrap().push((written, error.is_none()));
                if error.is_none() {
                    log.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    writers.collect()
}

/// What was acknowledged, and so must be there.
#[derive(Default)]
struct Proof {
    acknowledged: HashMap<String, Written>,
    failed: HashMap<String, Written>,
    checks: usize,
    /// The changes that were found although nobody was told.
    untold: usize,
}

impl Proof {
    fn add(&mut self, written: Written, is_acknowledged: bool) {
        let changes = if is_acknowledged {
            &mut self.acknowledged
        } else {
            &mut self.failed
        };
        assert_eq!(changes.insert(written.change.clone(), written), None);
    }

    /// Checks the whole database.
    async fn check<D: Database>(&mut self, database: &D, store: &D::Store) {
        let (id, key_id, change) = (
            database.hexadecimal("k.id"),
            database.hexadecimal("t.key_id"),
            database.hexadecimal("t.change"),
        );
        // The keys whose trail is not that of each version once, from the first to the last, which
        // left the key as it is; and the trails without a key.
        let disagreement = format!(
            "SELECT {id} FROM {{keys}} AS k \
             LEFT JOIN (SELECT key_id, count(*) AS records, min(version) AS first, \
             max(version) AS last FROM {{trail}} GROUP BY key_id) AS s ON s.key_id = k.id \
             LEFT JOIN {{trail}} AS t ON t.key_id = k.id AND t.version = k.version \
             LEFT JOIN {{uses}} AS u ON u.key_id = k.id \
             WHERE s.first IS DISTINCT FROM 1 OR s.last IS DISTINCT FROM k.version \
             OR s.records IS DISTINCT FROM k.version OR t.digest IS DISTINCT FROM k.head \
             OR {change} IS DISTINCT FROM k.name OR u.key_id IS NULL \
             UNION ALL SELECT {key_id} FROM {{trail}} AS t \
             WHERE t.key_id NOT IN (SELECT id FROM {{keys}})"
        );
        let trail = format!(
            "SELECT {change}, {key_id}, CAST(t.version AS text), t.reason FROM {{trail}} AS t"
        );
        let events = "SELECT id FROM {events}";
        let [disagreement, trail, events] = database.read([&disagreement, &trail, events]).await;
        assert!(disagreement.is_empty(), "{disagreement:?}");

        let mut found: BTreeMap<String, Written> = BTreeMap::new();
        let mut intended: BTreeMap<String, String> = BTreeMap::new();
        for row in &trail {
            let [change, key, version, reason] = &row[..] else {
                panic!("{row:?}")
            };
            let key = (key.to_lowercase(), version.parse().unwrap());
            let change = change.to_lowercase();
            let written = found.entry(change.clone()).or_insert_with(|| Written {
                change: change.clone(),
                events: 0,
                keys: BTreeSet::new(),
            });
            written.keys.insert(key);
            intended.insert(change, reason.clone());
        }
        for row in &events {
            let mut parts = row[0].split('_').skip(1);
            let of = parts.next().and_then(|change| found.get_mut(change));
            of.expect("no event is without its change").events += 1;
        }
        for (change, written) in &found {
            let is = format!("{} {}", written.keys.len(), written.events);
            assert_eq!(is, intended[change], "half of {written:?}");
            if let Some(failed) = self.failed.get(change) {
                assert_eq!(written, failed);
            }
        }
        for (change, written) in &self.acknowledged {
            assert_eq!(found.get(change), Some(written), "it was acknowledged");
        }

        let report = D::verify(store).await;
        assert!(report.is_ok(), "{report:?}");
        assert_eq!(report.records, trail.len() as u64);
        self.checks += 1;
        self.untold = found.len() - self.acknowledged.len();
    }

    fn print(&self) {
        println!(
            "killed and checked {} times: {} changes were acknowledged, {} more carried out",
            self.checks,
            self.acknowledged.len(),
            self.untold
        );
    }
}

/// A database that is looked at from outside.
trait Database {
    type Store: ManagedKeyStore + Clone;

    /// What [`writer`] opens.
    fn address(&self) -> String;

    /// Opens the store, and creates its tables if nobody has.
    async fn open(&self) -> Self::Store;

    async fn verify(store: &Self::Store) -> TrailReport;

    /// Waits until the database has noticed that its client is gone.
    async fn settle(&self);

    /// The expression for the hexadecimal digits of a column, in lower case.
    fn hexadecimal(&self, column: &str) -> String;

    /// Runs queries on one state of the database, and returns the rows. All columns are texts. The
    /// names of tables are in braces.
    async fn read<const N: usize>(&self, queries: [&str; N]) -> [Vec<Vec<String>>; N];
}

/// Implements the reading of rows over a connection.
macro_rules! read {
    ($connection:ident, $queries:ident, $begin:literal, $prefix:literal) => {{
        sqlx::query($begin).execute(&mut $connection).await.unwrap();
        let mut results = [const { Vec::new() }; N];
        for (query, result) in $queries.into_iter().zip(&mut results) {
            let query = query.replace('{', $prefix).replace('}', "");
            let query = sqlx::query(sqlx::AssertSqlSafe(query));
            for row in query.fetch_all(&mut $connection).await.unwrap() {
                let columns = (0..row.len()).map(|at| row.try_get::<String, _>(at).unwrap());
                result.push(columns.collect());
            }
        }
        $connection.close().await.unwrap();
        results
    }};
}

/// SQLite, in a folder that is removed in the end.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        let name = format!("tower-api-key-crashes-{}", std::process::id());
        let folder = env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Database for File {
    type Store = SqliteStore;

    fn address(&self) -> String {
        self.0.join("keys.db").to_str().unwrap().to_owned()
    }

    async fn open(&self) -> SqliteStore {
        let store = SqliteStore::open(self.address()).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    async fn verify(store: &SqliteStore) -> TrailReport {
        store.verify_trail().await.unwrap()
    }

    async fn settle(&self) {}

    fn hexadecimal(&self, column: &str) -> String {
        format!("lower(hex({column}))")
    }

    async fn read<const N: usize>(&self, queries: [&str; N]) -> [Vec<Vec<String>>; N] {
        let mut connection = SqliteConnection::connect(&self.address()).await.unwrap();
        read!(connection, queries, "BEGIN", "api_key_")
    }
}

/// A server of `PostgreSQL` with a database.
struct Server {
    postgres: Postgres,
    url: String,
}

impl Server {
    fn new() -> Self {
        let postgres = Postgres::start();
        let url = postgres.create_database();
        Self { postgres, url }
    }
}

impl Database for Server {
    type Store = PostgresStore;

    fn address(&self) -> String {
        self.url.clone()
    }

    async fn open(&self) -> PostgresStore {
        let store = PostgresStore::new(PgPool::connect(&self.url).await.unwrap());
        store.migrate().await.unwrap();
        store
    }

    async fn verify(store: &PostgresStore) -> TrailReport {
        store.verify_trail().await.unwrap()
    }

    /// A commit that the client had sent is carried out after its death.
    async fn settle(&self) {
        let others = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let start = Instant::now();
        while self.postgres.sql(&self.url, others) != "0" {
            assert!(start.elapsed() < PATIENCE, "the server does not notice");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn hexadecimal(&self, column: &str) -> String {
        format!("encode({column}, 'hex')")
    }

    async fn read<const N: usize>(&self, queries: [&str; N]) -> [Vec<Vec<String>>; N] {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        read!(
            connection,
            queries,
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "tower_api_key."
        )
    }
}

fn rounds() -> usize {
    setting("CRASH_ROUNDS", 3)
}

fn changes() -> usize {
    setting("CRASH_CHANGES", 100)
}

/// A setting from the environment.
fn setting(name: &str, default: usize) -> usize {
    match env::var(name) {
        Err(_) => default,
        Ok(text) => match text.parse() {
            Ok(number) if number > 0 => number,
            _ => panic!("{name} is a number of at least 1, not {text:?}"),
        },
    }
}

/// Returns a generator, and prints its seed.
fn random() -> Random {
    let seed = env::var("CRASH_SEED").map_or_else(
        |_| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            since.as_micros().try_into().unwrap()
        },
        |text| text.parse().expect("CRASH_SEED is a number"),
    );
    println!("CRASH_SEED={seed}");
    Random::new(seed)
}

fn micros(number: usize) -> Duration {
    Duration::from_micros(number as u64)
}
