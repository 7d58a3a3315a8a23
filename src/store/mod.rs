//! Stores: the ports to records, the audit trail, events and usage, and their types.
//!
//! - [`KeyStore`] finds records; [`ManagedKeyStore`] also commits a [`Change`], and
//!   lists keys ([`KeyQuery`]) and the trail ([`TrailQuery`]).
//! - [`ChangeFeed`] names the keys that other processes changed.
//! - [`StaticStore`] reads keys from the environment or a file, and [`StoreChain`] asks several
//!   stores in turn.

mod account_cap;
mod audit_key;
mod change;
mod change_id;
mod delivery;
mod dynamic;
mod endpoint;
mod error;
mod event;
mod feed;
mod in_time;
mod issue_request;
pub mod kinds;
mod list;
mod once;
mod outbox;
mod page;
mod profile;
mod trail;
mod usage;
mod usage_report;
mod verified_trail;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
pub use account_cap::AccountCap;
pub use audit_key::{AuditKey, AuditKeyError};
pub use change::{Change, Step};
pub use change_id::ChangeId;
pub use delivery::{
    Claim, Delivery, DeliveryQuery, DeliveryRecord, DeliveryState, Outcome, Replay, Settlement,
};
pub(crate) use dynamic::{DynKeyStore, DynManagedKeyStore};
pub(crate) use endpoint::origin_of;
pub use endpoint::{Disabled, Endpoint, SecretName, Target, WebhookTarget};
pub use error::{StoreError, StoreErrorKind};
pub use event::{Event, Followed, KeptEvent, Start};
pub(crate) use feed::DynChangeFeed;
pub use feed::{BoxedFeed, ChangeFeed, ChangedKey, Changes, FeedError};
pub(crate) use in_time::in_time;
pub use issue_request::IssueRequest;
pub(crate) use list::fingerprint;
pub use list::{ExpiryFilter, KeyOrder, KeyQuery, KeyState, ListedKey};
pub use once::Once;
pub(crate) use outbox::DynOutbox;
pub use outbox::{BoxedOutbox, Outbox};
pub use page::{Cursor, Page, Paging};
pub use profile::KeptProfile;
pub use trail::{
    Action, ActionError, Actor, ActorKind, ActorKindError, Origin, TrailQuery, TrailRecord,
};
pub use usage::{KeyUsage, UsageBatch, UsageCounts, UsagePeriod, UseTimes};
pub(crate) use usage_report::UsagePlace;
pub use usage_report::{UsageDetail, UsageQuery, UsageRow};
pub use verified_trail::{BrokenTrail, TrailFault, TrailReport};

pub use crate::backend::chain::StoreChain;
pub use crate::backend::fixed::lines::LineError;
pub use crate::backend::fixed::store::{StaticKeysError, StaticStore, StaticStoreReader};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use crate::backend::redis::RedisFleet;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use crate::backend::sql::PostgresStore;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "sqlite", feature = "postgres"))))]
pub use crate::backend::sql::{Migration, TableNameError};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use crate::backend::sql::{OpenError, SqliteStore};
/// The driver of [`PostgresStore`] and [`SqliteStore`].
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[doc(no_inline)]
pub use sqlx;

/// The port to the records of keys.
///
/// A call that takes longer than [`Cache::store_time_limit`](crate::Cache::store_time_limit) is
/// dropped, and counts as failed. Concurrent requests for the same key share one call (single
/// flight), and the [`Cache`](crate::Cache) keeps the result.
///
/// The store receives the id, never the key or its digest, so that it cannot build the record from
/// the presented key. An error is answered with 503. Return an error, not `None`, whenever it is
/// uncertain that a key does not exist.
///
/// With the feature `conformance`, `conformance::key_store` tests an implementation against these
/// requirements.
///
/// ```
/// use tower_api_key::key::{Alphabet, KeyFormat};
/// use tower_api_key::store::StoreError;
/// use tower_api_key::{ApiKeys, Environment, KeyId, KeyRecord, KeyStore};
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
/// // The format of the keys: text in any other format is refused without a lookup.
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
    /// Finds the record with this id. Returns `None` only if there certainly is no such record. A
    /// record with another id counts as [`StoreError::corrupt`].
    ///
    /// Return keys that were revoked, suspended or expired, too, with `with_revoked`,
    /// `with_suspended` or `with_expires_at`. If the mark is missing, the key is admitted. If the
    /// record is missing, its owner is told that the key never existed.
    fn find(
        &self,
        id: &KeyId,
    ) -> impl Future<Output = Result<Option<KeyRecord>, StoreError>> + Send;

    /// Finds a record as [`find`](Self::find) does, for stores that keep copies, such as a cache
    /// shared by a fleet: returns a copy that is not outdated, with its age.
    ///
    /// A copy below the [`Floor`] is or may be outdated: read the record from its source instead.
    /// The age counts against [`Cache::max_staleness`](crate::Cache::max_staleness), so that a copy
    /// of a copy does not serve twice as long. The default calls `find`, and returns the record as
    /// fresh.
    fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
    ) -> impl Future<Output = Result<Option<AgedRecord>, StoreError>> + Send {
        let _ = floor;
        async move { Ok(self.find(id).await?.map(AgedRecord::fresh)) }
    }

    /// Returns the feed of the changes in this store, if it has one. The
    /// [worker](crate::ApiKeys::worker) follows it, unless
    /// [`ApiKeysBuilder::feed`](crate::ApiKeysBuilder::feed) sets another one. Default: none.
    fn feed(&self) -> Option<BoxedFeed> {
        None
    }
}

/// The lower bound for copies of a record that are not outdated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Floor {
    /// The version that the key is known to have reached; 0 if unknown.
    pub version: u64,
    /// The maximum age of a copy. An older copy may be from before a change that this process has
    /// not been told about.
    pub max_age: Duration,
}

impl Floor {
    /// Creates a lower bound.
    pub const fn new(version: u64, max_age: Duration) -> Self {
        Self { version, max_age }
    }
}

/// A record, and the age of the copy that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgedRecord {
    /// The record.
    pub record: KeyRecord,
    /// The time since the record was read from its source.
    pub age: Duration,
}

impl AgedRecord {
    /// Creates the result of a store without copies: a record that was read just now.
    pub const fn fresh(record: KeyRecord) -> Self {
        Self::new(record, Duration::ZERO)
    }

    /// Creates a record that was read from a copy of this age.
    pub const fn new(record: KeyRecord, age: Duration) -> Self {
        Self { record, age }
    }
}

/// The port to a store in which keys can be issued and changed.
///
/// Every field of a committed record can be read back. With the feature `conformance`,
/// `conformance::managed_key_store` tests an implementation against these requirements.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot change keys: it is not a `ManagedKeyStore`",
    note = "implement `ManagedKeyStore::find_committed` and `commit` to issue and revoke keys",
    note = "or use `ApiKeys::read_only`, which only verifies them"
)]
pub trait ManagedKeyStore: KeyStore {
    /// Finds a record as [`find`](KeyStore::find) does, but without lag: every change that was
    /// committed before the call is visible.
    ///
    /// Changes are based on this call; requests use `find`. If `find` reads from a cache, or from a
    /// replica that may lag, read from the primary here. Otherwise, a revocation could be skipped
    /// because the key seems to be revoked already. If `find` has no lag, call
    /// `self.find(id).await`.
    ///
    /// While `find` lags, a key that was just issued is unknown, and a key that another process
    /// revoked is still admitted.
    fn find_committed(
        &self,
        id: &KeyId,
    ) -> impl Future<Output = Result<Option<KeyRecord>, StoreError>> + Send;

    /// Commits a change in one transaction: all of its [steps](Change::steps), or none.
    ///
    /// - A record to create must not exist: [`StoreErrorKind::AlreadyExists`]. The database itself
    ///   must enforce this, not a read before the write. The same goes for a record that was
    ///   deleted, for as long as its trail is kept: a revoked key does not come back by an import.
    /// - A record to update must exist in the preceding version: [`StoreErrorKind::Conflict`].
    /// - A record to delete must exist in its version: [`Conflict`]. The request for the key and
    ///   the times of its use are deleted with it.
    /// - Each record occurs once in a change: a second occurrence is an [`AlreadyExists`] or a
    ///   [`Conflict`].
    /// - A request that must not be remembered yet, but is: [`AlreadyExists`]. One that is not
    ///   remembered with the key to replace: [`Conflict`].
    /// - An [`AccountCap`] that the account exceeds after the other steps, and by them:
    ///   [`CapReached`]. Changes of one account with caps must not pass each other: lock the
    ///   account, or a count before the insert admits two keys where one is left.
    /// - A record with a field that the store cannot keep is [`Refused`], never truncated: without
    ///   its networks or its expiry, a key would permit more than its owner was told. A step that
    ///   the store does not know is refused, too.
    /// - Trail records and events are stored in the same transaction. A store without a trail or
    ///   without events drops them, and refuses to read them.
    /// - No change is carried out twice. Committing a change again is an error, or `Ok` if the
    ///   store recognizes its [id](Change::id).
    ///
    /// If the store becomes [`Unavailable`](StoreErrorKind::Unavailable) during a commit, the
    /// change may have been carried out, or may be carried out later, but never in part.
    ///
    /// [`AlreadyExists`]: StoreErrorKind::AlreadyExists
    /// [`Conflict`]: StoreErrorKind::Conflict
    /// [`Refused`]: StoreErrorKind::Refused
    /// [`CapReached`]: StoreErrorKind::CapReached
    fn commit(&self, change: &Change) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reads a page of the list of keys, without lag, as [`find_committed`](Self::find_committed).
    ///
    /// Use keyset pagination: the cost of a page must not depend on its depth. A store that would
    /// have to examine many records to fill a page returns a short page with a
    /// [`next`](Page::next). Keys in any state are listed as soon as they are committed.
    ///
    /// The default is an error. Without this method, keys are found by id only.
    fn list(
        &self,
        query: &KeyQuery,
        paging: &Paging,
    ) -> impl Future<Output = Result<Page<ListedKey>, StoreError>> + Send {
        let _ = (query, paging);
        let refused = StoreError::refused("this store does not list keys");
        async move { Err(refused) }
    }

    /// Finds a key with the times of its use, without lag, as [`list`](Self::list) returns it.
    ///
    /// The default is an error. A store that records no usage must not claim that a key was never
    /// used: the key might be retired for that.
    fn find_listed(
        &self,
        id: &KeyId,
    ) -> impl Future<Output = Result<Option<ListedKey>, StoreError>> + Send {
        let _ = id;
        let refused = StoreError::refused("this store does not tell when keys were used");
        async move { Err(refused) }
    }

    /// Finds all keys of a chain of rotations by the id of its first key, the
    /// [lineage](KeyRecord::lineage), in any order, without lag, as
    /// [`find_committed`](Self::find_committed).
    ///
    /// The first key may be gone. The default is an error. Without this method, keys are not
    /// rotated.
    fn find_lineage(
        &self,
        first: &KeyId,
    ) -> impl Future<Output = Result<Vec<KeyRecord>, StoreError>> + Send {
        let _ = first;
        let refused = StoreError::refused("this store does not find the keys of a chain");
        async move { Err(refused) }
    }

    /// Finds a request for a key by its [id](IssueRequest::id), without lag, as
    /// [`find_committed`](Self::find_committed).
    ///
    /// The default is an error. Without this method, keys are not issued by idempotency key.
    fn find_request(
        &self,
        id: &[u8; 32],
    ) -> impl Future<Output = Result<Option<IssueRequest>, StoreError>> + Send {
        let _ = id;
        let refused = StoreError::refused("this store does not remember requests for keys");
        async move { Err(refused) }
    }

    /// Reads a page of the audit trail, in the order of the changes and of the steps in each.
    ///
    /// The records of one key are in the order of its versions. To be notified of changes, read
    /// [`events`](Self::events), or follow a [`ChangeFeed`].
    ///
    /// The default is an error. Without this method, nobody can tell who changed a key.
    fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> impl Future<Output = Result<Page<TrailRecord>, StoreError>> + Send {
        let _ = (query, paging);
        let refused = StoreError::refused("this store keeps no trail");
        async move { Err(refused) }
    }

    /// Reads at most `limit` events from a position on.
    ///
    /// Each event is read once, even if changes are committed concurrently. The events of one
    /// change are in the order in which they were added. The ids of events do not change.
    ///
    /// The default is an error. Without this method, other systems are not notified of changes.
    fn events(
        &self,
        start: &Start,
        limit: u32,
    ) -> impl Future<Output = Result<Followed<KeptEvent>, StoreError>> + Send {
        let _ = (start, limit);
        let refused = StoreError::refused("this store keeps no events");
        async move { Err(refused) }
    }

    /// Returns the outbox, which delivers events, if the store has one. Default: none.
    fn outbox(&self) -> Option<BoxedOutbox> {
        None
    }

    /// Adds a batch to the recorded usage, as a whole or not at all.
    ///
    /// - The call is idempotent: a batch whose number is not above the last of its node is `Ok`,
    ///   and is not recorded again.
    /// - A number that leaves a gap after the last of its node is a [`Conflict`]: a batch is
    ///   missing, for example after a backup was restored. The node then draws a new id. A node
    ///   that the store does not know may begin with any number.
    /// - Only usage changes, no record and no version. The first and last use of a key that does
    ///   not exist are dropped; its counts are kept with its account.
    /// - The last use of a key never moves backward, and the first use never forward.
    /// - A store that keeps events keeps one of the [first use](KeyUsage::first_use) of each key, in
    ///   the same transaction.
    ///
    /// The default is an error. Without this method, lists do not tell when a key was used.
    ///
    /// [`Conflict`]: StoreErrorKind::Conflict
    fn record_usage(
        &self,
        batch: &UsageBatch,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = batch;
        let refused = StoreError::refused("this store records no usage");
        async move { Err(refused) }
    }

    /// Reads a page of recorded usage, sorted by account, period, key and environment, without lag.
    ///
    /// Usage is kept after its key was deleted. The default is an error. Without this method, usage
    /// is recorded and not reported.
    fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> impl Future<Output = Result<Page<UsageRow>, StoreError>> + Send {
        let _ = (query, paging);
        let refused = StoreError::refused("this store reports no usage");
        async move { Err(refused) }
    }

    /// Reads the profiles of keys, in any order, without lag. Keys without one are left out.
    ///
    /// The default is an error. Without this method and [`save_profiles`](Self::save_profiles), no
    /// [anomalies](crate::anomaly) are detected.
    fn profiles(
        &self,
        keys: &[KeyId],
    ) -> impl Future<Output = Result<Vec<KeptProfile>, StoreError>> + Send {
        let _ = keys;
        let refused = StoreError::refused("this store keeps no profiles");
        async move { Err(refused) }
    }

    /// Saves each of these profiles whose version follows the kept one, and version 1 where none is
    /// kept. Returns the keys of those that were saved, in any order.
    ///
    /// Of several processes that save the same version, exactly one succeeds. A profile changes
    /// nothing but itself, and is deleted with its key. It may be of a key that the store does not
    /// have.
    ///
    /// The default is an error.
    fn save_profiles(
        &self,
        profiles: &[KeptProfile],
    ) -> impl Future<Output = Result<Vec<KeyId>, StoreError>> + Send {
        let _ = profiles;
        let refused = StoreError::refused("this store keeps no profiles");
        async move { Err(refused) }
    }
}

/// Delegates to the shared store.
impl<S: KeyStore> KeyStore for Arc<S> {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        KeyStore::find(&**self, id).await
    }

    async fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
    ) -> Result<Option<AgedRecord>, StoreError> {
        KeyStore::find_at_least(&**self, id, floor).await
    }

    fn feed(&self) -> Option<BoxedFeed> {
        KeyStore::feed(&**self)
    }
}

impl<S: ManagedKeyStore> ManagedKeyStore for Arc<S> {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        ManagedKeyStore::find_committed(&**self, id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        ManagedKeyStore::commit(&**self, change).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        ManagedKeyStore::list(&**self, query, paging).await
    }

    async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        ManagedKeyStore::find_listed(&**self, id).await
    }

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        ManagedKeyStore::find_lineage(&**self, first).await
    }

    async fn find_request(&self, id: &[u8; 32]) -> Result<Option<IssueRequest>, StoreError> {
        ManagedKeyStore::find_request(&**self, id).await
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        ManagedKeyStore::trail(&**self, query, paging).await
    }

    async fn events(&self, start: &Start, limit: u32) -> Result<Followed<KeptEvent>, StoreError> {
        ManagedKeyStore::events(&**self, start, limit).await
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        ManagedKeyStore::outbox(&**self)
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        ManagedKeyStore::record_usage(&**self, batch).await
    }

    async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError> {
        ManagedKeyStore::usage(&**self, query, paging).await
    }

    async fn profiles(&self, keys: &[KeyId]) -> Result<Vec<KeptProfile>, StoreError> {
        ManagedKeyStore::profiles(&**self, keys).await
    }

    async fn save_profiles(&self, profiles: &[KeptProfile]) -> Result<Vec<KeyId>, StoreError> {
        ManagedKeyStore::save_profiles(&**self, profiles).await
    }
}
