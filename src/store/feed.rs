//! The port to a feed of changes, which tells a process about the changes of others.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::key::digest::KeyId;
use crate::store::page::Cursor;

/// A feed of the keys that any process changed.
///
/// A store may [have a feed](crate::KeyStore::feed) of its own, as those in SQL databases do;
/// another one is configured with [`ApiKeysBuilder::feed`](crate::ApiKeysBuilder::feed). The
/// [worker](crate::ApiKeys::worker) polls the feed, one call at a time, and invalidates the cache
/// entries of the keys that it names. This way, a revocation reaches the other processes of a fleet
/// at once. Without a feed, or while it fails,
/// [`Cache::max_staleness`](crate::Cache::max_staleness) bounds the delay: a feed makes revocations
/// fast, but correctness does not depend on it.
///
/// With the feature `conformance`, `conformance::change_feed` tests an implementation against these
/// requirements.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `ChangeFeed`",
    note = "implement `ChangeFeed::changes_since`"
)]
pub trait ChangeFeed: Send + Sync + 'static {
    /// Returns the changes after a cursor, in any order, each at least once.
    ///
    /// Without a cursor, it returns at once, with no changes and the cursor to continue from. With
    /// a cursor, if there are no changes yet, it may wait for one for at most `wait`, or return at
    /// once: the caller asks again a moment later.
    ///
    /// If the feed cannot return all changes since the cursor, because some are lost or the cursor
    /// is unknown, it returns [`Changes::gap`] and the cursor to continue from.
    ///
    /// The future may be dropped at any time.
    fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> impl Future<Output = Result<Changes, FeedError>> + Send;
}

/// A page of a [`ChangeFeed`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// The changed keys. Return at most a few thousand at a time.
    pub keys: Vec<ChangedKey>,
    /// The cursor to continue from.
    pub next: Cursor,
    /// `true` if changes since the cursor may be missing.
    pub gap: bool,
}

impl Changes {
    /// Creates a page without a gap.
    pub fn new(keys: Vec<ChangedKey>, next: Cursor) -> Self {
        Self {
            keys,
            next,
            gap: false,
        }
    }

    /// Creates the page of a feed that cannot return all changes since the cursor.
    pub fn gap(next: Cursor) -> Self {
        Self {
            keys: Vec::new(),
            next,
            gap: true,
        }
    }
}

/// A key that was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ChangedKey {
    /// The key.
    pub id: KeyId,
    /// A version that the key has reached, or surpassed; 0 if it is not known, as in a table without
    /// versions.
    pub version: u64,
    /// `true` if the key was deleted. Without this mark, a process that knows the version takes a
    /// store that does not find the key for one that lags behind.
    pub is_deleted: bool,
}

impl ChangedKey {
    /// Creates a changed key with a version that it has reached, or 0.
    pub const fn new(id: KeyId, version: u64) -> Self {
        Self {
            id,
            version,
            is_deleted: false,
        }
    }

    /// Sets whether the key was deleted.
    #[must_use]
    pub const fn deleted(mut self, is_deleted: bool) -> Self {
        self.is_deleted = is_deleted;
        self
    }
}

/// An error for a feed that could not be read. The worker tries again.
#[derive(Debug, Clone)]
pub struct FeedError(Arc<dyn Error + Send + Sync>);

impl FeedError {
    /// Creates an error. The source is logged: remove connection strings from it.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into().into())
    }
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the feed of changes could not be read")
    }
}

impl Error for FeedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

impl<F: ChangeFeed> ChangeFeed for Arc<F> {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> Result<Changes, FeedError> {
        ChangeFeed::changes_since(&**self, after, wait).await
    }
}

/// A [`ChangeFeed`] of any type: [`KeyStore::feed`](crate::KeyStore::feed).
#[derive(Clone)]
pub struct BoxedFeed(pub(crate) Arc<dyn DynChangeFeed>);

impl BoxedFeed {
    /// Boxes a feed.
    pub fn new(feed: impl ChangeFeed) -> Self {
        Self(Arc::new(feed))
    }
}

/// Delegates to the boxed feed.
impl ChangeFeed for BoxedFeed {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> Result<Changes, FeedError> {
        self.0.changes_since(after, wait).await
    }
}

impl fmt::Debug for BoxedFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxedFeed")
    }
}

/// The object-safe version of [`ChangeFeed`].
#[async_trait]
pub(crate) trait DynChangeFeed: Send + Sync {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> Result<Changes, FeedError>;
}

#[async_trait]
impl<F: ChangeFeed> DynChangeFeed for F {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> Result<Changes, FeedError> {
        ChangeFeed::changes_since(self, after, wait).await
    }
}

impl fmt::Debug for dyn DynChangeFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChangeFeed")
    }
}
