//! The worker: one future for all background work.

use std::fmt;
use std::future::{Future, IntoFuture, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;

use crate::keyring::{Keyring, Last};
use crate::util::clock::within;
use crate::util::timestamp::nanoseconds;

/// The background work of an [`ApiKeys`](crate::ApiKeys):
/// [`ApiKeys::worker`](crate::ApiKeys::worker).
///
/// It does nothing until it is awaited, and runs on any runtime. One per process is enough; more do
/// no harm.
///
/// Without a worker everything is correct, only less prompt: what [observers](crate::Observer) keep
/// of a key that is not used any more stays until its entry is evicted from the cache.
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
        let every = keyring.cache.sweep_interval();
        let mut stop = pin!(stop);
        loop {
            keyring.cache.sweep();
            keyring.worker.ticked(keyring.clock.monotonic());
            if within(&*keyring.clock, every, stop.as_mut())
                .await
                .is_some()
            {
                break;
            }
        }
        keyring.cache.release_all();
        keyring.worker.stopped();
    }
}

/// Works for ever.
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
}

/// The state of a [`Worker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerHealth {
    /// No worker was awaited in this process.
    NotStarted,
    /// A worker did its work in time.
    Running,
    /// A worker has not done its work for three intervals: it hangs, or was dropped.
    Late,
    /// The last worker was stopped, and has done what was left to do.
    Stopped,
}

impl Health {
    pub(super) fn of(keyring: &Keyring) -> Self {
        let now = nanoseconds(keyring.clock.monotonic());
        let every = nanoseconds(keyring.cache.sweep_interval());
        let worker = match keyring.worker.last() {
            Last::Never => WorkerHealth::NotStarted,
            Last::Stopped => WorkerHealth::Stopped,
            Last::Tick(at) if now.saturating_sub(at) <= 3 * every => WorkerHealth::Running,
            Last::Tick(_) => WorkerHealth::Late,
        };
        Self { worker }
    }
}
