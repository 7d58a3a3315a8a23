//! The deletion of keys that are dead for long.

use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use crate::key::record::KeyRecord;
use crate::key::text::KeyRecordError;
use crate::manage::pages::KeyPages;
use crate::manage::{BoxFuture, Manager};
use crate::store::{
    Action, Change, ExpiryFilter, KeyOrder, KeyQuery, Origin, StoreError, StoreErrorKind,
};

/// The keys of one commit.
const AT_ONCE: u32 = 500;

/// The shortest time after its end in which a key may be deleted.
const SHORTEST: Duration = Duration::from_secs(86_400);

/// A deletion of dead keys, carried out when awaited:
/// [`ApiKeys::purge`](crate::ApiKeys::purge).
///
/// The time is at least a day. A key is deleted if it was revoked before the time, or expired
/// before it and was not revoked since. Its record, the times of its use and the request for it are
/// deleted. Its trail ends with `api_key.purged`, and is kept until the trail itself is purged;
/// counts of usage are kept with the account.
///
/// After that, the key is unknown, as if it had never existed: a caller who presents it is not told
/// any more that it was revoked. Keys that are imported or
/// [adopted](crate::ApiKeysBuilder::dangerous_adopt) from another table must be deleted there
/// before: once their trail is purged, they could be imported again.
///
/// Keys are deleted 500 in a commit. The call can be repeated after an error. Returns the number of
/// keys that were deleted.
///
/// ```
/// # use std::time::Duration;
/// # use tower_api_key::store::Actor;
/// # use tower_api_key::ApiKeys;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// let two_years = Duration::from_secs(730 * 86_400);
/// let deleted = keys.purge(two_years).by(Actor::service("cron")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is deleted until this is awaited"]
pub struct PurgeKeys {
    manager: Manager,
    dead_for: Duration,
    origin: Origin,
}

/// An error for dead keys that were not all deleted. Repeat the call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// The time is too short: a clock that is wrong would delete keys that have just ended.
    #[error("keys are deleted a day after their end, or later: set a longer time")]
    TooShort,
    /// The origin has a value that not every store can keep.
    #[error(transparent)]
    Invalid(#[from] KeyRecordError),
    /// The store failed after some keys were deleted, or deletes no keys.
    #[error("the dead keys could not all be deleted")]
    Store(#[from] StoreError),
}

impl PurgeKeys {
    pub(crate) fn new(manager: Manager, dead_for: Duration) -> Self {
        Self {
            manager,
            dead_for,
            origin: Origin::default(),
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    async fn purge(self) -> Result<u64, PurgeError> {
        if self.dead_for < SHORTEST {
            return Err(PurgeError::TooShort);
        }
        let now = self.manager.shared.now();
        let Some(before) = now.checked_sub(self.dead_for) else {
            return Ok(0); // nothing is as old as that
        };
        let revoked = KeyQuery::new()
            .revoked_before(before)
            .with_order(KeyOrder::RecentlyRevoked);
        let mut expired = KeyQuery::new().with_order(KeyOrder::EndingSoon);
        expired.expiry = Some(ExpiryFilter::Before(before));
        let mut deleted = 0;
        for query in [revoked, expired] {
            let mut pages = KeyPages::new(self.manager.store.clone(), query, AT_ONCE);
            while let Some(page) = pages.next().await? {
                let keys = page.into_iter().map(|key| key.record);
                let keys: Vec<_> = keys.filter(|key| is_dead_since(key, before)).collect();
                deleted += self.delete(&keys, now).await?;
            }
        }
        Ok(deleted)
    }

    /// Deletes keys in one commit, or, if some of them were changed meanwhile, one by one.
    async fn delete(&self, keys: &[KeyRecord], now: SystemTime) -> Result<u64, PurgeError> {
        if self.delete_unchanged(keys, now).await? {
            return Ok(keys.len() as u64);
        }
        let mut deleted = 0;
        for key in keys {
            deleted += u64::from(
                self.delete_unchanged(std::slice::from_ref(key), now)
                    .await?,
            );
        }
        Ok(deleted)
    }

    /// Deletes keys in one commit. Returns whether they were all as they were seen.
    async fn delete_unchanged(
        &self,
        keys: &[KeyRecord],
        now: SystemTime,
    ) -> Result<bool, PurgeError> {
        if keys.is_empty() {
            return Ok(true);
        }
        let mut change = Change::new(self.origin.clone(), now);
        for key in keys {
            change = change.delete(Action::PURGED, key)?;
        }
        match self.manager.commit(change).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns whether a key was revoked before a time, or expired before it and was not revoked since.
fn is_dead_since(key: &KeyRecord, before: SystemTime) -> bool {
    match key.revoked() {
        Some(revoked) => revoked.at < before,
        None => key.expires_at().is_some_and(|end| end < before),
    }
}

impl IntoFuture for PurgeKeys {
    type Output = Result<u64, PurgeError>;
    type IntoFuture = BoxFuture<Result<u64, PurgeError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.purge())
    }
}
