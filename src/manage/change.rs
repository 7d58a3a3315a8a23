//! Revoking, suspending and resuming keys.

use std::future::IntoFuture;
use std::time::SystemTime;

use crate::key::containment::{Revocation, Suspension};
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::key::text::KeyRecordError;
use crate::manage::{BoxFuture, Manager};
use crate::store::{Action, Origin, StoreError};
use crate::util::timestamp;

/// An error for a key that could not be changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// There is no key with this id.
    #[error("there is no key {0}")]
    NotFound(KeyId),
    /// The changed record would have a value that not every store can keep. Nothing was changed.
    #[error(transparent)]
    Invalid(#[from] KeyRecordError),
    /// The store failed; the key may or may not have been changed.
    #[error("the key could not be changed")]
    Store(#[from] StoreError),
}

/// A revocation, carried out when awaited: [`ApiKeys::revoke`](crate::ApiKeys::revoke).
///
/// Returns the record after the revocation. Revoking is idempotent, so it is safe to repeat it
/// after an error.
///
/// ```
/// # use tower_api_key::key::{KeyStatus, WarningWindow};
/// # use tower_api_key::ApiKeys;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// let key = keys.issue("acme").await?;
/// let record = keys.revoke(key.id()).reason("found in a public repository").await?;
/// assert_eq!(record.lifecycle(keys.now(), WarningWindow::default()).status(), KeyStatus::Revoked);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is revoked until this is awaited"]
pub struct RevokeKey {
    manager: Manager,
    id: KeyId,
    origin: Origin,
    reason: Option<String>,
}

impl RevokeKey {
    pub(crate) fn new(manager: Manager, id: KeyId) -> Self {
        Self {
            manager,
            id,
            origin: Origin::default(),
            reason: None,
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Sets the reason, for the operators of the service. Callers are not told.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl IntoFuture for RevokeKey {
    type Output = Result<KeyRecord, ChangeError>;
    type IntoFuture = BoxFuture<Result<KeyRecord, ChangeError>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self {
            manager,
            id,
            origin,
            reason,
        } = self;
        Box::pin(async move {
            let origin = with_default_reason(origin, reason.as_ref());
            let revocation = Revocation::new(manager.shared.now()).with_reason(reason);
            let revoke = |key: &KeyRecord| {
                let key = key.revoked().is_none().then(|| key.clone())?;
                Some(key.with_revoked(revocation.clone()))
            };
            manager.update(id, origin, Action::REVOKED, revoke).await
        })
    }
}

/// A suspension, carried out when awaited: [`ApiKeys::suspend`](crate::ApiKeys::suspend).
///
/// Returns the record after the suspension. Suspending is idempotent, but a different `until`
/// changes the end of the suspension.
///
/// ```
/// # use std::time::Duration;
/// # use tower_api_key::ApiKeys;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// let key = keys.issue("acme").await?;
/// keys.suspend(key.id()).reason("unpaid invoice").await?;
/// keys.resume(key.id()).await?;
///
/// let tomorrow = keys.now() + Duration::from_secs(86_400);
/// keys.suspend(key.id()).until(tomorrow).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is suspended until this is awaited"]
pub struct SuspendKey {
    manager: Manager,
    id: KeyId,
    origin: Origin,
    reason: Option<String>,
    until: Option<SystemTime>,
}

impl SuspendKey {
    pub(crate) fn new(manager: Manager, id: KeyId) -> Self {
        Self {
            manager,
            id,
            origin: Origin::default(),
            reason: None,
            until: None,
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Sets the reason, for the operators of the service. Callers are not told.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Sets the time from which the key works again. Default: until it is resumed.
    pub fn until(mut self, until: impl Into<Option<SystemTime>>) -> Self {
        self.until = until.into();
        self
    }
}

impl IntoFuture for SuspendKey {
    type Output = Result<KeyRecord, ChangeError>;
    type IntoFuture = BoxFuture<Result<KeyRecord, ChangeError>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self {
            manager,
            id,
            origin,
            reason,
            until,
        } = self;
        Box::pin(async move {
            let origin = with_default_reason(origin, reason.as_ref());
            let now = manager.shared.now();
            // As it is stored, so that the same suspension is recognized.
            let until = until.map(timestamp::microseconds_up);
            let suspension = Suspension::new(now).with_reason(reason).with_until(until);
            let suspend = |key: &KeyRecord| {
                let is_done = |it: &Suspension| it.holds_at(now) && it.until == until;
                let is_to_do = !key.suspended().is_some_and(is_done);
                is_to_do.then(|| key.clone().with_suspended(suspension.clone()))
            };
            manager.update(id, origin, Action::SUSPENDED, suspend).await
        })
    }
}

/// The end of a suspension, carried out when awaited: [`ApiKeys::resume`](crate::ApiKeys::resume).
///
/// Returns the record after the change. A key that is not suspended does not change; a revoked key
/// stays revoked.
#[derive(Debug)]
#[must_use = "nothing is resumed until this is awaited"]
pub struct ResumeKey {
    manager: Manager,
    id: KeyId,
    origin: Origin,
}

impl ResumeKey {
    pub(crate) fn new(manager: Manager, id: KeyId) -> Self {
        Self {
            manager,
            id,
            origin: Origin::default(),
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }
}

impl IntoFuture for ResumeKey {
    type Output = Result<KeyRecord, ChangeError>;
    type IntoFuture = BoxFuture<Result<KeyRecord, ChangeError>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self {
            manager,
            id,
            origin,
        } = self;
        Box::pin(async move {
            let resume = |key: &KeyRecord| {
                let key = key.suspended().is_some().then(|| key.clone())?;
                Some(key.with_suspended(None))
            };
            manager.update(id, origin, Action::RESUMED, resume).await
        })
    }
}

/// Returns the origin with the reason of a call, unless the origin has a reason of its own.
pub(super) fn with_default_reason(origin: Origin, reason: Option<&String>) -> Origin {
    if origin.reason.is_some() {
        return origin;
    }
    origin.with_reason(reason.cloned())
}
