//! Management: issuing and changing keys, and the background worker.
//!
//! [`ApiKeys`](crate::ApiKeys) makes these calls; each is a future with setters.

pub(crate) mod change;
pub(crate) mod issue;

pub use change::{ChangeError, ResumeKey, RevokeKey, SuspendKey};
pub use issue::{IssueError, IssueKey};

pub use crate::api_keys::{Health, Managed, ReadOnly, Worker, WorkerHealth};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::keyring::Keyring;
use crate::store::{Action, Change, DynManagedKeyStore, Origin, StoreErrorKind};

/// The future that a management call turns into.
pub(crate) type Managing<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// How often a change is tried again when somebody else changes the same key.
const ATTEMPTS: usize = 16;

/// What management calls act with.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    keyring: Arc<Keyring>,
    store: Arc<dyn DynManagedKeyStore>,
}

impl Manager {
    pub(crate) fn new(keyring: Arc<Keyring>, store: Arc<dyn DynManagedKeyStore>) -> Self {
        Self { keyring, store }
    }

    /// Creates a record, and returns it as it is kept.
    async fn create(&self, origin: Origin, record: KeyRecord) -> Result<KeyRecord, IssueError> {
        let id = record.id();
        // As the store keeps it.
        let record = record.rounded();
        let now = self.keyring.now();
        let change = Change::new(origin, now).create(Action::ISSUED, record.clone())?;
        let cache = &self.keyring.cache;
        // However it ends, also if nobody waits for the end: the store may have written.
        let _forget = OnDrop(|| cache.created(&id));
        self.store.commit(&change).await?;
        Ok(record)
    }

    /// Changes a record as it is at this moment; `change` answers `None` where there is nothing to
    /// do.
    async fn update(
        &self,
        id: KeyId,
        origin: Origin,
        action: Action,
        change: impl Fn(&KeyRecord) -> Option<KeyRecord> + Send,
    ) -> Result<KeyRecord, ChangeError> {
        let mut attempt = 1;
        loop {
            let seen = self.store.find_committed(&id).await?;
            let cache = &self.keyring.cache;
            // Should it not be certain after all: no change here is undone by building on an older
            // record.
            let seen = cache.newest(seen.ok_or(ChangeError::NotFound(id))?)?;
            let Some(changed) = change(&seen) else {
                // Somebody else has done it, and what is cached here may not say so. If it does,
                // nobody is made to load a key anew: a change that changes nothing is free to
                // repeat.
                cache.remember(seen.clone());
                if cache.has_older(&seen) {
                    cache.changed(&id);
                }
                return Ok(seen);
            };
            // As the store keeps it.
            let next = seen.version().saturating_add(1);
            let changed = changed.with_version(next).rounded();
            let now = self.keyring.now();
            let change = Change::new(origin.clone(), now);
            let change = change.update(action.clone(), &seen, changed.clone())?;
            // However it ends, also if nobody waits for the end: the store may have written.
            let _forget = OnDrop(|| cache.changed(&id));
            match self.store.commit(&change).await {
                Ok(()) => {
                    cache.remember(changed.clone());
                    return Ok(changed);
                }
                Err(error) if error.kind() != StoreErrorKind::Conflict => return Err(error.into()),
                Err(error) if attempt == ATTEMPTS => return Err(error.into()),
                Err(_) => attempt += 1,
            }
        }
    }
}

/// Does something when it goes out of scope.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
