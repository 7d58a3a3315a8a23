//! Lists of keys: filters, order, and keyset pagination.

use std::time::SystemTime;

use crate::key::digest::KeyDigest;
use crate::key::environment::Environment;
use crate::key::lifecycle::{KeyStatus, WarningWindow};
use crate::key::record::KeyRecord;

/// A query for a list of keys: filters and an order.
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
    /// The order of the list. Default: the newest first.
    pub order: KeyOrder,
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

    /// Sets the order of the list.
    #[must_use]
    pub fn with_order(mut self, order: KeyOrder) -> Self {
        self.order = order;
        self
    }

    /// Returns 16 hexadecimal digits that identify the query, for stores to put into cursors. The
    /// time of the state is left out, since it changes from page to page.
    pub fn fingerprint(&self) -> String {
        let state = self.state.map(|(state, _)| state.as_str());
        fingerprint(&[
            Some(self.order.as_str()),
            self.account.as_deref(),
            self.prefix.as_deref(),
            self.environment.as_ref().map(Environment::as_str),
            state,
        ])
    }

    /// Returns whether a key is in the list. Database queries must agree with this definition.
    ///
    /// Before acting on all keys of a list, for example revoking them, check each key with this
    /// function: an older store may ignore a filter that was added later.
    pub fn matches(&self, key: &ListedKey) -> bool {
        let key = &key.record;
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
            && match self.order {
                KeyOrder::Newest | KeyOrder::LeastRecentlyUsed => true,
                KeyOrder::EndingSoon => key.expires_at().is_some(),
                KeyOrder::RecentlyRevoked => key.revoked().is_some(),
            }
    }
}

/// Returns 16 hexadecimal digits of a hash of the texts.
pub(super) fn fingerprint(texts: &[Option<&str>]) -> String {
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
}

impl ListedKey {
    /// Creates a key without recorded uses.
    pub fn new(record: KeyRecord) -> Self {
        Self {
            record,
            first_used_at: None,
            last_used_at: None,
        }
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

/// The position and size of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paging {
    after: Option<Cursor>,
    limit: u32,
}

impl Paging {
    /// The maximum number of items on a page.
    pub const MOST: u32 = 1_000;

    /// Reads the first page, with at most `limit` items. `limit` is clamped to 1 through
    /// [`MOST`](Self::MOST).
    pub fn first(limit: u32) -> Self {
        Self {
            after: None,
            limit: limit.clamp(1, Self::MOST),
        }
    }

    /// Reads the page after a cursor.
    #[must_use]
    pub fn after(mut self, cursor: impl Into<Option<Cursor>>) -> Self {
        self.after = cursor.into();
        self
    }

    /// Returns the cursor: the [`next`](Page::next) of the previous page, or `None` for the first
    /// page.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.after.as_ref()
    }

    /// Returns the maximum number of items to read, at least 1.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The items, in the order of the list. There may be fewer than requested, or none, even if
    /// more follow: a store examines only a limited number of records per page.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` at the end of the list.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// Creates a page.
    pub fn new(items: Vec<T>, next: Option<Cursor>) -> Self {
        Self { items, next }
    }
}

/// A position in a list, a trail or a feed, in the store's own encoding.
///
/// A cursor may be given to clients: it contains no secret, and a store refuses a cursor that it
/// did not create for the same query with
/// [`InvalidCursor`](crate::store::StoreErrorKind::InvalidCursor).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// Creates a cursor from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
