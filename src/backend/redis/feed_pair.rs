//! The stream beside a feed that a store has of its own.
//!
//! The stream tells of changes sooner. The store's feed also tells of changes that Redis has lost,
//! and alone has a cursor, a gap, and an outage. What was only announced, and is in no feed of the
//! store, is lost with the data of Redis.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::stream_feed::StreamFeed;
use crate::store::{BoxedFeed, ChangeFeed, Changes, Cursor, FeedError};
use crate::util::log_throttle::LogOncePer;
use crate::util::trace;

#[derive(Debug)]
pub(super) struct FeedPair {
    stream: Arc<StreamFeed>,
    of_store: BoxedFeed,
    reads: Mutex<Reads>,
    begun: Instant,
    failures: LogOncePer<60>,
}

/// A read of a feed. It goes on while nobody waits for it: a read that is dropped costs a
/// connection.
type Read = Pin<Box<dyn Future<Output = Result<Changes, FeedError>> + Send>>;

#[derive(Default)]
struct Reads {
    /// The position in the stream.
    position: Option<Cursor>,
    of_stream: Option<Read>,
    /// The read of the store's feed, and the cursor after which it reads.
    of_store: Option<(Cursor, Read)>,
}

impl FeedPair {
    pub(super) fn new(stream: StreamFeed, of_store: BoxedFeed) -> Self {
        Self {
            stream: Arc::new(stream),
            of_store,
            reads: Mutex::default(),
            begun: Instant::now(),
            failures: LogOncePer::default(),
        }
    }

    fn reads(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the store's feed.
    fn poll_store(
        &self,
        cx: &mut Context<'_>,
        after: &Cursor,
        wait: Duration,
    ) -> Poll<Result<Changes, FeedError>> {
        let mut reads = self.reads();
        let begun = reads.of_store.take().filter(|(begun, _)| begun == after);
        let (_, mut read) = begun.unwrap_or_else(|| {
            let (feed, cursor) = (self.of_store.clone(), after.clone());
            let read = async move {
                let is_over = tokio::time::sleep(wait);
                let changes = feed.changes_since(Some(&cursor), wait).await?;
                // A feed that returns at once is asked again by the next call.
                if !changes.gap && changes.keys.is_empty() {
                    is_over.await;
                }
                Ok(changes)
            };
            (after.clone(), Box::pin(read))
        });
        let changes = read.as_mut().poll(cx);
        if changes.is_pending() {
            reads.of_store = Some((after.clone(), read));
        }
        changes
    }

    /// Polls the stream until it tells of changes. After an error, it is not read until the next
    /// call.
    fn poll_stream(
        &self,
        cx: &mut Context<'_>,
        after: &Cursor,
        wait: Duration,
        has_failed: &mut bool,
    ) -> Poll<Changes> {
        let mut reads = self.reads();
        while !*has_failed {
            let position = reads.position.clone();
            let read = reads.of_stream.get_or_insert_with(|| {
                let stream = Arc::clone(&self.stream);
                Box::pin(async move { stream.changes_since(position.as_ref(), wait).await })
            });
            let Poll::Ready(changes) = read.as_mut().poll(cx) else {
                return Poll::Pending;
            };
            reads.of_stream = None;
            match changes {
                Ok(changes) => {
                    reads.position = Some(changes.next);
                    if !changes.keys.is_empty() {
                        return Poll::Ready(Changes::new(changes.keys, after.clone()));
                    }
                }
                Err(error) => {
                    *has_failed = true;
                    let now = SystemTime::UNIX_EPOCH + self.begun.elapsed();
                    if self.failures.is_due(0, now) {
                        trace::stream_fails(&error);
                    }
                }
            }
        }
        Poll::Pending
    }
}

impl ChangeFeed for FeedPair {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> Result<Changes, FeedError> {
        let Some(after) = after else {
            return self.of_store.changes_since(None, wait).await;
        };
        let mut has_failed = false;
        poll_fn(|cx| {
            if let Poll::Ready(changes) = self.poll_store(cx, after, wait) {
                return Poll::Ready(changes);
            }
            let told = self.poll_stream(cx, after, wait, &mut has_failed);
            told.map(Ok)
        })
        .await
    }
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
