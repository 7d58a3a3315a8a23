//! The health of a process, without a call to the store.

use std::time::Duration;

use crate::shared::{Heartbeat, LastBeat, Shared};
use crate::usage::UsageHealth;
use crate::util::timestamp::nanoseconds;

/// The state of an [`ApiKeys`](crate::ApiKeys): [`ApiKeys::health`](crate::ApiKeys::health).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The state of the worker.
    pub worker: WorkerHealth,
    /// The state of the feed of changes, as followed by the worker: [`Late`](WorkerHealth::Late) if
    /// the feed did not answer for three seconds. `None` if there is no feed.
    pub feed: Option<WorkerHealth>,
    /// The usage that is not recorded yet, and the usage that cannot be told by key any more. Alert
    /// if `without_key` or `unattributed` grows: the store was down for long.
    pub usage: UsageHealth,
}

/// The state of a [`Worker`](crate::manage::Worker), or of one of its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerHealth {
    /// No work was done yet: no worker was awaited in this process, or the feed did not answer yet.
    NotStarted,
    /// The work was done on time.
    Running,
    /// No work was done for three intervals: it hangs or fails, or the worker was dropped.
    Late,
    /// The last worker was stopped, and has finished the remaining work.
    Stopped,
}

/// The maximum interval between calls of a feed that answers.
const FEED_INTERVAL: Duration = Duration::from_secs(1);

impl Health {
    pub(super) fn of(shared: &Shared) -> Self {
        let now = nanoseconds(shared.clock.monotonic());
        let of = |heartbeat: &Heartbeat, every: Duration| match heartbeat.last() {
            LastBeat::Never => WorkerHealth::NotStarted,
            LastBeat::Stopped => WorkerHealth::Stopped,
            LastBeat::At(at) if now.saturating_sub(at) <= 3 * nanoseconds(every) => {
                WorkerHealth::Running
            }
            LastBeat::At(_) => WorkerHealth::Late,
        };
        Self {
            worker: of(&shared.worker, shared.cache.sweep_interval()),
            feed: shared
                .feed
                .as_ref()
                .map(|feed| of(&feed.heartbeat, FEED_INTERVAL)),
            usage: shared.usage.health(),
        }
    }
}
