//! The policy of issuing: what keys may be issued, and for how long.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::key::record::KeyRecord;
use crate::key::scope::{Scope, ScopeSet};
use crate::store::{AccountCap, Actor};

/// A policy of issuing, which all calls that issue or change keys obey:
/// [`issue`](crate::ApiKeys::issue), [`rotate`](crate::ApiKeys::rotate),
/// [`update`](crate::ApiKeys::update) and [`import`](crate::ApiKeys::import). Default: everything
/// is allowed, and keys live until they are ended.
///
/// A policy is about what is written from now on: keys that break it already are left as they are.
/// Their fields that a call does not mention are not checked, except for the scopes of a key that
/// is rotated, since the caller gets the new key. Adopted keys are not checked either: they are in
/// use already.
///
/// All processes should have the same policy. A violation is a [`PolicyError`].
///
/// ```
/// # use std::time::Duration;
/// # use tower_api_key::manage::{IssuePolicy, ScopeCeiling};
/// # use tower_api_key::store::ActorKind;
/// # use tower_api_key::{ApiKeys, MemoryStore, Scope};
/// const READ: Scope = Scope::from_static("reports:read");
/// const DAY: Duration = Duration::from_secs(86_400);
///
/// let policy = IssuePolicy::new()
///     .require_name()
///     .max_lifetime(365 * DAY)
///     .default_lifetime(90 * DAY)
///     .max_keys_per_account(20)
///     .scope_ceiling(|issuer| match issuer.kind {
///         ActorKind::User => ScopeCeiling::only([READ]),
///         _ => ScopeCeiling::Unlimited,
///     })
///     .end_when_idle(180 * DAY);
/// let keys = ApiKeys::builder(MemoryStore::new()).issue_policy(policy).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "a policy has no effect until it is given to ApiKeysBuilder::issue_policy"]
pub struct IssuePolicy {
    longest_life: Option<Duration>,
    default_life: Option<Duration>,
    needs_name: bool,
    most_keys: Option<u32>,
    ceiling: Option<Arc<Ceiling>>,
    pub(crate) idle_end: Option<Duration>,
    pub(crate) idle_grace_end: Option<Duration>,
}

/// The time for which an expired key counts on. Otherwise, where the clocks of two processes
/// differ, one could lengthen a key whose place the other has just given away.
const COUNTS_ON_FOR: Duration = Duration::from_secs(60);

type Ceiling = dyn Fn(&Actor) -> ScopeCeiling + Send + Sync;

/// The scopes that an issuer may give to keys.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScopeCeiling {
    /// Any scopes.
    Unlimited,
    /// These scopes, all or some of them.
    Only(ScopeSet),
}

impl ScopeCeiling {
    /// Creates a ceiling of these scopes.
    pub fn only(scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self::Only(scopes.into_iter().collect())
    }
}

/// A violation of the [`IssuePolicy`]. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The key would live longer than allowed, or forever.
    #[error("a key may live for {longest:?} at most: let it expire earlier")]
    LivesTooLong {
        /// The longest life that is allowed.
        longest: Duration,
    },
    /// The key would have no name, or a blank one.
    #[error("a key needs a name, by which its owner knows it")]
    NoName,
    /// The issuer may not give this scope.
    #[error("the issuer may not give the scope {0}: see IssuePolicy::scope_ceiling")]
    ScopeAboveCeiling(Scope),
    /// The account has as many keys as it may have.
    #[error("the account {account:?} has {most} keys, as many as it may have: revoke one first")]
    TooManyKeys {
        /// The account.
        account: String,
        /// The most keys that it may have.
        most: u32,
    },
}

impl IssuePolicy {
    /// Creates a policy that allows everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the longest life of a key, counted from its issue, or from its `not_before` if that is
    /// later. Default: unlimited.
    ///
    /// A key then cannot be issued without an expiry, and a life cannot be lengthened beyond this.
    /// A rotation gives the new key a life of its own, of at most this length.
    pub fn max_lifetime(mut self, longest: Duration) -> Self {
        self.longest_life = Some(longest);
        self
    }

    /// Sets the life of keys for which no expiry is set. Default: the
    /// [longest](Self::max_lifetime), if there is one, or else unlimited.
    pub fn default_lifetime(mut self, life: Duration) -> Self {
        self.default_life = Some(life);
        self
    }

    /// Requires a name that is not blank. Default: a name is optional.
    pub fn require_name(mut self) -> Self {
        self.needs_name = true;
        self
    }

    /// Caps the keys of each account. Default: unlimited.
    ///
    /// A key and the keys that replace it by rotation count once, while one of them is neither
    /// revoked nor expired; an expired one counts for another minute. So an account at its cap can
    /// still rotate, and one that is above it, since the cap was lowered, too. The cap is exact,
    /// also if keys are issued at once in several processes: the store checks it in the
    /// transaction. A store that cannot refuses to issue keys
    /// ([`Refused`](crate::store::StoreErrorKind::Refused)).
    pub fn max_keys_per_account(mut self, most: u32) -> Self {
        self.most_keys = Some(most);
        self
    }

    /// Sets a function that returns which scopes an issuer may give. The issuer is the actor of the
    /// call ([`IssueKey::by`](crate::manage::IssueKey::by)); one that the call does not name is of
    /// the kind [`Unknown`](crate::store::ActorKind::Unknown). Default: any scopes.
    ///
    /// An update may keep scopes above the ceiling, but add none. The function is called once for
    /// each call, and must not block. If the scopes of an issuer are in a database, read them
    /// before the call, and compare with [`ScopeSet::is_subset`].
    pub fn scope_ceiling(
        mut self,
        ceiling: impl Fn(&Actor) -> ScopeCeiling + Send + Sync + 'static,
    ) -> Self {
        self.ceiling = Some(Arc::new(ceiling));
        self
    }

    /// Ends keys that were not used for a time of at least a day: see
    /// [`ApiKeys::retire_idle`](crate::ApiKeys::retire_idle), which the
    /// [worker](crate::ApiKeys::worker) then calls ten minutes after its start, and every hour.
    /// Default: never.
    ///
    /// Danger: keys whose uses were not recorded look idle. Run workers in all processes for at
    /// least this time before you set it.
    pub fn end_when_idle(mut self, idle: Duration) -> Self {
        self.idle_end = Some(idle);
        self
    }

    /// Ends the grace period of keys that were rotated, and then not used for a time of at least a
    /// day, as [`end_when_idle`](Self::end_when_idle) does for all keys. Default: a grace period
    /// ends in its time.
    pub fn end_grace_when_idle(mut self, idle: Duration) -> Self {
        self.idle_grace_end = Some(idle);
        self
    }

    /// Returns the time in which the default life ends, or `None` if it never does.
    pub(super) fn default_life(&self) -> Option<Duration> {
        match (self.default_life, self.longest_life) {
            (Some(life), Some(longest)) => Some(life.min(longest)),
            (life, longest) => life.or(longest),
        }
    }

    pub(super) fn longest_life(&self) -> Option<Duration> {
        self.longest_life
    }

    pub(super) fn check_name(&self, name: Option<&str>) -> Result<(), PolicyError> {
        if self.needs_name && name.is_none_or(|name| name.trim().is_empty()) {
            return Err(PolicyError::NoName);
        }
        Ok(())
    }

    /// Checks a life from its begin to its end; `None` is an unlimited one.
    pub(super) fn check_life(
        &self,
        begins: SystemTime,
        end: Option<SystemTime>,
    ) -> Result<(), PolicyError> {
        let Some(longest) = self.longest_life else {
            return Ok(());
        };
        let is_too_long = match (end, begins.checked_add(longest)) {
            (None, _) => true,
            (Some(end), Some(latest)) => end > latest,
            (Some(_), None) => false, // no end is as late as that
        };
        if is_too_long {
            return Err(PolicyError::LivesTooLong { longest });
        }
        Ok(())
    }

    pub(super) fn check_scopes<'s>(
        &self,
        issuer: &Actor,
        mut given: impl Iterator<Item = &'s Scope>,
    ) -> Result<(), PolicyError> {
        let Some(ceiling) = &self.ceiling else {
            return Ok(());
        };
        match ceiling(issuer) {
            ScopeCeiling::Unlimited => Ok(()),
            ScopeCeiling::Only(allowed) => match given.find(|scope| !allowed.contains(scope)) {
                Some(scope) => Err(PolicyError::ScopeAboveCeiling(scope.clone())),
                None => Ok(()),
            },
        }
    }

    /// Checks a whole record that is alive, such as one to import.
    pub(super) fn check_record(
        &self,
        issuer: &Actor,
        record: &KeyRecord,
        now: SystemTime,
    ) -> Result<(), PolicyError> {
        self.check_name(record.name())?;
        let begins = record.not_before().or(record.created_at());
        self.check_life(begins.unwrap_or(now), record.expires_at())?;
        self.check_scopes(issuer, record.scopes().iter())
    }

    pub(super) fn cap(&self, account: &str, now: SystemTime) -> Option<AccountCap> {
        let most = self.most_keys?;
        let at = now.checked_sub(COUNTS_ON_FOR).unwrap_or(now);
        Some(AccountCap::new(account, most, at))
    }

    /// Returns the error for an account that has reached its cap.
    pub(super) fn too_many_keys(&self, account: &str) -> PolicyError {
        PolicyError::TooManyKeys {
            account: account.to_owned(),
            most: self.most_keys.unwrap_or_default(),
        }
    }
}

/// Leaves the function out.
impl fmt::Debug for IssuePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuePolicy")
            .field("longest_life", &self.longest_life)
            .field("default_life", &self.default_life)
            .field("needs_name", &self.needs_name)
            .field("most_keys", &self.most_keys)
            .field("has_ceiling", &self.ceiling.is_some())
            .field("idle_end", &self.idle_end)
            .field("idle_grace_end", &self.idle_grace_end)
            .finish()
    }
}
