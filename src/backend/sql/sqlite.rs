//! The store in a file, in SQLite.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Column, ConnectOptions, Connection, Row as _, TypeInfo, ValueRef};

use super::cell::{Cell, Row};
use super::dialect::Dialect;
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

/// The time for which a connection waits for a lock of another one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The attempts to open a file that other processes open for the first time, too.
const ATTEMPTS: u32 = 40;

/// The connections that read. One more writes.
const READERS: u32 = 4;

/// A store in a file, in SQLite. Feature `sqlite`.
///
/// Several processes of one machine can use the same file. The store has a [feed](ChangeFeed)
/// of its changes, with which a change by one process reaches the others within 200 ms. Clones
/// share their connections.
///
/// The file is in WAL mode, and each commit is on disk when it is acknowledged. SQLite keeps two
/// more files beside it (`-wal`, `-shm`). Do not put them on a network file system, and copy them
/// only with SQLite's own backup: see the [guide](crate::guide::stores).
///
/// The methods need the runtime of `tokio`.
///
/// ```
/// use tower_api_key::ApiKeys;
/// use tower_api_key::store::SqliteStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("tower-api-key-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("keys.db");
/// let store = SqliteStore::open(path).await?;
/// store.migrate().await?;
/// let keys = ApiKeys::builder(store).build()?;
/// let key = keys.issue("acme").await?;
/// # drop(keys);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SqliteStore(SqlStore<SqliteDriver>);

/// An error for a file that could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path is empty, `:memory:` or a URI: it may name a database in memory, of which each
    /// connection would have its own.
    #[error(
        "a database in memory cannot be shared by connections: name a file, or use MemoryStore"
    )]
    InMemory,
    /// The file could not be created or read.
    #[error("{path:?} cannot be opened")]
    File {
        /// The path.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// SQLite could not open the file.
    #[error("{path:?} cannot be opened as a database")]
    Database {
        /// The path.
        path: PathBuf,
        /// The error of the driver.
        #[source]
        source: sqlx::Error,
    },
}

impl SqliteStore {
    /// The prefix of the tables, unless [`table_prefix`](Self::table_prefix) sets another one.
    pub const TABLE_PREFIX: &str = "api_key_";

    /// Opens a file, or creates it, readable by its owner only.
    ///
    /// The file may also have tables of the application. Call [`migrate`](Self::migrate) to create
    /// those of this store.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        // SQLite takes a path that begins with `file:` for a URI, which may name memory, too.
        let begins = |with: &str| {
            path.as_os_str()
                .as_encoded_bytes()
                .starts_with(with.as_bytes())
        };
        if path.as_os_str().is_empty() || begins(":memory:") || begins("file:") {
            return Err(OpenError::InMemory);
        }
        create(path).map_err(|source| OpenError::File {
            path: path.to_owned(),
            source,
        })?;
        let options = options(path);
        let error = |source| OpenError::Database {
            path: path.to_owned(),
            source,
        };
        convert(&options).await.map_err(error)?;
        let writer = SqlitePoolOptions::new().max_connections(1);
        let writer = writer.connect_with(options.clone()).await.map_err(error)?;
        let readers = SqlitePoolOptions::new().max_connections(READERS);
        let readers = readers.connect_lazy_with(options.read_only(true));
        let names = Names::new("", Self::TABLE_PREFIX);
        Ok(Self(SqlStore::new(SqliteDriver { writer, readers }, names)))
    }

    /// Sets the prefix of the tables. Default: `api_key_`. Two prefixes are two stores.
    pub fn table_prefix(self, prefix: &str) -> Result<Self, TableNameError> {
        let names = self.0.names.clone().with_prefix(prefix)?;
        Ok(Self(self.0.with_names(names)))
    }

    /// Closes all connections, after what is in progress. Clones can no longer be used.
    pub async fn close(&self) {
        self.0.driver.readers.close().await;
        self.0.driver.writer.close().await;
    }
}

ports!(SqliteStore);

/// Creates the file with the permissions of a secret, which SQLite gives to the files beside it.
fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        // In WAL mode, NORMAL may lose acknowledged commits if the power fails.
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", "67108864")
        .optimize_on_close(true, None)
}

/// Sets the journal mode of the file, once.
///
/// SQLite does not wait for other connections here, whatever its busy timeout. So this reads the
/// mode, and sets it again and again until it is set by somebody.
async fn convert(options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
    let mut attempt = 1;
    loop {
        let wal = options.clone().journal_mode(SqliteJournalMode::Wal);
        let error = match wal.connect().await {
            Ok(connection) => return connection.close().await,
            Err(error) => error,
        };
        if attempt == ATTEMPTS || error.as_database_error().is_none() {
            return Err(error);
        }
        let pause = Duration::from_millis(u64::from(attempt.min(10)) * 5);
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

/// The driver of SQLite: one connection that writes, and a few that read.
#[derive(Debug, Clone)]
struct SqliteDriver {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Driver for SqliteDriver {
    type Session = SqliteSession;

    const DIALECT: Dialect = Dialect {
        bytes: "BLOB",
        integer: "INTEGER",
        text: "TEXT",
        serial: "INTEGER PRIMARY KEY AUTOINCREMENT",
        hex: ["lower(hex(", "))"],
        time: ["strftime('%Y-%m-%dT%H:%M:%fZ', (", ") / 1e6, 'unixepoch')"],
        now: "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
        strict: " STRICT",
        updated: " STRICT, WITHOUT ROWID",
        transaction: "",
        // Not deferred: a transaction that reads first fails at its first write if another one has
        // written meanwhile.
        begin: "BEGIN IMMEDIATE",
        begin_snapshot: "BEGIN",
        begin_page: "",
        for_update: "",
        for_key_share: "",
        position: "instr",
        // There is no LATERAL. One transaction writes at a time, so nothing is locked.
        join_claimed: [
            "JOIN {deliveries} AS d ON d.endpoint_id = n.id AND d.event_seq IN (",
            ")",
        ],
        look_up: ["CROSS JOIN", ""],
        lock_account: "",
        lock_migrations: "",
        has_schemas: false,
        // A look takes 30 µs, hardly more than a look at `data_version`.
        poll: Duration::from_millis(100),
        // SQLite allows 32,766, but the driver asks for each one's name, which SQLite looks up in a
        // list: the time is in the square of the number.
        most_parameters: 500,
    };

    async fn reader(&self) -> Result<SqliteSession, SqlError> {
        Ok(SqliteSession::new(self.readers.acquire().await?, None))
    }

    async fn writer(&self) -> Result<SqliteSession, SqlError> {
        Ok(SqliteSession::new(self.writer.acquire().await?, None))
    }
}

session!(SqliteSession, Sqlite, numbered, read);

/// Writes parameters as SQLite's numbered ones. It would look up `$1` by its name.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

/// Reads the cells of a row.
fn read(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let cells = row.columns().iter().map(|column| {
        let at = column.ordinal();
        let value = row.try_get_raw(at)?;
        if value.is_null() {
            return Ok(Cell::Integer(None));
        }
        let kind = value.type_info();
        Ok(match kind.name() {
            "INTEGER" => Cell::Integer(row.try_get_unchecked(at)?),
            "BLOB" => Cell::Bytes(row.try_get_unchecked(at)?),
            _ => Cell::Text(row.try_get_unchecked(at)?),
        })
    });
    Ok(Row::new(cells.collect::<Result<_, sqlx::Error>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sql::session::Session;
    use crate::backend::sql::{claims, tell};
    use crate::store::{Actor, Change, Claim, Disabled, Endpoint, Event, Target};

    /// Each connection has the settings that a commit needs to be on disk.
    #[tokio::test]
    async fn every_connection_has_the_settings() {
        let name = format!("tower-api-key-settings-{}.db", std::process::id());
        let path = std::env::temp_dir().join(name);
        let store = SqliteStore::open(&path).await.unwrap();
        let driver = &store.0.driver;
        let mut sessions = vec![driver.writer().await.unwrap()];
        for _ in 0..READERS {
            sessions.push(driver.reader().await.unwrap());
        }
        for (at, mut session) in sessions.into_iter().enumerate() {
            for (pragma, value) in [
                ("synchronous", 2),
                ("busy_timeout", 5_000),
                ("query_only", 0),
            ] {
                let query = Query::new(format!("PRAGMA {pragma}"), []);
                let mut row = session
                    .fetch(query)
                    .await
                    .unwrap()
                    .into_iter()
                    .next()
                    .unwrap();
                assert_eq!(row.integer("pragma").unwrap(), value, "{pragma} of {at}");
            }
            let query = Query::new("PRAGMA journal_mode", []);
            let mut row = session
                .fetch(query)
                .await
                .unwrap()
                .into_iter()
                .next()
                .unwrap();
            assert_eq!(row.text("pragma").unwrap(), "wal");
            // A reader cannot write.
            let write = session.run("CREATE TABLE t (a)").await;
            assert_eq!(write.is_ok(), at == 0);
        }
        store.close().await;
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }

    /// A statement that reads a whole table, or sorts one, would be slow with a backlog.
    #[tokio::test]
    async fn deliveries_are_looked_up_in_indexes() {
        let name = format!("tower-api-key-plans-{}.db", std::process::id());
        let path = std::env::temp_dir().join(name);
        let store = SqliteStore::open(&path).await.unwrap();
        store.migrate().await.unwrap();
        let plan = async |query: Query| {
            let sql = store.0.sql(&format!("EXPLAIN QUERY PLAN {}", query.sql));
            let query = Query { sql, ..query };
            let rows = store.0.fetch(query).await.unwrap();
            let detail = |mut row: Row| {
                row.take(3);
                row.text("detail").unwrap()
            };
            rows.into_iter().map(detail).collect::<Vec<_>>()
        };
        let claim = Claim::new(SystemTime::UNIX_EPOCH, Duration::from_secs(1));
        let ids = ["a", "b"].map(str::to_owned).to_vec();
        let join = &SqliteDriver::DIALECT.join_claimed;
        let told = vec![Cell::text("msg"), Cell::Text(None), Cell::integer(0)];
        for query in [
            claims::ready_query(&claim).unwrap(),
            claims::take_query(&claim, join, ids),
            Query::of_rows(&tell::insert_deliveries(), [told.clone(), told]),
        ] {
            let steps = plan(query).await;
            // The scan of the index of pending deliveries ends at its first entry.
            let is_scan = |step: &&String| {
                let is_table = ["SCAN d ", "SCAN e", "SCAN n", "SCAN api"];
                let is_table = is_table.iter().any(|begin| step.starts_with(begin));
                is_table && !step.ends_with("COVERING INDEX api_key_deliveries_pending")
            };
            assert_eq!(steps.iter().find(is_scan), None, "{steps:#?}");
            // Only the endpoints that are ready are sorted.
            let sorts = steps.iter().filter(|step| step.contains("TEMP B-TREE"));
            assert!(sorts.count() <= 1, "{steps:#?}");
        }
        store.close().await;
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }

    /// A claim looks for endpoints first, and takes their deliveries in another statement.
    #[tokio::test]
    async fn an_endpoint_that_is_disabled_during_a_claim_gets_nothing() {
        let name = format!("tower-api-key-seam-{}.db", std::process::id());
        let path = std::env::temp_dir().join(name);
        let store = SqliteStore::open(&path).await.unwrap();
        store.migrate().await.unwrap();
        let at = SystemTime::UNIX_EPOCH;
        let sink = |id: &str| Endpoint::new(id, Target::Sink, at);
        for id in ["a", "b"] {
            store.0.put_endpoint(&sink(id)).await.unwrap();
        }
        let change = Change::new(Actor::service("test"), at);
        let change = change.add_event(Event::new("acme.test", at)).unwrap();
        store.0.commit(&change).await.unwrap();
        let mut claim = Claim::new(at, Duration::from_secs(60));
        claim.sinks = ["a", "b"].map(str::to_owned).to_vec();
        let ready = store.0.ready(&claim).await.unwrap();
        assert_eq!(ready.len(), 2);
        let off = sink("a").with_version(2);
        let off = off.with_disabled(Disabled::new(at, "410 Gone"));
        store.0.put_endpoint(&off).await.unwrap();
        let taken = store.0.take(&claim, ready).await.unwrap();
        let taken: Vec<_> = taken.iter().map(|it| it.endpoint.id.as_str()).collect();
        assert_eq!(taken, ["b"]);
        store.close().await;
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }
}
