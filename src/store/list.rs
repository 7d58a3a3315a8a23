//! Lists of keys: filters and orders.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::key::digest::KeyDigest;
use crate::key::environment::Environment;
use crate::key::lifecycle::{KeyStatus, WarningWindow};
use crate::key::record::KeyRecord;
use crate::util::timestamp::microseconds_down;

/// A query for a list of keys: filters and an order. A key must meet all filters. Some filters set
/// an order that suits them; the last order that is set counts.
///
/// ```
/// use std::time::SystemTime;
/// use tower_api_key::store::{KeyOrder, KeyQuery, KeyState};
///
/// let query = KeyQuery::new()
///     .with_account("acme".to_owned())
///     .with_state(KeyState::Live, SystemTime::now())
///     .with_order(KeyOrder::EndingSoon);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeyQuery {
    /// Only keys of this account. Default: any.
    pub account: Option<String>,
    /// Only keys with this prefix. Default: any.
    pub prefix: Option<String>,
    /// Only keys of this environment. Default: any.
    pub environment: Option<Environment>,
    /// Only keys in this state at this time. Default: any.
    pub state: Option<(KeyState, SystemTime)>,
    /// Only keys with such an expiry. Default: any.
    pub expiry: Option<ExpiryFilter>,
    /// Only keys that were issued before this time, worked before it, and were neither used nor
    /// rotated since. Default: any.
    pub idle_since: Option<SystemTime>,
    /// Only keys that were revoked before this time. Default: any.
    pub revoked_before: Option<SystemTime>,
    /// Only keys that were rotated. Default: any.
    pub is_rotated: bool,
    /// Leave out keys whose record cannot be read, instead of an error. Default: `false`.
    pub leaves_out_unreadable: bool,
    /// The order of the list. Default: the newest first.
    pub order: KeyOrder,
}

/// A filter of lists by the expiry of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExpiryFilter {
    /// Keys that never expire.
    Never,
    /// Keys that expire before this time, or have expired.
    Before(SystemTime),
    /// Keys that expire at the first time or later, and before the second.
    Between(SystemTime, SystemTime),
}

/// The state of a key in lists. Each key is in exactly one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyState {
    /// The key can be used: it is active or deprecated.
    Live,
    /// The key is not active yet.
    NotYetActive,
    /// The key is suspended, and can be resumed.
    Suspended,
    /// The key has expired.
    Expired,
    /// The key is revoked for good.
    Revoked,
}

/// The order of a list of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KeyOrder {
    /// Newest keys first: by `created_at`, or else by the time of the change that created them. The
    /// position of a key is fixed, so no page misses or repeats a key while others change.
    #[default]
    Newest,
    /// Only keys with an expiry, the next to expire first. A key whose expiry is changed during the
    /// listing may be missed or repeated.
    EndingSoon,
    /// Keys that were never used first, then those with the oldest last use. A key that is used
    /// during the listing may be missed or repeated.
    LeastRecentlyUsed,
    /// Only revoked keys, the most recently revoked first. A key that is revoked during the listing
    /// may be missed.
    RecentlyRevoked,
}

impl KeyQuery {
    /// Creates a query for all keys, the newest first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists only keys of an account.
    #[must_use]
    pub fn with_account(mut self, account: impl Into<Option<String>>) -> Self {
        self.account = account.into();
        self
    }

    /// Lists only keys with a prefix.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<Option<String>>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Lists only keys of an environment.
    #[must_use]
    pub fn with_environment(mut self, environment: impl Into<Option<Environment>>) -> Self {
        self.environment = environment.into();
        self
    }

    /// Lists only keys in a state at a time.
    #[must_use]
    pub fn with_state(mut self, state: KeyState, at: SystemTime) -> Self {
        self.state = Some((state, at));
        self
    }

    /// Lists only live keys that expire soon: within a time from `now` on. The next to expire comes
    /// first.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_api_key::store::KeyQuery;
    /// # let keys = tower_api_key::ApiKeys::in_memory();
    /// let two_weeks = Duration::from_secs(14 * 86_400);
    /// let query = KeyQuery::new().expiring_within(two_weeks, keys.now());
    /// ```
    #[must_use]
    pub fn expiring_within(mut self, time: Duration, now: SystemTime) -> Self {
        // A time that is too late for `SystemTime` is after all others.
        let end = now.checked_add(time).map(microseconds_down);
        self.expiry = end.map(ExpiryFilter::Before);
        self.state = Some((KeyState::Live, now));
        self.order = KeyOrder::EndingSoon;
        self
    }

    /// Lists only keys that expire, or have expired, at a time or later, and before another. The next
    /// to expire comes first. Keys in any state are listed: add [`with_state`](Self::with_state).
    #[must_use]
    pub fn expiring_between(mut self, from: SystemTime, before: SystemTime) -> Self {
        let [from, before] = [from, before].map(microseconds_down);
        self.expiry = Some(ExpiryFilter::Between(from, before));
        self.order = KeyOrder::EndingSoon;
        self
    }

    /// Lists only keys that never expire. Keys in any state are listed: add
    /// [`with_state`](Self::with_state).
    #[must_use]
    pub fn never_expires(mut self) -> Self {
        self.expiry = Some(ExpiryFilter::Never);
        self
    }

    /// Lists only keys that were not used since a time, the longest unused first. Keys that were
    /// issued or rotated since, or began to work since, are left out. Keys in any state are listed:
    /// add [`with_state`](Self::with_state).
    ///
    /// Uses are recorded by [workers](crate::ApiKeys::worker): without one in each process, a key
    /// in use looks idle. A key that was imported without a time of issue, and was never used, is
    /// listed.
    #[must_use]
    pub fn idle_since(mut self, at: SystemTime) -> Self {
        self.idle_since = Some(microseconds_down(at));
        self.order = KeyOrder::LeastRecentlyUsed;
        self
    }

    /// Lists only keys that were rotated: those that another key replaces.
    #[must_use]
    pub fn rotated_only(mut self) -> Self {
        self.is_rotated = true;
        self
    }

    /// Leaves out keys whose record cannot be read, such as one that was edited by hand. Each is
    /// logged. Default: such a key is an error of the page that it is on.
    ///
    /// For work that one bad record must not hold up, such as reminders. A list that keys are
    /// revoked by should fail instead.
    ///
    /// ```
    /// use tower_api_key::store::KeyQuery;
    ///
    /// let query = KeyQuery::new().leave_out_unreadable();
    /// ```
    #[must_use]
    pub fn leave_out_unreadable(mut self) -> Self {
        self.leaves_out_unreadable = true;
        self
    }

    /// Lists only live keys that were rotated, and that nobody has used for a time until `now`.
    /// Their owners seem to use the keys that replace them, so they can be ended:
    /// [`retire_idle`](crate::ApiKeys::retire_idle) ends those that were not changed meanwhile.
    ///
    /// Choose a time longer than the rarest job of their owners: a month and a day, for example.
    #[must_use]
    pub fn safe_to_remove(mut self, unused_for: Duration, now: SystemTime) -> Self {
        self.state = Some((KeyState::Live, now));
        let since = now.checked_sub(unused_for);
        self.rotated_only()
            .idle_since(since.unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// Lists only keys that were revoked before a time.
    #[must_use]
    pub fn revoked_before(mut self, at: SystemTime) -> Self {
        self.revoked_before = Some(microseconds_down(at));
        self
    }

    /// Sets the order of the list.
    #[must_use]
    pub fn with_order(mut self, order: KeyOrder) -> Self {
        self.order = order;
        self
    }

    /// Returns 16 hexadecimal digits that identify the query, for stores to put into cursors. Times
    /// are left out, since they may change from page to page.
    pub fn fingerprint(&self) -> String {
        let state = self.state.map(|(state, _)| state.as_str());
        fingerprint(&[
            Some(self.order.as_str()),
            self.account.as_deref(),
            self.prefix.as_deref(),
            self.environment.as_ref().map(Environment::as_str),
            state,
            self.expiry.map(|expiry| match expiry {
                ExpiryFilter::Never => "never",
                ExpiryFilter::Before(_) => "before",
                ExpiryFilter::Between(..) => "between",
            }),
            self.idle_since.map(|_| "idle"),
            self.revoked_before.map(|_| "revoked"),
            self.is_rotated.then_some("rotated"),
            self.leaves_out_unreadable.then_some("readable"),
        ])
    }

    /// Returns whether a key is in the list. Database queries must agree with this definition.
    ///
    /// Before acting on all keys of a list, for example revoking them, check each key with this
    /// function: an older store may ignore a filter that was added later.
    pub fn matches(&self, listed: &ListedKey) -> bool {
        let key = &listed.record;
        let is_of = |wanted: &Option<String>, has: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| has == Some(wanted))
        };
        let environment = self.environment.as_ref();
        is_of(&self.account, Some(key.account()))
            && is_of(&self.prefix, key.prefix())
            && environment.is_none_or(|wanted| key.environment() == Some(wanted))
            && self
                .state
                .is_none_or(|(state, at)| KeyState::of(key, at) == state)
            && match self.expiry {
                None => true,
                Some(ExpiryFilter::Never) => key.expires_at().is_none(),
                Some(ExpiryFilter::Before(at)) => key.expires_at().is_some_and(|end| end < at),
                Some(ExpiryFilter::Between(from, before)) => key
                    .expires_at()
                    .is_some_and(|end| (from..before).contains(&end)),
            }
            && self.idle_since.is_none_or(|at| listed.is_idle_since(at))
            && self
                .revoked_before
                .is_none_or(|at| key.revoked().is_some_and(|revoked| revoked.at < at))
            && (!self.is_rotated || key.rotated_to().is_some())
            && match self.order {
                KeyOrder::Newest | KeyOrder::LeastRecentlyUsed => true,
                KeyOrder::EndingSoon => key.expires_at().is_some(),
                KeyOrder::RecentlyRevoked => key.revoked().is_some(),
            }
    }
}

/// Returns 16 hexadecimal digits of a hash of the texts.
pub(crate) fn fingerprint(texts: &[Option<&str>]) -> String {
    // The length separates adjacent texts.
    let write = |text: Option<&str>| match text {
        Some(text) => format!("{} {text} ", text.len()),
        None => "- ".to_owned(),
    };
    let written: String = texts.iter().copied().map(write).collect();
    let mut digits = KeyDigest::of(&written).id().to_string();
    digits.truncate(16);
    digits
}

impl KeyOrder {
    /// Returns the name of the order.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::EndingSoon => "ending_soon",
            Self::LeastRecentlyUsed => "least_recently_used",
            Self::RecentlyRevoked => "recently_revoked",
        }
    }
}

impl KeyState {
    /// Returns the name of the state.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NotYetActive => "not_yet_active",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// Returns the state of a key at a time: its [`status`](crate::key::Lifecycle::status), with
    /// deprecated keys as live.
    pub fn of(key: &KeyRecord, at: SystemTime) -> Self {
        match key.lifecycle(at, WarningWindow::default()).status() {
            KeyStatus::Active | KeyStatus::Deprecated => Self::Live,
            KeyStatus::NotYetActive => Self::NotYetActive,
            KeyStatus::Suspended => Self::Suspended,
            KeyStatus::Expired => Self::Expired,
            KeyStatus::Revoked => Self::Revoked,
        }
    }
}

/// A key in a list: its record, and the times of its use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedKey {
    /// The record.
    pub record: KeyRecord,
    /// The first use that the store has recorded.
    pub first_used_at: Option<SystemTime>,
    /// The last use that the store has recorded.
    pub last_used_at: Option<SystemTime>,
    /// The client address of the last use. `None` if it is not known, or not recorded.
    pub last_address: Option<IpAddr>,
}

impl ListedKey {
    /// Creates a key without recorded uses.
    pub fn new(record: KeyRecord) -> Self {
        Self {
            record,
            first_used_at: None,
            last_used_at: None,
            last_address: None,
        }
    }

    /// Returns whether the key was issued and worked before a time, and was neither used nor
    /// rotated since.
    fn is_idle_since(&self, at: SystemTime) -> bool {
        let times = [
            self.record.created_at(),
            self.record.not_before(),
            self.record.rotated_to().map(|rotation| rotation.at),
            self.last_used_at,
        ];
        times.into_iter().flatten().all(|it| it < at)
    }

    /// Sets the client address of the last use.
    #[must_use]
    pub fn with_last_address(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.last_address = address.into();
        self
    }

    /// Sets the times of the first and the last use.
    #[must_use]
    pub fn with_uses(
        mut self,
        first: impl Into<Option<SystemTime>>,
        last: impl Into<Option<SystemTime>>,
    ) -> Self {
        self.first_used_at = first.into();
        self.last_used_at = last.into();
        self
    }
}
