//! Revocation of a key by whoever holds it.

use std::fmt;
use std::future::IntoFuture;

use crate::key::digest::KeyDigest;
use crate::key::record::KeyRecord;
use crate::manage::change::{ChangeError, RevokeKey};
use crate::manage::{BoxFuture, Manager};
use crate::store::{Actor, Origin, StoreError};

/// A revocation of a presented key, carried out when awaited:
/// [`ApiKeys::revoke_own`](crate::ApiKeys::revoke_own).
///
/// The holder of a key may revoke it: its owner who has found it in public, or a finder who reports
/// it this way. A key in any status is revoked, also one that is suspended or has expired. Returns
/// the record after the revocation. A key that does not exist is [`ChangeError::NotFound`].
///
/// ```
/// # use tower_api_key::ApiKeys;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// let key = keys.issue("acme").await?;
/// let record = keys.revoke_own(key.expose_secret()).reason("found in a log").await?;
/// assert!(record.revoked().is_some());
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is revoked until this is awaited"]
pub struct RevokeOwn {
    manager: Manager,
    digest: KeyDigest,
    origin: Option<Origin>,
    reason: Option<String>,
}

impl RevokeOwn {
    pub(crate) fn new(manager: Manager, plaintext: &str) -> Self {
        Self {
            manager,
            digest: KeyDigest::of(plaintext),
            origin: None,
            reason: None,
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: the key itself, as an
    /// [`Actor`].
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = Some(origin.into());
        self
    }

    /// Sets the reason, for the operators of the service. Callers are not told.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    async fn revoke(self) -> Result<KeyRecord, ChangeError> {
        let id = self.digest.id();
        let record = self.manager.find_newest(&id).await?;
        let record = record.ok_or(ChangeError::NotFound(id))?;
        let peppers = &self.manager.shared.peppers;
        let is_its_key = peppers.verify(record.verifier(), &self.digest);
        if !is_its_key.map_err(StoreError::corrupt)? {
            return Err(ChangeError::NotFound(id));
        }
        let origin = self.origin.unwrap_or_else(|| Actor::key(id).into());
        let mut revoke = RevokeKey::new(self.manager, id).by(origin);
        if let Some(reason) = self.reason {
            revoke = revoke.reason(reason);
        }
        revoke.await
    }
}

impl IntoFuture for RevokeOwn {
    type Output = Result<KeyRecord, ChangeError>;
    type IntoFuture = BoxFuture<Result<KeyRecord, ChangeError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.revoke())
    }
}

/// Leaves the digest out.
impl fmt::Debug for RevokeOwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevokeOwn")
            .field("id", &self.digest.id())
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
