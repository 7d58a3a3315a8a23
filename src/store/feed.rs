//! The port to a feed of changes, by which the processes of a fleet hear of each other's.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::key::digest::KeyId;
use crate::store::list::Cursor;

/// Tells which keys were changed, by any process.
///
/// [`ApiKeysBuilder::feed`](crate::ApiKeysBuilder::feed) takes one. The
/// [worker](crate::ApiKeys::worker) asks it, one call at a time, and forgets what it has cached of
/// the keys that it is told of. So a revocation reaches the other processes of a fleet at once.
/// Without a feed, or while it fails, [`Cache::max_staleness`](crate::Cache::max_staleness) bounds
/// how long they may take: a feed makes revocation prompt, and nothing depends on it.
///
/// With the feature `conformance`, `conformance::change_feed` tests an implementation against what
/// is promised here.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `ChangeFeed`",
    note = "implement `ChangeFeed::changes_since`"
)]
pub trait ChangeFeed: Send + Sync + 'static {
    /// Returns the changes after a cursor, in any order and each at least once.
    ///
    /// Without a cursor, it tells of no change, only of the place from which to go on. Then it
    /// returns at once. With a cursor and no change to tell, it may wait for one for as long as
    /// `wait` says. It may also return at once: the caller asks again a moment later.
    ///
    /// A feed that cannot tell of all changes since the cursor, for it has lost some or does not
    /// know the cursor, says so by [`Changes::gap`], and goes on from where it is.
    ///
    /// The call may be dropped at any time.
    fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> impl Future<Output = Result<Changes, FeedError>> + Send;
}

/// What a [`ChangeFeed`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// The keys that were changed. A feed that has many to tell of tells of some thousand at a time.
    pub keys: Vec<ChangedKey>,
    /// The place to go on from.
    pub next: Cursor,
    /// Whether there may be changes since the cursor that are not told of.
    pub gap: bool,
}

impl Changes {
    /// Creates what there is to tell, without a gap.
    pub fn new(keys: Vec<ChangedKey>, next: Cursor) -> Self {
        Self {
            keys,
            next,
            gap: false,
        }
    }

    /// Creates the answer of a feed that cannot tell of all changes.
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
    /// A version that the key has reached.
    pub version: u64,
}

impl ChangedKey {
    /// Creates the news that a key has reached a version.
    pub const fn new(id: KeyId, version: u64) -> Self {
        Self { id, version }
    }
}

/// A feed could not be read. The worker tries again.
#[derive(Debug, Clone)]
pub struct FeedError(Arc<dyn Error + Send + Sync>);

impl FeedError {
    /// Creates an error. The source is logged: strip it of connection strings.
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

/// The object-safe twin of [`ChangeFeed`].
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
