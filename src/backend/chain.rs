//! Two stores, one behind the other.

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{
    AgedRecord, Change, Floor, Followed, KeptEvent, KeyQuery, KeyStore, ListedKey, ManagedKeyStore,
    Page, Paging, Start, Step, StoreError, TrailQuery, TrailRecord, UsageBatch,
};

/// A store of keys that can be changed, and another of keys that can only be read, such as a
/// [`StaticStore`](crate::store::StaticStore).
///
/// A key is looked for in both. If one of them fails, the chain fails, so an outage never says that
/// there is no such key. While the first store is down, keys of the second are answered with 503,
/// too, once they are not cached any more. A key in both is an error, since nobody could say which one holds.
///
/// To change a key of the second store is an error that names it
/// ([`StoreErrorKind::ReadOnly`](crate::store::StoreErrorKind::ReadOnly)). Lists, the trail and usage are
/// those of the first store.
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
    /// Puts a store that is only read behind another. Errors call it by this name.
    pub fn new(managed: M, read_only: R, name: impl Into<String>) -> Self {
        Self {
            managed,
            read_only,
            name: name.into(),
        }
    }

    fn in_both(&self) -> StoreError {
        StoreError::corrupt(format!("a key is in the store and in {}", self.name))
    }

    fn stands_elsewhere(&self) -> StoreError {
        let name = &self.name;
        StoreError::read_only(format!("the key stands in {name}: change it there"))
    }
}

impl<M: KeyStore, R: KeyStore> KeyStore for StoreChain<M, R> {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        match (self.managed.find(id).await?, self.read_only.find(id).await?) {
            (Some(_), Some(_)) => Err(self.in_both()),
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
            (Some(_), Some(_)) => Err(self.in_both()),
            (first, second) => Ok(first.or(second)),
        }
    }
}

impl<M: ManagedKeyStore, R: KeyStore> ManagedKeyStore for StoreChain<M, R> {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let first = self.managed.find_committed(id).await?;
        match (first, self.read_only.find(id).await?) {
            (Some(_), Some(_)) => Err(self.in_both()),
            (None, Some(_)) => Err(self.stands_elsewhere()),
            (first, None) => Ok(first),
        }
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        for step in change.steps() {
            let id = match step {
                Step::Create { record, .. } | Step::Update { record, .. } => record.id(),
                _ => continue,
            };
            if self.read_only.find(&id).await?.is_some() {
                return Err(self.stands_elsewhere());
            }
        }
        self.managed.commit(change).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        self.managed.list(query, paging).await
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

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        self.managed.record_usage(batch).await
    }
}
