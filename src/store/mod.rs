//! The port to where records are kept.
//!
//! [`KeyStore`] is what the request path needs and cannot write; [`ManagedKeyStore`] adds what
//! issuing and revoking need. An application that has a table of keys implements the first.

mod error;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::key::text::InvalidRecord;
pub use error::{StoreError, StoreErrorKind};

/// Finds the record of a key.
///
/// The answer is waited for as long as [`Cache::store_time_limit`](crate::Cache::store_time_limit)
/// says; then the look is dropped where it stands, and counts as failed. It is asked for one key at
/// a time by all who need it, and not again while [`Cache`](crate::Cache) remembers.
///
/// The store receives the id, never the key or its digest, so that it cannot build the record from
/// what was presented. A failure is answered with 503; the safe direction is therefore to fail
/// whenever it is not certain that a key does not exist.
///
/// With the feature `conformance`, `conformance::key_store` asks an implementor what is promised
/// here.
///
/// ```
/// use tower_api_key::{
///     Alphabet, ApiKeys, Environment, KeyFormat, KeyId, KeyRecord, KeyStore, StoreError,
/// };
///
/// struct MyTable { /* a connection pool */ }
///
/// impl KeyStore for MyTable {
///     async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
///         let (first, last) = id.hex_range();
///         // SELECT … WHERE key_sha256 BETWEEN first AND last
/// #       let _ = (first, last);
///         Ok(None)
///     }
/// }
///
/// // How the keys are written: what is written otherwise is refused, and not looked for.
/// let acme = KeyFormat::imported("acme-", Alphabet::HEX, 40..=40, Environment::LIVE)?;
/// let keys = ApiKeys::read_only(MyTable {}).formats([acme]).build()?;
/// let layer = keys.layer();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `KeyStore`",
    note = "implement `KeyStore::find` to use keys of your own table; no other method is needed",
    note = "or use `MemoryStore`"
)]
pub trait KeyStore: Send + Sync + 'static {
    /// The record of this id, or `None` if there certainly is none. A record of another id counts
    /// as [`StoreError::corrupt`].
    ///
    /// A key that was stopped is found, too, and says so: `with_revoked`, `with_suspended`,
    /// `with_expires_at`. Otherwise it opens the door, or its owner is told that it never was.
    fn find(
        &self,
        id: &KeyId,
    ) -> impl Future<Output = Result<Option<KeyRecord>, StoreError>> + Send;

    /// As [`find`](Self::find), for a store that keeps copies, such as a cache that a fleet shares:
    /// the record of at least this version, with the age of the copy.
    ///
    /// A copy of a lower version is known to be outdated: look further, to where the record comes
    /// from. The age counts against [`Cache::max_staleness`](crate::Cache::max_staleness), so that
    /// a copy of a copy does not serve twice as long. By default the record that `find` finds is as
    /// old as the call.
    fn find_at_least(
        &self,
        id: &KeyId,
        version: u64,
    ) -> impl Future<Output = Result<Option<AgedRecord>, StoreError>> + Send {
        let _ = version;
        async move { Ok(self.find(id).await?.map(AgedRecord::fresh)) }
    }
}

/// A record, and how old the copy is that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgedRecord {
    /// The record.
    pub record: KeyRecord,
    /// The time since the record was read from where it is certain.
    pub age: Duration,
}

impl AgedRecord {
    /// A record that was read just now.
    pub const fn fresh(record: KeyRecord) -> Self {
        Self::new(record, Duration::ZERO)
    }

    /// A record from a copy of this age.
    pub const fn new(record: KeyRecord, age: Duration) -> Self {
        Self { record, age }
    }
}

/// A store that keys can be issued into and changed in.
///
/// What was committed is found in every field; instants to the microsecond at least. With
/// the feature `conformance`, `conformance::managed_key_store` asks an implementor what is promised
/// here.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot change keys: it is not a `ManagedKeyStore`",
    note = "implement `ManagedKeyStore::find_committed` and `commit` to issue and revoke keys",
    note = "or use `ApiKeys::read_only`, which only verifies them"
)]
pub trait ManagedKeyStore: KeyStore {
    /// As [`find`](KeyStore::find), and certain: every change that was committed before the call is
    /// found.
    ///
    /// Requests go to `find`: where that lags, a key that was just issued is unknown for as long,
    /// and one that another process revoked is let in. Changes are built on this. Where `find` asks
    /// a replica, which may lag behind, or a cache, ask the primary here. Otherwise a key that
    /// seems to be revoked already is not revoked. Where `find` is certain, this is
    /// `self.find(id).await`.
    fn find_committed(
        &self,
        id: &KeyId,
    ) -> impl Future<Output = Result<Option<KeyRecord>, StoreError>> + Send;

    /// Carries out a change as one transaction: all of it, or nothing.
    ///
    /// - A record to create must not exist: [`StoreErrorKind::AlreadyExists`]. The database itself
    ///   decides that, not a look before the write.
    /// - A record to update must exist with the version before its own:
    ///   [`StoreErrorKind::Conflict`].
    /// - One change names each record once: a second time is an [`AlreadyExists`] or a
    ///   [`Conflict`].
    ///
    /// [`AlreadyExists`]: StoreErrorKind::AlreadyExists
    /// [`Conflict`]: StoreErrorKind::Conflict
    fn commit(&self, change: &Change) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Writes that belong together.
#[derive(Debug, Clone, Default)]
#[must_use = "a change does nothing until a store commits it"]
pub struct Change {
    creates: Vec<KeyRecord>,
    updates: Vec<KeyRecord>,
}

impl Change {
    /// A change that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record that must not exist yet, if [every store can keep it](KeyRecord::check).
    pub fn create(mut self, record: KeyRecord) -> Result<Self, InvalidRecord> {
        record.check()?;
        self.creates.push(record);
        Ok(self)
    }

    /// Replaces a record: the new one carries the version of the old one, plus one. It must be one
    /// that [every store can keep](KeyRecord::check).
    pub fn update(mut self, record: KeyRecord) -> Result<Self, InvalidRecord> {
        record.check()?;
        self.updates.push(record);
        Ok(self)
    }

    /// The records that must not exist yet.
    pub fn creates(&self) -> &[KeyRecord] {
        &self.creates
    }

    /// The records that must exist, each with the version before its own.
    pub fn updates(&self) -> &[KeyRecord] {
        &self.updates
    }
}

/// The object-safe twin of [`KeyStore`].
#[async_trait]
pub(crate) trait DynKeyStore: Send + Sync {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError>;

    async fn find_at_least(
        &self,
        id: &KeyId,
        version: u64,
    ) -> Result<Option<AgedRecord>, StoreError>;
}

#[async_trait]
impl<S: KeyStore> DynKeyStore for S {
    /// What was found, if it is what was asked for: nobody's key is judged or changed by the record
    /// of another.
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        asked_for(id, KeyStore::find(self, id).await?)
    }

    async fn find_at_least(
        &self,
        id: &KeyId,
        version: u64,
    ) -> Result<Option<AgedRecord>, StoreError> {
        let Some(found) = KeyStore::find_at_least(self, id, version).await? else {
            return Ok(None);
        };
        let age = found.age;
        let record = asked_for(id, Some(found.record))?;
        Ok(record.map(|record| AgedRecord::new(record, age)))
    }
}

/// What a store found, if it is what was asked for.
fn asked_for(id: &KeyId, found: Option<KeyRecord>) -> Result<Option<KeyRecord>, StoreError> {
    if found.as_ref().is_some_and(|record| record.id() != *id) {
        return Err(StoreError::corrupt(
            "it answered with the record of another key",
        ));
    }
    Ok(found)
}

/// The object-safe twin of [`ManagedKeyStore`].
#[async_trait]
pub(crate) trait DynManagedKeyStore: DynKeyStore {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError>;

    async fn commit(&self, change: &Change) -> Result<(), StoreError>;
}

#[async_trait]
impl<S: ManagedKeyStore> DynManagedKeyStore for S {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        asked_for(id, ManagedKeyStore::find_committed(self, id).await?)
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        ManagedKeyStore::commit(self, change).await
    }
}

impl fmt::Debug for dyn DynKeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyStore")
    }
}

impl fmt::Debug for dyn DynManagedKeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ManagedKeyStore")
    }
}

/// A shared store is a store.
impl<S: KeyStore> KeyStore for Arc<S> {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        KeyStore::find(&**self, id).await
    }

    async fn find_at_least(
        &self,
        id: &KeyId,
        version: u64,
    ) -> Result<Option<AgedRecord>, StoreError> {
        KeyStore::find_at_least(&**self, id, version).await
    }
}

impl<S: ManagedKeyStore> ManagedKeyStore for Arc<S> {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        ManagedKeyStore::find_committed(&**self, id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        ManagedKeyStore::commit(&**self, change).await
    }
}
