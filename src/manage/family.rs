//! Calls about a chain of rotations: the end of a grace period, and the revocation of all keys.

use std::collections::HashSet;
use std::future::IntoFuture;

use crate::key::containment::Revocation;
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::manage::change::{ChangeError, with_default_reason};
use crate::manage::{ATTEMPTS, BoxFuture, Manager};
use crate::store::{Action, Change, Origin, StoreErrorKind};

/// The most keys of a chain that are revoked in one commit.
const MOST_KEYS: usize = 1_000;

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

/// A revocation of all keys of a chain of rotations, in one commit when awaited:
/// [`ApiKeys::revoke_family`](crate::ApiKeys::revoke_family).
///
/// Returns the keys that were revoked, the first one of the chain first. Those that were revoked
/// before are left as they are. The keys are those before and after the named one; at most 1,000.
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
        let mut attempt = 1;
        loop {
            let now = manager.shared.now();
            let revocation = Revocation::new(now).with_reason(self.reason.clone());
            let mut change = Change::new(origin.clone(), now);
            for key in manager.chain_of(self.id).await? {
                if key.revoked().is_none() {
                    let revoked = key.clone().with_revoked(revocation.clone());
                    change = change.update(Action::REVOKED, &key, revoked)?;
                }
            }
            if change.steps().len() == 0 {
                return Ok(Vec::new());
            }
            match manager.commit(&change).await {
                Ok(()) => return Ok(change.records().cloned().collect()),
                // A key of the chain was changed, or rotated: look again.
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Manager {
    /// Returns the keys of a chain of rotations, the first one first.
    async fn chain_of(&self, id: KeyId) -> Result<Vec<KeyRecord>, ChangeError> {
        let key = self.find_newest(&id).await?;
        let key = key.ok_or(ChangeError::NotFound(id))?;
        let mut found = HashSet::from([id]);
        let mut chain = vec![key.clone()];
        let mut before = key.rotated_from();
        while let Some(id) = before.filter(|id| found.insert(*id)) {
            let Some(key) = self.find_newest(&id).await? else {
                break; // purged
            };
            before = key.rotated_from().filter(|_| chain.len() < MOST_KEYS);
            chain.push(key);
        }
        chain.reverse();
        let mut after = key.rotated_to().map(|rotation| rotation.successor);
        while let Some(id) = after.filter(|id| found.insert(*id)) {
            let Some(key) = self.find_newest(&id).await? else {
                break;
            };
            let next = key.rotated_to().filter(|_| chain.len() < MOST_KEYS);
            after = next.map(|rotation| rotation.successor);
            chain.push(key);
        }
        Ok(chain)
    }
}

impl IntoFuture for RevokeFamily {
    type Output = Result<Vec<KeyRecord>, ChangeError>;
    type IntoFuture = BoxFuture<Result<Vec<KeyRecord>, ChangeError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.revoke())
    }
}
