//! The worker: one future for all background work.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, IntoFuture, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use super::announce::{announce, announce_what_waits};
use super::deliver::{self, Deliverer};
use super::end_idle::end_idle;
use super::follow::follow;
use super::record_usage::UsageRecorder;
use super::watch::{self, Lookout};
use crate::manage::BoxFuture;
use crate::shared::Shared;
use crate::util::join_all::join_all;

/// The background work of an [`ApiKeys`](crate::ApiKeys):
/// [`ApiKeys::worker`](crate::ApiKeys::worker).
///
/// A worker does nothing until it is awaited. It runs on any runtime, unless the store or the
/// client of webhooks needs one: those of this crate need tokio's. One per process is enough; more
/// do no harm.
///
/// Without a worker, all decisions stay correct, but:
/// - [usage](crate::usage) is not counted, and lists do not tell when keys were used;
/// - nobody is told that a key expires soon, has expired, or is still in use after its rotation, or
///   that a limit is nearly used up;
/// - events are not delivered to sinks and webhooks;
/// - [anomalies](crate::anomaly) are not detected;
/// - idle keys do not end
///   ([`IssuePolicy::end_when_idle`](crate::manage::IssuePolicy::end_when_idle));
/// - values that [observers](crate::observe::Observer) keep for a key that is no longer used stay
///   until the cache evicts its entry;
/// - changes by other processes take effect only when cache entries are too old, not when the
///   [feed](crate::ApiKeysBuilder::feed) reports them;
/// - refusals beyond the 20 that are logged at `INFO` in a minute are reported, as a number, only
///   with the next refusal, not when the minute is over.
///
/// ```
/// use tower_api_key::ApiKeys;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let keys = ApiKeys::in_memory();
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let worker = tokio::spawn(keys.worker().until(async {
///     let _ = stopped.await;
/// }));
/// // … serve; stop the worker after the last request, or that one is not counted …
/// let _ = stop.send(());
/// worker.await.expect("the worker ended"); // the remaining work is done
/// # }
/// ```
#[must_use = "a worker does nothing until it is awaited"]
pub struct Worker {
    shared: Arc<Shared>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Works until a future completes, such as a signal to shut down. Then it finishes the
    /// remaining work, and returns.
    ///
    /// If the store answers, that takes little more than its writes. If not, it is given up after
    /// about 15 seconds, and deliveries in progress after 10: grant the process 30 seconds.
    pub async fn until(self, stop: impl Future<Output = ()>) {
        let shared = &*self.shared;
        let store = shared.managed_store.as_ref();
        let mut recorder = store.map(|store| UsageRecorder::new(shared, store));
        let mut deliverer = Deliverer::new(shared);
        let mut lookout = Lookout::new(&self.shared);
        {
            let mut sweeping = pin!(sweep(shared));
            let mut ending = pin!(end_idle(&self.shared));
            let mut announcing = pin!(announce(shared));
            let mut following = pin!(async {
                match &shared.feed {
                    Some(feed) => follow(shared, feed).await,
                    None => pending().await,
                }
            });
            let mut recording = pin!(async {
                match &mut recorder {
                    Some(recorder) => recorder.run().await,
                    None => pending().await,
                }
            });
            let mut delivering = pin!(deliver::run(&mut deliverer));
            let mut looking = pin!(watch::run(&mut lookout));
            let mut stop = pin!(stop);
            poll_fn(|cx| {
                if stop.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                // None of these completes.
                let _: Poll<Infallible> = sweeping.as_mut().poll(cx);
                let _: Poll<Infallible> = ending.as_mut().poll(cx);
                let _: Poll<Infallible> = announcing.as_mut().poll(cx);
                let _: Poll<Infallible> = following.as_mut().poll(cx);
                let _: Poll<Infallible> = recording.as_mut().poll(cx);
                let _: Poll<Infallible> = delivering.as_mut().poll(cx);
                let _: Poll<Infallible> = looking.as_mut().poll(cx);
                Poll::Pending
            })
            .await;
        }
        // The calls of the tasks above were dropped, and hold no connection that these wait for.
        let record = pin!(async {
            if let Some(recorder) = &mut recorder {
                recorder.finish().await;
            }
        });
        let announce = pin!(announce_what_waits(shared));
        let look = pin!(async {
            if let Some(lookout) = &mut lookout {
                lookout.finish().await;
            }
        });
        let deliver = pin!(async {
            if let Some(deliverer) = &mut deliverer {
                deliverer.finish().await;
            }
        });
        // At the same time: a delivery in progress may hold the connection that the others need.
        let last: [Pin<&mut (dyn Future<Output = ()> + Send)>; 4] =
            [record, announce, look, deliver];
        join_all(last).await;
        shared.cache.drop_all_observer_values();
        shared.worker.stop();
        if let Some(feed) = &shared.feed {
            feed.heartbeat.stop();
        }
    }
}

/// Periodically releases the values that observers keep for idle keys, and reports the refusals
/// that were not logged.
async fn sweep(shared: &Shared) -> Infallible {
    let every = shared.cache.sweep_interval();
    loop {
        shared.cache.sweep();
        shared.observers.flush(shared.now());
        shared.worker.beat(shared.clock.monotonic());
        shared.clock.sleep(every).await;
    }
}

/// Works until the future is dropped.
impl IntoFuture for Worker {
    type Output = ();
    type IntoFuture = BoxFuture<()>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.until(pending()))
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}
