//! Management: issuing, importing and changing keys, and the background worker.
//!
//! [`ApiKeys`](crate::ApiKeys) starts these calls; each is a future with setters.

pub(crate) mod alert;
pub(crate) mod change;
pub(crate) mod contain;
mod edits;
pub(crate) mod endpoint_error;
pub(crate) mod endpoints;
pub(crate) mod family;
mod idempotency;
pub(crate) mod import;
pub(crate) mod issue;
mod issue_error;
pub(crate) mod key_events;
mod lineage;
pub(crate) mod own;
pub(crate) mod pages;
pub(crate) mod policy;
pub(crate) mod purge;
pub(crate) mod register_webhook;
pub(crate) mod registered_webhook;
pub(crate) mod retire;
pub(crate) mod rotate;
mod rotate_error;
pub(crate) mod throttle;
mod unused;
pub(crate) mod update;
pub(crate) mod usage;

pub use crate::cache::KeyToAdopt;
pub use change::{ChangeError, ResumeKey, RevokeKey, SuspendKey};
pub use contain::{ContainError, Contained, RevokeAll};
pub use edits::FieldError;
pub use family::{EndGrace, RevokeFamily};
pub use import::{ImportError, ImportKeys, Imported};
pub use issue::IssueKey;
pub use issue_error::IssueError;
pub use own::RevokeOwn;
pub use pages::KeyPages;
pub use policy::{IssuePolicy, PolicyError, ScopeCeiling};
pub use purge::{PurgeError, PurgeKeys};
pub use retire::{RetireError, RetireIdle};
pub use rotate::{RotateKey, RotatedKey};
pub use rotate_error::RotateError;
pub use throttle::{ThrottleKey, UnthrottleKey};
pub use update::{UpdateError, UpdateKey};

pub use crate::api_keys::{Health, Managed, ReadOnly, Worker, WorkerHealth};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::key::digest::KeyId;
use crate::key::format::KeyFormat;
use crate::key::kind::KeyKind;
use crate::key::record::KeyRecord;
use crate::shared::Shared;
use crate::store::{Action, Change, DynManagedKeyStore, Origin, Step, StoreError, StoreErrorKind};
use crate::util::on_drop::OnDrop;

/// A boxed future, for `IntoFuture`.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The number of attempts at a change, in case somebody else changes the same key meanwhile.
const ATTEMPTS: usize = 16;

/// The dependencies of management calls.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    shared: Arc<Shared>,
    store: Arc<dyn DynManagedKeyStore>,
    policy: Arc<IssuePolicy>,
}

impl Manager {
    pub(crate) fn new(
        shared: Arc<Shared>,
        store: Arc<dyn DynManagedKeyStore>,
        policy: Arc<IssuePolicy>,
    ) -> Self {
        Self {
            shared,
            store,
            policy,
        }
    }

    /// Commits a change with the events about it, and outdates what is cached of its keys.
    async fn commit(&self, change: Change) -> Result<(), StoreError> {
        let change = key_events::announced(change).map_err(StoreError::refused)?;
        let cache = &self.shared.cache;
        // Even if the commit fails or is cancelled: the store may have written.
        let _outdate = OnDrop(|| {
            for step in change.steps() {
                match step {
                    Step::Create { record, .. } => cache.outdate_absence(&record.id()),
                    Step::Update { record, .. } | Step::Delete { record, .. } => {
                        cache.outdate(&record.id());
                    }
                    Step::Request { .. } | Step::Cap(_) | Step::Event { .. } => {}
                }
            }
        });
        self.store.commit(&change).await?;
        for step in change.steps() {
            if let Step::Update { record, .. } = step {
                cache.remember(record.clone());
            }
        }
        Ok(())
    }

    /// Finds the current record of a key.
    async fn find_newest(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let found = self.store.find_committed(id).await?;
        // In case `find_committed` lags: a change that is based on an older record would undo a
        // newer one.
        found
            .map(|record| self.shared.cache.newest(record))
            .transpose()
    }

    /// Returns the kind of a key, by the format of its prefix.
    fn kind_of(&self, record: &KeyRecord) -> KeyKind {
        let mut formats = self.shared.formats.iter();
        let format = formats.find(|format| Some(format.prefix()) == record.prefix());
        format.map_or(KeyKind::Secret, KeyFormat::kind)
    }

    /// Changes the current version of a record. `change` returns `None` if there is nothing to
    /// change.
    async fn update(
        &self,
        id: KeyId,
        origin: Origin,
        action: Action,
        change: impl Fn(&KeyRecord) -> Option<KeyRecord> + Send,
    ) -> Result<KeyRecord, ChangeError> {
        let mut attempt = 1;
        loop {
            let cache = &self.shared.cache;
            let seen = self.find_newest(&id).await?;
            let seen = seen.ok_or(ChangeError::NotFound(id))?;
            let Some(changed) = change(&seen) else {
                // Another process has made the change, and the cache here may be outdated. The key
                // is only reloaded if it is: repeating a change without effect must stay cheap.
                cache.remember(seen.clone());
                if cache.has_older(&seen) {
                    cache.outdate(&id);
                }
                return Ok(seen);
            };
            // Round as the store does.
            let next = seen.version().saturating_add(1);
            let changed = changed.with_version(next).rounded();
            let now = self.shared.now();
            let change = Change::new(origin.clone(), now);
            let change = change.update(action.clone(), &seen, changed.clone())?;
            match self.commit(change).await {
                Ok(()) => return Ok(changed),
                Err(error) if error.kind() != StoreErrorKind::Conflict => return Err(error.into()),
                Err(error) if attempt == ATTEMPTS => return Err(error.into()),
                Err(_) => attempt += 1,
            }
        }
    }
}
