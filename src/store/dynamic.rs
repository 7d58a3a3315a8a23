//! The object-safe twins of the ports, so that nothing else has a type parameter for a store.

use std::fmt;

use async_trait::async_trait;

use super::{
    AgedRecord, Change, Floor, KeyQuery, KeyStore, ListedKey, ManagedKeyStore, Page, Paging,
    StoreError, TrailQuery, TrailRecord,
};
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;

/// The object-safe twin of [`KeyStore`].
#[async_trait]
pub(crate) trait DynKeyStore: Send + Sync {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError>;

    async fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
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
        floor: &Floor,
    ) -> Result<Option<AgedRecord>, StoreError> {
        let Some(found) = KeyStore::find_at_least(self, id, floor).await? else {
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

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError>;

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError>;
}

#[async_trait]
impl<S: ManagedKeyStore> DynManagedKeyStore for S {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        asked_for(id, ManagedKeyStore::find_committed(self, id).await?)
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        ManagedKeyStore::commit(self, change).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        ManagedKeyStore::list(self, query, paging).await
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        ManagedKeyStore::trail(self, query, paging).await
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
