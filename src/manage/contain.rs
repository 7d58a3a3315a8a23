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
    Action, Change, Event, KeyQuery, ListedKey, Origin, StoreError, StoreErrorKind, kinds,
};
use crate::util::timestamp;

/// The keys of one commit.
const AT_ONCE: u32 = 500;

/// The keys of one commit at least, where the store is slow.
const LEAST: usize = 10;

/// The most times that the keys are read through.
const MOST_PASSES: usize = 20;

/// A revocation of many keys, carried out when awaited:
/// [`ApiKeys::revoke_all`](crate::ApiKeys::revoke_all).
///
/// Every filter that is set must be met, and at least one must be set. Keys are revoked 500 in a
/// commit. The call can be repeated after an error or a crash: keys that are revoked already are
/// left as they are. Keys that are issued or rotated meanwhile are revoked, too, if they meet the
/// filters. When nothing is left, one event `api_key.revoked_all` tells the filters and the number
/// of keys that this call revoked, also if there was none.
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
    /// Keys are issued or rotated faster than they are revoked: stop that, and repeat the call.
    #[error("{revoked} keys were revoked, and new ones are issued all the time: stop that first")]
    Unfinished {
        /// The keys that were revoked.
        revoked: u64,
    },
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

impl ContainError {
    /// Sets the number of keys that were revoked.
    fn after(self, revoked: u64) -> Self {
        match self {
            Self::Store { source, .. } => Self::Store { revoked, source },
            other => other,
        }
    }
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
        // Again, until nothing is left: a key that is rotated or issued meanwhile is newer than
        // those that are still to be read.
        for _ in 0..MOST_PASSES {
            let before = contained.revoked;
            let mut pages = KeyPages::new(self.manager.store.clone(), self.query(), AT_ONCE);
            let mut is_done = true;
            loop {
                let page = pages.next().await;
                let Some(page) = page.map_err(failed(contained.revoked))? else {
                    break;
                };
                let meant = page.into_iter().map(|key| key.record);
                let meant: Vec<KeyRecord> = meant.filter(|key| self.is_meant(key)).collect();
                is_done &= meant.is_empty();
                contained.revoked += self.revoke_batch(&meant, contained.revoked).await?;
            }
            if is_done || contained.revoked == before {
                let now = self.manager.shared.now();
                let change = Change::new(self.origin.clone(), now);
                let change = change.add_event(self.event(contained.revoked, now))?;
                let told = self.manager.commit(change).await;
                told.map_err(failed(contained.revoked))?;
                return Ok(contained);
            }
        }
        Err(ContainError::Unfinished {
            revoked: contained.revoked,
        })
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

    /// Revokes keys in one commit; or, if some of them were changed meanwhile, or the store is too
    /// slow for so many, in smaller ones.
    async fn revoke_batch(&self, keys: &[KeyRecord], before: u64) -> Result<u64, ContainError> {
        let origin = with_default_reason(self.origin.clone(), self.reason.as_ref());
        // As the store rounds it.
        let now = timestamp::microseconds_down(self.manager.shared.now());
        let revocation = Revocation::new(now).with_reason(self.reason.clone());
        let mut revoked = 0;
        let mut batches = vec![keys];
        while let Some(keys) = batches.pop() {
            if keys.is_empty() {
                continue;
            }
            let failed = |source| ContainError::Store {
                revoked: before + revoked,
                source,
            };
            let mut change = Change::new(origin.clone(), now);
            for key in keys {
                let ended = key.clone().with_revoked(revocation.clone());
                change = change.update(Action::REVOKED, key, ended)?;
            }
            match self.manager.commit(change).await {
                Ok(()) => revoked += keys.len() as u64,
                Err(error) if error.kind() == StoreErrorKind::Conflict => {
                    for key in keys {
                        let one = self.revoke_one(key, &origin, &revocation).await;
                        revoked += u64::from(one.map_err(|error| error.after(before + revoked))?);
                    }
                }
                Err(error) if error.kind() == StoreErrorKind::Unavailable && keys.len() > LEAST => {
                    let (first, second) = keys.split_at(keys.len() / 2);
                    batches.extend([second, first]);
                }
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(revoked)
    }

    /// Revokes a key as it is now, if it is still meant. Returns whether it was revoked here.
    async fn revoke_one(
        &self,
        key: &KeyRecord,
        origin: &Origin,
        revocation: &Revocation,
    ) -> Result<bool, ContainError> {
        let revoke = |key: &KeyRecord| {
            let key = self.is_meant(key).then(|| key.clone())?;
            Some(key.with_revoked(revocation.clone()))
        };
        let update = self
            .manager
            .update(key.id(), origin.clone(), Action::REVOKED, revoke);
        match update.await {
            Ok(key) => Ok(key.revoked() == Some(revocation)),
            Err(ChangeError::NotFound(_)) => Ok(false),
            Err(ChangeError::Invalid(error)) => Err(error.into()),
            Err(ChangeError::Store(source)) => Err(ContainError::Store { revoked: 0, source }),
        }
    }

    fn event(&self, revoked: u64, now: SystemTime) -> Event {
        let data = json!({
            "actor_kind": self.origin.actor.kind.as_str(),
            "account": self.account,
            "prefix": self.prefix,
            "issued_before": self.issued_before.map(timestamp::rfc3339),
            "revoked": revoked,
        });
        Event::new(kinds::API_KEY_REVOKED_ALL, now)
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
