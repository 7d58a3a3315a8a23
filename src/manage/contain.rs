//! Containment: the revocation of many keys in one call.

use std::future::IntoFuture;
use std::time::SystemTime;

use serde_json::json;

use crate::key::containment::Revocation;
use crate::key::record::KeyRecord;
use crate::key::text::KeyRecordError;
use crate::manage::change::{ChangeError, with_default_reason};
use crate::manage::pages::KeyPages;
use crate::manage::{BoxFuture, Manager};
use crate::store::{
    Action, Change, Event, KeyQuery, ListedKey, Origin, StoreError, StoreErrorKind,
};
use crate::util::timestamp;

/// The keys of one commit.
const AT_ONCE: u32 = 500;

/// A revocation of many keys, carried out when awaited:
/// [`ApiKeys::revoke_all`](crate::ApiKeys::revoke_all).
///
/// Every filter that is set must be met, and at least one must be set. Keys are revoked 500 in a
/// commit. The call can be repeated after an error or a crash: keys that are revoked already are
/// left as they are. With the last keys, one event `api_key.revoked_all` is committed, which tells
/// the filters and the number of keys that this call revoked.
///
/// Returns the number of keys that this call revoked.
///
/// ```
/// # use tower_api_key::store::Actor;
/// # use tower_api_key::ApiKeys;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// keys.issue("acme").await?;
/// keys.issue("globex").await?;
/// let contained = keys
///     .revoke_all()
///     .of_account("acme")
///     .by(Actor::user("ops@example.com"))
///     .reason("the account was taken over")
///     .await?;
/// assert_eq!(contained.revoked, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is revoked until this is awaited"]
pub struct RevokeAll {
    manager: Manager,
    account: Option<String>,
    prefix: Option<String>,
    issued_before: Option<SystemTime>,
    origin: Origin,
    reason: Option<String>,
}

/// The result of a containment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Contained {
    /// The keys that were revoked.
    pub revoked: u64,
}

/// An error for a containment that was not completed. Repeat it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ContainError {
    /// No filter was set: all keys would be revoked.
    #[error("all keys would be revoked: set an account, a prefix or a time")]
    NoFilter,
    /// The reason or the origin has a value that not every store can keep.
    #[error(transparent)]
    Invalid(#[from] KeyRecordError),
    /// The store failed after some keys were revoked.
    #[error("the store failed after {revoked} keys were revoked: repeat the call")]
    Store {
        /// The keys that were revoked.
        revoked: u64,
        /// The error.
        #[source]
        source: StoreError,
    },
}

impl RevokeAll {
    pub(crate) fn new(manager: Manager) -> Self {
        Self {
            manager,
            account: None,
            prefix: None,
            issued_before: None,
            origin: Origin::default(),
            reason: None,
        }
    }

    /// Revokes only keys of an account.
    pub fn of_account(mut self, account: impl Into<String>) -> Self {
        self.account = Some(account.into());
        self
    }

    /// Revokes only keys with a prefix, such as `sk_live`.
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Revokes only keys that were issued before a time. Keys of which the time of issue is unknown
    /// are among them.
    pub fn issued_before(mut self, at: SystemTime) -> Self {
        self.issued_before = Some(at);
        self
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

    async fn revoke(self) -> Result<Contained, ContainError> {
        if self.account.is_none() && self.prefix.is_none() && self.issued_before.is_none() {
            return Err(ContainError::NoFilter);
        }
        let mut contained = Contained::default();
        let failed = |revoked| move |source| ContainError::Store { revoked, source };
        let mut pages = KeyPages::new(self.manager.store.clone(), self.query(), AT_ONCE);
        // One batch is held back, so that the event is committed with the last one.
        let mut held: Vec<KeyRecord> = Vec::new();
        loop {
            let page = pages.next().await;
            let Some(page) = page.map_err(failed(contained.revoked))? else {
                break;
            };
            let meant = page.into_iter().map(|key| key.record);
            let meant: Vec<KeyRecord> = meant.filter(|key| self.is_meant(key)).collect();
            if !meant.is_empty() {
                let batch = std::mem::replace(&mut held, meant);
                contained.revoked += self.revoke_batch(&batch, contained.revoked, false).await?;
            }
        }
        contained.revoked += self.revoke_batch(&held, contained.revoked, true).await?;
        Ok(contained)
    }

    fn query(&self) -> KeyQuery {
        KeyQuery::new()
            .with_account(self.account.clone())
            .with_prefix(self.prefix.clone())
    }

    /// Returns whether a key is to be revoked, as it is now.
    fn is_meant(&self, key: &KeyRecord) -> bool {
        let is_early = |limit| key.created_at().is_none_or(|at| at < limit);
        key.revoked().is_none()
            && self.issued_before.is_none_or(is_early)
            && self.query().matches(&ListedKey::new(key.clone()))
    }

    /// Revokes keys in one commit, with the event if this is the last one, or, if some of them were
    /// changed meanwhile, one by one.
    async fn revoke_batch(
        &self,
        keys: &[KeyRecord],
        before: u64,
        is_last: bool,
    ) -> Result<u64, ContainError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let origin = with_default_reason(self.origin.clone(), self.reason.as_ref());
        // As the store rounds it.
        let now = timestamp::microseconds_down(self.manager.shared.now());
        let revocation = Revocation::new(now).with_reason(self.reason.clone());
        let mut change = Change::new(origin.clone(), now);
        for key in keys {
            let revoked = key.clone().with_revoked(revocation.clone());
            change = change.update(Action::REVOKED, key, revoked)?;
        }
        if is_last {
            change = change.add_event(self.event(before + keys.len() as u64, now))?;
        }
        match self.manager.commit(&change).await {
            Ok(()) => return Ok(keys.len() as u64),
            Err(error) if error.kind() == StoreErrorKind::Conflict => {}
            Err(source) => {
                return Err(ContainError::Store {
                    revoked: before,
                    source,
                });
            }
        }
        let mut revoked = 0;
        for key in keys {
            let revoke = |key: &KeyRecord| {
                let key = self.is_meant(key).then(|| key.clone())?;
                Some(key.with_revoked(revocation.clone()))
            };
            let update = self
                .manager
                .update(key.id(), origin.clone(), Action::REVOKED, revoke);
            match update.await {
                Ok(key) if key.revoked() == Some(&revocation) => revoked += 1,
                // Revoked by somebody else, moved, or gone.
                Ok(_) | Err(ChangeError::NotFound(_)) => {}
                Err(ChangeError::Invalid(error)) => return Err(error.into()),
                Err(ChangeError::Store(source)) => {
                    let revoked = before + revoked;
                    return Err(ContainError::Store { revoked, source });
                }
            }
        }
        let total = before + revoked;
        if is_last && total > 0 {
            let change = Change::new(origin, now).add_event(self.event(total, now))?;
            let told = self.manager.commit(&change).await;
            told.map_err(|source| ContainError::Store {
                revoked: total,
                source,
            })?;
        }
        Ok(revoked)
    }

    fn event(&self, revoked: u64, now: SystemTime) -> Event {
        let data = json!({
            "account": self.account,
            "prefix": self.prefix,
            "issued_before": self.issued_before.map(timestamp::rfc3339),
            "revoked": revoked,
        });
        Event::new("api_key.revoked_all", now)
            .with_account(self.account.clone())
            .with_data(data.to_string())
    }
}

impl IntoFuture for RevokeAll {
    type Output = Result<Contained, ContainError>;
    type IntoFuture = BoxFuture<Result<Contained, ContainError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.revoke())
    }
}
