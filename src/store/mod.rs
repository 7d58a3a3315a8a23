//! The ports to where records are kept.
//!
//! [`KeyStore`] is what the request path needs and cannot write; [`ManagedKeyStore`] adds what
//! issuing, revoking, listing and metering need, and [`ChangeFeed`] tells of what other processes
//! changed. An application that has a table of keys implements the first.

mod change;
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
pub use change::Change;
pub(crate) use dynamic::{DynKeyStore, DynManagedKeyStore};
pub use error::{StoreError, StoreErrorKind};
pub use event::Event;
pub(crate) use feed::DynChangeFeed;
pub use feed::{ChangeFeed, Changes, FeedError};
pub use list::{Cursor, KeyOrder, KeyQuery, KeyState, ListedKey, Page, Paging};
pub use trail::{Action, Actor, ActorKind, InvalidAction, Origin, TrailQuery, TrailRecord};
pub use usage::{KeyUsage, UsageBatch};

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
    /// - One change names each record once: a second time is an [`AlreadyExists`] or a [`Conflict`].
    /// - A record with a field that the store does not keep is [`Refused`], never cut: without its
    ///   networks or its end, a key would open more than its owner was told.
    /// - The [trail](Change::trail) and the [events](Change::events) are kept with the records. A
    ///   store without a trail or without events leaves them out, and refuses to read them.
    ///
    /// [`AlreadyExists`]: StoreErrorKind::AlreadyExists
    /// [`Conflict`]: StoreErrorKind::Conflict
    /// [`Refused`]: StoreErrorKind::Refused
    fn commit(&self, change: &Change) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reads a part of the list of keys.
    ///
    /// A page costs the same at any depth. A store that would have to look at many records to fill
    /// one returns a short page with a [`next`](Page::next). A key is listed from when it is
    /// committed, whatever its state is.
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

    /// Reads a part of the trail, in the order of the changes.
    ///
    /// The records of one key come in the order of its versions, and a page that is read on from
    /// misses none, also if changes are committed meanwhile.
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

    /// Reads events, in an order in which those of one change stay together: the next page has
    /// those that were committed since. Where the last page has no more, its `next` is the place
    /// to ask at later.
    ///
    /// By default this is refused. Without it nobody is told of what happens to keys.
    fn events(
        &self,
        paging: &Paging,
    ) -> impl Future<Output = Result<Page<Event>, StoreError>> + Send {
        let _ = paging;
        let refused = StoreError::refused("this store keeps no events");
        async move { Err(refused) }
    }

    /// Adds usage to what is recorded of keys, all of a batch or nothing.
    ///
    /// - A batch that the store has recorded is `Ok`, and is not recorded again. That is one whose
    ///   number is not above the last of its node.
    /// - A number that is not the one after the last of its node is a [`Conflict`]: a batch would
    ///   be missing. A node that the store does not know may begin with any.
    /// - Nothing but usage changes, whatever the batch says: no record, no version. Usage of a key
    ///   that does not exist is left out.
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

    async fn events(&self, paging: &Paging) -> Result<Page<Event>, StoreError> {
        ManagedKeyStore::events(&**self, paging).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        ManagedKeyStore::record_usage(&**self, batch).await
    }
}
