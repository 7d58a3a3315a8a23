//! The store in PostgreSQL: conformance on a real server, and what bit others.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/histories.rs"]
mod histories;
#[path = "support/hygiene.rs"]
mod hygiene;
#[path = "support/issuing.rs"]
mod issuing;
#[allow(dead_code, reason = "each suite uses its part")]
#[path = "../benches/support/random.rs"]
mod random;
#[allow(dead_code, unreachable_pub, reason = "each suite uses its part")]
#[path = "support/postgres.rs"]
mod server;
#[path = "support/sql_suite.rs"]
mod sql_suite;
#[path = "support/sql_usage.rs"]
mod sql_usage;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use server::Postgres;
use sql_suite::Database;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tower_api_key::key::KeyDigest;
use tower_api_key::store::sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use tower_api_key::store::sqlx::{self, Connection, PgConnection, Row};
use tower_api_key::store::{
    Action, Actor, AuditKey, Change, ChangeFeed, Claim, Cursor, Endpoint, Event, KeyOrder,
    KeyQuery, KeyState, KeyUsage, Outbox, Outcome, Paging, PostgresStore, Replay, Settlement,
    Start, StoreError, StoreErrorKind, Target, TrailReport, UsageBatch, UsagePeriod, UsageQuery,
    UsageRow,
};
use tower_api_key::{ApiKeys, KeyId, KeyRecord, KeyStore, ManagedKeyStore, conformance};

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
    store: PostgresStore,
    pool: PgPool,
    url: String,
    server: Arc<Postgres>,
}

impl Pg {
    async fn new() -> Self {
        Self::with_pool(5).await
    }

    /// Creates a database on a server where no other test has a transaction open.
    async fn alone() -> Self {
        Self::on(Arc::new(Postgres::start_fast()), 5).await
    }

    async fn with_pool(connections: u32) -> Self {
        Self::on(shared(), connections).await
    }

    async fn on(server: Arc<Postgres>, connections: u32) -> Self {
        let url = server.create_database();
        let pool = PgPoolOptions::new().max_connections(connections);
        let pool = pool.connect(&url).await.unwrap();
        let store = PostgresStore::new(pool.clone());
        store.migrate().await.unwrap();
        Self {
            store,
            pool,
            url,
            server,
        }
    }

    /// The sessions of other connections that are in a transaction and do nothing.
    fn idle_in_transaction(&self) -> String {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND state LIKE 'idle in transaction%'";
        self.server.sql(&self.url, query)
    }
}

impl Database for Pg {
    type Store = PostgresStore;

    fn store(&self) -> &PostgresStore {
        &self.store
    }

    fn with_audit_key(store: PostgresStore, key: AuditKey) -> PostgresStore {
        store.audit_key(key)
    }

    async fn verify(store: &PostgresStore) -> Result<TrailReport, StoreError> {
        store.verify_trail().await
    }

    async fn purge_usage(store: &PostgresStore, before: SystemTime) -> u64 {
        store.purge_usage(before).await.unwrap()
    }

    async fn purge_events(store: &PostgresStore, before: SystemTime) -> Result<u64, StoreError> {
        store.purge_events(before).await
    }

    async fn purge(store: &PostgresStore, before: SystemTime) -> Result<u64, StoreError> {
        store.purge_trail(before).await
    }

    async fn sql(&self, statement: &str) -> Option<String> {
        let statement = statement.replace('{', "tower_api_key.").replace('}', "");
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let row = sqlx::query(sqlx::AssertSqlSafe(statement));
        let row = row.fetch_optional(&mut connection).await.unwrap()?;
        match row.try_get::<Option<String>, _>(0) {
            Ok(text) => text,
            Err(_) => row
                .try_get::<Option<i64>, _>(0)
                .unwrap()
                .map(|it| it.to_string()),
        }
    }

    fn bytes(bytes: &[u8]) -> String {
        let digits = sql_suite::hexadecimal(bytes);
        format!("'\\x{digits}'::bytea")
    }
}

fn record(name: &str) -> KeyRecord {
    KeyRecord::imported(KeyDigest::of(name), "acme").with_name(name)
}

fn create(name: &str) -> Change {
    let change = Change::new(Actor::default(), SystemTime::now());
    change.create(Action::ISSUED, record(name)).unwrap()
}

#[tokio::test]
async fn the_postgres_store_passes_the_conformance_suites() {
    let pg = Pg::new().await;
    conformance::managed_key_store(&pg.store).await;
    conformance::change_feed(&pg.store, &pg.store).await;
    conformance::outbox(&pg.store).await;
    // As another process sees it.
    let other = PostgresStore::new(PgPool::connect(&pg.url).await.unwrap());
    conformance::managed_key_store(&other).await;
    conformance::change_feed(&other, &pg.store).await;
    conformance::outbox(&other).await;
}

#[tokio::test]
async fn a_pool_of_one_is_enough() {
    let pg = Pg::with_pool(1).await;
    conformance::managed_key_store(&pg.store).await;
    conformance::change_feed(&pg.store, &pg.store).await;
    conformance::outbox(&pg.store).await;
    assert!(pg.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test]
async fn invariant_12_edits_of_the_trail_and_of_keys_are_found() {
    sql_suite::edits_are_found(Pg::new).await;
    sql_suite::exchanged_records_are_found(Pg::new().await).await;
}

#[tokio::test]
async fn a_purge_leaves_a_sealed_stub() {
    sql_suite::a_purge_leaves_a_sealed_stub(Pg::new().await).await;
}

#[tokio::test]
async fn a_change_that_is_committed_again_is_recognized() {
    sql_suite::a_change_that_is_committed_again_is_recognized(Pg::new().await).await;
}

#[tokio::test]
async fn invariant_10_usage_changes_nothing_but_usage() {
    sql_suite::usage_changes_nothing_but_usage(Pg::new().await).await;
}

#[tokio::test]
async fn the_usage_of_days_that_are_over_is_purged() {
    sql_suite::old_usage_is_purged(Pg::new().await).await;
}

#[tokio::test]
async fn invariant_12_an_edit_is_not_covered_by_the_next_change() {
    sql_suite::an_edit_is_not_covered_by_the_next_change(Pg::new).await;
    sql_suite::a_key_is_not_put_back_to_its_stub(Pg::new().await).await;
}

#[tokio::test]
async fn purges_at_once_do_no_harm() {
    sql_suite::purges_at_once_do_no_harm(Pg::new().await).await;
}

#[tokio::test]
async fn a_key_that_moves_is_listed_with_its_account() {
    sql_suite::a_key_that_moves_is_listed_with_its_account(Pg::new().await).await;
}

#[tokio::test]
async fn invariant_12_trail_and_state_agree_after_random_histories() {
    let database = Pg::new().await;
    for number in 0..4 {
        histories::live(database.store.clone(), number, 150).await;
    }
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_is_exact() {
    let database = Pg::new().await;
    issuing::a_cap_is_exact(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_issues_one_key() {
    let database = Pg::new().await;
    issuing::a_repeated_request_issues_one_key(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reissue_fits_under_the_cap() {
    let database = Pg::new().await;
    issuing::a_reissue_fits_under_the_cap(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test]
async fn idle_keys_are_ended() {
    let database = Pg::new().await;
    hygiene::idle_keys_are_ended(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test]
async fn dead_keys_are_purged() {
    let database = Pg::new().await;
    hygiene::dead_keys_are_purged(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test]
async fn what_ends_soon_or_never_is_listed() {
    let database = Pg::new().await;
    hygiene::what_ends_soon_or_never_is_listed(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_purged_key_leaves_its_trail_and_is_not_created_again() {
    sql_suite::a_purged_key_leaves_its_trail_and_is_not_created_again(Pg::new().await).await;
}

#[tokio::test]
async fn events_are_purged_and_the_gap_is_told() {
    // A snapshot with an open transaction may tell of a gap in vain.
    sql_suite::events_are_purged_and_the_gap_is_told(Pg::alone().await).await;
}

#[tokio::test]
async fn a_view_shows_keys_to_people() {
    sql_suite::a_view_shows_keys_to_people(Pg::new().await).await;
}

#[tokio::test]
async fn texts_that_cannot_be_stored_are_in_no_list() {
    sql_suite::texts_that_cannot_be_stored_are_in_no_list(Pg::new().await).await;
}

#[tokio::test]
async fn a_version_that_the_trail_has_already_is_an_error() {
    sql_suite::a_version_that_the_trail_has_already_is_an_error(Pg::new().await).await;
}

#[tokio::test]
async fn calls_dropped_at_every_await_leave_the_store_whole() {
    sql_suite::calls_dropped_at_every_await_leave_the_store_whole(Pg::new().await).await;
}

#[tokio::test]
async fn invariant_11_a_batch_that_is_dropped_at_any_await_is_recorded_once() {
    let database = Pg::new().await;
    sql_usage::a_batch_that_is_dropped_at_any_await_is_recorded_once(&database.store).await;
}

#[tokio::test]
async fn the_address_of_a_use_is_kept() {
    sql_usage::the_address_of_a_use_is_kept(&Pg::new().await.store).await;
}

#[tokio::test]
async fn many_keys_are_imported_in_one_change() {
    sql_suite::many_keys_are_imported_in_one_change(Pg::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rivals_do_not_lock_each_other_out() {
    sql_suite::rivals_do_not_lock_each_other_out(Pg::new().await, 200).await;
}

#[tokio::test]
async fn a_change_is_known_elsewhere_within_a_second() {
    let pg = Pg::new().await;
    let open = async || PostgresStore::new(PgPool::connect(&pg.url).await.unwrap());
    sql_suite::a_change_is_known_elsewhere_within_a_second::<Pg>(&open).await;
}

/// Neither the feed nor the events miss a change that is committed after a later one.
#[tokio::test]
async fn changes_that_overlap_are_neither_missed_nor_repeated() {
    let pg = Pg::new().await;
    let begin = pg
        .store
        .changes_since(None, Duration::ZERO)
        .await
        .unwrap()
        .next;
    let end = pg.store.events(&Start::Now, 1).await.unwrap().next;
    // A transaction that takes its numbers early, and commits late.
    let mut slow = PgConnection::connect(&pg.url).await.unwrap();
    let id = Pg::bytes(record("slow").id().as_bytes());
    for statement in [
        "BEGIN",
        &format!(
            "INSERT INTO tower_api_key.trail (change, at, action, key_id, version, account, \
             actor_kind, actor_id, diff, state, digest) VALUES \
             ({id}, 0, 'api_key.issued', {id}, 1, 'acme', 'unknown', '', '[]', '', '')"
        ),
        "INSERT INTO tower_api_key.events (id, kind, at, data) VALUES ('slow', 'slow', 0, '{}')",
    ] {
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()));
        statement.execute(&mut slow).await.unwrap();
    }
    let fast = create("fast")
        .add_event(Event::new("fast", SystemTime::now()))
        .unwrap();
    pg.store.commit(&fast).await.unwrap();
    let first = pg
        .store
        .changes_since(Some(&begin), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(first.keys.len(), 1);
    let first_events = pg.store.events(&Start::After(end), 10).await.unwrap();
    assert_eq!(first_events.items.len(), 1);
    sqlx::raw_sql("COMMIT").execute(&mut slow).await.unwrap();
    let second = pg
        .store
        .changes_since(Some(&first.next), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(second.keys.len(), 1);
    assert_eq!(second.keys[0].id, record("slow").id());
    let second_events = pg
        .store
        .events(&Start::After(first_events.next), 10)
        .await
        .unwrap();
    assert_eq!(second_events.items.len(), 1);
    assert_eq!(second_events.items[0].id, "slow");
    let third = pg
        .store
        .changes_since(Some(&second.next), Duration::ZERO)
        .await
        .unwrap();
    assert!(third.keys.is_empty() && !third.gap);
}

/// A dump that was restored into another server: the numbers of its transactions mean nothing there.
#[tokio::test]
async fn tables_restored_from_another_server_are_adapted() {
    let pg = Pg::new().await;
    let event = Event::new("acme.test", SystemTime::now());
    pg.store
        .commit(&create("key").add_event(event).unwrap())
        .await
        .unwrap();
    let cursor = pg.store.events(&Start::Beginning, 10).await.unwrap().next;
    pg.sql("UPDATE {trail} SET xid = '9000000000000'").await;
    pg.sql("UPDATE {events} SET xid = '9000000000000'").await;
    pg.sql("UPDATE {marks} SET number = 7 WHERE name = 'server'")
        .await;
    let restored = PostgresStore::new(pg.pool.clone());
    let error = restored.find(&record("key").id()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    restored.migrate().await.unwrap();
    assert!(restored.find(&record("key").id()).await.unwrap().is_some());
    // Each event is read once again, and each change is no news.
    let begin = restored.changes_since(None, Duration::ZERO).await.unwrap();
    let changes = restored
        .changes_since(Some(&begin.next), Duration::ZERO)
        .await
        .unwrap();
    assert!(changes.keys.is_empty() && !changes.gap);
    let events = restored.events(&Start::Beginning, 10).await.unwrap();
    assert_eq!(events.items.len(), 1);
    let later = restored
        .events(&Start::After(events.next), 10)
        .await
        .unwrap();
    assert!(later.items.is_empty() && later.is_end);
    // A cursor of the other server is refused.
    let mut parts: Vec<&str> = cursor.as_str().split('-').collect();
    parts[1] = "7";
    let foreign = Cursor::new(parts.join("-"));
    let error = restored
        .events(&Start::After(foreign.clone()), 10)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::InvalidCursor);
    assert!(
        restored
            .changes_since(Some(&foreign), Duration::ZERO)
            .await
            .unwrap()
            .gap
    );
}

/// Ten nodes record the same keys, each in an order of its own, while the keys change and go. None
/// is in a deadlock, no first use is told twice, and the sums are exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_record_the_same_keys_do_not_wait_for_each_other_in_a_circle() {
    const NODES: u8 = 10;
    const BATCHES: u64 = 12;
    const KEYS: usize = 150;
    let pg = Pg::new().await;
    let keys = ApiKeys::builder(pg.store.clone()).build().unwrap();
    let mut ids = Vec::new();
    for _ in 0..KEYS {
        ids.push(keys.issue("acme").await.unwrap().id());
    }
    let deadlocks =
        "SELECT deadlocks::text FROM pg_stat_database WHERE datname = current_database()";
    let before: String = sqlx::query_scalar(deadlocks)
        .fetch_one(&pg.pool)
        .await
        .unwrap();
    let nodes = (1..=NODES).map(|node| {
        let (url, mut ids) = (pg.url.clone(), ids.clone());
        tokio::spawn(async move {
            let pool = PgPoolOptions::new()
                .max_connections(2)
                .connect(&url)
                .await
                .unwrap();
            let store = PostgresStore::new(pool);
            for number in 1..=BATCHES {
                ids.rotate_left(usize::from(node) * 7);
                if number % 2 == 0 {
                    ids.reverse();
                }
                let usage = ids.iter().map(|id| {
                    let day = UsagePeriod::Day(u32::try_from(number % 3).unwrap());
                    let mut usage = KeyUsage::new(*id, "acme", day).used_at(SystemTime::now());
                    usage.counts.allowed = 1;
                    usage.counts.units = [("tokens".to_owned(), 3)].into();
                    usage
                });
                let batch = UsageBatch::new([node; 16], number, usage).unwrap();
                for _ in 0..2 {
                    store.record_usage(&batch).await.unwrap();
                }
            }
        })
    });
    let nodes: Vec<_> = nodes.collect();
    for id in ids.iter().step_by(10) {
        keys.suspend(*id).await.unwrap();
        keys.resume(*id).await.unwrap();
    }
    keys.revoke_all().of_account("acme").await.unwrap();
    for node in nodes {
        node.await.unwrap();
    }
    let after: String = sqlx::query_scalar(deadlocks)
        .fetch_one(&pg.pool)
        .await
        .unwrap();
    assert_eq!(before, after);
    let query = UsageQuery::days(0, 9);
    let page = keys_usage(&pg.store, &query).await;
    let allowed: u64 = page.iter().map(|row| row.counts.allowed).sum();
    let tokens: i64 = page.iter().map(|row| row.counts.units["tokens"]).sum();
    let expected = u64::from(NODES) * BATCHES * KEYS as u64;
    assert_eq!(
        (allowed, tokens),
        (expected, i64::try_from(expected * 3).unwrap())
    );
    let told = pg.store.events(&Start::Beginning, 100_000).await.unwrap();
    let first = told
        .items
        .iter()
        .filter(|kept| kept.event.kind == tower_api_key::events::kinds::API_KEY_FIRST_USED);
    assert_eq!(first.count(), KEYS);
}

async fn keys_usage(store: &PostgresStore, query: &UsageQuery) -> Vec<UsageRow> {
    let page = store.usage(query, &Paging::first(1_000)).await.unwrap();
    assert!(page.next.is_none());
    page.items
}

/// A role with the rights to rows only, as a service should have.
#[tokio::test]
async fn a_role_without_rights_to_create_migrates_nothing_and_works() {
    const DAY: Duration = Duration::from_secs(86_400);
    let pg = Pg::new().await;
    let role = format!("service_{}", pg.url.rsplit('/').next().unwrap());
    let grants = include_str!("../src/guide/stores.rs");
    let (_, grants) = grants.split_once("//! GRANT USAGE").unwrap();
    let (grants, _) = grants.split_once("//! ```").unwrap();
    let grants = format!("GRANT USAGE{grants}");
    let grants = grants.replace("//! ", "").replace("service", &role);
    let [base, for_deletions, for_purges] = grants.split("-- Only ").collect::<Vec<_>>()[..] else {
        panic!("three parts: {grants}");
    };
    let grant = |sql: &str| {
        pg.server
            .sql(&pg.url, &sql.replace("for a role", "-- for a role"))
    };
    grant(&format!("CREATE ROLE {role} LOGIN"));
    grant(base);
    let options: PgConnectOptions = pg.url.parse().unwrap();
    let pool = PgPool::connect_with(options.username(&role)).await.unwrap();
    let store = PostgresStore::new(pool);
    store.migrate().await.unwrap();

    let sink = Endpoint::new("a", Target::Sink, UNIX_EPOCH);
    store.put_endpoint(&sink).await.unwrap();
    store.put_endpoint(&sink.with_version(2)).await.unwrap();
    let key = KeyRecord::imported(KeyDigest::of("a"), "acme");
    let mut usage = KeyUsage::new(key.id(), "acme", UsagePeriod::Day(100));
    usage = usage.used_at(UNIX_EPOCH + 100 * DAY);
    usage.counts.allowed = 1;
    let change = Change::new(Actor::service("test"), UNIX_EPOCH);
    let change = change.create(Action::ISSUED, key).unwrap();
    let change = change.add_event(Event::new("acme.test", UNIX_EPOCH));
    store.commit(&change.unwrap()).await.unwrap();
    let mut claim = Claim::new(UNIX_EPOCH, DAY);
    claim.sinks = vec!["a".to_owned()];
    let claimed = store.claim(&claim).await.unwrap();
    let failed = Outcome::Failed {
        cause: "by hand".to_owned(),
    };
    let settlement = Settlement::new(&claimed[0], UNIX_EPOCH, failed);
    assert!(store.settle(&settlement).await.unwrap());
    let replayed = store.replay("a", Replay::Failed, UNIX_EPOCH).await.unwrap();
    assert_eq!(replayed, 1);
    // The second deletes old numbers of nodes.
    for node in [1, 2] {
        let batch = UsageBatch::new([node; 16], 1, [usage.clone()]).unwrap();
        store.record_usage(&batch).await.unwrap();
    }
    store.set_announced_until(UNIX_EPOCH).await.unwrap();

    let error = store.delete_endpoint("a").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    grant(for_deletions);
    assert!(store.delete_endpoint("a").await.unwrap());
    conformance::outbox(&store).await;
    let error = store.purge_events(SystemTime::now()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    grant(for_purges);
    store.purge_events(SystemTime::now()).await.unwrap();
    conformance::managed_key_store(&store).await;
    let error = store.purge_trail(SystemTime::now()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
}

/// The row of a node is deleted by a later start, unless it was used within 30 days.
#[tokio::test]
async fn numbers_of_nodes_that_are_gone_are_deleted() {
    const DAY: Duration = Duration::from_secs(86_400);
    let pg = Pg::new().await;
    let key = KeyRecord::imported(KeyDigest::of("a"), "acme");
    let record = async |node: u8, number: u64, day: u32| {
        let usage = KeyUsage::new(key.id(), "acme", UsagePeriod::Day(day));
        let mut usage = usage.used_at(UNIX_EPOCH + day * DAY);
        usage.counts.allowed = 1;
        let batch = UsageBatch::new([node; 16], number, [usage]).unwrap();
        pg.store.record_usage(&batch).await.unwrap();
    };
    let nodes = || {
        let nodes = "SELECT string_agg(CAST(get_byte(node, 0) AS text), ' ' ORDER BY node) \
                     FROM tower_api_key.flushes";
        pg.server.sql(&pg.url, nodes)
    };
    let age = |days: u64| {
        let aged = format!("UPDATE tower_api_key.flushes SET at = at - {days} * 86400000000");
        pg.server.sql(&pg.url, &aged)
    };
    record(1, 1, 100).await;
    record(2, 1, 100).await;
    age(29);
    record(2, 2, 100).await;
    record(3, 1, 100).await;
    assert_eq!(nodes(), "1 2 3");
    age(2);
    record(2, 3, 100).await;
    assert_eq!(
        nodes(),
        "1 2 3",
        "only the first batch of a node deletes some"
    );
    // By the clock of the database, however far ahead that of a process is.
    record(4, 1, 100_000).await;
    assert_eq!(nodes(), "2 3 4");
}

/// The server counts the rows that are read. A page over all accounts reads those of its own
/// accounts, however many follow, and however long they have been there.
#[tokio::test]
async fn a_report_over_all_accounts_reads_few_rows_for_a_page() {
    const PAGE: u32 = 1_000;
    let pg = Pg::with_pool(1).await;
    let fill = "INSERT INTO tower_api_key.usage (account, hours, begins, key_id, environment, unit, \
                lineage, allowed, limited, refused, units) \
                SELECT 'acme ' || account, 24, day * 24, '\\x61', '', '', '\\x61', 1, 0, 0, 0 \
                FROM generate_series(1, 2000) AS account, generate_series(1, 90) AS day";
    pg.server.sql(&pg.url, fill);
    for (mode, is_analyzed) in [
        ("force_generic_plan", false),
        ("force_custom_plan", false),
        ("force_generic_plan", true),
        ("force_custom_plan", true),
    ] {
        if is_analyzed {
            pg.server.sql(&pg.url, "ANALYZE");
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
                         WHERE relname = 'usage') \
                        FROM pg_stat_user_tables WHERE relname = 'usage'";
            pg.server.sql(&pg.url, read).parse::<i64>().unwrap()
        };
        for (days, expected) in [(31..=60, 60_000), (77..=77, 2_000)] {
            let query = UsageQuery::days(*days.start(), *days.end());
            let (mut paging, mut rows, mut most) = (Paging::first(PAGE), 0, 0);
            loop {
                let before = read().await;
                let page = store.usage(&query, &paging).await.unwrap();
                most = most.max(read().await - before);
                rows += page.items.len();
                let Some(next) = page.next else { break };
                paging = paging.after(next);
            }
            println!("{mode}, analyzed: {is_analyzed}, {days:?}: at most {most} rows of a page");
            assert_eq!(rows, expected);
            // About two of a page are counted, then added up, each in the index and the table.
            assert!(most <= 12 * i64::from(PAGE), "{most} rows");
        }
    }
}

/// A long list is read in parts, while writers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_read_once_in_parts_while_writers_go_on() {
    const WRITERS: u64 = 6;
    const CHANGES: u64 = 40;
    let pg = Pg::with_pool(8).await;
    let writers = (0..WRITERS).map(|writer| {
        let store = pg.store.clone();
        tokio::spawn(async move {
            for number in 0..CHANGES {
                let event = Event::new(format!("w{writer}.n{number}"), SystemTime::now());
                let change = Change::new(Actor::default(), SystemTime::now());
                store
                    .commit(&change.add_event(event).unwrap())
                    .await
                    .unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut start = Start::Beginning;
    let mut seen = Vec::new();
    loop {
        let is_over = writers.iter().all(tokio::task::JoinHandle::is_finished);
        let read = pg.store.events(&start, 7).await.unwrap();
        seen.extend(read.items.into_iter().map(|event| event.event.kind));
        start = Start::After(read.next);
        if is_over && read.is_end {
            break;
        }
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(
        (all as u64, seen.len() as u64),
        (WRITERS * CHANGES, WRITERS * CHANGES)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_processes_migrate_at_once() {
    let server = shared();
    let url = server.create_database();
    let tasks = (0..10).map(|_| {
        let url = url.clone();
        tokio::spawn(async move {
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .connect(&url)
                .await
                .unwrap();
            PostgresStore::new(pool).migrate().await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let count = server.sql(&url, "SELECT count(*) FROM tower_api_key.migrations");
    assert_eq!(count, "1");
}

#[tokio::test]
async fn a_role_that_may_not_create_schemas_uses_one_that_exists() {
    let pg = Pg::new().await;
    let role = format!("role_{}", pg.url.rsplit('/').next().unwrap());
    for sql in [
        format!("CREATE ROLE {role} LOGIN"),
        format!("CREATE SCHEMA theirs AUTHORIZATION {role}"),
        "CREATE TABLE theirs.keys (id int)".to_owned(), // of the application
    ] {
        pg.server.sql(&pg.url, &sql);
    }
    let options: PgConnectOptions = pg.url.parse().unwrap();
    let pool = PgPool::connect_with(options.username(&role)).await.unwrap();
    let store = PostgresStore::new(pool.clone()).schema("theirs").unwrap();
    let store = store.table_prefix("ak_").unwrap();
    store.migrate().await.unwrap();
    store.migrate().await.unwrap();
    conformance::managed_key_store(&store).await;
    let refused = PostgresStore::new(pool).schema("another").unwrap();
    assert!(refused.migrate().await.is_err());
    for no in ["", "A", "a b", "1a", "a\"b", &"a".repeat(41)] {
        assert!(pg.store.clone().schema(no).is_err(), "{no}");
    }
}

#[tokio::test]
async fn a_store_without_tables_says_what_to_do() {
    let server = shared();
    let url = server.create_database();
    let store = PostgresStore::new(PgPool::connect(&url).await.unwrap());
    let error = store.find(&KeyId::from_bytes([1; 16])).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("migrate()"), "{source}");
    // By hand.
    let mut connection = PgConnection::connect(&url).await.unwrap();
    for migration in store.migrations() {
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(migration.sql));
        sql.execute(&mut connection).await.unwrap();
    }
    conformance::managed_key_store(&store).await;
}

/// The defaults of the database do not matter.
#[tokio::test]
async fn a_serializable_database_that_commits_later_is_used_as_any() {
    let pg = Pg::new().await;
    let database = pg.url.rsplit('/').next().unwrap();
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "synchronous_commit = off",
        "standard_conforming_strings = on",
    ] {
        pg.server
            .sql(&pg.url, &format!("ALTER DATABASE {database} SET {setting}"));
    }
    let store = PostgresStore::new(PgPool::connect(&pg.url).await.unwrap());
    conformance::managed_key_store(&store).await;
}

/// sqlx 0.9.0 by itself hands out connections inside of an open transaction after this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_leaves_the_pool_whole() {
    let pg = Pg::with_pool(3).await;
    let keys = ApiKeys::builder(pg.store.clone()).build().unwrap();
    let key = keys.issue("acme").await.unwrap();
    for number in 0..300_u64 {
        let limit = Duration::from_micros(number * 8);
        let id = key.id();
        let _ = tokio::time::timeout(limit, pg.store.find(&id)).await;
        let query = KeyQuery::new().with_state(KeyState::Live, SystemTime::now());
        let _ = tokio::time::timeout(limit, pg.store.list(&query, &Paging::first(10))).await;
        let _ = tokio::time::timeout(limit, keys.issue("acme").into_future()).await;
        let _ = tokio::time::timeout(limit, pg.store.changes_since(None, Duration::ZERO)).await;
        let _ = tokio::time::timeout(limit, pg.store.verify_trail()).await;
    }
    let begun = Instant::now();
    let mut held = Vec::new();
    for _ in 0..3 {
        let connection = tokio::time::timeout(Duration::from_secs(1), pg.pool.acquire()).await;
        held.push(
            connection
                .expect("the pool is whole within a second")
                .unwrap(),
        );
    }
    drop(held);
    assert!(begun.elapsed() < Duration::from_secs(3));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(pg.idle_in_transaction(), "0");
    assert!(pg.store.verify_trail().await.unwrap().is_ok());
}

/// A server that hangs, below a pool that is shared with the application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_waited_for_no_longer_than_the_time_limit() {
    let server = Arc::new(Postgres::start_fast());
    let url = server.create_database();
    let pool = PgPoolOptions::new()
        .max_connections(5)
        .connect(&url)
        .await
        .unwrap();
    let store = PostgresStore::new(pool.clone());
    store.migrate().await.unwrap();
    store.commit(&create("before")).await.unwrap();
    let store = store.time_limit(Duration::from_millis(300));
    server.pause();
    let begun = Instant::now();
    let calls = (0..20).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let id = record("before").id();
            let find = store.find(&id).await.map(drop);
            let commit = store.commit(&create(&format!("during {number}"))).await;
            [find, commit].map(|it| it.unwrap_err().kind())
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), [StoreErrorKind::Unavailable; 2]);
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    server.resume();
    let begun = Instant::now();
    while store.find(&record("before").id()).await.is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "it does not recover"
        );
    }
    println!("recovered after {:?}", begun.elapsed());
    let id = record("before").id();
    assert!(store.find(&id).await.unwrap().is_some());
    assert!(
        store
            .clone()
            .time_limit(Duration::from_secs(5))
            .verify_trail()
            .await
            .unwrap()
            .is_ok()
    );
}

/// A network that swallows packets: connections stay open, and nothing comes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_packets_costs_no_connection_for_long() {
    let pg = Pg::new().await;
    pg.store.commit(&create("before")).await.unwrap();
    let options: PgConnectOptions = pg.url.parse().unwrap();
    let network = Network::to(pg.server.port()).await;
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .connect_with(options.port(network.port).ssl_mode(PgSslMode::Disable))
        .await
        .unwrap();
    let store = PostgresStore::new(pool.clone()).time_limit(Duration::from_millis(300));
    for round in 0..3 {
        let id = record("before").id();
        assert!(store.find(&id).await.unwrap().is_some());
        network.swallows.store(true, Ordering::SeqCst);
        let calls = (0..12).map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let begun = Instant::now();
                let name = format!("during {round} {number}");
                let kind = if number % 2 == 0 {
                    store.find(&id).await.unwrap_err().kind()
                } else {
                    store.commit(&create(&name)).await.unwrap_err().kind()
                };
                assert_eq!(kind, StoreErrorKind::Unavailable);
                assert!(
                    begun.elapsed() < Duration::from_secs(2),
                    "{:?}",
                    begun.elapsed()
                );
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        network.swallows.store(false, Ordering::SeqCst);
        let begun = Instant::now();
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(pool.acquire().await.unwrap());
        }
        let took = begun.elapsed();
        println!("the pool was whole after {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        for connection in held {
            // Not dropped: sqlx would ping them without a time limit, into the next outage.
            connection.close().await.unwrap();
        }
    }
}

/// A proxy between a pool and its server. While it swallows, connections that are open then are
/// lost for good, without being closed.
struct Network {
    port: u16,
    swallows: Arc<AtomicBool>,
}

impl Network {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let swallows = Arc::new(AtomicBool::new(false));
        let state = Arc::clone(&swallows);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    let (client, server) = (client.into_split(), server.into_split());
                    let there = carry(client.0, server.1, Arc::clone(&state));
                    let back = carry(server.0, client.1, state);
                    tokio::join!(there, back);
                });
            }
        });
        Self { port, swallows }
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallows: Arc<AtomicBool>) {
    let mut is_lost = false;
    let mut buffer = vec![0; 16_384];
    loop {
        let Ok(read) = from.read(&mut buffer).await else {
            return;
        };
        is_lost |= swallows.load(Ordering::SeqCst);
        if is_lost && read > 0 {
            continue;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// The server counts the rows that are read through each index. A page reads about as many rows as
/// its scan may look at, through the index of its order, at any depth and under any filter, and the
/// whole table never.
#[tokio::test]
async fn a_page_reads_no_more_rows_than_its_scan_may() {
    const MOST_SCANNED: i64 = 2_000;
    let pg = Pg::with_pool(1).await;
    let fill = "INSERT INTO tower_api_key.keys \
                (id, verifier, head, version, account, listed_at, expires_at, revoked_at) \
                SELECT decode(md5(n::text), 'hex'), sha256(n::text::bytea), sha256(n::text::bytea), 1, \
                CASE n % 4 WHEN 0 THEN 'other' ELSE 'whale' END, n, \
                CASE WHEN n % 10 < 3 THEN 3000000000 + hashint4(n) END, \
                CASE WHEN n % 10 = 5 THEN 3000000000 + hashint4(n + 7) END \
                FROM generate_series(1, 100000) AS n; \
                INSERT INTO tower_api_key.uses (key_id, account) \
                SELECT id, account FROM tower_api_key.keys";
    pg.server.sql(&pg.url, fill);
    pg.server.sql(&pg.url, "ANALYZE");
    // Plans for any parameters, as a pool has them after a while.
    let options: PgConnectOptions = pg.url.parse().unwrap();
    let options = options.options([("plan_cache_mode", "force_generic_plan")]);
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap();
    let store = PostgresStore::new(pool.clone());
    let counts = async || {
        sqlx::query("SELECT pg_stat_force_next_flush()")
            .execute(&pool)
            .await
            .unwrap();
        let through = "SELECT indexrelname || ' ' || idx_tup_read FROM pg_stat_user_indexes \
                       UNION ALL SELECT relname || '_whole ' || seq_tup_read \
                       FROM pg_stat_user_tables";
        let rows = pg.server.sql(&pg.url, through);
        let rows = rows.lines().filter_map(|line| {
            let (name, rows) = line.split_once(' ')?;
            Some((name.to_owned(), rows.parse::<i64>().ok()?))
        });
        rows.collect::<BTreeMap<_, _>>()
    };
    for (order, account, index) in [
        (KeyOrder::Newest, None, "keys_by_age"),
        (KeyOrder::Newest, Some("whale"), "keys_by_account"),
        (KeyOrder::EndingSoon, None, "keys_ending"),
        (
            KeyOrder::EndingSoon,
            Some("whale"),
            "keys_ending_by_account",
        ),
        (KeyOrder::LeastRecentlyUsed, None, "uses_by_last"),
        (
            KeyOrder::LeastRecentlyUsed,
            Some("whale"),
            "uses_by_account",
        ),
        (KeyOrder::RecentlyRevoked, None, "keys_revoked"),
        (
            KeyOrder::RecentlyRevoked,
            Some("whale"),
            "keys_revoked_by_account",
        ),
    ] {
        let query = KeyQuery::new()
            .with_order(order)
            .with_account(account.map(str::to_owned));
        // A filter that no key passes, and a page in the depth of the list.
        let filtered = query.clone().with_state(KeyState::Live, SystemTime::now());
        let mut deep = Paging::first(1_000);
        for _ in 0..4 {
            let next = store.list(&query, &deep).await.unwrap().next;
            deep = deep.after(next);
        }
        let first = Paging::first(50);
        for (query, paging) in [(&query, &first), (&filtered, &first), (&query, &deep)] {
            let before = counts().await;
            store.list(query, paging).await.unwrap();
            let after = counts().await;
            let read = |name: &str| after[name] - before[name];
            assert!(
                (1..=2 * MOST_SCANNED + 100).contains(&read(index)),
                "{index}: {}",
                read(index)
            );
            for name in before.keys().filter(|name| name.ends_with("_whole")) {
                assert!(read(name) <= 10, "{query:?} {name}: {}", read(name));
            }
            let others = before
                .keys()
                .filter(|name| *name != index && !name.ends_with("_pkey"));
            let others: i64 = others.map(|name| read(name)).sum();
            assert!(others <= 10, "{query:?}: {others}");
        }
    }
}
