//! Object-safe versions of the ports, so that no other type is generic over the store.

use std::fmt;

use async_trait::async_trait;

use super::{
    AgedRecord, BoxedFeed, BoxedOutbox, Change, Floor, IssueRequest, KeptProfile, KeyQuery,
    KeyStore, ListedKey, ManagedKeyStore, Page, Paging, StoreError, TrailQuery, TrailRecord,
    UsageBatch, UsageQuery, UsageRow,
};
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;

/// The object-safe version of [`KeyStore`].
#[async_trait]
pub(crate) trait DynKeyStore: Send + Sync {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError>;

    async fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
    ) -> Result<Option<AgedRecord>, StoreError>;

    fn feed(&self) -> Option<BoxedFeed>;
}

#[async_trait]
impl<S: KeyStore> DynKeyStore for S {
    /// Checks that the record has the id that was asked for: no key may be verified or changed by
    /// the record of another.
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        check_id(id, KeyStore::find(self, id).await?)
    }

    async fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
    ) -> Result<Option<AgedRecord>, StoreError> {
        let Some(found) = KeyStore::find_at_least(self, id, floor).await? else {
            return Ok(None);
        };
        let age = found.age;
        let record = check_id(id, Some(found.record))?;
        Ok(record.map(|record| AgedRecord::new(record, age)))
    }

    fn feed(&self) -> Option<BoxedFeed> {
        KeyStore::feed(self)
    }
}

/// Returns the record, or an error if it has another id.
fn check_id(id: &KeyId, found: Option<KeyRecord>) -> Result<Option<KeyRecord>, StoreError> {
    if found.as_ref().is_some_and(|record| record.id() != *id) {
        return Err(StoreError::corrupt(
            "it answered with the record of another key",
        ));
    }
    Ok(found)
}

/// The object-safe version of [`ManagedKeyStore`].
#[async_trait]
pub(crate) trait DynManagedKeyStore: DynKeyStore {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError>;

    async fn commit(&self, change: &Change) -> Result<(), StoreError>;

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError>;

    async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError>;

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError>;

    async fn find_request(&self, id: &[u8; 32]) -> Result<Option<IssueRequest>, StoreError>;

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError>;

    fn outbox(&self) -> Option<BoxedOutbox>;

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError>;

    async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError>;

    async fn profiles(&self, keys: &[KeyId]) -> Result<Vec<KeptProfile>, StoreError>;

    async fn save_profiles(&self, profiles: &[KeptProfile]) -> Result<Vec<KeyId>, StoreError>;
}

#[async_trait]
impl<S: ManagedKeyStore> DynManagedKeyStore for S {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        check_id(id, ManagedKeyStore::find_committed(self, id).await?)
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        ManagedKeyStore::commit(self, change).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        ManagedKeyStore::list(self, query, paging).await
    }

    async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        ManagedKeyStore::find_listed(self, id).await
    }

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        ManagedKeyStore::find_lineage(self, first).await
    }

    async fn find_request(&self, id: &[u8; 32]) -> Result<Option<IssueRequest>, StoreError> {
        ManagedKeyStore::find_request(self, id).await
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        ManagedKeyStore::trail(self, query, paging).await
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        ManagedKeyStore::outbox(self)
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        ManagedKeyStore::record_usage(self, batch).await
    }

    async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError> {
        ManagedKeyStore::usage(self, query, paging).await
    }

    async fn profiles(&self, keys: &[KeyId]) -> Result<Vec<KeptProfile>, StoreError> {
        ManagedKeyStore::profiles(self, keys).await
    }

    async fn save_profiles(&self, profiles: &[KeptProfile]) -> Result<Vec<KeyId>, StoreError> {
        ManagedKeyStore::save_profiles(self, profiles).await
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
