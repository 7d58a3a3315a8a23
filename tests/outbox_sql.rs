//! The outbox in SQLite and PostgreSQL, beyond the conformance suite.
//!
//! `OUTBOX_PENDING` sets how many deliveries wait for one endpoint; 20,000 unless set.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, unreachable_pub, reason = "each suite uses its part")]
#[path = "support/postgres.rs"]
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use server::Postgres;
use tower_api_key::key::KeyDigest;
use tower_api_key::store::sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tower_api_key::store::sqlx::{self, Connection, PgConnection, SqliteConnection};
use tower_api_key::store::{
    Action, Actor, Change, Claim, Delivery, DeliveryQuery, DeliveryState, Endpoint, Event, Once,
    Outbox, Outcome, Paging, PostgresStore, Replay, Settlement, SqliteStore, Start, StoreErrorKind,
    Target,
};
use tower_api_key::{KeyRecord, ManagedKeyStore};

const LEASE: Duration = Duration::from_secs(60);

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

struct Pg {
    url: String,
    server: Arc<Postgres>,
}

impl Pg {
    fn new() -> Self {
        let server = shared();
        let url = server.create_database();
        Self { url, server }
    }

    async fn store(&self, connections: u32) -> PostgresStore {
        let pool = PgPoolOptions::new().max_connections(connections);
        let store = PostgresStore::new(pool.connect(&self.url).await.unwrap());
        store.migrate().await.unwrap();
        store
    }

    fn sql(&self, sql: &str) -> String {
        let sql = sql.replace('{', "tower_api_key.").replace('}', "");
        self.server.sql(&self.url, &sql)
    }
}

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-api-key-outbox-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    async fn store(&self) -> SqliteStore {
        let store = SqliteStore::open(self.0.join("keys.db")).await.unwrap();
        store.migrate().await.unwrap();
        store
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
}

fn change(second: u64) -> Change {
    Change::new(Actor::user("ops@example.com"), at(second))
}

fn event(second: u64) -> Event {
    Event::new("acme.test", at(second)).with_account("acme".to_owned())
}

fn sink(id: &str) -> Endpoint {
    Endpoint::new(id, Target::Sink, at(0))
}

/// Tells events, all in one change.
async fn tell(store: &impl ManagedKeyStore, second: u64, count: u64) {
    let events = (0..count).map(|_| event(second));
    let change = events.fold(change(second), |change, event| {
        change.add_event(event).unwrap()
    });
    store.commit(&change).await.unwrap();
}

fn claim(second: u64, ids: &[String]) -> Claim {
    let mut claim = Claim::new(at(second), LEASE);
    claim.webhooks = false;
    claim.sinks = ids.to_vec();
    claim
}

fn place(delivery: &Delivery) -> (String, String) {
    (delivery.event.id.clone(), delivery.endpoint.id.clone())
}

async fn all_of(store: &impl Outbox, endpoint: &str) -> Vec<(DeliveryState, u64)> {
    let query = DeliveryQuery::new().with_endpoint(endpoint.to_owned());
    let (mut paging, mut all) = (Paging::first(1_000), Vec::new());
    loop {
        let page = store.deliveries(&query, &paging).await.unwrap();
        all.extend(page.items.into_iter().map(|it| (it.state, it.attempts)));
        let Some(next) = page.next else { return all };
        paging = paging.after(next);
    }
}

/// Two processes with four workers each claim 2,000 deliveries of 50 endpoints until none is left.
async fn claims_at_once_are_exclusive<S: ManagedKeyStore + Outbox + Clone>(stores: [S; 2]) {
    const ENDPOINTS: usize = 50;
    const EVENTS: u64 = 40;
    let ids: Vec<String> = (0..ENDPOINTS)
        .map(|number| format!("sink_{number}"))
        .collect();
    for id in &ids {
        stores[0].put_endpoint(&sink(id)).await.unwrap();
    }
    tell(&stores[0], 1, EVENTS).await;
    let workers = (0..8).map(|number: usize| {
        let (store, claim) = (stores[number % 2].clone(), claim(1, &ids));
        tokio::spawn(async move {
            let (mut claimed, mut idle) = (Vec::new(), 0);
            // Nothing may also mean that others claim all that is due at this moment.
            while idle < 20 {
                let deliveries = store.claim(&claim).await.unwrap();
                idle = if deliveries.is_empty() { idle + 1 } else { 0 };
                claimed.extend(deliveries.iter().map(place));
            }
            claimed
        })
    });
    let mut times: BTreeMap<(String, String), u32> = BTreeMap::new();
    for worker in workers.collect::<Vec<_>>() {
        for place in worker.await.unwrap() {
            *times.entry(place).or_default() += 1;
        }
    }
    assert_eq!(times.len(), ENDPOINTS * 40);
    assert!(times.values().all(|times| *times == 1));
    for id in &ids {
        let all = all_of(&stores[1], id).await;
        assert!(all.iter().all(|it| *it == (DeliveryState::Pending, 1)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_at_once_are_exclusive_in_postgres() {
    let pg = Pg::new();
    claims_at_once_are_exclusive([pg.store(4).await, pg.store(4).await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_at_once_are_exclusive_in_sqlite() {
    let folder = Folder::new();
    claims_at_once_are_exclusive([folder.store().await, folder.store().await]).await;
}

fn pending() -> u64 {
    let asked = std::env::var("OUTBOX_PENDING").ok();
    asked.map_or(20_000, |text| text.parse().unwrap())
}

/// The server counts the rows that are read. A claim reads a few of an endpoint, however many wait,
/// and looks at one row of each other endpoint. A page reads what it returns, or what a scan for a
/// filter may look at.
#[tokio::test]
async fn claims_and_pages_read_few_rows_however_many_wait() {
    const ENDPOINTS: i64 = 100;
    // 2,000 are looked at twice, and each is counted in the index and in the table.
    const MOST_OF_PAGE: i64 = 4 * 2_000 + 100;
    let pg = Pg::new();
    pg.store(1).await;
    let pending = pending();
    let fill = format!(
        "INSERT INTO {{endpoints}} (id, version, created_at) \
         SELECT 'sink_' || n, 1, 0 FROM generate_series(1, {ENDPOINTS}) AS n; \
         INSERT INTO {{events}} (id, kind, at, data) \
         SELECT 'msg_' || n, 'acme.test', n, '{{}}' FROM generate_series(1, {pending}) AS n; \
         INSERT INTO {{deliveries}} (event_seq, endpoint_id, state, attempt, step, next_at) \
         SELECT seq, 'sink_1', 'pending', 0, 0, seq FROM {{events}}; \
         INSERT INTO {{deliveries}} (event_seq, endpoint_id, state, attempt, step, settled_at) \
         SELECT seq, 'sink_2', 'delivered', 1, 1, seq FROM {{events}} WHERE seq > 1; \
         INSERT INTO {{deliveries}} (event_seq, endpoint_id, state, attempt, step, next_at) \
         SELECT 1, 'sink_' || n, 'pending', 0, 0, 4000000000000000 \
         FROM generate_series(2, {ENDPOINTS}) AS n"
    );
    pg.sql(&fill.replace("'{}'", "'[]'"));
    // Plans for any parameters, as a pool has them after a while, and for those of the call.
    for (mode, is_analyzed) in [
        ("force_generic_plan", false),
        ("force_custom_plan", false),
        ("force_generic_plan", true),
        ("force_custom_plan", true),
    ] {
        if is_analyzed {
            pg.sql("ANALYZE");
        }
        let options: PgConnectOptions = pg.url.parse().unwrap();
        let options = options.options([("plan_cache_mode", mode)]);
        let pool = PgPoolOptions::new().max_connections(1);
        let pool = pool.connect_with(options).await.unwrap();
        let store = PostgresStore::new(pool.clone());
        let read = async || {
            let flush = "SELECT pg_stat_force_next_flush()";
            sqlx::query(flush).execute(&pool).await.unwrap();
            let read = "SELECT sum(seq_tup_read + COALESCE(idx_tup_fetch, 0)) + \
                        (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes \
                         WHERE relname = 'deliveries') \
                        FROM pg_stat_user_tables WHERE relname = 'deliveries'";
            pg.sql(read).parse::<i64>().unwrap()
        };
        // Nothing is due, then one endpoint has it all.
        let ids = ["sink_1", "sink_2", "sink_7"].map(str::to_owned);
        for (second, expected) in [(0, 0), (2_000_000_000, 4)] {
            let mut claim = claim(0, &ids);
            claim.at = UNIX_EPOCH + Duration::from_secs(second);
            claim.lease = Duration::from_secs(1_000_000_000);
            store.claim(&claim).await.unwrap(); // its first call checks the tables
            let before = read().await;
            let claimed = store.claim(&claim).await.unwrap();
            let rows = read().await - before;
            println!("{mode}, analyzed: {is_analyzed}, {expected} claimed: {rows} rows");
            assert_eq!(claimed.len(), expected);
            // An index counts an entry, and the table its row.
            assert!(rows <= 4 * ENDPOINTS + 100, "{rows} rows for {expected}");
        }
        let of_one = DeliveryQuery::new().with_endpoint("sink_1".to_owned());
        let of_two = DeliveryQuery::new().with_endpoint("sink_2".to_owned());
        let all = DeliveryQuery::new();
        for (query, most) in [
            (all.clone(), 200),
            (of_one.clone(), 200),
            (of_one.clone().with_state(DeliveryState::Failed), 200),
            (of_one.with_state(DeliveryState::Delivered), MOST_OF_PAGE),
            (
                of_two.clone().with_state(DeliveryState::Pending),
                MOST_OF_PAGE,
            ),
            (of_two.with_state(DeliveryState::Delivered), MOST_OF_PAGE),
            (all.with_state(DeliveryState::Failed), MOST_OF_PAGE),
        ] {
            let before = read().await;
            store.deliveries(&query, &Paging::first(50)).await.unwrap();
            let rows = read().await - before;
            println!("{mode}, analyzed: {is_analyzed}, {query:?}: {rows} rows");
            assert!(rows <= most, "{rows} rows for {query:?}");
        }
    }
}

/// Polls a future so often at most, then drops it.
async fn drop_after(polls: u32, future: impl Future) {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 || future.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        left -= 1;
        std::task::Poll::Pending
    })
    .await;
}

/// Calls that are dropped after so many polls, each at another await.
async fn calls_dropped_at_every_await_lose_nothing(store: &(impl ManagedKeyStore + Outbox)) {
    const EVENTS: u64 = 40;
    let ids = ["a".to_owned(), "b".to_owned()];
    for id in &ids {
        store.put_endpoint(&sink(id)).await.unwrap();
    }
    tell(store, 1, EVENTS).await;
    let found = store.claim(&claim(1, &ids[1..])).await.unwrap();
    let query = DeliveryQuery::new();
    for polls in 0..40 {
        let second = 1 + 100 * u64::from(polls);
        let settlement = Settlement::new(&found[0], at(second), Outcome::Delivered);
        let number = format!("c_{polls}");
        drop_after(polls, store.claim(&claim(second, &ids))).await;
        drop_after(polls, store.settle(&settlement)).await;
        drop_after(polls, store.replay("b", Replay::Failed, at(second))).await;
        drop_after(polls, store.put_endpoint(&sink(&number))).await;
        drop_after(polls, store.delete_endpoint(&number)).await;
        drop_after(polls, store.endpoints(None, &Paging::first(5))).await;
        drop_after(polls, store.deliveries(&query, &Paging::first(5))).await;
        drop_after(polls, store.set_announced_until(at(second))).await;
    }
    // What a dropped claim has leased is due after its lease. All are delivered once.
    let mut delivered = BTreeSet::new();
    loop {
        let claimed = store.claim(&claim(1_000_000, &ids)).await.unwrap();
        if claimed.is_empty() {
            break;
        }
        for delivery in claimed {
            let outcome = Settlement::new(&delivery, at(1_000_001), Outcome::Delivered);
            assert!(store.settle(&outcome).await.unwrap());
            assert!(delivered.insert(place(&delivery)));
        }
    }
    for id in &ids {
        let all = all_of(store, id).await;
        assert_eq!(all.len(), usize::try_from(EVENTS).unwrap());
        assert!(all.iter().all(|it| it.0 == DeliveryState::Delivered));
    }
    assert!(
        delivered.len() as u64 >= 2 * EVENTS - 1,
        "{}",
        delivered.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_dropped_at_every_await_lose_nothing_in_postgres() {
    let pg = Pg::new();
    let pool = PgPoolOptions::new().max_connections(2);
    let pool = pool.connect(&pg.url).await.unwrap();
    let store = PostgresStore::new(pool.clone());
    store.migrate().await.unwrap();
    calls_dropped_at_every_await_lose_nothing(&store).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let connection = tokio::time::timeout(Duration::from_secs(2), pool.acquire()).await;
        held.push(connection.expect("the pool is whole").unwrap());
    }
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND state LIKE 'idle in transaction%'";
    assert_eq!(pg.sql(idle), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_dropped_at_every_await_lose_nothing_in_sqlite() {
    let folder = Folder::new();
    calls_dropped_at_every_await_lose_nothing(&folder.store().await).await;
}

/// Changes with the same marks in opposite orders, and each with marks of its own.
async fn rivals_do_not_lock_each_other_out<S: ManagedKeyStore + Clone>(stores: [S; 2]) {
    const ROUNDS: u64 = 20;
    let mut told = 0;
    for round in 0..ROUNDS {
        let commits = (0..8).map(|rival: usize| {
            let store = stores[rival % 2].clone();
            let mut marks: Vec<String> = (0..60).map(|mark| format!("{round} {mark}")).collect();
            marks.push(format!("{round} of {rival}"));
            if rival % 4 < 2 {
                marks.reverse();
            }
            let tell = |change: Change, mark: &String| {
                let once = Once::of([mark.as_str()]);
                change.add_event_once(event(round), once).unwrap()
            };
            let change = marks.iter().fold(change(round), tell);
            tokio::spawn(async move { store.commit(&change).await })
        });
        for commit in commits.collect::<Vec<_>>() {
            commit.await.unwrap().unwrap();
        }
    }
    let mut next = Start::Beginning;
    loop {
        let read = stores[0].events(&next, 1_000).await.unwrap();
        told += read.items.len() as u64;
        if read.is_end {
            break;
        }
        next = Start::After(read.next);
    }
    assert_eq!(told, ROUNDS * (60 + 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rivals_do_not_lock_each_other_out_in_postgres() {
    let pg = Pg::new();
    rivals_do_not_lock_each_other_out([pg.store(4).await, pg.store(4).await]).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(pg.sql(deadlocks), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rivals_do_not_lock_each_other_out_in_sqlite() {
    let folder = Folder::new();
    rivals_do_not_lock_each_other_out([folder.store().await, folder.store().await]).await;
}

/// A change is recognized although its first event, or all of its events, were left out.
async fn a_change_with_events_left_out_is_recognized(store: &impl ManagedKeyStore) {
    let mark = Once::of(["left out"]);
    let first = change(0).add_event_once(event(0), mark).unwrap();
    store.commit(&first).await.unwrap();
    let record = |name: &str| KeyRecord::imported(KeyDigest::of(name), "acme");
    let with_key = |name: &str| {
        let change = change(1).add_event_once(event(1), mark).unwrap();
        change.create(Action::ISSUED, record(name)).unwrap()
    };
    let both = change(1).add_event_once(event(1), mark).unwrap();
    for change in [
        with_key("a"),
        with_key("b").add_event(event(1)).unwrap(),
        both.add_event(event(1)).unwrap(),
        first,
    ] {
        for _ in 0..2 {
            store.commit(&change).await.unwrap();
        }
    }
    let other = store.commit(&with_key("a")).await.unwrap_err();
    assert_eq!(other.kind(), StoreErrorKind::AlreadyExists);
    let events = store.events(&Start::Beginning, 100).await.unwrap();
    assert_eq!(events.items.len(), 3);
}

#[tokio::test]
async fn a_change_with_events_left_out_is_recognized_in_both() {
    a_change_with_events_left_out_is_recognized(&Pg::new().store(2).await).await;
    a_change_with_events_left_out_is_recognized(&Folder::new().store().await).await;
}

/// A purge takes the deliveries of events with them, and leaves marks for two more months.
async fn a_purge_takes_deliveries_and_leaves_marks<S: ManagedKeyStore + Outbox, F>(
    store: &S,
    purge: impl Fn(SystemTime) -> F,
) where
    F: Future<Output = u64>,
{
    const DAY: u64 = 86_400;
    let id = "a".to_owned();
    store.put_endpoint(&sink(&id)).await.unwrap();
    let told = |day: u64| {
        let once = Once::of(["due"]);
        change(day * DAY)
            .add_event_once(event(day * DAY), once)
            .unwrap()
    };
    store.commit(&told(10)).await.unwrap();
    tell(store, 11 * DAY, 3).await;
    let claimed = store
        .claim(&claim(10 * DAY, std::slice::from_ref(&id)))
        .await
        .unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(purge(at(10 * DAY)).await, 0);
    assert_eq!(all_of(store, &id).await.len(), 4);
    assert_eq!(purge(at(11 * DAY)).await, 1);
    assert_eq!(all_of(store, &id).await.len(), 3);
    let settlement = Settlement::new(&claimed[0], at(11 * DAY), Outcome::Delivered);
    assert!(!store.settle(&settlement).await.unwrap());
    // The mark is as old as the event, and is kept until 62 days later.
    for (day, is_told) in [(72, false), (73, true)] {
        purge(at(day * DAY)).await;
        store.commit(&told(day)).await.unwrap();
        let events = store.events(&Start::Beginning, 10).await.unwrap();
        assert_eq!(events.items.len(), usize::from(is_told), "{day}");
    }
}

#[tokio::test]
async fn a_purge_takes_deliveries_and_leaves_marks_in_both() {
    let pg = Pg::new();
    let store = pg.store(2).await;
    let purge = async |before| store.purge_events(before).await.unwrap();
    a_purge_takes_deliveries_and_leaves_marks(&store, purge).await;
    assert_eq!(pg.sql("SELECT count(*) FROM {deliveries}"), "1");
    let folder = Folder::new();
    let store = folder.store().await;
    let purge = async |before| store.purge_events(before).await.unwrap();
    a_purge_takes_deliveries_and_leaves_marks(&store, purge).await;
}

/// An old event is committed while a purge has deleted the deliveries of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_leaves_no_delivery_without_its_event() {
    let pg = Pg::new();
    let store = pg.store(2).await;
    store.put_endpoint(&sink("a")).await.unwrap();
    tell(&store, 1, 1).await;
    let mut other = PgConnection::connect(&pg.url).await.unwrap();
    let begin = "BEGIN; \
                 INSERT INTO tower_api_key.events (id, kind, at, data) VALUES ('b', 'b', 0, '[]'); \
                 INSERT INTO tower_api_key.deliveries \
                 (event_seq, endpoint_id, state, attempt, step, next_at) \
                 SELECT seq, 'a', 'pending', 0, 0, 0 FROM tower_api_key.events WHERE id = 'b'; \
                 SELECT 1 FROM tower_api_key.deliveries ORDER BY event_seq LIMIT 1 FOR UPDATE";
    sqlx::raw_sql(begin).execute(&mut other).await.unwrap();
    tell(&store, 1, 1).await;
    let purging = {
        let store = store.clone();
        tokio::spawn(async move { store.purge_events(at(9)).await.unwrap() })
    };
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock'";
    while pg.sql(waiting) != "1" {
        assert!(!purging.is_finished(), "it does not wait");
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(purging.await.unwrap(), 3);
    let left =
        "SELECT (SELECT count(*) FROM {events}) || ' ' || (SELECT count(*) FROM {deliveries})";
    assert_eq!(pg.sql(left), "0 0");
}

/// A delivery whose event is gone is claimed once, and then no more.
#[tokio::test]
async fn a_delivery_without_its_event_is_given_up() {
    let pg = Pg::new();
    let store = pg.store(2).await;
    store.put_endpoint(&sink("a")).await.unwrap();
    tell(&store, 1, 2).await;
    pg.sql("DELETE FROM {events} WHERE seq = (SELECT min(seq) FROM {events})");
    let ids = ["a".to_owned()];
    let claimed = store.claim(&claim(1, &ids)).await.unwrap();
    assert_eq!(claimed.len(), 1);
    let states = "SELECT string_agg(state || ' ' || attempt, ', ' ORDER BY event_seq) \
                  FROM {deliveries}";
    assert_eq!(pg.sql(states), "failed 1, pending 1");
    let claimed = store.claim(&claim(1_000, &ids)).await.unwrap();
    assert_eq!((claimed.len(), claimed[0].attempt), (1, 2));
    assert_eq!(pg.sql(states), "failed 1, pending 2");
}

/// One row that somebody edited by hand holds up no other.
#[tokio::test]
async fn a_row_that_cannot_be_read_is_left_out_in_sqlite() {
    let folder = Folder::new();
    let store = folder.store().await;
    let ids = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
    for id in &ids {
        store.put_endpoint(&sink(id)).await.unwrap();
    }
    tell(&store, 1, 2).await;
    let path = folder.0.join("keys.db");
    let mut other = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    let damage = "UPDATE api_key_events SET key_id = x'00' WHERE seq = \
                  (SELECT min(seq) FROM api_key_events); \
                  UPDATE api_key_endpoints SET version = -1 WHERE id = 'b'";
    sqlx::raw_sql(damage).execute(&mut other).await.unwrap();
    let claimed = store.claim(&claim(1, &ids)).await.unwrap();
    let to: Vec<&str> = claimed.iter().map(|it| it.endpoint.id.as_str()).collect();
    assert_eq!(to, ["a", "c"]);
    assert!(claimed.iter().all(|it| it.event == claimed[0].event));
    // The damaged event is given up; what an endpoint waits for is claimed when it was repaired.
    let left = async |condition: &str| -> i64 {
        let mut other = SqliteConnection::connect(path.to_str().unwrap())
            .await
            .unwrap();
        let count = format!("SELECT count(*) FROM api_key_deliveries WHERE {condition}");
        let count = sqlx::query_scalar(sqlx::AssertSqlSafe(count));
        count.fetch_one(&mut other).await.unwrap()
    };
    assert_eq!(
        left("state = 'failed' AND cause = 'the event cannot be read'").await,
        3
    );
    assert_eq!(left("state = 'pending'").await, 3);
    assert!(store.claim(&claim(2, &ids)).await.unwrap().is_empty());
    let repair = "UPDATE api_key_endpoints SET version = 1 WHERE id = 'b'";
    sqlx::raw_sql(repair).execute(&mut other).await.unwrap();
    let claimed = store.claim(&claim(1_000, &ids)).await.unwrap();
    assert_eq!(claimed.len(), 3);
    assert!(claimed.iter().all(|it| it.unfinished == 1));
}

/// A deletion was dropped after the endpoint, before its deliveries.
#[tokio::test]
async fn leftovers_of_an_endpoint_are_deleted_with_it_or_by_its_successor() {
    let pg = Pg::new();
    let store = pg.store(2).await;
    let count = || pg.sql("SELECT count(*) FROM {deliveries}");
    for is_deleted_again in [true, false] {
        store.put_endpoint(&sink("a")).await.unwrap();
        tell(&store, 1, 2).await;
        pg.sql("DELETE FROM {endpoints}");
        assert_eq!(count(), "2");
        if is_deleted_again {
            assert!(!store.delete_endpoint("a").await.unwrap());
        } else {
            store.put_endpoint(&sink("a")).await.unwrap();
        }
        assert_eq!(count(), "0");
    }
}

/// An endpoint that is being deleted, when an event for it is committed, leaves no delivery behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_waits_for_the_deletion_of_an_endpoint() {
    let pg = Pg::new();
    let store = pg.store(2).await;
    for id in ["a", "b"] {
        store.put_endpoint(&sink(id)).await.unwrap();
    }
    let mut other = PgConnection::connect(&pg.url).await.unwrap();
    let begin = "BEGIN; DELETE FROM tower_api_key.endpoints WHERE id = 'a'";
    sqlx::raw_sql(begin).execute(&mut other).await.unwrap();
    let telling = {
        let store = store.clone();
        tokio::spawn(async move { tell(&store, 1, 1).await })
    };
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock'";
    while pg.sql(waiting) != "1" {
        assert!(!telling.is_finished(), "it does not wait");
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    telling.await.unwrap();
    let left = pg.sql("SELECT string_agg(endpoint_id, ' ') FROM {deliveries}");
    assert_eq!(left, "b");
}

/// A page with a filter that few deliveries pass is short, and the list comes to its end.
async fn a_filter_that_few_pass_makes_short_pages(store: &(impl ManagedKeyStore + Outbox)) {
    store.put_endpoint(&sink("a")).await.unwrap();
    tell(store, 1, 4_100).await;
    let first = store.claim(&claim(1, &["a".to_owned()])).await.unwrap();
    let settlement = Settlement::new(&first[0], at(2), Outcome::Delivered);
    assert!(store.settle(&settlement).await.unwrap());
    for query in [
        DeliveryQuery::new().with_state(DeliveryState::Delivered),
        DeliveryQuery::new()
            .with_state(DeliveryState::Delivered)
            .with_endpoint("a".to_owned()),
    ] {
        let mut sizes = Vec::new();
        let mut paging = Paging::first(10);
        loop {
            let page = store.deliveries(&query, &paging).await.unwrap();
            sizes.push(page.items.len());
            let Some(next) = page.next else { break };
            paging = paging.after(next);
        }
        assert_eq!(sizes, [0, 0, 1], "{query:?}");
    }
}

#[tokio::test]
async fn a_filter_that_few_pass_makes_short_pages_in_both() {
    a_filter_that_few_pass_makes_short_pages(&Pg::new().store(2).await).await;
    a_filter_that_few_pass_makes_short_pages(&Folder::new().store().await).await;
}

/// Many failed deliveries are replayed in several transactions.
async fn all_that_failed_is_replayed_and_deleted(store: &(impl ManagedKeyStore + Outbox)) {
    const EVENTS: u64 = 1_050;
    let ids = ["a".to_owned(), "b".to_owned()];
    store.put_endpoint(&sink("a")).await.unwrap();
    tell(store, 1, EVENTS - 5).await;
    store.put_endpoint(&sink("b")).await.unwrap();
    tell(store, 1, 5).await;
    let mut claim = claim(1, &ids);
    (claim.most, claim.most_per_endpoint) = (u32::MAX, u32::MAX);
    let mut failed = 0;
    loop {
        let claimed = store.claim(&claim).await.unwrap();
        if claimed.is_empty() {
            break;
        }
        for delivery in claimed {
            let cause = "410 Gone".to_owned();
            let settlement = Settlement::new(&delivery, at(2), Outcome::Failed { cause });
            failed += u64::from(store.settle(&settlement).await.unwrap());
        }
    }
    assert_eq!(failed, EVENTS + 5);
    assert_eq!(
        store.replay("a", Replay::Failed, at(3)).await.unwrap(),
        EVENTS
    );
    assert_eq!(store.replay("a", Replay::Failed, at(3)).await.unwrap(), 0);
    let of_a = all_of(store, "a").await;
    assert!(of_a.iter().all(|it| it.0 == DeliveryState::Pending));
    let of_b = all_of(store, "b").await;
    assert!(of_b.iter().all(|it| it.0 == DeliveryState::Failed));
    assert!(store.delete_endpoint("a").await.unwrap());
    assert!(all_of(store, "a").await.is_empty());
    assert_eq!(all_of(store, "b").await.len(), 5);
}

#[tokio::test]
async fn all_that_failed_is_replayed_and_deleted_in_postgres() {
    all_that_failed_is_replayed_and_deleted(&Pg::new().store(2).await).await;
}

#[tokio::test]
async fn all_that_failed_is_replayed_and_deleted_in_sqlite() {
    all_that_failed_is_replayed_and_deleted(&Folder::new().store().await).await;
}

/// Looking for something to do does not wait for a writer, nor make one wait.
#[tokio::test]
async fn a_claim_of_nothing_takes_no_lock_in_sqlite() {
    let folder = Folder::new();
    let store = folder.store().await.time_limit(Duration::from_secs(1));
    let ids = ["a".to_owned()];
    store.put_endpoint(&sink("a")).await.unwrap();
    tell(&store, 5, 1).await;
    let path = folder.0.join("keys.db");
    let mut other = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    assert!(store.claim(&claim(4, &ids)).await.unwrap().is_empty());
    let late = store.claim(&claim(5, &ids)).await.unwrap_err();
    assert_eq!(late.kind(), StoreErrorKind::Unavailable);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(store.claim(&claim(5, &ids)).await.unwrap().len(), 1);
}

/// Numbers of transactions mean nothing in another server, but times do.
#[tokio::test]
async fn the_time_of_announcements_survives_a_move_to_another_server() {
    let pg = Pg::new();
    let store = pg.store(2).await;
    store.set_announced_until(at(7)).await.unwrap();
    pg.sql("UPDATE {marks} SET number = 7 WHERE name = 'server'");
    let moved = pg.store(2).await;
    assert_eq!(moved.announced_until().await.unwrap(), Some(at(7)));
}

#[tokio::test]
async fn outboxes_of_one_database_have_namespaces_of_their_own() {
    let pg = Pg::new();
    let pool = PgPool::connect(&pg.url).await.unwrap();
    let store = || PostgresStore::new(pool.clone());
    let other = store().schema("other").unwrap();
    let prefixed = store().table_prefix("x_").unwrap();
    let names = [store(), other, prefixed].map(|it| it.namespace());
    assert_eq!(names, ["tower_api_key.", "other.", "tower_api_key.x_"]);
    let store = Folder::new().store().await;
    assert_eq!(store.namespace(), "api_key_");
}
