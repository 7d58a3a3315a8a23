//! Verify keys that are already in a table of yours.
//!
//! A service that has issued keys before has a table with a hash of each key. If the hash is the
//! SHA-256 of the whole key, no migration is needed and no key is issued again: implement
//! [`KeyStore`], which has one required method. To move the keys into SQLite or PostgreSQL instead,
//! see the chapter [`stores`](crate::guide::stores).
//!
//! # Can the table be used?
//!
//! | the table contains | usable |
//! |---|---|
//! | SHA-256 of the key, as bytes or lower-case hex, under a unique ordered index | as it is |
//! | SHA-256 in another encoding | add a column or an index with the bytes |
//! | the keys themselves, in plain text | add a column with their SHA-256, then drop the keys |
//! | bcrypt, argon2, or a salted hash | no: adopt the keys, or issue new ones |
//!
//! The library looks up a key by its [`KeyId`], the first 16 bytes of its SHA-256, and the id
//! cannot be computed from a salted hash. A fast hash is enough for a key, unlike for a password,
//! since a random key of 112 bits or more cannot be guessed.
//!
//! [`ApiKeysBuilder::dangerous_adopt`] verifies each key once by its slow hash, and keeps its
//! SHA-256 in a store of this library.
//!
//! # One method
//!
//! [`KeyStore::find`] takes a [`KeyId`], and returns the record of the key. All SHA-256 that begin
//! with the id lie between two bounds, which [`KeyId::hex_range`] returns as hex and
//! [`KeyId::sha256_range`] as bytes. A `BETWEEN` over the index finds the row.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::time::SystemTime;
//!
//! use tower_api_key::key::{Alphabet, KeyDigest, KeyFormat, Revocation};
//! use tower_api_key::store::StoreError;
//! use tower_api_key::{ApiKeys, Environment, KeyId, KeyRecord, KeyStore};
//!
//! /// In a real service, a connection pool. Here, a map with the hex digits of the SHA-256 as key.
//! struct MyTable {
//!     rows: BTreeMap<String, Row>,
//! }
//!
//! struct Row {
//!     customer: String,
//!     scopes: String,
//!     expires_at: Option<SystemTime>,
//!     revoked_at: Option<SystemTime>,
//! }
//!
//! impl KeyStore for MyTable {
//!     async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
//!         // SELECT key_sha256, customer, scopes, expires_at, revoked_at
//!         // FROM api_keys WHERE key_sha256 BETWEEN $1 AND $2
//!         let (first, last) = id.hex_range();
//!         let Some((sha256, row)) = self.rows.range(first..=last).next() else {
//!             return Ok(None);
//!         };
//!         let digest =
//!             KeyDigest::from_hex(sha256).ok_or_else(|| StoreError::corrupt("key_sha256"))?;
//!         let scopes = row.scopes.parse().map_err(|_| StoreError::corrupt("scopes"))?;
//!         let record = KeyRecord::imported(digest, &row.customer)
//!             .with_scopes(scopes)
//!             .with_expires_at(row.expires_at)
//!             .with_revoked(row.revoked_at.map(Revocation::new));
//!         Ok(Some(record))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let key = "acme-0123456789abcdef0123456789abcdef01234567";
//! # let stopped = "acme-0123456789abcdef0123456789abcdef01234568";
//! # let row = |revoked_at| Row {
//! #     customer: "globex".to_owned(),
//! #     scopes: "reports:read".to_owned(),
//! #     expires_at: None,
//! #     revoked_at,
//! # };
//! # let table = MyTable {
//! #     rows: [
//! #         (KeyDigest::of(key).to_hex(), row(None)),
//! #         (KeyDigest::of(stopped).to_hex(), row(Some(SystemTime::now()))),
//! #     ]
//! #     .into(),
//! # };
//! // The syntax of the keys: `acme-`, and 40 hexadecimal digits.
//! let format = KeyFormat::imported("acme-", Alphabet::HEX, 40..=40, Environment::LIVE)?;
//! let keys = ApiKeys::read_only(table).formats([format]).build()?;
//!
//! assert_eq!(keys.verify(key).await?.account(), "globex");
//! assert_eq!(keys.verify(stopped).await.unwrap_err().code(), "api_key_revoked");
//! # Ok(())
//! # }
//! ```
//! Follow four rules:
//!
//! - Return `Ok(None)` only if the key certainly does not exist. In any other case return an error,
//!   which becomes a 503: [`StoreError::unavailable`] if the database does not answer,
//!   [`StoreError::corrupt`] if a row is invalid.
//! - Return revoked, suspended and expired keys, too, with `with_revoked`, `with_suspended` and
//!   `with_expires_at`. With `WHERE revoked_at IS NULL` in the query, the owner of a revoked key
//!   would be told that the key does not exist.
//! - Take the digest from the row. The library passes only the id to the store, and compares the
//!   whole digest itself, in constant time.
//! - Let errors name the column, but not its content, since errors are logged.
//!
//! A text column must be compared byte by byte: use `COLLATE "C"` in PostgreSQL, and a binary
//! collation in MySQL.
//!
//! # The syntax of keys
//!
//! [`KeyFormat::imported`] takes the lead of the keys (the text that each key begins with), their
//! alphabet, and their length. Other texts are refused without a query. A format of less than 112
//! bits is an error, since such keys can be guessed; [`KeyFormat::dangerous_guessable`] accepts the
//! format, and describes the risk.
//!
//! List every format that is still in use. New keys can have another format than old ones:
//!
//! ```
//! use tower_api_key::key::{Alphabet, KeyFormat};
//! use tower_api_key::{ApiKeys, Environment, MemoryStore};
//!
//! # let store = MemoryStore::new();
//! let keys = ApiKeys::builder(store)
//!     .formats([
//!         KeyFormat::new("acme_live", Environment::LIVE)?, // issued from now on
//!         KeyFormat::imported("acme-", Alphabet::HEX, 40..=40, Environment::LIVE)?,
//!         KeyFormat::imported("", Alphabet::UUID, 36..=36, Environment::LIVE)?,
//!     ])
//!     .build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A key without a lead, such as a UUID, cannot be distinguished from a user's token. The layer
//! therefore reads such keys from `X-API-Key` and `Authorization: ApiKey`, and not from `Bearer`.
//!
//! # From columns to a record
//!
//! | column | method of [`KeyRecord`] | default |
//! |---|---|---|
//! | customer | [`imported`](crate::KeyRecord::imported) | (required) |
//! | scopes | `with_scopes` | no scope |
//! | expiry | `with_expires_at` | never expires |
//! | revoked at | `with_revoked` | not revoked |
//! | suspended at | `with_suspended` | not suspended |
//! | environment | `with_environment` | that of the format |
//! | plan | `with_plan` | the default plan |
//! | allowed networks | `with_networks` | any network |
//! | created at | `with_created_at` | the key is deprecated for its last 30 days |
//! | number of changes | `with_version` | 1 |
//!
//! # Verify only
//!
//! [`ApiKeys::read_only`] creates an `ApiKeys<ReadOnly>`. Layers, [`ApiKeys::verify`] and
//! [`ApiKeys::find`] work as with any store. Calls that change keys, such as `issue` and `revoke`,
//! do not compile: your service manages its keys itself. To manage keys with the library, implement
//! [`ManagedKeyStore`] as well, or import the keys into one of its [stores](crate::guide::stores).
//!
//! A [`StoreChain`] combines a table with keys of a file or an environment variable
//! ([`StaticStore`]).
//!
//! # The cache, and stale keys
//!
//! A key that was found is cached for 10 seconds, and a key that was not found for 1 second,
//! without another query. A thousand concurrent requests with the same uncached key make one query.
//! The status is derived at each request, so a cached key expires on time.
//!
//! A key that is revoked in the table is admitted for up to 10 more seconds. Three settings shorten
//! the delay:
//!
//! - [`Cache::max_staleness`] sets the maximum. [`Cache::none`] caches nothing.
//! - [`ApiKeys::invalidate`] drops a key from the cache of this process. Call it after a row was
//!   changed.
//! - A [`ChangeFeed`] tells each process which keys were changed, and the worker of the process
//!   drops these keys from the cache. PostgreSQL's `LISTEN` or an outbox table can provide the
//!   feed.
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_api_key::{ApiKeys, Cache, KeyId, KeyStore};
//!
//! # fn set_up(table: impl KeyStore, id: &KeyId) -> Result<(), tower_api_key::BuildError> {
//! let cache = Cache::new()
//!     .max_staleness(Duration::from_secs(3))
//!     .store_time_limit(Duration::from_millis(500));
//! let keys = ApiKeys::read_only(table).cache(cache).build()?;
//!
//! // UPDATE api_keys SET revoked_at = now() WHERE …
//! keys.invalidate(id);
//! # Ok(())
//! # }
//! ```
//!
//! A query fails after 2 seconds, unless [`Cache::store_time_limit`] sets another time. At most
//! 1,024 queries run at a time ([`Cache::max_loads`]).
//!
//! A store with a cache of its own, such as Redis in front of the database, also implements
//! [`KeyStore::find_at_least`], and returns the age of a cached record, so that the two caches do
//! not add up to a longer delay.
//!
//! # The conformance suite
//!
//! With the feature `conformance`, a suite checks the contract of [`KeyStore`]. Call the suite in a
//! test, with records that the test database contains:
//!
//! ```
//! # #[cfg(feature = "conformance")]
//! # mod suite {
//! use tower_api_key::key::KeyDigest;
//! use tower_api_key::{KeyRecord, MemoryStore, conformance};
//!
//! # pub async fn run() {
//! let held = KeyRecord::imported(KeyDigest::of("a key of the test table"), "globex");
//! let table: MemoryStore = [held.clone()].into_iter().collect(); // yours
//! conformance::key_store(&table, &[held]).await;
//! # }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! #     #[cfg(feature = "conformance")]
//! #     suite::run().await;
//! # }
//! ```
//!
//! The suite panics with `broken promise: …` at the first violation. For a [`ManagedKeyStore`], use
//! `conformance::managed_key_store`, and for a [`ChangeFeed`], `conformance::change_feed`.
//!
//! [`ApiKeysBuilder::dangerous_adopt`]: crate::ApiKeysBuilder::dangerous_adopt
//! [`ApiKeys::find`]: crate::ApiKeys::find
//! [`ApiKeys::invalidate`]: crate::ApiKeys::invalidate
//! [`ApiKeys::read_only`]: crate::ApiKeys::read_only
//! [`ApiKeys::verify`]: crate::ApiKeys::verify
//! [`Cache::max_loads`]: crate::Cache::max_loads
//! [`Cache::max_staleness`]: crate::Cache::max_staleness
//! [`Cache::none`]: crate::Cache::none
//! [`Cache::store_time_limit`]: crate::Cache::store_time_limit
//! [`ChangeFeed`]: crate::store::ChangeFeed
//! [`KeyFormat::dangerous_guessable`]: crate::key::KeyFormat::dangerous_guessable
//! [`KeyFormat::imported`]: crate::key::KeyFormat::imported
//! [`KeyId`]: crate::KeyId
//! [`KeyId::hex_range`]: crate::KeyId::hex_range
//! [`KeyId::sha256_range`]: crate::KeyId::sha256_range
//! [`KeyRecord`]: crate::KeyRecord
//! [`KeyStore`]: crate::KeyStore
//! [`KeyStore::find`]: crate::KeyStore::find
//! [`KeyStore::find_at_least`]: crate::KeyStore::find_at_least
//! [`ManagedKeyStore`]: crate::ManagedKeyStore
//! [`StaticStore`]: crate::store::StaticStore
//! [`StoreChain`]: crate::store::StoreChain
//! [`StoreError::corrupt`]: crate::store::StoreError::corrupt
//! [`StoreError::unavailable`]: crate::store::StoreError::unavailable
