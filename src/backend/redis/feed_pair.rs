//! The stream beside a feed that a store has of its own.
//!
//! The store's feed tells of every change, also of those that are made past this library; the
//! stream tells of most of them sooner. So only the store's feed has a cursor, a gap, and an outage.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use super::stream_feed::StreamFeed;
use crate::store::{BoxedFeed, ChangeFeed, ChangedKey, Changes, Cursor, FeedError};

#[derive(Debug)]
pub(super) struct FeedPair {
    stream: Arc<StreamFeed>,
    of_store: BoxedFeed,
    listener: Mutex<Listener>,
}

/// A read of the stream. It goes on while nobody waits for it, so that each answer of the store's
/// feed does not cost a connection.
type Read = Pin<Box<dyn Future<Output = Result<Changes, FeedError>> + Send>>;

/// The reader of the stream.
#[derive(Default)]
struct Listener {
    position: Option<Cursor>,
    read: Option<Read>,
    /// The stream was the last to tell: the other one comes next.
    has_told: bool,
}

impl FeedPair {
    pub(super) fn new(stream: StreamFeed, of_store: BoxedFeed) -> Self {
        Self {
            stream: Arc::new(stream),
            of_store,
            listener: Mutex::default(),
        }
    }

    fn listener(&self) -> MutexGuard<'_, Listener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the stream until it tells of changes. An error is one until the next call.
    fn poll_stream(
        &self,
        cx: &mut Context<'_>,
        wait: Duration,
        has_failed: &mut bool,
    ) -> Poll<Vec<ChangedKey>> {
        let mut listener = self.listener();
        while !*has_failed {
            let position = listener.position.clone();
            let read = listener.read.get_or_insert_with(|| {
                let stream = Arc::clone(&self.stream);
                Box::pin(async move { stream.changes_since(position.as_ref(), wait).await })
            });
            let Poll::Ready(changes) = read.as_mut().poll(cx) else {
                return Poll::Pending;
            };
            listener.read = None;
            let Ok(changes) = changes else {
                *has_failed = true;
                continue;
            };
            listener.position = Some(changes.next);
            if !changes.keys.is_empty() {
                listener.has_told = true;
                return Poll::Ready(changes.keys);
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
        let of_store = &self.of_store;
        let Some(after) = after else {
            return of_store.changes_since(None, wait).await;
        };
        // A busy stream must not keep the store's feed from being read.
        let has_told = std::mem::take(&mut self.listener().has_told);
        if has_told {
            let changes = of_store.changes_since(Some(after), Duration::ZERO).await?;
            if changes.gap || !changes.keys.is_empty() {
                return Ok(changes);
            }
        }
        // A feed that returns at once is asked again by the next call.
        let is_over = tokio::time::sleep(wait);
        let mut told = pin!(async {
            let changes = of_store.changes_since(Some(after), wait).await?;
            if !changes.gap && changes.keys.is_empty() {
                is_over.await;
            }
            Ok(changes)
        });
        let mut has_failed = false;
        poll_fn(|cx| {
            if let Poll::Ready(changes) = told.as_mut().poll(cx) {
                return Poll::Ready(changes);
            }
            let keys = self.poll_stream(cx, wait, &mut has_failed);
            keys.map(|keys| Ok(Changes::new(keys, after.clone())))
        })
        .await
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
