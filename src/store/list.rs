//! Lists: which keys, in which order, and page by page.

use std::time::SystemTime;

use crate::key::digest::KeyDigest;
use crate::key::environment::Environment;
use crate::key::lifecycle::{KeyStatus, WarningWindow};
use crate::key::record::KeyRecord;

/// Which keys to list, and in which order.
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
    /// The account that the keys belong to. Default: any.
    pub account: Option<String>,
    /// The prefix that the keys have. Default: any.
    pub prefix: Option<String>,
    /// The environment that the keys are of. Default: any.
    pub environment: Option<Environment>,
    /// The state that the keys are in at an instant. Default: any.
    pub state: Option<(KeyState, SystemTime)>,
    /// The order of the list. Default: the newest first.
    pub order: KeyOrder,
}

/// The state of a key, as lists tell keys apart. Each key is in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyState {
    /// It can be used: active or deprecated.
    Live,
    /// It can be used later.
    NotYetActive,
    /// It is stopped, and can be resumed.
    Suspended,
    /// Its time is over.
    Expired,
    /// It is stopped, and cannot be resumed.
    Revoked,
}

/// The order of a list of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KeyOrder {
    /// The keys that were issued last come first: by `created_at`, or else by the instant of the
    /// change that created them. A key keeps its place, so no page misses a key or
    /// repeats one while others change.
    #[default]
    Newest,
    /// Only keys that have an end, the next to end first. A key whose end is changed meanwhile may
    /// be seen twice, or not.
    EndingSoon,
    /// The keys that were not used for the longest time come first, those that were never used
    /// before them. A key that is used meanwhile may be seen twice, or not.
    LeastRecentlyUsed,
    /// Only revoked keys, the last to be revoked first. A key that is revoked meanwhile may not be
    /// seen.
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

    /// Lists only keys that are in a state at an instant.
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

    /// Returns 16 hexadecimal digits that a cursor must have in common with a query, for stores:
    /// they tell of all but the instant of the state, which moves from page to page.
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

    /// Returns whether a key is in the list: the definition that queries of databases must agree
    /// with.
    ///
    /// Who acts on all keys of a list, to revoke them, asks this of each: a store of an earlier
    /// version may not know a filter that was added later.
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

/// Returns 16 hexadecimal digits that differ for different texts.
pub(super) fn fingerprint(texts: &[Option<&str>]) -> String {
    // The length keeps neighbours apart.
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

    /// Returns the state of a key at an instant: its [`status`](crate::key::Lifecycle::status), but for
    /// whether it is deprecated.
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

/// A key in a list: its record, and when it was used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedKey {
    /// The record.
    pub record: KeyRecord,
    /// The first use that the store was told of.
    pub first_used_at: Option<SystemTime>,
    /// The last use that the store was told of.
    pub last_used_at: Option<SystemTime>,
}

impl ListedKey {
    /// Creates a key that the store was told no use of.
    pub fn new(record: KeyRecord) -> Self {
        Self {
            record,
            first_used_at: None,
            last_used_at: None,
        }
    }

    /// Sets the first and the last use.
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

/// Which part of a list to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paging {
    after: Option<Cursor>,
    limit: u32,
}

impl Paging {
    /// The most items that a page has.
    pub const MOST: u32 = 1_000;

    /// Reads the first page, of at most so many items: 1 to [`MOST`](Self::MOST), or what is
    /// nearest to that.
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

    /// Returns the [`next`](Page::next) of the page before; `None` for the first page.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.after.as_ref()
    }

    /// Returns the most items to read, at least 1.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The items, in the order of the list. There may be fewer than were asked for, or none, and
    /// more to come: a store looks at only so many records for a page.
    pub items: Vec<T>,
    /// The place to read on from. `None` if the list has ended.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// Creates a page.
    pub fn new(items: Vec<T>, next: Option<Cursor>) -> Self {
        Self { items, next }
    }
}

/// A place in a list, a trail or a feed, in the words of the store that made it.
///
/// It may be told to clients: it holds no secret, and a store refuses one that it did not make for
/// the same query with [`InvalidCursor`](crate::store::StoreErrorKind::InvalidCursor).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// Creates a cursor from the text of one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
