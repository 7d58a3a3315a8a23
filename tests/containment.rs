//! Containment: a process that revokes all keys of an account is killed with `kill -9` in the
//! middle, several times, and another one completes its work.
//!
//! Each key is revoked once, no other key is, and a process that has cached keys refuses them soon.
//! `CONTAINED_KEYS` sets the keys of the account, 4,000 unless set, and another account has as
//! many. The full proof is 100,000. The speed is printed, and nothing fails on it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, unreachable_pub, reason = "each suite uses its part")]
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/processes.rs"]
mod processes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::env;
use std::future::IntoFuture;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postgres::Postgres;
use processes::Process;
use tower_api_key::key::KeyDigest;
use tower_api_key::manage::{Contained, WorkerHealth};
use tower_api_key::store::sqlx::postgres::PgPool;
use tower_api_key::store::sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tower_api_key::store::sqlx::{self, Row};
use tower_api_key::store::{
    Action, Actor, Event, KeyQuery, Paging, PostgresStore, SqliteStore, Start, TrailQuery,
    TrailReport,
};
use tower_api_key::{ApiKeys, Cache, KeyId, KeyRecord, ManagedKeyStore};

/// The environment variables that make [`container`] contain: the database, and a name for the
/// trail.
const DATABASE: &str = "CONTAINMENT_DATABASE";
const RUN: &str = "CONTAINMENT_RUN";

/// The account whose keys are revoked, and another one.
const ACME: &str = "acme";
const GLOBEX: &str = "globex";

/// The processes that are killed.
const KILLS: u64 = 3;

/// The keys of one commit.
const AT_ONCE: u64 = 500;

/// The keys of each account whose plaintext is known.
const KNOWN: u64 = 7;

/// The time within which a process must make its next commit.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time within which a process that follows the feed must refuse a revoked key.
const FEED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_containment_that_is_killed_and_resumed_revokes_each_key_once_in_sqlite() {
    kill_and_resume(File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_containment_that_is_killed_and_resumed_revokes_each_key_once_in_postgres() {
    kill_and_resume(Server::new()).await;
}

/// The process that is killed. It contains the account; as a test among the others it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn container() {
    let Ok(database) = env::var(DATABASE) else {
        return;
    };
    let run = env::var(RUN).unwrap();
    if database.starts_with("postgres://") {
        let store = PostgresStore::new(PgPool::connect(&database).await.unwrap());
        contain(&keys(store), ACME, &run).await;
    } else {
        let store = SqliteStore::open(database).await.unwrap();
        contain(&keys(store), ACME, &run).await;
    }
}

async fn contain(keys: &ApiKeys, account: &str, run: &str) -> Contained {
    keys.revoke_all()
        .of_account(account)
        .by(Actor::service(run))
        .reason("taken over")
        .await
        .unwrap()
}

async fn kill_and_resume<D: Database>(database: D) {
    let total = contained_keys();
    let store = database.open().await;
    let keys = keys(store.clone());
    let filled = fill(&keys, total).await;

    // Two processes that have cached keys. One follows the feed, and one does not.
    let following = caching(database.open().await);
    let worker = tokio::spawn(following.worker().into_future());
    // From the first answer of the feed on, only the feed outdates what is cached.
    let is_running = || following.health().feed == Some(WorkerHealth::Running);
    until("the feed is followed", is_running).await;
    let without_feed = caching(database.open().await);
    for key in filled.known() {
        for cache in [&following, &without_feed] {
            assert!(cache.verify(&key.secret).await.is_ok());
        }
    }

    let mut by_run = BTreeMap::new();
    let mut before = 0;
    for kill in 1..=KILLS {
        let run = format!("killed {kill}");
        let least = (total * kill / (KILLS + 2)).max(before + 1);
        start_and_kill(&database, &run, least).await;
        let revoked = database.revoked().await;
        assert!(before < revoked && revoked < total, "it is in the middle");
        by_run.insert(run, revoked - before);
        before = revoked;
    }
    assert_eq!(containments(&store).await, [], "none was completed");
    // What was revoked is refused by others, even though nobody has completed it.
    let (revoked, others) = split(&keys, &filled.acme.known).await;
    assert!(!revoked.is_empty() && !others.is_empty(), "in the middle");
    let killed = wait_until_refused(&following, &revoked).await;
    for key in others.into_iter().chain(&filled.globex.known) {
        assert!(following.verify(&key.secret).await.is_ok());
    }

    let begun = Instant::now();
    let contained = contain(&keys, ACME, "resumed").await;
    let took = begun.elapsed();
    let all: Vec<_> = filled.acme.known.iter().collect();
    let resumed = wait_until_refused(&following, &all).await;
    for key in &filled.globex.known {
        assert!(following.verify(&key.secret).await.is_ok());
    }
    for key in filled.known() {
        let is_cached = without_feed.verify(&key.secret).await.is_ok();
        assert!(is_cached, "without the feed, nothing would be refused yet");
    }

    assert_eq!(before + contained.revoked, total);
    assert_eq!(database.revoked().await, total);
    by_run.insert("resumed".to_owned(), contained.revoked);
    check_keys(&keys, &filled).await;
    check_trail(&keys, &filled, &by_run).await;
    let report = D::verify(&store).await;
    assert!(report.is_ok(), "{report:?}");
    assert_eq!((report.keys, report.records), (2 * total, 3 * total));
    let events = containments(&store).await;
    let [event] = &events[..] else {
        panic!("one was completed: {events:?}")
    };
    assert_eq!(event.account.as_deref(), Some(ACME));
    let told = format!("\"revoked\":{}", contained.revoked);
    assert!(event.data.contains(&told), "{event:?}");
    // It can be repeated, and then revokes nothing, and says so.
    assert_eq!(contain(&keys, ACME, "repeated").await.revoked, 0);
    let events = containments(&store).await;
    assert!(events.len() == 2 && events[1].data.contains("\"revoked\":0"));
    worker.abort();

    let begun = Instant::now();
    let undisturbed = contain(&keys, GLOBEX, "undisturbed").await;
    let whole = begun.elapsed();
    assert_eq!(undisturbed.revoked, total);

    let name = D::NAME;
    println!("{name}: killed {KILLS} times; revoked by each: {by_run:?}");
    println!(
        "{name}: resumed and completed in {:.1} s",
        took.as_secs_f64()
    );
    println!("{name}: others refused after the last kill within {killed:?}");
    println!("{name}: others refused after the end within {resumed:?}");
    let seconds = whole.as_secs_f64();
    let speed = u128::from(total) * 1_000 / whole.as_millis().max(1);
    println!("containment on {name}: {total} keys in {seconds:.1} s, {speed} keys/s");
}

/// Starts a process that contains the account, and kills it when at least so many keys are revoked.
async fn start_and_kill<D: Database>(database: &D, run: &str, least: u64) {
    let address = database.address();
    let mut process = Process::start("container", &[(DATABASE, &address), (RUN, run)]);
    let start = Instant::now();
    while database.revoked().await < least {
        assert!(process.is_running(), "it ended by itself");
        assert!(start.elapsed() < PATIENCE, "the process revokes on");
    }
    // Anywhere in the next commit.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let moment = u64::from(since.subsec_micros() % 10_000);
    tokio::time::sleep(Duration::from_micros(moment)).await;
    process.kill();
    database.settle().await;
}

/// The keys in the store.
#[derive(Default)]
struct Filled {
    acme: Account,
    globex: Account,
}

#[derive(Default)]
struct Account {
    ids: HashSet<KeyId>,
    known: Vec<Known>,
}

/// A key that can be presented.
struct Known {
    id: KeyId,
    secret: String,
}

impl Filled {
    fn known(&self) -> impl Iterator<Item = &Known> {
        self.acme.known.iter().chain(&self.globex.known)
    }
}

/// Fills a store with so many keys of each account. Those that can be presented are spread among
/// those that are imported, and the oldest key is one of them: it is revoked last.
async fn fill(keys: &ApiKeys, total: u64) -> Filled {
    let mut filled = Filled::default();
    let imported = total - KNOWN;
    for part in 0..KNOWN {
        for account in [ACME, GLOBEX] {
            let issued = keys.issue(account).await.unwrap();
            let known = Known {
                id: issued.id(),
                secret: issued.expose_secret().to_owned(),
            };
            let account = filled.of(account);
            account.ids.insert(known.id);
            account.known.push(known);
        }
        let numbers = imported * part / KNOWN..imported * (part + 1) / KNOWN;
        let both = move |number| [record(ACME, number), record(GLOBEX, number)];
        let records: Vec<KeyRecord> = numbers.flat_map(both).collect();
        for record in &records {
            filled.of(record.account()).ids.insert(record.id());
        }
        let expected = records.len() as u64;
        assert_eq!(keys.import(records).await.unwrap().created, expected);
    }
    filled
}

impl Filled {
    fn of(&mut self, account: &str) -> &mut Account {
        if account == ACME {
            &mut self.acme
        } else {
            &mut self.globex
        }
    }
}

fn record(account: &str, number: u64) -> KeyRecord {
    let digest = KeyDigest::of(&format!("{account} {number}"));
    KeyRecord::imported(digest, account).with_prefix("sk_live")
}

fn keys<S: ManagedKeyStore>(store: S) -> ApiKeys {
    ApiKeys::builder(store).build().unwrap()
}

/// Another process: it has a cache of its own, whose entries are never too old here.
fn caching<S: ManagedKeyStore>(store: S) -> ApiKeys {
    let cache = Cache::new().max_staleness(Duration::from_secs(24 * 3_600));
    ApiKeys::builder(store).cache(cache).build().unwrap()
}

/// Separates the keys that are revoked in the store from the others.
async fn split<'k>(keys: &ApiKeys, known: &'k [Known]) -> (Vec<&'k Known>, Vec<&'k Known>) {
    let (mut revoked, mut others) = (Vec::new(), Vec::new());
    for key in known {
        let record = keys.find(&key.id).await.unwrap().unwrap();
        let side = match record.revoked() {
            Some(_) => &mut revoked,
            None => &mut others,
        };
        side.push(key);
    }
    (revoked, others)
}

/// Waits until revoked keys are refused, and returns the time.
async fn wait_until_refused(keys: &ApiKeys, revoked: &[&Known]) -> Duration {
    let start = Instant::now();
    for key in revoked {
        while let Ok(caller) = keys.verify(&key.secret).await {
            assert!(start.elapsed() < FEED, "still admitted: {caller:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let took = start.elapsed();
    for key in revoked {
        let refused = keys.verify(&key.secret).await.unwrap_err();
        assert_eq!(refused.code(), "api_key_revoked");
    }
    took
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Checks that the keys of the one account are revoked, and no other is.
async fn check_keys(keys: &ApiKeys, filled: &Filled) {
    let (mut revoked, mut others) = (HashSet::new(), HashSet::new());
    let mut pages = keys.pages(KeyQuery::new());
    while let Some(page) = pages.next().await.unwrap() {
        for key in page {
            let record = key.record;
            let is_revoked = record.revoked().is_some();
            assert_eq!(record.version(), if is_revoked { 2 } else { 1 });
            let side = if is_revoked {
                &mut revoked
            } else {
                &mut others
            };
            assert!(side.insert(record.id()), "listed twice");
        }
    }
    assert!(revoked == filled.acme.ids, "what is meant is revoked");
    assert!(others == filled.globex.ids, "what is not meant is not");
}

/// Checks that the trail tells each revocation once, with the run that made it.
async fn check_trail(keys: &ApiKeys, filled: &Filled, by_run: &BTreeMap<String, u64>) {
    let mut revoked = HashSet::new();
    let mut runs: BTreeMap<String, u64> = BTreeMap::new();
    let mut commits: HashMap<String, u64> = HashMap::new();
    let mut created = 0;
    let mut paging = Paging::first(Paging::MOST);
    loop {
        let page = keys.trail(&TrailQuery::new(), &paging).await.unwrap();
        for record in page.items {
            if record.action != Action::REVOKED {
                assert_eq!(record.version, 1);
                created += 1;
                continue;
            }
            assert_eq!(record.version, 2);
            assert!(revoked.insert(record.key), "revoked twice: {}", record.key);
            *commits.entry(record.change.to_string()).or_default() += 1;
            *runs.entry(record.origin.actor.id).or_default() += 1;
        }
        let Some(next) = page.next else { break };
        paging = paging.after(next);
    }
    assert!(revoked == filled.acme.ids, "the trail agrees with the keys");
    assert_eq!(created, filled.acme.ids.len() + filled.globex.ids.len());
    assert_eq!(&runs, by_run);
    // A commit that was cut off would leave two smaller ones.
    assert!(commits.values().all(|&keys| keys <= AT_ONCE));
    let total = revoked.len() as u64;
    assert_eq!(commits.len() as u64, total.div_ceil(AT_ONCE));
}

/// Returns the events of completed containments.
async fn containments<S: ManagedKeyStore>(store: &S) -> Vec<Event> {
    let mut found = Vec::new();
    let mut start = Start::Beginning;
    loop {
        let page = store.events(&start, 1_000).await.unwrap();
        found.extend(page.items.into_iter().map(|kept| kept.event));
        if page.is_end {
            break;
        }
        start = Start::After(page.next);
    }
    found.retain(|event| event.kind == "api_key.revoked_all");
    found
}

/// A database that is looked at from outside.
trait Database {
    type Store: ManagedKeyStore + Clone;

    const NAME: &'static str;

    /// What [`container`] opens.
    fn address(&self) -> String;

    /// Opens the store, and creates its tables if nobody has.
    async fn open(&self) -> Self::Store;

    async fn verify(store: &Self::Store) -> TrailReport;

    /// Returns the number of keys of the account that are revoked.
    async fn revoked(&self) -> u64;

    /// Waits until the database has noticed that its client is gone.
    async fn settle(&self);
}

/// SQLite, in a folder that is removed in the end.
struct File {
    folder: PathBuf,
    pool: SqlitePool,
}

impl File {
    fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-api-key-containment-{}-{number}", std::process::id());
        let folder = env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let options = SqliteConnectOptions::new().filename(folder.join("keys.db"));
        let pool = SqlitePool::connect_lazy_with(options.read_only(true));
        Self { folder, pool }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("keys.db")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Database for File {
    type Store = SqliteStore;

    const NAME: &'static str = "SQLite";

    fn address(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    async fn open(&self) -> SqliteStore {
        let store = SqliteStore::open(self.path()).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    async fn verify(store: &SqliteStore) -> TrailReport {
        store.verify_trail().await.unwrap()
    }

    async fn revoked(&self) -> u64 {
        let count = "SELECT count(*) FROM api_key_keys \
                     WHERE account = 'acme' AND revoked_at IS NOT NULL";
        let row = sqlx::query(count).fetch_one(&self.pool).await.unwrap();
        row.get::<i64, _>(0).try_into().unwrap()
    }

    async fn settle(&self) {}
}

/// A server of `PostgreSQL` with a database.
struct Server {
    postgres: Postgres,
    url: String,
    pool: PgPool,
}

impl Server {
    /// The name of the killed process in the list of sessions.
    const SESSION: &str = "container";

    fn new() -> Self {
        let postgres = Postgres::start();
        let url = postgres.create_database();
        let pool = PgPool::connect_lazy(&url).unwrap();
        Self {
            postgres,
            url,
            pool,
        }
    }
}

impl Database for Server {
    type Store = PostgresStore;

    const NAME: &'static str = "PostgreSQL";

    fn address(&self) -> String {
        format!("{}?application_name={}", self.url, Self::SESSION)
    }

    async fn open(&self) -> PostgresStore {
        let store = PostgresStore::new(PgPool::connect(&self.url).await.unwrap());
        store.migrate().await.unwrap();
        store
    }

    async fn verify(store: &PostgresStore) -> TrailReport {
        store.verify_trail().await.unwrap()
    }

    async fn revoked(&self) -> u64 {
        let count = "SELECT count(*) FROM tower_api_key.keys \
                     WHERE account = 'acme' AND revoked_at IS NOT NULL";
        let row = sqlx::query(count).fetch_one(&self.pool).await.unwrap();
        row.get::<i64, _>(0).try_into().unwrap()
    }

    /// A commit that the client had sent is carried out after its death.
    async fn settle(&self) {
        let session = Self::SESSION;
        let sessions =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{session}'");
        let start = Instant::now();
        while self.postgres.sql(&self.url, &sessions) != "0" {
            assert!(start.elapsed() < PATIENCE, "the server does not notice");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The keys of the account that is contained: enough that a process can be killed in the middle of
/// their commits.
fn contained_keys() -> u64 {
    const LEAST: u64 = 4_000;
    match env::var("CONTAINED_KEYS") {
        Err(_) => LEAST,
        Ok(text) => match text.parse() {
            Ok(number) if number >= LEAST => number,
            _ => panic!("CONTAINED_KEYS is a number of at least {LEAST}, not {text:?}"),
        },
    }
}

/// Two at once: each key is revoked by one of them, and both together tell the right number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_containments_at_once_revoke_each_key_once() {
    let database = File::new();
    let total = contained_keys();
    let store = database.open().await;
    let (one, other) = (keys(store.clone()), keys(database.open().await));
    let filled = fill(&one, total).await;
    let both = tokio::join!(contain(&one, ACME, "one"), contain(&other, ACME, "other"));
    check_keys(&one, &filled).await;
    assert!(File::verify(&store).await.is_ok());
    assert_eq!(both.0.revoked + both.1.revoked, total);
}

/// Keys that are changed meanwhile are revoked one by one, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_changed_meanwhile_are_revoked_and_counted() {
    const TOTAL: u64 = 1_500;
    let database = File::new();
    let store = database.open().await;
    let (one, other) = (keys(store.clone()), keys(database.open().await));
    let filled = fill(&one, TOTAL).await;
    let ids: Vec<KeyId> = filled.acme.ids.iter().copied().collect();
    let editor = tokio::spawn(async move {
        for id in ids {
            other.suspend(id).await.unwrap();
        }
    });
    let contained = contain(&one, ACME, "one").await;
    editor.abort();
    let mut revoked = 0;
    let mut pages = one.pages(KeyQuery::new().with_account(ACME.to_owned()));
    while let Some(page) = pages.next().await.unwrap() {
        let of_page = page.iter().filter(|key| key.record.revoked().is_some());
        revoked += of_page.count() as u64;
    }
    assert_eq!((contained.revoked, revoked), (TOTAL, TOTAL));
}
