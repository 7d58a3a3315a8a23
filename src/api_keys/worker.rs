//! The worker: one future for all background work.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, IntoFuture, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::follow::follow;
use crate::keyring::{Keyring, Last, LastSign};
use crate::util::timestamp::nanoseconds;

/// The background work of an [`ApiKeys`](crate::ApiKeys):
/// [`ApiKeys::worker`](crate::ApiKeys::worker).
///
/// It does nothing until it is awaited, and runs on any runtime. One per process is enough; more do
/// no harm.
///
/// Without a worker everything is correct, only less prompt:
/// - what [observers](crate::observe::Observer) keep of a key that is not used any more stays until its entry
///   is evicted from the cache;
/// - changes by other processes are known when what is cached is too old, and not when the
///   [feed](crate::ApiKeysBuilder::feed) tells of them.
///
/// ```
/// use tower_api_key::ApiKeys;
///
/// # async fn ctrl_c() {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let keys = ApiKeys::in_memory();
/// let worker = tokio::spawn(keys.worker().until(ctrl_c()));
/// // … serve …
/// worker.await.expect("the worker ended"); // what was left to do is done
/// # }
/// ```
#[must_use = "a worker does nothing until it is awaited"]
pub struct Worker {
    keyring: Arc<Keyring>,
}

impl Worker {
    pub(super) fn new(keyring: Arc<Keyring>) -> Self {
        Self { keyring }
    }

    /// Works until a future ends, such as a signal to shut down. Then it does what is left to do,
    /// and ends.
    pub async fn until(self, stop: impl Future<Output = ()>) {
        let keyring = &*self.keyring;
        let mut sweeping = pin!(sweep(keyring));
        let mut following = pin!(async {
            match &keyring.following {
                Some(following) => follow(keyring, following).await,
                None => pending().await,
            }
        });
        let mut stop = pin!(stop);
        poll_fn(|cx| {
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // Neither of them ends.
            let _: Poll<Infallible> = sweeping.as_mut().poll(cx);
            let _: Poll<Infallible> = following.as_mut().poll(cx);
            Poll::Pending
        })
        .await;
        keyring.cache.release_all();
        keyring.worker.stopped();
        if let Some(following) = &keyring.following {
            following.health.stopped();
        }
    }
}

/// Lets go of what observers keep of idle keys, each interval.
async fn sweep(keyring: &Keyring) -> Infallible {
    let every = keyring.cache.sweep_interval();
    loop {
        keyring.cache.sweep();
        keyring.observers.flush(keyring.now());
        keyring.worker.ticked(keyring.clock.monotonic());
        keyring.clock.sleep(every).await;
    }
}

/// Works until it is dropped.
impl IntoFuture for Worker {
    type Output = ();
    type IntoFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.until(pending()))
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}

/// The state of an [`ApiKeys`](crate::ApiKeys): [`ApiKeys::health`](crate::ApiKeys::health).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The state of the worker.
    pub worker: WorkerHealth,
    /// The state of the feed of changes, as the worker follows it: [`Late`](WorkerHealth::Late) if
    /// the feed did not answer for three seconds. `None` if there is no feed.
    pub feed: Option<WorkerHealth>,
}

/// The state of a [`Worker`], or of one of its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerHealth {
    /// It did nothing yet: no worker was awaited in this process, or a feed did not answer yet.
    NotStarted,
    /// It did its work in time.
    Running,
    /// It has not done its work for three intervals: it hangs or fails, or the worker was dropped.
    Late,
    /// The last worker was stopped, and has done what was left to do.
    Stopped,
}

/// How often a feed is asked at least, if it answers.
const FEED_INTERVAL: Duration = Duration::from_secs(1);

impl Health {
    pub(super) fn of(keyring: &Keyring) -> Self {
        let now = nanoseconds(keyring.clock.monotonic());
        let of = |sign: &LastSign, every: Duration| match sign.last() {
            Last::Never => WorkerHealth::NotStarted,
            Last::Stopped => WorkerHealth::Stopped,
            Last::Tick(at) if now.saturating_sub(at) <= 3 * nanoseconds(every) => {
                WorkerHealth::Running
            }
            Last::Tick(_) => WorkerHealth::Late,
        };
        let following = keyring.following.as_ref();
        Self {
            worker: of(&keyring.worker, keyring.cache.sweep_interval()),
            feed: following.map(|following| of(&following.health, FEED_INTERVAL)),
        }
    }
}
