//! Stores: the types of the ports to records, the trail, events and usage.
//!
//! - [`KeyStore`] finds records; [`ManagedKeyStore`] also commits a [`Change`], and
//!   lists keys ([`KeyQuery`]) and the trail ([`TrailQuery`]).
//! - [`ChangeFeed`] tells which keys other processes changed.
//! - [`StaticStore`] reads keys from the environment or a file, and [`StoreChain`] asks one store
//!   after another.

mod change;
mod change_id;
mod dynamic;
mod error;
mod event;
mod feed;
mod list;
mod trail;
mod usage;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
pub use change::{Change, Step};
pub use change_id::ChangeId;
pub(crate) use dynamic::{DynKeyStore, DynManagedKeyStore};
pub use error::{StoreError, StoreErrorKind};
pub use event::{Event, Followed, KeptEvent, Start};
pub(crate) use feed::DynChangeFeed;
pub use feed::{ChangeFeed, ChangedKey, Changes, FeedError};
pub use list::{Cursor, KeyOrder, KeyQuery, KeyState, ListedKey, Page, Paging};
pub use trail::{
    Action, ActionError, Actor, ActorKind, ActorKindError, Origin, TrailQuery, TrailRecord,
};
pub use usage::{KeyUsage, UsageBatch, UsagePeriod};

pub use crate::backend::chain::StoreChain;
pub use crate::backend::fixed::lines::LineError;
pub use crate::backend::fixed::store::{StaticKeysError, StaticStore, StaticStoreReader};

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
/// With the feature `conformance`, `conformance::key_store` tests an implementation against what is
/// promised here.
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
    /// Finds the record of this id, or `None` if there certainly is none. A record of another id
    /// counts as [`StoreError::corrupt`].
    ///
    /// A key that was stopped is found, too, and says so: `with_revoked`, `with_suspended`,
    /// `with_expires_at`. Otherwise it opens the door, or its owner is told that it never was.
    fn find(
        &self,
        id: &KeyId,
    ) -> impl Future<Output = Result<Option<KeyRecord>, StoreError>> + Send;

    /// Finds a record as [`find`](Self::find) does, for a store that keeps copies, such as a cache
    /// that a fleet shares: one that is not outdated, with the age of the copy.
    ///
    /// A copy below the [`Floor`] is known to be outdated, or may be: look further, to where the
    /// record comes from. The age counts against
    /// [`Cache::max_staleness`](crate::Cache::max_staleness), so that a copy of a copy does not
    /// serve twice as long. By default the record that `find` finds is as old as the call.
    fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
    ) -> impl Future<Output = Result<Option<AgedRecord>, StoreError>> + Send {
        let _ = floor;
        async move { Ok(self.find(id).await?.map(AgedRecord::fresh)) }
    }
}

/// What a copy of a record must be at least, not to be outdated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Floor {
    /// The version that the key is known to have reached, or 0.
    pub version: u64,
    /// The age that a copy may have. A copy that is older may be from before a change that nobody
    /// has told of.
    pub max_age: Duration,
}

impl Floor {
    /// Creates a floor.
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
    /// The time since the record was read from where it is certain.
    pub age: Duration,
}

impl AgedRecord {
    /// Creates the answer of a store that keeps no copies: a record that was read just now.
    pub const fn fresh(record: KeyRecord) -> Self {
        Self::new(record, Duration::ZERO)
    }

    /// Creates a record from a copy of this age.
    pub const fn new(record: KeyRecord, age: Duration) -> Self {
        Self { record, age }
    }
}

/// A store that keys can be issued into and changed in.
///
/// A record that was committed is found in every field. With the feature `conformance`,
/// `conformance::managed_key_store` tests an implementation against what is promised here.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot change keys: it is not a `ManagedKeyStore`",
    note = "implement `ManagedKeyStore::find_committed` and `commit` to issue and revoke keys",
    note = "or use `ApiKeys::read_only`, which only verifies them"
)]
pub trait ManagedKeyStore: KeyStore {
    /// Finds a record as [`find`](KeyStore::find) does, and is certain: every change that was
    /// committed before the call is found.
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

    /// Carries out a change as one transaction: all of its [steps](Change::steps), or nothing.
    ///
    /// - A record to create must not exist: [`StoreErrorKind::AlreadyExists`]. The database itself
    ///   decides that, not a look before the write.
    /// - A record to update must exist with the version before its own:
    ///   [`StoreErrorKind::Conflict`].
    /// - One change names each record once: a second time is an [`AlreadyExists`] or a [`Conflict`].
    /// - A record with a field that the store does not keep is [`Refused`], never cut: without its
    ///   networks or its end, a key would open more than its owner was told. A step that the store
    ///   does not know is refused, too.
    /// - Trail records and events are kept in the same transaction. A store without a trail or
    ///   without events leaves them out, and refuses to read them.
    /// - No change is carried out twice. To commit one again is an error, or `Ok` if the store
    ///   knows by its [id](Change::id) that it has carried it out.
    ///
    /// If the store becomes [`Unavailable`](StoreErrorKind::Unavailable) during a commit, the change
    /// may have been carried out, or may be later; never a part of it.
    ///
    /// [`AlreadyExists`]: StoreErrorKind::AlreadyExists
    /// [`Conflict`]: StoreErrorKind::Conflict
    /// [`Refused`]: StoreErrorKind::Refused
    fn commit(&self, change: &Change) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reads a part of the list of keys, which is as certain as
    /// [`find_committed`](Self::find_committed).
    ///
    /// A page costs the same at any depth. A store that would have to look at many records to fill
    /// one returns a short page with a [`next`](Page::next). A key is listed from when it is
    /// committed, in any state.
    ///
    /// By default this is refused. Without it keys are found by id only.
    fn list(
        &self,
        query: &KeyQuery,
        paging: &Paging,
    ) -> impl Future<Output = Result<Page<ListedKey>, StoreError>> + Send {
        let _ = (query, paging);
        let refused = StoreError::refused("this store does not list keys");
        async move { Err(refused) }
    }

    /// Reads a part of the trail, in the order of the changes and of the steps in each.
    ///
    /// The records of one key come in the order of its versions. To be told of changes as they
    /// come, read [`events`](Self::events), or follow a [`ChangeFeed`].
    ///
    /// By default this is refused. Without it nobody can tell who changed a key.
    fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> impl Future<Output = Result<Page<TrailRecord>, StoreError>> + Send {
        let _ = (query, paging);
        let refused = StoreError::refused("this store keeps no trail");
        async move { Err(refused) }
    }

    /// Reads events from a place on, at most `limit` of them.
    ///
    /// Each event is read once, also if several changes are committed at a time, and the events of
    /// one change come in the order in which they were added. Their ids do not change.
    ///
    /// By default this is refused. Without it nobody is told of changes.
    fn events(
        &self,
        start: &Start,
        limit: u32,
    ) -> impl Future<Output = Result<Followed<KeptEvent>, StoreError>> + Send {
        let _ = (start, limit);
        let refused = StoreError::refused("this store keeps no events");
        async move { Err(refused) }
    }

    /// Adds usage to what is recorded of keys, all of a batch or nothing.
    ///
    /// - A batch that the store has recorded is `Ok`, and is not recorded again. That is one whose
    ///   number is not above the last of its node.
    /// - A number that is not the one after the last of its node is a [`Conflict`]: a batch is
    ///   missing, as after a backup was restored. The node then draws a new id. A node that the
    ///   store does not know may begin with any number.
    /// - Nothing but usage changes: no record, no version. The first and last use of a key that
    ///   does not exist are left out; what was counted of it is kept by its account.
    /// - The last use of a key never goes back, and the first never forward.
    ///
    /// By default this is refused. Without it lists do not say when a key was used.
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
}

/// A shared store is a store.
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

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        ManagedKeyStore::record_usage(&**self, batch).await
    }
}
