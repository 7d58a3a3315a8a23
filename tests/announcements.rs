//! Announcements of expiries in all stores: by several processes, in trouble, each once.
//!
//! `ANNOUNCEMENT_SCHEDULES=1000 cargo test --release --test announcements` is the long proof; a
//! schedule is drawn from its number.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/announcements.rs"]
mod announcements;
#[allow(dead_code, unreachable_pub, reason = "each suite uses its part")]
#[path = "support/postgres.rs"]
mod server;
mod support;
#[path = "support/troubled_processes.rs"]
mod troubled_processes;

use std::env;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use server::Postgres;
use tower_api_key::store::sqlx::postgres::PgPoolOptions;
use tower_api_key::store::sqlx::{self, Connection, SqliteConnection};
use tower_api_key::store::{PostgresStore, SqliteStore};
use tower_api_key::{KeyId, MemoryStore};
use tracing::Level;

/// Scopes that no key can have.
const BAD_SCOPES: &str = "no\tscope";

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

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "tower-api-key-announcements-{}-{number}",
            std::process::id()
        );
        let path = env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("keys.db")
    }

    async fn store(&self) -> SqliteStore {
        let store = SqliteStore::open(self.file()).await.unwrap();
        store.migrate().await.unwrap();
        store
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn postgres(url: &str) -> PostgresStore {
    let pool = PgPoolOptions::new().max_connections(4);
    let store = PostgresStore::new(pool.connect(url).await.unwrap());
    store.migrate().await.unwrap();
    store
}

/// The numbers of schedules: so many, unless the environment says otherwise.
fn schedules(unless_set: u64) -> impl Iterator<Item = u64> {
    let asked = env::var("ANNOUNCEMENT_SCHEDULES").ok();
    1..=asked.map_or(unless_set, |count| count.parse().unwrap())
}

/// Invariant 11: nothing is announced twice by a retry, a late call or a restart, and nothing is
/// missing.
#[tokio::test]
async fn invariant_11_each_end_is_announced_once_in_memory() {
    for seed in schedules(20) {
        let store = MemoryStore::new();
        announcements::each_comes_once(store, async |_: &MemoryStore, _| {}, seed, 60).await;
    }
}

#[tokio::test]
async fn invariant_11_each_end_is_announced_once_in_sqlite() {
    let purge = async |store: &SqliteStore, before| {
        store.purge_events(before).await.unwrap();
    };
    for seed in schedules(3) {
        let folder = Folder::new();
        announcements::each_comes_once(folder.store().await, purge, seed, 60).await;
    }
}

#[tokio::test]
async fn invariant_11_each_end_is_announced_once_in_postgres() {
    let server = shared();
    let purge = async |store: &PostgresStore, before| {
        store.purge_events(before).await.unwrap();
    };
    for seed in schedules(3) {
        let store = postgres(&server.create_database()).await;
        announcements::each_comes_once(store, purge, seed, 60).await;
    }
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Logged {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let logged = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::WARN)
            .with_ansi(false)
            .with_writer(move || logged.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// Checks that each unreadable key was logged, and nothing else.
    fn check(&self, unreadable: &[KeyId]) {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        for id in unreadable {
            let is_of = |line: &&str| line.contains(&id.to_string());
            let line = text.lines().find(is_of).expect("the key is logged");
            assert!(line.contains(" ERROR tower_api_key: the record of a key cannot be read"));
            assert!(line.contains("scopes"), "{line}");
        }
        let others = text.lines().find(|line| !line.contains("cannot be read"));
        assert_eq!(others, None);
    }
}

#[tokio::test]
async fn an_unreadable_record_stops_no_other_announcement_in_sqlite() {
    let folder = Folder::new();
    let store = folder.store().await;
    let logged = Logged::default();
    let _guard = logged.listen();
    let unreadable = Mutex::new(Vec::new());
    announcements::an_unreadable_record_stops_no_other(store, async |id: KeyId| {
        unreadable.lock().unwrap().push(id);
        let edit = "UPDATE api_key_keys SET scopes = $1 WHERE id = $2";
        let path = folder.file();
        let mut connection = SqliteConnection::connect(path.to_str().unwrap())
            .await
            .unwrap();
        let edit = sqlx::query(edit).bind(BAD_SCOPES).bind(&id.as_bytes()[..]);
        let edited = edit.execute(&mut connection).await.unwrap();
        assert_eq!(edited.rows_affected(), 1);
    })
    .await;
    logged.check(&unreadable.into_inner().unwrap());
}

#[tokio::test]
async fn an_unreadable_record_stops_no_other_announcement_in_postgres() {
    let server = shared();
    let url = server.create_database();
    let store = postgres(&url).await;
    let logged = Logged::default();
    let _guard = logged.listen();
    let unreadable = Mutex::new(Vec::new());
    announcements::an_unreadable_record_stops_no_other(store, async |id: KeyId| {
        unreadable.lock().unwrap().push(id);
        let edited = server.sql(
            &url,
            &format!(
                "UPDATE tower_api_key.keys SET scopes = '{BAD_SCOPES}' \
                 WHERE encode(id, 'hex') = '{id}' RETURNING 1"
            ),
        );
        assert_eq!(edited, "1");
    })
    .await;
    logged.check(&unreadable.into_inner().unwrap());
}
