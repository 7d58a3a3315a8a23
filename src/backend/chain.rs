//! A chain of two stores.

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{
    AgedRecord, BoxedFeed, BoxedOutbox, Change, Floor, Followed, IssueRequest, KeptEvent,
    KeptProfile, KeyQuery, KeyStore, ListedKey, ManagedKeyStore, Page, Paging, Start, Step,
    StoreError, TrailQuery, TrailRecord, UsageBatch, UsageQuery, UsageRow,
};

/// A writable store, followed by a read-only store such as a
/// [`StaticStore`](crate::store::StaticStore).
///
/// Each lookup asks both stores. If one of them fails, the lookup fails, so an outage is never
/// taken for a key that does not exist. While the first store is down, keys of the second are
/// therefore answered with 503, too, once their cache entries have expired. A key that is in both
/// stores is an error, since the stores could disagree about it.
///
/// Changing a key of the second store is an error that names this store
/// ([`StoreErrorKind::ReadOnly`](crate::store::StoreErrorKind::ReadOnly)). Lists, the trail, events,
/// usage and the feed are those of the first store.
///
/// ```
/// use tower_api_key::store::{StaticStore, StoreChain};
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// # let key = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// let admin = StaticStore::from_text(&format!("admin acme admin = {key}"))?;
/// let store = StoreChain::new(MemoryStore::new(), admin.clone(), admin.to_string());
/// let keys = ApiKeys::builder(store).formats(StaticStore::formats()).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct StoreChain<M, R> {
    managed: M,
    read_only: R,
    /// The name of the second store in errors.
    name: String,
}

impl<M, R> StoreChain<M, R> {
    /// Chains a read-only store to a writable one. Errors use `name` for the read-only store.
    pub fn new(managed: M, read_only: R, name: impl Into<String>) -> Self {
        Self {
            managed,
            read_only,
            name: name.into(),
        }
    }

    /// Returns the error for a key that is in both stores.
    fn duplicate_error(&self) -> StoreError {
        StoreError::corrupt(format!("a key is in the store and in {}", self.name))
    }

    /// Returns the error for a change of a key in the read-only store.
    fn read_only_error(&self) -> StoreError {
        let name = &self.name;
        StoreError::read_only(format!("the key stands in {name}: change it there"))
    }
}

impl<M: KeyStore, R: KeyStore> KeyStore for StoreChain<M, R> {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        match (self.managed.find(id).await?, self.read_only.find(id).await?) {
            (Some(_), Some(_)) => Err(self.duplicate_error()),
            (first, second) => Ok(first.or(second)),
        }
    }

    async fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
    ) -> Result<Option<AgedRecord>, StoreError> {
        let first = self.managed.find_at_least(id, floor).await?;
        match (first, self.read_only.find_at_least(id, floor).await?) {
            (Some(_), Some(_)) => Err(self.duplicate_error()),
            (first, second) => Ok(first.or(second)),
        }
    }

    fn feed(&self) -> Option<BoxedFeed> {
        self.managed.feed()
    }
}

impl<M: ManagedKeyStore, R: KeyStore> ManagedKeyStore for StoreChain<M, R> {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let first = self.managed.find_committed(id).await?;
        match (first, self.read_only.find(id).await?) {
            (Some(_), Some(_)) => Err(self.duplicate_error()),
            (None, Some(_)) => Err(self.read_only_error()),
            (first, None) => Ok(first),
        }
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        for step in change.steps() {
            let id = match step {
                Step::Create { record, .. }
                | Step::Update { record, .. }
                | Step::Delete { record, .. } => record.id(),
                _ => continue,
            };
            if self.read_only.find(&id).await?.is_some() {
                return Err(self.read_only_error());
            }
        }
        self.managed.commit(change).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        self.managed.list(query, paging).await
    }

    async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        let first = self.managed.find_listed(id).await?;
        match (first, self.read_only.find(id).await?) {
            (Some(_), Some(_)) => Err(self.duplicate_error()),
            (first, second) => Ok(first.or(second.map(ListedKey::new))),
        }
    }

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        self.managed.find_lineage(first).await
    }

    async fn find_request(&self, id: &[u8; 32]) -> Result<Option<IssueRequest>, StoreError> {
        self.managed.find_request(id).await
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        self.managed.trail(query, paging).await
    }

    async fn events(&self, start: &Start, limit: u32) -> Result<Followed<KeptEvent>, StoreError> {
        self.managed.events(start, limit).await
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        self.managed.outbox()
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        self.managed.record_usage(batch).await
    }

    async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError> {
        self.managed.usage(query, paging).await
    }

    async fn profiles(&self, keys: &[KeyId]) -> Result<Vec<KeptProfile>, StoreError> {
        self.managed.profiles(keys).await
    }

    async fn save_profiles(&self, profiles: &[KeptProfile]) -> Result<Vec<KeyId>, StoreError> {
        self.managed.save_profiles(profiles).await
    }
}
