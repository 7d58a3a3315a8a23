//! The store in `PostgreSQL`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sqlx::postgres::{PgPool, PgRow, Postgres};
use sqlx::{Column, Row as _, TypeInfo, ValueRef};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::cell::{Cell, Row};
use super::dialect::Dialect;
use super::doorbell::Doorbell;
use super::migrations::Migration;
use super::names::{Names, TableNameError};
use super::ports::ports;
use super::session::{Driver, Query, RETURN_LIMIT, SqlError, session};
use super::store::SqlStore;
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{
    AuditKey, BoxedFeed, Change, ChangeFeed, Changes, Cursor, FeedError, Followed, IssueRequest,
    KeptEvent, KeyQuery, KeyStore, ListedKey, ManagedKeyStore, Page, Paging, Start, StoreError,
    TrailQuery, TrailRecord, TrailReport, UsageBatch, UsageQuery, UsageRow,
};

/// A store in `PostgreSQL` 13 or newer, over the application's own pool. Feature `postgres`.
///
/// The store has a [feed](ChangeFeed) of its changes, with which a change by one process reaches
/// the others within 50 ms on a local network: it sends a notification (`NOTIFY`), at which the
/// others poll. Where notifications do not arrive, such as behind `PgBouncer` in transaction mode,
/// the feed polls each 250 ms, and a warning is logged.
///
/// Reads of this store use at most half of the connections of the pool at once, so that the
/// application's own queries are not starved. A feed that is followed listens on one more
/// connection, which is made with the options of the pool, and does not count against its size. It
/// is closed when the store, or the [`ApiKeys`](crate::ApiKeys) over it, is dropped.
///
/// The methods need the runtime of `tokio`. For TLS to the server, the application enables a
/// feature of `sqlx` of its choice.
///
/// ```no_run
/// use tower_api_key::ApiKeys;
/// use tower_api_key::store::PostgresStore;
/// # use tower_api_key::store::sqlx;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::PgPool::connect("postgres://localhost/app").await?;
/// let store = PostgresStore::new(pool);
/// store.migrate().await?;
/// let keys = ApiKeys::builder(store).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PostgresStore(SqlStore<PostgresDriver>);

impl PostgresStore {
    /// The schema of the tables, unless [`schema`](Self::schema) sets another one.
    pub const SCHEMA: &str = "tower_api_key";

    /// Creates a store over a pool, in a schema of its own. Nothing is read or written yet.
    pub fn new(pool: PgPool) -> Self {
        let most = pool.options().get_max_connections() / 2;
        let reads = Semaphore::new(most.max(1) as usize);
        let driver = PostgresDriver {
            pool,
            reads: Arc::new(reads),
            doorbell: Some(Doorbell::default()),
        };
        Self(SqlStore::new(driver, Names::new(Self::SCHEMA, "")))
    }

    /// Sets the schema of the tables. Default: `tower_api_key`. [`migrate`](Self::migrate) creates
    /// the schema if it is missing.
    pub fn schema(self, schema: &str) -> Result<Self, TableNameError> {
        let names = self.0.names.clone().with_schema(schema)?;
        Ok(Self(self.0.with_names(names)))
    }

    /// Sets a prefix of the tables, for a schema that has others, too. Default: none.
    pub fn table_prefix(self, prefix: &str) -> Result<Self, TableNameError> {
        let names = self.0.names.clone().with_prefix(prefix)?;
        Ok(Self(self.0.with_names(names)))
    }

    /// Switches notifications off: changes neither send them (`NOTIFY`), nor does the feed listen
    /// for them. A change then reaches the other processes within 300 ms.
    ///
    /// A server commits transactions with a `NOTIFY` one after another, whatever their database:
    /// each holds a lock until it is on disk. With hundreds of changes of keys a second, or as many
    /// notifications of the application, that can be too slow.
    ///
    /// Set this in all processes or in none. A process that listens, and finds changes that nobody
    /// told of, connects anew to listen, up to twice a minute.
    #[must_use]
    pub fn without_notify(mut self) -> Self {
        self.0.driver.doorbell = None;
        self
    }
}

ports!(PostgresStore);

/// The driver of `PostgreSQL`.
#[derive(Debug, Clone)]
struct PostgresDriver {
    pool: PgPool,
    /// The reads that may wait for the pool, or use it, at once.
    reads: Arc<Semaphore>,
    /// `None` if changes are not told of.
    doorbell: Option<Doorbell>,
}

impl Driver for PostgresDriver {
    type Session = PostgresSession;

    const DIALECT: Dialect = Dialect {
        bytes: "bytea",
        integer: "bigint",
        // Bytes are compared. By the rules of a language, `acme` could own the keys of `ACME`.
        text: "text COLLATE \"C\"",
        serial: "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        hex: ["encode(", ", 'hex')"],
        time: ["to_timestamp((", ") / 1e6)"],
        now: "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)",
        strict: "",
        updated: " WITH (fillfactor = 80)",
        transaction: "xid xid8 NOT NULL DEFAULT pg_current_xact_id(),",
        // Whatever the defaults of the database are: a serializable transaction fails where this
        // one finds that nothing was updated, and a commit that is not synchronous may be lost.
        begin: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
                SET LOCAL synchronous_commit = on; \
                SET LOCAL idle_in_transaction_session_timeout = '10s'",
        begin_snapshot: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                SET LOCAL idle_in_transaction_session_timeout = '10s'",
        // A page is read from an index in the order of the list. By its estimates of how many keys
        // an account has, the planner may read and sort the whole account instead: 400 ms, not 4,
        // for the keys of a large one that end soon. Forbidding that makes costs look huge, for
        // which it would compile the query.
        begin_page: "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; \
                SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
                SET LOCAL enable_sort = off; SET LOCAL enable_incremental_sort = off; \
                SET LOCAL jit = off",
        for_update: "FOR UPDATE",
        for_key_share: "FOR KEY SHARE OF n",
        position: "strpos",
        join_claimed: ["CROSS JOIN LATERAL (", " FOR UPDATE SKIP LOCKED) AS d"],
        // The OFFSET keeps the planner from joining in another order.
        look_up: ["CROSS JOIN LATERAL (SELECT * FROM", " OFFSET 0) AS u"],
        lock_account: "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) \
             FROM (VALUES {values}) AS names(name)",
        lock_migrations: "SELECT pg_advisory_xact_lock(1952541489, hashtext('{names}'))",
        has_schemas: true,
        poll: Duration::from_millis(250),
        most_parameters: 16_000,
    };

    async fn reader(&self) -> Result<PostgresSession, SqlError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.ok();
        Ok(PostgresSession::new(self.pool.acquire().await?, permit))
    }

    async fn writer(&self) -> Result<PostgresSession, SqlError> {
        Ok(PostgresSession::new(self.pool.acquire().await?, None))
    }

    fn ring(&self, names: &Names) -> String {
        if self.doorbell.is_none() {
            return String::new();
        }
        format!("NOTIFY \"{}\"; ", names.channel())
    }

    async fn wait_for_ring(&self, names: &Names, looked_at: Instant, limit: Duration) -> bool {
        let Some(doorbell) = &self.doorbell else {
            tokio::time::sleep(limit).await;
            return false;
        };
        let channel = names.channel();
        doorbell.wait(&self.pool, &channel, looked_at, limit).await
    }

    fn missed_ring(&self) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.doubt();
        }
    }
}

session!(PostgresSession, Postgres, str::to_owned, read);

/// Reads the cells of a row.
fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
    let cells = row.columns().iter().map(|column| {
        let at = column.ordinal();
        if row.try_get_raw(at)?.is_null() {
            return Ok(Cell::Integer(None));
        }
        Ok(match column.type_info().name() {
            "INT8" => Cell::Integer(row.try_get_unchecked(at)?),
            "INT4" => Cell::Integer(Some(i64::from(row.try_get_unchecked::<i32, _>(at)?))),
            "BYTEA" => Cell::Bytes(row.try_get_unchecked(at)?),
            _ => Cell::Text(row.try_get_unchecked(at)?),
        })
    });
    Ok(Row::new(cells.collect::<Result<_, sqlx::Error>>()?))
}
