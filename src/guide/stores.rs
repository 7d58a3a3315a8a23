//! Keep keys in SQLite or PostgreSQL.
//!
//! # Choose a store
//!
//! | store | for | needs | after a restart |
//! |---|---|---|---|
//! | [`MemoryStore`] | tests, first steps | nothing | all keys are lost |
//! | [`SqliteStore`] | processes of one machine | a local disk | all keys are kept |
//! | [`PostgresStore`] | processes of many machines | PostgreSQL 13 or newer | all keys are kept |
//! | [`StaticStore`] | a few keys of operators | a file or a variable | the keys are read again |
//! | a table of yours | keys that are managed elsewhere | a [`KeyStore`] | as in your table |
//!
//! The features `sqlite` and `postgres` add the two stores in databases. Both need Rust 1.94 and
//! the runtime of tokio. The chapter [`own_table`] describes a table of yours.
//!
//! The two stores share their tables and methods:
//!
//! - A change is one transaction. Records, audit trail and events are written together or not at
//!   all, and are on disk when the call returns.
//! - A change by one process reaches the other processes within 50 ms in PostgreSQL, and within
//!   200 ms in SQLite.
//! - Each change has a record in the audit trail, and an edit of the trail can be found.
//! - The database contains a hash of each key, and never the key.
//!
//! # SQLite
//!
//! The service below keeps its keys in a file, and prints a key at its first start.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # mod program {
//! use axum::routing::get;
//! use axum::{Extension, Router};
//! use tower_api_key::key::KeyFormat;
//! use tower_api_key::store::{AuditKey, KeyQuery, Paging, SqliteStore};
//! use tower_api_key::{ApiKeys, Caller, Environment};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // For example, the output of `openssl rand -hex 32`.
//!     let audit_key = AuditKey::from_hex(&std::env::var("AUDIT_KEY")?)?;
//!     let store = SqliteStore::open("keys.db").await?.audit_key(audit_key);
//!     store.migrate().await?; // creates the tables, or updates older ones
//!
//!     let keys = ApiKeys::builder(store.clone())
//!         .formats([KeyFormat::new("acme_live", Environment::LIVE)?])
//!         .build()?;
//!     if keys.list(&KeyQuery::new(), &Paging::first(1)).await?.items.is_empty() {
//!         println!("{}", keys.issue("globex").await?.expose_secret());
//!     }
//!
//!     let (stop_worker, stopped) = tokio::sync::oneshot::channel::<()>();
//!     let worker = tokio::spawn(keys.worker().until(async {
//!         let _ = stopped.await;
//!     }));
//!
//!     let app = Router::new().route("/v1/whoami", get(whoami)).layer(keys.layer());
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app).with_graceful_shutdown(stop_signal()).await?;
//!
//!     drop(stop_worker);
//!     worker.await?; // records the last uses of keys
//!     store.close().await;
//!     Ok(())
//! }
//!
//! async fn whoami(Extension(caller): Extension<Caller>) -> String {
//!     caller.account().to_owned()
//! }
//!
//! async fn stop_signal() {
//!     let _ = tokio::signal::ctrl_c().await; // on Unix, wait for SIGTERM as well
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! ```toml
//! [dependencies]
//! axum = "0.8"
//! tokio = { version = "1", features = ["full"] }
//! tower-api-key = { path = "../tower-api-key", features = ["sqlite"] }
//! ```
//!
//! - SQLite itself is compiled into the program, with a C compiler. Another crate that links SQLite
//!   must accept the same version of `libsqlite3-sys`.
//! - On Unix, only the owner can read or write a file that the store created. SQLite keeps two more
//!   files beside the database, with the suffixes `-wal` and `-shm`.
//! - Several processes of one machine can use the file. Put the file on a local disk: the locks of
//!   network file systems do not work.
//! - The tables begin with `api_key_`, so that the file can have tables of the application, too.
//!   `table_prefix` sets another prefix.
//!
//! # PostgreSQL
//!
//! The store uses the application's own pool:
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # async fn set_up() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_api_key::ApiKeys;
//! use tower_api_key::store::PostgresStore;
//! use tower_api_key::store::sqlx::postgres::PgPoolOptions;
//!
//! let url = std::env::var("DATABASE_URL")?;
//! let pool = PgPoolOptions::new().max_connections(20).connect(&url).await?;
//! let store = PostgresStore::new(pool.clone());
//! store.migrate().await?;
//! let keys = ApiKeys::builder(store).build()?;
//! # Ok(())
//! # }
//! ```
//!
//! - The pool must connect to the primary, and not to a standby that may lag.
//! - The tables are in the schema `tower_api_key`. `schema` and `table_prefix` set other names.
//! - Each commit is synchronous and `READ COMMITTED`, whatever the defaults of the database are.
//! - The crate enables no TLS feature of `sqlx`. Enable one in the application:
//!
//!   ```toml
//!   [dependencies.sqlx]
//!   version = "0.9"
//!   default-features = false
//!   features = ["tls-rustls-ring-native-roots"]
//!   ```
//! - `sqlx` uses prepared statements. Behind `pgbouncer`, use session mode, or transaction mode
//!   with version 1.21 or newer and `max_prepared_statements` above 0. In transaction mode,
//!   notifications do not arrive: see [Several processes](#several-processes).
//!
//! # Import existing keys
//!
//! A table with the SHA-256 of each key can be moved into a store. The owners of the keys notice
//! nothing:
//!
//! ```
//! use std::time::SystemTime;
//!
//! use tower_api_key::key::{Alphabet, KeyDigest, KeyFormat, Revocation};
//! use tower_api_key::store::Actor;
//! use tower_api_key::{ApiKeys, Environment, KeyRecord, MemoryStore};
//!
//! struct Row {
//!     key_sha256: String,
//!     customer: String,
//!     scopes: String,
//!     created_at: SystemTime,
//!     revoked_at: Option<SystemTime>,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let key = "acme-0123456789abcdef0123456789abcdef01234567";
//! # let rows = vec![Row {
//! #     key_sha256: KeyDigest::of(key).to_hex(),
//! #     customer: "globex".to_owned(),
//! #     scopes: "reports:read".to_owned(),
//! #     created_at: SystemTime::now(),
//! #     revoked_at: None,
//! # }];
//! # let store = MemoryStore::new();
//! let keys = ApiKeys::builder(store)
//!     .formats([
//!         KeyFormat::new("acme_live", Environment::LIVE)?, // issued from now on
//!         KeyFormat::imported("acme-", Alphabet::HEX, 40..=40, Environment::LIVE)?,
//!     ])
//!     .build()?;
//!
//! let mut records = Vec::new();
//! for row in rows {
//!     let digest = KeyDigest::from_hex(&row.key_sha256).ok_or("key_sha256 is not 64 hex digits")?;
//!     let record = KeyRecord::imported(digest, row.customer)
//!         .with_scopes(row.scopes.parse()?)
//!         .with_created_at(row.created_at)
//!         .with_revoked(row.revoked_at.map(Revocation::new));
//!     records.push(record);
//! }
//! let imported = keys.import(records).by(Actor::service("import")).await?;
//! println!("{} keys imported, {} existed already", imported.created, imported.existing);
//! # assert_eq!((imported.created, imported.existing), (1, 0));
//!
//! assert_eq!(keys.verify(key).await?.account(), "globex");
//! # Ok(())
//! # }
//! ```
//!
//! - Stop all changes of the old table before the import. A key that exists in the store is left as
//!   it is, so a later revocation in the old table would be lost.
//! - Import revoked and expired keys, too, so that their owners are told the reason of a refusal.
//! - [`ApiKeys::import`] commits 500 keys at a time. After an error, repeat the import: the keys
//!   that exist already are left out.
//! - Records that [`ApiKeys::list`] returns can be imported as well, to move from SQLite to
//!   PostgreSQL for example. The audit trail is not moved.
//! - If the old table has only a slow hash of each key, such as Argon2, use
//!   [`ApiKeysBuilder::dangerous_adopt`]. The function of the application gets a [`KeyToAdopt`]. At
//!   most one per processor exists at a time: drop it when the hash is computed. The chapter
//!   [`own_table`] tells which tables can be used as they are.
//!
//! # Migrations
//!
//! `migrate` creates the tables, or updates those of an older version of the library. A call at
//! each start is safe, in any number of processes: one of them migrates, and the others wait.
//!
//! The first call of a store checks the version of the tables. Older or missing tables are an error
//! that asks for `migrate`. Newer tables are accepted if all later migrations are additive, and
//! refused if one of them is breaking.
//!
//! For a rolling deployment, run the migrations first, and then replace the processes:
//!
//! - After an additive migration, older processes continue to work.
//! - After a breaking migration, the store of an older process that starts refuses all calls. A
//!   process that already runs is not checked again, so stop the older processes before a breaking
//!   migration. `Migration::is_breaking` tells which migrations are breaking.
//!
//! ## Without the right to create tables
//!
//! In production, the role of the service should not own its tables. Run the migrations as another
//! role, either with `migrate` in a program of its own, or by hand:
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # fn print(store: &tower_api_key::store::PostgresStore) {
//! for migration in store.migrations() {
//!     println!("-- {} {}\nBEGIN;\n{}COMMIT;", migration.number, migration.name, migration.sql);
//! }
//! # }
//! ```
//!
//! Run the migrations whose number is not in the table `migrations` yet, in order. Each migration
//! adds its own number. If the service still calls `migrate`, there is nothing to do, and no right
//! to create is needed. The role of the service needs the following rights:
//!
//! ```sql
//! GRANT USAGE ON SCHEMA tower_api_key TO service;
//! GRANT SELECT ON ALL TABLES IN SCHEMA tower_api_key TO service;
//! GRANT INSERT, UPDATE ON tower_api_key.keys, tower_api_key.uses, tower_api_key.usage,
//!     tower_api_key.flushes, tower_api_key.requests, tower_api_key.endpoints,
//!     tower_api_key.deliveries, tower_api_key.profiles TO service;
//! GRANT INSERT, UPDATE ON tower_api_key.marks TO service;
//! GRANT INSERT ON tower_api_key.trail, tower_api_key.events, tower_api_key.told TO service;
//! GRANT DELETE ON tower_api_key.flushes TO service;
//! -- Only for a role that deletes endpoints:
//! GRANT DELETE ON tower_api_key.endpoints, tower_api_key.deliveries TO service;
//! -- Only for a role that purges keys or events:
//! GRANT DELETE ON tower_api_key.keys, tower_api_key.uses, tower_api_key.requests,
//!     tower_api_key.events, tower_api_key.deliveries, tower_api_key.told,
//!     tower_api_key.profiles TO service;
//! ```
//!
//! Run these statements again after a migration that adds tables. A process that only verifies keys
//! ([`ApiKeys::read_only`]) needs `USAGE` and `SELECT`, and records no uses.
//!
//! # The audit trail
//!
//! Each version of a key has one record: the actor, the time, the reason and the changed fields.
//! [`ApiKeys::trail`] reads the records. Each record is hashed with the state of the key, and with
//! the hash of the record before. [`AuditKey`] is the secret under which the hashes are computed:
//!
//! - Use at least 32 random bytes, and keep them outside of the database and its backups.
//! - Set the audit key before the first key is issued, and set the same one in all processes. If
//!   the audit key is set, changed or lost later, all earlier records count as edited.
//! - Without an audit key, the check finds accidents only. An attacker who knows this library can
//!   compute the hashes again.
//!
//! Check the trail regularly, for example once a day:
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # async fn check(
//! #     store: tower_api_key::store::SqliteStore,
//! # ) -> Result<(), tower_api_key::store::StoreError> {
//! let report = store.verify_trail().await?;
//! for broken in &report.broken {
//!     eprintln!("{broken}"); // raise an alert
//! }
//! println!("{} keys and {} records checked", report.keys, report.records);
//! # Ok(())
//! # }
//! ```
//!
//! | edit | fault |
//! |---|---|
//! | a record was edited | [`Edited`] |
//! | a record was deleted or exchanged, or the last ones were cut off | [`Missing`] |
//! | the row of a key was edited | [`KeyEdited`] |
//! | the row of a key was deleted | [`KeyDeleted`] |
//!
//! The next change of a key does not cover an edit: the change breaks the chain, so the fault stays
//! in all later reports. The key can still be changed and revoked.
//!
//! Three edits are not found, even with an audit key:
//!
//! - a key that was deleted together with its whole trail;
//! - a key that was set back to an earlier version, together with its trail, such as a revoked key
//!   whose revocation was deleted from both tables;
//! - a restored backup, which sets back all keys.
//!
//! All three take records out of the trail. In PostgreSQL, a role with the rights above can neither
//! delete nor update records. Take these rights from a role that was granted more:
//!
//! ```sql
//! REVOKE UPDATE, DELETE, TRUNCATE ON tower_api_key.trail FROM service;
//! ```
//!
//! The owner of a table can grant itself all rights again, so the role of the service must not be
//! the owner. SQLite has no roles: whoever can write the file can delete records. To find
//! deletions, export new records of the trail to another system, and compare. The numbers of keys
//! and records in a report never fall without a purge.
//!
//! `purge_trail` deletes old records. The last record of a key is kept for as long as the key
//! exists. A sealed stub takes the place of the deleted records, so the check can tell a purge from a deletion. A broken trail is
//! left as it is. Purge with the same audit key, as a role with `DELETE` on `trail`, and `INSERT`
//! and `UPDATE` on `stubs` and `marks`.
//!
//! # First and last uses
//!
//! While a [worker](crate::ApiKeys::worker) runs, requests that are admitted are noted as uses.
//! Lists return [`first_used_at`] and [`last_used_at`] of each key, and [`ApiKeys::find_listed`]
//! those of one key:
//!
//! - The first use is recorded within a second, and the last use within 37 seconds, with the
//!   [usage](super::usage). A key in constant use is written twice a minute by each process.
//! - Each batch of uses has a number, and is recorded once even if a response is lost.
//! - A crash loses the uses since the last record. During an outage of the database, the uses of
//!   up to 100,000 keys wait in memory.
//! - The address of the last use is stored in the table `uses`, unless the builder was told to
//!   [`log_without_addresses`].
//! - A store that records no usage refuses `find_listed`, and does not claim that a key was never
//!   used.
//!
//! [`KeyOrder::LeastRecentlyUsed`] lists the keys that can probably be revoked: first those that
//! were never used, and then those that were not used for the longest time. The chapter
//! [`rotation`] shows how old keys are retired.
//!
//! # Lists
//!
//! A page continues after the last key of the page before, so each page costs the same. For one
//! page, the store reads at most 2,000 rows. A page under a filter can therefore be short or empty
//! before the end: read on until [`Page::next`] is `None`.
//!
//! For people, the view `keys_readable` shows ids in hexadecimal digits, times as text, and the
//! first and last use of each key:
//!
//! ```sql
//! SELECT * FROM tower_api_key.keys_readable WHERE account = 'globex'; -- PostgreSQL
//! SELECT * FROM api_key_keys_readable WHERE account = 'globex'; -- SQLite
//! ```
//!
//! # Several processes
//!
//! Both stores have a feed of their changes, which the worker of each process follows:
//!
//! - A revocation takes effect at once in the process that revokes. All others know of it within
//!   50 ms in PostgreSQL, and within 200 ms in SQLite, beside the time on the network. No setting
//!   is needed.
//! - If a process runs no worker, or loses the connection to the database, a revocation takes
//!   effect after [`Cache::max_staleness`] at the latest.
//! - Each worker asks for changes with two short queries, every 100 ms in SQLite and every 250 ms
//!   in PostgreSQL.
//! - In PostgreSQL, each change sends a notification (`NOTIFY`) when it is committed, at which the
//!   workers ask at once, up to 200 times a second. The channel has the names of schema and prefix:
//!   `tower_api_key.` by default. The notification is empty, and nothing depends on it: if it is
//!   lost, the next query finds the change.
//! - For notifications, each worker has one more connection to the server, beside the pool. It is
//!   made with the options of the pool, but `after_connect` of the pool is not run on it. It is
//!   tested when it is made, each 30 s, and when a change was found without a notification, and
//!   replaced if it is dead. With PostgreSQL 14 or newer, the server ends it if nobody tests it for
//!   5 minutes.
//! - If the log says `LISTEN does not work here`, a revocation takes up to 300 ms, since
//!   notifications do not arrive: behind `pgbouncer` in transaction mode, for example, where the
//!   worker does not listen, as that would disturb other queries. A pool that connects to the server
//!   itself, or to `pgbouncer` in session mode, has the notifications back.
//! - The server commits transactions with a notification one after another. If there are hundreds
//!   of changes of keys a second, switch notifications off in all processes, with
//!   `PostgresStore::without_notify`. A revocation then takes up to 300 ms.
//! - Limits are counted by each process on its own.
//!
//! # Backups
//!
//! For SQLite, use a command that takes a consistent snapshot while the file is in use. The program
//! `sqlite3` must be of version 3.37 or newer.
//!
//! ```sh
//! umask 077
//! sqlite3 keys.db "VACUUM INTO '/backup/keys.db'" # or ".backup /backup/keys.db"
//! ```
//!
//! Never copy the files with `cp` while a process uses them: the copy mixes several states, and can
//! miss the latest changes in the `-wal` file.
//!
//! For PostgreSQL, use `pg_dump`, or a backup of the whole server:
//!
//! ```sh
//! pg_dump --schema=tower_api_key --format=custom --file=keys.dump "$DATABASE_URL"
//! ```
//!
//! A backup contains no key, but accounts, addresses and the hash of each key.
//!
//! ## Restore
//!
//! A backup is an earlier state, and a restore revives it:
//!
//! - Keys that were revoked or suspended after the backup are live again.
//! - Keys that were issued after the backup are unknown.
//! - The versions of keys go back. A running process remembers the later versions of the latest
//!   changes, and does not trust the older records.
//! - `verify_trail` finds nothing, since an old state is whole.
//!
//! Therefore restore in this order:
//!
//! 1. Stop all processes.
//! 2. Restore all tables together. For SQLite, first delete the files with the suffixes `-wal` and
//!    `-shm`.
//! 3. Call `migrate`. If a dump of PostgreSQL was restored into another server, this adapts the
//!    tables: each row has the number of its transaction, which means nothing in another server.
//!    Until then, calls are refused.
//! 4. Revoke again the keys that were revoked after the backup, before any process serves requests.
//!    Only an export of the trail in another system tells which ones.
//! 5. Start the processes.
//!
//! After a restore into another server, a reader of events begins with `Start::Beginning` or
//! `Start::Now`: a cursor of the other server is refused.
//!
//! A failover to an asynchronous standby has the same effect for the changes that were not yet
//! replicated. Continuous archiving or a synchronous standby keeps the gap small.
//!
//! # Timeouts and pools
//!
//! | time | limit | setting |
//! |---|---|---|
//! | the lookup of a key for a request | 2 s | [`Cache::store_time_limit`] |
//! | any call of the store, with the wait for a connection | 5 s | `time_limit` |
//! | `migrate` | none, since a large table may take minutes | none |
//! | the wait for a lock in SQLite | 5 s | none |
//!
//! - A call that takes too long fails with [`Unavailable`], and its connection is closed.
//! - A commit that has begun is finished, even if the caller goes away. If the connection is lost
//!   during a commit, the store tries again, and recognizes a change that was carried out already.
//! - A change that failed with [`Unavailable`] may have been carried out. A revocation or a
//!   suspension can be repeated. For a failed `issue`, see the chapter
//!   [`issuing`](crate::guide::issuing), and for a failed `rotate`, the chapter [`rotation`].
//! - In SQLite, each process has one connection that writes and up to 4 that read. All writes to
//!   the file, by all processes, come one after another.
//! - In PostgreSQL, reads of the store use at most half of the connections of the pool, so that
//!   the application's own queries are not starved.
//!
//! # Sizes
//!
//! | disk space, with indexes | SQLite | PostgreSQL |
//! |---|---|---|
//! | a key with its first record of the trail | 1.3 KB | 1.8 KB |
//! | each further change of a key | up to 0.8 KB | up to 0.9 KB |
//! | an event, until it is purged | 0.4 KB | 0.5 KB |
//! | a day on which a key is used, for requests and for each further unit | 0.3 KB | 0.4 KB |
//! | a request | none | none |
//!
//! Reasons, metadata and names add their own length. Each change of a key is an event, too.
//! `purge_trail` and `purge_events` bound the growth by changes, and `purge_usage` that by use. Usage
//! by hour takes a row for each
//! hour instead of each day. Each start of a worker adds a row of less than 100 bytes to `flushes`. A
//! later start deletes it when the process has recorded no use for 30 days. With anomaly detection, each
//! key that is used has a row of about 300 bytes in `profiles`, which goes with the key.
//!
//! [`ApiKeysBuilder::dangerous_adopt`]: crate::ApiKeysBuilder::dangerous_adopt
//! [`ApiKeys::find_listed`]: crate::ApiKeys::find_listed
//! [`ApiKeys::import`]: crate::ApiKeys::import
//! [`ApiKeys::list`]: crate::ApiKeys::list
//! [`ApiKeys::read_only`]: crate::ApiKeys::read_only
//! [`ApiKeys::trail`]: crate::ApiKeys::trail
//! [`AuditKey`]: crate::store::AuditKey
//! [`Edited`]: crate::store::TrailFault::Edited
//! [`KeyDeleted`]: crate::store::TrailFault::KeyDeleted
//! [`KeyEdited`]: crate::store::TrailFault::KeyEdited
//! [`Missing`]: crate::store::TrailFault::Missing
//! [`Cache::max_staleness`]: crate::Cache::max_staleness
//! [`Cache::store_time_limit`]: crate::Cache::store_time_limit
//! [`KeyOrder::LeastRecentlyUsed`]: crate::store::KeyOrder::LeastRecentlyUsed
//! [`KeyStore`]: crate::KeyStore
//! [`KeyToAdopt`]: crate::manage::KeyToAdopt
//! [`MemoryStore`]: crate::MemoryStore
//! [`Page::next`]: crate::store::Page::next
//! [`StaticStore`]: crate::store::StaticStore
//! [`Unavailable`]: crate::store::StoreErrorKind::Unavailable
//! [`first_used_at`]: crate::store::ListedKey::first_used_at
//! [`last_used_at`]: crate::store::ListedKey::last_used_at
//! [`log_without_addresses`]: crate::ApiKeysBuilder::log_without_addresses
//! [`own_table`]: crate::guide::own_table
//! [`rotation`]: crate::guide::rotation
#![cfg_attr(feature = "sqlite", doc = "[`SqliteStore`]: crate::store::SqliteStore")]
#![cfg_attr(not(feature = "sqlite"), doc = "[`SqliteStore`]: crate::store")]
#![cfg_attr(
    feature = "postgres",
    doc = "[`PostgresStore`]: crate::store::PostgresStore"
)]
#![cfg_attr(not(feature = "postgres"), doc = "[`PostgresStore`]: crate::store")]
