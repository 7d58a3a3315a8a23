//! Keys that nobody has: those whose plaintext was lost on its way to the owner.

use std::time::{Duration, SystemTime};

use crate::key::digest::KeyId;
use crate::manage::Manager;
use crate::store::StoreError;

/// The time after which a use in any process of a fleet is in the store: a second until it is
/// recorded, and what a store, a retry and the skew of clocks may take.
const USES_ARE_KNOWN_AFTER: Duration = Duration::from_secs(60);

/// The possession of a key.
pub(super) enum Possession {
    /// It was never used.
    Nobody,
    /// It was used.
    Somebody,
    /// It was issued so recently that a use may not be recorded yet. The time to wait.
    Unknown(Duration),
}

impl Manager {
    /// Returns whether somebody has a key that was issued at a time.
    pub(super) async fn possession(
        &self,
        id: &KeyId,
        issued_at: SystemTime,
        now: SystemTime,
    ) -> Result<Possession, StoreError> {
        // A clock that steps back makes this wait longer.
        let known_at = issued_at + USES_ARE_KNOWN_AFTER;
        if let Ok(wait) = known_at.duration_since(now)
            && !wait.is_zero()
        {
            return Ok(Possession::Unknown(wait));
        }
        let listed = self.store.find_listed(id).await?;
        let is_unused = listed.is_some_and(|listed| listed.last_used_at.is_none());
        Ok(if is_unused {
            Possession::Nobody
        } else {
            Possession::Somebody
        })
    }
}
