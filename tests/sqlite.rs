//! The store in SQLite: conformance, and what bit others.
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
#[path = "support/sql_suite.rs"]
mod sql_suite;
#[path = "support/sql_usage.rs"]
mod sql_usage;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sql_suite::Database;
use tower_api_key::store::sqlx::{self, Connection, Row, SqliteConnection};
use tower_api_key::store::{
    AuditKey, OpenError, SqliteStore, StoreError, StoreErrorKind, TrailReport,
};
use tower_api_key::{ApiKeys, KeyId, KeyStore, conformance};

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-api-key-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("keys.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Sqlite {
    store: SqliteStore,
    folder: Folder,
}

impl Sqlite {
    async fn new() -> Self {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.file()).await.unwrap();
        store.migrate().await.unwrap();
        Self { store, folder }
    }
}

impl Database for Sqlite {
    type Store = SqliteStore;

    fn store(&self) -> &SqliteStore {
        &self.store
    }

    fn with_audit_key(store: SqliteStore, key: AuditKey) -> SqliteStore {
        store.audit_key(key)
    }

    async fn verify(store: &SqliteStore) -> Result<TrailReport, StoreError> {
        store.verify_trail().await
    }

    async fn purge_usage(store: &SqliteStore, before: SystemTime) -> u64 {
        store.purge_usage(before).await.unwrap()
    }

    async fn purge_events(store: &SqliteStore, before: SystemTime) -> Result<u64, StoreError> {
        store.purge_events(before).await
    }

    async fn purge(store: &SqliteStore, before: SystemTime) -> Result<u64, StoreError> {
        store.purge_trail(before).await
    }

    async fn sql(&self, statement: &str) -> Option<String> {
        let statement = statement.replace('{', "api_key_").replace('}', "");
        let path = self.folder.file();
        let mut connection = SqliteConnection::connect(path.to_str().unwrap())
            .await
            .unwrap();
        let row = sqlx::query(sqlx::AssertSqlSafe(statement));
        let row = row.fetch_optional(&mut connection).await.unwrap()?;
        row.try_get_unchecked(0).unwrap()
    }

    fn bytes(bytes: &[u8]) -> String {
        let digits = sql_suite::hexadecimal(bytes);
        format!("x'{digits}'")
    }
}

#[tokio::test]
async fn the_sqlite_store_passes_the_conformance_suites() {
    let sqlite = Sqlite::new().await;
    conformance::managed_key_store(&sqlite.store).await;
    conformance::change_feed(&sqlite.store, &sqlite.store).await;
    conformance::outbox(&sqlite.store).await;
    // As another process sees it.
    let other = SqliteStore::open(sqlite.folder.file()).await.unwrap();
    conformance::managed_key_store(&other).await;
    conformance::change_feed(&other, &sqlite.store).await;
    conformance::outbox(&other).await;
}

#[tokio::test]
async fn invariant_12_edits_of_the_trail_and_of_keys_are_found() {
    sql_suite::edits_are_found(Sqlite::new).await;
    sql_suite::exchanged_records_are_found(Sqlite::new().await).await;
}

#[tokio::test]
async fn a_purge_leaves_a_sealed_stub() {
    sql_suite::a_purge_leaves_a_sealed_stub(Sqlite::new().await).await;
}

#[tokio::test]
async fn a_change_that_is_committed_again_is_recognized() {
    sql_suite::a_change_that_is_committed_again_is_recognized(Sqlite::new().await).await;
}

#[tokio::test]
async fn invariant_10_usage_changes_nothing_but_usage() {
    sql_suite::usage_changes_nothing_but_usage(Sqlite::new().await).await;
}

#[tokio::test]
async fn the_usage_of_days_that_are_over_is_purged() {
    sql_suite::old_usage_is_purged(Sqlite::new().await).await;
}

#[tokio::test]
async fn invariant_12_an_edit_is_not_covered_by_the_next_change() {
    sql_suite::an_edit_is_not_covered_by_the_next_change(Sqlite::new).await;
    sql_suite::a_key_is_not_put_back_to_its_stub(Sqlite::new().await).await;
}

#[tokio::test]
async fn purges_at_once_do_no_harm() {
    sql_suite::purges_at_once_do_no_harm(Sqlite::new().await).await;
}

#[tokio::test]
async fn a_key_that_moves_is_listed_with_its_account() {
    sql_suite::a_key_that_moves_is_listed_with_its_account(Sqlite::new().await).await;
}

#[tokio::test]
async fn invariant_12_trail_and_state_agree_after_random_histories() {
    let database = Sqlite::new().await;
    for number in 0..4 {
        histories::live(database.store.clone(), number, 150).await;
    }
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_is_exact() {
    let database = Sqlite::new().await;
    issuing::a_cap_is_exact(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_issues_one_key() {
    let database = Sqlite::new().await;
    issuing::a_repeated_request_issues_one_key(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reissue_fits_under_the_cap() {
    let database = Sqlite::new().await;
    issuing::a_reissue_fits_under_the_cap(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test]
async fn idle_keys_are_ended() {
    let database = Sqlite::new().await;
    hygiene::idle_keys_are_ended(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test]
async fn dead_keys_are_purged() {
    let database = Sqlite::new().await;
    hygiene::dead_keys_are_purged(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test]
async fn what_ends_soon_or_never_is_listed() {
    let database = Sqlite::new().await;
    hygiene::what_ends_soon_or_never_is_listed(database.store.clone()).await;
    assert!(database.store.verify_trail().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_purged_key_leaves_its_trail_and_is_not_created_again() {
    sql_suite::a_purged_key_leaves_its_trail_and_is_not_created_again(Sqlite::new().await).await;
}

#[tokio::test]
async fn events_are_purged_and_the_gap_is_told() {
    sql_suite::events_are_purged_and_the_gap_is_told(Sqlite::new().await).await;
}

#[tokio::test]
async fn a_view_shows_keys_to_people() {
    sql_suite::a_view_shows_keys_to_people(Sqlite::new().await).await;
}

#[tokio::test]
async fn texts_that_cannot_be_stored_are_in_no_list() {
    sql_suite::texts_that_cannot_be_stored_are_in_no_list(Sqlite::new().await).await;
}

#[tokio::test]
async fn a_version_that_the_trail_has_already_is_an_error() {
    sql_suite::a_version_that_the_trail_has_already_is_an_error(Sqlite::new().await).await;
}

#[tokio::test]
async fn calls_dropped_at_every_await_leave_the_store_whole() {
    sql_suite::calls_dropped_at_every_await_leave_the_store_whole(Sqlite::new().await).await;
}

#[tokio::test]
async fn invariant_11_a_batch_that_is_dropped_at_any_await_is_recorded_once() {
    let database = Sqlite::new().await;
    sql_usage::a_batch_that_is_dropped_at_any_await_is_recorded_once(&database.store).await;
}

#[tokio::test]
async fn the_address_of_a_use_is_kept() {
    sql_usage::the_address_of_a_use_is_kept(&Sqlite::new().await.store).await;
}

#[tokio::test]
async fn many_keys_are_imported_in_one_change() {
    sql_suite::many_keys_are_imported_in_one_change(Sqlite::new().await).await;
}

#[tokio::test]
async fn rivals_do_not_lock_each_other_out() {
    sql_suite::rivals_do_not_lock_each_other_out(Sqlite::new().await, 50).await;
}

#[tokio::test]
async fn a_change_is_known_elsewhere_within_a_second() {
    let sqlite = Sqlite::new().await;
    let open = async || SqliteStore::open(sqlite.folder.file()).await.unwrap();
    sql_suite::a_change_is_known_elsewhere_within_a_second::<Sqlite>(&open).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_file_can_be_opened_by_many_at_once() {
    let folder = Folder::new();
    let opened = (0..24).map(|number| {
        let path = folder.file();
        tokio::spawn(async move {
            let store = SqliteStore::open(path)
                .await
                .unwrap()
                .time_limit(Duration::from_secs(30));
            store.migrate().await.unwrap();
            let keys = ApiKeys::builder(store).build().unwrap();
            keys.issue(format!("account {number}")).await.unwrap();
        })
    });
    for task in opened.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let store = SqliteStore::open(folder.file()).await.unwrap();
    assert_eq!(store.verify_trail().await.unwrap().keys, 24);
}

#[tokio::test]
async fn a_store_without_tables_says_what_to_do() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.file()).await.unwrap();
    let error = store.find(&KeyId::from_bytes([1; 16])).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("migrate()"), "{source}");
    store.migrate().await.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.find(&KeyId::from_bytes([1; 16])).await.unwrap(), None);
    // Another prefix is another store, which has no tables yet.
    let other = store.clone().table_prefix("other_").unwrap();
    let error = other.find(&KeyId::from_bytes([1; 16])).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    other.migrate().await.unwrap();
    assert!(store.clone().table_prefix("Robert'); --").is_err());
    assert!(store.table_prefix("").is_err());
}

#[tokio::test]
async fn tables_of_a_newer_version_are_used_or_refused() {
    let sqlite = Sqlite::new().await;
    let id = KeyId::from_bytes([1; 16]);
    let open = async || SqliteStore::open(sqlite.folder.file()).await.unwrap();
    sqlite
        .sql("INSERT INTO {migrations} VALUES (2, 'later', 0, 0)")
        .await;
    assert_eq!(open().await.find(&id).await.unwrap(), None);
    sqlite
        .sql("UPDATE {migrations} SET is_breaking = 1 WHERE number = 2")
        .await;
    let error = open().await.find(&id).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("newer tower-api-key"), "{source}");
}

#[tokio::test]
async fn the_migrations_can_be_carried_out_by_hand() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.file()).await.unwrap();
    let path = folder.file();
    let mut connection = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    for migration in store.migrations() {
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(migration.sql));
        sql.execute(&mut connection).await.unwrap();
    }
    conformance::managed_key_store(&store).await;
    store.migrate().await.unwrap();
}

#[tokio::test]
async fn a_database_in_memory_is_refused_and_a_file_is_private() {
    for path in [
        "",
        ":memory:",
        "file:m?mode=memory&cache=shared",
        "file:keys.db",
    ] {
        let error = SqliteStore::open(path).await.unwrap_err();
        assert!(matches!(error, OpenError::InMemory), "{error}");
    }
    let error = SqliteStore::open("/nonexistent/folder/keys.db")
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "{error}");
    let sqlite = Sqlite::new().await;
    for name in ["keys.db", "keys.db-wal", "keys.db-shm"] {
        use std::os::unix::fs::PermissionsExt;
        let path = sqlite.folder.0.join(name);
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// Invariant 2: a plaintext key is in no table.
#[tokio::test]
async fn invariant_2_no_plaintext_is_in_the_file() {
    let sqlite = Sqlite::new().await;
    let keys = ApiKeys::builder(sqlite.store.clone()).build().unwrap();
    let key = keys.issue("canary").name("bird").await.unwrap();
    keys.suspend(key.id()).reason("test").await.unwrap();
    keys.verify(key.expose_secret()).await.unwrap_err();
    let secret = key.expose_secret().split('_').next_back().unwrap();
    let mut all = Vec::new();
    for name in ["keys.db", "keys.db-wal", "keys.db-shm"] {
        all.extend(std::fs::read(sqlite.folder.0.join(name)).unwrap());
    }
    let has = |text: &[u8]| all.windows(text.len()).any(|part| part == text);
    assert!(
        has(b"canary") && has(b"bird"),
        "the search finds what is there"
    );
    assert!(!has(secret.as_bytes()));
}

#[tokio::test]
async fn dropped_calls_leave_the_store_whole() {
    let sqlite = Sqlite::new().await;
    let keys = ApiKeys::builder(sqlite.store.clone()).build().unwrap();
    let key = keys.issue("acme").await.unwrap();
    for number in 0..200_u64 {
        let limit = Duration::from_micros(number * 10);
        let id = key.id();
        let _ = tokio::time::timeout(limit, sqlite.store.find(&id)).await;
        let _ = tokio::time::timeout(limit, keys.issue("acme").into_future()).await;
    }
    keys.issue("acme").await.unwrap();
    assert!(sqlite.store.verify_trail().await.unwrap().is_ok());
}
