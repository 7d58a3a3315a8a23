//! The databases that the processes share.

use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tower_api_key::ManagedKeyStore;
use tower_api_key::store::sqlx::postgres::{PgPool, PgPoolOptions};
use tower_api_key::store::{PostgresStore, SqliteStore};

use crate::postgres::Postgres;

/// The time in which a server notices that its client is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database that is looked at from outside.
pub(crate) trait Database {
    type Store: ManagedKeyStore + Clone;

    const NAME: &'static str;

    /// Returns what the processes open.
    fn address(&self) -> String;

    /// Opens the store, and creates its tables if nobody has.
    async fn open(&self) -> Self::Store;

    /// Waits until the database has noticed that its clients are gone, and checks that they were
    /// never in each other's way.
    async fn settle(&self);
}

/// Opens what another process has named: a URL of `PostgreSQL`, or a file of SQLite.
macro_rules! with_store {
    ($address:expr, $work:expr) => {{
        let address: String = $address;
        if address.starts_with("postgres://") {
            $work($crate::database::open_postgres(&address).await).await;
        } else {
            $work($crate::database::open_sqlite(&address).await).await;
        }
    }};
}
pub(crate) use with_store;

pub(crate) async fn open_postgres(url: &str) -> PostgresStore {
    let pool: PgPool = PgPoolOptions::new()
        .max_connections(3)
        .connect(url)
        .await
        .unwrap();
    PostgresStore::new(pool)
}

pub(crate) async fn open_sqlite(path: &str) -> SqliteStore {
    SqliteStore::open(path).await.unwrap()
}

/// SQLite, in a folder that is removed in the end.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-api-key-deaths-{}-{number}", std::process::id());
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

    const NAME: &'static str = "SQLite";

    fn address(&self) -> String {
        self.0.join("keys.db").to_str().unwrap().to_owned()
    }

    async fn open(&self) -> SqliteStore {
        let store = open_sqlite(&self.address()).await;
        store.migrate().await.unwrap();
        store
    }

    async fn settle(&self) {}
}

/// A server of `PostgreSQL` with a database.
pub(crate) struct Server {
    postgres: Postgres,
    url: String,
}

impl Server {
    pub(crate) fn new() -> Self {
        let postgres = Postgres::start();
        let url = postgres.create_database();
        Self { postgres, url }
    }
}

impl Database for Server {
    type Store = PostgresStore;

    const NAME: &'static str = "PostgreSQL";

    fn address(&self) -> String {
        self.url.clone()
    }

    async fn open(&self) -> PostgresStore {
        let store = open_postgres(&self.url).await;
        store.migrate().await.unwrap();
        store
    }

    /// A commit that a client had sent is carried out after its death.
    async fn settle(&self) {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                      AND pid <> pg_backend_pid() AND application_name <> 'psql' \
                      AND state <> 'idle'";
        let start = Instant::now();
        while self.postgres.sql(&self.url, others) != "0" {
            assert!(start.elapsed() < PATIENCE, "the server does not notice");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let deadlocks = "SELECT deadlocks FROM pg_stat_database \
                         WHERE datname = current_database()";
        assert_eq!(self.postgres.sql(&self.url, deadlocks), "0", "deadlocks");
    }
}
