//! Everything in the process's memory: for tests, demonstrations, and keys that come from elsewhere
//! at start.

pub(crate) mod limiter;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{Change, KeyStore, ManagedKeyStore, StoreError};

/// A store in memory. Clones share their keys; with the last of them, the keys are gone.
///
/// ```
/// use tower_api_key::{ApiKeys, KeyDigest, KeyRecord, MemoryStore};
///
/// let known = KeyDigest::from_hex(&"ab".repeat(32)).expect("64 hex digits");
/// let store: MemoryStore = [KeyRecord::imported(known, "acme")].into_iter().collect();
/// let keys = ApiKeys::builder(store).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore {
    records: Arc<RwLock<HashMap<KeyId, KeyRecord>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Keys that come from elsewhere; of two with one id, the last stays.
impl FromIterator<KeyRecord> for MemoryStore {
    fn from_iter<I: IntoIterator<Item = KeyRecord>>(records: I) -> Self {
        let records = records.into_iter().map(|record| (record.id(), record));
        Self {
            records: Arc::new(RwLock::new(records.collect())),
        }
    }
}

impl KeyStore for MemoryStore {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        Ok(records.get(id).cloned())
    }
}

impl ManagedKeyStore for MemoryStore {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        // Look at everything before anything is written: all of the change, or nothing.
        let mut named = HashSet::new();
        for record in change.creates() {
            if records.contains_key(&record.id()) || !named.insert(record.id()) {
                return Err(StoreError::already_exists());
            }
        }
        for record in change.updates() {
            let seen = records.get(&record.id()).map(KeyRecord::version);
            let next = seen.and_then(|seen| seen.checked_add(1));
            if next != Some(record.version()) || !named.insert(record.id()) {
                return Err(StoreError::conflict());
            }
        }
        for record in change.creates().iter().chain(change.updates()) {
            records.insert(record.id(), record.clone());
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("MemoryStore")
            .field("keys", &records.len())
            .finish()
    }
}
