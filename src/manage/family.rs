//! Calls about a chain of rotations: the end of a grace period, and the revocation of all keys.

use std::future::IntoFuture;

use crate::key::containment::Revocation;
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::manage::change::{ChangeError, with_default_reason};
use crate::manage::{ATTEMPTS, BoxFuture, Manager};
use crate::store::{Action, Change, Origin, StoreErrorKind};

/// The keys of one commit.
const AT_ONCE: usize = 500;

/// The end of a grace period, carried out when awaited:
/// [`ApiKeys::end_grace`](crate::ApiKeys::end_grace).
///
/// Returns the record after the change. A key that was not rotated, or has ended already, does not
/// change.
#[derive(Debug)]
#[must_use = "no grace period ends until this is awaited"]
pub struct EndGrace {
    manager: Manager,
    id: KeyId,
    origin: Origin,
}

impl EndGrace {
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

impl IntoFuture for EndGrace {
    type Output = Result<KeyRecord, ChangeError>;
    type IntoFuture = BoxFuture<Result<KeyRecord, ChangeError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let now = self.manager.shared.now();
            let end = |key: &KeyRecord| {
                key.rotated_to()?;
                let works = key.expires_at().is_none_or(|end| end > now);
                works.then(|| key.clone().with_expires_at(now))
            };
            let manager = &self.manager;
            manager
                .update(self.id, self.origin, Action::UPDATED, end)
                .await
        })
    }
}

/// A revocation of all keys of a chain of rotations, carried out when awaited:
/// [`ApiKeys::revoke_family`](crate::ApiKeys::revoke_family).
///
/// Returns the keys that were revoked, the first one of the chain first. Those that were revoked
/// before are left as they are. Chains of up to 500 keys are revoked in one commit. Repeat the call
/// after an error.
#[derive(Debug)]
#[must_use = "nothing is revoked until this is awaited"]
pub struct RevokeFamily {
    manager: Manager,
    id: KeyId,
    origin: Origin,
    reason: Option<String>,
}

impl RevokeFamily {
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

    async fn revoke(self) -> Result<Vec<KeyRecord>, ChangeError> {
        let manager = &self.manager;
        let origin = with_default_reason(self.origin, self.reason.as_ref());
        let mut revoked: Vec<KeyRecord> = Vec::new();
        let mut attempt = 1;
        // Again, until there is none left: a key of the chain may just be rotated.
        loop {
            let lineage = manager.lineage_of(&self.id).await?;
            let lineage = match lineage {
                Some(lineage) => lineage,
                None if attempt > 1 => return Ok(revoked), // purged meanwhile
                None => return Err(ChangeError::NotFound(self.id)),
            };
            let mut left: Vec<&KeyRecord> = lineage.all().collect();
            left.retain(|key| key.revoked().is_none());
            if left.is_empty() {
                return Ok(revoked);
            }
            let now = manager.shared.now();
            let revocation = Revocation::new(now).with_reason(self.reason.clone());
            for keys in left.chunks(AT_ONCE) {
                let mut change = Change::new(origin.clone(), now);
                for key in keys {
                    let ended = (*key).clone().with_revoked(revocation.clone());
                    change = change.update(Action::REVOKED, key, ended)?;
                }
                let records: Vec<KeyRecord> = change.records().cloned().collect();
                match manager.commit(change).await {
                    Ok(()) => revoked.extend(records),
                    Err(error)
                        if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS =>
                    {
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            attempt += 1;
        }
    }
}

impl IntoFuture for RevokeFamily {
    type Output = Result<Vec<KeyRecord>, ChangeError>;
    type IntoFuture = BoxFuture<Result<Vec<KeyRecord>, ChangeError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.revoke())
    }
}
