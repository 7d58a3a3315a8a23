//! The feed of PostgreSQL: notifications make it look at once, and nothing depends on them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, unreachable_pub, reason = "each suite uses its part")]
#[path = "support/postgres.rs"]
mod server;
#[allow(unreachable_pub, reason = "the suite is its only user")]
#[path = "support/wire_proxy.rs"]
mod wire_proxy;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join;
use server::Postgres;
use tower_api_key::key::KeyDigest;
use tower_api_key::store::sqlx::postgres::{
    PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgSslMode,
};
use tower_api_key::store::sqlx::{self, Connection, PgConnection};
use tower_api_key::store::{Action, Actor, Change, ChangeFeed, PostgresStore};
use tower_api_key::{KeyRecord, ManagedKeyStore};
use wire_proxy::WireProxy;

/// The channel of the schema that is used unless another one is set.
const CHANNEL: &str = "tower_api_key.";

/// A change that is known sooner was told of: the feed looks each 250 ms by itself, and each test
/// commits soon after it has looked.
const RUNG: Duration = Duration::from_millis(100);

/// The time in which a change is known in any case.
const POLLED: Duration = Duration::from_secs(1);

/// The time in which a connection that listens is replaced.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server that the tests share, each with a database of its own. The last test stops it.
fn shared() -> Arc<Postgres> {
    static SERVER: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    server.upgrade().unwrap_or_else(|| {
        let started = Arc::new(Postgres::start_fast());
        *server = Arc::downgrade(&started);
        started
    })
}

/// A database, with a store that changes keys.
struct Database {
    url: String,
    server: Arc<Postgres>,
    here: PostgresStore,
}

impl Database {
    async fn new() -> Self {
        let server = shared();
        let url = server.create_database();
        let here = PostgresStore::new(PgPool::connect(&url).await.unwrap());
        here.migrate().await.unwrap();
        Self { url, server, here }
    }

    /// Returns the store of another process.
    async fn there(&self) -> PostgresStore {
        PostgresStore::new(PgPool::connect(&self.url).await.unwrap())
    }

    /// Returns a proxy before the server, and the store of another process behind it, with so many
    /// connections, which are open.
    async fn behind_proxy(&self, connections: u32) -> (WireProxy, PostgresStore) {
        let proxy = WireProxy::to(self.server.port()).await;
        let options: PgConnectOptions = self.url.parse().unwrap();
        let options = options.port(proxy.port()).ssl_mode(PgSslMode::Disable);
        let pool = PgPoolOptions::new()
            .min_connections(connections)
            .max_connections(connections);
        let pool = pool.connect_with(options).await.unwrap();
        (proxy, PostgresStore::new(pool))
    }

    fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.url, sql)
    }

    /// Returns the number of connections that listen.
    fn listeners(&self) -> usize {
        let listeners = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                         AND query LIKE '%; LISTEN %' AND pid <> pg_backend_pid()";
        self.sql(listeners).parse().unwrap()
    }

    async fn until_listeners(&self, number: usize) {
        let begun = Instant::now();
        while self.listeners() != number {
            assert!(begun.elapsed() < PATIENCE, "{}", self.listeners());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn create() -> Change {
    static CREATED: AtomicU32 = AtomicU32::new(0);
    let name = format!("key {}", CREATED.fetch_add(1, Ordering::Relaxed));
    let change = Change::new(Actor::default(), SystemTime::now());
    let record = KeyRecord::imported(KeyDigest::of(&name), "acme");
    change.create(Action::ISSUED, record).unwrap()
}

async fn run(connection: &mut PgConnection, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// Does something while a process waits for changes, and returns how long after that it knows.
async fn known_after(there: &PostgresStore, change: impl Future<Output = ()>) -> Duration {
    let begin = there.changes_since(None, Duration::ZERO).await.unwrap();
    let waiting = there.changes_since(Some(&begin.next), PATIENCE);
    let waiting = async {
        let changes = waiting.await.unwrap();
        assert!(!changes.keys.is_empty() && !changes.gap);
        Instant::now()
    };
    let changing = async {
        // Until it has looked, so that it looks again in 250 ms at the earliest.
        tokio::time::sleep(Duration::from_millis(25)).await;
        change.await;
        Instant::now()
    };
    let (known, changed) = join(waiting, changing).await;
    let after = known.saturating_duration_since(changed);
    assert!(after < POLLED, "{after:?}");
    after
}

/// Returns the median time after which one process knows the changes by another one.
async fn latency(here: &PostgresStore, there: &PostgresStore) -> Duration {
    let mut times = Vec::new();
    for _ in 0..5 {
        let change = async { here.commit(&create()).await.unwrap() };
        times.push(known_after(there, change).await);
    }
    times.sort();
    times[2]
}

/// Waits until changes by one process ring at another one.
async fn until_rung(here: &PostgresStore, there: &PostgresStore) {
    let begun = Instant::now();
    while latency(here, there).await >= RUNG {
        assert!(begun.elapsed() < PATIENCE, "nobody rings");
    }
}

/// What is logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("tower_api_key=info")
            .with_writer(move || writer.clone())
            .with_ansi(false);
        let guard = tracing::subscriber::set_default(subscriber.finish());
        (log, guard)
    }

    fn count(&self, text: &str) -> usize {
        let log = self.0.lock().unwrap();
        String::from_utf8_lossy(&log).matches(text).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const WARNING: &str = "LISTEN does not work here";

#[tokio::test]
async fn a_change_rings_at_other_processes() {
    let database = Database::new().await;
    let there = database.there().await;
    latency(&database.here, &there).await; // until it listens
    let latency = latency(&database.here, &there).await;
    println!("a change is known after {latency:?}");
    assert!(latency < RUNG, "{latency:?}");
    assert_eq!(database.listeners(), 1);
    // A call that does not wait needs nobody who rings, and neither does a change.
    let idle = database.there().await;
    let begin = idle.changes_since(None, PATIENCE).await.unwrap();
    let next = idle.changes_since(Some(&begin.next), Duration::ZERO).await;
    next.unwrap();
    assert_eq!(database.listeners(), 1);
    drop(there);
    database.until_listeners(0).await;
}

/// A ring that comes while the feed looks is for the next look.
#[tokio::test]
async fn a_change_that_is_committed_after_a_later_one_rings() {
    let database = Database::new().await;
    let there = database.there().await;
    until_rung(&database.here, &there).await;
    let mut slow = PgConnection::connect(&database.url).await.unwrap();
    let mut times = Vec::new();
    for number in 0..5 {
        let id = format!("'\\x{number:032}'::bytea");
        let insert = format!(
            "BEGIN; INSERT INTO tower_api_key.trail (change, at, action, key_id, version, account, \
             actor_kind, actor_id, diff, state, digest) VALUES \
             ({id}, 0, 'api_key.revoked', {id}, 1, 'acme', 'unknown', '', '[]', '', ''); \
             NOTIFY \"{CHANNEL}\""
        );
        run(&mut slow, &insert).await;
        let first = async { database.here.commit(&create()).await.unwrap() };
        known_after(&there, first).await;
        let second = async { run(&mut slow, "COMMIT").await };
        times.push(known_after(&there, second).await);
    }
    times.sort();
    println!("changes that were held open are known after {times:?}");
    assert!(times[2] < RUNG, "{times:?}");
}

#[tokio::test]
async fn a_listener_that_is_cut_is_replaced() {
    let database = Database::new().await;
    let there = database.there().await;
    until_rung(&database.here, &there).await;
    for _ in 0..2 {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND query LIKE '%; LISTEN %' \
                   AND pid <> pg_backend_pid()";
        assert_eq!(database.sql(cut), "t");
        let change = async { database.here.commit(&create()).await.unwrap() };
        known_after(&there, change).await;
        until_rung(&database.here, &there).await;
    }
}

/// As behind a firewall that forgets connections.
#[tokio::test]
async fn a_listener_that_is_half_open_is_replaced_after_one_change() {
    let database = Database::new().await;
    let (proxy, there) = database.behind_proxy(2).await;
    until_rung(&database.here, &there).await;
    proxy.lose_listeners();
    let change = async { database.here.commit(&create()).await.unwrap() };
    let after = known_after(&there, change).await;
    assert!(after > RUNG, "nothing was lost: {after:?}");
    proxy.keep_listeners();
    let begun = Instant::now();
    until_rung(&database.here, &there).await;
    let after = begun.elapsed();
    println!("it was replaced after {after:?}");
    assert!(after < Duration::from_secs(15), "{after:?}"); // and not by the test each 30 s
    // The lost one is closed, too. sqlx would ask it to stop, and wait for the answer.
    database.until_listeners(1).await;
}

/// A notification that is late is no reason to listen anew. Where nobody tells of changes, that is
/// tried at longer and longer intervals: another server may be listened to than is looked at.
#[tokio::test]
async fn changes_without_a_notification_make_the_feed_listen_anew_seldom() {
    let database = Database::new().await;
    let (proxy, there) = database.behind_proxy(2).await;
    until_rung(&database.here, &there).await;
    let silent = database.here.clone().without_notify();
    let commit = async |store: &PostgresStore| store.commit(&create()).await.unwrap();
    for _ in 0..6 {
        known_after(&there, commit(&silent)).await;
        known_after(&there, commit(&database.here)).await;
    }
    assert_eq!(proxy.listens(), 1);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        known_after(&there, commit(&silent)).await;
    }
    // After about 1, 3 and 7 seconds.
    let listens = proxy.listens();
    assert!((2..=4).contains(&listens), "{listens}");
    // Who hears something begins anew with short intervals.
    until_rung(&database.here, &there).await;
    let (begun, listens) = (Instant::now(), proxy.listens());
    while proxy.listens() == listens {
        assert!(begun.elapsed() < Duration::from_secs(5));
        known_after(&there, commit(&silent)).await;
    }
}

#[tokio::test]
async fn notifications_that_are_lost_are_warned_of_once() {
    let (log, _guard) = Log::begin();
    let database = Database::new().await;
    let (proxy, there) = database.behind_proxy(2).await;
    proxy.lose_notifications(true);
    let begun = Instant::now();
    while proxy.listens() < 3 {
        assert!(begun.elapsed() < PATIENCE, "{}", proxy.listens());
        let latency = latency(&database.here, &there).await;
        assert!(latency > RUNG, "{latency:?}");
        assert!(log.count(WARNING) <= 1);
    }
    // At once, and then after 2 seconds and after 4.
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(5), "{took:?}");
    assert_eq!(log.count(WARNING), 1);
    proxy.lose_notifications(false);
    until_rung(&database.here, &there).await;
    assert_eq!(log.count("LISTEN works again"), 1);
    assert_eq!(log.count(WARNING), 1);
}

/// As behind `PgBouncer` in transaction mode. To listen there would ring at others, whom it disturbs.
#[tokio::test]
async fn nobody_listens_behind_a_pooler_by_transaction() {
    let (log, _guard) = Log::begin();
    let database = Database::new().await;
    // The same process for all, and another one each time.
    for (number, process) in ["16384", "(1e9 * random())::int"].into_iter().enumerate() {
        let (proxy, there) = database.behind_proxy(2).await;
        proxy.exchange("pg_backend_pid()", process);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let latency = latency(&database.here, &there).await;
            assert!(latency > RUNG, "{latency:?}");
        }
        assert_eq!(log.count(WARNING), number + 1);
        assert_eq!(log.count("PgBouncer"), number + 1);
        assert_eq!(proxy.listens(), 0);
    }
}

#[tokio::test]
async fn a_connection_that_hangs_delays_no_look() {
    let database = Database::new().await;
    let (proxy, there) = database.behind_proxy(1).await;
    proxy.hang(true);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        latency(&database.here, &there).await;
    }
    proxy.hang(false);
    until_rung(&database.here, &there).await;
}

#[tokio::test]
async fn a_pool_of_one_is_left_to_the_application() {
    let database = Database::new().await;
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect(&database.url).await.unwrap();
    let there = PostgresStore::new(pool.clone());
    until_rung(&database.here, &there).await;
    let begin = there.changes_since(None, Duration::ZERO).await.unwrap();
    let waiting = there.changes_since(Some(&begin.next), Duration::from_secs(1));
    let using = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let acquired = tokio::time::timeout(POLLED, pool.acquire()).await;
            acquired.expect("the feed holds the connection").unwrap();
        }
    };
    let (changes, ()) = join(waiting, using).await;
    assert!(changes.unwrap().keys.is_empty());
}

#[tokio::test]
async fn without_notify_changes_are_polled_for() {
    let database = Database::new().await;
    let mut heard = PgListener::connect(&database.url).await.unwrap();
    heard.listen(CHANNEL).await.unwrap();
    let here = database.here.clone().without_notify();
    let there = database.there().await.without_notify();
    let latency = latency(&here, &there).await;
    assert!(latency > RUNG, "{latency:?}");
    assert_eq!(database.listeners(), 0);
    database.sql(&format!("NOTIFY \"{CHANNEL}\", 'the first'"));
    assert_eq!(heard.recv().await.unwrap().payload(), "the first");
}

#[tokio::test]
async fn each_schema_and_prefix_has_a_channel_of_its_own() {
    let database = Database::new().await;
    let (long, prefix) = ("a".repeat(40), "b".repeat(20));
    let names = [
        ("one", ""),
        ("one", "two_"),
        ("one_two", ""),
        (&long, &prefix),
    ];
    let mut heard = PgListener::connect(&database.url).await.unwrap();
    let mut channels = Vec::new();
    let mut stores = Vec::new();
    for (schema, prefix) in names {
        let name = async |store: PostgresStore| {
            let store = store.schema(schema).unwrap();
            if prefix.is_empty() {
                return store;
            }
            store.table_prefix(prefix).unwrap()
        };
        let here = name(database.there().await).await;
        here.migrate().await.unwrap();
        let there = name(database.there().await).await;
        let channel = format!("{schema}.{prefix}");
        heard.listen(&channel).await.unwrap();
        channels.push(channel);
        stores.push((here, there));
    }
    for ((here, _), channel) in stores.iter().zip(&channels) {
        here.commit(&create()).await.unwrap();
        let notification = heard.recv().await.unwrap();
        assert_eq!(
            (notification.channel(), notification.payload()),
            (&**channel, "")
        );
    }
    database.sql("NOTIFY \"one.\", 'the end'");
    assert_eq!(heard.recv().await.unwrap().payload(), "the end");
    // The longest names are not cut.
    let (here, there) = &stores[3];
    until_rung(here, there).await;
}

#[tokio::test]
async fn many_rings_at_once_cost_few_looks() {
    const RINGS: u32 = 500;
    let database = Database::new().await;
    let (proxy, there) = database.behind_proxy(2).await;
    until_rung(&database.here, &there).await;
    let next = there
        .changes_since(None, Duration::ZERO)
        .await
        .unwrap()
        .next;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let before = proxy.statements();
    let begun = Instant::now();
    let waiting = there.changes_since(Some(&next), POLLED);
    let ringing = async {
        for _ in 0..RINGS {
            run(&mut connection, &format!("NOTIFY \"{CHANNEL}\"")).await;
        }
        begun.elapsed()
    };
    let (changes, rung_for) = join(waiting, ringing).await;
    assert!(changes.unwrap().keys.is_empty());
    let looks = (proxy.statements() - before) as u128 / 2;
    let most = rung_for.as_millis() / 5 + 10;
    println!("{RINGS} rings in {rung_for:?}: {looks} looks");
    assert!((5..=most).contains(&looks), "{looks} of {most}");
}

/// Another caller, who cannot listen at the time, looks at each interval.
#[tokio::test]
async fn two_callers_of_one_store_get_each_change() {
    let database = Database::new().await;
    let there = database.there().await;
    until_rung(&database.here, &there).await;
    let change = async || database.here.commit(&create()).await.unwrap();
    let one = Box::pin(known_after(&there, change()));
    let two = Box::pin(known_after(&there, change()));
    let (one, two) = join(one, two).await;
    println!("{one:?} and {two:?}");
}

/// A connection that is not read would fill the queue of notifications in the end.
#[tokio::test]
async fn the_server_ends_a_listener_that_nobody_serves() {
    let database = Database::new().await;
    let version = database.sql("SHOW server_version_num");
    if version.parse::<u32>().unwrap() < 140_000 {
        return; // PostgreSQL 13 does not
    }
    let (proxy, there) = database.behind_proxy(2).await;
    proxy.exchange("'300000'", "'500'");
    latency(&database.here, &there).await;
    database.until_listeners(0).await;
    proxy.exchange("nothing", "");
    until_rung(&database.here, &there).await;
}

#[tokio::test]
async fn calls_that_are_dropped_leave_one_listener() {
    let database = Database::new().await;
    let there = database.there().await;
    let begin = there.changes_since(None, Duration::ZERO).await.unwrap();
    for number in 0..300 {
        let limit = Duration::from_micros(number * 40);
        let call = there.changes_since(Some(&begin.next), PATIENCE);
        let _ = tokio::time::timeout(limit, call).await;
        let clone = there.clone();
        drop(clone);
    }
    until_rung(&database.here, &there).await;
    database.until_listeners(1).await;
    drop(there);
    database.until_listeners(0).await;
}

#[test]
fn a_store_can_be_dropped_after_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (database, there) = runtime.block_on(async {
        let database = Database::new().await;
        let there = database.there().await;
        until_rung(&database.here, &there).await;
        (database, there)
    });
    drop(runtime);
    drop(there);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(database.until_listeners(0));
}

/// The change is more important than that others know of it at once.
#[tokio::test]
async fn a_full_queue_of_notifications_keeps_no_change_back() {
    let database = Database::new().await;
    let (proxy, full) = database.behind_proxy(2).await;
    let schema = "a_schema";
    let full = full.schema(schema).unwrap();
    full.migrate().await.unwrap();
    let there = database.there().await.schema(schema).unwrap();
    // An error of the same kind: a limit of the program.
    proxy.exchange("NOTIFY \"a_schema.\"", "SELECT repeat('a', 2147483647)");
    let latency = latency(&full, &there).await;
    assert!(latency > RUNG, "{latency:?}");
    assert_eq!(
        database.sql(&format!("SELECT count(*) FROM {schema}.keys")),
        "5"
    );
}
