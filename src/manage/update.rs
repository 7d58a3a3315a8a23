//! Updates of the fields of a key.

use std::future::IntoFuture;
use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::network::AllowedNetworks;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::key::scope::Scope;
use crate::key::text::{KeyRecordError, OptionalText};
use crate::key::web_origin::AllowedOrigins;
use crate::manage::edits::{Edits, FieldError, edit_setters};
use crate::manage::policy::PolicyError;
use crate::manage::{BoxFuture, Manager};
use crate::store::{Action, Change, Origin, StoreError, StoreErrorKind};

/// An update of a key, carried out when awaited: [`ApiKeys::update`](crate::ApiKeys::update).
///
/// Only the fields whose setters are called change. The update is based on the record that the
/// caller has seen: if the key was changed since, nothing is written, and the error has the current
/// record. So nobody overwrites the change of another without having seen it.
///
/// Returns the record after the update.
///
/// ```
/// # use tower_api_key::{ApiKeys, Scope};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// let key = keys.issue("acme").name("nightly export").await?;
/// let seen = keys.find(&key.id()).await?.expect("it was just issued");
/// let updated = keys.update(&seen).scopes([Scope::from_static("reports:read")]).await?;
/// assert_eq!((updated.version(), updated.name()), (2, Some("nightly export")));
///
/// // The record that was seen is not the current one any more.
/// assert!(keys.update(&seen).name("weekly export").await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is updated until this is awaited"]
pub struct UpdateKey {
    manager: Manager,
    seen: KeyRecord,
    edits: Edits,
    expiry: Expiry,
    origin: Origin,
}

/// The expiry after an update.
#[derive(Debug, Clone, Copy)]
enum Expiry {
    Same,
    At(Option<SystemTime>),
}

/// An error for a key that could not be updated.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The key is gone.
    #[error("there is no key {0}")]
    NotFound(KeyId),
    /// The key was changed since it was seen. Look at the current record, and update that.
    #[error("the key {} was changed meanwhile: it has version {}", .0.id(), .0.version())]
    Changed(Box<KeyRecord>),
    /// The key was rotated, and its grace period is over. It does not come back: use the key that
    /// replaces it.
    #[error("the key was rotated, and has ended: its successor is {successor}")]
    Rotated {
        /// The key that replaces this one.
        successor: KeyId,
    },
    /// A field has a value that this [`ApiKeys`](crate::ApiKeys) does not allow.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The policy of issuing does not allow the update.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A field has a value that not every store can keep.
    #[error(transparent)]
    Invalid(#[from] KeyRecordError),
    /// The store failed; the key may or may not have been updated.
    #[error("the key could not be updated")]
    Store(#[from] StoreError),
}

impl UpdateKey {
    pub(crate) fn new(manager: Manager, seen: KeyRecord) -> Self {
        Self {
            manager,
            seen,
            edits: Edits::default(),
            expiry: Expiry::Same,
            origin: Origin::default(),
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    edit_setters!();

    /// Sets the time when the key expires; `None` is never. Not called, it stays. A time that is
    /// over ends the key at once.
    pub fn expires_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.expiry = Expiry::At(at.into());
        self
    }

    async fn update(self) -> Result<KeyRecord, UpdateError> {
        let manager = &self.manager;
        let kind = manager.kind_of(&self.seen);
        self.edits.check(&manager.shared, kind)?;
        let mut updated = self.edits.apply(self.seen.clone());
        if let Expiry::At(at) = self.expiry {
            updated = updated.with_expires_at(at);
        }
        let updated = updated.rounded();
        if updated == self.seen {
            return Ok(updated);
        }
        let now = manager.shared.now();
        self.check_policy(&updated)?;
        let account = updated.account().to_owned();
        let is_longer = self.is_longer(&updated);
        let has_ended = self.seen.expires_at().is_some_and(|end| end <= now);
        if let Some(rotation) = updated.rotated_to().filter(|_| is_longer && has_ended) {
            let successor = rotation.successor;
            return Err(UpdateError::Rotated { successor });
        }
        let change = Change::new(self.origin, now);
        let mut change = change.update(Action::UPDATED, &self.seen, updated)?;
        // A later expiry may bring the key back, also one that expires just now.
        if let Some(cap) = manager.policy.cap(&account, now).filter(|_| is_longer) {
            change = change.add_cap(cap)?;
        }
        let updated = change.records().next().cloned();
        match manager.commit(change).await {
            Ok(()) => {}
            Err(error) if error.kind() == StoreErrorKind::CapReached => {
                return Err(manager.policy.too_many_keys(&account).into());
            }
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                let id = self.seen.id();
                let current = manager.store.find_committed(&id).await?;
                let current = current.ok_or(UpdateError::NotFound(id))?;
                return Err(UpdateError::Changed(Box::new(current)));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(updated.unwrap_or(self.seen))
    }
}

impl UpdateKey {
    /// Checks what the update adds. What stays, or is taken away, is allowed.
    fn check_policy(&self, updated: &KeyRecord) -> Result<(), PolicyError> {
        let policy = &self.manager.policy;
        if self.edits.name.is_some() {
            policy.check_name(updated.name())?;
        }
        let added = updated.scopes().iter();
        let added = added.filter(|scope| !self.seen.scopes().contains(scope));
        policy.check_scopes(&self.origin.actor, added)?;
        if self.is_longer(updated) {
            // A key that was imported without its time of issue may be of any age.
            let begins = updated.not_before().or(updated.created_at());
            let begins = begins.unwrap_or(SystemTime::UNIX_EPOCH);
            policy.check_life(begins, updated.expires_at())?;
        }
        Ok(())
    }

    /// Returns whether the update lengthens the life of the key.
    fn is_longer(&self, updated: &KeyRecord) -> bool {
        match (self.seen.expires_at(), updated.expires_at()) {
            (Some(before), Some(after)) => after > before,
            (before, None) => before.is_some(),
            (None, Some(_)) => false,
        }
    }
}

impl IntoFuture for UpdateKey {
    type Output = Result<KeyRecord, UpdateError>;
    type IntoFuture = BoxFuture<Result<KeyRecord, UpdateError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.update())
    }
}
